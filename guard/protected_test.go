package guard_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
)

const glassID = "588d7c15-8565-448e-bc2d-57f2b7c4c58a"

func TestProtectedHas(t *testing.T) {
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

func TestProtectedNamesEveryUnusableEntry(t *testing.T) {
	_, err := guard.NewProtected([]string{"somebody", glassID, "a/b@contoso.com"})
	if err == nil || !strings.Contains(err.Error(), `"somebody"`) || !strings.Contains(err.Error(), `"a/b@contoso.com"`) {
		t.Errorf("got %v", err)
	}
}

func named(t *testing.T, upn string) event.User {
	t.Helper()
	user, err := event.NewUser("", upn)
	if err != nil {
		t.Fatal(err)
	}
	return user
}

func TestProtectedPatternsOfNames(t *testing.T) {
	p, err := guard.NewProtected([]string{"svc-*@contoso.com", "*@admin.contoso.com", "a*b@contoso.com"})
	if err != nil {
		t.Fatal(err)
	}
	for upn, want := range map[string]bool{
		"SVC-sync@Contoso.com": true, "svc-@contoso.com": true, "svc@contoso.com": false, "svc-a@contoso.com.evil.example": false,
		"anyone@admin.contoso.com": true, "anyone@contoso.com": false, "axxb@contoso.com": true, "xsvc-a@contoso.com": false,
	} {
		if p.Has(named(t, upn)) != want {
			t.Errorf("%s: protected is %v", upn, !want)
		}
	}
	for _, pattern := range []string{"*", "*@*", "**@*.*", "svc-*", "svc-[a]*@contoso.com", "svc?*@contoso.com"} {
		if _, err := guard.NewProtected([]string{pattern}); err == nil {
			t.Errorf("%q was accepted", pattern)
		}
	}
}

func TestProtectedLoadsAFileAgainWhenItsContentChanges(t *testing.T) {
	dir := t.TempDir()
	// Kubernetes makes the file a link into a folder, and replaces the folder.
	current := filepath.Join(dir, "..data")
	write := func(version, text string) {
		t.Helper()
		folder := filepath.Join(dir, version)
		if err := errors.Join(os.Mkdir(folder, 0o700), os.WriteFile(filepath.Join(folder, "protected"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Symlink(version, current+".new"), os.Rename(current+".new", current)); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(current, "protected")
	synctest.Test(t, func(t *testing.T) {
		p, err := guard.NewProtected([]string{"listed@contoso.com"})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Load(file); err == nil {
			t.Error("a file that does not exist was loaded")
		}
		write("1", "# break-glass\nada@contoso.com\n\n  svc-*@contoso.com  \n")
		if err := p.Load(file); err != nil || p.Len() != 3 {
			t.Fatalf("%v, %d entries", err, p.Len())
		}
		var mu sync.Mutex
		var reports []string
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.Watch(ctx, file, 10*time.Second, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				reports = append(reports, fmt.Sprint(err))
			})
		}()
		want := func(n int, last string, users map[string]bool) {
			t.Helper()
			time.Sleep(31 * time.Second)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(reports) != n || n > 0 && !strings.Contains(reports[n-1], last) {
				t.Fatalf("reports %q, want %d, the last with %q", reports, n, last)
			}
			for upn, protected := range users {
				if p.Has(named(t, upn)) != protected {
					t.Errorf("%s: protected is %v", upn, !protected)
				}
			}
		}
		want(0, "", map[string]bool{"ada@contoso.com": true, "listed@contoso.com": true})
		write("2", "grace@contoso.com\n")
		want(1, "<nil>", map[string]bool{"ada@contoso.com": false, "grace@contoso.com": true, "listed@contoso.com": true})
		write("3", "grace@contoso.com\nnobody\n")
		want(2, `"nobody"`, map[string]bool{"grace@contoso.com": true}) // the last valid entries stay
		if err := os.Remove(current); err != nil {
			t.Fatal(err)
		}
		want(3, "no such file", map[string]bool{"grace@contoso.com": true})
		write("4", "grace@contoso.com\n")
		want(4, "<nil>", map[string]bool{"grace@contoso.com": true})
		stop()
		<-done
	})
}

func TestProtectedRefusesAFileThatIsTooLarge(t *testing.T) {
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, make([]byte, guard.MaxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := guard.NewProtected(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Load(file); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("%v", err)
	}
}
