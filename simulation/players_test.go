package simulation_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/simulation"
)

// A player is a process that plays the seeds that it is told, one after the other. Each processor
// gets one: with one processor the Go scheduler repeats itself for the same seed, and nothing waits
// for another processor's caches. A scenario that hangs or panics costs one player, and another
// takes its place.
var (
	player  = flag.Bool("player", false, "play the seeds that standard input says; for TestSeeds itself")
	panicAt = flag.Uint64("panic-at", 0, "with -player, panic at this seed; for a test")
	hangAt  = flag.Uint64("hang-at", 0, "with -player, hang at this seed; for a test")
)

const (
	// stuckAfter is when a scenario is said to hang. The longest take seconds.
	stuckAfter = 5 * time.Minute
	// collectAbove is the memory, in bytes, with which a player collects garbage between two
	// scenarios. Within a scenario it does so only above memoryLimit: a collection changes the order
	// of goroutines, and so what a seed plays.
	collectAbove = 128 << 20
	memoryLimit  = "1GiB"
	// keepOutput is how much of a dead player's output is kept, in bytes.
	keepOutput = 16 << 10
)

// result is what a player says of one scenario, or what is said of one that ended its player.
type result struct {
	Seed        uint64
	Problems    []string
	Story       string // what is known of the problems
	Calls       int
	Messages    int
	Took        time.Duration // in virtual time
	Faults      map[simulation.FaultKind]int
	DeadLetters map[string]int
	Memory      uint64 // the player's, in bytes
}

// playForParent is the player: it answers each seed with a result.
func playForParent(t *testing.T) {
	memory := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
	}
	input, output := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for input.Scan() {
		seed, err := strconv.ParseUint(input.Text(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		switch seed {
		case *panicAt:
			panic("a test's panic")
		case *hangAt:
			time.Sleep(24 * time.Hour) // the runtime would end a program that waits for nothing
		}
		s := simulation.New(seed, options())
		findings := play(t, s, simulation.Variant{})
		metrics.Read(memory)
		r := result{
			Seed: seed, Problems: findings.Problems, Calls: findings.Calls, Messages: findings.Messages, Took: findings.Took,
			Faults: map[simulation.FaultKind]int{}, DeadLetters: findings.DeadLetters,
			Memory: memory[0].Value.Uint64() - memory[1].Value.Uint64(),
		}
		for _, f := range s.Faults {
			r.Faults[f.Kind]++
		}
		if len(r.Problems) > 0 {
			r.Story = story(s, findings)
		}
		if err := output.Encode(r); err != nil {
			t.Fatal(err)
		}
		if memory[2].Value.Uint64() > collectAbove {
			runtime.GC()
		}
	}
}

// playInProcesses gives the seeds to a player for each processor.
func playInProcesses(t *testing.T) {
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	sum := newTotals()
	next := make(chan uint64)
	go func() {
		defer close(next)
		for n := 0; *playFor == 0 && n < *seeds || time.Since(sum.Began) < *playFor; n++ {
			select {
			case next <- sum.First + uint64(n):
			case <-ctx.Done():
				return
			}
		}
	}()
	var running sync.WaitGroup
	for range sum.Processes {
		running.Go(func() {
			p := &process{limit: stuckAfter}
			for seed := range next {
				r, err := p.play(ctx, seed)
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					stop()
					break
				}
				sum.add(r)
				if len(r.Problems) > 0 && *playFor == 0 && !*goOn {
					stop()
				}
			}
			sum.spent(p.end())
		})
	}
	running.Wait()
	sum.finish(t)
}

// process is a player as its parent sees it. The zero process is started when it is needed.
type process struct {
	limit   time.Duration // how long a scenario may take
	args    []string
	command *exec.Cmd // nil: it does not run
	seeds   io.WriteCloser
	answers chan []byte // closed when the process has ended
	output  head
	cpu     time.Duration // of the processes that have ended
}

