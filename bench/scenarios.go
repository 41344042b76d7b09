package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/google/uuid"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// waitsAt sends rate events per second. It returns, in milliseconds, the time from the enqueueing
// of each event until its call arrived at Graph.
func waitsAt(name string, rate, events int) ([]float64, error) {
	s, err := newStage(events+1, graph.Quota{})
	if err != nil {
		return nil, err
	}
	defer s.close()
	p, err := s.start(name)
	if err != nil {
		return nil, err
	}
	// The first event does not count, because the process is still starting.
	var began time.Time
	for i := range events + 1 {
		if err := s.sender.SendMessage(context.Background(), event(i), nil); err != nil {
			return nil, err
		}
		if i == 0 {
			if err := s.awaitSettled(1, time.Minute); err != nil {
				return nil, err
			}
			began = time.Now()
		}
		time.Sleep(time.Until(began.Add(time.Duration(i+1) * time.Second / time.Duration(rate))))
	}
	if err := s.awaitSettled(events+1, time.Minute); err != nil {
		return nil, err
	}
	var waits []float64
	for _, call := range s.calls() {
		var user int64
		if _, err := fmt.Sscanf(call.UserID, idPrefix+"%d", &user); err != nil {
			return nil, err
		}
		if user > 0 {
			s.mu.Lock()
			// Users and sequence numbers both follow the order of sending. The first sequence
			// number is 1.
			waits = append(waits, call.Start.Sub(s.enqueued[user+1]).Seconds()*1000)
			s.mu.Unlock()
		}
	}
	return waits, p.stop()
}

// latency measures the time from the enqueueing of an event until its call arrives at Graph, with
// one event per 200 ms.
func latency(o options) ([]line, error) {
	measure := func(name string) (float64, error) {
		waits, err := waitsAt(name, 5, 100)
		if err != nil {
			return 0, err
		}
		return median(waits), nil
	}
	var our, their []float64
	for range max(1, o.rounds/2) {
		theirs, err := measure(plainWorker)
		if err != nil {
			return nil, err
		}
		ours, err := measure(ourWorker)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "  p50 %.2f ms, plain worker %.2f ms\n", ours, theirs)
		our, their = append(our, ours), append(their, theirs)
	}
	return []line{{
		"one event per 200 ms, enqueued to call, p50: ms more than the plain worker's",
		fmt.Sprintf("%+.2f", median(our)-median(their)), "≤ 2",
	}}, nil
}

// memory measures the worker's peak memory while it drains 100,000 queued events.
func memory(options) ([]line, error) {
	const events = 100_000
	bytes, _, err := drainAll(events, events)
	if err != nil {
		return nil, err
	}
	return []line{{
		"peak memory while 100,000 queued events of as many users are drained", fmt.Sprintf("%.0f MB", bytes/1e6), "< 48 MB",
	}}, nil
}

