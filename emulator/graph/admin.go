package graph

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// serveAdmin offers the Go methods to a test in another process:
//
//	GET    /_emulator/calls[?user=ID|UPN]  the finished calls
//	GET    /_emulator/users                the directory, with revokedAt where a call changed something
//	POST   /_emulator/users                add a User
//	POST   /_emulator/devices              add a Device
//	POST   /_emulator/faults               inject a Fault (durations in nanoseconds)
//	DELETE /_emulator/faults               remove all faults
//	PUT    /_emulator/quota                set the Quota (durations in nanoseconds)
//	GET    /_emulator/devicecode           a page on which to enter a device code
//	POST   /_emulator/devicecode           the form user_code=CODE&user=ID|UPN: Approve, or Decline without a user
//
// It has no access control: serve it on loopback addresses only.
func (s *Server) serveAdmin(w http.ResponseWriter, r *http.Request, rest string) {
	switch r.Method + " " + rest {
	case "GET calls":
		calls := s.Calls()
		if user := r.URL.Query().Get("user"); user != "" {
			calls = s.CallsFor(user)
		}
		writeJSON(w, http.StatusOK, append([]Call{}, calls...)) // [] and not null
	case "GET users":
		writeJSON(w, http.StatusOK, s.users())
	case "POST users":
		var u User
		adminOrder(w, r, &u, func() error { return s.AddUser(u) })
	case "POST devices":
		var d Device
		adminOrder(w, r, &d, func() error { return s.AddDevice(d) })
	case "POST faults":
		var f Fault
		adminOrder(w, r, &f, func() error { s.Inject(f); return nil })
	case "DELETE faults":
		s.mu.Lock()
		clear(s.faults)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case "PUT quota":
		var q Quota
		adminOrder(w, r, &q, func() error { return s.SetQuota(q) })
	case "GET devicecode":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, deviceCodePage)
	case "POST devicecode":
		s.serveApproval(w, r)
	default:
		http.Error(w, "no such order: see the package's README", http.StatusNotFound)
	}
}

// adminOrder decodes the body, strictly, and then calls carryOut.
func adminOrder(w http.ResponseWriter, r *http.Request, into any, carryOut func() error) {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		err = carryOut()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

type revokedUser struct {
	User
	RevokedAt *time.Time `json:"revokedAt"`
}

func (s *Server) users() []revokedUser {
	s.mu.Lock()
	defer s.mu.Unlock()
	users := []revokedUser{}
	for _, e := range s.byID {
		u := revokedUser{User: e.User}
		if e.revoked {
			u.RevokedAt = &e.validFrom
		}
		users = append(users, u)
	}
	slices.SortFunc(users, func(a, b revokedUser) int { return strings.Compare(a.ID, b.ID) })
	return users
}
