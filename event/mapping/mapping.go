// Package mapping turns messages in the forms of real producers into events. A mapping is a piece of
// YAML with expressions in CEL (https://cel.dev): which messages it understands, whom an event is
// about, what happened, and when. Presets are mappings that come with the worker.
//
// Package event decodes the worker's own forms. A message that names one of the event types in one
// of these forms is never offered to a mapping.
package mapping

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"golang.org/x/sync/errgroup"

	"github.com/session-revoker/session-revoker/event"
)

//go:embed presets
var presetFiles embed.FS

// Presets returns the names of the presets, in the order in which they are tried.
func Presets() []string {
	entries, _ := fs.ReadDir(presetFiles, "presets") // sorted by name
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok {
			names = append(names, name)
		}
	}
	return names
}

// Preset returns the file of a preset. ok is false if there is none of this name.
func Preset(name string) (_ File, ok bool) {
	text, err := presetFiles.ReadFile("presets/" + name + ".yaml")
	return File{Name: name + ".yaml", Text: text, preset: name}, err == nil
}

// NoPresets is the only entry of Config.Presets for none.
const NoPresets = "none"

// Tokens recognizes and verifies messages that are Security Event Tokens. It is safe for concurrent
// use.
type Tokens interface {
	// IsToken reports whether a message is a token, without verifying it.
	IsToken(m event.Message) bool
	// Decode returns the events of a token, or an *event.Error.
	Decode(m event.Message) ([]event.Item, error)
}

// Config configures a Decoder.
type Config struct {
	// Types and AnyType are as in event.Config.
	Types   []string
	AnyType bool
	// Files are the user's mappings. They are tried in order, before the presets. One with the name
	// of a preset's mapping replaces it.
	Files []File
	// Trials are tried before Files, and replace mappings of the same names in the same way.
	Trials []File
	// Presets are the names of the presets to use, in this order. Nil means all, and NoPresets none.
	Presets []string
	// AllowedDomains are the domains that users' names may have, such as contoso.com, and
	// *.contoso.com for the domains below it. Empty means any.
	AllowedDomains []string
	// TimeZone is the IANA name of the zone of times without one. Empty means UTC.
	TimeZone string
	// ResolveDevices finds the owner of a device if an event names no user. Without it, such an
	// event is refused.
	ResolveDevices bool
	// LookUpMail finds users by their mail address. Without it, the address is taken for the user
	// principal name.
	LookUpMail bool
	// Tokens handles Security Event Tokens. Nil means that none are expected.
	Tokens Tokens
}

// Decoder decodes messages by mappings, and messages in the worker's own forms. It is immutable and
// safe for concurrent use.
type Decoder struct {
	native  *event.Decoder
	lenient *event.Decoder // accepts any type; nil unless Config.AnyType
	types   map[string]int // the index on the allow-list
	// mappings returns the mappings in the order in which they are tried. Its first call compiles the
	// presets. A worker is ready sooner without them, and one whose messages are all in its own forms
	// never needs them.
	mappings func() []*mapping
	domains  domains
	resolve  bool
	lookUp   bool
	tokens   Tokens
}

// New compiles the user's mappings. The error lists all problems, each with the file, the line, and
// the column.
func New(cfg Config) (*Decoder, error) {
	if len(cfg.Types) == 0 {
		cfg.Types = event.DefaultTypes
	}
	native, err := event.NewDecoder(event.Config{Types: cfg.Types})
	if err != nil {
		return nil, err
	}
	d := &Decoder{
		native: native, types: map[string]int{}, domains: newDomains(cfg.AllowedDomains),
		resolve: cfg.ResolveDevices, lookUp: cfg.LookUpMail, tokens: cfg.Tokens,
	}
	for i, t := range cfg.Types {
		if _, ok := d.types[t]; !ok {
			d.types[t] = i
		}
	}
	if cfg.AnyType {
		if d.lenient, err = event.NewDecoder(event.Config{Types: cfg.Types, AnyType: true}); err != nil {
			return nil, err
		}
	}
	zone := time.UTC
	if cfg.TimeZone != "" {
		if zone, err = LoadZone(cfg.TimeZone); err != nil {
			return nil, err
		}
	}
	if err := d.load(cfg, zone); err != nil {
		return nil, err
	}
	return d, nil
}

// maxTried is the length at which the list of the mappings that were tried is cut.
const maxTried = 300

// tried returns the names of the mappings, for errors.
func (d *Decoder) tried() string {
	all := d.mappings()
	names := make([]string, len(all))
	for i, m := range all {
		names[i] = m.name
	}
	return cut(strings.Join(names, ", "), maxTried)
}

