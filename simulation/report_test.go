package simulation_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/simulation"
)

// keepViolations bounds the scenarios that the report describes; the others are only counted.
const keepViolations = 50

// totals are what all players have played. Its exported fields are the report in JSON. It is safe
// for concurrent use.
type totals struct {
	mu sync.Mutex

	Commit, Machine    string
	Began              time.Time
	Seconds            float64
	Processes          int
	First, Last        uint64 // seeds
	Scenarios          int
	PerSecond          float64
	CPUSecondsEach     float64
	Messages, Calls    int
	VirtualHours       float64
	MostMemory         uint64 // of a process, in bytes
	Faults             map[simulation.FaultKind]int
	DeadLetters        map[string]int
	ViolatingScenarios int
	Violations         []violation // the first keepViolations of them

	cpu time.Duration
}

type violation struct {
	Seed     uint64
	Problems []string
	Again    string // the command that plays it once more
	Story    string
}

func newTotals() *totals {
	sum := &totals{
		Commit: commit(), Machine: machine(), Began: time.Now(), First: max(1, *first), Processes: runtime.GOMAXPROCS(0),
		Faults: map[simulation.FaultKind]int{}, DeadLetters: map[string]int{},
	}
	if *playFor == 0 {
		sum.Processes = min(sum.Processes, *seeds)
	} else if *first == 0 {
		date, _ := strconv.ParseUint(sum.Began.Format("20060102"), 10, 64)
		sum.First = date * 1_000_000
	}
	fmt.Fprintf(os.Stderr, "playing from seed %d on\n", sum.First)
	return sum
}

func (sum *totals) add(r result) {
	sum.mu.Lock()
	defer sum.mu.Unlock()
	sum.Scenarios++
	sum.Last = max(sum.Last, r.Seed)
	sum.Messages += r.Messages
	sum.Calls += r.Calls
	sum.VirtualHours += r.Took.Hours()
	sum.MostMemory = max(sum.MostMemory, r.Memory)
	for kind, n := range r.Faults {
		sum.Faults[kind] += n
	}
	for reason, n := range r.DeadLetters {
		sum.DeadLetters[reason] += n
	}
	if sum.Scenarios%5000 == 0 {
		fmt.Fprintf(os.Stderr, "%s: %d scenarios, %d broke a guarantee\n",
			time.Now().Format(time.TimeOnly), sum.Scenarios, sum.ViolatingScenarios)
	}
	if len(r.Problems) == 0 {
		return
	}
	sum.ViolatingScenarios++
	if len(sum.Violations) < keepViolations {
		sum.Violations = append(sum.Violations, violation{r.Seed, r.Problems, again(r.Seed), r.Story})
		fmt.Fprintf(os.Stderr, "seed %d: %s\n", r.Seed, r.Problems[0])
	}
}

func (sum *totals) spent(cpu time.Duration) {
	sum.mu.Lock()
	defer sum.mu.Unlock()
	sum.cpu += cpu
}

// finish writes the report, and fails the test if a guarantee was broken.
func (sum *totals) finish(t *testing.T) {
	took := time.Since(sum.Began)
	sum.Seconds = took.Seconds()
	if sum.Scenarios > 0 {
		sum.PerSecond = float64(sum.Scenarios) / took.Seconds()
		sum.CPUSecondsEach = sum.cpu.Seconds() / float64(sum.Scenarios)
	}
	fmt.Printf("%d scenarios in %s on %d processors: %.1f per second, %.3f s of CPU time each\n",
		sum.Scenarios, took.Round(time.Millisecond), sum.Processes, sum.PerSecond, sum.CPUSecondsEach)
	for _, v := range sum.Violations {
		t.Errorf("seed %d\n%s\nagain: %s", v.Seed, v.Story, v.Again)
	}
	if more := sum.ViolatingScenarios - len(sum.Violations); more > 0 {
		t.Errorf("… and %d more scenarios broke a guarantee", more)
	}
	if *written == "" {
		return
	}
	text, err := json.MarshalIndent(sum, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		*written: []byte(sum.markdown()), strings.TrimSuffix(*written, filepath.Ext(*written)) + ".json": append(text, '\n'),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Error(err)
		}
	}
	fmt.Println("report:", *written)
}

// markdown is the report for people.
func (sum *totals) markdown() string {
	var b strings.Builder
	verdict := "no guarantee was broken"
	if n := sum.ViolatingScenarios; n > 0 {
		verdict = fmt.Sprintf("%d of %d scenarios broke a guarantee", n, sum.Scenarios)
	}
	fmt.Fprintf(&b, "# Simulation: %s\n\n| | |\n| --- | --- |\n", verdict)
	for _, row := range [][2]string{
		{"Commit", sum.Commit},
		{"Machine", sum.Machine},
		{"Began", fmt.Sprintf("%s, for %.0f minutes", sum.Began.UTC().Format(time.DateTime+" MST"), sum.Seconds/60)},
		{"Seeds", fmt.Sprintf("%d to %d", sum.First, sum.Last)},
		{"Scenarios", fmt.Sprintf("%d: %.1f per second, %.3f s of CPU time each", sum.Scenarios, sum.PerSecond, sum.CPUSecondsEach)},
		{"Messages, calls to Graph", fmt.Sprintf("%d, %d", sum.Messages, sum.Calls)},
		{"Virtual time", fmt.Sprintf("%.0f hours", sum.VirtualHours)},
		{"Most memory of a process", fmt.Sprintf("%d MB", sum.MostMemory>>20)},
	} {
		fmt.Fprintf(&b, "| %s | %s |\n", row[0], row[1])
	}
	if sum.ViolatingScenarios > 0 {
		b.WriteString("\n## Broken guarantees\n\n")
	}
	for _, v := range sum.Violations {
		fmt.Fprintf(&b, "- seed %d: %s\n", v.Seed, v.Problems[0])
	}
	for _, v := range sum.Violations {
		fmt.Fprintf(&b, "\n### Seed %d\n\n```sh\n%s\n```\n\n```text\n%s\n```\n", v.Seed, v.Again, strings.TrimSpace(v.Story))
	}
	if more := sum.ViolatingScenarios - len(sum.Violations); more > 0 {
		fmt.Fprintf(&b, "\n%d more are not described here.\n", more)
	}
	b.WriteString("\n## Faults\n\n| Fault | Times |\n| --- | ---: |\n")
	for _, kind := range slices.Sorted(maps.Keys(sum.Faults)) {
		fmt.Fprintf(&b, "| %s | %d |\n", kind, sum.Faults[kind])
	}
	b.WriteString("\n## Dead letters\n\n| Reason | Messages |\n| --- | ---: |\n")
	for _, reason := range slices.Sorted(maps.Keys(sum.DeadLetters)) {
		fmt.Fprintf(&b, "| %s | %d |\n", reason, sum.DeadLetters[reason])
	}
	return b.String()
}

// commit is the source's, as far as git knows it.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func machine() string {
	model := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo") // elsewhere there is none
	for line := range strings.Lines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%s/%s, %d processors (%s), %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), model, runtime.Version())
}
