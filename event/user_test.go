package event_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/event"
)

func TestUserPrincipalName(t *testing.T) {
	long := strings.Repeat("a", 64)
	for upn, valid := range map[string]bool{
		"ada@contoso.com": true, "Ada.Lovelace@Contoso.COM": true, "o'neil@contoso.com": true, "a-b_c!d#e^f~g@contoso.com": true,
		"$svc@contoso.com": true, "v_fabrikam.com#EXT#@contoso.onmicrosoft.com": true, "1@2.3": true, long + "@contoso.com": true,
		"a@b-c.d.e":       true,
		"a$b@contoso.com": false, "ada": false, "@contoso.com": false, "ada@": false, "ada@contoso": false, "a@b@c.de": false,
		"ada@contoso..com": false,
		"a..b@contoso.com": false, ".a@contoso.com": false, "a.@contoso.com": false, "..@contoso.com": false, "a@.com": false,
		"a@com.":   false,
		"a@-b.com": false, "a@b-.com": false, "a/b@contoso.com": false, `a\b@contoso.com`: false, "a%2fb@contoso.com": false,
		"a?b@contoso.com": false,
		"a b@contoso.com": false, " ada@contoso.com": false, "ada@contoso.com\n": false,
		"ädä@contoso.com": false, "ada@cöntoso.com": false,
		"ada@contoso.com/x": false, "a+b@contoso.com": false, long + "a@contoso.com": false, "a@" + strings.Repeat("b", 64) + ".com": false,
		long + "@" + strings.Repeat("b.", 30) + "com":  false,
		long + "@" + strings.Repeat("b.", 22) + "info": true, long + "@" + strings.Repeat("b.", 22) + "infos": false, // 113 and 114 in all
		"me-token-to-replace": false, "a@b.c#": false, "\x00@b.cd": false,
	} {
		u, err := event.NewUser("", upn)
		if (err == nil) != valid {
			t.Errorf("%q: %v", upn, err)
			continue
		}
		if valid {
			checkUser(t, u)
			if u.UPN() != upn || u.Name() != upn {
				t.Errorf("%q became %q", upn, u.UPN())
			}
		} else if problem := new(event.Error); !errors.As(err, &problem) || problem.Field != "userPrincipalName" || !u.IsZero() {
			t.Errorf("%q: %v, user %v", upn, err, u)
		}
	}
}

func TestUserObjectID(t *testing.T) {
	for id, valid := range map[string]bool{
		userID: true, strings.ToUpper(userID): true, "00000000-0000-0000-0000-000000000000": true,
		strings.ReplaceAll(userID, "-",
			""): false, "{" + userID + "}": false, "urn:uuid:" + userID: false, userID + "0": false, userID[:35]: false,
		strings.Replace(userID, "5", "g",
			1): false, "me": false, "../../groups/x": false, " " + userID: false, "588d7c15-8565-448e-bc2d/57f2b7c4c58a": false,
	} {
		u, err := event.NewUser(id, "")
		if (err == nil) != valid {
			t.Errorf("%q: %v", id, err)
		}
		if valid && (u.ID() != strings.ToLower(id) || u.Key() != strings.ToLower(id)) {
			t.Errorf("%q became %q", id, u.ID())
		}
	}
}

func TestUserKey(t *testing.T) {
	if _, err := event.NewUser("", ""); err == nil {
		t.Error("nobody is somebody")
	}
	if !(event.User{}).IsZero() {
		t.Error("the zero User is somebody")
	}
	both, err := event.NewUser(strings.ToUpper(userID), "Guest_x.com#ext#@contoso.com")
	if err != nil || both.Name() != userID || both.Key() != userID || both.String() != userID || !both.External() {
		t.Errorf("%v, %v: the id is called, and the guest is recognized", both, err)
	}
	if id, _ := event.NewUser(userID, ""); id.External() {
		t.Error("an id alone does not show a guest")
	}
	one, _ := event.NewUser("", "Ada@Contoso.com")
	two, _ := event.NewUser("", "ada@contoso.com")
	if one.Key() != two.Key() {
		t.Error("names are compared without case")
	}
}

func FuzzNewUser(f *testing.F) {
	f.Add(userID, "")
	f.Add("", "$a'b@c.de")
	f.Add("..", "a/b@c.de")
	f.Fuzz(func(t *testing.T, id, upn string) {
		if u, err := event.NewUser(id, upn); err == nil {
			checkUser(t, u)
		}
	})
}

// Some devices have no serial number, and say so in the words of their firmware. One device in Intune
// may say the same, and belong to somebody else.
func TestPlaceholderIsNoSerialNumber(t *testing.T) {
	for serial, valid := range map[string]bool{
		"C02XL0": true, "0001": true, "VMware-56 4d 0a": true,
		"0": false, "00000000": false, "To be filled by O.E.M.": false, "Default string": false, "UNKNOWN": false, "n/a": false,
		"System Serial Number": false, "xxxxxxx": false, " ": false,
	} {
		if _, err := event.NewLookup(event.BySerialNumber, serial); (err == nil) != valid {
			t.Errorf("%q: %v", serial, err)
		}
	}
}
