package event

import (
	"errors"
	"testing"
)

func TestDecodePanicCostsOneEvent(t *testing.T) {
	item := newItem(3, func() (Event, *Error) { panic("a library's") })
	var problem *Error
	if !errors.As(item.Err, &problem) || problem.Kind != Invalid || item.Index != 3 || !item.Event.User.IsZero() {
		t.Errorf("%+v", item)
	}
}
