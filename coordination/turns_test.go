package coordination

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// slowConn is a connection on which what is written arrives a little later, as in a network.
type slowConn struct{ net.Conn }

// Write writes after 0.3 to 1.5 ms.
func (c slowConn) Write(b []byte) (int, error) {
	time.Sleep(300*time.Microsecond + rand.N(1200*time.Microsecond))
	return c.Conn.Write(b)
}

// pause is how long the bucket asks a refused caller to wait.
const pause = time.Second

// bucket is a server's quota of 300 calls, of which it regains 20 a second.
type bucket struct {
	mu     sync.Mutex
	tokens float64
	since  time.Time
}

func (b *bucket) call() (usage float64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(300, b.tokens+20*time.Since(b.since).Seconds())
	b.since = time.Now()
	if b.tokens < 1 {
		return 1, tooMany{pause}
	}
	b.tokens--
	return 1 - b.tokens/300, nil
}

// caller is a replica that always has ordinary users who wait, and sometimes an urgent one.
type caller struct {
	*Limiter
	quota *bucket

	mu       sync.Mutex // like the lock of the owner of the calls
	inFlight int
	ordinary int           // calls that have begun
	since    time.Time     // when the urgent user came; zero if there is none
	most     time.Duration // for which an urgent user has waited
	stopped  bool
}

// come makes an urgent user wait.
func (c *caller) come() {
	c.mu.Lock()
	c.since = time.Now()
	c.mu.Unlock()
	c.grant()
}

// made returns the number of ordinary calls since it was asked last.
func (c *caller) made() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, c.ordinary = c.ordinary, 0
	return n
}

// longest returns for how long an urgent user has waited at most.
func (c *caller) longest() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.most
}

// grant begins the calls that are allowed.
func (c *caller) grant() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.stopped && c.inFlight < 16 {
		urgent := !c.since.IsZero()
		if urgent {
			c.Want(100, 1)
		} else {
			c.Want(100, 5)
		}
		if _, ok := c.Allow(time.Now()); !ok {
			return
		}
		if urgent {
			c.most, c.since = max(c.most, time.Since(c.since)), time.Time{}
		} else {
			c.ordinary++
		}
		c.inFlight++
		go c.call(c.Begin(time.Now()))
	}
}

func (c *caller) call(number int) {
	time.Sleep(50*time.Millisecond + rand.N(100*time.Millisecond))
	usage, err := c.quota.call()
	c.End(number, err, usage, time.Now())
	c.mu.Lock()
	c.inFlight--
	c.mu.Unlock()
	c.grant()
}

// Three replicas have more to do than the quota allows. None of them may keep the others from calling,
// and an urgent user goes before the ordinary ones of all replicas.
func TestLimiterReplicasTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := miniredis.NewMiniRedis()
		quota := &bucket{tokens: 300, since: time.Now()}
		ctx, stop := context.WithCancel(t.Context())
		var callers []*caller
		var clients []*redis.Client
		for range 3 {
			client := redis.NewClient(&redis.Options{
				Addr: "127.0.0.1:6379", MaxRetries: -1, DisableIdentity: true, PoolSize: 1000, ContextTimeoutEnabled: true,
				Dialer: func(context.Context, string, string) (net.Conn, error) {
					conn, err := server.Dial()
					return slowConn{conn}, err
				},
			})
			clients = append(clients, client)
			s, _ := newStore(client, "contoso")
			c := &caller{Limiter: s.NewLimiter("app", 80), quota: quota}
			callers = append(callers, c)
			c.Want(100, 5)
			go c.Run(ctx, c.grant)
			c.wake()
		}
		total := 0
		for second := 1; second <= 120; second++ {
			time.Sleep(time.Second)
			if second%4 == 0 {
				callers[second/4%3].come()
			}
			if second%15 > 0 {
				continue
			}
			for i, c := range callers {
				n := c.made()
				if n == 0 {
					t.Errorf("replica %d made no call in 15 s", i)
				}
				total += n
			}
		}
		var most []time.Duration
		for i, c := range callers {
			most = append(most, c.longest())
			if most[i] > pause+pause/2 { // they may come just when a call was refused
				t.Errorf("an urgent user of replica %d waited for %s", i, most[i])
			}
		}
		t.Logf("%d calls; urgent users waited for %v at most", total, most)
		if total < 2300 { // of 2,700
			t.Errorf("%d calls", total)
		}
		stop()
		for _, c := range callers {
			c.mu.Lock()
			c.stopped = true
			c.mu.Unlock()
		}
		time.Sleep(time.Minute)
		for _, c := range clients {
			if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
		server.Close()
	})
}
