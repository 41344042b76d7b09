package mapping

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/session-revoker/session-revoker/event"
)

// Bounds of what an event keeps of a producer's texts, in characters.
const (
	maxReason = 256
	maxDevice = 128
)

var constant = lazily(`^("[^"\\]*"|'[^'\\]*')$`)

// decode returns the events of a message that the mapping matches.
func (d *Decoder) decode(m *mapping, s *scope) ([]event.Item, error) {
	if m.each == nil {
		return []event.Item{d.item(m, s)}, nil
	}
	v, missing, problem := m.each.value(s)
	elements, ok := v.(traits.Lister)
	switch {
	case problem != nil:
		return nil, problem
	case v == nil:
		if missing == "" {
			missing = "there is no such list"
		}
		return nil, invalid(m.each.path(s), "the list of events is missing: %s", quote(missing))
	case !ok:
		return nil, invalid(m.each.path(s), "must be a list, not %s", v.Type().TypeName())
	}
	n := int(elements.Size().(types.Int))
	switch {
	case n == 0:
		none := &event.Error{Kind: event.NoTrigger, Field: cmp.Or(placeOf(v), m.each.path(s)), Problem: "holds no events"}
		return []event.Item{{Event: event.Event{Mapping: m.name}, Err: none}}, nil
	case n > event.MaxEvents:
		return nil, invalid(m.each.path(s), "more than %d events in one message", event.MaxEvents)
	}
	items := make([]event.Item, n)
	for i := range n {
		s.index, s.item = i, elements.Get(types.Int(i))
		items[i] = d.item(m, s)
	}
	return items, nil
}

// item returns one event. A panic costs this event only.
func (d *Decoder) item(m *mapping, s *scope) (item event.Item) {
	defer func() {
		if recover() != nil {
			err := invalid("event", "cannot be decoded, by a defect of the worker: report it with this message")
			item = event.Item{Index: s.index, Event: event.Event{Mapping: m.name}, Err: err}
		}
	}()
	s.doc.problem = nil
	e, problem := d.read(m, s)
	if s.doc.problem != nil {
		problem = s.doc.problem
	}
	if problem != nil {
		e.User, e.Field = event.User{}, ""
		return event.Item{Index: s.index, Event: e, Err: problem}
	}
	return event.Item{Index: s.index, Event: e}
}

// read returns one event, or as much of it as there is, and why it is refused.
func (d *Decoder) read(m *mapping, s *scope) (event.Event, *event.Error) {
	e := event.Event{Mapping: m.name}
	kindProblem := d.readKind(m, s, &e)
	// What cannot be read of the following decides nothing, so it is left out.
	e.ID, _ = m.id.one(s)
	e.Source, _ = m.source.one(s)
	reason, _ := m.reason.one(s)
	e.Reason = cut(strings.Join(strings.Fields(cut(reason, 2*maxReason)), " "), maxReason)
	if v, _, _ := m.time.value(s); !blank(v) {
		var ok bool
		e.Time, _, ok = m.clock.read(v)
		e.TimeUnread = !ok
	}
	device := m.readDevice(s)
	e.Device = cut(device.shown(), maxDevice)

	for _, r := range m.refuse {
		refused, problem := r.when.isTrue(s)
		if problem != nil {
			problem.Problem = fmt.Sprintf("it cannot be decided whether %q: %s", r.reason, problem.Problem)
			return e, problem
		}
		if refused {
			return e, &event.Error{Kind: r.kind, Field: "mapping " + m.name, Problem: r.reason}
		}
	}
	if kindProblem != nil {
		return e, kindProblem
	}
	if problem := m.readEffect(s, &e); problem != nil {
		return e, problem
	}
	if m.requiresResolver && !d.resolve {
		return e, ownerUnclear("mapping "+m.name, "needs the owner of the device: turn on events.resolve_devices")
	}
	problem := d.readUser(m, s, device, &e)
	return e, problem
}

// readKind sets the type and the urgency.
func (d *Decoder) readKind(m *mapping, s *scope, e *event.Event) *event.Error {
	if m.kind == nil {
		return nil // the mapping refuses all events
	}
	kind, problem := m.kind.one(s)
	if problem != nil {
		return problem
	}
	e.Type = kind
	if m.table != nil && kind != "" {
		to, ok := m.table[kind]
		if !ok {
			problem := quote(kind) + " is no trigger of the mapping " + m.name
			return &event.Error{Kind: event.NoTrigger, Field: m.kind.path(s), Problem: problem}
		}
		e.Type = to
	}
	var known bool
	e.Urgency, known = d.types[e.Type]
	switch {
	case e.Type == "":
		return &event.Error{Kind: event.UnknownType, Field: m.kind.path(s), Problem: "missing"}
	case !known && d.lenient == nil:
		problem := quote(e.Type) + " is not on the allow-list (events.types)"
		return &event.Error{Kind: event.UnknownType, Field: m.kind.path(s), Problem: problem}
	}
	return nil
}

