package mapping

import (
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/session-revoker/session-revoker/event"
)

// byElement decodes a list by its elements: several single webhooks that something on the way has put
// into one message, or a batch in which not every event is one that a mapping reads. The list is the
// body, or the member value of an answer of Graph. native and err are what the worker's own forms say
// about the message. matched is false if no mapping matches any element.
func (d *Decoder) byElement(m event.Message, native []event.Item, err error) (items []event.Item, _ error, matched bool) {
	if len(d.mappings()) == 0 {
		return nil, nil, false
	}
	whole, latin1 := newScope(m, err == nil)
	if whole == nil {
		return nil, nil, false
	}
	elements := listed(whole.body)
	if len(elements) == 0 || len(elements) > event.MaxEvents {
		return nil, nil, false
	}
	for i, element := range elements {
		one := *whole // one document, so that the bounds hold for all elements together
		one.body, one.item, one.names = element, element, nil
		if o, ok := element.(*object); ok {
			whole.doc.decodeCloudEvent(o)
		}
		found, problem, ok := d.byScope(&one, latin1)
		switch {
		case !ok && len(native) == len(elements):
			found, _ = d.unmatched(native[i:i+1], nil)
		case !ok:
			found, _ = d.unmatched([]event.Item{{Err: &event.Error{
				Kind: event.UnknownType, Field: placeOf(element), Problem: "is in no form of an event",
			}}}, nil)
		case problem != nil:
			found = []event.Item{{Err: problem}}
		}
		matched = matched || ok
		for _, item := range found {
			item.Index = len(items)
			items = append(items, item)
		}
		if len(items) > event.MaxEvents {
			return nil, invalid("body", "more than %d events in one message", event.MaxEvents), true
		}
	}
	if !matched {
		return nil, nil, false
	}
	return items, nil, true
}

// listed returns the elements of a list, or of the list in an object that holds nothing else but
// annotations of OData, as Graph answers.
func listed(body ref.Val) []ref.Val {
	if o, ok := body.(*object); ok {
		o.load()
		for _, m := range o.members {
			if m.name != "value" && !strings.HasPrefix(m.name, "@odata.") {
				return nil
			}
		}
		if body, ok = o.get("value"); !ok {
			return nil
		}
	}
	l, ok := body.(*list)
	if !ok {
		return nil
	}
	var elements []ref.Val
	for i := range int(l.Size().(types.Int)) {
		elements = append(elements, l.Get(types.Int(i)))
	}
	return elements
}
