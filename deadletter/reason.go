// Package deadletter defines what the worker writes into a message that it moves to the dead-letter
// queue: the reasons, with what each means and what to do about it, and the application properties,
// with the rules for when they can be believed. It is what the hot path needs; package replay
// finds, replays, removes, exports and imports dead letters for operators.
package deadletter

import "unicode"

// Reason is the reason for a dead letter, as the message's DeadLetterReason property holds it. The
// set is fixed: alerts and operators' tools rely on it.
type Reason string

// The reasons that the worker gives. Service Bus itself adds MaxDeliveryCountExceeded and
// TTLExpiredException.
const (
	// UnreadableMessage means that the client library cannot decode the message. See package
	// sanitizer.
	UnreadableMessage Reason = "UnreadableMessage"
	// InvalidEvent means that the message or one of its events cannot be read, or does not name a
	// user in an accepted form.
	InvalidEvent Reason = "InvalidEvent"
	// UnknownEvent means that the event's type is missing or not on the allow-list, or that no
	// mapping understands the message.
	UnknownEvent Reason = "UnknownEvent"
	// NoTrigger means that a mapping understands the event, and that it must sign nobody out.
	NoTrigger Reason = "NoTrigger"
	// OwnerUnclear means that the event names nobody whose sessions can be revoked, and that looking
	// for the person found nobody, or several people.
	OwnerUnclear Reason = "OwnerUnclear"
	// ForeignDomain means that the domain of the user's name is not an allowed one.
	ForeignDomain Reason = "ForeignDomain"
	// TooOld means that the event happened longer ago than the worker accepts.
	TooOld Reason = "TooOld"
	// TooFarAhead means that the event takes effect later than the worker can schedule it.
	TooFarAhead Reason = "TooFarAhead"
	// ProtectedUser means that the user is on the list of people who are never signed out.
	ProtectedUser Reason = "ProtectedUser"
	// ExternalUser means that the user is a guest, whose sessions belong to another tenant.
	ExternalUser Reason = "ExternalUser"
	// UserNotFound means that Graph does not know the user, even after the time allowed for
	// replication.
	UserNotFound Reason = "UserNotFound"
	// NotRevoked means that Graph answered 2xx and reported that it revoked nothing.
	NotRevoked Reason = "NotRevoked"
	// Forbidden means that the application has the permission, but Graph refuses this user.
	Forbidden Reason = "Forbidden"
	// RequestRejected means that Graph refuses the request itself (any other 4xx).
	RequestRejected Reason = "RequestRejected"
	// RetriesExhausted means that failures that are usually temporary did not pass within the
	// budget.
	RetriesExhausted Reason = "RetriesExhausted"
)

// IsOurs reports whether the worker gives this reason, and so has written our properties. Case
// matters.
func IsOurs(reason string) bool {
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
	// Meaning says what happened. Action says what to do next.
	Meaning, Action string
}

