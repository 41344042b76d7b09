package console

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/a-h/templ"
	"github.com/aymanbagabas/go-udiff"
)

// The pages are in the files *.templ. Change a file, and make the Go code again with go generate.
//
//go:generate go run github.com/a-h/templ/cmd/templ@v0.3.1118 generate

// page is what all pages have in common.
type page struct {
	title, section, user, version string
	readOnly                      bool
	letters                       int // dead letters, or -1 if they are not known
	every                         int // how often the script renews the page, in seconds; 0 for never
	now                           time.Time
}

// page returns the frame of a page.
func (c *Console) page(title string, who visitor) page {
	p := page{title: title, user: who.name, version: c.Version, readOnly: c.ReadOnly, letters: -1, now: c.now()}
	if last := c.letters.last.Load(); !last.reading && last.err == nil {
		p.letters = len(last.letters) + last.more
	}
	return p
}

// in says to which section of the site a page belongs.
func (p page) in(section string) page {
	p.section = section
	return p
}

// live lets the script renew the page.
func (p page) live(seconds int) page {
	p.every = seconds
	return p
}

// render writes a page. A page that fails half way is not sent.
func (c *Console) render(w http.ResponseWriter, r *http.Request, code int, view templ.Component) {
	var b bytes.Buffer
	if err := view.Render(r.Context(), &b); err != nil {
		http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = b.WriteTo(w)
}

// problem answers with a page that says what is wrong.
func (c *Console) problem(w http.ResponseWriter, r *http.Request, code int, title, text string) {
	c.render(w, r, code, problemView(c.page(title, visitorOf(r)), text))
}

// plainProblem answers somebody who is not signed in.
func (c *Console) plainProblem(w http.ResponseWriter, code int, title, text string) {
	var b bytes.Buffer
	if plainView(title, text).Render(context.Background(), &b) != nil {
		http.Error(w, text, code)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = b.WriteTo(w)
}

// versions are the hashes of the assets, so that a new version of a file has a new address.
var versions = func() map[string]string {
	all := map[string]string{}
	entries, _ := assets.ReadDir("assets")
	for _, e := range entries {
		content, _ := assets.ReadFile("assets/" + e.Name())
		sum := sha256.Sum256(content)
		all[e.Name()] = hex.EncodeToString(sum[:6])
	}
	return all
}()

// asset returns the address of a file.
func asset(name string) string { return "/assets/" + name + "?v=" + versions[name] }

func serveAsset(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	content, err := assets.ReadFile("assets/" + name)
	if err != nil || r.URL.Path != "/assets/"+name {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	if r.URL.Query().Get("v") == versions[name] {
		w.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	_, _ = w.Write(content) //nolint:gosec // an embedded file
}

// diffLine is a line of a comparison.
type diffLine struct {
	kind string // "same", "gone", "new", or "skip"
	text string
}

// compare compares two texts by lines.
func compare(before, after string) []diffLine {
	edits := udiff.Lines(before, after)
	unified, err := udiff.ToUnifiedDiff("before", "after", before, edits, 3)
	if err != nil {
		return []diffLine{{"gone", before}, {"new", after}}
	}
	var lines []diffLine
	for i, hunk := range unified.Hunks {
		if i > 0 {
			lines = append(lines, diffLine{kind: "skip", text: "…"})
		}
		for _, l := range hunk.Lines {
			kind := "same"
			switch l.Kind {
			case udiff.Delete:
				kind = "gone"
			case udiff.Insert:
				kind = "new"
			}
			lines = append(lines, diffLine{kind, strings.TrimSuffix(l.Content, "\n")})
		}
	}
	return lines
}
