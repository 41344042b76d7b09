// Package deadletter is about messages that were set aside: the vocabulary of why, and the operator's side: peeking at them,
// replaying, purging, exporting and importing them.
package deadletter

// Reason is a dead letter's reason, as it stands in the message's DeadLetterReason property. The set is fixed: alerts and
// operators' tools rely on it.
type Reason string

// The reasons that the worker gives. Service Bus itself adds MaxDeliveryCountExceeded and TTLExpiredException.
const (
	// UnreadableMessage: the client library cannot decode the message; see package sanitizer.
	UnreadableMessage Reason = "UnreadableMessage"
	// InvalidEvent: the message or one of its events cannot be read, or does not name a user in an accepted form.
	InvalidEvent Reason = "InvalidEvent"
	// UnknownEvent: the event's type is missing or not on the allow-list.
	UnknownEvent Reason = "UnknownEvent"
	// ProtectedUser: the user is on the list of people who are never signed out.
	ProtectedUser Reason = "ProtectedUser"
	// ExternalUser: the user is a guest, whose sessions belong to another tenant.
	ExternalUser Reason = "ExternalUser"
	// UserNotFound: Graph does not know the user, and did not within the time allowed for replication.
	UserNotFound Reason = "UserNotFound"
	// NotRevoked: Graph answered well, and said that nothing was revoked.
	NotRevoked Reason = "NotRevoked"
	// Forbidden: the application has the permission, and Graph refuses this user.
	Forbidden Reason = "Forbidden"
	// RequestRejected: Graph refuses the request as such (any other 4xx).
	RequestRejected Reason = "RequestRejected"
	// RetriesExhausted: failures that usually pass did not pass within the budget.
	RetriesExhausted Reason = "RetriesExhausted"
)

// isOurs says that the worker has given the reason, and so has written our properties.
func isOurs(reason string) bool {
	_, ok := ours[Reason(reason)]
	return ok
}

var ours = func() map[Reason]struct{} {
	set := map[Reason]struct{}{}
	for _, g := range Guides() {
		set[g.Reason] = struct{}{}
	}
	return set
}()

// Guide is what the documentation and the tools say about a reason.
type Guide struct {
	Reason Reason
	// Meaning is one sentence on what happened; Action one on what to do next.
	Meaning, Action string
}

// Guides lists every reason, in the order in which a message can meet them.
func Guides() []Guide {
	return []Guide{
		{
			UnreadableMessage, "The message's body or structure is not AMQP that the client library can decode, is nested too deep, or is too large; the description says which.",
			"Find out who sent it and whom it meant (`worker dlq export` keeps its original bytes), revoke that person (`worker revoke`), and mend the producer. It cannot be replayed.",
		},
		{
			InvalidEvent, "The message is not readable as an event, or names no user in an accepted form; the description names the field.",
			"Find out whom it meant and revoke that person (`worker revoke`), or mend it (`worker dlq export`, edit, `import`); mend the producer (docs/events.md). Replayed unchanged, it comes back.",
		},
		{
			UnknownEvent, "The event's type is missing or not on the allow-list `events.types`.",
			"If such events should sign people out, add the type and replay; otherwise filter them out before this queue.",
		},
		{
			ProtectedUser, "The user is on `guard.protected_users` and is never signed out by this worker.",
			"Ask whether the account is really compromised; if it is, a person with the right role revokes it in the Entra admin center.",
		},
		{
			ExternalUser, "The user is a guest (`#EXT#`): Graph would answer with success and revoke nothing.",
			"Ask the guest's home tenant to revoke the sessions, or block or delete the guest here.",
		},
		{
			UserNotFound, "Graph does not know this id or user principal name (a mail address is often not one).",
			"Correct the producer's mapping, or confirm that the account is already deleted; then replay or purge.",
		},
		{
			NotRevoked, "Graph answered 2xx with `value: false`, repeatedly: nothing was revoked.",
			"Revoke by hand in the Entra admin center and check the account's sign-in logs; replay later.",
		},
		{
			Forbidden, "Graph refuses this user although the application's permission is present (a restricted administrative unit, for example).",
			"Give the application a role that covers the user, or revoke by hand; then replay.",
		},
		{
			RequestRejected, "Graph refused the request itself; the description has its status and code.",
			"Read the code; with the request id Microsoft's support can tell more. Replay after the cause is gone.",
		},
		{
			RetriesExhausted, "Graph failed for this user more often than `retry.max_attempts` while others succeeded, or for longer than `retry.max_age`.",
			"Check Microsoft's service health, then replay.",
		},
	}
}

