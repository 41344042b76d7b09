package console

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/replay"
)

func TestLettersAreFilteredByTheAddress(t *testing.T) {
	s := open(t, aNight(), nil)
	s.enter()
	s.until("/dead-letters", "312 in all")
	for query, want := range map[string]string{
		"reason=usernotfound":                     "Replay these 64",
		"reason=UserNotFound&reason=InvalidEvent": "Replay these 76",
		"user=ADA.0@contoso.com":                  "Replay this one",
		"since=30m":                               "Replay these ",
		"until=30h":                               "Replay these ",
		"seq=4101-4110,+4200":                     "Replay these 11",
		"producer=mdm":                            "Replay these 312",
		"source=session-events":                   "Replay these 312",
		"source=nowhere":                          "No dead letter matches the filter",
		"reason=&user=":                           "Replay all 312",
		"since=yesterday":                         "cannot be used",
		"seq=1,x":                                 "cannot be used",
	} {
		if page := s.page(200, visit{path: "/dead-letters?" + query}); !strings.Contains(page, want) {
			t.Errorf("%s: no %q", query, want)
		}
	}
	if page := s.page(200, visit{path: "/dead-letters?since=yesterday"}); strings.Contains(page, "Replay") {
		t.Error("a filter that cannot be used picks letters")
	}
	s.page(409, visit{path: "/purge", form: url.Values{"since": {"yesterday"}}})
	page := s.page(200, visit{path: "/dead-letters?page=4&reason=RetriesExhausted"})
	if !strings.Contains(page, "Page 3 of 3") || strings.Count(page, "data-label=\"Number\"") != 12 {
		t.Error("the last page is not shown")
	}
	for _, path := range []string{
		"/dead-letters/session-events/1", "/dead-letters/other/4101", "/dead-letters/session-events/x",
		"/dead-letters/session-events/-1",
	} {
		s.page(404, visit{path: path})
	}
}

// hostile texts try to be more than text.
var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `</textarea><script>alert(1)</script>`,
	`javascript:alert(1)`, "a\u202egnp.exe", "bell\x07\x1b[2J\x9b31m", "zero\u200bwidth", "\xff\xfe not UTF-8",
	`{{.}}`, `${alert(1)}`, "</title><svg onload=alert(1)>",
	"a\r\nSet-Cookie: x=y", "\u2028\u2029", "../../etc/passwd", "%00%0d%0a",
}

func TestLettersOfSubscriptionsHaveAddresses(t *testing.T) {
	const subscription = "devices/Subscriptions/worker"
	d := aNight()
	d.more = []string{subscription}
	d.letters[0].Source = subscription
	s := open(t, d, nil)
	s.enter()
	at := letterAddress(subscription, d.letters[0].SequenceNumber)
	if page := s.until("/dead-letters?source="+url.QueryEscape(subscription), "Replay this one"); !strings.Contains(page, `href="`+at+`"`) {
		t.Errorf("no link to %s", at)
	}
	if page := s.page(200, visit{path: at}); !strings.Contains(page, subscription) {
		t.Error("the letter does not name its source")
	}
	s.page(200, visit{path: s.preview(at+"/edit", url.Values{"body": {"{}"}})})
}

// hostileLetters have these texts wherever a producer can put a text.
func hostileLetters() *deployment {
	d := &deployment{bodies: map[int64]string{}}
	for i, text := range hostile {
		d.letters = append(d.letters, replay.Letter{
			Source: source, SequenceNumber: int64(i + 1), Enqueued: night, MessageID: text, Reason: text, Description: text,
			Users: []string{
				text,
				text,
			}, Types: []string{text}, Producers: []string{text}, Unreadable: "", Mended: text, ReplayedBy: text, Replays: 1,
			NotBelieved: map[string]any{"revoker-" + text: text},
		})
		d.bodies[int64(i+1)] = text + strings.Repeat("\n"+text, 5)
	}
	d.history.Answer = strings.Join(hostile, " ")
	return d
}

func TestLettersCannotBeMoreThanText(t *testing.T) {
	d := hostileLetters()
	s := open(t, d, nil)
	s.enter()
	s.until("/dead-letters", "16 in all")
	var paths []string
	harmless := func(path string) {
		t.Helper()
		isHarmless(t, path, s.page(200, visit{path: path}))
	}
	harmless("/dead-letters")
	harmless(s.preview("/replay", url.Values{"source": {source}}))
	for i, text := range hostile {
		harmless(s.preview(letterAddress(source, int64(i+1))+"/edit", url.Values{"body": {text}}))
		paths = append(paths, letterAddress(source, int64(i+1)), letterAddress(source, int64(i+1))+"/edit",
			"/people?"+url.Values{"user": {text}}.Encode(), "/dead-letters?"+url.Values{
				"reason": {text}, "user": {text},
				"since": {text},
			}.Encode(),
			"/report?"+url.Values{"since": {text}, "target": {text}}.Encode())
	}
	for _, path := range paths {
		harmless(path)
	}
}

// isHarmless fails the test if text of a page has become more than text.
func isHarmless(t *testing.T, path, page string) {
	t.Helper()
	for _, wrong := range []string{"<script>alert", "<img src=x", "<svg onload", "' onmouseover='alert", "href=\"javascript"} {
		if strings.Contains(page, wrong) {
			t.Errorf("%s has %s", path, wrong)
		}
	}
	shown := page
	if before, after, ok := strings.Cut(page, "<textarea"); ok { // what is edited must stay as it is
		_, after, _ = strings.Cut(after, "</textarea>")
		shown = before + after
	}
	for _, field := range []string{"value=\"", "href=\""} { // what is sent back must, too
		for _, part := range strings.Split(shown, field)[1:] {
			value, _, _ := strings.Cut(part, "\"")
			shown = strings.Replace(shown, field+value, "", 1)
		}
	}
	if strings.ContainsAny(shown, "\x07\x1b\u009b\u202e\u200b\u2028") {
		t.Errorf("%s shows a hidden character", path)
	}
}

