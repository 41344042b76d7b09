package console

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

// visit is a request and what must come of it.
type visit struct {
	method, path string
	form         url.Values
	header       map[string]string
	host         string
}

// do makes a request. Without other headers, it is what a browser sends for the console's own pages.
func (s *site) do(v visit) *http.Response {
	s.t.Helper()
	method := v.method
	if method == "" {
		method = http.MethodGet
	}
	var body io.Reader
	if v.form != nil {
		method, body = http.MethodPost, strings.NewReader(v.form.Encode())
	}
	r, err := http.NewRequestWithContext(context.Background(), method, s.server.URL+v.path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if v.form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", s.server.URL)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for name, value := range v.header {
		if value == "" {
			r.Header.Del(name)
			continue
		}
		r.Header.Set(name, value)
	}
	if v.host != "" {
		r.Host = v.host
	}
	if s.cookie != "" && r.Header.Get("Cookie") == "" {
		r.Header.Set("Cookie", s.cookie)
	}
	response, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { response.Body.Close() })
	return response
}

// page returns the body of an answer, which must have the code.
func (s *site) page(code int, v visit) string {
	s.t.Helper()
	response := s.do(v)
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if response.StatusCode != code {
		s.t.Errorf("%+v: %d, want %d\n%s", v, response.StatusCode, code, text)
	}
	return string(text)
}

// enter signs in by a new link.
func (s *site) enter() *http.Response {
	s.t.Helper()
	link, err := url.Parse(s.console.Link(s.address()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.cookie = ""
	response := s.do(visit{path: link.RequestURI()})
	for _, c := range response.Cookies() {
		s.cookie = c.Name + "=" + c.Value
	}
	return response
}

func TestAccessByLinkIsForOneBrowser(t *testing.T) {
	s := open(t, aNight(), nil)
	s.page(401, visit{path: "/"})
	s.page(401, visit{path: "/dead-letters"})
	s.page(401, visit{path: "/purge", form: url.Values{}})

	link, _ := url.Parse(s.console.Link(s.address()))
	uri := link.RequestURI()
	s.page(403, visit{path: uri, header: map[string]string{"Sec-Purpose": "prefetch;prerender"}}) // uses nothing up
	if s.page(403, visit{path: uri, method: http.MethodHead}); s.cookie != "" {
		t.Error("signed in by HEAD")
	}
	s.page(401, visit{path: "/enter?token=guessed"})
	response := s.do(visit{path: uri})
	cookies := response.Cookies()
	if response.StatusCode != http.StatusOK || len(cookies) != 1 {
		t.Fatalf("%d, %v", response.StatusCode, cookies)
	}
	if c := cookies[0]; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || len(c.Value) < 26 {
		t.Errorf("cookie %+v", c)
	}
	s.page(401, visit{path: uri}) // useless now
	s.cookie = cookies[0].Name + "=" + cookies[0].Value
	s.page(200, visit{path: "/"})
	// A page of another port of this machine sets a cookie of our name: it does not get in our way.
	s.page(200, visit{path: "/", header: map[string]string{"Cookie": cookies[0].Name + "=theirs; " + s.cookie}})
	s.page(401, visit{path: "/", header: map[string]string{"Cookie": cookies[0].Name + "=theirs"}})
}

func TestAccessEnds(t *testing.T) {
	for name, c := range map[string]struct {
		later time.Duration // after signing in
		again time.Duration // after that
		live  string        // a request of the script
		code  int
	}{
		"without use":        {61 * time.Minute, 0, "", 401},
		"with use":           {50 * time.Minute, 50 * time.Minute, "", 200},
		"only by a script":   {50 * time.Minute, 50 * time.Minute, "1", 401},
		"after twelve hours": {0, 13 * time.Hour, "", 401},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, aNight(), nil)
			s.enter()
			s.pass(c.later)
			s.do(visit{path: "/", header: map[string]string{"X-Console-Live": c.live}})
			s.pass(c.again)
			s.page(c.code, visit{path: "/"})
		})
	}
	t.Run("link", func(t *testing.T) {
		s := open(t, aNight(), nil)
		link, _ := url.Parse(s.console.Link(s.address()))
		s.pass(16 * time.Minute)
		s.page(401, visit{path: link.RequestURI()})
	})
}

