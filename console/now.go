package console

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/status"
)

// nowModel is what the first page shows.
type nowModel struct {
	status.Status
	now     time.Time
	asked   time.Time // when the workers were last asked
	named   bool      // a worker is named
	points  []point
	letters *snapshot
	guard   []status.Guard
	sources []status.Source
	senders []status.Sender
	ingests []status.Ingest
	// perSecond is the lowest rate that Graph allows a worker; 0 means that it has not throttled.
	perSecond, pause, oldest float64
	breaker                  bool
	deferred, scheduled      int
	revokedInHour, dieInHour int // as far as the console has run
}

// counted says over which time people and dead letters are counted.
func (m nowModel) counted() string {
	if len(m.points) > 0 && m.now.Sub(m.points[0].at) < (maxPoints-1)*sampleEvery {
		return "since " + m.points[0].at.UTC().Format("15:04") + " UTC"
	}
	return "in the last hour"
}

func (c *Console) newNowModel() nowModel {
	m := nowModel{now: c.now(), letters: c.letters.get(), named: len(c.workers.addresses) > 0}
	seen := c.workers.get()
	m.ingests, m.asked, m.points = seen.ingests, seen.at, seen.points
	m.Status = status.Judge(m.now, seen.replicas, seen.queues)
	if m.named && m.asked.IsZero() {
		m.Answer = "Asking the workers…"
	}
	guards, heard := map[string]status.Guard{}, map[string]status.Source{}
	for _, name := range c.Operations.Sources() {
		heard[name] = status.Source{Name: name}
	}
	for _, r := range seen.replicas {
		if r.Error != "" {
			continue
		}
		for _, g := range r.Guard {
			one := guards[g.Type]
			guards[g.Type] = status.Guard{
				Type: g.Type, Users: max(one.Users, g.Users), Limit: max(one.Limit, g.Limit), Tripped: one.Tripped || g.Tripped,
			}
		}
		for _, source := range r.Sources {
			if last, ok := heard[source.Name]; !ok || source.LastHeard.After(last.LastHeard) {
				heard[source.Name] = source
			}
		}
		if r.PerSecond > 0 && (m.perSecond == 0 || r.PerSecond < m.perSecond) {
			m.perSecond = r.PerSecond
		}
		m.pause, m.oldest = max(m.pause, r.PauseSeconds), max(m.oldest, r.OldestSeconds)
		m.breaker = m.breaker || r.BreakerOpen
		m.deferred += r.Deferred
		m.scheduled = max(m.scheduled, r.Scheduled) // every replica sees all
	}
	for _, g := range guards {
		m.guard = append(m.guard, g)
	}
	slices.SortFunc(m.guard, func(a, b status.Guard) int { return strings.Compare(a.Type, b.Type) })
	for _, source := range heard {
		m.sources = append(m.sources, source)
	}
	slices.SortFunc(m.sources, func(a, b status.Source) int { return strings.Compare(a.Name, b.Name) })
	latest := map[string]status.Sender{}
	for _, i := range m.ingests {
		if i.Error != "" {
			m.Unknown = append(m.Unknown, "when the senders of "+i.Address+" were last heard: "+i.Error)
		}
		for _, s := range i.Senders {
			if last, ok := latest[s.Name]; !ok || s.LastHeard.After(last.LastHeard) {
				latest[s.Name] = s
			}
		}
	}
	for _, s := range latest {
		m.senders = append(m.senders, s)
	}
	slices.SortFunc(m.senders, func(a, b status.Sender) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range m.points {
		m.revokedInHour += p.revoked
		m.dieInHour += p.died
	}
	return m
}

func (c *Console) nowPage(w http.ResponseWriter, r *http.Request, who visitor) {
	c.render(w, r, http.StatusOK, nowView(c.page("Now", who), c.newNowModel()))
}

func (c *Console) guardPage(w http.ResponseWriter, r *http.Request, who visitor) {
	c.render(w, r, http.StatusOK, guardView(c.page("Release the volume guard", who), c.newNowModel(), r.URL.Query().Get("type")))
}

// previewRelease previews a release of the volume guard.
func (c *Console) previewRelease(w http.ResponseWriter, r *http.Request, who visitor) {
	form := r.PostForm
	most, err := strconv.Atoi(strings.TrimSpace(form.Get("max")))
	if err != nil || most < 1 {
		c.problem(w, r, http.StatusBadRequest, "Nothing was changed", "How many people may be signed out must be a number from 1 on.")
		return
	}
	minutes, err := strconv.Atoi(form.Get("minutes"))
	if err != nil || minutes < 1 || minutes > 24*60 {
		c.problem(w, r, http.StatusBadRequest, "Nothing was changed", "A release lasts from a minute to 24 hours.")
		return
	}
	now := c.now().UTC().Truncate(time.Second)
	change, err := c.Operations.PlanRelease(r.Context(), who.name, guard.Release{
		Type: strings.TrimSpace(form.Get("type")), MaxUsers: most, At: now, Until: now.Add(time.Duration(minutes) * time.Minute),
		By: who.name, Reason: cut(strings.TrimSpace(form.Get("reason")), maxValue),
	})
	c.keep(w, r, who, change, err)
}

// sparkWide and sparkHigh are the size of a line over the last hour.
const (
	sparkWide = 160
	sparkHigh = 32
)

// spark returns the points of a line over the last hour, of the area below it, and its highest
// value.
func spark(now time.Time, points []point, value func(point) float64) (line, area string, most float64) {
	for _, p := range points {
		most = max(most, value(p))
	}
	var b strings.Builder
	first, last := 0.0, 0.0
	for i, p := range points {
		x := max(0, sparkWide*(1-now.Sub(p.at).Seconds()/3600))
		y := sparkHigh - 2.0
		if most > 0 {
			y -= (sparkHigh - 4) * value(p) / most
		}
		if i == 0 {
			first = x
		}
		last = x
		fmt.Fprintf(&b, "%.1f,%.1f ", x, y)
	}
	line = strings.TrimSpace(b.String())
	if line == "" {
		return "", "", 0
	}
	return line, fmt.Sprintf("%.1f,%d %s %.1f,%d", first, sparkHigh, line, last, sparkHigh), most
}

// queue returns what was seen in a queue, or nil.
func (m nowModel) queue(name string) *status.Queue {
	for i := range m.Queues {
		if m.Queues[i].Name == name && m.Queues[i].Error == "" {
			return &m.Queues[i]
		}
	}
	return nil
}
