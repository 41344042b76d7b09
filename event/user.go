package event

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// User is a validated person. Only NewUser makes one; the zero User is nobody.
type User struct {
	id, upn string
}

// Bounds of a user principal name, in bytes: 64 before the @, 48 after it
// (https://learn.microsoft.com/entra/identity/hybrid/connect/plan-connect-userprincipalname).
const (
	maxUPN   = 113
	maxLocal = 64
)

// NewUser validates an object id and a user principal name; either may be empty, not both. The id must be a GUID in its
// 8-4-4-4-12 form and is kept in lower case; the name is kept as it is. The error is an *Error whose Field is userId or
// userPrincipalName.
//
// Both end up in a URL that signs somebody out. The SDK would turn "" into /users//, ".." into another resource, and a
// certain literal into /me, so nothing but the documented characters passes
// (https://learn.microsoft.com/graph/api/resources/user, userPrincipalName).
func NewUser(id, upn string) (User, error) {
	if id == "" && upn == "" {
		return User{}, invalid(fieldID, "no user: give userId (an object id) or userPrincipalName")
	}
	if id != "" {
		if problem := idProblem(id); problem != "" {
			return User{}, invalid(fieldID, "%s: %s", quote(id), problem)
		}
	}
	if upn != "" {
		if problem := upnProblem(upn); problem != "" {
			return User{}, invalid(fieldUPN, "%s: %s", quote(upn), problem)
		}
	}
	return User{id: strings.ToLower(id), upn: upn}, nil
}

// ID is the object id in lower case, or "".
func (u User) ID() string { return u.id }

// UPN is the user principal name as it was given, or "".
func (u User) UPN() string { return u.upn }

// Name is what Graph is called with: the id where there is one, since names change and are reused; else the name.
func (u User) Name() string {
	if u.id != "" {
		return u.id
	}
	return u.upn
}

// String is Name, so that a User prints as one.
func (u User) String() string { return u.Name() }

// Key identifies the user: Name in lower case, since Graph compares both without case.
func (u User) Key() string { return strings.ToLower(u.Name()) }

// External says that the name is a guest's, recognizable by #EXT#. A guest known by id alone is not recognized.
func (u User) External() bool { return strings.Contains(strings.ToUpper(u.upn), "#EXT#") }

// IsZero says that this is nobody.
func (u User) IsZero() bool { return u == User{} }

func idProblem(id string) string {
	const form = "not a GUID in the form 00000000-0000-0000-0000-000000000000"
	if len(id) != 36 { // uuid.Parse takes other forms too
		return form
	}
	if _, err := uuid.Parse(id); err != nil {
		return form
	}
	return ""
}

func upnProblem(upn string) string {
	local, domain, found := strings.Cut(upn, "@")
	switch {
	case len(upn) > maxUPN:
		return fmt.Sprintf("%d characters, at most %d are possible", len(upn), maxUPN)
	case !found || strings.Contains(domain, "@"):
		return "not of the form name@domain with one @"
	case local == "" || len(local) > maxLocal:
		return fmt.Sprintf("the part before the @ must have 1 to %d characters", maxLocal)
	case strings.Contains(upn, ".."), strings.HasPrefix(local, "."), strings.HasSuffix(local, "."):
		return "dots must stand single and between other characters"
	}
	for i, c := range local {
		switch {
		case isAlphanumeric(c), strings.ContainsRune("'.-_!#^~", c), c == '$' && i == 0:
		default:
			return fmt.Sprintf("%q is not allowed before the @: only letters, digits, ' . - _ ! # ^ ~ and a leading $", c)
		}
	}
	if !strings.Contains(domain, ".") {
		return "the domain after the @ has no dot"
	}
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "the part after the @ is not a domain name"
		}
		for _, c := range label {
			if !isAlphanumeric(c) && c != '-' {
				return fmt.Sprintf("%q is not allowed in a domain name", c)
			}
		}
	}
	return ""
}

func isAlphanumeric(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