// blank reports whether an expression gave nothing, or a text without a letter.
func blank(v ref.Val) bool {
	text, isText := v.(types.String)
	return v == nil || isText && strings.TrimSpace(string(text)) == ""
}

// readEffect sets when the event takes effect, and whether it is withdrawn. Both decide whether
// somebody is signed out, so they must be readable.
func (m *mapping) readEffect(s *scope, e *event.Event) (problem *event.Error) {
	if m.withdrawn != nil {
		if e.Withdrawn, problem = m.withdrawn.isTrue(s); problem != nil {
			return problem
		}
	}
	v, _, problem := m.takesEffect.value(s)
	if problem != nil || blank(v) {
		return problem
	}
	at, isDate, ok := m.clock.read(v)
	if !ok {
		return invalid(m.takesEffect.path(s), "%s is no time in the forms %s", quote(textOf(v)), strings.Join(m.clock.forms, ", "))
	}
	if isDate && m.untilEndOfDay {
		// HR systems write 9999-12-31 for never. The day after it is no time that JSON can hold.
		if end := m.clock.endOfDay(at); end.Year() <= 9999 {
			at = end
		}
	}
	e.TakesEffect = at
	return nil
}

// readUser sets the user and the field that names them.
func (d *Decoder) readUser(m *mapping, s *scope, dev device, e *event.Event) *event.Error {
	found := map[string]string{}
	fields := map[string]string{}
	for _, way := range []string{byID, byName, byMail} {
		if way == byMail && (found[byID] != "" || found[byName] != "") {
			break
		}
		for _, c := range m.users {
			if c.way != way || found[way] != "" {
				continue
			}
			values, problem := c.value.distinct(s)
			switch {
			case problem != nil:
				return problem
			case len(values) > 1:
				return ownerUnclear(c.value.path(s), namesPeople(len(values)))
			case len(values) == 1:
				found[way] = values[0]
				if fields[way] = s.doc.whereRead(values[0]); fields[way] == "" {
					fields[way] = c.value.path(s)
				}
			}
		}
	}
	var err error
	switch {
	case found[byID] != "":
		e.Field = fields[byID]
		e.User, err = event.NewUser(found[byID], found[byName])
	case found[byName] != "":
		e.Field = fields[byName]
		e.User, err = event.NewUser("", found[byName])
	case found[byMail] != "" && d.lookUp:
		e.Field = fields[byMail]
		e.User, err = event.NewLookup(event.ByMail, found[byMail])
	case found[byMail] != "":
		e.Field = fields[byMail]
		e.User, err = event.NewUser("", found[byMail])
	default:
		return d.readOwner(m, dev, e)
	}
	if problem, ok := errors.AsType[*event.Error](err); ok {
		field := e.Field
		if problem.Field == "userPrincipalName" && found[byID] != "" {
			field = fields[byName]
		}
		return &event.Error{Kind: problem.Kind, Field: field, Problem: problem.Problem}
	}
	return d.domains.check(e.User, e.Field)
}

func namesPeople(n int) string {
	if n >= maxPeople {
		return fmt.Sprintf("names %d people or more", maxPeople)
	}
	return fmt.Sprintf("names %d people", n)
}

// device is how an event names a device.
type device struct {
	managed, entra, serial, name found
}

// found is a text and the field that it was in.
type found struct{ value, field string }

func (m *mapping) readDevice(s *scope) (d device) {
	read := func(x *expression) found {
		text, _ := x.one(s)
		if text == "" {
			return found{}
		}
		field := s.doc.whereRead(text)
		if field == "" {
			field = x.path(s)
		}
		return found{text, field}
	}
	return device{read(m.managedID), read(m.entraID), read(m.serial), read(m.deviceName)}
}

// shown returns the device for people.
func (d device) shown() string {
	for _, f := range []found{d.name, d.serial, d.managed, d.entra} {
		if f.value != "" {
			return strings.Join(strings.Fields(cut(f.value, 2*maxDevice)), " ")
		}
	}
	return ""
}

