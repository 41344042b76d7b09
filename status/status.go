package status

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// State says in one word whether people are being signed out.
type State string

// The states. Only with Working, everybody is being signed out.
const (
	Working State = "working" // everybody is being signed out, perhaps slowly
	Partly  State = "partly"  // some are, and something needs a person
	Stopped State = "stopped" // nobody is
	Unknown State = "unknown" // no worker could be asked
)

// silentAfter is how long a source may be silent. A receive call ends after 30 s at the latest, also
// if no message comes.
const silentAfter = 2 * time.Minute

// Queue is what was seen in a queue or subscription. The numbers are lower bounds if More is true.
type Queue struct {
	Name string `json:"name"`
	// Error says why nothing could be seen.
	Error string `json:"error,omitempty"`
	// Active messages wait to be received or are in flight. OldestActive is when the first of them
	// was enqueued.
	Active       int       `json:"active"`
	OldestActive time.Time `json:"oldestActive,omitzero"`
	Deferred     int       `json:"deferred"`
	Scheduled    int       `json:"scheduled"`
	More         bool      `json:"more,omitempty"`
	// DeadLetters counts dead letters by reason. MoreDeadLetters reports whether there are others.
	DeadLetters     map[string]int `json:"deadLetters"`
	MoreDeadLetters bool           `json:"moreDeadLetters,omitempty"`
}

// Status is the answer to the question whether people are being signed out.
type Status struct {
	Time  time.Time `json:"time"`
	State State     `json:"state"`
	// Answer is one sentence.
	Answer string `json:"answer"`
	// Causes say what is wrong, and Notes what else to know. Unknown says what cannot be known, and
	// why.
	Causes  []string `json:"causes,omitempty"`
	Notes   []string `json:"notes,omitempty"`
	Unknown []string `json:"unknown,omitempty"`
	// LastRevoked is when Graph last confirmed a call of one of the workers.
	LastRevoked time.Time `json:"lastRevoked,omitzero"`
	// UsersWaiting and ForecastSeconds are the estimates of the worker that sees the most. Never
	// reports that there is no forecast, because nobody is being called.
	UsersWaiting    int       `json:"usersWaiting"`
	ForecastSeconds float64   `json:"forecastSeconds"`
	Never           bool      `json:"never,omitempty"`
	Replicas        []Replica `json:"replicas"`
	Queues          []Queue   `json:"queues"`
}

// Judge says whether people are being signed out. now is the time of this machine.
func Judge(now time.Time, replicas []Replica, queues []Queue) Status {
	s := Status{Time: now.UTC(), Replicas: replicas, Queues: queues}
	var asked, well int
	tripped := map[string]bool{}
	for _, r := range replicas {
		if r.Error != "" {
			s.Causes = append(s.Causes, fmt.Sprintf("%s could not be asked: %s", r.Address, r.Error))
			continue
		}
		asked++
		causes := r.causes(now, tripped)
		if len(causes) == 0 {
			well++
		}
		for _, cause := range causes {
			s.Causes = append(s.Causes, r.Address+": "+cause)
		}
		if r.LastRevoked.After(s.LastRevoked) {
			s.LastRevoked = r.LastRevoked
		}
		s.UsersWaiting = max(s.UsersWaiting, r.UsersWaiting)
		s.ForecastSeconds = max(s.ForecastSeconds, r.ForecastSeconds)
		s.Never = s.Never || r.Never
		s.Notes = append(s.Notes, r.notes(now)...)
	}
	s.queueNotes()
	s.whatIsUnknown(asked)
	s.State, s.Answer = s.judge(asked, well, slices.Sorted(maps.Keys(tripped)))
	return s
}

func (s *Status) judge(asked, well int, tripped []string) (State, string) {
	switch {
	case asked == 0 && len(s.Replicas) == 0:
		return Unknown, "Not known: no worker was named."
	case asked == 0:
		return Unknown, "Not known: no worker could be asked."
	case well == 0:
		since := "since the workers started"
		if !s.LastRevoked.IsZero() {
			since = "since " + clock(s.LastRevoked)
		}
		return Stopped, fmt.Sprintf("People are not being signed out, none %s: %s.", since, s.mainCause())
	case len(tripped) > 0:
		return Partly, fmt.Sprintf("People are being signed out, except for %s: the volume guard has tripped.", strings.Join(tripped, ", "))
	case asked < len(s.Replicas) && well == asked:
		return Partly, fmt.Sprintf("People are being signed out by %d of %d workers; the others could not be asked.", well, len(s.Replicas))
	case well < len(s.Replicas):
		return Partly, fmt.Sprintf("People are being signed out by %d of %d workers only.", well, len(s.Replicas))
	case s.UsersWaiting == 0:
		return Working, "People are being signed out. Nobody waits."
	case s.ForecastSeconds >= 60:
		return Working, fmt.Sprintf("People are being signed out. About %d wait, the last one for about %s.", s.UsersWaiting,
			time.Duration(s.ForecastSeconds*float64(time.Second)).Round(time.Second))
	}
	return Working, fmt.Sprintf("People are being signed out. About %d wait.", s.UsersWaiting)
}

