package report

import (
	"slices"
	"strings"

	"github.com/session-revoker/session-revoker/deadletter"
)

// The kinds of exceptions that are not reasons of dead letters.
const (
	kindNoEnd    = "no end"
	kindJoined   = "joined without an end"
	kindNewer    = "replaced"
	kindWithdraw = "withdrawn"
	kindClock    = "clocks disagree"
	kindUnknown  = "unknown outcome"
	kindChanged  = "changed record"
)

var meanings = map[string]string{
	kindNoEnd:    "A message was given back, and this log has no end of it: it waits, or another replica has the record.",
	kindJoined:   "A newer event about the same person stands for this one, and this log has no end of that one.",
	kindNewer:    "A newer announcement about the same person holds instead.",
	kindWithdraw: "What was announced for the person was taken back.",
	kindClock:    "The event claims a time after its own revocation, or a clock was wrong. It is measured from when it was enqueued.",
	kindChanged:  "The record was changed after it was written, so nothing in it counts.",
	kindUnknown:  "The record has an outcome that this version does not know.",
}

// exceptionOf is how a dead letter was counted.
type exceptionOf struct {
	kind   string
	failed bool
	line   int
}

// asked reports whether a dead letter with this reason means that somebody should have been signed
// out.
func asked(reason string) bool {
	switch deadletter.Reason(reason) {
	case deadletter.NoTrigger, deadletter.UnknownEvent, deadletter.ProtectedUser, deadletter.TooOld, deadletter.TooFarAhead,
		deadletter.ForeignDomain:
		return false
	}
	return true
}

// except counts an exception.
func (m *maker) except(kind string, failed bool, c Case) {
	if failed {
		m.r.Failed++
		m.types.of(c.EventType).failed++
		m.sources.of(c.Source).failed++
		m.producers.of(c.Producer).failed++
	} else {
		m.r.NotAsked++
	}
	m.list(kind, failed, c)
}

// forget takes back a dead letter that a replay has sent again: the event counts once, by its last
// end.
func (m *maker) forget(first original, c Case) {
	before, ok := m.dead[first]
	if !ok {
		return
	}
	delete(m.dead, first)
	m.r.Events--
	if before.failed {
		m.r.Failed--
		m.types.of(c.EventType).failed--
		m.sources.of(c.Source).failed--
		m.producers.of(c.Producer).failed--
	} else {
		m.r.NotAsked--
	}
	e := m.exceptions[before.kind]
	if e == nil {
		e = m.exceptions[others]
	}
	e.Count--
	kept := slices.DeleteFunc(e.List, func(listed Case) bool { return listed.Line == before.line })
	m.listed -= len(e.List) - len(kept)
	e.List = kept
}

// contradiction lists an event whose times contradict each other.
func (m *maker) contradiction(c Case) { m.list(kindClock, false, c) }

func (m *maker) list(kind string, failed bool, c Case) {
	if m.exceptions[kind] == nil && len(m.exceptions) >= maxGroups {
		kind = others
	}
	e := m.exceptions[kind]
	if e == nil {
		meaning, own := meanings[kind]
		if !own {
			meaning = strings.ReplaceAll(deadletter.GuideTo(kind).Meaning, "`", "")
		}
		e = &Exception{Kind: kind, Meaning: meaning, Failed: failed}
		m.exceptions[kind] = e
	}
	if e.Count++; m.listed < maxListed {
		m.listed++
		e.List = append(e.List, c)
	}
}

// sortCases sorts by the time at which the events were enqueued.
func sortCases(list []Case) {
	slices.SortStableFunc(list, func(a, b Case) int { return a.Enqueued.Compare(b.Enqueued) })
}
