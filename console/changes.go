package console

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxPreviews bounds the previews that wait for a confirmation, and maxJobs the changes that are
	// remembered. The oldest goes first.
	maxPreviews = 16
	maxJobs     = 100
	// maxPlanned bounds the messages of all previews together, of which each takes about 50 bytes. The
	// last preview may be about more.
	maxPlanned = 1_000_000
)

// preview is a change that waits for its confirmation.
type preview struct {
	*Change
	id      string
	session string // only this session may confirm it
	until   time.Time
}

// job is a change that was confirmed.
type job struct {
	*Change
	id, by, why string
	began       time.Time

	done, waiting atomic.Int64

	mu      sync.Mutex
	ended   time.Time
	outcome Outcome
	// What became of the messages is looked up while somebody asks.
	became    Aftermath
	becameErr error
	looked    time.Time // when that was; zero for never
	looking   bool
}

// end returns the outcome, or false while the change is being made.
func (j *job) end() (Outcome, time.Time, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.outcome, j.ended, !j.ended.IsZero()
}

// changes keeps previews, and makes the changes that were confirmed.
type changes struct {
	now func() time.Time

	mu       sync.Mutex
	previews []preview
	jobs     []*job // newest first
	busy     *job   // the change of dead letters that is being made
	start    chan func(context.Context)
	stopped  bool
}

func newChanges(now func() time.Time) *changes {
	return &changes{now: now, start: make(chan func(context.Context))}
}

// run makes changes until ctx ends, and waits for them.
func (c *changes) run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	defer func() {
		c.mu.Lock()
		c.stopped = true
		c.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case work := <-c.start:
			group.Go(func() { work(ctx) })
		}
	}
}

// add keeps a preview, and returns its id.
func (c *changes) add(change *Change, who visitor) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := preview{change, rand.Text(), who.session, c.now().Add(previewLife)}
	c.previews = append(c.previews, p)
	planned := 0
	for _, p := range c.previews {
		if p.Kind != Release {
			planned += p.Total
		}
	}
	for len(c.previews) > maxPreviews || planned > maxPlanned && len(c.previews) > 1 {
		planned -= c.previews[0].Total
		c.previews = slices.Delete(c.previews, 0, 1)
	}
	return p.id
}

// find returns the preview with an id, if it belongs to the session.
func (c *changes) find(id string, who visitor) (preview, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.index(id, who)
	if i < 0 {
		return preview{}, false
	}
	return c.previews[i], true
}

// index drops what is too old. The caller holds the lock.
func (c *changes) index(id string, who visitor) int {
	now := c.now()
	c.previews = slices.DeleteFunc(c.previews, func(p preview) bool { return now.After(p.until) })
	return slices.IndexFunc(c.previews, func(p preview) bool { return p.id == id && p.session == who.session })
}

// refusal is why a change is not made. Nothing was changed.
type refusal string

func (r refusal) Error() string { return string(r) }

const (
	notConfirmed refusal = "what you typed is not what the preview asks for. Nothing was changed"
	noPreview    refusal = "this preview is gone: it was confirmed already, belongs to another session, or is older than 15 minutes. " +
		"Nothing was changed by this page"
	stopping refusal = "the console is stopping. Nothing was changed"
)

// confirm makes a change if the operator typed what its preview asks for. A preview counts once.
func (c *changes) confirm(ctx context.Context, id, typed, why string, who visitor, after func()) (*job, error) {
	c.mu.Lock()
	i := c.index(id, who)
	switch {
	case i < 0:
		c.mu.Unlock()
		return nil, noPreview
	case strings.TrimSpace(typed) != c.previews[i].Confirm:
		c.mu.Unlock()
		return nil, notConfirmed
	case c.stopped:
		c.mu.Unlock()
		return nil, stopping
	case c.busy != nil && c.previews[i].Kind != Release:
		busy := c.busy
		c.mu.Unlock()
		return nil, refusal("the " + string(busy.Kind) + " of " + busy.by + " is still being made; wait for its end, and preview again. " +
			"Nothing was changed")
	}
	j := &job{Change: c.previews[i].Change, id: id, by: who.name, why: why, began: c.now()}
	c.previews = slices.Delete(c.previews, i, i+1)
	if j.Kind != Release {
		c.busy = j
	}
	c.jobs = slices.Insert(c.jobs, 0, j)
	c.jobs = c.jobs[:min(len(c.jobs), maxJobs)]
	c.mu.Unlock()

	work := func(ctx context.Context) {
		outcome := j.Make(ctx, j.why, func(p Progress) {
			j.done.Add(int64(p.Done))
			j.waiting.Store(int64(p.Waiting))
		})
		c.finish(j, outcome)
		after()
	}
	select {
	case c.start <- work:
		return j, nil
	case <-time.After(closeTimeout): // the console has stopped
	case <-ctx.Done():
	}
	c.finish(j, Outcome{Err: stopping})
	return nil, stopping
}