// mainCause returns the first cause of a worker that could be asked, without its address.
func (s *Status) mainCause() string {
	for _, r := range s.Replicas {
		if r.Error != "" {
			continue
		}
		if causes := r.causes(s.Time, map[string]bool{}); len(causes) > 0 {
			return strings.TrimRight(causes[0], ".")
		}
	}
	return "the cause is not known"
}

// causes returns why the worker signs nobody out. It adds types that the guard stops to tripped;
// these alone are no cause.
func (r Replica) causes(now time.Time, tripped map[string]bool) (causes []string) {
	for _, g := range r.Guard {
		if g.Tripped {
			tripped[firstText(g.Type, "every type")] = true
		}
	}
	all := len(r.Guard) > 0 && !slices.ContainsFunc(r.Guard, func(g Guard) bool { return !g.Tripped })
	for _, part := range sortedKeys(r.Problems) {
		switch problem := r.Problems[part]; {
		case part == "guard" && !all:
		case part == "graph":
			causes = append(causes, "Graph: "+problem)
		case strings.HasPrefix(part, "servicebus"):
			causes = append(causes, "Service Bus"+strings.TrimPrefix(part, "servicebus")+": "+problem)
		default:
			causes = append(causes, part+": "+problem)
		}
	}
	if r.BreakerOpen && r.Problems["graph"] == "" {
		causes = append(causes, "the circuit breaker is open: nothing but probes reaches Graph")
	}
	for _, source := range r.Sources {
		if !source.LastHeard.IsZero() && now.Sub(source.LastHeard) > silentAfter && !r.hasServiceBusProblem() {
			causes = append(causes, fmt.Sprintf("Service Bus has not answered for %s since %s", source.Name, clock(source.LastHeard)))
		}
	}
	return causes
}

func (r Replica) hasServiceBusProblem() bool {
	for part := range r.Problems {
		if strings.HasPrefix(part, "servicebus") {
			return true
		}
	}
	return false
}

// notes returns what is worth knowing about a worker that could be asked.
func (r Replica) notes(now time.Time) (notes []string) {
	note := func(yes bool, format string, args ...any) {
		if yes {
			notes = append(notes, r.Address+": "+fmt.Sprintf(format, args...))
		}
	}
	for _, part := range sortedKeys(r.Warnings) {
		note(!strings.HasPrefix(r.Warnings[part], "users fail"), "%s: %s", part, r.Warnings[part])
	}
	note(r.SuspectedUsers, "some users fail one after another. The fault is the users', not Graph's: the canary is well")
	note(r.SuspectedGraph, "some users fail one after another, and nothing shows that Graph is well")
	note(r.LookupsStopped, "people whom events name by a device or mail address only cannot be looked up; their events wait")
	pause := time.Duration(r.PauseSeconds * float64(time.Second)).Round(time.Second)
	note(r.PauseSeconds > 0, "Graph throttles: no call begins for %s", pause)
	note(r.AuditFailures > 0, "%d audit records could not be kept since it started", r.AuditFailures)
	for _, source := range r.Sources {
		note(source.LastHeard.After(now.Add(silentAfter)), "its clock is ahead of this machine's")
	}
	return notes
}

// queueNotes adds what was seen in the queues.
func (s *Status) queueNotes() {
	for _, q := range s.Queues {
		if q.Error != "" {
			s.Unknown = append(s.Unknown, fmt.Sprintf("what waits in %s: %s", q.Name, q.Error))
		}
	}
}

// whatIsUnknown says what no number can show.
func (s *Status) whatIsUnknown(asked int) {
	if asked < len(s.Replicas) {
		s.Unknown = append(s.Unknown, "what the workers do that could not be asked")
	}
	if len(s.Queues) == 0 {
		s.Unknown = append(s.Unknown, "what waits in the queues: they were not looked at")
	}
	if asked > 0 {
		s.Unknown = append(s.Unknown, "whether there are workers that were not named")
	}
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

func firstText(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

func sortedKeys[V any](set map[string]V) []string { return slices.Sorted(maps.Keys(set)) }