func TestLettersOfALargeBody(t *testing.T) {
	d := aNight()
	big := strings.Repeat("a\u202e<b>\n", 1<<20/8)
	d.bodies[4101], d.bodies[4102] = big, `{"x":"`+strings.Repeat("y", 250<<10)+`"}`
	lines := strings.Repeat("x\n", maxEdit/2)
	d.bodies[4103] = lines
	s := open(t, d, nil)
	s.enter()
	if page := s.page(200, visit{path: "/dead-letters/session-events/4101"}); len(page) > 1<<20 || strings.Contains(page, "/edit\"") {
		t.Errorf("a page of %d bytes", len(page))
	}
	s.page(409, visit{path: "/dead-letters/session-events/4101/edit"})
	s.page(200, visit{path: "/dead-letters/session-events/4102/edit"})
	began := time.Now()
	s.page(200, visit{path: s.preview("/dead-letters/session-events/4103/edit", url.Values{"body": {strings.Repeat("y\nx\n", maxEdit/4)}})})
	t.Logf("the difference of 131,072 lines took %s", time.Since(began))
}

func TestLettersAreShownWhileTheyAreRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &slow{deployment: aNight(), next: make(chan error)}
		s := newSnapshots(d, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		go s.run(ctx)
		if first := s.get(); !first.reading || len(first.letters) != 0 {
			t.Errorf("%+v", first)
		}
		for range 1700 {
			d.next <- nil
		}
		synctest.Wait()
		if some := s.get(); !some.reading || len(some.letters) != 1500 {
			t.Errorf("%d letters, reading %v", len(some.letters), some.reading)
		}
		d.next <- errors.New("the connection is lost")
		synctest.Wait()
		broken := s.get()
		if broken.err == nil || len(broken.letters) != 1700 {
			t.Errorf("%d letters, %v", len(broken.letters), broken.err)
		}
		time.Sleep(refresh + time.Second) // reads again, and what was seen stays
		d.next <- nil
		synctest.Wait()
		if again := s.get(); len(again.letters) != 1700 {
			t.Errorf("%d letters", len(again.letters))
		}
		d.next <- errDone
		synctest.Wait()
		if last := s.get(); last.err != nil || len(last.letters) != 1 || last.reading {
			t.Errorf("%d letters, %v", len(last.letters), last.err)
		}
		time.Sleep(2 * unseen) // nobody looks
		synctest.Wait()
		reads := d.reads
		time.Sleep(time.Hour)
		if d.reads != reads {
			t.Errorf("read %d times for nobody", d.reads-reads)
		}
		cancel()
		synctest.Wait()
	})
}

var errDone = errors.New("done")

// slow has a letter for each nil, and ends with an error.
type slow struct {
	*deployment
	next chan error
}

func (d *slow) EachLetter(ctx context.Context, each func(replay.Letter) error) error {
	d.reads++
	for n := int64(1); ; n++ {
		select {
		case err := <-d.next:
			if errors.Is(err, errDone) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := each(replay.Letter{Source: source, SequenceNumber: n, Reason: "x"}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestSnapshotIsBounded(t *testing.T) {
	d := &deployment{}
	long := strings.Repeat("x", 190)
	for i := range 260_000 {
		d.letters = append(d.letters, replay.Letter{Source: source, SequenceNumber: int64(i), Description: fmt.Sprint(i, long)})
	}
	s := newSnapshots(d, time.Now)
	s.read(t.Context())
	if last := s.last.Load(); len(last.letters) > maxLetters || len(last.letters) < 100_000 || len(last.letters)+last.more != 260_000 {
		t.Errorf("%d and %d more", len(last.letters), last.more)
	}
}

func TestHistogramHoldsAll(t *testing.T) {
	for _, c := range []struct{ long, since time.Duration }{
		{0, 0}, {time.Second, 0}, {time.Minute, 0}, {time.Hour, 0}, {26 * time.Hour, 0}, {
			90 * 24 * time.Hour,
			0,
		}, {100 * 365 * 24 * time.Hour, 0},
	} {
		groups := []replay.Group{{Oldest: night.Add(-c.long), Newest: night}}
		h := spanOf(groups).histogram()
		h.add(night)
		h.add(night.Add(-c.long))
		sum := 0
		for _, n := range h.bars {
			sum += n
		}
		if sum != 2 || len(h.bars) < minBars || len(h.bars) > maxBars || h.bars[len(h.bars)-1] == 0 || h.end().Before(night) {
			t.Errorf("%s: %d bars of %s from %s: %v", c.long, len(h.bars), h.step, h.from, h.bars)
		}
	}
	if h := spanOf(nil).histogram(); len(h.bars) != 0 {
		t.Error("bars of nothing")
	}
}

func BenchmarkLettersPage(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d := &deployment{}
			for i := range n {
				d.letters = append(d.letters, replay.Letter{
					Source: source, SequenceNumber: int64(i), Enqueued: night.Add(-time.Duration(i) * time.Second),
					Reason: fmt.Sprint("Reason", i%12),
					Users:  []string{fmt.Sprintf("user%d@contoso.com", i)}, Description: fmt.Sprint("because of ", i),
				})
			}
			c, _ := New(Config{Operations: d, now: func() time.Time { return night }})
			c.letters.read(b.Context())
			for b.Loop() {
				m := lettersModel{snapshot: c.letters.last.Load(), sources: d.Sources(), now: night}
				m.fill(Pick{}, "1")
				if err := lettersView(c.page("", visitor{}), m).Render(b.Context(), discard{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
