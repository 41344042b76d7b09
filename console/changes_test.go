package console

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// preview posts a form and returns the address of the preview.
func (s *site) preview(path string, form url.Values) string {
	s.t.Helper()
	response := s.do(visit{path: path, form: form})
	if response.StatusCode != http.StatusSeeOther {
		s.t.Fatalf("%s: %d", path, response.StatusCode)
	}
	return response.Header.Get("Location")
}

// until waits for a text on a page.
func (s *site) until(path, text string) string {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		page := s.page(200, visit{path: path})
		if strings.Contains(page, text) {
			return page
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s never has %q:\n%s", path, text, page)
		}
	}
}

func TestChangeIsConfirmedByWhatThePreviewSays(t *testing.T) {
	d := aNight()
	s := open(t, d, nil)
	s.enter()
	at := s.preview("/purge", url.Values{"reason": {"UserNotFound"}})
	if page := s.page(200, visit{path: at}); !strings.Contains(page, "Purge 64 dead letters") || !strings.Contains(page, "(64)") {
		t.Errorf("the preview does not say how many:\n%s", page)
	}
	for _, typed := range []string{"", "63", "yes", "064", "64 64"} {
		if page := s.page(409, visit{path: at, form: url.Values{"confirm": {typed}}}); !strings.Contains(page, "Nothing was changed") {
			t.Errorf("%q: %s", typed, page)
		}
	}
	if got := d.changed(); len(got) > 0 {
		t.Fatalf("changed: %q", got)
	}
	s.page(303, visit{path: at, form: url.Values{"confirm": {" 64 "}, "why": {"left the company"}}})
	s.until(at, "Done.")
	s.page(409, visit{path: at, form: url.Values{"confirm": {"64"}}}) // once
	if got := d.changed(); len(got) != 1 || got[0] != "purge 64 by grace@contoso.com because left the company" {
		t.Errorf("changed: %q", got)
	}
	if page := s.page(200, visit{path: "/changes"}); !strings.Contains(page, "left the company") {
		t.Error("the list of changes does not have it")
	}
}

func TestChangeIsAboutWhatWasPreviewed(t *testing.T) {
	d := aNight()
	s := open(t, d, nil)
	s.enter()
	before := s.preview("/purge", url.Values{"reason": {"UserNotFound"}})
	letters := d.letters
	d.letters = append(slices.Clip(letters), letters[212]) // one more comes, and another tab sees it
	after := s.preview("/purge", url.Values{"reason": {"UserNotFound"}})
	s.page(409, visit{path: before, form: url.Values{"confirm": {"65"}}})
	s.page(409, visit{path: after, form: url.Values{"confirm": {"64"}}})
	s.page(303, visit{path: before, form: url.Values{"confirm": {"64"}}})
	s.until(before, "Done.")
	if got := d.changed(); len(got) != 1 || !strings.HasPrefix(got[0], "purge 64") {
		t.Errorf("changed: %q", got)
	}
	s.pass(16 * time.Minute)
	s.page(409, visit{path: after, form: url.Values{"confirm": {"65"}}}) // too old
	if len(d.changed()) != 1 {
		t.Error("an old preview was confirmed")
	}
}

func TestChangeOfAnotherSession(t *testing.T) {
	d := aNight()
	s := open(t, d, nil)
	s.enter()
	at := s.preview("/replay", url.Values{"reason": {"ProtectedUser"}})
	s.enter() // another browser
	s.page(404, visit{path: at})
	s.page(409, visit{path: at, form: url.Values{"confirm": {"1"}}})
	if len(d.changed()) != 0 {
		t.Error("another session has confirmed the preview")
	}
}

func TestChangeIsOneAtATime(t *testing.T) {
	d := aNight()
	d.hold = make(chan struct{})
	s := open(t, d, nil)
	s.enter()
	first := s.preview("/replay", url.Values{"reason": {"RetriesExhausted"}})
	second := s.preview("/purge", url.Values{"reason": {"RetriesExhausted"}})
	release := s.preview("/guard", url.Values{"type": {"device.lost"}, "max": {"5000"}, "minutes": {"60"}, "reason": {"site closes"}})
	s.page(303, visit{path: first, form: url.Values{"confirm": {"212"}}})
	s.until(first, "70 of 212")
	if page := s.page(409, visit{path: second, form: url.Values{"confirm": {"212"}}}); !strings.Contains(page,
		"The replay of grace@contoso.com is still being made") {
		t.Error(page)
	}
	s.page(303, visit{path: release, form: url.Values{"confirm": {"5000"}}}) // is not about dead letters
	s.until(release, "Done.")
	close(d.hold)
	s.until(first, "What became of them")
	s.until(first, "201")
	s.page(303, visit{path: second, form: url.Values{"confirm": {"212"}}}) // its preview is still good
	s.until(second, "Done.")
	if got := d.changed(); len(got) != 3 || !strings.HasPrefix(got[0], "release 5000 of device.lost") {
		t.Errorf("changed: %q", got)
	}
}

func TestChangeEndsBeforeTheConsole(t *testing.T) {
	d := aNight()
	d.hold = make(chan struct{})
	c, err := New(Config{Operations: d, Access: Access{By: "grace"}, now: func() time.Time { return night }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		c.Run(ctx)
		close(ended)
	}()
	change, _ := d.change(Replay, "grace", Pick{})
	who := visitor{"grace", "session"}
	if _, err := c.changes.confirm(ctx, c.changes.add(change, who), change.Confirm, "", who, func() {}); err != nil {
		t.Fatal(err)
	}
	stop()
	<-ended
	if got := d.changed(); len(got) != 1 {
		t.Errorf("the console has ended before the change: %q", got)
	}
	if _, err := c.changes.confirm(context.Background(), c.changes.add(change, who), change.Confirm, "", who, func() {}); err == nil {
		t.Error("a change was begun after the end")
	}
}

func TestPreviewsAreBounded(t *testing.T) {
	s := open(t, aNight(), nil)
	s.enter()
	first := s.preview("/replay", url.Values{"reason": {"ProtectedUser"}})
	for range maxPreviews {
		s.preview("/replay", url.Values{"reason": {"ProtectedUser"}})
	}
	s.page(409, visit{path: first, form: url.Values{"confirm": {"1"}}})
	if n := len(s.console.changes.previews); n != maxPreviews {
		t.Errorf("%d previews", n)
	}
}

func TestGuardReleaseNeedsNumbers(t *testing.T) {
	d := aNight()
	s := open(t, d, nil)
	s.enter()
	for _, form := range []url.Values{
		{"max": {"many"}, "minutes": {"60"}},
		{"max": {"0"}, "minutes": {"60"}},
		{"max": {"5"}, "minutes": {"0"}},
		{"max": {"5"}, "minutes": {"1441"}},
		{"max": {"5"}},
		{},
	} {
		s.page(400, visit{path: "/guard", form: form})
	}
}
