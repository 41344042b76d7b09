package replay

import (
	"context"
	"fmt"

	"github.com/session-revoker/session-revoker/deadletter"
)

// Plan says which dead letters a replay or purge acts on: those that were there when the plan was
// made, and no later ones.
type Plan struct {
	// Source is the entity.
	Source string `json:"source"`
	// Selected is the number of letters to act on. Reasons counts them by reason.
	Selected int            `json:"selected"`
	Reasons  map[string]int `json:"reasons,omitempty"`
	// TooOften counts letters that the filter picks and that are left out, because they were
	// replayed as often as is allowed. OwnRun counts those left out because this run has sent them
	// itself.
	TooOften int `json:"replayedTooOften,omitempty"`
	OwnRun   int `json:"ofThisRun,omitempty"`
	// Unreadable counts letters that the filter picks and a replay leaves out, because the client
	// library cannot read their bodies: it shows stand-ins, which must never be sent. Skipped has
	// the reasons for the first few.
	Unreadable int      `json:"unreadable,omitempty"`
	Skipped    []string `json:"skipped,omitempty"`
	// Mended counts letters to act on of which the client library cannot read a part. A replay
	// sends them without this part.
	Mended int `json:"mended,omitempty"`

	filter Filter
	wanted map[int64]struct{} // sequence numbers
	// changed means that the client library cannot read all of some letter.
	changed bool
}

// maxProblems is the most problems of single letters to keep.
const maxProblems = 10

// addProblem adds the problem of a single letter.
func addProblem(problems *[]string, sequence int64, why string) {
	if len(*problems) < maxProblems {
		*problems = append(*problems, fmt.Sprintf("sequence number %d: %s", sequence, why))
	}
}

// PlanReplay peeks at the dead letters and picks those to replay. It leaves out messages that were
// replayed maxReplays times, those that this run has sent, and those with a body that cannot be
// read. If each is not nil, it is called with each letter that is picked.
func (q *Queue) PlanReplay(ctx context.Context, f Filter, run Run, maxReplays int, each func(Letter)) (*Plan, error) {
	return q.plan(ctx, f, each, func(p *Plan, l Letter) bool {
		switch {
		case l.Unreadable != "":
			p.Unreadable++
			addProblem(&p.Skipped, l.SequenceNumber, errStandIn(l).Error())
		case l.Run == run.ID:
			p.OwnRun++
		case l.Replays >= maxReplays:
			p.TooOften++
		default:
			return true
		}
		return false
	})
}

// errStandIn returns why a letter is not sent again.
func errStandIn(l Letter) error {
	return fmt.Errorf("its body cannot be read (%s), so there is nothing to send", deadletter.Cut(l.Unreadable, 200))
}

// PlanPurge peeks at the dead letters and picks those to remove. If each is not nil, it is called
// with each letter that is picked.
func (q *Queue) PlanPurge(ctx context.Context, f Filter, each func(Letter)) (*Plan, error) {
	return q.plan(ctx, f, each, func(*Plan, Letter) bool { return true })
}

func (q *Queue) plan(ctx context.Context, f Filter, each func(Letter), picks func(*Plan, Letter) bool) (*Plan, error) {
	p := &Plan{Source: q.Entity, Reasons: map[string]int{}, filter: f, wanted: map[int64]struct{}{}}
	limit := f.Limit
	f.Limit = 0
	for found, err := range q.Find(ctx, f) {
		if err != nil {
			return nil, err
		}
		if !picks(p, found.Letter) {
			continue
		}
		p.wanted[found.SequenceNumber] = struct{}{}
		p.Selected++
		p.Reasons[found.Reason]++
		if found.Mended != "" {
			p.Mended++
		}
		if found.changed() {
			p.changed = true
		}
		if each != nil {
			each(found.Letter)
		}
		if p.Selected == limit {
			break
		}
	}
	return p, nil
}