func TestAccessFromOtherOrigins(t *testing.T) {
	d := aNight()
	s := open(t, d, nil)
	s.enter()
	replay := url.Values{"reason": {"UserNotFound"}}
	for name, v := range map[string]visit{
		"form of another page": {path: "/replay", form: replay, header: map[string]string{
			"Sec-Fetch-Site": "cross-site",
			"Origin":         "http://evil.example",
		}},
		"form of another port": {path: "/replay", form: replay, header: map[string]string{
			"Sec-Fetch-Site": "same-site",
			"Origin":         "http://127.0.0.1:1",
		}},
		"form of an old browser": {path: "/replay", form: replay, header: map[string]string{
			"Sec-Fetch-Site": "",
			"Origin":         "http://evil.example",
		}},
		"form of a sandboxed frame": {path: "/replay", form: replay, header: map[string]string{"Sec-Fetch-Site": "", "Origin": "null"}},
		"form from nowhere":         {path: "/replay", form: replay, header: map[string]string{"Sec-Fetch-Site": "", "Origin": ""}},
		"picture in another page": {path: "/dead-letters", header: map[string]string{
			"Sec-Fetch-Site": "cross-site",
			"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image",
		}},
		"frame in another page": {path: "/", header: map[string]string{
			"Sec-Fetch-Site": "cross-site",
			"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe",
		}},
		"fetch by a page of this host": {path: "/", header: map[string]string{
			"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors",
			"Sec-Fetch-Dest": "empty",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			if text := s.page(403, v); strings.Contains(text, "UserNotFound") {
				t.Error("the answer shows dead letters")
			}
		})
	}
	s.t = t
	for _, host := range []string{
		"evil.example", "evil.example:9095", "127.0.0.1.evil.example", "10.0.0.1", "[2001:db8::1]:80",
		"localhost.evil.example",
	} {
		s.page(421, visit{path: "/", host: host})
		s.page(421, visit{path: "/replay", form: replay, host: host})
	}
	for _, host := range []string{"localhost:9999", "127.0.0.1:1", "[::1]:9095"} { // a tunnel has a port of its own, and so another cookie
		s.page(401, visit{path: "/", host: host})
	}
	// A link in a chat may lead here; a strict cookie is not sent then.
	s.page(200, visit{path: "/", header: map[string]string{
		"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate",
		"Sec-Fetch-Dest": "document",
	}})
	s.page(405, visit{path: "/", method: http.MethodDelete})
	h := s.do(visit{path: "/"}).Header
	for name, want := range map[string]string{
		"Content-Security-Policy": "frame-ancestors 'none'", "X-Frame-Options": "DENY", "Cache-Control": "no-store",
		"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		if !strings.Contains(h.Get(name), want) {
			t.Errorf("%s: %q", name, h.Get(name))
		}
	}
	if policy := h.Get("Content-Security-Policy"); strings.Contains(policy, "unsafe") || !strings.HasPrefix(policy, "default-src 'none'") {
		t.Error(policy)
	}
	if s.console.changes.add(&Change{}, visitor{}); len(s.console.changes.previews) != 1 {
		t.Error("another page has made a preview")
	}
}

