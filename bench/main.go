// Command bench compares the worker with the alternatives: a bare loop that receives and completes
// messages, and a plain worker that calls Graph once for each message. It runs them one after the
// other on the same machine against the same embedded servers, and prints the ratios of their
// rates.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// workerBinary is cmd/worker, built for the benchmark.
var workerBinary string

// options are the command-line flags.
type options struct {
	only   []string
	rounds int
	limit  int
	per    time.Duration
	people int
	redis  string
	// models and workers select the variants of the scenario "together", and models those of
	// "incident".
	models  []string
	workers []int
	// json is a file and plots a folder for the results, in addition to the table. "" means none.
	json, plots string
}

// line is one line of the result.
type line struct {
	What  string `json:"what"`
	Value string `json:"measured"`
	Goal  string `json:"goal,omitempty"`
}

type scenario struct {
	name string
	run  func(options) ([]line, error)
}

var scenarios = []scenario{
	{"distinct", distinct},
	{"storm", storm},
	{"guarded", guarded},
	{"latency", latency},
	{"memory", memory},
	{"replay", replay},
	{"behind", behind},
	{"quota", quota},
	{"together", together},
	{"plainly", plainly},
	{"incident", incident},
	{"loads", loads},
	{"cost", cost},
	{"growth", growth},
	{"start", startUp},
	{"others", others},
}

func main() {
	if name, ok := isContender(os.Args[1:]); ok {
		exit(compete(name))
	}
	var o options
	pflag.StringSliceVar(&o.only, "only", nil, "scenarios to run: distinct, storm, guarded, latency, memory, replay, "+
		"behind, quota, together, plainly, incident, loads, cost, growth, start, others "+
		"(default all but others, which needs Node.js)")
	pflag.IntVar(&o.rounds, "rounds", 5, "number of runs of each pair of contenders; the median is the result")
	pflag.IntVar(&o.limit, "quota", 300, "calls in each quota window")
	pflag.DurationVar(&o.per, "per", 15*time.Second, "the quota window")
	pflag.IntVar(&o.people, "people", 3000, "users in the scenarios with a quota")
	pflag.StringVar(&o.redis, "redis", "", `address of a Redis for the scenario "together"; without it, bench starts redis-server`)
	pflag.StringSliceVar(&o.models, "models", []string{"fixed", "sliding", "bucket"},
		`quota models of the scenario "together", and, if they are given, of "incident" (otherwise bucket)`)
	pflag.IntSliceVar(&o.workers, "workers", []int{2, 4}, `numbers of workers in the scenario "together"`)
	pflag.StringVar(&o.json, "json", "", "file to write the results to, in addition to the table")
	pflag.StringVar(&o.plots, "plots", "", "folder to write a plot (SVG) of each growth to")
	pflag.Parse()
	exit(bench(o))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func bench(o options) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	workerBinary = filepath.Join(dir, "worker")
	//nolint:gosec // our own file
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", workerBinary, "./cmd/worker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the worker (run this in the repository's root): %w\n%s", err, out)
	}
	result := struct {
		Processor string `json:"processor"`
		CPUs      int    `json:"cpus"`
		Commit    string `json:"commit"`
		Go        string `json:"go"`
		Lines     []line `json:"results"`
	}{processor(), runtime.NumCPU(), commit(), runtime.Version(), nil}
	t := table.NewWriter()
	t.AppendHeader(table.Row{"what", "measured", "goal"})
	for _, s := range scenarios {
		wanted := slices.Contains(o.only, s.name) || len(o.only) == 0 && s.name != "others" // it needs Node.js
		if !wanted {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s …\n", s.name)
		lines, err := s.run(o)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		result.Lines = append(result.Lines, lines...)
		for _, l := range lines {
			t.AppendRow(table.Row{l.What, l.Value, l.Goal})
		}
	}
	fmt.Printf("%s, %d CPUs, commit %s, %s\n\n%s\n", result.Processor, result.CPUs, result.Commit, result.Go, t.RenderMarkdown())
	if o.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(text, '\n'), 0o600)
}

// processor returns the name of the CPU, or the platform if the system does not report the name.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for l := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(l, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return runtime.GOOS + "/" + runtime.GOARCH
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// drain runs a contender until it has settled n events, which are all queued before it starts. It
// returns the events per second and the number of calls for users.
func drain(name string, n, users int, wait time.Duration, env ...string) (rate float64, calls int, err error) {
	s, err := newStage(users, graph.Quota{})
	if err != nil {
		return 0, 0, err
	}
	defer s.close()
	if err := s.send(n, users); err != nil {
		return 0, 0, err
	}
	time.Sleep(wait)
	runtime.GC()
	p, err := s.start(name, env...)
	if err != nil {
		return 0, 0, err
	}
	if err := s.awaitSettled(n, 5*time.Minute); err != nil {
		_ = p.stop()
		return 0, 0, err
	}
	err = p.stop()
	fmt.Fprintf(os.Stderr, "  %-12s %7.0f events/s, %d calls, %.2f s of CPU\n", name, s.rate(), len(s.calls()),
		(p.ProcessState.UserTime() + p.ProcessState.SystemTime()).Seconds())
	return s.rate(), len(s.calls()), err
}

// duel runs another contender and the worker, one after the other, on the same events. It returns
// the median of the ratios of their rates, and the largest number of calls of the worker. It
// compares consecutive runs only, because the machine's other load changes from minute to minute.
func duel(o options, other string, n, users int, wait time.Duration) (ratio float64, calls int, err error) {
	var ratios []float64
	for range o.rounds {
		theirs, _, err := drain(other, n, users, wait)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", other, err)
		}
		ours, called, err := drain(ourWorker, n, users, wait, fmt.Sprintf("REVOKER_CONSUMER_CONCURRENCY=%d", goroutines))
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", ourWorker, err)
		}
		ratios, calls = append(ratios, ours/theirs), max(calls, called)
	}
	return median(ratios), calls, nil
}

func distinct(o options) ([]line, error) {
	ratio, _, err := duel(o, plainWorker, 20_000, 20_000, 0)
	return []line{{"20,000 events of 20,000 users: rate ÷ plain worker's", fmt.Sprintf("%.2f", ratio), "≥ 0.95"}}, err
}

// guarded measures what the sanitizer on the connection costs a loop that does nothing else.
func guarded(o options) ([]line, error) {
	const events = 20_000
	var ratios []float64
	for range o.rounds {
		bare, _, err := drain(bareLoop, events, 1, 0)
		if err != nil {
			return nil, err
		}
		behind, _, err := drain(guardedLoop, events, 1, 0)
		if err != nil {
			return nil, err
		}
		ratios = append(ratios, behind/bare)
	}
	return []line{{
		"20,000 messages received and completed behind the sanitizer: rate ÷ bare loop's", fmt.Sprintf("%.2f", median(ratios)), "≥ 0.97",
	}}, nil
}

func storm(o options) ([]line, error) {
	ratio, calls, err := duel(o, bareLoop, 20_000, 200, 11*time.Second)
	return []line{
		{"20,000 events of 200 users, 10 s old: rate ÷ bare loop's", fmt.Sprintf("%.2f", ratio), "≥ 0.80"},
		{"— calls to Graph for users", fmt.Sprint(calls), "≤ 200"},
	}, err
}
