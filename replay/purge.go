package replay

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// PurgeOptions say how a purge goes.
type PurgeOptions struct {
	// Progress, if not nil, is told how many messages were removed more.
	Progress func(n int)
	ReceiveOptions
}

// PurgeResult is what became of the messages of a plan.
type PurgeResult struct {
	// Purged were recorded and removed. Gone were taken away by somebody else meanwhile; Left are still there.
	Purged int `json:"purged"`
	Gone   int `json:"gone,omitempty"`
	Left   int `json:"left,omitempty"`
	// Refused stay dead letters, since they cannot be recorded as they are; Problems are the first few reasons.
	Refused  int      `json:"refused,omitempty"`
	Problems []string `json:"problems,omitempty"`
}

// chunkOfChanged is how many letters are received at once when the client library cannot read all of some: their originals,
// of up to 256 KB each in the Standard tier, wait in bounded memory to be recorded.
const chunkOfChanged = 50

// Purge removes the planned dead letters. Each is given to record before it is removed, with others: when record returns nil, it must be
// on stable storage. A letter whose original bytes are not at hand, though the client library cannot read all of it, is left
// where it is. It returns when all are done or ctx ends; then everything else is unlocked. The result is good beside an
// error, too.
func (q *Queue) Purge(ctx context.Context, p *Plan, record func([]Found) error, o PurgeOptions) (PurgeResult, error) {
	var result PurgeResult
	recorded := map[int64]struct{}{} // and not removed yet
	t := &receiver{queue: q, ReceiveOptions: o.ReceiveOptions, filter: p.filter, chunk: maxChunk, wanted: p.wanted}
	if p.changed {
		t.chunk = chunkOfChanged
	}
	gone, err := t.run(ctx, func(messages []*azservicebus.ReceivedMessage) ([]int64, error) {
		var found []Found
		var removable []*azservicebus.ReceivedMessage
		for _, m := range messages {
			if _, ok := recorded[*m.SequenceNumber]; !ok {
				one := q.read(m)
				if one.changed() && len(one.Original) == 0 {
					result.Refused++
					note(&result.Problems, one.SequenceNumber, ErrNoOriginal.Error())
					delete(t.wanted, one.SequenceNumber)
					continue
				}
				found = append(found, one)
			}
			removable = append(removable, m)
		}
		if len(found) > 0 {
			if err := record(found); err != nil {
				return nil, err
			}
			for _, f := range found {
				recorded[f.SequenceNumber] = struct{}{}
			}
		}
		settled, err := t.complete(ctx, removable)
		for _, sequence := range settled {
			delete(recorded, sequence)
		}
		result.Purged += len(settled)
		if o.Progress != nil && len(settled) > 0 {
			o.Progress(len(settled))
		}
		return settled, err
	})
	for _, sequence := range gone {
		if _, ok := recorded[sequence]; ok {
			result.Purged++ // removed, although the answer was lost
		} else {
			result.Gone++
		}
	}
	result.Left = len(t.wanted)
	return result, err
}