// Application properties that the worker adds to a dead letter, beside Service Bus' DeadLetterReason and
// DeadLetterErrorDescription. Each is a string.
const (
	// PropertyFailed lists the indexes (from 0) of the failed events of a message that holds several, comma-separated.
	// Absent when every event failed, or when the list is longer than MaxProperty.
	PropertyFailed = "revoker-failed-events"
	// PropertyAttempts is how many calls were made for the (first failed) user.
	PropertyAttempts = "revoker-attempts"
	// PropertySuperseded lists the ids of messages of the same users that were completed in favor of this one: the first of
	// them, comma-separated. PropertySupersededCount is how many they were.
	PropertySuperseded      = "revoker-superseded"
	PropertySupersededCount = "revoker-superseded-count"
	// PropertyStatus and PropertyCode are Graph's last HTTP status and error code.
	PropertyStatus = "revoker-graph-status"
	PropertyCode   = "revoker-graph-code"
	// PropertyRequestID and PropertyClientRequestID identify the last call to Microsoft's support.
	PropertyRequestID       = "revoker-request-id"
	PropertyClientRequestID = "revoker-client-request-id"
)

// Application properties that a replay adds to the message. Each is a string.
const (
	// PropertyOnly lists the indexes (from 0) of the events that the worker shall act on, comma-separated: those that failed
	// before. Absent for all. PropertyOnlyOf is a digest of the body whose events they are, so that nobody applies them to
	// another one.
	PropertyOnly   = "revoker-only-events"
	PropertyOnlyOf = "revoker-only-events-of"
	// PropertyReplays counts the replays of this message, PropertyRun names the last one, PropertyReplayedAt says when
	// (RFC 3339) and PropertyReplayedBy by whom.
	PropertyReplays    = "revoker-replays"
	PropertyRun        = "revoker-replay-run"
	PropertyReplayedAt = "revoker-replayed-at"
	PropertyReplayedBy = "revoker-replayed-by"
	// PropertyOriginalID is the MessageID that the message had before its first replay.
	PropertyOriginalID = "revoker-original-message-id"
)

// PropertyDeferred is set on a message that is deferred: until when (RFC 3339) the worker that has set it aside looks after
// it. Past that any other does.
const PropertyDeferred = "revoker-deferred-until"

// MaxProperty and MaxDescription bound, in bytes, what the worker writes into one property and into the description:
// Service Bus allows 64 KB for all properties of a message together, and the message brings its own.
const (
	MaxProperty    = 4096
	MaxDescription = 2048
)

// Cut shortens s to at most limit bytes, without splitting a character, and marks the cut by "…".
func Cut(s string, limit int) string {
	const mark = "…"
	if len(s) <= limit {
		return s
	}
	end := 0
	for i := range s { // i runs over the starts of characters
		if i > limit-len(mark) {
			break
		}
		end = i
	}
	return s[:end] + mark
}

// GuideTo is the guide to a reason as it stands in a message: ours, Service Bus' own, or one that another program gave.
func GuideTo(reason string) Guide {
	for _, g := range Guides() {
		if string(g.Reason) == reason {
			return g
		}
	}
	switch reason {
	case "MaxDeliveryCountExceeded":
		return Guide{
			Reason(reason), "The message was delivered as often as the queue allows and never settled: workers were stopped or killed while they held it, or could not read it.",
			"Raise the queue's max delivery count (100 is a good one), look for workers that restart, then replay.",
		}
	case "TTLExpiredException":
		return Guide{
			Reason(reason), "The message's time to live ended before a worker could act on it.",
			"Replay it if the event still matters; raise the time to live of queue or messages.",
		}
	}
	return Guide{Reason(reason), "This reason is not one of the worker's: another program set the message aside.", "Ask who else receives from this queue; replay if the event still matters."}
}
