// Package report measures from the audit log how long it took from an event to the revocation of the
// person's sessions, and lists whom it took too long for, and who was not signed out and why.
package report

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/audit"
)

// What bounds the memory of a report, whatever the size of the log: together about 150 MB at most.
const (
	// maxCases is the number of misses that are listed, and maxListed that of exceptions. Others are
	// counted.
	maxCases, maxListed = 1000, 5000
	// maxGroups is the number of types, sources, or producers that are told apart. The others are
	// together.
	maxGroups = 200
	// maxPeople is the number of people that are told apart.
	maxPeople = 1_000_000
	// maxJoined is the number of events that wait for the end of the newer event that they were joined
	// with, and of messages that are not finished.
	maxJoined = 20_000
	// maxDead is the number of dead letters that are recognized when a replay sends them again.
	// Others count once more then.
	maxDead = 100_000
)

// others is the name of the group of those beyond maxGroups.
const others = "(others)"

// Options are what a report is about.
type Options struct {
	// From and To limit the time at which an event was enqueued for the first time. From is
	// inclusive, To is exclusive. Either may be zero.
	From, To time.Time
	// Target is the longest acceptable time from an event to its revocation. It must be positive.
	Target time.Duration
	// Verify is what the log is checked against.
	Verify audit.Options
}

// Report is the result.
type Report struct {
	From          time.Time `json:"from,omitzero"`
	To            time.Time `json:"to,omitzero"`
	TargetSeconds float64   `json:"targetSeconds"`
	// First and Last are the times of the first and last record of the period.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// Answer is one sentence.
	Answer string `json:"answer"`
	// Events is the number of events with an end in the log. An event that was replayed counts once,
	// by its last end. People is the number of people whom
	// they name; there are more if ManyPeople is true.
	Events     int  `json:"events"`
	People     int  `json:"people"`
	ManyPeople bool `json:"manyPeople,omitempty"`
	// Outcomes counts the records by their outcome.
	Outcomes map[string]int `json:"outcomes"`
	// Met and Missed count the events that led to a revocation within the target, and later. Failed
	// counts those that should have and did not. Not Asked counts those that were to sign nobody out.
	Met      int `json:"met"`
	Missed   int `json:"missed"`
	Failed   int `json:"failed"`
	NotAsked int `json:"notAsked"`
	// Replayed is the number of them whose message a replay had sent.
	Replayed int `json:"replayed"`
	// Verified is the number of revocations whose effect was read back, and Unverified the number of
	// those for which that failed. GuestUnknown is the number of those by object id alone, which do
	// not show whether the person is a guest.
	Verified     int `json:"verified"`
	Unverified   int `json:"unverified"`
	GuestUnknown int `json:"guestUnknown"`
	// Stages are measured times, from the event to the confirmation by Graph.
	Stages Stages `json:"stages"`
	// Types, Sources, and Producers are the same by the type of the event, by queue or subscription,
	// and by the event's own source.
	Types     []Group `json:"types"`
	Sources   []Group `json:"sources"`
	Producers []Group `json:"producers"`
	// Misses are the events that missed the target, the slowest first.
	Misses Cases `json:"misses"`
	// Exceptions are the events without a revocation, by kind, and events whose times contradict each
	// other.
	Exceptions []Exception `json:"exceptions"`
	// Operators counts what operators' commands began in the period.
	Operators []Action `json:"operators"`
	Warnings  []string `json:"warnings,omitempty"`
	// Log is the result of the check of the whole log.
	Log audit.Report `json:"log"`
}

// Stages are the stages of the way from an event to its revocation. An event that answers another
// one's call has no call of its own; then its end is the time of its record, which is later.
type Stages struct {
	// EventToEnd is from the event's own time, or the date at which it takes effect, to Graph's
	// confirmation. Events without a time are measured from when they were enqueued.
	EventToEnd Times `json:"eventToEnd"`
	// EventToQueue is from the event's own time to when it was enqueued for the first time.
	EventToQueue Times `json:"eventToQueue"`
	// QueueToEnd is from when it was enqueued to Graph's confirmation, QueueToCall to the begin of
	// the call that Graph confirmed, and CallToEnd is the rest.
	QueueToEnd  Times `json:"queueToEnd"`
	QueueToCall Times `json:"queueToCall"`
	CallToEnd   Times `json:"callToEnd"`
}