func (p *process) start() error {
	args := append([]string{
		"-test.run=^TestSeeds$", "-test.timeout=0", "-player", fmt.Sprintf("-no-cuts=%v", *noCuts), fmt.Sprintf("-no-faults=%v", *noFaults),
	}, p.args...)
	command := exec.Command(os.Args[0], args...)
	// A scenario's many goroutines need stacks of the same size as those of the one before.
	command.Env = append(os.Environ(), "GOMAXPROCS=1", "GODEBUG="+seeded+",adaptivestackstart=1", "GOGC=off", "GOMEMLIMIT="+memoryLimit)
	p.output = head{}
	command.Stderr = &p.output
	seeds, err := command.StdinPipe()
	if err != nil {
		return err
	}
	answers, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	p.command, p.seeds, p.answers = command, seeds, make(chan []byte, 1)
	go func(lines chan<- []byte) {
		defer close(lines)
		for r := bufio.NewReader(answers); ; {
			line, err := r.ReadBytes('\n')
			if err != nil {
				return
			}
			lines <- line
		}
	}(p.answers)
	return nil
}

// play plays a seed. A scenario that ends the process, or that takes too long, is a result, too. The
// error is that of the process' start, or ctx'.
func (p *process) play(ctx context.Context, seed uint64) (r result, err error) {
	if p.command == nil {
		if err := p.start(); err != nil {
			return result{}, fmt.Errorf("start a player: %w", err)
		}
	}
	_, _ = fmt.Fprintln(p.seeds, seed) // a process that has ended gives no answer, either
	limit := time.NewTimer(p.limit)
	defer limit.Stop()
	problem := "the process that played it ended"
	var said []byte
	select {
	case line, ok := <-p.answers:
		if ok && json.Unmarshal(line, &r) == nil {
			return r, nil
		}
		said = line
	case <-limit.C:
		problem = fmt.Sprintf("it hangs: it has not ended after %s", p.limit)
		_ = p.command.Process.Signal(syscall.SIGQUIT) // prints the stacks
	case <-ctx.Done():
		return result{}, ctx.Err()
	}
	p.end()
	story := fmt.Sprintf("%s\n\n%s\n\n%s%s", simulation.New(seed, options()), problem, said, p.output.String())
	return result{Seed: seed, Problems: []string{problem}, Story: story}, ctx.Err()
}

// end ends the process, and returns the CPU time of this one and those before.
func (p *process) end() time.Duration {
	if p.command == nil {
		return p.cpu
	}
	_ = p.seeds.Close()
	const patience = 10 * time.Second // it ends by itself, unless it hangs
	kill := time.AfterFunc(patience, func() { _ = p.command.Process.Kill() })
	for range p.answers { // what it still says is of no use
	}
	_ = p.command.Wait()
	kill.Stop()
	p.cpu += p.command.ProcessState.UserTime() + p.command.ProcessState.SystemTime()
	p.command = nil
	return p.cpu
}

// head keeps the beginning of an output.
type head struct {
	mu   sync.Mutex
	kept bytes.Buffer
}

// Write never fails.
func (h *head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept.Write(b[:min(len(b), keepOutput-h.kept.Len())])
	return len(b), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.kept.String()
}

// TestPlayersAreReplaced lets one scenario panic and one hang: both are results, and the next one
// is played.
func TestPlayersAreReplaced(t *testing.T) {
	p := &process{limit: stuckAfter, args: []string{"-panic-at", "1", "-hang-at", "2"}}
	defer p.end()
	expect := func(seed uint64, problem, story string) {
		t.Helper()
		r, err := p.play(t.Context(), seed)
		if err != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], problem) || !strings.Contains(r.Story, story) {
			t.Errorf("seed %d: error %v, problems %q, story\n%s\nwant %q and %q", seed, err, r.Problems, r.Story, problem, story)
		}
	}
	isPlayed := func(seed uint64) {
		t.Helper()
		if r, err := p.play(t.Context(), seed); err != nil || r.Seed != seed || len(r.Problems) > 0 || r.Messages == 0 {
			t.Errorf("seed %d: error %v, %+v", seed, err, r)
		}
	}
	expect(1, "ended", "a test's panic")
	isPlayed(3)           // by a process that has started now, however long that takes
	p.limit = time.Second // it hangs, however long
	expect(2, "hangs", "playForParent")
	p.limit = stuckAfter
	isPlayed(3)
}
