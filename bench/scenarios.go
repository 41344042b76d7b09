package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// latency: one event per 200 ms, from its enqueueing to the arrival of its call at Graph.
func latency(o options) ([]line, error) {
	const events = 100
	measure := func(name string) (float64, error) {
		s, err := newStage(events+1, graph.Quota{})
		if err != nil {
			return 0, err
		}
		defer s.close()
		p, err := s.start(name)
		if err != nil {
			return 0, err
		}
		// The first event finds a process that still starts; it does not count.
		for i := range events + 1 {
			if err := s.sender.SendMessage(context.Background(), event(i), nil); err != nil {
				return 0, err
			}
			if i == 0 {
				if err := s.awaitSettled(1, time.Minute); err != nil {
					return 0, err
				}
			}
			time.Sleep(200 * time.Millisecond)
		}
		if err := s.awaitSettled(events+1, time.Minute); err != nil {
			return 0, err
		}
		var waits []float64
		for _, call := range s.graph.Calls() {
			var user int64
			if _, err := fmt.Sscanf(call.UserID, "00000000-0000-4000-8000-%d", &user); err != nil {
				return 0, err
			}
			if user > 0 {
				s.mu.Lock()
				// Users and sequence numbers are both in the order of sending; the first sequence number is 1.
				waits = append(waits, call.Start.Sub(s.enqueued[user+1]).Seconds()*1000)
				s.mu.Unlock()
			}
		}
		return median(waits), p.stop()
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
		"one event per 200 ms, enqueued to call, p50: ms more than the plain worker's", fmt.Sprintf("%+.2f", median(our)-median(their)), "≤ 2",
	}}, nil
}

// memory: the most that the worker needs while it drains 100,000 queued events.
func memory(options) ([]line, error) {
	const events = 100_000
	s, err := newStage(events, graph.Quota{})
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.send(events, events); err != nil {
		return nil, err
	}
	p, err := s.start(ourWorker)
	if err != nil {
		return nil, err
	}
	if err := s.awaitSettled(events, 5*time.Minute); err != nil {
		return nil, err
	}
	bytes, err := p.peakMemory()
	if err != nil {
		return nil, err
	}
	return []line{{"peak memory while 100,000 queued events of as many users are drained", fmt.Sprintf("%d MB", bytes/1_000_000), "< 64 MB"}}, p.stop()
}

// quota: how close to the least possible time the last user is revoked while Graph throttles.
func quota(o options) ([]line, error) {
	var lines []line
	for _, model := range []graph.QuotaModel{graph.FixedWindow, graph.SlidingWindow, graph.TokenBucket} {
		for _, headers := range []bool{true, false} {
			q := graph.Quota{Model: model, Limit: o.limit, Per: o.per, Headers: headers}
			l, err := throttled(o, q)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", model, err)
			}
			lines = append(lines, l)
		}
	}
	return lines, nil
}

func throttled(o options, q graph.Quota) (line, error) {
	s, err := newStage(o.people, q)
	if err != nil {
		return line{}, err
	}
	defer s.close()
	if err := s.send(o.people, o.people); err != nil {
		return line{}, err
	}
	p, err := s.start(ourWorker)
	if err != nil {
		return line{}, err
	}
	if err := s.awaitSettled(o.people, 10*time.Minute); err != nil {
		return line{}, err
	}
	var first, last time.Time
	revoked, refused := map[string]bool{}, 0
	for _, call := range s.graph.Calls() {
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
	header, goal := "on", "≤ 1.05 ×, ≤ 1.0"
	if !q.Headers {
		header, goal = "off", "≤ 1.25 ×"
	}
	l := line{
		fmt.Sprintf("%d users, %d calls per %s, %s, percentage header %s: time ÷ least possible; 429s per 100 successes", o.people, q.Limit, q.Per, q.Model, header),
		fmt.Sprintf("%.3f ×, %.1f", took, float64(refused)*100/float64(len(revoked))), goal,
	}
	fmt.Fprintf(os.Stderr, "  %s: %s\n", l.what, l.value)
	if len(revoked) != o.people {
		return l, fmt.Errorf("only %d of %d users are revoked", len(revoked), o.people)
	}
	return l, p.stop()
}
