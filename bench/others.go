package main

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// The plain worker in JavaScript, with Azure's client. npm installs what it needs into a temporary
// folder.
//
//go:embed others/.npmrc others/package.json others/package-lock.json others/worker.mjs
var nodeFiles embed.FS

// nodeWorker is the name of the plain worker in JavaScript, and nodeProgram its file.
const nodeWorker = "plain worker in Node.js"

var nodeProgram string

// usage is what a contender needs for events of as many users.
type usage struct {
	rate      float64 // events per second
	micros    float64 // of CPU time for each event, with the start of the process
	megabytes float64 // peak memory
	wait      float64 // ms from the enqueueing of an event to its call, p50, at 5 events per second
}

// others compares the worker with plain workers, one of them in another language.
func others(o options) ([]line, error) {
	dir, err := installNode()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	const events = 20_000
	contenders := []string{nodeWorker, plainWorker, ourWorker}
	ratios, micros, sizes, waits := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for range o.rounds {
		round := map[string]float64{} // the rates
		for _, name := range contenders {
			u, err := use(name, events)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			fmt.Fprintf(os.Stderr, "  %s: %.0f events/s, %.0f µs of CPU each, %.0f MB, p50 %.1f ms\n",
				name, u.rate, u.micros, u.megabytes, u.wait)
			round[name] = u.rate
			micros[name] = append(micros[name], u.micros)
			sizes[name] = append(sizes[name], u.megabytes)
			waits[name] = append(waits[name], u.wait)
		}
		for name, rate := range round {
			ratios[name] = append(ratios[name], rate/round[ourWorker])
		}
	}
	var lines []line
	for _, name := range contenders {
		lines = append(lines, line{
			name + ": rate ÷ worker's; CPU time per event, µs; peak memory, MB; enqueued to call, p50, ms",
			fmt.Sprintf("%.2f; %.0f; %.0f; %.1f", median(ratios[name]), median(micros[name]), median(sizes[name]), median(waits[name])), "",
		})
	}
	return lines, nil
}

// use runs a contender until it has settled n events of as many users, and once more at a slow rate.
func use(name string, n int) (u usage, err error) {
	waits, err := waitsAt(name, 5, 50)
	if err != nil {
		return u, err
	}
	u.wait = median(waits)
	s, err := newStage(n, graph.Quota{})
	if err != nil {
		return u, err
	}
	defer s.close()
	if err := s.send(n, n); err != nil {
		return u, err
	}
	p, err := s.start(name, fmt.Sprintf("REVOKER_CONSUMER_CONCURRENCY=%d", goroutines))
	if err != nil {
		return u, err
	}
	settled := s.awaitSettled(n, 5*time.Minute)
	peak, err := p.peakMemory()
	if err != nil {
		return u, err
	}
	if err := p.stop(); err != nil {
		return u, err
	}
	u.rate, u.megabytes = s.rate(), float64(peak)/1e6
	u.micros = p.cpu().Seconds() * 1e6 / float64(n)
	return u, settled
}

// installNode copies the plain worker in JavaScript into a new folder, and lets npm install what it
// needs.
func installNode() (dir string, err error) {
	dir, err = os.MkdirTemp("", "bench-node")
	if err != nil {
		return "", err
	}
	files, err := fs.Sub(nodeFiles, "others")
	if err == nil {
		err = os.CopyFS(dir, files)
	}
	if err != nil {
		return "", err
	}
	install := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci (install Node.js 20 or later, with npm): %w\n%s", err, out)
	}
	nodeProgram = filepath.Join(dir, "worker.mjs")
	return dir, nil
}
