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
	// The canary of each start uses the quota as well: with exactly ten windows of users, it would take
	// an eleventh.
	pflag.IntVar(&o.people, "people", 2900, "users in the scenarios with a quota; no multiple of it")
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

// drained is how a contender settled its events.
type drained struct {
	rate  float64 // events per second
	calls int     // for users
	cpu   float64 // seconds, with the start and the end of the process
}

// drain runs a contender until it has settled n events, which are all queued before it starts.
func drain(name string, n, users int, wait time.Duration, env ...string) (d drained, err error) {
	s, err := newStage(users, graph.Quota{})
	if err != nil {
		return d, err
	}
	defer s.close()
	if err := s.send(n, users); err != nil {
		return d, err
	}
	time.Sleep(wait)
	runtime.GC()
	p, err := s.start(name, env...)
	if err != nil {
		return d, err
	}
	if err := s.awaitSettled(n, 5*time.Minute); err != nil {
		_ = p.stop()
		return d, fmt.Errorf("%s: %w", name, err)
	}
	if err := p.stop(); err != nil {
		return d, fmt.Errorf("%s: %w", name, err)
	}
	d = drained{s.rate(), len(s.calls()), p.cpu().Seconds()}
	fmt.Fprintf(os.Stderr, "  %-14s %7.0f events/s, %d calls, %.2f s of CPU\n", name, d.rate, d.calls, d.cpu)
	return d, nil
}

// duel runs a first contender and a second one in turn on the same events, the worker with as many
// calls at once as the others. It returns the medians of the second's rate and CPU time, divided by
// the first's, and the largest number of the second's calls. It compares consecutive runs only,
// because the machine's other load changes from minute to minute.
func duel(o options, first, second string, n, users int, wait time.Duration) (rate, cpu float64, calls int, err error) {
	var rates, cpus []float64
	for range o.rounds {
		theirs, err := drain(first, n, users, wait)
		if err != nil {
			return 0, 0, 0, err
		}
		ours, err := drain(second, n, users, wait, fmt.Sprintf("REVOKER_CONSUMER_CONCURRENCY=%d", goroutines))
		if err != nil {
			return 0, 0, 0, err
		}
		rates, cpus, calls = append(rates, ours.rate/theirs.rate), append(cpus, ours.cpu/theirs.cpu), max(calls, ours.calls)
	}
	return median(rates), median(cpus), calls, nil
}

func distinct(o options) ([]line, error) {
	rate, cpu, _, err := duel(o, plainWorker, ourWorker, 20_000, 20_000, 0)
	return []line{
		{"20,000 events of 20,000 users: rate ÷ plain worker's", fmt.Sprintf("%.2f", rate), "≥ 1.05"},
		{"— CPU time ÷ plain worker's", fmt.Sprintf("%.2f", cpu), "≤ 1.0"},
	}, err
}

// guarded measures what the sanitizer on the connection costs a loop that does nothing else.
func guarded(o options) ([]line, error) {
	rate, _, _, err := duel(o, gatheringLoop, guardedLoop, 20_000, 1, 0)
	return []line{{
		"20,000 messages received and completed behind the sanitizer: rate ÷ gathering loop's", fmt.Sprintf("%.2f", rate), "≥ 0.97",
	}}, err
}

func storm(o options) ([]line, error) {
	rate, _, calls, err := duel(o, bareLoop, ourWorker, 20_000, 200, 11*time.Second)
	return []line{
		{"20,000 events of 200 users, 10 s old: rate ÷ bare loop's", fmt.Sprintf("%.2f", rate), "≥ 0.90"},
		{"— calls to Graph for users", fmt.Sprint(calls), "≤ 200"},
	}, err
}
