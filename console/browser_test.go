package console

import (
	"context"
	_ "embed"
	"encoding/json"
	"flag"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/session-revoker/session-revoker/replay"
)

// update makes the pictures of the documentation again.
var update = flag.Bool("update", false, "make the pictures in docs/images")

// browser starts Chromium. It skips the test if there is none.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("no chromium: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.NoFirstRun, chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("hide-scrollbars", true),
	)
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, stop := chromedp.NewContext(allocator)
	t.Cleanup(stop)
	if err := chromedp.Do(ctx); err != nil { // starts it; its life must not have the limit of the actions
		t.Fatal(err)
	}
	ctx, end := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(end)
	return ctx
}

//go:embed a11y_test.js
var accessibility string

// worker answers as a worker's operations port does.
func aWorker(t *testing.T, page string) string {
	t.Helper()
	metrics, err := os.ReadFile("testdata/" + page)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			_, _ = w.Write([]byte(`{"ready":true}`))
			return
		}
		_, _ = w.Write(metrics)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// look is a way to look at a page.
type look struct {
	name          string
	width, height int64
	dark, phone   bool
}

var looks = []look{{"light", 1280, 860, false, false}, {"dark", 1280, 860, true, false}, {"phone", 390, 844, false, true}}

func (l look) begin() step {
	scheme := "light"
	if l.dark {
		scheme = "dark"
	}
	viewport := chromedp.EmulateViewport(l.width, l.height)
	if l.phone {
		viewport = chromedp.EmulateViewport(l.width, l.height, chromedp.EmulateMobile)
	}
	return chromedp.Steps(viewport, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		if _, err := cdp.Call(ctx, t, emulation.SetFocusEmulationEnabled,
			emulation.SetFocusEmulationEnabledParams{Enabled: true}); err != nil {
			return err
		}
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	}))
}

// picture shows what of a page is in the window.
func (l look) picture() chromedp.Action[[]byte] {
	if os.Getenv("PICTURES") != "" {
		return chromedp.FullScreenshot(100)
	}
	return chromedp.CaptureScreenshot()
}

type step = chromedp.Action[chromedp.Void]

func TestBrowserEveryPageIsAccessible(t *testing.T) {
	ctx := browser(t)
	d := aNight()
	d.hold = make(chan struct{})
	s := open(t, d, func(cfg *Config) {
		cfg.Replicas, cfg.Ingests = []string{aWorker(t, "worker.txt")}, []string{aWorker(t, "ingest.txt")}
	})
	s.anHour()
	last := d.letters[len(d.letters)-2].SequenceNumber
	edited := strings.Replace(BodyText(mustLetter(t, d, last)), "userid", "userId", 1)

	run := func(what string, steps ...step) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	link := s.console.Link(s.address())
	run("sign in", chromedp.Navigate(link), chromedp.WaitVisible(chromedp.CSS("#verdict")))
	letter := letterAddress(source, last)
	for _, p := range []struct {
		name, path string
		do         []step
	}{
		{"now", "/", nil},
		{"dead-letters", "/dead-letters", nil},
		{"dead-letters-filtered", "/dead-letters?reason=UserNotFound&since=2d", nil},
		{"letter", letter, nil},
		{"edit", letter + "/edit", nil},
		{"edit-preview", letter + "/edit", []step{
			chromedp.SetValue(chromedp.CSS("#body"),
				edited), chromedp.Submit(chromedp.CSS("form.edit")), chromedp.WaitVisible(chromedp.CSS("#confirm")),
		}},
		{"purge-preview", "/dead-letters?reason=UserNotFound", []step{
			chromedp.Click(chromedp.CSS(`form[action="/purge"] button`)), chromedp.WaitVisible(chromedp.CSS("#confirm")),
		}},
		{"replaying", "/dead-letters?reason=RetriesExhausted", []step{
			chromedp.Click(chromedp.CSS(`form[action="/replay"] button`)), chromedp.WaitVisible(chromedp.CSS("#confirm")),
			chromedp.SendKeys(chromedp.CSS("#why"), "Graph is back"), chromedp.SendKeys(chromedp.CSS("#confirm"),
				"212\r"), chromedp.WaitVisible(chromedp.CSS("progress")),
		}},
		{"replayed", "", []step{ // the script shows the end by itself
			chromedp.Func(func(context.Context,
				*chromedp.Target,
			) error {
				close(d.hold)
				return nil
			}), chromedp.WaitVisible(chromedp.CSS(".counts")),
			chromedp.WaitVisible(chromedp.CSS("#later .counts")),
		}},
		{"changes", "/changes", nil},
		{"people", "/people?user=ada.0@contoso.com", nil},
		{"report", "/report?since=7d", nil},
		{"guard", "/guard", nil},
		{"nothing", "/nothing", nil},
	} {
		if p.path != "" {
			run(p.name, chromedp.Navigate(s.server.URL+p.path), chromedp.WaitReady(chromedp.CSS("main")))
		}
		run(p.name, p.do...)
		for _, l := range looks {
			run(p.name, l.begin())
			problems, err := chromedp.Run(ctx, chromedp.Evaluate[string](accessibility))
			if err != nil {
				t.Fatalf("%s: %v", p.name, err)
			}
			var list []string
			if err := json.Unmarshal([]byte(problems), &list); err != nil {
				t.Fatal(err)
			}
			for _, problem := range list {
				t.Errorf("%s, %s: %s", p.name, l.name, problem)
			}
			if *update {
				picture, err := chromedp.Run(ctx, l.picture())
				if err != nil {
					t.Fatal(err)
				}
				keepPicture(t, p.name, l.name, picture)
			}
		}
	}
	if got := d.changed(); len(got) != 1 || got[0] != "replay 212 by grace@contoso.com because Graph is back" {
		t.Errorf("changed: %q", got)
	}
}

// documented are the pictures that docs/console.md shows.
var documented = map[string]bool{
	"now-light": true, "dead-letters-light": true, "dead-letters-dark": true, "letter-light": true, "edit-preview-light": true,
	"replayed-light": true, "report-light": true, "people-light": true, "dead-letters-phone": true,
}

func keepPicture(t *testing.T, page, look string, picture []byte) {
	t.Helper()
	dir := filepath.Join("..", "docs", "images")
	if !documented[page+"-"+look] {
		if dir = os.Getenv("PICTURES"); dir == "" {
			return
		}
	}
	name := filepath.Join(dir, "console-"+page+"-"+look+".png")
	if err := os.WriteFile(name, picture, 0o644); err != nil {
		t.Fatal(err)
	}
	if len(picture) > 150<<10 {
		t.Logf("%s has %d KB", name, len(picture)>>10)
	}
}

func mustLetter(t *testing.T, d *deployment, sequence int64) replay.Record {
	t.Helper()
	record, err := d.Letter(context.Background(), source, sequence)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func (s *site) address() net.Addr { return s.server.Listener.Addr() }
