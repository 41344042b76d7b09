package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// growth measures the memory and the CPU time that the worker needs for a growing backlog, and for
// a growing number of remembered users.
func growth(o options) ([]line, error) {
	sizes := []int{1000, 10_000, 100_000, 1_000_000}
	var lines []line
	for _, kind := range []struct {
		name  string
		users func(n int) int
	}{
		{"events of 100 users in the queue", func(int) int { return 100 }},
		{"users remembered", func(n int) int { return n }},
	} {
		var memory, cpu plotter.XYs
		var figures, micros []string
		for _, n := range sizes {
			bytes, used, err := drainAll(n, kind.users(n),
				fmt.Sprintf("REVOKER_DEDUPE_MAX_USERS=%d", kind.users(n)), "REVOKER_GUARD_MAX_USERS=0")
			if err != nil {
				return nil, err
			}
			each := float64(used.Microseconds()) / float64(n)
			fmt.Fprintf(os.Stderr, "  %d %s: %.1f MB, %.0f µs of CPU for each event\n", n, kind.name, bytes/1e6, each)
			memory = append(memory, plotter.XY{X: float64(n), Y: bytes / 1e6})
			cpu = append(cpu, plotter.XY{X: float64(n), Y: each})
			figures = append(figures, fmt.Sprintf("%.0f", bytes/1e6))
			micros = append(micros, fmt.Sprintf("%.0f", each))
		}
		first, last := memory[0], memory[len(memory)-1]
		measured := strings.Trim(strings.ReplaceAll(fmt.Sprint(sizes), " ", ", "), "[]")
		each := (last.Y - first.Y) * 1e6 / (last.X - first.X)
		lines = append(lines,
			line{fmt.Sprintf("peak memory in MB with %s %s", measured, kind.name), strings.Join(figures, ", "), ""},
			line{"— bytes more for each", fmt.Sprintf("%.0f", each), "≤ 100 for a user"},
			line{"— CPU time for each event, µs", strings.Join(micros, ", "), ""})
		if o.plots == "" {
			continue
		}
		file := filepath.Join(o.plots, strings.ReplaceAll(kind.name, " ", "-"))
		if err := draw(file+".svg", "Peak memory of the worker", "MB", kind.name, memory); err != nil {
			return nil, err
		}
		if err := draw(file+"-cpu.svg", "CPU time for each event", "µs", kind.name, cpu); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// drainAll runs a worker until it has settled n events, and returns its peak memory and its CPU
// time. If there are fewer users than events, it first waits until the events are so old that one
// call covers all events of a user. env holds settings of the worker.
func drainAll(n, people int, env ...string) (bytes float64, cpu time.Duration, err error) {
	s, err := newStage(people, graph.Quota{})
	if err != nil {
		return 0, 0, err
	}
	defer s.close()
	if err := s.send(n, people); err != nil {
		return 0, 0, err
	}
	if people < n {
		time.Sleep(11 * time.Second)
	}
	p, err := s.start(ourWorker, env...)
	if err != nil {
		return 0, 0, err
	}
	if err := s.awaitSettled(n, 20*time.Minute); err != nil {
		return 0, 0, err
	}
	peak, err := p.peakMemory()
	if err != nil {
		return 0, 0, err
	}
	if err := p.stop(); err != nil {
		return 0, 0, err
	}
	return float64(peak), p.cpu(), nil
}

// draw writes a plot of a cost against a size to file.
func draw(file, title, unit, name string, points plotter.XYs) error {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text, p.Y.Label.Text = name, unit
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Y.Min = 0
	l, s, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	p.Add(plotter.NewGrid(), l, s)
	return p.Save(14*vg.Centimeter, 8*vg.Centimeter, file)
}

// startUp measures the time and the CPU time that a worker needs until it is ready, and the size of
// its binary. It stops at once then, which the CPU time includes.
func startUp(o options) ([]line, error) {
	s, err := newStage(1, graph.Quota{})
	if err != nil {
		return nil, err
	}
	defer s.close()
	var took, busy []float64
	for range 2*o.rounds + 1 {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		began := time.Now()
		p, err := s.start(ourWorker, "REVOKER_OPS_ADDRESS="+address)
		if err != nil {
			return nil, err
		}
		if err := awaitReady("http://" + address + "/readyz"); err != nil {
			return nil, err
		}
		took = append(took, milliseconds(time.Since(began)))
		if err := p.stop(); err != nil {
			return nil, err
		}
		busy = append(busy, milliseconds(p.cpu()))
	}
	info, err := os.Stat(workerBinary)
	if err != nil {
		return nil, err
	}
	return []line{
		{"from the start of the process to ready, ms", fmt.Sprintf("%.0f", median(took)), "≤ 15"},
		{"— CPU time of a start and a stop, ms", fmt.Sprintf("%.0f", median(busy)), ""},
		{"size of the stripped binary, MB", fmt.Sprintf("%.1f", float64(info.Size())/1e6), "≤ 32"},
	}, nil
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

func awaitReady(url string) error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		answer, err := http.Get(url) //nolint:gosec // our own
		if err != nil {
			continue
		}
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return nil
		}
	}
	return errors.New("the worker is not ready after a minute")
}

