package replay

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// PurgeOptions control a purge.
type PurgeOptions struct {
	// Progress, if not nil, is called with the number of messages that were just removed.
	Progress func(n int)
	ReceiveOptions
}

// PurgeResult counts what happened to the messages of a plan.
type PurgeResult struct {
	// Purged counts messages that were recorded and removed. Gone counts those that someone else
	// removed in the meantime. Left counts those that are still there.
	Purged int `json:"purged"`
	Gone   int `json:"gone,omitempty"`
	Left   int `json:"left,omitempty"`
	// Refused counts messages that stay dead letters, because they cannot be recorded as they are.
	// Problems has the reasons for the first few.
	Refused  int      `json:"refused,omitempty"`
	Problems []string `json:"problems,omitempty"`
}

// chunkOfChanged is the number of letters to receive at once when the client library cannot read
// all of some letter. Their originals, of up to 256 KB each in the Standard tier, wait in limited
// memory to be recorded.
const chunkOfChanged = 50

// Purge removes the planned dead letters. Before it removes a letter, it passes it to record,
// together with others: when record returns nil, these letters must be on stable storage. A letter
// stays if the client library cannot read all of it and its original bytes are not available.
//
// Purge returns when it is done, when no letter can be received any more, or when ctx ends. It
// unlocks everything else. The result is valid even if err != nil.
func (q *Queue) Purge(ctx context.Context, p *Plan, record func([]Found) error, o PurgeOptions) (PurgeResult, error) {
	r := &receiver{ReceiveOptions: o.ReceiveOptions, queue: q, filter: p.filter, chunk: maxChunk, wanted: p.wanted}
	if p.changed {
		r.chunk = chunkOfChanged
	}
	u := &purging{receiver: r, record: record, options: o, recorded: map[int64]struct{}{}}
	gone, err := r.run(ctx, func(messages []*azservicebus.ReceivedMessage) ([]int64, error) { return u.work(ctx, messages) })
	for _, sequence := range gone {
		if _, ok := u.recorded[sequence]; ok {
			u.result.Purged++ // removed, although the answer was lost
		} else {
			u.result.Gone++
		}
	}
	u.result.Left = len(r.wanted)
	return u.result, err
}

// purging is the state of one purge.
type purging struct {
	receiver *receiver
	record   func([]Found) error
	options  PurgeOptions
	result   PurgeResult
	recorded map[int64]struct{} // the sequence numbers of letters that are recorded and not yet removed
}

// work records and removes a chunk of letters.
func (u *purging) work(ctx context.Context, messages []*azservicebus.ReceivedMessage) (settled []int64, err error) {
	var found []Found
	var removable []*azservicebus.ReceivedMessage
	for _, m := range messages {
		if _, ok := u.recorded[*m.SequenceNumber]; !ok {
			one := u.receiver.queue.read(m)
			if one.changed() && len(one.Original) == 0 {
				u.result.Refused++
				addProblem(&u.result.Problems, one.SequenceNumber, ErrNoOriginal.Error())
				delete(u.receiver.wanted, one.SequenceNumber)
				continue
			}
			found = append(found, one)
		}
		removable = append(removable, m)
	}
	if len(found) > 0 {
		if err := u.record(found); err != nil {
			return nil, err
		}
		for _, f := range found {
			u.recorded[f.SequenceNumber] = struct{}{}
		}
	}
	settled, err = u.receiver.complete(ctx, removable)
	for _, sequence := range settled {
		delete(u.recorded, sequence)
	}
	u.result.Purged += len(settled)
	if u.options.Progress != nil && len(settled) > 0 {
		u.options.Progress(len(settled))
	}
	return settled, err
}
