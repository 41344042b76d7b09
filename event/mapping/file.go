package mapping

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types/ref"
	"go.yaml.in/yaml/v3"

	"github.com/session-revoker/session-revoker/event"
)

// MaxFileBytes is the size of the largest file of mappings.
const MaxFileBytes = 1 << 20

// maxMappings is the maximum number of mappings in a file.
const maxMappings = 200

// File is a file of mappings.
type File struct {
	// Name is shown in errors. It need not exist.
	Name string
	Text []byte

	preset string // the name of the preset that it is, or ""
}

// mapping is one compiled mapping. It is immutable and safe for concurrent use.
type mapping struct {
	name    string
	version int
	doc     string
	file    string
	preset  string // the preset that it belongs to, or ""

	latin1                          bool
	match, each                     *expression
	refuse                          []refusal
	kind                            *expression       // type, or types.of
	table                           map[string]string // types.is, or nil
	users                           []candidate
	managedID, entraID, serial      *expression
	deviceName                      *expression
	reason, id, source              *expression
	time, takesEffect, withdrawn    *expression
	clock                           clock
	untilEndOfDay, requiresResolver bool
}

// refusal is one of the conditions under which an event signs nobody out.
type refusal struct {
	when   *expression
	kind   event.Kind
	reason string
}

// candidate is one field that may name the user.
type candidate struct {
	way   string // id, name, or mail
	value *expression
}

// The ways of a candidate.
const (
	byID   = "id"
	byName = "name"
	byMail = "mail"
)

var refusalKinds = map[string]event.Kind{
	"": event.NoTrigger, "NoTrigger": event.NoTrigger, "OwnerUnclear": event.OwnerUnclear, "InvalidEvent": event.Invalid,
}

// reader reads one file, and collects its problems.
type reader struct {
	file     File
	env      *cel.Env
	zone     *time.Location // of a mapping without one
	problems []error
}

// readFile compiles the mappings of a file. The error lists all problems, each with its line and
// column.
func readFile(file File, env *cel.Env, zone *time.Location) ([]*mapping, error) {
	r := &reader{file: file, env: env, zone: zone}
	if len(file.Text) > MaxFileBytes {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are read", file.Name, len(file.Text), MaxFileBytes)
	}
	var document yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(file.Text))
	if err := decoder.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: empty: write mappings: with a list below it", file.Name)
		}
		// The parser names the line where it began to read what is wrong, or the one before.
		problem := strings.TrimPrefix(err.Error(), "yaml: ")
		if line, what, ok := strings.Cut(problem, ": "); ok && strings.HasPrefix(line, "line ") {
			problem = "at " + line + " or a little below: " + what
		}
		return nil, fmt.Errorf("%s: no YAML: %s", file.Name, problem)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one YAML document; keep one", file.Name)
	}
	top := r.members(document.Content[0], "mappings")
	var all []*mapping
	for _, node := range r.items(top["mappings"]) {
		if len(all) == maxMappings {
			r.problem(node, "more than %d mappings in a file", maxMappings)
			break
		}
		all = append(all, r.mapping(node))
	}
	if len(all) == 0 {
		r.problem(document.Content[0], "no mappings: write mappings: with a list below it")
	}
	return all, errors.Join(r.problems...)
}

func (r *reader) problem(at *yaml.Node, format string, args ...any) {
	r.problemAt(at.Line, at.Column, format, args...)
}

func (r *reader) problemAt(line, column int, format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf("%s:%d:%d: %s", r.file.Name, line, column, fmt.Sprintf(format, args...)))
}

// members returns the members of a YAML mapping by name. It reports unknown names, names that are
// given twice, and anything else than a mapping. A nil node has no members.
func (r *reader) members(node *yaml.Node, known ...string) map[string]*yaml.Node {
	found := map[string]*yaml.Node{}
	if node == nil {
		return found
	}
	if node.Kind != yaml.MappingNode {
		r.problem(node, "must be a mapping with the keys %s", strings.Join(known, ", "))
		return found
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		switch {
		case len(known) > 0 && !slices.Contains(known, key.Value):
			r.problem(key, "unknown key %s: the keys here are %s", quote(key.Value), strings.Join(known, ", "))
		case found[key.Value] != nil:
			r.problem(key, "%s is given twice", quote(key.Value))
		case value.Kind == yaml.AliasNode:
			r.problem(value, "aliases are not read: write it out")
		case value.Tag == "!!null":
			r.problem(value, "%s is empty: give it a value, or leave it out", key.Value)
		default:
			found[key.Value] = value
		}
	}
	return found
}

// items returns the elements of a YAML list. A nil node has none.
func (r *reader) items(node *yaml.Node) []*yaml.Node {
	if node == nil {
		return nil
	}
	if node.Kind != yaml.SequenceNode {
		r.problem(node, "must be a list: write a hyphen before each element")
		return nil
	}
	for _, item := range node.Content {
		if item.Kind == yaml.AliasNode {
			r.problem(item, "aliases are not read: write it out")
			return nil
		}
	}
	return node.Content
}

