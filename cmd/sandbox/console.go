package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// The console is a command of the worker, so it runs in the worker's program: the one beside this
// program, as make build leaves it, or one that is built for the occasion.

// workerPackage is what to build.
const workerPackage = "github.com/session-revoker/session-revoker/cmd/worker"

// runConsole runs worker console until ctx ends, and calls say with each link, and with why there is
// none. dir is for the program.
func runConsole(ctx context.Context, dir string, settings []string, args []string, say func(string)) {
	program, err := workerProgram(ctx, dir, say)
	if err != nil {
		if ctx.Err() == nil {
			say("the console is not started: " + err.Error())
		}
		return
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"console", "--no-browser"}, args...)...) //nolint:gosec // a program of ours
	cmd.Env = append(os.Environ(), settings...)
	cmd.Dir, cmd.Stdin = dir, os.Stdin // Enter asks for another link
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var problem strings.Builder
	cmd.Stderr = &problem
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		say("the console is not started: " + err.Error())
		return
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if link, ok := strings.CutPrefix(lines.Text(), "console: "); ok {
			say(link)
		}
	}
	if err := cmd.Wait(); err != nil && ctx.Err() == nil {
		say(fmt.Sprintf("the console has ended: %v %s", err, strings.TrimSpace(problem.String())))
	}
}

// workerProgram returns the worker's program.
func workerProgram(ctx context.Context, dir string, say func(string)) (string, error) {
	name := "worker"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	own, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(own), name)
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
		return beside, nil
	}
	say("building cmd/worker for the console…")
	program := filepath.Join(dir, name)
	// Linking takes seconds. go build does it each time, whereas go run keeps the program in its cache.
	// It tells the path only to the program that it runs it with, which is this one: see copyProgram.
	build := exec.CommandContext(ctx, "go", "run", "-exec", "'"+own+"'", workerPackage) //nolint:gosec // no input
	build.Env = append(os.Environ(), copyTo+"="+program)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go run: %w %s", err, strings.TrimSpace(string(out)))
	}
	return program, nil
}

// copyTo is the environment variable with which the sandbox only copies a program.
const copyTo = "SANDBOX_COPY_TO"

// copyProgram copies a program to a new file.
func copyProgram(from, to string) error {
	program, err := os.ReadFile(from) //nolint:gosec // go run names it
	if err != nil {
		return err
	}
	return os.WriteFile(to, program, 0o700) //nolint:gosec // a program of ours, in a folder of ours
}

// startConsole runs the console for the servers and workers, and shows its link. stop ends it and
// waits for its end.
func startConsole(ctx context.Context, s *servers, all workers, o options, screen *view) (stop func()) {
	args := []string{"--address", o.console}
	for _, worker := range all {
		if ops := worker.OpsAddress(); ops != "" {
			args = append(args, "--worker", ops)
		}
	}
	if s.webhooks != nil {
		args = append(args, "--ingest", s.webhooks.server.OpsAddress())
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		runConsole(ctx, filepath.Dir(o.auditFile), s.settings(o), args, screen.showConsole)
		close(done)
	}()
	return func() {
		cancel()
		<-done
	}
}