// Guides returns a guide for every reason of the worker, in the order in which a message can meet
// them.
func Guides() []Guide {
	return []Guide{
		{
			UnreadableMessage,
			"The client library cannot decode the message: its body or structure is not valid AMQP for it, is nested too deep, " +
				"or is too large. The description says which.",
			"Find out who sent it and whom it meant (`worker dlq export` keeps its original bytes). " +
				"Revoke that person's sessions (`worker revoke`), and fix the producer. The message cannot be replayed.",
		},
		{
			InvalidEvent,
			"The message is not readable as an event, or names no user in an accepted form. The description names the field.",
			"Find out whom it meant and revoke that person's sessions (`worker revoke`), or fix the event (`worker dlq export`, edit, " +
				"`import`). Fix the producer (docs/events.md). Replayed unchanged, the message becomes a dead letter again.",
		},
		{
			UnknownEvent, "No mapping understands the message, or the event's type is missing or not on the allow-list `events.types`.",
			"If such events should sign people out, write a mapping for them (docs/mappings.md; `worker event test` tries it), " +
				"or add the type, and replay. Otherwise, filter them out before this queue.",
		},
		{
			NoTrigger, "A mapping understands the event, and it is none that signs anybody out, such as an ordinary logout. " +
				"The description says why.",
			"Nobody was to be signed out. Filter such events out at their producer, then purge.",
		},
		{
			OwnerUnclear, "The event names only a device, or an address that several people have, and it is not clear whose it is.",
			"Find out who has the device, and revoke that person's sessions (`worker revoke`). If events often name only a device, " +
				"see `events.resolve_devices`.",
		},
		{
			ForeignDomain, "The domain of the user's name is not on the list `events.allowed_domains`, so nobody was called.",
			"Check the producer's mapping: the field may hold a private or a partner's address. If the domain is yours, " +
				"add it to `events.allowed_domains` and replay.",
		},
		{
			TooOld, "The event happened longer before it was sent than `events.max_age` allows, as in a backfill.",
			"If the person must still be signed out, use `worker revoke`. Otherwise purge.",
		},
		{
			TooFarAhead, "The event takes effect later than `events.horizon` allows.",
			"Check the date at the producer. If it is right, send the event again later, or raise `events.horizon` and replay.",
		},
		{
			ProtectedUser, "The user is on `guard.protected_users`, and this worker never signs them out.",
			"Find out whether the account is really compromised. If it is, a person with the right role must revoke its sessions " +
				"in the Entra admin center.",
		},
		{
			ExternalUser, "The user is a guest (`#EXT#`). Graph would answer with success and revoke nothing.",
			"Ask the guest's home tenant to revoke the sessions, or block or delete the guest here.",
		},
		{
			UserNotFound, "Graph does not know this id or user principal name. A mail address is often not a user principal name.",
			"Correct the producer's mapping, or confirm that the account is already deleted. Then replay or purge.",
		},
		{
			NotRevoked, "Graph repeatedly answered 2xx with `value: false`: it revoked nothing.",
			"Revoke the sessions manually in the Entra admin center and check the account's sign-in logs. Replay later.",
		},
		{
			Forbidden,
			"Graph refuses this user, although the application has the permission. A restricted administrative unit can be the cause.",
			"Give the application a role that covers the user, or revoke the sessions manually. Then replay.",
		},
		{
			RequestRejected, "Graph refused the request itself. The description has its status and code.",
			"Look up the code. Microsoft support can find the request by its request id. Replay after the cause is gone.",
		},
		{
			RetriesExhausted,
			"Graph failed for this user more often than `retry.max_attempts` while it succeeded for others, " +
				"or for longer than `retry.max_age`.",
			"Check Microsoft's service health. Then replay.",
		},
	}
}

// GuideTo returns the guide to a reason as a message holds it: one of the worker's, one of Service
// Bus, or one that another program gave.
func GuideTo(reason string) Guide {
	for _, g := range Guides() {
		if string(g.Reason) == reason {
			return g
		}
	}
	switch reason {
	case "MaxDeliveryCountExceeded":
		return Guide{
			Reason(reason),
			"The message was delivered as often as the queue allows and never settled: workers stopped or were killed " +
				"while they had it locked, or could not read it.",
			"Raise the queue's max delivery count (to 100, for example), look for workers that restart, and then replay.",
		}
	case "TTLExpiredException":
		return Guide{
			Reason(reason), "The message's time to live ended before a worker could act on it.",
			"Replay it if the event still matters. Raise the time to live of the queue or of the messages.",
		}
	}
	return Guide{
		Reason(reason), "This reason is not one of the worker's: another program dead-lettered the message.",
		"Find out who else receives from this queue. Replay if the event still matters.",
	}
}

// Cut shortens s to at most limit bytes, without splitting a character, and ends a shortened text
// with "…".
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

// Hidden reports whether a character of a text from outside can move a terminal's cursor, change
// colors, reverse the direction of text, or be invisible. These are control characters (C0 and C1,
// of which U+009B begins terminal commands), format characters (Cf, such as U+202E), and line and
// paragraph separators.
func Hidden(c rune) bool { return unicode.In(c, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }
