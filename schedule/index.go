package schedule

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/event"
)

const (
	// pageSize is how many messages one peek asks for. Service Bus may return fewer.
	pageSize = 100
	// maxEntries is the default of Config.MaxEntries.
	maxEntries = 50_000
	// rebuildAfter is the time after which an Index that was full tries again to remember.
	rebuildAfter = 10 * time.Minute
	// keepAfter is how long after its time an entry is kept that nobody has asked for.
	keepAfter = time.Hour
	// maxFound bounds how many announcements about one person are returned. There is one, unless
	// somebody floods the queue.
	maxFound = 100
	// partition is the number of bits of a sequence number below the number of its partition
	// (https://learn.microsoft.com/azure/service-bus-messaging/message-sequencing).
	partition = 48
)

// Config configures an Index.
type Config struct {
	// Peek returns up to n messages, from a sequence number on, in the order of their numbers.
	Peek    func(ctx context.Context, from int64, n int) ([]*azservicebus.ReceivedMessage, error)
	Decoder Decoder
	// MaxEntries bounds how many announcements are remembered, each in about 500 bytes. Beyond that,
	// each Find reads all messages, which is slow, and right. The default is 50,000.
	MaxEntries int
}

// Index finds the scheduled announcements of one queue. It remembers those that it has seen: a new
// message has a higher sequence number than all earlier ones, so a look reads only what is new. It is
// safe for concurrent use, and one look at a time is made.
type Index struct {
	cfg  Config
	memo *memo         // of cfg.Decoder
	lock chan struct{} // has a token while the index is in use; a mutex could not end with a context

	next      map[int64]int64           // the first number that was not seen, by partition
	entries   map[int64]Announcement    // by sequence number
	byKey     map[string]map[int64]bool // the sequence numbers, by a user's key
	looked    time.Time                 // when the last complete look began
	fullUntil time.Time                 // nothing is remembered until then; zero if the index is not full
}

// NewIndex returns an Index that has not looked yet.
func NewIndex(cfg Config) *Index {
	cfg.MaxEntries = cmp.Or(cfg.MaxEntries, maxEntries)
	i := &Index{cfg: cfg, memo: &memo{Decoder: cfg.Decoder}, lock: make(chan struct{}, 1)}
	i.reset()
	return i
}

// reset forgets everything.
func (i *Index) reset() {
	i.next, i.entries, i.byKey = map[int64]int64{}, map[int64]Announcement{}, map[string]map[int64]bool{}
}

func (i *Index) acquire(ctx context.Context) (release func(), err error) {
	select {
	case i.lock <- struct{}{}:
		return func() { <-i.lock }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another search for scheduled messages: %w", context.Cause(ctx))
	}
}

// Find returns the announcements about a person that are scheduled now, the one that counts first,
// then by falling order; at most 100. It reads what was scheduled since the last look. The first one
// is certainly still scheduled, the others perhaps. The error is Peek's, or that of ctx.
func (i *Index) Find(ctx context.Context, user event.User) ([]Announcement, error) {
	asked := time.Now()
	release, err := i.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	// Many ask at once when many dates come at once. A look that began after they asked serves all.
	if !i.looked.After(asked) {
		if _, err := i.look(ctx, allPages); err != nil {
			return nil, err
		}
	}
	var found []Announcement
	if i.fullUntil.IsZero() {
		found = i.remembered(user)
	} else if found, err = i.search(ctx, user); err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b Announcement) int { return cmp.Or(b.Compare(a), cmp.Compare(b.Sequence, a.Sequence)) })
	for len(found) > 0 {
		there, err := i.isThere(ctx, found[0].Sequence)
		if err != nil {
			return nil, err
		}
		if there {
			break
		}
		i.forget(found[0].Sequence)
		found = found[1:]
	}
	return found[:min(len(found), maxFound)], nil
}

// State is what an Index knows.
type State struct {
	// Announcements is how many are remembered. Full reports whether there are more than can be
	// remembered.
	Announcements int
	Full          bool
	// Complete reports whether all that was scheduled before the look was read.
	Complete bool
}

// Look reads one page of what was scheduled since the last look, and forgets what is past. Nobody waits
// for it, so its caller may take its time for the next page: each message that is peeked at costs as
// much as one that is received.
func (i *Index) Look(ctx context.Context) (State, error) {
	release, err := i.acquire(ctx)
	if err != nil {
		return State{}, err
	}
	defer release()
	complete, err := i.look(ctx, 1)
	i.forgetPast()
	return State{Announcements: len(i.entries), Full: !i.fullUntil.IsZero(), Complete: complete}, err
}

