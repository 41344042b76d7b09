package consumer

import (
	"time"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/replicas"
	"github.com/session-revoker/session-revoker/retry"
)

// next is what is to be done for a user whose turn it is, after what the other replicas know.
type next int

const (
	// mayCall: nobody else is calling for the user.
	mayCall next = iota
	// nobodyWaits: another replica's call has covered all.
	nobodyWaits
	// parkAgain: what is left waits for the end of the window of another replica's verdict.
	parkAgain
	// waitForOther: another replica is calling.
	waitForOther
	// waitForRelease: all replicas together have called as many people as is plausible.
	waitForRelease
)

// How often it is looked whether another replica has ended its call for a user: soon, since most calls are short, and then ever less often.
const (
	askSoon   = 50 * time.Millisecond
	askSeldom = time.Second
)

// lease asks the other replicas whether the user is still to be called for, and makes them wait if so; the lease's End follows then.
func (c *Consumer) lease(w *dedupe.Work) (*replicas.Lease, next) {
	if c.Replicas == nil {
		return nil, mayCall
	}
	lease, known, taken := c.Replicas.Lease(w.Context(), w.Key())
	next := mayCall
	if !known.Start.IsZero() {
		switch again, parked := w.Adopt(known); {
		case !again:
			next = nobodyWaits
		case parked:
			next = parkAgain
		}
	}
	switch {
	case next == mayCall && taken:
		next = waitForOther
	case next == mayCall && !c.plausible(w):
		next = waitForRelease
	}
	if next != mayCall {
		lease.End(w.Context(), dedupe.Verdict{})
		return nil, next
	}
	return lease, mayCall
}

// plausible counts the user among those whom all replicas have called. One too many trips the guard here; in the others it trips when they want to
// call one.
func (c *Consumer) plausible(w *dedupe.Work) bool {
	if c.Volume.Max == 0 {
		return true
	}
	limit := c.line.volumeState().Limit
	most := limit
	if c.Volume.Observe {
		most = 0
	}
	may, total := c.Replicas.Count(w.Context(), w.Key(), most, c.Volume.Window)
	if !may || total > limit {
		c.line.trip()
	}
	return may
}

// awaitOther waits until no other replica is calling for the user. It says whether somebody still waits.
func (c *Consumer) awaitOther(w *dedupe.Work) bool {
	w.Pause()
	defer w.Resume()
	for wait := askSoon; retry.Sleep(w.Context(), wait) == nil; wait = min(2*wait, askSeldom) {
		if _, taken := c.Replicas.Look(w.Context(), w.Key()); !taken {
			return true // the next turn finds what that call has decided
		}
	}
	return false
}