// cost measures the CPU time and the allocations for each event.
func cost(o options) ([]line, error) {
	const events = 20_000
	var ours, theirs, allocations []float64
	for range o.rounds {
		their, _, err := costOf(plainWorker, events)
		if err != nil {
			return nil, err
		}
		our, allocated, err := costOf(ourWorker, events)
		if err != nil {
			return nil, err
		}
		ours, theirs, allocations = append(ours, our), append(theirs, their), append(allocations, allocated)
	}
	return []line{
		{"CPU time for each event of another user, µs; plain worker's", fmt.Sprintf("%.0f; %.0f", median(ours), median(theirs)), ""},
		{"allocations for each such event", fmt.Sprintf("%.0f", median(allocations)), ""},
	}, nil
}

func costOf(name string, events int) (micros, allocations float64, err error) {
	s, err := newStage(events, graph.Quota{})
	if err != nil {
		return 0, 0, err
	}
	defer s.close()
	if err := s.send(events, events); err != nil {
		return 0, 0, err
	}
	address, err := freeAddress()
	if err != nil {
		return 0, 0, err
	}
	p, err := s.start(name, "REVOKER_OPS_ADDRESS="+address)
	if err != nil {
		return 0, 0, err
	}
	if err := s.awaitSettled(events, 5*time.Minute); err != nil {
		return 0, 0, err
	}
	if name == ourWorker {
		if allocations, err = metric("http://"+address+"/metrics", "go_memstats_mallocs_total"); err != nil {
			return 0, 0, err
		}
	}
	if err := p.stop(); err != nil {
		return 0, 0, err
	}
	used := p.cpu()
	return float64(used.Microseconds()) / float64(events), allocations / float64(events), nil
}

// metric returns the value of a metric that has no labels.
func metric(url, name string) (float64, error) {
	answer, err := http.Get(url) //nolint:gosec // our own
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

// loads measures how long events wait for their call at several rates.
func loads(options) ([]line, error) {
	var lines []line
	for _, rate := range []int{10, 100, 1000} {
		var figures []string
		for _, name := range []string{ourWorker, plainWorker} {
			waits, err := waitsAt(name, rate, 5*rate)
			if err != nil {
				return nil, err
			}
			slices.Sort(waits)
			figures = append(figures, fmt.Sprintf("%.1f / %.1f / %.1f",
				waits[len(waits)/2], waits[len(waits)*95/100], waits[len(waits)*99/100]))
		}
		l := line{
			What:  fmt.Sprintf("%d events per second, enqueued to call, ms at p50 / p95 / p99; plain worker's", rate),
			Value: strings.Join(figures, "; "),
		}
		fmt.Fprintf(os.Stderr, "  %s: %s\n", l.What, l.Value)
		lines = append(lines, l)
	}
	return lines, nil
}