// Group is the events of one type, source, or producer.
type Group struct {
	Name       string `json:"name"`
	EventToEnd Times  `json:"eventToEnd"`
	Failed     int    `json:"failed"`
}

// Cases are events that are listed, and the number of all of them.
type Cases struct {
	Count int    `json:"count"`
	List  []Case `json:"list"`
}

// Exception is a kind of events without a revocation: a reason of a dead letter, or another kind.
type Exception struct {
	Kind    string `json:"kind"`
	Meaning string `json:"meaning"`
	// Failed reports whether the person should have been signed out.
	Failed bool `json:"failed"`
	Cases
}

// Case is one event. Texts from outside in it are not cleaned.
type Case struct {
	User      string `json:"user"`
	EventType string `json:"eventType"`
	Source    string `json:"source"`
	Producer  string `json:"producer,omitempty"`
	Mapping   string `json:"mapping,omitempty"`
	// EventTime is the event's own time, or the date at which it takes effect, if that is later.
	EventTime time.Time `json:"eventTime,omitzero"`
	Enqueued  time.Time `json:"enqueued,omitzero"`
	Called    time.Time `json:"called,omitzero"`
	End       time.Time `json:"end,omitzero"`
	// Seconds is from EventTime, or else Enqueued, to End. It is 0 if there was no revocation.
	Seconds        float64 `json:"seconds,omitempty"`
	Outcome        string  `json:"outcome"`
	Reason         string  `json:"reason,omitempty"`
	Error          string  `json:"error,omitempty"`
	MessageID      string  `json:"messageId,omitempty"`
	SequenceNumber int64   `json:"sequenceNumber"`
	Event          int     `json:"event"`
	RequestID      string  `json:"requestId,omitempty"`
	Replayed       bool    `json:"replayed,omitempty"`
	Line           int     `json:"line"`
}

// Action counts what one operator did with one command.
type Action struct {
	Command string `json:"command"`
	By      string `json:"by"`
	Runs    int    `json:"runs"`
	Count   int    `json:"count"` // messages or people
}

// Make reads an audit log once and makes the report. Its memory is bounded, whatever the size of the
// log. The error is one of reading.
func Make(ctx context.Context, log io.Reader, o Options) (Report, error) {
	m := newMaker(o)
	o.Verify.Each = m.entry
	checked, err := audit.Verify(audit.UntilDone(ctx, log), o.Verify)
	if err != nil {
		return Report{}, err
	}
	return m.report(checked), nil
}

// NotListed returns the number of misses and exceptions that are counted and not listed.
func (r Report) NotListed() int {
	n := r.Misses.Count - len(r.Misses.List)
	for _, e := range r.Exceptions {
		n += e.Count - len(e.List)
	}
	return n
}

// answer returns the report in one sentence.
func (r Report) answer(target time.Duration) string {
	measured := r.Met + r.Missed
	switch {
	case measured+r.Failed == 0:
		return "No event in this period asked to sign anybody out."
	case r.Missed+r.Failed == 0:
		return fmt.Sprintf("Every event led to a revocation within %s (%d of %d).", Duration(target), r.Met, measured)
	}
	return fmt.Sprintf("%d of %d events led to a revocation within %s; took longer: %d; led to none: %d.",
		r.Met, measured+r.Failed, Duration(target), r.Missed, r.Failed)
}

// Duration formats a duration for people, such as 1h or 1m 30s.
func Duration(d time.Duration) string {
	text := d.Round(time.Millisecond).String()
	if d >= time.Minute {
		text = d.Round(time.Second).String()
	}
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
