package graph

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// revokers are the permissions that allow the call, and readers those that allow reading a user. An
// application holds them as roles, and a person delegates them as scopes. selfReaders let a person
// read themselves. A person needs one of revokerRoles to revoke the sessions of somebody else
// (https://learn.microsoft.com/graph/api/user-revokesigninsessions, "Permissions").
var (
	revokers = []string{"User.RevokeSessions.All", "User.ReadWrite.All", "Directory.ReadWrite.All"}
	readers  = []string{"User.Read.All", "User.ReadWrite.All", "Directory.Read.All", "Directory.ReadWrite.All"}

	selfReaders  = append([]string{"User.Read", "User.ReadWrite"}, readers...)
	revokerRoles = []string{
		"Authentication Administrator", "Directory Writers", "Helpdesk Administrator", "Privileged Authentication Administrator",
		"User Administrator",
	}
)

const graphJSON = "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8"

// serveGraph answers a call to Graph itself, and records it.
func (s *Server) serveGraph(w http.ResponseWriter, r *http.Request, version, rest string) {
	call := &Call{
		Start: time.Now(), Method: r.Method, Path: r.URL.EscapedPath(),
		RequestID: newGUID(), ClientRequestID: r.Header.Get("client-request-id"),
	}
	t, known := parsePath(rest)
	claims, problem := s.authenticate(r)
	if t.me {
		t.key = claims.Person
	}
	call.Key = t.key
	l, isLookup := parseLookup(rest, r.URL.Query())
	if isLookup {
		call.Key = l.value
	}
	fault := s.begin(call)
	// A dropped connection unwinds by a panic; the call is recorded anyway.
	defer s.end(call, 0)

	w.Header().Set("request-id", call.RequestID)
	if call.ClientRequestID != "" {
		w.Header().Set("client-request-id", call.ClientRequestID)
	}
	_, _ = io.Copy(io.Discard, r.Body)
	a := &answer{w: w, r: r, server: s, call: call, fault: fault, end: s.end}
	if !a.before() {
		return
	}
	call.AppID = claims.AppID
	switch {
	case problem != "":
		challenge := `Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize"`
		if claims.Expires > 0 && strings.HasPrefix(problem, evaluated) {
			// https://learn.microsoft.com/entra/identity-platform/claims-challenge
			demand := fmt.Sprintf(`{"access_token":{"nbf":{"essential":true,"value":"%d"}}}`, time.Now().Unix())
			challenge += `, error="insufficient_claims", claims="` + base64.StdEncoding.EncodeToString([]byte(demand)) + `"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		a.fail(http.StatusUnauthorized, "InvalidAuthenticationToken", problem)
	case isLookup:
		s.lookUp(a, claims, version, l)
	case !known:
		a.fail(http.StatusBadRequest, "BadRequest", fmt.Sprintf("Resource not found for the segment '%s'.", rest))
	case t.me && claims.Person == "":
		a.fail(http.StatusBadRequest, "BadRequest", "/me request is only valid with delegated authentication flow.")
	case strings.HasPrefix(t.key, "$") && !t.quoted && !t.me:
		a.fail(http.StatusBadRequest, "BadRequest", "The request URI is not valid: a key that begins with $ needs the form users('$key').")
	case t.action == "":
		s.read(a, claims, t)
	case t.action == "revokeSignInSessions", t.action == "invalidateAllRefreshTokens" && version == "beta":
		s.revoke(a, claims, t)
	default:
		a.fail(http.StatusBadRequest, "BadRequest", fmt.Sprintf("Resource not found for the segment '%s'.", t.action))
	}
}

// revoke moves the user's signInSessionsValidFromDateTime to now. A guest's stays unchanged, with
// the same answer.
func (s *Server) revoke(a *answer, claims claims, t target) {
	if a.r.Method != http.MethodPost {
		a.w.Header().Set("Allow", http.MethodPost)
		a.fail(http.StatusMethodNotAllowed, "Request_BadRequest", "Specified HTTP method is not allowed for the request target.")
		return
	}
	if retryAfter, allowed := s.meter(a.w, claims.AppID); !allowed {
		if retryAfter != "" {
			a.w.Header().Set("Retry-After", retryAfter)
			a.call.RetryAfter = retryAfter
		}
		a.fail(http.StatusTooManyRequests, "TooManyRequests", "Please retry again later.")
		return
	}
	if !claims.holdsAny(revokers) {
		a.fail(http.StatusForbidden, "Authorization_RequestDenied", "Access to invalidate refresh tokens operation is denied.")
		return
	}
	s.mu.Lock()
	e := s.find(t.key)
	if !s.mayRevoke(claims, e) {
		s.mu.Unlock()
		a.fail(http.StatusForbidden, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")
		return
	}
	if e != nil {
		a.call.UserID = e.ID
		if e.UserType != "Guest" && (a.fault == nil || !a.fault.ValueFalse) {
			e.validFrom, e.revoked = s.now(), true
			a.call.Revoked = true
		}
	}
	s.mu.Unlock()
	switch {
	case e == nil:
		a.notFound(t.key)
	case a.fault != nil && a.fault.ValueFalse:
		a.ok(`{"@odata.context":"https://graph.microsoft.com/v1.0/$metadata#Edm.Boolean","value":false}`)
	case t.action == "invalidateAllRefreshTokens":
		a.ok("")
	default:
		a.ok(`{"@odata.context":"https://graph.microsoft.com/v1.0/$metadata#Edm.Boolean","value":true}`)
	}
}

// read answers GET /users/{key} with the selected properties.
func (s *Server) read(a *answer, claims claims, t target) {
	switch {
	case a.r.Method != http.MethodGet:
		a.w.Header().Set("Allow", http.MethodGet)
		a.fail(http.StatusMethodNotAllowed, "Request_BadRequest", "Specified HTTP method is not allowed for the request target.")
		return
	case !claims.holdsAny(readers) && (!t.me || !claims.holdsAny(selfReaders)):
		a.fail(http.StatusForbidden, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")
		return
	}
	s.mu.Lock()
	e := s.find(t.key)
	var found entry
	if e != nil {
		found = *e
	}
	s.mu.Unlock()
	if e == nil {
		a.notFound(t.key)
		return
	}
	a.call.UserID = found.ID
	properties := map[string]any{
		"id": found.ID, "userPrincipalName": found.UserPrincipalName, "userType": found.UserType, "accountEnabled": found.AccountEnabled,
		"signInSessionsValidFromDateTime": found.validFrom.UTC().Format(time.RFC3339),
	}
	selected := []string{"id", "userPrincipalName"}
	if query := a.r.URL.Query().Get("$select"); query != "" {
		selected = strings.Split(query, ",")
	}
	result := map[string]any{
		"@odata.context": "https://graph.microsoft.com/v1.0/$metadata#users(" + strings.Join(selected, ",") + ")/$entity",
	}
	for _, name := range selected {
		value, ok := properties[strings.TrimSpace(name)]
		if !ok {
			a.fail(http.StatusBadRequest, "BadRequest",
				fmt.Sprintf("Could not find a property named '%s' on type 'microsoft.graph.user'.", name))
			return
		}
		result[strings.TrimSpace(name)] = value
	}
	text, _ := json.Marshal(result) // only strings and a boolean
	a.ok(string(text))
}

// answer writes the client's answer, with the fault, if any, in place of Graph's.
type answer struct {
	w       http.ResponseWriter
	r       *http.Request
	server  *Server
	call    *Call
	fault   *Fault
	end     func(*Call, int) // records the call
	limited bool             // the caller may not read users
}

// before lets a fault act instead of Graph. It returns false if it has given the answer.
func (a *answer) before() bool {
	f := a.fault
	if f == nil {
		return true
	}
	switch f.Date {
	case "":
	case "none":
		a.w.Header()["Date"] = nil // net/http would set its own
	default:
		a.w.Header().Set("Date", f.Date)
	}
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-a.r.Context().Done():
			panic(http.ErrAbortHandler) // nobody waits for the answer
		}
	}
	if f.Drop {
		panic(http.ErrAbortHandler)
	}
	if f.Status == 0 {
		return true
	}
	if f.RetryAfter != "" {
		a.w.Header().Set("Retry-After", f.RetryAfter)
		a.call.RetryAfter = f.RetryAfter
	}
	contentType, body := f.ContentType, f.Body
	if contentType == "" {
		contentType = graphJSON
		if body == "" && f.Status >= 400 {
			body = errorBody(a.call, strings.ReplaceAll(http.StatusText(f.Status), " ", ""), "injected fault")
		}
	}
	a.write(f.Status, contentType, body)
	return false
}

// ok answers 200 with the body, or 204 without one.
func (a *answer) ok(body string) {
	status := http.StatusOK
	if f := a.fault; f != nil {
		switch {
		case f.DropAfter:
			panic(http.ErrAbortHandler)
		case f.EmptyBody:
			a.write(status, "", "")
			return
		case f.Truncate:
			a.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			a.write(status, graphJSON, body[:len(body)/2])
			panic(http.ErrAbortHandler)
		case f.Endless:
			a.write(status, graphJSON, body[:len(body)/2])
			a.drip()
		}
	}
	if body == "" {
		status = http.StatusNoContent
	}
	a.write(status, graphJSON, body)
}

// drip sends spaces until nobody reads them.
func (a *answer) drip() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for flusher := http.NewResponseController(a.w); ; {
		_, _ = io.WriteString(a.w, " ")
		_ = flusher.Flush()
		select {
		case <-tick.C:
		case <-a.r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

func (a *answer) notFound(key string) {
	a.fail(http.StatusNotFound, "Request_ResourceNotFound",
		fmt.Sprintf("Resource '%s' does not exist or one of its queried reference-property objects are not present.", key))
}

func (a *answer) fail(status int, code, message string) {
	a.write(status, graphJSON, errorBody(a.call, code, message))
}

func (a *answer) write(status int, contentType, body string) {
	a.end(a.call, status) // before the client can ask for it
	if body != "" {
		a.w.Header().Set("Content-Type", contentType)
	}
	a.w.WriteHeader(status)
	_, _ = io.WriteString(a.w, body)
}

// errorBody has the form of Graph's errors.
func errorBody(call *Call, code, message string) string {
	type inner struct {
		Date            string `json:"date"`
		RequestID       string `json:"request-id"`
		ClientRequestID string `json:"client-request-id,omitempty"`
	}
	type detail struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Inner   inner  `json:"innerError"`
	}
	text, _ := json.Marshal(map[string]detail{"error": { // only strings
		Code: code, Message: message,
		Inner: inner{
			Date: call.Start.UTC().Format("2006-01-02T15:04:05"), RequestID: call.RequestID,
			ClientRequestID: call.ClientRequestID,
		},
	}})
	return string(text)
}

// holdsAny reports whether the token holds one of the permissions.
func (c claims) holdsAny(permissions []string) bool {
	held := slices.Concat(c.Roles, strings.Fields(c.Scopes))
	return slices.ContainsFunc(held, func(permission string) bool { return slices.Contains(permissions, permission) })
}

// mayRevoke reports whether a person, if it is one who calls, may revoke the sessions of the user;
// nil is an unknown one. The caller holds the lock.
func (s *Server) mayRevoke(c claims, e *entry) bool {
	if c.Person == "" {
		return true
	}
	person := s.find(c.Person)
	return person != nil && (person == e ||
		slices.ContainsFunc(person.Roles, func(role string) bool { return slices.Contains(revokerRoles, role) }))
}
