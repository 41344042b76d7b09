package replay_test

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/replay"
)

func TestRunStateCountsAMessageThatIsDeadLetteredMeanwhileOnce(t *testing.T) {
	s := replay.NewRunState("run")
	found := func(sequence int64, state azservicebus.MessageState, reason string) replay.Found {
		return replay.Found{
			Letter: replay.Letter{
				Source: "q", SequenceNumber: sequence, Reason: reason, ReplayedBy: "grace", ReplayedAt: "2026-03-01T12:00:00Z",
			},
			Message: &azservicebus.ReceivedMessage{State: state},
		}
	}
	s.Add(found(1, azservicebus.MessageStateActive, ""), false)
	s.Add(found(2, azservicebus.MessageStateActive, ""), false)
	s.Add(found(2, azservicebus.MessageStateActive, ""), false) // a page that overlaps another one
	s.Add(found(3, azservicebus.MessageStateDeferred, ""), false)
	s.Add(found(4, azservicebus.MessageStateScheduled, ""), false)
	s.Add(found(2, azservicebus.MessageStateActive, "Forbidden"), true)
	s.Add(found(3, azservicebus.MessageStateActive, "Forbidden"), true)
	s.Add(found(9, azservicebus.MessageStateActive, "UserNotFound"), true)
	if s.Waiting != 1 || s.Deferred != 0 || s.Scheduled != 1 || s.DeadLetters() != 3 || s.Back["Forbidden"] != 2 || s.By != "grace" {
		t.Errorf("%+v", s)
	}
}
