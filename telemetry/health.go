package telemetry

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// Health is the worker's liveness and readiness. It is safe for concurrent use.
//
// Liveness depends on the heartbeats of the receive loops only. An outage of Graph or of Service
// Bus is no reason to restart a worker that holds messages. Readiness names each part that does not
// work.
type Health struct {
	limit time.Duration

	mu    sync.Mutex
	beats map[string]time.Time // by loop
	parts map[string]string    // the problem of each part; "" if it works
	warns map[string]string    // the warning about each part; "" for none
}

// NewHealth returns a Health that is alive while heartbeats are at most limit apart. It is ready
// when Report has said of each named part that it works.
func NewHealth(limit time.Duration, parts ...string) *Health {
	h := &Health{
		limit: limit, beats: map[string]time.Time{"start": time.Now()}, parts: make(map[string]string, len(parts)),
		warns: map[string]string{},
	}
	for _, p := range parts {
		h.parts[p] = "not tried yet"
	}
	return h
}

// Beat records a heartbeat of one receive loop. A loop that has called Beat once must keep calling
// it.
func (h *Health) Beat(loop string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.beats, "start")
	h.beats[loop] = time.Now()
}

// Report sets the problem of a part, or "" if the part works. changed reports whether the problem
// is a new one.
func (h *Health) Report(part, problem string) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = h.parts[part] != problem
	h.parts[part] = problem
	return changed
}

// Warn sets the warning about a part that works, or "" for none. changed reports whether the
// warning is a new one.
func (h *Health) Warn(part, warning string) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = h.warns[part] != warning
	h.warns[part] = warning
	return changed
}

// Warnings returns the warnings, by part.
func (h *Health) Warnings() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return nonEmpty(h.warns)
}

// nonEmpty returns the texts that are not empty.
func nonEmpty(texts map[string]string) map[string]string {
	some := map[string]string{}
	for part, text := range texts {
		if text != "" {
			some[part] = text
		}
	}
	return some
}

// Alive reports whether every heartbeat is recent.
func (h *Health) Alive() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, beat := range h.beats {
		if time.Since(beat) > h.limit {
			return false
		}
	}
	return true
}

// Problems returns the problems, by part. The worker is ready if there are none.
func (h *Health) Problems() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return nonEmpty(h.parts)
}

// ServeLive answers /healthz with 200, or with 503 if a heartbeat has stopped.
func (h *Health) ServeLive(w http.ResponseWriter, _ *http.Request) {
	if !h.Alive() {
		http.Error(w, "a receive loop has stopped", http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// ServeReady answers /readyz with 200, or with 503 if there are problems. The body is a JSON object
// with problems and warnings.
func (h *Health) ServeReady(w http.ResponseWriter, _ *http.Request) {
	problems := h.Problems()
	w.Header().Set("Content-Type", "application/json")
	if len(problems) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(struct {
		Ready    bool              `json:"ready"`
		Problems map[string]string `json:"problems,omitempty"`
		Warnings map[string]string `json:"warnings,omitempty"`
	}{len(problems) == 0, problems, h.Warnings()})
}
