package secevent

import (
	"testing"

	"github.com/session-revoker/session-revoker/event"
)

func TestSubjectFormats(t *testing.T) {
	v := fromIDP(t, nil)
	for _, c := range []struct {
		name    string
		subject any
		field   string // empty if the person is not clear
		want    string // the user, or part of the problem
	}{
		{"email", email("ada@contoso.com"), "sub_id.email", "ada@contoso.com"},
		{"account", map[string]any{"format": "account", "uri": "acct:ada@contoso.com"}, "sub_id.uri", "ada@contoso.com"},
		{"account with an escape", map[string]any{"format": "account", "uri": "ACCT:ada%40contoso.com"}, "sub_id.uri", "ada@contoso.com"},
		{"mailto", map[string]any{"format": "uri", "uri": "mailto:ada@contoso.com"}, "sub_id.uri", "ada@contoso.com"},
		{
			"complex",
			map[string]any{"format": "complex", "user": email("ada@contoso.com"), "tenant": opaque("t")},
			"sub_id.user.email", "ada@contoso.com",
		},
		{"complex without a format", map[string]any{"user": email("ada@contoso.com")}, "sub_id.user.email", "ada@contoso.com"},
		{
			"complex of an old draft",
			map[string]any{"subject_type": "user-device-session", "user": email("ada@contoso.com")},
			"sub_id.user.email", "ada@contoso.com",
		},
		{"subject_type", map[string]any{"subject_type": "email", "email": "ada@contoso.com"}, "sub_id.email", "ada@contoso.com"},
		{"aliases", aliases(opaque("42"), email("ada@contoso.com")), "sub_id.identifiers[1].email", "ada@contoso.com"},
		{"aliases of a user", map[string]any{"format": "complex", "user": map[string]any{
			"format": "aliases", "identifiers": []any{email("ada@contoso.com"), email("ADA@contoso.com")},
		}}, "sub_id.user.identifiers[0].email", "ada@contoso.com"},

		{"Okta's id", issSub(issuer, "00u2di94bAMSEPvAY1d6"), "", "subjects.iss_sub"},
		{"opaque", opaque("42"), "", "subjects.opaque"},
		{"opaque that is a GUID", opaque(objectID), "", "subjects.opaque"},
		{"iss_sub that is an address", issSub(issuer, "ada@contoso.com"), "", "subjects.iss_sub"},
		{"iss_sub of another issuer", issSub("https://other.example.com/", "ada@contoso.com"), "", "not an accepted issuer"},
		{"Google", map[string]any{"subject_type": "iss-sub", "iss": issuer, "sub": "7375626A656374"}, "", "subjects.iss_sub"},
		{"phone number", map[string]any{"format": "phone_number", "phone_number": "+12065550100"}, "", "names nobody"},
		{"did", map[string]any{"format": "did", "url": "did:example:123"}, "", "names nobody"},
		{"JWT id", map[string]any{"format": "jwt_id", "iss": issuer, "jti": "x"}, "", "names nobody"},
		{"SAML assertion", map[string]any{"format": "saml_assertion_id", "issuer": issuer, "assertion_id": "x"}, "", "names nobody"},
		{"addresses of networks", map[string]any{"format": "ip-addresses", "ip-addresses": []any{"10.0.0.1"}}, "", "names nobody"},
		{"web page", map[string]any{"format": "uri", "uri": "https://contoso.com/users/ada@contoso.com"}, "", "no address of a person"},
		{
			"mailto with two",
			map[string]any{"format": "uri", "uri": "mailto:ada@contoso.com,grace@contoso.com"},
			"",
			"no address of a person",
		},
		{"device", map[string]any{"format": "complex", "device": opaque("laptop-7")}, "", "only a device is named"},
		{"whole tenant", map[string]any{"format": "complex", "tenant": opaque("t")}, "", "the subject is no person"},
		{"group", map[string]any{"format": "complex", "group": opaque("everybody")}, "", "the subject is no person"},
		{"session", map[string]any{"format": "complex", "session": opaque("s")}, "", "the subject is no person"},
		{"aliases without a name", aliases(opaque("42")), "", "subjects.opaque"},
		{"aliases of two names", aliases(email("ada@contoso.com"), email("grace@contoso.com")), "", "several names"},
		{"no subject", nil, "", "names nobody"},
	} {
		t.Run(c.name, func(t *testing.T) {
			item := decode(t, v, signed(t, disabled(member("sub_id", c.subject))))
			if c.field == "" {
				wantRefused(t, item, event.OwnerUnclear, c.want)
				return
			}
			wantUser(t, item, "user.offboarded", c.want)
			if item.Event.Field != c.field {
				t.Errorf("field %s, want %s", item.Event.Field, c.field)
			}
			old := disabled(map[string]any{"sub_id": nil, "events": member(risc+"account-disabled", member("subject", c.subject))})
			wantUser(t, decode(t, v, signed(t, old)), "user.offboarded", c.want)
		})
	}
}