// load compiles the user's files, and lets mappings compile the presets.
func (d *Decoder) load(cfg Config, zone *time.Location) error {
	presets := cfg.Presets
	switch {
	case presets == nil:
		presets = Presets()
	case len(presets) == 1 && presets[0] == NoPresets:
		presets = nil
	}
	var builtIn []File
	var problems []error
	for _, name := range presets {
		file, ok := Preset(name)
		if !ok {
			problems = append(problems, fmt.Errorf("%s is no preset: the presets are %s; %s uses none",
				quote(name), strings.Join(Presets(), ", "), NoPresets))
			continue
		}
		builtIn = append(builtIn, file)
	}
	own, err := compileGroups([][]File{cfg.Trials, cfg.Files}, zone, nil)
	if err := errors.Join(append(problems, err)...); err != nil {
		return err
	}
	d.mappings = sync.OnceValue(func() []*mapping {
		all, err := compileGroups([][]File{builtIn}, zone, own)
		if err != nil {
			panic("a preset does not compile: " + err.Error()) // tests compile all of them
		}
		return all
	})
	return nil
}

// compileGroups appends the mappings of groups of files to those before them. A mapping replaces those
// of the same name in later groups.
func compileGroups(groups [][]File, zone *time.Location, all []*mapping) ([]*mapping, error) {
	files := slices.Concat(groups...)
	if len(files) == 0 {
		return all, nil
	}
	env, err := newEnvironment()
	if err != nil {
		return nil, fmt.Errorf("prepare the language of mappings: %w", err)
	}
	replaced := map[string]bool{}
	for _, m := range all {
		replaced[m.name] = true
	}
	var problems []error
	compiled := compileAll(files, env, zone)
	for _, group := range groups {
		seen := map[string]string{} // the file of each name
		for _, file := range group {
			ofFile, err := compiled[0].mappings, compiled[0].err
			compiled = compiled[1:]
			problems = append(problems, err)
			for _, m := range ofFile {
				if other, twice := seen[m.name]; twice {
					problems = append(problems, fmt.Errorf("%s: there is a mapping %s in %s already: give it another name",
						file.Name, quote(m.name), other))
				}
				seen[m.name] = file.Name
				if !replaced[m.name] {
					all = append(all, m)
				}
			}
		}
		for name := range seen {
			replaced[name] = true
		}
	}
	return all, errors.Join(problems...)
}

// fileResult is what became of one file.
type fileResult struct {
	mappings []*mapping
	err      error
}

// compileAll compiles files side by side, to end sooner.
func compileAll(files []File, env *cel.Env, zone *time.Location) []fileResult {
	results := make([]fileResult, len(files))
	var work errgroup.Group
	work.SetLimit(runtime.GOMAXPROCS(0))
	for i, file := range files {
		work.Go(func() error {
			results[i].mappings, results[i].err = readFile(file, env, zone)
			return nil
		})
	}
	_ = work.Wait() // no function returns an error
	return results
}

// Info describes a mapping for people.
type Info struct {
	Name    string `json:"name"`
	Version int    `json:"version,omitempty"`
	// Preset is the preset that the mapping belongs to, or "". File is the file that it is in.
	Preset string `json:"preset,omitempty"`
	File   string `json:"file"`
	// Doc is the page about it, or "".
	Doc string `json:"doc,omitempty"`
	// Match is the condition that selects its messages.
	Match string `json:"match"`
	// Types are the event types that it can yield, if it says so by a table or a constant.
	Types []string `json:"types,omitempty"`
}

// Mappings describes the mappings in the order in which they are tried.
func (d *Decoder) Mappings() []Info {
	all := d.mappings()
	list := make([]Info, len(all))
	for i, m := range all {
		list[i] = Info{Name: m.name, Version: m.version, Preset: m.preset, File: m.file, Doc: m.doc, Match: m.match.text}
		for _, to := range m.table {
			if !slices.Contains(list[i].Types, to) {
				list[i].Types = append(list[i].Types, to)
			}
		}
		slices.Sort(list[i].Types)
		if m.table == nil && m.kind != nil && constant().MatchString(m.kind.text) {
			list[i].Types = []string{strings.Trim(m.kind.text, `"'`)}
		}
	}
	return list
}

// Decode returns the events of a message in order, from 1 to event.MaxEvents. Each is valid or has
// its own error. Decode returns an *event.Error if it cannot decode the message as a whole.
//
// A message is decided as a whole: if one of its events names an event type in one of the worker's
// own forms, all of it is in that form. Otherwise, the first mapping that matches decodes it. If none
// does, the elements of a list are offered to the mappings one by one.
func (d *Decoder) Decode(m event.Message) ([]event.Item, error) {
	if d.tokens != nil && d.tokens.IsToken(m) {
		items, err := d.tokens.Decode(m)
		return d.withDomains(items), err
	}
	items, err := d.native.Decode(m)
	if isNative(items, err) {
		return d.withDomains(items), nil
	}
	if m.BodyKind != "" && m.BodyKind != "data" {
		return nil, err
	}
	if inner, changed := unwrap(m); changed {
		m = inner
		if d.tokens != nil && d.tokens.IsToken(m) {
			items, err := d.tokens.Decode(m)
			return d.withDomains(items), err
		}
		if items, err = d.native.Decode(m); isNative(items, err) {
			return d.withDomains(items), nil
		}
	}
	mapped, mappedErr, matched := d.byMapping(m, err == nil)
	if matched {
		return mapped, mappedErr
	}
	if mapped, mappedErr, matched = d.byElement(m, items, err); matched {
		return mapped, mappedErr
	}
	if d.lenient != nil {
		items, err = d.lenient.Decode(m)
		return d.withDomains(items), err
	}
	return d.unmatched(items, err)
}

