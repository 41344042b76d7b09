package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/session-revoker/session-revoker/emulator/graph"
	inc "github.com/session-revoker/session-revoker/simulation/incident"
)

// The mass incident. The quota is Graph's own for writes of identity objects, for each app and
// tenant (https://learn.microsoft.com/graph/throttling-limits).
const (
	incidentPeople   = 100_000
	incidentReplicas = 3
	incidentLimit    = 3000
	incidentPer      = 150 * time.Second
	incidentAwayAt   = 40 * time.Minute
	incidentAwayFor  = 10 * time.Minute
)

// incident plays a mass incident in virtual time, with Redis and without, and reads from the
// servers' records how it went. A bubble of virtual time needs a test, so a test's process plays it.
func incident(o options) ([]line, error) {
	dir, err := os.MkdirTemp("", "incident")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	player := filepath.Join(dir, "incident.test")
	//nolint:gosec // our own file
	if out, err := exec.Command("go", "test", "-c", "-o", player, "./simulation/incident").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the incident (run this in the repository's root): %w\n%s", err, out)
	}
	models := []string{string(graph.TokenBucket)} // as Microsoft describes it
	if pflag.CommandLine.Changed("models") {
		models = o.models
	}
	var lines []line
	for _, model := range models {
		results := make([]inc.Result, 2)
		var both errgroup.Group
		for i := range results {
			both.Go(func() (err error) {
				results[i], err = playIncident(player, filepath.Join(dir, fmt.Sprint(model, i)), inc.Config{
					People: incidentPeople, Replicas: incidentReplicas, Redis: i == 0,
					Quota:  graph.Quota{Model: graph.QuotaModel(model), Limit: incidentLimit, Per: incidentPer, Headers: true},
					AwayAt: incidentAwayAt, AwayFor: incidentAwayFor, StolenEvery: 10 * time.Second,
					Fastest: 50 * time.Millisecond, Slowest: 150 * time.Millisecond, Seed: 1,
				})
				return err
			})
		}
		if err := both.Wait(); err != nil {
			return nil, err
		}
		for _, r := range results {
			lines = append(lines, describeIncident(r)...)
		}
		if o.plots == "" {
			continue
		}
		if err := drawIncident(filepath.Join(o.plots, "incident-"+model), model, results); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// playIncident plays one incident in a process of its own, with one processor: virtual time passes
// one step after the other anyway.
func playIncident(player, files string, cfg inc.Config) (r inc.Result, err error) {
	text, err := json.Marshal(cfg)
	if err != nil {
		return r, err
	}
	if err := os.WriteFile(files+".json", text, 0o600); err != nil {
		return r, err
	}
	began := time.Now()
	//nolint:gosec // our own files
	play := exec.Command(player, "-test.run", "^TestIncident$", "-test.timeout", "2h",
		"-config", files+".json", "-result", files+".result")
	play.Env = append(os.Environ(), "GOMAXPROCS=1")
	if out, err := play.CombinedOutput(); err != nil {
		return r, fmt.Errorf("play the incident: %w\n%s", err, out)
	}
	if text, err = os.ReadFile(files + ".result"); err != nil { //nolint:gosec // our own file
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, err
	}
	if len(r.Problems) > 0 {
		return r, fmt.Errorf("%d broken guarantees:\n%s", len(r.Problems), strings.Join(r.Problems[:min(10, len(r.Problems))], "\n"))
	}
	fmt.Fprintf(os.Stderr, "  %s, %s: %.0f s of virtual time in %.0f s\n",
		cfg.Quota.Model, sharing(cfg), r.Seconds, time.Since(began).Seconds())
	return r, nil
}

func sharing(cfg inc.Config) string {
	if cfg.Redis {
		return "Redis"
	}
	return "nothing but Graph's answers"
}

func describeIncident(r inc.Result) []line {
	cfg := r.Config
	goal := "≤ 1.03 ×, ≤ 1.0"
	if !cfg.Redis {
		goal = "≤ 1.15 ×, ≤ 3.0"
	}
	var up, away []float64
	for _, s := range r.Stolen {
		if s.Away {
			away = append(away, s.Seconds+s.Waited-(cfg.AwayAt+cfg.AwayFor).Seconds())
		} else {
			up = append(up, s.Waited)
		}
	}
	var kinds, rates []string
	for _, kind := range r.Operations {
		kinds = append(kinds, kind.Kind)
		rates = append(rates, fmt.Sprintf("%.1f (%d)", kind.Average, kind.Peak))
	}
	return []line{
		{
			fmt.Sprintf("mass incident, %d workers that share %s: %d people, %d calls per %.0fs, %s, Graph away for %.0f s: "+
				"time ÷ least possible; 429s per 100 successes", cfg.Replicas, sharing(cfg), cfg.People, cfg.Quota.Limit,
				cfg.Quota.Per.Seconds(), cfg.Quota.Model, cfg.AwayFor.Seconds()),
			fmt.Sprintf("%.3f ×, %.1f", r.Seconds/r.Least, 100*float64(r.Refused)/float64(r.Successes)), goal,
		},
		{
			"— a stolen device every 10 s while Graph is up, enqueued to call, s at p50 / p95 / p99 / most",
			fmt.Sprintf("%.2f / %.2f / %.2f / %.2f", quantile(up, 0.5), quantile(up, 0.95), quantile(up, 0.99), quantile(up, 1)), "p99 ≤ 2",
		},
		{
			"— devices stolen while Graph is away: s from its return to the first call that succeeds, and to the last for these",
			fmt.Sprintf("%.2f, %.2f", r.Back, quantile(away, 1)), "",
		},
		{
			"— Service Bus operations per second, average (peak): " + strings.Join(kinds, ", "), strings.Join(rates, ", "), "",
		},
		{
			"— Service Bus credits per second, average (peak)", fmt.Sprintf("%.0f (%d)", r.Credits.Average, r.Credits.Peak), "≤ 1000",
		},
		{
			"— a third of the heap in use with the imitated servers, MB; of what is reachable beyond them",
			fmt.Sprintf("%.0f; %.0f", megabytes(r.HeapInUse, cfg.Replicas), megabytes(r.Live-r.Servers, cfg.Replicas)), "",
		},
		{
			"— people missed; people called without an event; successful calls per person",
			fmt.Sprintf("%d; %d; %.2f", r.Missed, r.UncalledFor, float64(r.Successes)/float64(r.Successes-r.Repeated)), "0; 0; 1.00",
		},
	}
}

// megabytes returns each replica's part of a number of bytes.
func megabytes(bytes uint64, replicas int) float64 { return float64(bytes) / 1e6 / float64(replicas) }

// quantile returns the value below which a part of the values lies, or 0 if there are
// none.
func quantile(values []float64, part float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(len(values)-1, int(part*float64(len(values))))]
}