// Forget forgets a message that was canceled.
func (i *Index) Forget(ctx context.Context, sequence int64) {
	if release, err := i.acquire(ctx); err == nil {
		defer release()
		i.forget(sequence)
	}
}

// look reads at most so many pages of what is new, and reports whether that is all.
func (i *Index) look(ctx context.Context, pages int) (complete bool, err error) {
	began := time.Now()
	if !i.fullUntil.IsZero() {
		if began.Before(i.fullUntil) {
			return true, nil
		}
		i.fullUntil = time.Time{}
	}
	complete, err = i.scan(ctx, i.next, pages, i.remember)
	if complete {
		i.looked = began
	}
	return complete, err
}

// allPages is more than any queue has.
const allPages = math.MaxInt

// scan passes each announcement from the numbers in next on to found, until found returns false, or so
// many pages are read. It moves next. complete is false if there may be more.
//
// In a partitioned queue, the highest bits of a number are the partition, and the numbers grow in
// each partition by themselves.
func (i *Index) scan(
	ctx context.Context, next map[int64]int64, pages int, found func(Announcement) (more bool),
) (complete bool, err error) {
	from := next[0]
	for pages > 0 {
		messages, err := i.cfg.Peek(ctx, from, pageSize)
		if err != nil {
			return false, fmt.Errorf("peek at scheduled messages: %w", err)
		}
		if len(messages) == 0 {
			return true, nil
		}
		pages--
		for _, m := range messages {
			if m.SequenceNumber == nil {
				continue
			}
			number := *m.SequenceNumber
			part := number >> partition
			if number < next[part] { // the first one of a partition that was read before
				from = next[part]
				pages++ // nothing new was read
				break
			}
			if a, ok := Read(m, i.memo); ok && !found(a) {
				return true, nil
			}
			next[part] = number + 1
			if from = number + 1; from == math.MaxInt64 {
				return true, nil
			}
		}
	}
	return false, nil
}

// remember adds an announcement. If there is no room, the index forgets all, and is full.
func (i *Index) remember(a Announcement) bool {
	if len(i.entries) >= i.cfg.MaxEntries {
		i.forgetPast()
	}
	if len(i.entries) >= i.cfg.MaxEntries {
		i.reset()
		i.fullUntil = time.Now().Add(rebuildAfter)
		return false
	}
	a.Event = event.Event{ // the rest can be long, and nobody asks for it
		TakesEffect: a.Event.TakesEffect, Withdrawn: a.Event.Withdrawn, Type: a.Event.Type, Time: a.Event.Time,
	}
	i.entries[a.Sequence] = a
	for _, key := range keys(a.User) {
		if i.byKey[key] == nil {
			i.byKey[key] = map[int64]bool{}
		}
		i.byKey[key][a.Sequence] = true
	}
	return true
}

func (i *Index) forget(sequence int64) {
	for _, key := range keys(i.entries[sequence].User) {
		delete(i.byKey[key], sequence)
		if len(i.byKey[key]) == 0 {
			delete(i.byKey, key)
		}
	}
	delete(i.entries, sequence)
}

// forgetPast forgets announcements whose messages are active or gone by now.
func (i *Index) forgetPast() {
	past := time.Now().Add(-keepAfter)
	for sequence, a := range i.entries {
		if a.At.Before(past) {
			i.forget(sequence)
		}
	}
}

// remembered returns the remembered announcements about a person.
func (i *Index) remembered(user event.User) (found []Announcement) {
	seen := map[int64]bool{}
	for _, key := range keys(user) {
		for sequence := range i.byKey[key] {
			if a := i.entries[sequence]; !seen[sequence] && SamePerson(a.User, user) {
				seen[sequence] = true
				found = append(found, a)
			}
		}
	}
	return found
}

// search returns the announcements about a person, by reading all messages.
func (i *Index) search(ctx context.Context, user event.User) (found []Announcement, err error) {
	_, err = i.scan(ctx, map[int64]int64{}, allPages, func(a Announcement) bool {
		if SamePerson(a.User, user) {
			if found = append(found, a); len(found) > 2*maxFound {
				slices.SortFunc(found, func(a, b Announcement) int { return b.Compare(a) })
				found = found[:maxFound]
			}
		}
		return true
	})
	return found, err
}

// isThere reports whether a message is still scheduled. When it becomes active, it gets a new number.
func (i *Index) isThere(ctx context.Context, sequence int64) (bool, error) {
	messages, err := i.cfg.Peek(ctx, sequence, 1)
	if err != nil {
		return false, fmt.Errorf("peek at a scheduled message: %w", err)
	}
	return len(messages) > 0 && messages[0].SequenceNumber != nil && *messages[0].SequenceNumber == sequence &&
		messages[0].State == azservicebus.MessageStateScheduled, nil
}
