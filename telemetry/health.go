package telemetry

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// Health is what the worker knows of its own state. It is safe for concurrent use.
//
// Liveness is the receive loops' heartbeats alone: an outage of Graph or of Service Bus is no reason to restart a worker
// that holds messages. Readiness names each part that does not work.
type Health struct {
	limit time.Duration

	mu    sync.Mutex
	beats map[string]time.Time // by loop
	parts map[string]string    // what is wrong with it; "" is well
	warns map[string]string    // what is worth knowing of a part that works
}

// NewHealth returns a Health that is alive while heartbeats are at most limit apart, and ready when each of the named
// parts was reported well.
func NewHealth(limit time.Duration, parts ...string) *Health {
	h := &Health{limit: limit, beats: map[string]time.Time{"start": time.Now()}, parts: make(map[string]string, len(parts)), warns: map[string]string{}}
	for _, p := range parts {
		h.parts[p] = "not tried yet"
	}
	return h
}

// Beat is the heartbeat of one receive loop. Each that has beaten once must go on.
func (h *Health) Beat(loop string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.beats, "start")
	h.beats[loop] = time.Now()
}

// Report says that a part works ("") or what is wrong with it, and returns whether that is new.
func (h *Health) Report(part, problem string) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = h.parts[part] != problem
	h.parts[part] = problem
	return changed
}

// Warn says what is worth knowing of a part although it works; "" is nothing. It returns whether that is new.
func (h *Health) Warn(part, warning string) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = h.warns[part] != warning
	h.warns[part] = warning
	return changed
}

// Warnings returns what is worth knowing, by part.
func (h *Health) Warnings() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return said(h.warns)
}

// said are the texts that are not empty.
func said(texts map[string]string) map[string]string {
	some := map[string]string{}
	for part, text := range texts {
		if text != "" {
			some[part] = text
		}
	}
	return some
}

// Alive says whether every heartbeat is recent.
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

// Problems returns what is wrong, by part; empty means ready.
func (h *Health) Problems() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return said(h.parts)
}

// ServeLive answers /healthz: 200, or 503 when a heartbeat stopped.
func (h *Health) ServeLive(w http.ResponseWriter, _ *http.Request) {
	if !h.Alive() {
		http.Error(w, "a receive loop has stopped", http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// ServeReady answers /readyz: 200, or 503 with the problems, as a JSON object; with the warnings in either case.
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