func TestSubjectsThatCannotBeRead(t *testing.T) {
	v := fromIDP(t, func(_ *Config, t *Transmitter) { t.Subjects.Opaque = EntraObjectID })
	for name, subject := range map[string]any{
		"a string":          "ada@contoso.com",
		"a list":            []any{email("ada@contoso.com")},
		"no format":         map[string]any{"email": "ada@contoso.com"},
		"no email":          map[string]any{"format": "email"},
		"several emails":    map[string]any{"format": "email", "email": []any{"ada@contoso.com", "grace@contoso.com"}},
		"no address":        email("ada"),
		"a path":            email("../me@contoso.com"),
		"no GUID":           opaque("42"),
		"user is a string":  map[string]any{"format": "complex", "user": "ada@contoso.com"},
		"complex in a user": map[string]any{"format": "complex", "user": map[string]any{"user": email("ada@contoso.com")}},
		"no aliases":        map[string]any{"format": "aliases", "identifiers": []any{}},
		"aliases in aliases": map[string]any{"format": "aliases", "identifiers": []any{
			map[string]any{"format": "aliases", "identifiers": []any{email("ada@contoso.com")}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			wantRefused(t, decode(t, v, signed(t, disabled(member("sub_id", subject)))), event.Invalid, "sub_id")
		})
	}
}

func TestSubjectMeanings(t *testing.T) {
	const tenant = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0"
	v := fromIDP(t, func(c *Config, t *Transmitter) {
		c.LookUpMail = true
		t.Subjects = Subjects{Email: Mail, IssSub: EntraObjectID, Opaque: UPN, Issuers: []string{tenant}}
	})
	decodeSubject := func(subject any) event.Item {
		return decode(t, v, signed(t, disabled(member("sub_id", subject))))
	}
	wantUser(t, decodeSubject(issSub(issuer, objectID)), "user.offboarded", objectID)
	wantUser(t, decodeSubject(issSub(tenant, objectID)), "user.offboarded", objectID)
	wantUser(t, decodeSubject(opaque("ada@contoso.com")), "user.offboarded", "ada@contoso.com")
	wantUser(t, decodeSubject(email("ada@contoso.com")), "user.offboarded", "mail:ada@contoso.com")
	wantUser(t, decodeSubject(map[string]any{"format": "aliases", "identifiers": []any{
		email("ada@contoso.com"), email("ada.l@contoso.com"), issSub(tenant, objectID),
	}}), "user.offboarded", objectID)
	other := "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c02"
	wantRefused(t, decodeSubject(aliases(issSub(tenant, objectID), issSub(tenant, other))),
		event.OwnerUnclear, "several names")

	lookUp := fromIDP(t, func(c *Config, _ *Transmitter) { c.LookUpMail = true })
	wantUser(t, decode(t, lookUp, signed(t, disabled(nil))), "user.offboarded", "mail:ada@contoso.com")
	upn := fromIDP(t, func(c *Config, t *Transmitter) { c.LookUpMail, t.Subjects.Email = true, UPN })
	wantUser(t, decode(t, upn, signed(t, disabled(nil))), "user.offboarded", "ada@contoso.com")
}

func TestSubjectDeviceIsLookedUpOnlyIfAllowed(t *testing.T) {
	device := signed(t, disabled(member("sub_id", map[string]any{"format": "complex", "device": opaque(objectID)})))
	both := signed(t, disabled(member("sub_id", map[string]any{"format": "complex", "device": opaque(objectID), "user": opaque("42")})))
	off := fromIDP(t, func(_ *Config, t *Transmitter) { t.Subjects.Device = EntraDeviceID })
	wantRefused(t, decode(t, off, device), event.OwnerUnclear, "events.resolve_devices")
	on := fromIDP(t, func(c *Config, t *Transmitter) { c.ResolveDevices, t.Subjects.Device = true, EntraDeviceID })
	wantUser(t, decode(t, on, device), "user.offboarded", "entra-device:"+objectID)
	wantRefused(t, decode(t, on, both), event.OwnerUnclear, "subjects.opaque") // the user is known to be somebody else's id
	serial := fromIDP(t, func(c *Config, t *Transmitter) { c.ResolveDevices, t.Subjects.Device = true, SerialNumber })
	wantUser(t, decode(t, serial, device), "user.offboarded", "serial-number:"+objectID)
}

func TestSubjectsThatDisagreeAreRefused(t *testing.T) {
	v := fromIDP(t, nil)
	both := func(inEvent any) event.Item {
		return decode(t, v, signed(t, claims(risc+"account-disabled", member("subject", inEvent), nil)))
	}
	wantUser(t, both(email("ADA@contoso.com")), "user.offboarded", "ada@contoso.com")
	wantUser(t, both(issSub(issuer, "42")), "user.offboarded", "ada@contoso.com")
	wantRefused(t, both(email("grace@contoso.com")), event.Invalid, "another person")
}

func TestSubjectCriticalMembersMustBeUnderstood(t *testing.T) {
	v := fromIDP(t, func(_ *Config, t *Transmitter) { t.Critical = texts{"user", "session", "floor"} })
	subject := map[string]any{"format": "complex", "user": email("ada@contoso.com"), "session": opaque("s"), "desk": opaque("5")}
	wantUser(t, decode(t, v, signed(t, disabled(member("sub_id", subject)))), "user.offboarded", "ada@contoso.com")
	subject["floor"] = opaque("3")
	wantRefused(t, decode(t, v, signed(t, disabled(member("sub_id", subject)))), event.Invalid, "sub_id.floor")
}
