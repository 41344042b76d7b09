package secevent

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/session-revoker/session-revoker/event"
)

// Meaning is what an identifier in a token is to Entra.
type Meaning string

// The meanings.
const (
	// Foreign is an id of the transmitter's own. Graph does not know it.
	Foreign Meaning = "foreign"
	// EntraObjectID is a user's object ID in Entra.
	EntraObjectID Meaning = "entra_object_id"
	// UPN is a user principal name.
	UPN Meaning = "upn"
	// Mail is an address that a user has, and that may not be their user principal name.
	Mail Meaning = "mail"
	// EntraDeviceID and SerialNumber are of a device.
	EntraDeviceID Meaning = "entra_device_id"
	SerialNumber  Meaning = "serial_number"
)

// Subjects says what the identifiers of a transmitter mean. An empty Meaning is the default.
type Subjects struct {
	// Email is the meaning of addresses: of the formats email and account, and of mailto URIs. It is
	// UPN or Mail. Defaults to Mail if Config.LookUpMail is set, and otherwise to UPN.
	Email Meaning `yaml:"email"`
	// IssSub and Opaque are the meanings of these formats: Foreign, EntraObjectID, UPN, or Mail.
	// They default to Foreign.
	IssSub Meaning `yaml:"iss_sub"`
	Opaque Meaning `yaml:"opaque"`
	// Issuers are the accepted issuers (iss) of the format iss_sub. Defaults to the transmitter's.
	Issuers []string `yaml:"issuers"`
	// Device is the meaning of the id of a device: Foreign, EntraDeviceID, or SerialNumber. It is
	// used only if an event names no user. Defaults to Foreign.
	Device Meaning `yaml:"device"`
}

// understood are the members of a complex subject that the specification defines. All sessions of a
// user include those of one device, application, or tenant.
var understood = []string{"format", "subject_type", "user", "device", "session", "application", "tenant", "org_unit", "group"}

// subject is whom an event is about.
type subject struct {
	user    event.User
	field   string // the path of the claim that named the user
	device  string
	session string
}

// readSubject returns the subject of a token: sub_id, or in older drafts the event's own subject. If
// both are there, they must not name two people.
func (v *Verifier) readSubject(t *Transmitter, k kind, claims, own object) (subject, *event.Error) {
	inEvent := k.field() + ".subject"
	if !claims.has("sub_id") {
		if !own.has("subject") {
			return subject{}, problem(event.OwnerUnclear, "sub_id", "missing: the token names nobody")
		}
		return v.readAt(t, k, inEvent, own["subject"])
	}
	s, unclear := v.readAt(t, k, "sub_id", claims["sub_id"])
	if unclear == nil && own.has("subject") {
		if other, unclear := v.readAt(t, k, inEvent, own["subject"]); unclear == nil && other.user.Key() != s.user.Key() {
			return subject{}, invalid(inEvent, "names another person than sub_id")
		}
	}
	return s, unclear
}

// readAt reads the subject at a path of the claims.
func (v *Verifier) readAt(t *Transmitter, k kind, path string, value any) (s subject, unclear *event.Error) {
	o, ok := value.(object)
	if !ok {
		return subject{}, invalid(path, "must be an object")
	}
	if isComplex(o) {
		return v.readComplex(t, path, o)
	}
	if format := formatOf(o); k.uri == caep+"device-compliance-change" && (format == "iss_sub" || format == "opaque") {
		return subject{}, problem(event.OwnerUnclear, path, "%s may be the device's: the event names no user", quote(format))
	}
	s.user, s.field, unclear = v.readPerson(t, path, o)
	return s, unclear
}

// isComplex reports whether the subject has members for the user, the session, and so on. Okta and
// authentik leave out the format of such subjects.
func isComplex(o object) bool {
	format := formatOf(o)
	return format == "complex" || strings.HasPrefix(format, "user_") ||
		format == "" && (o.has("user") || o.has("device") || o.has("session"))
}

// formatOf returns the format of a subject. Google and older drafts write subject_type, with
// hyphens.
func formatOf(o object) string {
	format := o.text("format")
	if format == "" {
		format = o.text("subject_type")
	}
	return strings.ReplaceAll(strings.ToLower(format), "-", "_")
}

func (v *Verifier) readComplex(t *Transmitter, path string, o object) (s subject, unclear *event.Error) {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if slices.Contains(t.Critical, name) && !slices.Contains(understood, name) {
			return s, invalid(path+"."+name, "a critical member that the worker does not understand")
		}
	}
	if session, ok := o["session"].(object); ok {
		s.session = identifier(session)
	}
	device, _ := o["device"].(object)
	s.device = identifier(device)
	if o.has("user") {
		user, ok := o["user"].(object)
		if !ok {
			return s, invalid(path+".user", "must be an object")
		}
		s.user, s.field, unclear = v.readPerson(t, path+".user", user)
		return s, unclear
	}
	s.user, s.field, unclear = v.readDevice(t, path+".device", s.device)
	return s, unclear
}

// identifier returns the id in a simple subject, or "".
func identifier(o object) string {
	for _, name := range []string{"id", "sub", "email", "uri", "url"} {
		if text := o.text(name); text != "" {
			return text
		}
	}
	return ""
}

