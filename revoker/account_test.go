package revoker_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

// directory answers reads and calls for one user. Its times are whole seconds, like Graph's.
type directory struct {
	account  string // the answer to a read, without the time
	status   int    // of reads; 200 if 0
	lag      time.Duration
	before   time.Time // when sessions were valid from at first
	revoked  time.Time // when the last call came
	useless  bool      // calls succeed and change nothing
	requests []string
}

func (d *directory) RoundTrip(r *http.Request) (*http.Response, error) {
	d.requests = append(d.requests, r.Method+" "+r.URL.Path)
	body, status := `{"value":true}`, http.StatusOK
	if r.Method == http.MethodGet {
		if d.before.IsZero() {
			d.before = time.Now().Add(-time.Hour)
		}
		valid := d.before
		if !d.revoked.IsZero() && time.Since(d.revoked) >= d.lag && !d.useless {
			valid = d.revoked
		}
		body = strings.Replace(d.account, "TIME", valid.UTC().Format(time.RFC3339), 1)
		if d.status != 0 {
			status, body = d.status, graphError("x")
		}
	} else {
		d.revoked = time.Now()
	}
	header := http.Header{"Content-Type": {jsonType}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}
	recorder := &response{header: header, status: status}
	return recorder.of(r, body), nil
}

type response struct {
	header http.Header
	status int
}

func (w *response) of(r *http.Request, body string) *http.Response {
	return &http.Response{
		StatusCode: w.status, Header: w.header, Body: readCloser{strings.NewReader(body)}, ContentLength: int64(len(body)), Request: r,
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

const member = `{"id":"` + adaID + `","userPrincipalName":"ada@contoso.com","userType":"Member","signInSessionsValidFromDateTime":"TIME"}`

func TestVerifyingReadsBeforeAndAfterTheCall(t *testing.T) {
	guest := strings.Replace(member, "Member", "Guest", 1)
	external := strings.Replace(member, "ada@contoso.com", "ada_fabrikam.com#EXT#@contoso.com", 1)
	for name, c := range map[string]struct {
		d             directory
		verifyTimeout time.Duration
		want          revoker.Kind // "" is success
		calls         int
		proof         string
	}{
		"a member":                    {directory{account: member}, 0, "", 1, ""},
		"proven":                      {directory{account: member}, 15 * time.Second, "", 1, ""},
		"proven late":                 {directory{account: member, lag: 7 * time.Second}, 15 * time.Second, "", 1, ""},
		"without effect":              {directory{account: member, useless: true}, 15 * time.Second, revoker.NotRevoked, 1, "not advanced"},
		"a guest, by id":              {directory{account: guest}, 0, revoker.External, 0, ""},
		"external, by id":             {directory{account: external}, 15 * time.Second, revoker.External, 0, ""},
		"unknown":                     {directory{status: 404}, 0, revoker.NotFound, 0, ""},
		"throttled reading":           {directory{status: 429}, 0, revoker.Throttled, 0, ""},
		"Graph is away":               {directory{status: 503}, 0, revoker.Unavailable, 0, ""},
		"reading is not allowed":      {directory{status: 403}, 15 * time.Second, "", 1, "cannot be read"},
		"an answer that names nobody": {directory{account: `{}`}, 0, revoker.Unavailable, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(300 * time.Millisecond) // Graph cuts its times to seconds
				d := c.d
				r, err := revoker.New(revoker.Config{Root: "https://graph.example", Credential: withRole(), Transport: &d})
				if err != nil {
					t.Fatal(err)
				}
				verifying := &revoker.Verifying{Revoker: r, VerifyTimeout: c.verifyTimeout}
				a, err := verifying.Revoke(t.Context(), mustUser("", "Ada@contoso.com"))
				var failure *revoker.Error
				errors.As(err, &failure)
				calls := 0
				for _, request := range d.requests {
					if strings.HasPrefix(request, "POST") {
						calls++
						if name != "reading is not allowed" && request != "POST /v1.0/users/"+adaID+"/revokeSignInSessions" {
							t.Errorf("%s: the call must go to the id that the name has now", request)
						}
					}
				}
				if kindOf(failure) != c.want || calls != c.calls || (c.proof == "") != (a.Unverified == "") ||
					!strings.Contains(a.Unverified, c.proof) {
					t.Errorf("%v after %v; unverified %q", err, d.requests, a.Unverified)
				}
				if a.Sent != (calls > 0) {
					t.Errorf("after %d calls the attempt reports sent %v", calls, a.Sent)
				}
				if a.Start.IsZero() {
					t.Error("the attempt has no start, so the deduplication window would not begin")
				}
				if proven := c.verifyTimeout > 0 && c.want == "" && c.proof == ""; proven && !a.ValidFromAfter.After(a.ValidFromBefore) {
					t.Errorf("valid from %v, then %v", a.ValidFromBefore, a.ValidFromAfter)
				}
				if failure != nil && (failure.Kind == revoker.External) != failure.Permanent() && failure.Kind != revoker.NotFound {
					t.Errorf("%v is permanent: %v", failure, failure.Permanent())
				}
			})
		})
	}
}

func TestAccountIsReadByIDOrName(t *testing.T) {
	d := directory{account: member}
	r, err := revoker.New(revoker.Config{Root: "https://graph.example", Credential: withRole(), Transport: &d})
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []event.User{ada, mustUser("", "$svc@contoso.com")} {
		if account, err := r.Account(t.Context(), user); err != nil || account.ID != adaID || account.UPN != "ada@contoso.com" ||
			account.External || account.ValidFrom.IsZero() {
			t.Errorf("%+v, %v", account, err)
		}
	}
	if want := "GET /v1.0/users/" + adaID + ",GET /v1.0/users('$svc@contoso.com')"; strings.Join(d.requests, ",") != want {
		t.Errorf("asked %v", d.requests)
	}
}
