package console

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/session-revoker/session-revoker/replay"
)

// snapshot is what was last seen of the dead letters. It does not change.
type snapshot struct {
	// letters are in the order of sources and sequence numbers. They hold only what lists show.
	letters []replay.Letter
	// more counts dead letters beyond the bounds below.
	more int
	// reading means that the console is still reading for the first time. at is when reading began.
	reading bool
	at      time.Time
	err     error
}

const (
	// maxLetters and maxText bound a snapshot, in letters and in bytes of text.
	maxLetters = 200_000
	maxText    = 64 << 20
	// refresh is how often a snapshot is renewed while somebody looks. It takes longer if reading takes
	// more than a tenth of it.
	refresh = 10 * time.Second
	// unseen is how long after the last request reading goes on.
	unseen = time.Minute
	// readTimeout limits reading all dead letters once.
	readTimeout = 15 * time.Minute
)

// snapshots reads the dead letters in the background. Only its own goroutine reads; requests take
// what is there.
type snapshots struct {
	operations Operations
	now        func() time.Time
	last       atomic.Pointer[snapshot]
	asked      atomic.Int64  // when somebody last asked, in Unix nanoseconds
	wake       chan struct{} // somebody asks, and nothing was read for a while
	renew      chan struct{} // something has changed
	first      chan struct{} // closed when all was read for the first time
}

func newSnapshots(operations Operations, now func() time.Time) *snapshots {
	s := &snapshots{
		operations: operations, now: now, wake: make(chan struct{}, 1), renew: make(chan struct{}, 1),
		first: make(chan struct{}),
	}
	s.last.Store(&snapshot{reading: true})
	return s
}

// firstWait is how long a page waits for the first reading, which is often done by then.
const firstWait = 60 * time.Millisecond

// get returns what was last seen.
func (s *snapshots) get() *snapshot {
	s.asked.Store(s.now().UnixNano())
	notify(s.wake)
	if last := s.last.Load(); !last.reading {
		return last
	}
	select {
	case <-s.first:
	case <-time.After(firstWait):
	}
	return s.last.Load()
}

// changed says that the dead letters are not what they were.
func (s *snapshots) changed() { notify(s.renew) }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run reads while somebody asks.
func (s *snapshots) run(ctx context.Context) {
	for {
		select { // nobody has asked yet, or for a while
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-s.renew:
		}
		for s.now().Sub(time.Unix(0, s.asked.Load())) < unseen {
			began := s.now()
			s.read(ctx)
			pause := max(refresh, 10*s.now().Sub(began))
			timer := time.NewTimer(min(pause, 5*time.Minute))
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			case <-s.renew:
				timer.Stop()
			}
		}
		select { // it was answered meanwhile
		case <-s.wake:
		default:
		}
	}
}

// read replaces the snapshot. While it reads for the first time, it shows what it has.
func (s *snapshots) read(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	before := s.last.Load()
	next := &snapshot{at: s.now(), letters: make([]replay.Letter, 0, len(before.letters)+64)}
	texts, held := map[string]string{}, 0
	intern := func(text string) string {
		if known, ok := texts[text]; ok {
			return known
		}
		text = strings.Clone(text)
		texts[text] = text
		held += len(text)
		return text
	}
	next.err = s.operations.EachLetter(ctx, func(l replay.Letter) error {
		if len(next.letters) == maxLetters || held > maxText {
			next.more++
			return nil
		}
		next.letters = append(next.letters, listed(l, intern))
		if n := len(next.letters); before.reading && n%500 == 0 {
			s.last.Store(&snapshot{letters: next.letters[:n:n], at: next.at, reading: true})
		}
		return nil
	})
	if next.err != nil && !before.reading { // what was seen is better than a part
		next = &snapshot{letters: before.letters, more: before.more, at: before.at, err: next.err}
	}
	s.last.Store(next)
	if before.reading {
		close(s.first)
	}
}

// listed returns what lists show of a letter, with texts that share no memory with the message.
func listed(l replay.Letter, intern func(string) string) replay.Letter {
	all := func(list []string) []string {
		kept := make([]string, len(list))
		for i, text := range list {
			kept[i] = intern(text)
		}
		return kept
	}
	return replay.Letter{
		Source: intern(l.Source), SequenceNumber: l.SequenceNumber, Enqueued: l.Enqueued, MessageID: intern(l.MessageID),
		Users: all(l.Users), Types: all(l.Types), Producers: all(l.Producers), Reason: intern(l.Reason),
		Description: intern(cut(l.Description, 200)), Unreadable: intern(l.Unreadable), Mended: intern(l.Mended),
		Attempts: l.Attempts, Replays: l.Replays, Run: intern(l.Run),
	}
}