// quota measures the time until the last user is revoked while Graph throttles, compared with the
// least possible time.
func quota(o options) ([]line, error) {
	var lines []line
	for _, model := range []graph.QuotaModel{graph.FixedWindow, graph.SlidingWindow, graph.TokenBucket} {
		for _, headers := range []bool{true, false} {
			q := graph.Quota{Model: model, Limit: o.limit, Per: o.per, Headers: headers}
			l, err := throttled(ourWorker, o, q, 1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", model, err)
			}
			fmt.Fprintf(os.Stderr, "  %s: %s\n", l.What, l.Value)
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// plainly measures plain workers under a quota, with the retries of the Graph SDK and with those of
// backoff/v4.
func plainly(o options) ([]line, error) {
	var lines []line
	for _, name := range []string{sdkRetries, plainBackoff, ourWorker} {
		l, err := throttled(name, o, graph.Quota{Model: graph.FixedWindow, Limit: o.limit, Per: o.per, Headers: true}, 1)
		if err != nil {
			l.Value += fmt.Sprintf(" (%v)", err)
		}
		l.What, l.Goal = name+": "+l.What, ""
		fmt.Fprintf(os.Stderr, "  %s: %s\n", l.What, l.Value)
		lines = append(lines, l)
	}
	return lines, nil
}

// throttled measures how long one or more workers need for one event of each of o.people users. env
// holds settings for each worker.
func throttled(name string, o options, q graph.Quota, workers int, env ...string) (line, error) {
	s, err := newStage(o.people, q)
	if err != nil {
		return line{}, err
	}
	defer s.close()
	if err := s.send(o.people, o.people); err != nil {
		return line{}, err
	}
	var running []*process
	defer func() {
		for _, p := range running {
			if p.ProcessState == nil { // it failed
				_ = p.Process.Kill()
				_ = p.Wait()
			}
		}
	}()
	for range workers {
		p, err := s.start(name, env...)
		if err != nil {
			return line{}, err
		}
		running = append(running, p)
	}
	if err := s.awaitSettled(o.people, 10*time.Minute); err != nil {
		return line{}, err
	}
	var first, last time.Time
	revoked, refused := map[string]bool{}, 0
	for _, call := range s.calls() {
		if first.IsZero() || call.Start.Before(first) {
			first = call.Start
		}
		switch {
		case call.Revoked:
			revoked[call.UserID] = true
			last = call.End
		case call.Status == 429:
			refused++
		}
	}
	took := last.Sub(first).Seconds() / q.CheapestDone(o.people).Seconds()
	header, goal := "on", "≤ 1.03 ×, ≤ 1.0"
	if !q.Headers {
		header, goal = "off", "≤ 1.25 ×"
	}
	l := line{
		fmt.Sprintf("%d users, %d calls per %s, %s, percentage header %s: time ÷ least possible; 429s per 100 successes",
			o.people, q.Limit, q.Per, q.Model, header),
		fmt.Sprintf("%.3f ×, %.1f", took, float64(refused)*100/float64(len(revoked))), goal,
	}
	if len(revoked) != o.people {
		return l, fmt.Errorf("only %d of %d users are revoked", len(revoked), o.people)
	}
	for _, p := range running {
		if err := p.stop(); err != nil {
			return l, err
		}
	}
	return l, nil
}

// together measures several workers under one quota, with Redis and without.
func together(o options) ([]line, error) {
	stop, address, err := startRedis(o.redis)
	if err != nil {
		return nil, err
	}
	defer stop()
	var lines []line
	for _, model := range o.models {
		for _, workers := range o.workers {
			q := graph.Quota{Model: graph.QuotaModel(model), Limit: o.limit, Per: o.per, Headers: true}
			for _, shared := range []bool{true, false} {
				how, goal := "Redis", "≤ 1.03 ×, ≤ 1.0"
				env := []string{"REVOKER_REDIS_ADDRESSES=" + address, "REVOKER_GRAPH_TENANT_ID=run-" + uuid.NewString()}
				if !shared {
					how, goal, env = "nothing but Graph's answers", "≤ 1.10 ×, ≤ 3.0", nil
				}
				l, err := throttled(ourWorker, o, q, workers, env...)
				if err != nil {
					return nil, fmt.Errorf("%d workers, %s, %s: %w", workers, model, how, err)
				}
				l.What, l.Goal = fmt.Sprintf("%d workers that share %s: %s", workers, how, l.What), goal
				fmt.Fprintf(os.Stderr, "  %s: %s\n", l.What, l.Value)
				lines = append(lines, l)
			}
		}
	}
	return lines, nil
}

// startRedis starts a Redis and waits until it listens. If address is not empty, it returns that
// address and starts nothing.
func startRedis(address string) (stop func(), at string, err error) {
	if address != "" {
		return func() {}, address, nil
	}
	address, err = freeAddress()
	if err != nil {
		return nil, "", err
	}
	_, port, _ := net.SplitHostPort(address)
	//nolint:gosec // the port is a number
	server := exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
	if err := server.Start(); err != nil {
		return nil, "", fmt.Errorf("%w: install redis-server, or give the address of a Redis with --redis", err)
	}
	stop = func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			return stop, address, nil
		}
	}
	stop()
	return nil, "", errors.New("redis-server does not listen after 10 seconds")
}
