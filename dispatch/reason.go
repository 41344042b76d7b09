package dispatch

import (
	"errors"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

// ReasonOf returns the dead-letter reason for a final failure of a user.
func ReasonOf(err error) deadletter.Reason {
	if failure, ok := errors.AsType[*revoker.Error](err); ok {
		switch failure.Kind {
		case revoker.NotFound:
			return deadletter.UserNotFound
		case revoker.NotRevoked:
			return deadletter.NotRevoked
		case revoker.OwnerUnclear:
			return deadletter.OwnerUnclear
		case revoker.External:
			return deadletter.ExternalUser
		case revoker.Protected:
			return deadletter.ProtectedUser
		case revoker.Forbidden:
			return deadletter.Forbidden
		case revoker.Rejected:
			return deadletter.RequestRejected
		}
	}
	return deadletter.RetriesExhausted
}

// AccountOf returns the account from an error that says that an event's user name, device, or mail
// address belongs to that account, and that nobody was called. For a name this happens if the
// account could not be read when the event was received, because Graph was down, throttled, or
// slow. The caller must add the event again, now for the account.
func AccountOf(err error) (account event.User, ok bool) {
	failure, ok := errors.AsType[*revoker.Error](err)
	if !ok || failure.Kind != revoker.Named {
		return event.User{}, false
	}
	return failure.Account, true
}
