package consumer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/deadletter"
)

func TestDeadLetterDescribesAllEventsThatFailed(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.send(about(person(1), ada, glass, person(2)))
		w.run()
		w.settled(10 * time.Minute)
		w.wantRevoked(ada)
		letter := w.dead()["m0"]
		for _, part := range []string{"3 of 4 events failed", "[0] UserNotFound", "[2] ProtectedUser", "[3] UserNotFound"} {
			if !strings.Contains(letter.DeadLetterDescription, part) {
				t.Errorf("the description lacks %q: %s", part, letter.DeadLetterDescription)
			}
		}
		if strings.Contains(letter.DeadLetterDescription, "[1]") || letter.ApplicationProperties[deadletter.PropertyFailed] != "0,2,3" {
			t.Errorf("%s, %v", letter.DeadLetterDescription, letter.ApplicationProperties)
		}
	})
}
