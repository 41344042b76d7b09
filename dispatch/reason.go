package dispatch

import (
	"errors"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

// ReasonOf names a final failure of a user.
func ReasonOf(err error) deadletter.Reason {
	if failure, ok := errors.AsType[*revoker.Error](err); ok {
		switch failure.Kind {
		case revoker.NotFound:
			return deadletter.UserNotFound
		case revoker.NotRevoked:
			return deadletter.NotRevoked
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

// AccountOf is the account that a name belongs to which was to be called, if that is what the error says. When the event came
// it could not be told: Graph was away, throttled, or slow. The event is to be entered again, as the account's.
func AccountOf(err error) (account event.User, ok bool) {
	var failure *revoker.Error
	if !errors.As(err, &failure) || failure.Kind != revoker.Named {
		return event.User{}, false
	}
	return failure.Account, true
}
