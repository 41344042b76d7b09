package history

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/session-revoker/session-revoker/audit"
)

// operation adds the steps of an operator's command about the person.
func (f *finder) operation(e audit.Entry, o audit.Operation) {
	by := because(o.By, o.Account)
	if o.Account != "" && o.Account != by {
		by += " (" + o.Account + ")"
	}
	why := ""
	if o.Why != "" {
		why = "; why: " + o.Why
	}
	add := func(kind Kind, format string, args ...any) {
		if e.Changed {
			f.changed++
		}
		f.add(e, Step{
			Time: o.Time, Kind: kind, Text: fmt.Sprintf(format, args...) + ".", By: by, Source: o.Source, Reason: o.Reason,
			RequestID: o.RequestID, Run: o.Run,
		})
	}
	switch {
	case o.Command == "revoke" && o.Outcome == audit.Started && slices.ContainsFunc(o.Users, f.isOne):
		add(ByHand, "%s began to sign them out by hand%s", by, why)
	case o.Outcome == audit.Revoked && f.isAbout(o.UserID, o.UserPrincipalName, ""):
		text := "Signed out by hand by %s: Graph confirmed that it revoked all sessions%s"
		if o.Unverified != "" {
			text += "; effect not verified: " + strings.ReplaceAll(o.Unverified, "%", "%%")
		}
		add(RevokedByHand, text, by, why)
		if e.Changed {
			f.ask(demand{o.Time, o.Time, o.Time, notBelieved})
			break
		}
		f.confirm(confirmation{
			start: o.Time, end: o.Time, by: by, unverified: o.Unverified, guestUnknown: o.UserPrincipalName == "",
		})
	case o.Outcome == audit.NotRevoked && f.isAbout(o.UserID, o.UserPrincipalName, ""):
		add(FailedByHand, "%s could not sign them out by hand: %s%s", by, because(o.Error, o.Reason), why)
		f.ask(demand{o.Time, o.Time, o.Time, "a manual revocation failed"})
	case o.Command == "scheduled cancel" || o.Command == "scheduled now":
		f.scheduledChange(e, o, by, why, add)
	case o.Command == "dlq replay" && o.Outcome == audit.Started && f.hasLetter(o):
		add(Replayed, "%s replayed the dead letter (run %s)%s", by, o.Run, why)
	case o.Command == "dlq edit" && o.Outcome == audit.Started && f.hasLetter(o):
		add(Replayed, "%s sent the dead letter again with an edited body (run %s)%s", by, o.Run, why)
	case o.Command == "dlq import" && o.Outcome == audit.Started && f.runs[o.Run]:
		add(Replayed, "%s sent the message again from the file %s (run %s)%s", by, o.File, o.Run, why)
	case o.Command == "dlq purge" && o.Outcome == audit.Started && f.hasLetter(o):
		add(Purged, "%s began to remove the dead letter%s", by, why)
	}
}

// isOne reports whether a name in a list of users is the person's.
func (f *finder) isOne(user string) bool {
	user = strings.ToLower(user)
	return f.ids[user] || f.names[user]
}

// scheduledChange adds the steps of scheduled cancel and scheduled now. The record at the end lists the
// messages that were canceled.
func (f *finder) scheduledChange(e audit.Entry, o audit.Operation, by, why string, add func(Kind, string, ...any)) {
	kind, doing, sent := Canceled, "cancel", ""
	if o.Command == "scheduled now" {
		kind, doing, sent = Advanced, "bring forward", ", and had sent its event without a date before"
	}
	found := slices.DeleteFunc(among(o, f.copies), func(m message) bool {
		date := f.copies[m]
		return !date.IsZero() && o.Time.After(date.Add(renumbered)) // another message has the number now
	})
	run := part{o.Run, o.Source}
	if o.Outcome == audit.Started {
		for _, m := range found {
			add(kind, "%s began to %s the scheduled message %d%s", by, doing, m.sequence, why)
			if kind == Canceled {
				put(f.unsure, m, by)
			}
		}
		if len(found) == 0 {
			return
		}
		put(f.begun, run, true)
		if kind == Advanced {
			// The call may begin at once, and the clocks may differ.
			text := by + " began to bring the date forward, and no call followed"
			put(f.forward, run, demand{o.Time.Add(-clocksDiffer), o.Time, o.Time, text})
		}
		return
	}
	for _, m := range found {
		add(kind, "%s canceled the scheduled message %d%s", by, m.sequence, sent)
		if !e.Changed {
			f.cancel(m, o.Time)
		}
	}
	if o.Outcome == audit.Failed && f.begun[run] {
		add(kind, "%s could not %s all of what they began with: %s", by, doing, because(o.Error, "for no reason that the record gives"))
		if o.Counts["sent"] == 0 {
			delete(f.forward, run)
		}
	}
}

// hasLetter reports whether the messages of an operation contain a dead letter of the person.
func (f *finder) hasLetter(o audit.Operation) bool { return len(among(o, f.letters)) > 0 }

// among returns those of the messages that an operation lists, in order.
func among[V any](o audit.Operation, messages map[message]V) (found []message) {
	if len(messages) == 0 {
		return nil
	}
	ranges := parseRanges(o.Messages)
	for m := range messages {
		i, _ := slices.BinarySearchFunc(ranges, m.sequence, func(r [2]int64, n int64) int { return cmp.Compare(r[1], n) })
		if m.source == o.Source && i < len(ranges) && ranges[i][0] <= m.sequence {
			found = append(found, m)
		}
	}
	slices.SortFunc(found, func(a, b message) int { return cmp.Compare(a.sequence, b.sequence) })
	return found
}

// parseRanges reads a list of sequence numbers such as 5,7,10-20. It leaves out what it cannot read. The
// ranges are in order, and do not overlap.
func parseRanges(list string) [][2]int64 {
	var ranges [][2]int64
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		low, err := strconv.ParseInt(from, 10, 64)
		high := low
		if err == nil && isRange {
			high, err = strconv.ParseInt(to, 10, 64)
		}
		if err == nil && low <= high {
			ranges = append(ranges, [2]int64{low, high})
		}
	}
	slices.SortFunc(ranges, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	apart := ranges[:0]
	for _, r := range ranges {
		if n := len(apart); n > 0 && r[0] <= apart[n-1][1] {
			apart[n-1][1] = max(apart[n-1][1], r[1])
		} else {
			apart = append(apart, r)
		}
	}
	return apart
}