// text returns the text of a scalar, or "" for a nil node.
func (r *reader) text(node *yaml.Node) string {
	if node == nil {
		return ""
	}
	if node.Kind != yaml.ScalarNode {
		r.problem(node, "must be a single value")
		return ""
	}
	return node.Value
}

func (r *reader) isTrue(node *yaml.Node) bool {
	text := r.text(node)
	if node != nil && text != "true" && text != "false" {
		r.problem(node, "must be true or false")
	}
	return text == "true"
}

// expression compiles an expression. A nil node is no expression.
func (r *reader) expression(env *cel.Env, node *yaml.Node, kinds []*cel.Type, c *consent) *expression {
	if node == nil {
		return nil
	}
	text := r.text(node)
	if node.Kind != yaml.ScalarNode {
		return nil
	}
	x, problem := compile(env, text, kinds, c)
	if problem == nil {
		return x
	}
	line, column, exact := r.position(node, problem)
	if exact {
		r.problemAt(line, column, "%s", problem.problem)
	} else {
		r.problemAt(line, column, "at %d:%d of the expression: %s", problem.line, problem.column, problem.problem)
	}
	return nil
}

// position returns where in the file a problem with an expression is. exact is false if YAML folds
// the lines of the expression; then it is where the expression begins.
func (r *reader) position(node *yaml.Node, p *compileError) (line, column int, exact bool) {
	lines := strings.Split(string(r.file.Text), "\n")
	lineAt := func(n int) string {
		if n < 1 || n > len(lines) {
			return ""
		}
		return lines[n-1]
	}
	if node.Style&yaml.LiteralStyle != 0 {
		line = node.Line + p.line
		text := lineAt(node.Line + 1)
		return line, len(text) - len(strings.TrimLeft(text, " ")) + p.column, true
	}
	column = node.Column
	if node.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		column++
	}
	text := []rune(lineAt(node.Line))
	if column > len(text) || !strings.HasPrefix(string(text[column-1:]), node.Value) {
		return node.Line, node.Column, false
	}
	return node.Line, column + p.column - 1, true
}

var validName = lazily(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// mappingKeys are the keys of a mapping.
var mappingKeys = []string{
	"name", "version", "doc", "encoding", "match", "each", "refuse", "type", "types", "user", "device", "requires", "reason", "id",
	"source", "time", "takes_effect", "withdrawn", "time_format", "time_zone", "end_of_day", "allow_actor", "allow_private_mail",
}

func (r *reader) mapping(node *yaml.Node) *mapping {
	keys := r.members(node, mappingKeys...)
	m := &mapping{
		file: r.file.Name, preset: r.file.preset, name: r.text(keys["name"]), doc: r.text(keys["doc"]), untilEndOfDay: true,
		clock: clock{forms: defaultForms, zone: r.zone},
	}
	if !validName().MatchString(m.name) || m.name == event.Native || len(m.name) > 64 {
		r.problem(node, "name: %s must be small letters, digits, and hyphens, at most 64, and not %s", quote(m.name), event.Native)
	}
	if version := keys["version"]; version != nil {
		var err error
		if m.version, err = strconv.Atoi(r.text(version)); err != nil || m.version < 1 {
			r.problem(version, "version: must be a number from 1")
		}
	}
	if encoding := keys["encoding"]; encoding != nil {
		if m.latin1 = r.text(encoding) == "latin-1"; !m.latin1 {
			r.problem(encoding, "encoding: only latin-1 can be given: without it, a body is UTF-8")
		}
	}
	r.clock(m, keys)
	env := r.env
	if bytes.Contains(r.file.Text, []byte("when(")) {
		read := func(v ref.Val) (time.Time, bool) { at, _, ok := m.clock.read(v); return at, ok }
		if extended, err := withTimes(env, read); err != nil {
			r.problem(node, "%v", err)
		} else {
			env = extended
		}
	}
	c := consent{actor: r.isTrue(keys["allow_actor"]), privateMail: r.isTrue(keys["allow_private_mail"])}
	if keys["match"] == nil {
		r.problem(node, "match: missing: say which messages the mapping understands")
	}
	m.match = r.expression(env, keys["match"], aBool, nil)
	m.each = r.expression(env, keys["each"], aList, &c)
	r.refusals(m, env, keys["refuse"])
	r.kinds(m, env, node, keys)
	for _, item := range r.items(keys["user"]) {
		r.candidates(m, env, item, c)
	}
	device := r.members(keys["device"], "managed_id", "entra_id", "serial", "name")
	m.managedID = r.expression(env, device["managed_id"], aText, &c)
	m.entraID = r.expression(env, device["entra_id"], aText, &c)
	m.serial = r.expression(env, device["serial"], aText, &c)
	m.deviceName = r.expression(env, device["name"], aText, &c)
	m.reason = r.expression(env, keys["reason"], aText, nil)
	m.id = r.expression(env, keys["id"], aText, nil)
	m.source = r.expression(env, keys["source"], aText, nil)
	m.time = r.expression(env, keys["time"], aTime, nil)
	m.takesEffect = r.expression(env, keys["takes_effect"], aTime, nil)
	m.withdrawn = r.expression(env, keys["withdrawn"], aBool, nil)
	if requires := keys["requires"]; requires != nil {
		if m.requiresResolver = r.text(requires) == "resolve_devices"; !m.requiresResolver {
			r.problem(requires, "requires: only resolve_devices can be required")
		}
	}
	if len(m.users) == 0 && m.managedID == nil && m.entraID == nil && m.serial == nil && !m.refusesAll() {
		r.problem(node, "user: missing: say which field names the user, or by which device they are found")
	}
	return m
}

// refusesAll reports whether the mapping has a refusal that is always true.
func (m *mapping) refusesAll() bool {
	return slices.ContainsFunc(m.refuse, func(r refusal) bool { return r.when != nil && r.when.text == "true" })
}

// clock reads how the mapping writes times.
func (r *reader) clock(m *mapping, keys map[string]*yaml.Node) {
	if zone := keys["time_zone"]; zone != nil {
		location, err := LoadZone(r.text(zone))
		if err != nil {
			r.problem(zone, "time_zone: %v", err)
		} else {
			m.clock.zone = location
		}
	}
	if keys["end_of_day"] != nil {
		m.untilEndOfDay = r.isTrue(keys["end_of_day"])
	}
	node := keys["time_format"]
	if node == nil {
		return
	}
	items := []*yaml.Node{node}
	if node.Kind != yaml.ScalarNode {
		items = r.items(node)
	}
	m.clock.forms = nil
	for _, item := range items {
		form := r.text(item)
		if !slices.Contains(allForms, form) {
			r.problem(item, "time_format: %s is none of %s", quote(form), strings.Join(allForms, ", "))
		}
		m.clock.forms = append(m.clock.forms, form)
	}
}

func (r *reader) refusals(m *mapping, env *cel.Env, node *yaml.Node) {
	for _, item := range r.items(node) {
		keys := r.members(item, "when", "kind", "reason")
		kind, known := refusalKinds[r.text(keys["kind"])]
		if !known {
			r.problem(keys["kind"], "kind: must be NoTrigger, OwnerUnclear, or InvalidEvent")
		}
		if keys["when"] == nil || keys["reason"] == nil {
			r.problem(item, "refuse: needs when (a condition) and reason (a text for people)")
		}
		m.refuse = append(m.refuse, refusal{
			when: r.expression(env, keys["when"], aBool, nil), kind: kind, reason: r.text(keys["reason"]),
		})
	}
}

// eventType is the usual form of an event type. As an expression it would read a member of an unknown
// name.
var eventType = lazily(`^(device|user)\.[a-z]+$`)

// kinds reads the type of the events: an expression, or a table.
func (r *reader) kinds(m *mapping, env *cel.Env, node *yaml.Node, keys map[string]*yaml.Node) {
	single, table := keys["type"], keys["types"]
	switch {
	case single != nil && table != nil:
		r.problem(table, "both type and types are given: keep one")
	case single != nil && eventType().MatchString(single.Value):
		r.problem(single, "type: is an expression, so a constant needs quotes inside of quotes: '%q'", single.Value)
	case single != nil:
		m.kind = r.expression(env, single, aText, nil)
	case table != nil:
		members := r.members(table, "of", "is")
		if members["of"] == nil || members["is"] == nil {
			r.problem(table, "types: needs of (an expression) and is (a mapping from its results to event types)")
		}
		m.kind = r.expression(env, members["of"], aText, nil)
		m.table = map[string]string{}
		for from, to := range r.members(members["is"]) {
			if m.table[from] = r.text(to); m.table[from] == "" {
				r.problem(to, "types: %s has no event type", quote(from))
			}
		}
	case !m.refusesAll():
		r.problem(node, "type: missing: say which event type it is, as an expression (in quotes inside of quotes, if it is constant), "+
			"or types")
	}
}

// candidates reads one entry of user.
func (r *reader) candidates(m *mapping, env *cel.Env, node *yaml.Node, c consent) {
	keys := r.members(node, byID, byName, byMail, "allow_actor", "allow_private_mail")
	c.actor = c.actor || r.isTrue(keys["allow_actor"])
	c.privateMail = c.privateMail || r.isTrue(keys["allow_private_mail"])
	before := len(m.users)
	for _, way := range []string{byID, byName, byMail} {
		if keys[way] != nil {
			m.users = append(m.users, candidate{way, r.expression(env, keys[way], texts, &c)})
		}
	}
	if len(m.users) == before {
		r.problem(node, "user: each entry needs id, name, or mail")
	}
}

// LoadZone returns a time zone by its IANA name.
func LoadZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		return nil, fmt.Errorf("%s is no IANA time zone, such as America/Chicago or UTC", quote(name))
	}
	return zone, nil
}
