package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// summary is the output of --drain: the outcome according to the servers' own records, and the
// problems with it.
type summary struct {
	OK           bool           `json:"ok"`
	Messages     int            `json:"messages"`
	Completed    int            `json:"completed"`
	UsersRevoked int            `json:"usersRevoked"`
	DeadLetters  map[string]int `json:"deadLetters"`
	GraphCalls   map[string]int `json:"graphCallsByStatus"`
	Problems     []string       `json:"problems"`
}

func (s *summary) wrong(format string, args ...any) {
	s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
}

// check compares what the sample demands with the state of Service Bus and the calls that Graph
// received. It asks the servers only, and never the worker.
func check(servers *servers, sample sample, workers int) summary {
	s := summary{Messages: len(sample.messages), DeadLetters: map[string]int{}, GraphCalls: map[string]int{}, Problems: []string{}}
	checkQueue(&s, servers, sample)
	checkGraph(&s, servers, sample)
	checkGuarantees(&s, servers, sample, workers)
	s.OK = len(s.Problems) == 0
	return s
}

// checkQueue checks that no message is left, and that each was completed or dead-lettered as it
// must be.
func checkQueue(s *summary, servers *servers, sample sample) {
	counts, err := servers.broker.Counts(queue)
	if err != nil {
		s.wrong("count the queue: %v", err)
		return
	}
	if left := counts.Active + counts.Deferred; left != 0 {
		s.wrong("%d messages are still in the queue", left)
	}
	if want := sample.announcements(); counts.Scheduled != want {
		s.wrong("%d messages are scheduled, want %d", counts.Scheduled, want)
	}
	dead := map[string]servicebus.PeekedMessage{}
	letters, err := servers.broker.Peek(queue+"/$DeadLetterQueue", 0, counts.DeadLetter+1)
	if err != nil {
		s.wrong("peek the dead letters: %v", err)
		return
	}
	for _, letter := range letters {
		dead[letter.MessageID] = letter
		s.DeadLetters[letter.DeadLetterReason]++
	}
	s.Completed = s.Messages - len(letters)
	for _, m := range sample.messages {
		letter, isDead := dead[*m.message.MessageID]
		delete(dead, *m.message.MessageID)
		failed, _ := letter.ApplicationProperties[deadletter.PropertyFailed].(string)
		switch {
		case m.reason == "" && isDead:
			s.wrong("%s: dead-lettered as %s (%s)", m.about, letter.DeadLetterReason, letter.DeadLetterDescription)
		case m.oneOfMany && !isDead: // checkGuarantees checks which message superseded it
		case m.reason != "" && !isDead:
			s.wrong("%s: not dead-lettered as %s", m.about, m.reason)
		case m.reason != "" && letter.DeadLetterReason != string(m.reason):
			s.wrong("%s: dead-lettered as %s, not %s", m.about, letter.DeadLetterReason, m.reason)
		case failed != m.failed:
			s.wrong("%s: the dead letter names the failed events %q, not %q", m.about, failed, m.failed)
		}
	}
	for id := range maps.Keys(dead) {
		s.wrong("a dead letter that nobody sent: %s", id)
	}
}

// checkGraph checks that exactly the sessions that must be revoked are revoked.
func checkGraph(s *summary, servers *servers, sample sample) {
	must := map[string]bool{}
	for _, m := range sample.messages {
		for _, id := range m.revoked {
			must[id] = true
		}
	}
	for _, person := range sample.people {
		if person.UserPrincipalName == canary {
			continue // the worker decides whether it sends a canary
		}
		_, revoked := servers.graph.Revoked(person.ID)
		if revoked {
			s.UsersRevoked++
		}
		if revoked != must[person.ID] {
			s.wrong("%s: revoked is %v", person.UserPrincipalName, revoked)
		}
	}
	for _, call := range servers.graph.Calls() {
		status := fmt.Sprint(call.Status)
		if call.Status == 0 {
			status = "dropped"
		}
		s.GraphCalls[status]++
	}
}

// checkGuarantees checks the guarantees for each message and each call.
func checkGuarantees(s *summary, servers *servers, sample sample, workers int) {
	calls := slices.DeleteFunc(servers.graph.Calls(), func(c graph.Call) bool { return c.UserID == person(canaryNumber, "").ID })
	// The window counts from when the worker starts a call, and a busy machine may take a while to send
	// the first of two.
	const onItsWay = 2 * time.Second
	s.Problems = append(s.Problems, servers.journal.Check(calls, invariants.Expected{
		Users: sample.users(), Window: dedupeWindow - onItsWay, Workers: workers,
	})...)
}

// report prints the summary. It returns errProblems if there are problems.
func report(w io.Writer, s summary) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s\n", text)
	if !s.OK {
		return errProblems
	}
	return nil
}
