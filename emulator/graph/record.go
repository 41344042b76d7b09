package graph

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// Call is one request to Graph with its result.
type Call struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"` // zero while the call is in flight
	// Method and Path are the request's. Key is the id or name in the path, or the serial number or
	// address that a look-up is for.
	Method string `json:"method"`
	Path   string `json:"path"`
	Key    string `json:"key"`
	// UserID is the user's id; "" if the user is unknown or the call did not get that far.
	UserID string `json:"userId"`
	// Status is 0 for a dropped connection. Revoked reports whether the call changed the user.
	Status  int  `json:"status"`
	Revoked bool `json:"revoked"`
	// RetryAfter is the answer's Retry-After.
	RetryAfter string `json:"retryAfter,omitempty"`
	// AppID is the caller. RequestID is ours, and ClientRequestID the caller's.
	AppID           string `json:"appId"`
	RequestID       string `json:"requestId"`
	ClientRequestID string `json:"clientRequestId"`
	// Fault reports whether an injected fault acted.
	Fault bool `json:"fault"`
}

// Fault is an injected fault. If several fit a call, the one injected first acts.
type Fault struct {
	// User limits the fault to one user, by id or user principal name, or to look-ups of one device
	// or address. "" is everybody, including unknown users.
	User string `json:"user"`
	// Unknown limits the fault to users whom the directory does not have, such as those of
	// canaries.
	Unknown bool `json:"unknown"`
	// Method limits the fault to GET (reading) or POST (revoking). "" is both.
	Method string `json:"method"`
	// Path limits the fault to requests whose path contains it, such as deviceManagement. "" is all.
	Path string `json:"path"`
	// Count is how often the fault acts; 0 is until it is removed.
	Count int `json:"count"`

	// Delay delays the answer, alone or before any of the following.
	Delay time.Duration `json:"delay"`
	// Status replaces Graph's answer, with RetryAfter, ContentType and Body if given. The default
	// is a body like Graph's.
	Status      int    `json:"status"`
	RetryAfter  string `json:"retryAfter"`
	Body        string `json:"body"`
	ContentType string `json:"contentType"`
	// Drop closes the connection before anything happens. DropAfter closes it after the sessions
	// were revoked.
	Drop      bool `json:"drop"`
	DropAfter bool `json:"dropAfter"`
	// ValueFalse revokes nothing and answers value: false. EmptyBody and Truncate revoke, and
	// answer without a body or with half of it. Endless revokes, and instead of its body's second
	// half sends a space each second.
	ValueFalse bool `json:"valueFalse"`
	EmptyBody  bool `json:"emptyBody"`
	Truncate   bool `json:"truncate"`
	Endless    bool `json:"endless"`

	// Date is the answer's Date header, alone or with any of the other faults. "none" omits the
	// header.
	Date string `json:"date"`

	// Token makes the fault act on the token endpoint instead, with Delay, Drop and Status.
	Token bool `json:"token"`
}

// injected is a fault and the number of faults that were injected before it.
type injected struct {
	Fault
	number int
}

// Inject adds a fault. remove removes it, and may be called again.
func (s *Server) Inject(f Fault) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.injected++
	ordered := &injected{f, s.injected}
	name := strings.ToLower(f.User)
	s.faults[name] = append(s.faults[name], ordered)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drop(ordered)
	}
}

func (s *Server) drop(f *injected) {
	name := strings.ToLower(f.User)
	left := slices.DeleteFunc(s.faults[name], func(other *injected) bool { return other == f })
	if s.faults[name] = left; len(left) == 0 {
		delete(s.faults, name)
	}
}

// takeFault returns the fault that acts on a call for this user or on a token request. It compares
// the first faults for everybody, for the user's id and for their name; finding each takes the same
// time however many users have faults. The caller holds the lock.
func (s *Server) takeFault(key, method, path string, token bool) *Fault {
	names := []string{"", strings.ToLower(key)}
	e := s.find(key)
	if e != nil {
		names = []string{"", strings.ToLower(e.ID), strings.ToLower(e.UserPrincipalName)}
	}
	var first *injected
	for _, name := range names {
		for _, f := range s.faults[name] {
			if f.Token != token || f.Unknown && e != nil || f.Method != "" && f.Method != method || !strings.Contains(path, f.Path) {
				continue
			}
			if first == nil || f.number < first.number {
				first = f
			}
			break
		}
	}
	if first == nil {
		return nil
	}
	acting := first.Fault
	if first.Count > 0 {
		if first.Count--; first.Count == 0 {
			s.drop(first)
		}
	}
	return &acting
}

// same reports whether two ids or user principal names belong to one user.
func (s *Server) same(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	x, y := s.find(a), s.find(b)
	return x != nil && x == y
}

// begin records the call and selects its fault.
func (s *Server) begin(call *Call) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) >= s.maxCalls {
		s.calls = append([]*Call(nil), s.calls[len(s.calls)-s.maxCalls/2:]...)
	}
	s.calls = append(s.calls, call)
	fault := s.takeFault(call.Key, call.Method, call.Path, false)
	call.Fault = fault != nil
	if e := s.find(call.Key); e != nil {
		call.UserID = e.ID
	}
	return fault
}

// end completes the record of a call, once.
func (s *Server) end(call *Call, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if call.End.IsZero() {
		call.End, call.Status = time.Now(), status
	}
}

// Calls returns the finished calls in order of arrival, without those in flight.
func (s *Server) Calls() []Call {
	return s.filter(func(*Call) bool { return true })
}

// CallsFor returns the finished calls for one user, by id or user principal name.
func (s *Server) CallsFor(name string) []Call {
	return s.filter(func(c *Call) bool { return s.same(name, c.Key) })
}

func (s *Server) filter(wanted func(*Call) bool) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var calls []Call
	for _, c := range s.calls {
		// end writes End under the lock; the other fields are written before.
		if !c.End.IsZero() && wanted(c) {
			calls = append(calls, *c)
		}
	}
	return calls
}

func newGUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := make([]byte, 0, 36)
	for i, part := range [][]byte{b[:4], b[4:6], b[6:8], b[8:10], b[10:]} {
		if i > 0 {
			text = append(text, '-')
		}
		text = hex.AppendEncode(text, part)
	}
	return string(text)
}
