package dedupe

import (
	"testing"
	"time"
)

func TestLedgerForgetsAFailingMessageThatIsDecided(t *testing.T) {
	l := New(Config{Window: time.Minute, Remember: time.Hour, MaxUsers: 10, MaxParked: 8, MaxFailing: 8})
	e := &Event{Position: Position{Enqueued: time.Now(), Sequence: 1}, Message: NewMessage(0)}
	w, _ := l.Add("ada", e)
	l.AllAdded(e.Message)
	w.Start()
	w.Retry(true)
	if s := l.shares[0]; s.failing != 1 || s.failed.Len() != 1 {
		t.Fatalf("%+v", s)
	}
	w.Start()
	w.Failed(Attempt{Start: time.Now()}, nil)
	if s := l.shares[0]; s.failing != 0 || s.failed.Len() != 0 {
		t.Errorf("%+v: the list grows with each user who fails", s)
	}
}