// finish records the outcome. The next change may begin before anybody sees the end of this one.
func (c *changes) finish(j *job, outcome Outcome) {
	c.mu.Lock()
	if c.busy == j {
		c.busy = nil
	}
	c.mu.Unlock()
	j.mu.Lock()
	j.outcome, j.ended = outcome, c.now()
	j.mu.Unlock()
}

// job returns a change that was confirmed.
func (c *changes) job(id string) *job {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, j := range c.jobs {
		if j.id == id {
			return j
		}
	}
	return nil
}

// all returns the changes that were confirmed, newest first.
func (c *changes) all() []*job {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.jobs)
}

func (c *Console) changesPage(w http.ResponseWriter, r *http.Request, who visitor) {
	c.render(w, r, http.StatusOK, changesView(c.page("Changes", who), c.changes.all()))
}

// changePage shows a preview with its question, or a change that was confirmed.
func (c *Console) changePage(w http.ResponseWriter, r *http.Request, who visitor) {
	id := r.PathValue("id")
	if j := c.changes.job(id); j != nil {
		c.follow(j)
		c.render(w, r, http.StatusOK, jobView(c.page(j.title(), who), j.show()))
		return
	}
	p, ok := c.changes.find(id, who)
	if !ok {
		c.problem(w, r, http.StatusNotFound, "No such change", sentence(noPreview))
		return
	}
	c.render(w, r, http.StatusOK, previewView(c.page(p.title(), who), p, ""))
}

// followEvery is how often to look what became of a run, and followTimeout limits one look.
const (
	followEvery   = 3 * time.Second
	followTimeout = time.Minute
)

// jobModel is what the page of a change that was confirmed shows.
type jobModel struct {
	*job
	outcome Outcome
	ended   time.Time
	became  Aftermath
	err     error // why nobody knows what became of the messages
	looked  time.Time
}

// sent reports whether messages were sent whose end can be looked up.
func (m jobModel) sent() bool {
	return !m.ended.IsZero() && m.outcome.Run != "" && (m.Kind == Replay || m.Kind == Edit)
}

func (j *job) show() jobModel {
	j.mu.Lock()
	defer j.mu.Unlock()
	return jobModel{job: j, outcome: j.outcome, ended: j.ended, became: j.became, err: j.becameErr, looked: j.looked}
}

// follow looks in the background what became of the messages of a change, unless it did so recently.
func (c *Console) follow(j *job) {
	m := j.show()
	j.mu.Lock()
	due := m.sent() && !j.looking && !j.became.Decided && c.now().Sub(j.looked) >= followEvery
	j.looking = j.looking || due
	j.mu.Unlock()
	if !due {
		return
	}
	look := func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, followTimeout)
		defer cancel()
		became, err := c.Operations.Became(ctx, m.outcome.Run)
		j.mu.Lock()
		defer j.mu.Unlock()
		j.became, j.becameErr, j.looked, j.looking = became, err, c.now(), false
	}
	select {
	case c.changes.start <- look:
	case <-time.After(closeTimeout): // the console has stopped
	}
}

// confirmChange makes the change of a preview.
func (c *Console) confirmChange(w http.ResponseWriter, r *http.Request, who visitor) {
	id := r.PathValue("id")
	j, err := c.changes.confirm(r.Context(), id, r.PostForm.Get("confirm"), r.PostForm.Get("why"), who, c.letters.changed)
	var refused refusal
	switch {
	case err == nil:
		http.Redirect(w, r, "/changes/"+j.id, http.StatusSeeOther)
	case errors.As(err, &refused) && refused != noPreview:
		if p, ok := c.changes.find(id, who); ok {
			c.render(w, r, http.StatusConflict, previewView(c.page(p.title(), who), p, sentence(err)))
			return
		}
		fallthrough
	default:
		c.problem(w, r, http.StatusConflict, "Nothing was changed", sentence(err))
	}
}

// keep keeps a preview and shows it.
func (c *Console) keep(w http.ResponseWriter, r *http.Request, who visitor, change *Change, err error) {
	switch {
	case err != nil:
		c.problem(w, r, http.StatusConflict, "Nothing was changed", sentence(err))
	case change.Total == 0:
		c.problem(w, r, http.StatusConflict, "Nothing to do", change.Summary)
	default:
		http.Redirect(w, r, "/changes/"+c.changes.add(change, who), http.StatusSeeOther) //nolint:gosec // add returns an id of its own
	}
}

// title names a change in a heading.
func (c *Change) title() string {
	switch c.Kind {
	case Replay:
		return "Replay " + count(c.Total, "dead letter")
	case Purge:
		return "Purge " + count(c.Total, "dead letter")
	case Edit:
		return "Edit and send one dead letter"
	case Release:
		return "Release the volume guard"
	}
	return string(c.Kind)
}
