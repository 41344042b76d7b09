package console

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// TestBrowserPagesOfOtherOriginsDoNothing lets an operator who is signed in visit a hostile page,
// with a real browser: one of another site, and one of another port of the same host, to whose
// requests the browser adds the cookie.
func TestBrowserPagesOfOtherOriginsDoNothing(t *testing.T) {
	ctx := browser(t)
	d := aNight()
	s := open(t, d, nil)
	_, port, _ := strings.Cut(s.address().String(), ":")
	hostile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		switch r.URL.Path {
		case "/form": // a form that submits itself
			fmt.Fprintf(w, `<form method=post action="%s/replay"><input name=reason value=UserNotFound></form>
<script>document.forms[0].submit()</script>`, s.server.URL)
		case "/toss": // a cookie of the console's name, for a path for which it is sent first
			fmt.Fprintf(w, `<script>document.cookie = "session-revoker-console-%s=theirs; path=/dead-letters"</script>`, port)
		default:
			fmt.Fprintf(w, `<title>waiting</title><iframe src="%[1]s/"></iframe>
<img src="%[1]s/dead-letters" onload="document.title='read'"><script>
(async () => {
  const seen = [];
  for (const [path, options] of [["/", {}], 
      ["/replay", {method: "POST", body: "reason=UserNotFound", headers: {"Content-Type": "application/x-www-form-urlencoded"}}],
      ["/replay", {method: "POST", mode: "no-cors", body: "reason=UserNotFound"}], ["/dead-letters", {mode: "no-cors"}]]) {
    try {
      const r = await fetch("%[1]s" + path, {credentials: "include", ...options});
      seen.push(r.type + r.status + await r.text());
    } catch { seen.push("refused"); }
  }
  let framed; try { framed = frames[0].document.title; } catch { framed = "refused"; }
  document.title = seen.concat(framed).join(" ");
})();
</script>`, s.server.URL)
		}
	}))
	defer hostile.Close()
	run := func(steps ...step) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal(err)
		}
	}
	title := func() string {
		t.Helper()
		title, err := chromedp.Run(ctx, chromedp.Title())
		if err != nil {
			t.Fatal(err)
		}
		return title
	}
	run(chromedp.Navigate(s.console.Link(s.address())), chromedp.WaitVisible(chromedp.CSS("#verdict")))
	for _, origin := range []string{hostile.URL, strings.Replace(hostile.URL, "127.0.0.1", "localhost", 1)} {
		run(chromedp.Navigate(origin+"/form"), chromedp.WaitVisible(chromedp.CSS("main.alone")))
		if got := title(); !strings.HasPrefix(got, "Refused") {
			t.Errorf("%s: a form led to %q", origin, got)
		}
		run(chromedp.Navigate(origin + "/"))
		got := title()
		for got == "waiting" {
			got = title()
		}
		// An opaque answer has nothing that the page could read.
		for part := range strings.FieldsSeq(got) {
			if part != "refused" && part != "opaque0" {
				t.Errorf("%s: a page has seen %q", origin, part)
			}
		}
	}
	run(chromedp.Navigate(hostile.URL+"/toss"), chromedp.Navigate(s.server.URL+"/dead-letters"),
		chromedp.WaitVisible(chromedp.CSS("main")))
	if got := title(); !strings.HasPrefix(got, "Dead letters") {
		t.Errorf("a cookie of another page led to %q", got)
	}
	if n := len(s.console.changes.previews); n > 0 || len(d.changed()) > 0 {
		t.Errorf("%d previews, changed: %q", n, d.changed())
	}
}

// TestBrowserTextFromMessagesDoesNothing shows hostile texts in a real browser.
func TestBrowserTextFromMessagesDoesNothing(t *testing.T) {
	ctx := browser(t)
	d := hostileLetters()
	s := open(t, d, nil)
	if err := chromedp.Do(ctx, chromedp.Navigate(s.console.Link(s.address())), chromedp.WaitVisible(chromedp.CSS("#verdict"))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"/dead-letters", "/dead-letters/session-events/2", "/dead-letters/session-events/4/edit",
		"/people?" + url.Values{"user": {hostile[1]}}.Encode(), "/dead-letters?" + url.Values{"reason": {hostile[11]}}.Encode(),
	} {
		if err := chromedp.Do(ctx, chromedp.Navigate(s.server.URL+path), chromedp.WaitReady(chromedp.CSS("footer"))); err != nil {
			t.Fatal(err)
		}
		found, err := chromedp.Run(ctx, chromedp.Evaluate[string](`
			[...document.querySelectorAll("script:not([src^='/assets/']), img:not([src^='/assets/']), svg:not([class]), iframe")]
				.map((e) => e.outerHTML)
				.concat([...document.querySelectorAll("*")].flatMap((e) => [...e.attributes])
					.filter((a) => a.name.startsWith("on") || a.name === "href" && /^javascript:/i.test(a.value))
					.map((a) => a.name))
				.join(" ")`))
		if err != nil || found != "" {
			t.Errorf("%s: %v %s", path, err, found)
		}
	}
}