func TestAccessBehindAProxy(t *testing.T) {
	proxy := func(cfg *Config) {
		cfg.Access = Access{
			TrustHeader: "X-Forwarded-User", TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
			Hosts: []string{"console.contoso.com"},
		}
	}
	c, err := New(Config{Operations: aNight(), Access: Access{TrustHeader: "X-Forwarded-User"}, now: func() time.Time { return night }})
	if c != nil || err == nil {
		t.Error("a header is believed from anybody")
	}
	s := open(t, aNight(), proxy)
	ask := func(from string, change func(*http.Request)) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "http://console.contoso.com/dead-letters", nil)
		r.RemoteAddr = from
		r.Header.Set("X-Forwarded-User", "grace@contoso.com")
		if change != nil {
			change(r)
		}
		w := httptest.NewRecorder()
		s.console.ServeHTTP(w, r)
		return w
	}
	if w := ask("10.0.0.7:4000", nil); w.Code != 200 || !strings.Contains(w.Body.String(), "grace@contoso.com") {
		t.Errorf("%d", w.Code)
	}
	if w := ask("[::ffff:10.0.0.7]:4000", nil); w.Code != 200 {
		t.Errorf("an IPv4 proxy over IPv6: %d", w.Code)
	}
	for name, w := range map[string]*httptest.ResponseRecorder{
		"not by the proxy": ask("10.0.1.7:4000", nil),
		"no name":          ask("10.0.0.7:4000", func(r *http.Request) { r.Header.Del("X-Forwarded-User") }),
		"an empty name":    ask("10.0.0.7:4000", func(r *http.Request) { r.Header.Set("X-Forwarded-User", " ") }),
		"two names":        ask("10.0.0.7:4000", func(r *http.Request) { r.Header.Add("X-Forwarded-User", "root@contoso.com") }),
		"a long name":      ask("10.0.0.7:4000", func(r *http.Request) { r.Header.Set("X-Forwarded-User", strings.Repeat("a", 300)) }),
		"a hidden name":    ask("10.0.0.7:4000", func(r *http.Request) { r.Header.Set("X-Forwarded-User", "a\u202eb") }),
	} {
		if w.Code != 401 || strings.Contains(w.Body.String(), "UserNotFound") {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	if w := ask("10.0.0.7:4000", func(r *http.Request) { r.Host = "127.0.0.1:9095" }); w.Code != 421 {
		t.Errorf("another host: %d", w.Code)
	}
	if link := s.console.Link(&net.TCPAddr{}); link != "" {
		t.Errorf("a link %s", link)
	}
}

func TestAccessReadOnlyRefusesEveryChange(t *testing.T) {
	d := aNight()
	s := open(t, d, func(cfg *Config) { cfg.ReadOnly = true })
	s.enter()
	letter := letterAddress(source, d.letters[0].SequenceNumber)
	for _, path := range []string{"/replay", "/purge", "/guard", letter + "/edit", "/changes/x"} {
		if text := s.page(403, visit{path: path, form: url.Values{
			"reason": {"UserNotFound"}, "max": {"5"}, "minutes": {"5"},
			"body": {"{}"},
		}}); !strings.Contains(text, "--allow-changes") {
			t.Errorf("%s: %s", path, text)
		}
	}
	for _, path := range []string{"/", "/dead-letters", letter} {
		if text := s.page(200, visit{path: path}); strings.Contains(text, `method="post"`) {
			t.Errorf("%s offers a change", path)
		}
	}
}

func TestAccessOfHugeForms(t *testing.T) {
	d := aNight()
	s := open(t, d, nil)
	s.enter()
	letter := letterAddress(source, d.letters[0].SequenceNumber)
	s.page(413, visit{path: letter + "/edit", form: url.Values{"body": {strings.Repeat("a", maxEdit+1)}}})
	s.page(413, visit{path: letter + "/edit", form: url.Values{"body": {strings.Repeat("ä", 2*maxEdit)}}})
	s.page(200, visit{path: "/dead-letters?" + url.Values{"user": {strings.Repeat("a", 8000)}}.Encode()})
	s.page(303, visit{path: letter + "/edit", form: url.Values{"body": {strings.Repeat("ä", maxEdit/2)}}})
}
