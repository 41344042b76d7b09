package event

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// User is a validated user. Only NewUser makes one. The zero User is nobody.
type User struct {
	id, upn string
}

// Bounds of a user principal name, in bytes: 64 before the @, 48 after it
// (https://learn.microsoft.com/entra/identity/hybrid/connect/plan-connect-userprincipalname).
const (
	maxUPN   = 113
	maxLocal = 64
)

// NewUser validates an object ID and a user principal name. One of them may be empty. The ID must
// be a GUID in the form 8-4-4-4-12; NewUser converts it to lower case and keeps the name as it is.
// The error is an *Error whose Field is userId or userPrincipalName.
//
// Both become part of a URL that revokes sessions. The SDK would turn "" into /users//, ".." into
// another resource, and one literal into /me. NewUser therefore accepts only the documented
// characters (https://learn.microsoft.com/graph/api/resources/user, userPrincipalName).
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

// ID returns the object ID in lower case, or "".
func (u User) ID() string { return u.id }

// UPN returns the user principal name as it was given, or "".
func (u User) UPN() string { return u.upn }

// Name returns what identifies the user in a call to Graph: the ID if there is one, because names
// change and are reused, or else the user principal name.
func (u User) Name() string {
	if u.id != "" {
		return u.id
	}
	return u.upn
}

// String returns Name.
func (u User) String() string { return u.Name() }

// Key returns Name in lower case. Two users with the same key are the same user: Graph ignores
// case.
func (u User) Key() string { return strings.ToLower(u.Name()) }

// External reports whether the user principal name is a guest's, which contains #EXT#. It cannot
// recognize a guest by the ID.
func (u User) External() bool { return strings.Contains(strings.ToUpper(u.upn), "#EXT#") }

// IsZero reports whether u is nobody.
func (u User) IsZero() bool { return u == User{} }

func idProblem(id string) string {
	const form = "not a GUID in the form 00000000-0000-0000-0000-000000000000"
	if len(id) != 36 { // uuid.Parse also accepts other forms
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
