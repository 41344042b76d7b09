package schedule

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/session-revoker/session-revoker/event"
)

// memo is a Decoder that remembers the last message with several events. For each of its events the
// worker schedules a copy of the whole message, one after the other: without the memo, a message with
// 1,000 events would be decoded 1,000 times. It is not safe for concurrent use.
type memo struct {
	Decoder
	last  event.Message // its properties are without those that the worker writes
	items []event.Item
}

// Decode returns what the Decoder returns for the message.
func (d *memo) Decode(m event.Message) ([]event.Item, error) {
	content := m
	content.Properties = maps.Clone(m.Properties)
	maps.DeleteFunc(content.Properties, func(name string, _ any) bool { return strings.HasPrefix(name, "revoker-") })
	if d.items != nil && same(content, d.last) {
		return slices.Clone(d.items), nil
	}
	items, err := d.Decoder.Decode(m)
	if err == nil && len(items) > 1 {
		d.last, d.items = content, slices.Clone(items)
	}
	return items, err
}

func same(a, b event.Message) bool {
	return bytes.Equal(a.Body, b.Body) && a.ContentType == b.ContentType && a.Subject == b.Subject && a.BodyKind == b.BodyKind &&
		len(a.Properties) == len(b.Properties) && (len(a.Properties) == 0 || reflect.DeepEqual(a.Properties, b.Properties))
}