// readDevice returns the unknown user of a device.
func (v *Verifier) readDevice(t *Transmitter, path, id string) (event.User, string, *event.Error) {
	by := event.NoLookup
	switch t.Subjects.Device {
	case EntraDeviceID:
		by = event.ByEntraDevice
	case SerialNumber:
		by = event.BySerialNumber
	}
	switch {
	case id == "":
		return event.User{}, "", problem(event.OwnerUnclear, path, "missing, as the user is: the subject is no person")
	case by == event.NoLookup:
		return event.User{}, "", problem(event.OwnerUnclear, path,
			"only a device is named, by %s: the transmitter's subjects.device says what the id means", quote(id))
	case !v.cfg.ResolveDevices:
		return event.User{}, "", problem(event.OwnerUnclear, path, "only a device is named, by %s: events.resolve_devices is off",
			quote(id))
	}
	user, err := event.NewLookup(by, id)
	return user, path, at(path, err)
}

// readPerson returns the user that a simple subject or a list of aliases names.
func (v *Verifier) readPerson(t *Transmitter, path string, o object) (event.User, string, *event.Error) {
	if formatOf(o) == "aliases" {
		return v.readAliases(t, path, o)
	}
	meaning, value, name, unclear := v.readIdentifier(t, path, o)
	if unclear != nil {
		return event.User{}, "", unclear
	}
	user, unclear := userBy(path+"."+name, meaning, value)
	return user, path + "." + name, unclear
}

// readIdentifier returns what identifies the person in a simple subject, what it means, and which
// member holds it.
func (v *Verifier) readIdentifier(t *Transmitter, path string, o object) (m Meaning, value, name string, unclear *event.Error) {
	address := t.Subjects.Email
	if address == "" {
		address = UPN
		if v.cfg.LookUpMail {
			address = Mail
		}
	}
	switch format := formatOf(o); format {
	case "email":
		m, name = address, "email"
	case "account", "uri":
		text, ok := addressIn(o.text("uri"))
		if !ok {
			return "", "", "", problem(event.OwnerUnclear, path+".uri", "%s is no address of a person", quote(o.text("uri")))
		}
		return address, text, "uri", nil
	case "iss_sub":
		if iss := o.text("iss"); iss != t.Issuer && !slices.Contains(t.Subjects.Issuers, iss) {
			return "", "", "", problem(event.OwnerUnclear, path+".iss",
				"%s is not an accepted issuer of people (subjects.issuers of the transmitter)", quote(iss))
		}
		m, name = t.Subjects.IssSub, "sub"
	case "opaque":
		m, name = t.Subjects.Opaque, "id"
	case "":
		return "", "", "", invalid(path+".format", "missing")
	default:
		return "", "", "", problem(event.OwnerUnclear, path+".format", "%s names nobody whom Graph could know", quote(format))
	}
	if value = o.text(name); value == "" {
		return "", "", "", invalid(path+"."+name, "missing, or not a string")
	}
	if m == "" || m == Foreign {
		return "", "", "", problem(event.OwnerUnclear, path+"."+name,
			"%s is an id of %s: let the transmitter send the email format, or say what the id means (subjects.%s)",
			quote(value), quote(t.Issuer), formatOf(o))
	}
	return m, value, name, nil
}

// addressIn returns the address in an acct or mailto URI (RFC 7565, RFC 6068).
func addressIn(uri string) (string, bool) {
	scheme, rest, _ := strings.Cut(uri, ":")
	if !strings.EqualFold(scheme, "acct") && !strings.EqualFold(scheme, "mailto") || strings.ContainsAny(rest, "?#/,") {
		return "", false
	}
	address, err := url.PathUnescape(rest)
	return address, err == nil && address != ""
}

// readAliases returns the user whom a list of identifiers names. An object ID counts before names, and
// ids of the transmitter's own do not count. What counts must name one user.
func (v *Verifier) readAliases(t *Transmitter, path string, o object) (event.User, string, *event.Error) {
	const maxAliases = 20
	list, _ := o["identifiers"].([]any)
	if len(list) == 0 || len(list) > maxAliases {
		return event.User{}, "", invalid(path+".identifiers", "must be a list of 1 to %d subjects", maxAliases)
	}
	var best event.User
	var field string
	several := false
	why := problem(event.OwnerUnclear, path+".identifiers", "none of them names a user")
	for i, item := range list {
		path := fmt.Sprintf("%s.identifiers[%d]", path, i)
		alias, ok := item.(object)
		if !ok || formatOf(alias) == "aliases" {
			return event.User{}, "", invalid(path, "must be a subject, and no list of aliases")
		}
		user, at, unclear := v.readPerson(t, path, alias)
		switch {
		case unclear != nil:
			why = unclear
		case best.IsZero(), user.ID() != "" && best.ID() == "":
			best, field, several = user, at, false
		case (user.ID() != "") == (best.ID() != ""):
			several = several || user.Key() != best.Key()
		}
	}
	switch {
	case several:
		return event.User{}, "", problem(event.OwnerUnclear, path+".identifiers", "several names, and which one Entra knows is not clear")
	case best.IsZero():
		return event.User{}, "", why
	}
	return best, field, nil
}

// userBy returns the user whom a value with this meaning identifies.
func userBy(path string, m Meaning, value string) (event.User, *event.Error) {
	var user event.User
	var err error
	switch m {
	case EntraObjectID:
		user, err = event.NewUser(value, "")
	case Mail:
		user, err = event.NewLookup(event.ByMail, value)
	default:
		user, err = event.NewUser("", value)
	}
	return user, at(path, err)
}

// at returns an error of package event with the path of the claim.
func at(path string, err error) *event.Error {
	refused, ok := errors.AsType[*event.Error](err)
	if !ok {
		return nil
	}
	return &event.Error{Kind: refused.Kind, Field: path, Problem: refused.Problem}
}
