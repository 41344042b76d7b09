package incident_test

import (
	"encoding/json"
	"flag"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/simulation/incident"
)

var (
	configFile = flag.String("config", "", "file with the incident to play, as JSON, instead of the small ones")
	resultFile = flag.String("result", "", "with -config, the file to write the result to")
	verbose    = flag.Bool("log", false, "show the workers' log")
)

func play(t *testing.T, cfg incident.Config) (result incident.Result) {
	t.Helper()
	cfg.Log = zap.NewNop()
	if *verbose {
		cfg.Log, _ = zap.NewDevelopment()
	}
	synctest.Test(t, func(t *testing.T) {
		var err error
		if result, err = incident.Play(cfg); err != nil {
			t.Fatal(err)
		}
	})
	return result
}

// TestIncident plays the incident of -config, for the benchmark.
func TestIncident(t *testing.T) {
	if *configFile == "" {
		t.Skip("-config is not given")
	}
	text, err := os.ReadFile(*configFile)
	if err != nil {
		t.Fatal(err)
	}
	var cfg incident.Config
	if err := json.Unmarshal(text, &cfg); err != nil {
		t.Fatal(err)
	}
	if text, err = json.Marshal(play(t, cfg)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*resultFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSmallIncident plays a tenth of Graph's quota. With Redis fewer people suffice, because its
// imitation is slow.
func TestSmallIncident(t *testing.T) {
	cfg := incident.Config{
		People: 2000, Replicas: 3,
		Quota:  graph.Quota{Model: graph.TokenBucket, Limit: 300, Per: 15 * time.Second, Headers: true},
		AwayAt: 40 * time.Second, AwayFor: time.Minute, StolenEvery: 4 * time.Second,
		Fastest: 50 * time.Millisecond, Slowest: 150 * time.Millisecond, Seed: 1,
	}
	t.Run("nothing shared", func(t *testing.T) { check(t, cfg) })
	cfg.People, cfg.Redis, cfg.AwayAt, cfg.AwayFor = 800, true, 10*time.Second, 20*time.Second
	t.Run("Redis", func(t *testing.T) { check(t, cfg) })
}

// check plays an incident and checks the guarantees.
func check(t *testing.T, cfg incident.Config) {
	t.Helper()
	r := play(t, cfg)
	for _, problem := range r.Problems {
		t.Error(problem)
	}
	if r.Missed+r.UncalledFor+r.Repeated > 0 || r.Successes != cfg.People+len(r.Stolen) {
		t.Errorf("%d people missed, %d called without an event, %d called again; %d successful calls for %d people",
			r.Missed, r.UncalledFor, r.Repeated, r.Successes, cfg.People+len(r.Stolen))
	}
	if len(r.Stolen) == 0 || len(r.Operations) == 0 || r.Credits.Total < r.Successes || r.HeapInUse == 0 || r.Failed == 0 {
		t.Errorf("something was not measured: %+v", r)
	}
	const recovery = 30 // seconds after an outage
	if r.Seconds < r.Least || r.Seconds > 1.1*r.Least+recovery {
		t.Errorf("it took %.0f s, and %.0f s were possible", r.Seconds, r.Least)
	}
	for _, s := range r.Stolen {
		called := s.Seconds + s.Waited
		if s.Away && called > (cfg.AwayAt+cfg.AwayFor).Seconds()+recovery || !s.Away && s.Waited > recovery {
			t.Errorf("the device that was stolen after %.0f s waited for %.1f s", s.Seconds, s.Waited)
		}
	}
	t.Logf("%.2f × the least time, %d refused, %d failed", r.Seconds/r.Least, r.Refused, r.Failed)
}
