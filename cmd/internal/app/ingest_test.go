package app

import (
	"errors"
	"testing"

	"github.com/session-revoker/session-revoker/event"
)

func TestValidatorLeavesTokensToTheWorker(t *testing.T) {
	v, err := newValidator(load(t, "REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net"))
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		m    event.Message
		want event.Kind
	}{
		"a token": {event.Message{ContentType: "application/secevent+jwt", Body: []byte("e30.e30.AAAA")}, event.NotYet},
		"rubbish": {event.Message{ContentType: "application/json", Body: []byte("{")}, event.Invalid},
	} {
		var problem *event.Error
		if _, err := v.Decode(c.m); !errors.As(err, &problem) || problem.Kind != c.want {
			t.Errorf("%s: %v", what, err)
		}
	}
}
