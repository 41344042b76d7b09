package event

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// User is a validated user. Only NewUser and NewLookup make one. The zero User is nobody.
type User struct {
	id, upn string
	// by and sought are how Graph can be asked who it is, if neither id nor upn is known.
	by     Lookup
	sought string
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

// Lookup is a way to find a user whose id and user principal name an event does not contain.
type Lookup uint8

// The ways.
const (
	// NoLookup means that the user is known by id or user principal name.
	NoLookup Lookup = iota
	// ByMail finds the one user who has a mail address (mail or proxyAddresses).
	ByMail
	// ByManagedDevice finds the user of an Intune device by the id of the managed device, a GUID.
	ByManagedDevice
	// ByEntraDevice finds the registered owner of a device by its deviceId in Entra, a GUID.
	ByEntraDevice
	// BySerialNumber finds the user of an Intune device by its serial number.
	BySerialNumber
)

// String returns a word for the way, as it stands in keys, logs, and errors.
func (l Lookup) String() string {
	return [...]string{"", "mail", "managed-device", "entra-device", "serial-number"}[l]
}

// LookupOf returns the way whose String is word, or NoLookup.
func LookupOf(word string) Lookup {
	for by := ByMail; by <= BySerialNumber; by++ {
		if by.String() == word {
			return by
		}
	}
	return NoLookup
}

// maxSerial bounds a serial number, in bytes. Intune's are shorter than 100 characters.
const maxSerial = 100

// NewLookup returns a user who must be looked up before a call. It validates value: a mail address
// in the form of a user principal name, a GUID, or a serial number of printable ASCII without
// quotation marks that is no placeholder. The error is an *Error.
func NewLookup(by Lookup, value string) (User, error) {
	switch by {
	case ByMail:
		if problem := upnProblem(value); problem != "" {
			return User{}, invalid("mail", "%s: %s", quote(value), problem)
		}
	case ByManagedDevice, ByEntraDevice:
		if problem := idProblem(value); problem != "" {
			return User{}, invalid("device", "%s: %s", quote(value), problem)
		}
		value = strings.ToLower(value)
	case BySerialNumber:
		if problem := serialProblem(value); problem != "" {
			return User{}, invalid("device", "%s: %s", quote(value), problem)
		}
	default:
		return User{}, invalid("user", "no way to look anybody up")
	}
	return User{by: by, sought: value}, nil
}

// placeholders are what firmware and inventories write for an unknown serial number, in lower case.
// One device in Intune may have the same, and then its user would be signed out for another device.
var placeholders = []string{
	"123456789", "chassis serial number", "default string", "invalid", "n/a", "na", "no serial number", "none", "not applicable",
	"not available", "not provided", "not specified", "null", "o.e.m.", "oem", "serial", "serial number", "serialnumber",
	"system serial number", "to be filled by o.e.m.", "undefined", "unknown",
}

// isPlaceholder reports whether a text stands for an unknown serial number: one of the placeholders,
// or nothing but one character, such as 0000000.
func isPlaceholder(serial string) bool {
	serial = strings.ToLower(strings.TrimSpace(serial))
	return slices.Contains(placeholders, serial) || strings.Trim(serial, serial[:min(len(serial), 1)]) == ""
}

func serialProblem(serial string) string {
	if serial == "" || len(serial) > maxSerial {
		return fmt.Sprintf("a serial number has 1 to %d characters", maxSerial)
	}
	for _, c := range serial {
		if !isAlphanumeric(c) && !strings.ContainsRune("-_./+ ", c) {
			return fmt.Sprintf("%q is not allowed in a serial number", c)
		}
	}
	if isPlaceholder(serial) {
		return "stands for no serial number, so it could be anybody's device"
	}
	return ""
}

// Lookup returns how Graph can be asked who the user is, and NoLookup if the user has an ID or a user
// principal name.
func (u User) Lookup() (by Lookup, value string) { return u.by, u.sought }

// ID returns the object ID in lower case, or "".
func (u User) ID() string { return u.id }

// UPN returns the user principal name as it was given, or "".
func (u User) UPN() string { return u.upn }

// Name returns what identifies the user in a call to Graph: the ID if there is one, because names
// change and are reused, or else the user principal name. For a user who must be looked up, it
// returns the way and the value, such as serial-number:C02XL0, which no call accepts.
func (u User) Name() string {
	switch {
	case u.id != "":
		return u.id
	case u.by != NoLookup:
		return u.by.String() + ":" + u.sought
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
