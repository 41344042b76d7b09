package ingest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/ingest/ssf/ssftest"
)

// TestPollLosesNothing emits tokens while Service Bus hangs, the transmitter fails and breaks off
// answers, and the ingest is stopped and killed. Whatever was acknowledged is on the queue, and
// nothing was refused. In the end all tokens are on the queue.
func TestPollLosesNothing(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { loseNothing(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func loseNothing(t *testing.T, random *rand.Rand) {
	faults := &faulty{}
	var ill atomic.Int32 // how the transmitter fails
	var shown atomic.Pointer[ssftest.Transmitter]
	answer := func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/keys") {
			return false
		}
		switch ill.Load() {
		case 1:
			http.Error(w, "", http.StatusInternalServerError)
			return true
		case 2: // the answer is lost after the transmitter has taken the acknowledgments
			shown.Load().Serve(discard{http.Header{}}, r)
			panic(http.ErrAbortHandler)
		}
		return false
	}
	p := plan{
		tx:    func(tx *ssftest.Transmitter) { tx.Answer = answer; tx.Hold = time.Second; shown.Store(tx) },
		world: func(s *settings) { s.wrap = faults.wrap },
	}
	inSignals(t, p, func(w *signals) {
		var emitted []string
		check := func() {
			t.Helper()
			queued := map[string]bool{}
			for _, m := range w.queued() {
				queued[m.MessageID] = true
			}
			if got := onlyTokens(w.tx.Acked(), emitted...); len(got) > 0 {
				slices.Sort(got)
				if distinct := len(slices.Compact(got)); distinct > len(queued) {
					t.Fatalf("%d tokens are acknowledged, and %d on the queue", distinct, len(queued))
				}
			}
			if len(w.tx.Refused()) > 0 {
				t.Fatalf("refused: %v", w.tx.Refused())
			}
		}
		var kill context.CancelFunc
		restart := func() {
			var hard context.Context
			hard, kill = context.WithCancel(context.Background())
			w.start(hard)
		}
		_ = w.stop()
		restart()
		defer func() { kill() }()
		for range 60 {
			for range random.IntN(8) {
				emitted = append(emitted, w.tx.Emit(ssftest.AccountDisabled, nil, ada))
			}
			switch random.IntN(8) {
			case 0:
				faults.change(func() { faults.delay = time.Duration(random.IntN(8)) * time.Second })
			case 1:
				ill.Store(random.Int32N(3))
			case 2: // killed, with whatever is in flight
				kill()
				_ = w.stop()
				restart()
			case 3:
				_ = w.stop()
				kill()
				restart()
			default:
				ill.Store(0)
				faults.change(func() { faults.delay = 0 })
			}
			w.after(time.Duration(random.IntN(5000)) * time.Millisecond)
			check()
		}
		ill.Store(0)
		faults.change(func() { faults.delay = 0 })
		w.after(5 * time.Minute)
		check()
		distinct := map[string]bool{}
		for _, m := range w.queued() {
			distinct[m.MessageID] = true
		}
		if len(distinct) != len(emitted) || w.tx.Waiting() != 0 {
			t.Errorf("%d tokens were emitted, %d are on the queue, and %d wait", len(emitted), len(distinct), w.tx.Waiting())
		}
	})
}

// discard is an answer that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}