// isNative reports whether a message is in one of the worker's own forms: whether one of its events
// has a type on the allow-list.
func isNative(items []event.Item, err error) bool {
	return err == nil && slices.ContainsFunc(items, func(item event.Item) bool {
		if item.Err == nil {
			return true
		}
		problem, ok := errors.AsType[*event.Error](item.Err)
		return ok && problem.Kind != event.UnknownType && item.Event.Type != ""
	})
}

// unmatched adds to what the worker's own forms say about a message that no mapping matches either.
func (d *Decoder) unmatched(items []event.Item, err error) ([]event.Item, error) {
	if len(d.mappings()) == 0 {
		return items, err
	}
	tried := d.tried()
	explain := func(err error) error {
		problem, ok := errors.AsType[*event.Error](err)
		if !ok {
			return err
		}
		explained := *problem
		explained.Problem += ", and no mapping matches (" + tried + ")"
		return &explained
	}
	if err != nil {
		return nil, explain(err)
	}
	for i := range items {
		items[i].Event.Mapping, items[i].Err = "", explain(items[i].Err)
	}
	return items, nil
}

// byMapping decodes a message by the first mapping that matches. isJSON reports whether the body is
// known to be valid JSON. matched is false if no mapping matches; err is then nil.
func (d *Decoder) byMapping(m event.Message, isJSON bool) (items []event.Item, err error, matched bool) {
	if len(d.mappings()) == 0 {
		return nil, nil, false
	}
	s, latin1 := newScope(m, isJSON)
	if s == nil {
		return nil, nil, false
	}
	return d.byScope(s, latin1)
}

// byScope is byMapping for what expressions can read.
func (d *Decoder) byScope(s *scope, latin1 bool) (items []event.Item, err error, matched bool) {
	var twice *event.Error // a name that is given twice, and that a condition reads
	for _, mapping := range d.mappings() {
		if latin1 && !mapping.latin1 || mapping.match.needs != nil && !s.hasAny(mapping.match.needs) {
			continue
		}
		matches, problem := mapping.match.isTrue(s)
		if s.doc.problem != nil && twice == nil {
			twice = s.doc.problem
		}
		s.doc.problem = nil
		if problem == nil && matches {
			items, err := d.decode(mapping, s)
			return items, err, true
		}
	}
	if twice != nil {
		return nil, twice, true
	}
	return nil, nil, false
}

// newScope returns what expressions can read of a message, or nil if its body is neither JSON nor
// XML. latin1 reports a body that is not UTF-8: it is read as Latin-1, for mappings that expect it.
func newScope(m event.Message, isJSON bool) (_ *scope, latin1 bool) {
	doc := new(document)
	s := &scope{doc: doc, contentType: m.ContentType, subject: m.Subject, properties: readProperties(doc, m.Properties)}
	body := bytes.TrimSpace(bytes.TrimPrefix(m.Body, []byte("\xef\xbb\xbf")))
	if len(body) == 0 || len(body) > event.MaxBodyBytes {
		return nil, false
	}
	if !isJSON && !utf8.Valid(body) {
		latin1 = !declaresLatin1(body)
		body = toUTF8(body)
	}
	if body[0] == '<' {
		root, err := doc.readXML(body)
		if err != nil {
			return nil, false
		}
		s.body = root
	} else {
		if !isJSON {
			checked, err := event.CheckBody(body)
			if err != nil {
				return nil, false
			}
			body = checked
		}
		s.body = doc.value(string(body), place{name: "body"})
	}
	s.body = doc.structured(s.body, m.Properties)
	s.item = s.body
	return s, latin1
}

// declaresLatin1 reports whether the body is XML that declares its own encoding as Latin-1.
func declaresLatin1(body []byte) bool {
	declaration, _, found := bytes.Cut(body[:min(len(body), 200)], []byte("?>"))
	declaration = bytes.ToLower(declaration)
	return found && bytes.HasPrefix(declaration, []byte("<?xml")) &&
		(bytes.Contains(declaration, []byte("iso-8859-1")) || bytes.Contains(declaration, []byte("windows-1252")))
}
