package console

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/audit/history"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/replay"
)

// fact is a name and a value, for a list of them.
type fact struct{ name, value string }

// query escapes a value of an address.
func query(text string) string { return url.QueryEscape(text) }

// letterFacts are all facts about a dead letter that have a value.
func letterFacts(l replay.Letter) (list []fact) {
	for _, line := range l.Describe() {
		list = append(list, fact{line.Name, line.Value})
	}
	return list
}

// every is how often the page renews itself, in seconds.
func (m lettersModel) every() int {
	if m.reading {
		return 1
	}
	return int(refresh.Seconds())
}

// chartLabel says in words what the histogram shows.
func (m lettersModel) chartLabel() string {
	return fmt.Sprintf("%s from %s to %s, in bars of %s; the table has the numbers", count(m.total, "dead letter"),
		when(m.chart.from), when(m.chart.end()), lasts(m.chart.step))
}

// these names what the filter picks.
func (m lettersModel) these() string {
	switch {
	case m.total == 1:
		return "this one"
	case len(m.query) == 0:
		return "all " + number(m.total)
	}
	return "these " + number(m.total)
}

// pageAddress is the address of another page of the same list.
func (m lettersModel) pageAddress(n int) string {
	return m.with("page", strconv.Itoa(n))
}

// sortedReasons returns counts by reason, the largest first.
func sortedReasons(reasons map[string]int) []replay.Group {
	var all []replay.Group
	for reason, n := range reasons {
		all = append(all, replay.Group{Key: reason, Count: n})
	}
	slices.SortFunc(all, func(a, b replay.Group) int { return cmp.Or(b.Count-a.Count, strings.Compare(a.Key, b.Key)) })
	return all
}

// question asks for the confirmation.
func (c *Change) question() string {
	switch c.Kind {
	case Edit:
		return fmt.Sprintf("Type the number of the letter to confirm (%s)", c.Confirm)
	case Release:
		return fmt.Sprintf("Type how many people may be signed out, to confirm (%s)", c.Confirm)
	}
	return fmt.Sprintf("Type how many to confirm (%s)", c.Confirm)
}

// verb is the text of the button that makes a change.
func (c *Change) verb() string {
	switch c.Kind {
	case Replay:
		return "Replay " + count(c.Total, "dead letter")
	case Purge:
		return "Purge " + count(c.Total, "dead letter")
	case Edit:
		return "Send the edited message"
	}
	return "Release the guard"
}

// every is how often the page of a change renews itself: while it runs, and as long as its messages
// may still change.
func (m jobModel) every() int {
	switch {
	case m.ended.IsZero() || m.sent() && m.looked.IsZero():
		return 1
	case m.sent() && !m.became.Decided:
		return int(followEvery.Seconds())
	}
	return 0
}

// running says for how long a change has been running, and what it waits for.
func (m jobModel) running(now time.Time) string {
	text := "Running for " + lasts(now.Sub(m.began)) + "."
	if n := int(m.waiting.Load()); n > 0 {
		text += " Waiting for " + count(n, "message") + ", locked by another receiver or by a run that was killed."
	}
	return text
}

// state says in a few words how far a change is.
func (j *job) state() string {
	outcome, _, ended := j.end()
	switch {
	case !ended:
		return fmt.Sprintf("%s of %s", number(int(j.done.Load())), number(j.Total))
	case outcome.Err != nil:
		return "not everything was done"
	}
	return "done"
}

// facts are what the audit log has too.
func (j *job) facts(o Outcome, ended time.Time) []fact {
	list := []fact{{"Who", j.by}, {"Why", cmp.Or(j.why, "–")}, {"Began", when(j.began)}}
	if !ended.IsZero() {
		list = append(list, fact{"Ended", when(ended)})
	}
	if o.Run != "" {
		list = append(list, fact{"Run", o.Run})
	}
	return list
}

// forecast says for how long the last of those who wait will wait.
func (m nowModel) forecast() string {
	switch {
	case m.Never:
		return "no forecast: nobody is being called"
	case m.UsersWaiting == 0:
		return "nobody waits"
	case m.ForecastSeconds < 1:
		return "the last one for an instant"
	}
	return "the last one for about " + lasts(time.Duration(m.ForecastSeconds*float64(time.Second)))
}

func (m nowModel) lastRevoked() string {
	if m.LastRevoked.IsZero() {
		return "none since the workers started"
	}
	return "the last one " + ago(m.now, m.LastRevoked)
}

// graphFacts say how calls go.
func (m nowModel) graphFacts() []fact {
	breaker := "closed: calls are made"
	if m.breaker {
		breaker = "open: only probes are sent, and everybody waits"
	}
	rate := "full speed: Graph has not throttled"
	if m.perSecond > 0 {
		rate = fmt.Sprintf("%.1f calls per second and worker, as Graph allows", m.perSecond)
	}
	if m.pause > 0 {
		rate += ", paused for " + lasts(time.Duration(m.pause*float64(time.Second)))
	}
	list := []fact{{"Circuit breaker", breaker}, {"Rate", rate}}
	if m.oldest > 0 {
		list = append(list, fact{"Oldest message in flight", lasts(time.Duration(m.oldest * float64(time.Second)))})
	}
	if m.deferred > 0 {
		list = append(list, fact{"Deferred", count(m.deferred, "message") + "; they come back by themselves"})
	}
	if m.scheduled > 0 {
		list = append(list, fact{"Scheduled", count(m.scheduled, "message") + " for a later date"})
	}
	return list
}

// stepNote says where a step is recorded.
func stepNote(s history.Step) string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+value)
		}
	}
	add("", s.EventType)
	if s.SequenceNumber > 0 {
		add("message ", strconv.FormatInt(s.SequenceNumber, 10)+" of "+s.Source)
	}
	add("by ", s.By)
	add("request ", s.RequestID)
	add("run ", s.Run)
	return strings.Join(parts, " · ")
}

// inSeconds formats a measured time.
func inSeconds(s float64) string { return lasts(time.Duration(s * float64(time.Second))) }

// share is a part of a whole in percent.
func share(part, whole int) string {
	if whole == 0 {
		return "–"
	}
	return strconv.FormatFloat(100*float64(part)/float64(whole), 'f', 1, 64) + " %"
}

// query is the address of the same report in another form.
func (m reportModel) query() string {
	return url.Values{"since": {m.since}, "until": {m.until}, "target": {m.target}}.Encode()
}

// unreadable says what of a message cannot be read.
func (m letterModel) unreadable() string {
	if m.Letter.Unreadable != "" {
		return "The message cannot be read (" + m.Letter.Unreadable + "), so it cannot be replayed. worker dlq export keeps its bytes."
	}
	return "A part of the message cannot be read (" + m.Letter.Mended + "). The worker ignores this part, and a replay sends the " +
		"message without it."
}

// editFirst reports whether a replay of the unchanged message would fail again.
func (m letterModel) editFirst() bool {
	return m.editable && deadletter.Reason(m.Letter.Reason) == deadletter.InvalidEvent
}

// atLeast begins a number that is a lower bound.
func atLeast(more bool) string {
	if more {
		return "at least "
	}
	return ""
}