// readOwner makes the owner of the device the user. All ways name the same device, so the first that
// can be looked up counts.
func (d *Decoder) readOwner(m *mapping, dev device, e *event.Event) *event.Error {
	if dev == (device{}) {
		return ownerUnclear("mapping "+m.name, "the event names neither a user nor a device")
	}
	var problem *event.Error
	for _, way := range []struct {
		by    event.Lookup
		found found
	}{{event.ByManagedDevice, dev.managed}, {event.ByEntraDevice, dev.entra}, {event.BySerialNumber, dev.serial}} {
		if way.found.value == "" {
			continue
		}
		if !d.resolve {
			return ownerUnclear(way.found.field,
				"names only the device "+quote(e.Device)+", and nobody: turn on events.resolve_devices to find its owner")
		}
		user, err := event.NewLookup(way.by, way.found.value)
		if err == nil {
			e.User, e.Field = user, way.found.field
			return nil
		}
		if unusable, ok := errors.AsType[*event.Error](err); ok && problem == nil {
			problem = ownerUnclear(way.found.field, "names a device that cannot be looked up: "+unusable.Problem)
		}
	}
	if problem == nil {
		problem = ownerUnclear(dev.name.field, "names only the device "+quote(e.Device)+
			", and nobody; its owner cannot be found by this name")
	}
	return problem
}

// readProperties returns the application properties as an object. Values that are neither text, a
// number, a boolean, nor a time are left out.
func readProperties(doc *document, properties map[string]any) *object {
	o := &object{doc: doc, place: place{name: "properties"}}
	for name, value := range properties {
		var v ref.Val
		switch value := value.(type) {
		case string:
			v = types.String(value)
		case bool:
			v = types.Bool(value)
		case time.Time:
			v = types.Timestamp{Time: value}
		case int8, int16, int32, int64, int, uint8, uint16, uint32, uint64, uint, float32, float64:
			v = types.DefaultTypeAdapter.NativeToValue(value)
		default:
			continue
		}
		o.members = append(o.members, member{name: name, value: v})
	}
	o.fold()
	return o
}

// structured returns a CloudEvent of binary form in structured form, with the body as data, and
// decodes the data_base64 of a structured one. So one expression reads all forms. Any other body
// stays as it is.
func (d *document) structured(body ref.Val, properties map[string]any) ref.Val {
	wrapped := &object{doc: d, place: place{name: "body"}}
	for property, value := range properties {
		name, ok := cutCloudEvents(property)
		if !ok {
			continue
		}
		var v ref.Val
		switch value := value.(type) {
		case string:
			v = types.String(value)
		case time.Time:
			v = types.Timestamp{Time: value}
		default:
			continue
		}
		wrapped.members = append(wrapped.members, member{name: name, value: v})
	}
	if _, isEvent := wrapped.get("specversion"); isEvent {
		switch data := body.(type) {
		case *object:
			data.place = place{parent: &wrapped.place, name: "data"}
		case *list:
			data.place = place{parent: &wrapped.place, name: "data"}
		}
		wrapped.members = append(wrapped.members, member{name: "data", value: body})
		wrapped.fold()
		return wrapped
	}
	if o, ok := body.(*object); ok {
		d.decodeCloudEvent(o)
	}
	d.problem = nil // a condition that reads the name twice meets it again
	return body
}

// decodeCloudEvent decodes the data_base64 of an object that is a CloudEvent.
func (d *document) decodeCloudEvent(o *object) {
	if _, isEvent := o.get("specversion"); isEvent {
		d.decodeData(o)
	}
	d.problem = nil // a condition that reads the name twice meets it again
}

// decodeData adds the member data to a CloudEvent that has data_base64 instead.
func (d *document) decodeData(o *object) {
	encoded, _ := o.get("data_base64")
	text, ok := encoded.(types.String)
	if _, both := o.get("data"); !ok || both {
		return
	}
	data, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil {
		return
	}
	if v := parsed(types.String(data)); v != types.NullValue {
		switch v := v.(type) {
		case *object:
			v.doc, v.place = d, place{parent: &o.place, name: "data"}
		case *list:
			v.doc, v.place = d, place{parent: &o.place, name: "data"}
		}
		o.members = append(o.members, member{name: "data", value: v})
		o.fold()
	}
}

// cutCloudEvents returns the name of the attribute in the name of an application property, as the
// AMQP binding of CloudEvents writes it.
func cutCloudEvents(property string) (name string, ok bool) {
	const word = "cloudEvents"
	if len(property) <= len(word)+1 || !strings.EqualFold(property[:len(word)], word) {
		return "", false
	}
	return property[len(word)+1:], property[len(word)] == ':' || property[len(word)] == '_'
}

func invalid(field, format string, args ...any) *event.Error {
	return &event.Error{Kind: event.Invalid, Field: field, Problem: fmt.Sprintf(format, args...)}
}

func ownerUnclear(field, problem string) *event.Error {
	return &event.Error{Kind: event.OwnerUnclear, Field: field, Problem: problem}
}

// quote quotes text from outside, cut to 64 characters.
func quote(s string) string { return fmt.Sprintf("%q", cut(s, 64)) }

// cut cuts text to a number of characters, and ends it with "…" then.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	runes := []rune(s[:min(len(s), 4*limit)])
	if len(runes) <= limit {
		return s
	}
	return string(runes[:limit-1]) + "…"
}
