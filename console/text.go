package console

import (
	"context"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/a-h/templ"

	"github.com/session-revoker/session-revoker/deadletter"
)

func cut(text string, limit int) string { return deadletter.Cut(text, limit) }

// piece is a part of a text from outside. A hidden character is a piece of its own, which pages show
// by its number: it could reverse the direction of text or be invisible.
type piece struct {
	text   string
	hidden bool
}

// pieces splits a text. If lines is true, line feeds and tabs are ordinary characters.
func pieces(text string, lines bool) []piece {
	var all []piece
	clean := 0
	for i, c := range text {
		width := utf8.RuneLen(c)
		if c == utf8.RuneError && !strings.HasPrefix(text[i:], "\ufffd") {
			width = 1 // a byte that is not UTF-8
		} else if !deadletter.Hidden(c) || lines && (c == '\n' || c == '\t') {
			continue
		}
		if i > clean {
			all = append(all, piece{text: text[clean:i]})
		}
		all = append(all, piece{text: fmt.Sprintf("U+%04X", c), hidden: true})
		clean = i + width
	}
	if clean < len(text) {
		all = append(all, piece{text: text[clean:]})
	}
	return all
}

// plain replaces hidden characters, where there is no room for their numbers: in titles and
// attributes.
func plain(text string) string {
	return strings.Map(func(c rune) rune {
		if deadletter.Hidden(c) {
			return '·'
		}
		return c
	}, strings.ToValidUTF8(text, "·"))
}

// sentence makes an error a sentence.
func sentence(err error) string {
	text := strings.TrimRight(strings.TrimSpace(err.Error()), ".")
	return capital(text) + "."
}

// capital begins a text with a capital letter.
func capital(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[size:]
}

// number writes a number with separators.
func number(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// count returns a number with its noun. many is the plural, if it is not the noun with an s.
func count(n int, one string, many ...string) string {
	switch {
	case n == 1:
		return "1 " + one
	case len(many) > 0:
		return number(n) + " " + many[0]
	}
	return number(n) + " " + one + "s"
}

// when formats a time for people.
func when(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// lasts formats a duration for people, rounded to what matters.
func lasts(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d > 0 && d < 50*time.Millisecond:
		return "an instant"
	case d < 10*time.Second && d%time.Second != 0:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(math.Round(d.Seconds())))
	case d < 2*time.Hour && d != time.Hour:
		return fmt.Sprintf("%d min", int(math.Round(d.Minutes())))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(math.Round(d.Hours())))
	}
	return fmt.Sprintf("%d days", int(math.Round(d.Hours()/24)))
}

// ago says how long ago a time was.
func ago(now, t time.Time) string {
	switch {
	case t.IsZero():
		return "never"
	case now.Sub(t) < time.Second:
		return "just now"
	}
	return lasts(now.Sub(t)) + " ago"
}

// outside shows a text from outside. It cannot change the direction of what is around it, and hidden
// characters are shown by their numbers.
func outside(text string) templ.Component {
	return html(func(b *strings.Builder) {
		b.WriteString("<bdi>")
		writePieces(b, text, false)
		b.WriteString("</bdi>")
	})
}

// block shows a text of several lines from outside. The keyboard can scroll it.
func block(text string) templ.Component {
	return html(func(b *strings.Builder) {
		b.WriteString(`<pre tabindex="0"><code dir="auto">`)
		writePieces(b, text, true)
		b.WriteString("</code></pre>")
	})
}

// code shows what is between backticks as code.
func code(text string) templ.Component {
	return html(func(b *strings.Builder) {
		for i, part := range strings.Split(text, "`") {
			if i%2 == 1 {
				b.WriteString("<code>" + templ.EscapeString(part) + "</code>")
			} else {
				b.WriteString(templ.EscapeString(part))
			}
		}
	})
}

// textarea holds the body that is edited. A browser drops the first line feed.
func textarea(body string) templ.Component {
	return html(func(b *strings.Builder) {
		b.WriteString(`<textarea id="body" name="body" rows="18" spellcheck="false" autocomplete="off" ` +
			`aria-describedby="edit-help">` + "\n")
		b.WriteString(templ.EscapeString(body) + "</textarea>")
	})
}

// diffBlock shows a comparison.
func diffBlock(lines []diffLine) templ.Component {
	return html(func(b *strings.Builder) {
		b.WriteString(`<pre class="diff" tabindex="0"><code>`)
		for _, l := range lines {
			element, mark := "span", "  "
			switch l.kind {
			case "gone":
				element, mark = "del", "- "
			case "new":
				element, mark = "ins", "+ "
			}
			b.WriteString("<" + element + ` class="row">` + mark)
			writePieces(b, l.text, true)
			b.WriteString("</" + element + ">")
		}
		b.WriteString("</code></pre>")
	})
}

func writePieces(b *strings.Builder, text string, lines bool) {
	for _, part := range pieces(text, lines) {
		if part.hidden {
			b.WriteString(`<span class="hidden">` + part.text + "</span>")
		} else {
			b.WriteString(templ.EscapeString(part.text))
		}
	}
}

// html is a component without the white space that the template language adds.
func html(write func(*strings.Builder)) templ.Component {
	return templ.ComponentFunc(func(_ context.Context, w io.Writer) error {
		var b strings.Builder
		write(&b)
		_, err := io.WriteString(w, b.String())
		return err
	})
}
