package graph

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// People sign in with a device code, as with Entra
// (https://learn.microsoft.com/entra/identity-platform/v2-oauth2-device-code): the client asks for
// a code, shows it, and polls the token endpoint until somebody has entered the code and signed in.
// Here nobody signs in: whoever approves the code says who it is for.

const (
	deviceCodePath = "/oauth2/v2.0/devicecode"
	// approvalPath is the page on which to enter a code.
	approvalPath = "/_emulator/devicecode"
	// signInLife is how long a code is valid, as long as Entra's.
	signInLife = 15 * time.Minute
	// pollInterval is how long a client waits between two questions. Entra's are 5 s.
	pollInterval = time.Second
	// maxSignIns bounds the codes that are remembered; the oldest are forgotten first.
	maxSignIns = 1000
	// userCodeLength is the number of characters of Entra's user codes.
	userCodeLength = 9
)

// deviceCodeGrants are the grant types of RFC 8628 and of MSAL for Go.
var deviceCodeGrants = []string{"urn:ietf:params:oauth:grant-type:device_code", "device_code"}

// signIn is a device code and what has become of it.
type signIn struct {
	deviceCode, userCode string
	app                  App
	audience             string
	expires              time.Time
	person               string // the object id of the person who has signed in; "" for nobody yet
	declined             bool
}

// serveDeviceCode begins a sign-in.
func (s *Server) serveDeviceCode(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.ParseForm() != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "AADSTS900144: The request must be a POST of a form.")
		return
	}
	id := r.PostForm.Get("client_id")
	audience, isDefault := audienceOf(r)
	s.mu.Lock()
	app, known := s.apps[id]
	s.mu.Unlock()
	switch {
	case !known:
		unknownApp(w, id)
		return
	case !app.Public:
		oauthError(w, http.StatusUnauthorized, "invalid_client",
			"AADSTS7000218: The request body must contain the following parameter: 'client_assertion' or 'client_secret'. "+
				"(The app does not allow public client flows.)")
		return
	case !isDefault:
		invalidScope(w)
		return
	}
	begun := &signIn{
		deviceCode: rand.Text(), userCode: rand.Text()[:userCodeLength], app: app, audience: audience,
		expires: time.Now().Add(signInLife),
	}
	s.mu.Lock()
	if len(s.signIns) == maxSignIns {
		s.signIns = s.signIns[1:]
	}
	s.signIns = append(s.signIns, begun)
	s.mu.Unlock()
	page := strings.TrimSuffix(s.rootURL(r), "/"+s.tenant) + approvalPath
	writeJSON(w, http.StatusOK, map[string]any{
		"device_code": begun.deviceCode, "user_code": begun.userCode, "verification_uri": page,
		"expires_in": int(signInLife.Seconds()), "interval": int(pollInterval.Seconds()),
		"message": "To sign in, use a web browser to open the page " + page + " and enter the code " + begun.userCode + " to authenticate.",
	})
}

// redeem answers a client that polls the token endpoint. A code yields one token.
func (s *Server) redeem(w http.ResponseWriter, r *http.Request, app App) {
	code := r.PostForm.Get("device_code")
	var found signIn
	var person entry
	s.mu.Lock()
	at := slices.IndexFunc(s.signIns, func(other *signIn) bool {
		return other.deviceCode == code && other.app.ClientID == app.ClientID
	})
	known := at >= 0
	gone := false
	if known {
		found = *s.signIns[at]
		if found.person != "" {
			e := s.find(found.person)
			if gone = e == nil; !gone {
				person = *e
			}
		}
		if found.person != "" || found.declined {
			s.signIns = slices.Delete(s.signIns, at, at+1)
		}
	}
	s.mu.Unlock()
	switch {
	case !known:
		oauthError(w, http.StatusBadRequest, "bad_verification_code", "AADSTS70018: The device code is not known, or was used.")
		return
	case !time.Now().Before(found.expires):
		oauthError(w, http.StatusBadRequest, "expired_token", "AADSTS70020: The provided device code has expired.")
		return
	case found.declined:
		oauthError(w, http.StatusBadRequest, "authorization_declined", "AADSTS70017: The person has declined to sign in.")
		return
	case found.person == "":
		oauthError(w, http.StatusBadRequest, "authorization_pending", "AADSTS70016: Nobody has signed in yet. Continue to poll.")
		return
	case gone:
		oauthError(w, http.StatusBadRequest, "invalid_grant", "AADSTS50034: The user account does not exist in the directory.")
		return
	}
	life := int(s.tokenLife.Seconds())
	writeJSON(w, http.StatusOK, map[string]any{
		"token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "scope": found.audience + "/.default",
		"access_token": s.issue(claims{
			AppID: app.ClientID, Audience: found.audience, Scopes: strings.Join(app.Scopes, " "), Person: person.ID,
			UPN: person.UserPrincipalName,
		}, r.PostForm.Get("claims")),
	})
}

// Approve signs a person in, who is given by id or user principal name, with the user code that a
// client shows. The case of the code does not matter. It fails if the directory does not have the
// person, and if the code is not waiting: unknown, expired, or answered before.
func (s *Server) Approve(userCode, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(name)
	if e == nil {
		return fmt.Errorf("there is no user %q", name)
	}
	waiting, err := s.waiting(userCode)
	if err != nil {
		return err
	}
	waiting.person = e.ID
	return nil
}

// Decline refuses a sign-in with the user code. It fails if the code is not waiting.
func (s *Server) Decline(userCode string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting, err := s.waiting(userCode)
	if err != nil {
		return err
	}
	waiting.declined = true
	return nil
}

// waiting returns the sign-in that waits for an answer. The caller holds the lock.
func (s *Server) waiting(userCode string) (*signIn, error) {
	for _, one := range s.signIns {
		if strings.EqualFold(one.userCode, strings.TrimSpace(userCode)) && one.person == "" && !one.declined &&
			time.Now().Before(one.expires) {
			return one, nil
		}
	}
	return nil, errors.New("no sign-in waits with this code: it is mistyped, used, or expired")
}

// deviceCodePage asks for a code.
const deviceCodePage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Sign in with a code</title>
<h1>Sign in with a code</h1>
<form method="post">
<p><label>Code <input name="user_code" autocomplete="off" autofocus required></label>
<p><label>Sign in as (user principal name or id; empty to decline) <input name="user" size="40"></label>
<p><button>Continue</button>
</form></html>
`

// serveApproval carries out the form of deviceCodePage.
func (s *Server) serveApproval(w http.ResponseWriter, r *http.Request) {
	err := r.ParseForm()
	code, name := r.PostForm.Get("user_code"), strings.TrimSpace(r.PostForm.Get("user"))
	text := "signed in: the command goes on by itself\n"
	switch {
	case err != nil:
	case name == "":
		text = "declined\n"
		err = s.Decline(code)
	default:
		err = s.Approve(code, name)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(text))
}
