package ingest

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// maxVisitors is the maximum number of addresses that are told apart for a source. Further ones
	// share one limit.
	maxVisitors = 1024
	// maxKnown is the maximum number of addresses of a source that are known to have proven themselves.
	maxKnown = 256
	// burstFactor is how many seconds' worth of requests an address may make at once.
	burstFactor = 5
	// slotWait is the longest time that a request waits for its turn, before its body is read.
	slotWait = time.Second
)

// limits keep the requests of one source apart from those of others, and those of one address from
// those of others of the same source.
type limits struct {
	slots chan struct{} // one for each request that is worked on
	// kept are more slots, for addresses that have proven themselves before: a signature is known only
	// with the body, so strangers can take up the others with slow bodies.
	kept    chan struct{}
	waiting atomic.Int32
	events  *rate.Limiter // of authenticated events

	addressRate  rate.Limit
	addressBurst int
	addressSlots int // how many requests of one address are worked on or wait at the same time

	mu       sync.Mutex
	visitors map[netip.Prefix]*visitor
	others   visitor
	known    map[netip.Prefix]*visitor // that have proven themselves
}

// visitor is an address that sends requests.
type visitor struct {
	requests *rate.Limiter
	inFlight int
	last     time.Time
}

func newLimits(concurrency, addressRate, eventRate, eventBurst int) *limits {
	kept := max(1, concurrency/4)
	l := &limits{
		slots:       make(chan struct{}, max(1, concurrency-kept)),
		kept:        make(chan struct{}, kept),
		events:      rate.NewLimiter(rate.Limit(eventRate), eventBurst),
		addressRate: rate.Limit(addressRate), addressBurst: burstFactor * addressRate, addressSlots: max(1, concurrency/2),
		visitors: map[netip.Prefix]*visitor{}, known: map[netip.Prefix]*visitor{},
	}
	l.others.requests = rate.NewLimiter(l.addressRate, l.addressBurst)
	return l
}

// network returns what counts as one address: of IPv6, the network that a customer gets.
func network(address netip.Addr) netip.Prefix {
	bits := address.BitLen()
	if address.Is6() && !address.Is4In6() {
		bits = 64
	}
	prefix, err := address.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// enter lets a request of an address in, and returns what to call when it is over. leave is nil if
// the address makes too many requests.
func (l *limits) enter(address netip.Addr, now time.Time) (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.visitor(network(address), now)
	v.last = now
	if !v.requests.AllowN(now, 1) || v.inFlight >= l.addressSlots {
		return nil
	}
	v.inFlight++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		v.inFlight--
	}
}

// visitor returns the entry of an address. When the table is full, it makes room by dropping
// addresses whose limits are as good as new.
func (l *limits) visitor(from netip.Prefix, now time.Time) *visitor {
	if v := l.known[from]; v != nil {
		return v
	}
	if v := l.visitors[from]; v != nil {
		return v
	}
	if len(l.visitors) >= maxVisitors {
		tried := 0
		for key, v := range l.visitors {
			if v.inFlight == 0 && now.Sub(v.last) > burstFactor*time.Second {
				delete(l.visitors, key)
			}
			if tried++; tried == 32 {
				break
			}
		}
		if len(l.visitors) >= maxVisitors {
			return &l.others
		}
	}
	v := &visitor{requests: rate.NewLimiter(l.addressRate, l.addressBurst)}
	l.visitors[from] = v
	return v
}

// know remembers that an address has proven itself. When there are too many, the one that was heard
// least lately is forgotten.
func (l *limits) know(address netip.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := network(address)
	if l.known[from] != nil {
		return
	}
	v := l.visitor(from, now)
	if v == &l.others {
		v = &visitor{requests: rate.NewLimiter(l.addressRate, l.addressBurst)}
	}
	v.last = now
	delete(l.visitors, from)
	if len(l.known) == maxKnown {
		oldest := from
		for key, other := range l.known {
			if o := l.known[oldest]; o == nil || other.last.Before(o.last) {
				oldest = key
			}
		}
		delete(l.known, oldest)
	}
	l.known[from] = v
}

// acquire waits for a request's turn. release is nil if too many wait already, or if it takes too
// long.
func (l *limits) acquire(ctx context.Context, address netip.Addr) (release func()) {
	release = func() { <-l.slots }
	select {
	case l.slots <- struct{}{}:
		return release
	default:
	}
	l.mu.Lock()
	known := l.known[network(address)] != nil
	l.mu.Unlock()
	if known {
		select {
		case l.kept <- struct{}{}:
			return func() { <-l.kept }
		default:
		}
	}
	if l.waiting.Add(1) > int32(cap(l.slots)) {
		l.waiting.Add(-1)
		return nil
	}
	defer l.waiting.Add(-1)
	timer := time.NewTimer(slotWait)
	defer timer.Stop()
	select {
	case l.slots <- struct{}{}:
		return release
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// logLimit lets one log line through in logEvery, and counts the others.
type logLimit struct {
	mu      sync.Mutex
	next    time.Time
	skipped int
}

// logEvery is the least time between two log lines about refused requests of one source.
const logEvery = 10 * time.Second

// allow reports whether a line may be written now, and how many were not written before it.
func (l *logLimit) allow(now time.Time) (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.next) {
		l.skipped++
		return 0, false
	}
	skipped, l.skipped, l.next = l.skipped, 0, now.Add(logEvery)
	return skipped, true
}

// maxSeen is the number of signed requests of all sources that are remembered, to recognize repeats.
// Each source has an equal part. Only tests change it.
var maxSeen = 1 << 16

// memory remembers the last keys that were added, up to a maximum.
type memory struct {
	mu   sync.Mutex
	keys map[[32]byte]struct{}
	ring [][32]byte
	next int
}

func newMemory(size int) *memory {
	return &memory{keys: map[[32]byte]struct{}{}, ring: make([][32]byte, 0, size)}
}

func (m *memory) has(key [32]byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.keys[key]
	return ok
}

func (m *memory) add(key [32]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.keys[key]; ok {
		return
	}
	m.keys[key] = struct{}{}
	if len(m.ring) < cap(m.ring) {
		m.ring = append(m.ring, key)
		return
	}
	delete(m.keys, m.ring[m.next])
	m.ring[m.next] = key
	m.next = (m.next + 1) % len(m.ring)
}
