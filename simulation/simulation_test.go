package simulation_test

import (
	"flag"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/simulation"
)

var (
	seeds    = flag.Int("seeds", 150, "how many scenarios to play")
	first    = flag.Uint64("first", 1, "seed of the first one")
	step     = flag.Uint64("step", 0, "play every so many seeds, in this process alone; 0 uses all processors")
	crafted  = flag.String("crafted", "", "play this crafted scenario")
	one      = flag.Uint64("seed", 0, "play this scenario alone, with a log")
	goOn     = flag.Bool("go-on", false, "do not stop at the first scenario that breaks a guarantee")
	person   = flag.Int("person", -1, "with -seed, describe what happened to this person")
	noCuts   = flag.Bool("no-cuts", false, "leave out faults that cut connections")
	noFaults = flag.Bool("no-faults", false, "leave out all faults")
)

// seeded allows seeding the global source of math/rand. The order of maps and of ready channels
// stays random, so a seed that has failed may need several runs to fail again.
const seeded = "randautoseed=0,randseednop=0"

// play runs one scenario in a bubble of its own.
func play(t *testing.T, s simulation.Scenario, v simulation.Variant) (findings simulation.Findings) {
	log := zap.NewNop()
	if *one > 0 {
		log, _ = zap.NewDevelopment()
	}
	// With the GODEBUG that playInProcesses sets, the random parts of backoff, the worker's and the
	// client library's, are the same for a seed that is played alone and for one of many.
	rand.Seed(int64(s.Seed)) //nolint:staticcheck // they use no other source
	synctest.Test(t, func(*testing.T) { findings = simulation.Play(s, v, log) })
	return findings
}

// TestSeeds plays scenarios, and stops at the first that breaks a guarantee. Each processor gets a
// process of its own: with one processor the Go scheduler repeats itself for the same seed, and
// nothing waits for another processor's caches.
func TestSeeds(t *testing.T) {
	switch {
	case *crafted != "":
		s, ok := simulation.Crafted()[*crafted]
		if !ok {
			t.Fatalf("no crafted scenario %q", *crafted)
		}
		report(t, s)
		return
	case *one > 0:
		report(t, simulation.New(*one, options()))
		return
	case *step == 0:
		playInProcesses(t)
		return
	}
	for n := range *seeds {
		report(t, simulation.New(*first+uint64(n)**step, options()))
		if t.Failed() && !*goOn {
			return
		}
		if (n+1)%5000 == 0 {
			fmt.Fprintf(os.Stderr, "%s: %d of this processor's %d seeds are clean\n", time.Now().Format(time.TimeOnly), n+1, *seeds)
		}
	}
}

func options() simulation.Options {
	return simulation.Options{NoCuts: *noCuts, NoFaults: *noFaults}
}

// playInProcesses distributes the seeds to one process for each processor.
func playInProcesses(t *testing.T) {
	processes := min(runtime.GOMAXPROCS(0), *seeds)
	began := time.Now()
	var running sync.WaitGroup
	for i := range processes {
		share := (*seeds - i + processes - 1) / processes
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSeeds$", "-test.timeout=0",
			"-seeds", fmt.Sprint(share), "-first", fmt.Sprint(*first+uint64(i)), "-step", fmt.Sprint(processes),
			fmt.Sprintf("-no-cuts=%v", *noCuts), fmt.Sprintf("-go-on=%v", *goOn), fmt.Sprintf("-no-faults=%v", *noFaults))
		child.Env = append(os.Environ(), "GOMAXPROCS=1", "GODEBUG="+seeded, "GOGC=off", "GOMEMLIMIT=1GiB")
		child.Stderr = os.Stderr // progress
		running.Go(func() {
			if out, err := child.Output(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	running.Wait()
	took := time.Since(began)
	fmt.Printf("%d scenarios in %s on %d processors: %.1f per second\n",
		*seeds, took.Round(time.Millisecond), processes, float64(*seeds)/took.Seconds())
}

func report(t *testing.T, s simulation.Scenario) {
	t.Helper()
	findings := play(t, s, simulation.Variant{})
	if len(findings.Problems) == 0 {
		if *one > 0 {
			t.Logf("%s\nno guarantee is broken; settled after %s, %d calls", s, findings.Took.Round(time.Millisecond), findings.Calls)
		}
		return
	}
	t.Errorf("%s\n\nbroken guarantees:\n", s)
	for i, problem := range findings.Problems {
		if i == 10 {
			t.Errorf("  … and %d more", len(findings.Problems)-i)
			break
		}
		t.Errorf("  %s", problem)
	}
	var narrowed string
	if *noCuts {
		narrowed += " -no-cuts"
	}
	if *noFaults {
		narrowed += " -no-faults"
	}
	if *person >= 0 {
		findings.About(*person)
	}
	t.Errorf("%s\nagain: GOMAXPROCS=1 GODEBUG=%s go test ./simulation -run TestSeeds -args -seed %d%s",
		findings.Timeline(s), seeded, s.Seed, narrowed)
}

// TestCraftedScenarios plays the scenarios that were made for one purpose each.
func TestCraftedScenarios(t *testing.T) {
	for name, s := range simulation.Crafted() {
		t.Run(name, func(t *testing.T) { report(t, s) })
	}
}

// TestCheckerCatchesBrokenWorkers proves that the checker can fail.
func TestCheckerCatchesBrokenWorkers(t *testing.T) {
	const limit = 2000
	for _, v := range simulation.Variants() {
		t.Run(v.Name, func(t *testing.T) {
			for seed := uint64(1); seed <= limit; seed++ {
				if findings := play(t, simulation.New(seed, simulation.Options{NoFaults: v.Calm}), v); len(findings.Problems) > 0 {
					t.Logf("caught by seed %d: %s", seed, findings.Problems[0])
					return
				}
			}
			t.Errorf("not caught by %d seeds", limit)
		})
	}
}
