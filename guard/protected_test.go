package guard_test

import (
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
)

const glassID = "588d7c15-8565-448e-bc2d-57f2b7c4c58a"

func TestWhoIsProtected(t *testing.T) {
	p, err := guard.NewProtected([]string{strings.ToUpper(glassID), "BreakGlass@contoso.com"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id, upn string
		want    bool
	}{
		{glassID, "", true},
		{strings.ToUpper(glassID), "", true},
		{"", "breakglass@CONTOSO.com", true},
		{"00000000-0000-4000-8000-000000000001", "breakglass@contoso.com", true}, // either name is enough
		{glassID, "renamed@contoso.com", true},
		{"00000000-0000-4000-8000-000000000001", "", false},
		{"", "breakglass@contoso.com.evil.example", false},
	} {
		user, err := event.NewUser(c.id, c.upn)
		if err != nil {
			t.Fatal(err)
		}
		if p.Has(user) != c.want {
			t.Errorf("%s %s: protected is %v", c.id, c.upn, !c.want)
		}
	}
	if nobody, err := guard.NewProtected(nil); err != nil || nobody.Has(event.User{}) {
		t.Errorf("an empty list protects somebody, %v", err)
	}
}

func TestEveryUnusableEntryIsNamed(t *testing.T) {
	_, err := guard.NewProtected([]string{"somebody", glassID, "a/b@contoso.com"})
	if err == nil || !strings.Contains(err.Error(), `"somebody"`) || !strings.Contains(err.Error(), `"a/b@contoso.com"`) {
		t.Errorf("got %v", err)
	}
}
