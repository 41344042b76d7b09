package console

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/status"
)

const (
	// sampleEvery is how often the replicas are asked, and maxPoints how many answers are remembered:
	// an hour.
	sampleEvery = 10 * time.Second
	maxPoints   = 360
	// maxReplicas is the most replicas to ask.
	maxReplicas = 64
	// lookEvery is how often to look into the queues while somebody asks, and lookTimeout limits that.
	lookEvery   = 30 * time.Second
	lookTimeout = time.Minute
)

// point is what all replicas together said at one time.
type point struct {
	at                           time.Time
	waiting                      float64
	revokedPerMinute, diedPerMin float64
	revoked, died                int // since the point before
}

// sampler asks the replicas and remembers an hour.
type sampler struct {
	addresses []string
	ingests   []string
	client    *http.Client
	look      func(context.Context) []status.Queue
	now       func() time.Time
	wake      chan struct{} // somebody asks

	mu     sync.Mutex
	queues []status.Queue
	last   []status.Replica
	heard  []status.Ingest
	at     time.Time // when they were asked; zero before the first answer
	points []point   // oldest first; only those for which somebody answered
}

func newSampler(
	workers, ingests []string, client *http.Client, look func(context.Context) []status.Queue, now func() time.Time,
) (*sampler, error) {
	if len(workers)+len(ingests) > maxReplicas {
		return nil, fmt.Errorf("%d workers are more than %d", len(workers)+len(ingests), maxReplicas)
	}
	s := &sampler{client: client, look: look, now: now, wake: make(chan struct{}, 1)}
	for to, list := range map[*[]string][]string{&s.addresses: workers, &s.ingests: ingests} {
		for _, text := range list {
			address, err := status.Address(text)
			if err != nil {
				return nil, err
			}
			*to = append(*to, address)
		}
	}
	return s, nil
}

// run asks until ctx ends.
func (s *sampler) run(ctx context.Context) {
	if len(s.addresses)+len(s.ingests) == 0 {
		return
	}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		replicas := status.AskAll(ctx, s.client, s.addresses)
		heard := make([]status.Ingest, len(s.ingests))
		var asking sync.WaitGroup
		for i, address := range s.ingests {
			asking.Go(func() { heard[i] = status.AskIngest(ctx, s.client, address) })
		}
		asking.Wait()
		s.add(replicas, heard)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// runQueues looks into the queues, while somebody asks, until ctx ends.
func (s *sampler) runQueues(ctx context.Context) {
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		if s.now().Sub(last) < lookEvery {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, lookTimeout)
		queues := s.look(limited)
		cancel()
		last = s.now()
		s.mu.Lock()
		s.queues = queues
		s.mu.Unlock()
	}
}

// add remembers what the replicas say.
func (s *sampler) add(replicas []status.Replica, heard []status.Ingest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, known := point{at: s.now()}, false
	minutes := next.at.Sub(s.at).Minutes()
	for i, r := range replicas {
		if r.Error != "" {
			continue
		}
		known = true
		next.waiting = max(next.waiting, float64(r.UsersWaiting))
		if i < len(s.last) && s.last[i].Error == "" && minutes > 0 { // a worker that started again counts from 0
			next.revoked += max(0, r.Revoked-s.last[i].Revoked)
			next.died += max(0, dead(r)-dead(s.last[i]))
		}
	}
	if minutes > 0 {
		next.revokedPerMinute, next.diedPerMin = float64(next.revoked)/minutes, float64(next.died)/minutes
	}
	s.last, s.heard, s.at = replicas, heard, next.at
	if known {
		s.points = append(s.points, next)
	}
	hour := next.at.Add(-maxPoints * sampleEvery)
	s.points = slices.DeleteFunc(s.points, func(p point) bool { return p.at.Before(hour) })
	if len(s.points) > maxPoints {
		s.points = slices.Delete(s.points, 0, len(s.points)-maxPoints)
	}
}

func dead(r status.Replica) (n int) {
	for _, count := range r.DeadLettered {
		n += count
	}
	return n
}

// sampled is what was last seen.
type sampled struct {
	replicas []status.Replica
	ingests  []status.Ingest
	at       time.Time // when they were asked; zero before the first answer
	points   []point
	queues   []status.Queue
}

// get returns what was last seen.
func (s *sampler) get() sampled {
	notify(s.wake)
	s.mu.Lock()
	defer s.mu.Unlock()
	return sampled{slices.Clone(s.last), slices.Clone(s.heard), s.at, slices.Clone(s.points), s.queues}
}
