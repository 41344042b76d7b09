package mapping_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/mapping"
)

// presetCase is a message of a producer, and what its preset must make of it.
type presetCase struct {
	Name        string
	ContentType string `yaml:"contentType"`
	Properties  map[string]any
	Body        string
	// Latin1 sends the body in Latin-1.
	Latin1 bool
	// Lookups turns on the look-ups of mail addresses and devices.
	Lookups bool
	// Want has an entry for each event. A field that it does not give is not compared, apart from
	// those that decide whether somebody is signed out.
	Want []wanted
	// Error is the error of the whole message.
	Error *wanted
}

// wanted is what must become of one event.
type wanted struct {
	Mapping, Type string
	// Entra, UPN, and Lookup are the user.
	Entra, UPN, Lookup                      string
	Field, ID, Source, Device, Reason, Time string
	TakesEffect                             string `yaml:"takes_effect"`
	Withdrawn                               bool
	// Kind and Problem are why the event is refused. Problem is a part of the text.
	Kind, Problem string
}

var kinds = map[event.Kind]string{
	event.Invalid: "Invalid", event.UnknownType: "UnknownType", event.NoTrigger: "NoTrigger", event.OwnerUnclear: "OwnerUnclear",
}

// presetCases returns the cases of a preset.
func presetCases(t *testing.T, preset string) []presetCase {
	t.Helper()
	text, err := os.ReadFile("testdata/presets/" + preset + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true)
	var cases []presetCase
	if err := decoder.Decode(&cases); err != nil {
		t.Fatalf("%s: %v", preset, err)
	}
	return cases
}

func (c presetCase) message() event.Message {
	body := []byte(c.Body)
	if c.Latin1 {
		body = nil
		for _, r := range c.Body {
			body = append(body, byte(r))
		}
	}
	return event.Message{ContentType: c.ContentType, Properties: c.Properties, Body: body}
}

func presetDecoder(t *testing.T, cfg mapping.Config) *mapping.Decoder {
	t.Helper()
	d, err := mapping.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// All presets together, without and with look-ups. Compiling them takes a tenth of a second.
var (
	withoutLookups = sync.OnceValues(func() (*mapping.Decoder, error) { return mapping.New(mapping.Config{}) })
	withLookups    = sync.OnceValues(func() (*mapping.Decoder, error) {
		return mapping.New(mapping.Config{LookUpMail: true, ResolveDevices: true})
	})
)

// check compares what all presets together make of the message with what is wanted.
func (c presetCase) check(t *testing.T) {
	t.Helper()
	all := withoutLookups
	if c.Lookups {
		all = withLookups
	}
	d, err := all()
	if err != nil {
		t.Fatal(err)
	}
	items, err := d.Decode(c.message())
	if c.Error != nil {
		if len(items) == 1 && err == nil {
			err = items[0].Err
		}
		c.Error.checkRefusal(t, err)
		return
	}
	if err != nil || len(items) != len(c.Want) {
		t.Fatalf("%d events and the error %v, want %d events", len(items), err, len(c.Want))
	}
	for i, want := range c.Want {
		t.Run(fmt.Sprint(i), func(t *testing.T) { want.check(t, items[i]) })
	}
}

func (w wanted) check(t *testing.T, got event.Item) {
	t.Helper()
	if w.Kind != "" {
		w.checkRefusal(t, got.Err)
		if !got.Event.User.IsZero() {
			t.Errorf("a refused event names %s", got.Event.User)
		}
	} else if got.Err != nil {
		t.Fatalf("refused: %v", got.Err)
	}
	e := got.Event
	by, value := e.User.Lookup()
	lookup := ""
	if by != event.NoLookup {
		lookup = by.String() + ":" + value
	}
	type pair struct{ got, want string }
	must := map[string]pair{"mapping": {e.Mapping, w.Mapping}}
	if w.Kind == "" {
		must["type"] = pair{e.Type, w.Type}
		must["object id"] = pair{e.User.ID(), w.Entra}
		must["look-up"] = pair{lookup, w.Lookup}
		must["withdrawn"] = pair{fmt.Sprint(e.Withdrawn), fmt.Sprint(w.Withdrawn)}
		must["takes effect"] = pair{format(e.TakesEffect), w.TakesEffect}
		if e.Field == "" {
			t.Error("no field is said to name the user")
		}
	}
	for name, p := range map[string]pair{
		"user principal name": {e.User.UPN(), w.UPN}, "field": {e.Field, w.Field}, "id": {e.ID, w.ID}, "source": {e.Source, w.Source},
		"device": {e.Device, w.Device}, "reason": {e.Reason, w.Reason}, "time": {format(e.Time), w.Time},
	} {
		if p.want != "" || name == "user principal name" && w.Entra == "" {
			must[name] = p
		}
	}
	for _, name := range slices.Sorted(maps.Keys(must)) {
		if p := must[name]; p.got != p.want {
			t.Errorf("%s: %q, want %q", name, p.got, p.want)
		}
	}
}

func (w wanted) checkRefusal(t *testing.T, err error) {
	t.Helper()
	problem, ok := errors.AsType[*event.Error](err)
	if !ok {
		t.Fatalf("the error is %v, want %s", err, w.Kind)
	}
	if got := kinds[problem.Kind]; got != w.Kind || !strings.Contains(err.Error(), w.Problem) {
		t.Errorf("refused as %s: %v; want %s with %q", got, err, w.Kind, w.Problem)
	}
}

func format(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func TestPresetsUnderstandWhatTheirProducersSend(t *testing.T) {
	for _, preset := range mapping.Presets() {
		t.Run(preset, func(t *testing.T) {
			for _, c := range presetCases(t, preset) {
				t.Run(c.Name, c.check)
			}
		})
	}
}

// oneByOne returns a decoder for each mapping of the presets, by its name.
func oneByOne(t *testing.T) map[string]*mapping.Decoder {
	t.Helper()
	decoders := map[string]*mapping.Decoder{}
	for _, preset := range mapping.Presets() {
		file, _ := mapping.Preset(preset)
		var document struct{ Mappings []map[string]any }
		if err := yaml.Unmarshal(file.Text, &document); err != nil {
			t.Fatal(err)
		}
		for _, m := range document.Mappings {
			text, err := yaml.Marshal(map[string]any{"mappings": []any{m}})
			if err != nil {
				t.Fatal(err)
			}
			decoders[m["name"].(string)] = presetDecoder(t, mapping.Config{
				Files: []mapping.File{{Name: preset, Text: text}}, Presets: []string{mapping.NoPresets},
			})
		}
	}
	return decoders
}

// Two presets that match one message would make the order of the presets decide who is signed out.
func TestPresetsNeverMatchAnothersMessage(t *testing.T) {
	decoders := oneByOne(t)
	for _, preset := range mapping.Presets() {
		for _, c := range presetCases(t, preset) {
			var matching []string
			for name, d := range decoders {
				items, _ := d.Decode(c.message())
				if len(items) > 0 && items[0].Event.Mapping == name {
					matching = append(matching, name)
				}
			}
			switch {
			case c.Error == nil && !slices.Equal(matching, []string{c.Want[0].Mapping}):
				t.Errorf("%s, %s: matched by %q", preset, c.Name, matching)
			case c.Error != nil && len(matching) > 0:
				t.Errorf("%s, %s: matched by %q, want none", preset, c.Name, matching)
			}
		}
	}
}

func TestPresetsAreDocumented(t *testing.T) {
	d := presetDecoder(t, mapping.Config{})
	for _, m := range d.Mappings() {
		if m.Version < 1 || m.Name != m.Preset && !strings.HasPrefix(m.Name, m.Preset+"-") {
			t.Errorf("%s: version %d in the preset %s: it needs a version, and the preset's name in front", m.Name, m.Version, m.Preset)
		}
		page, err := os.ReadFile("../../" + m.Doc)
		if err != nil || !strings.Contains(string(page), "`"+m.Name+"`") {
			t.Errorf("%s: the page %s does not name it (%v)", m.Name, m.Doc, err)
		}
	}
}

// The guard lets nothing pass that names whoever acted, unless a mapping consents. Only Okta's two
// events have the actor as the victim.
func TestPresetsConsentToAnActorOnlyForOkta(t *testing.T) {
	for _, preset := range mapping.Presets() {
		file, _ := mapping.Preset(preset)
		want := 0
		if preset == "okta" {
			want = 1
		}
		if got := strings.Count(string(file.Text), "allow_actor"); got != want {
			t.Errorf("%s: allow_actor %d times, want %d", preset, got, want)
		}
		if strings.Contains(string(file.Text), "allow_private_mail") {
			t.Errorf("%s reads a private address", preset)
		}
	}
}

var exampleOnPage = regexp.MustCompile("(?s)```(?:json|xml)\n(.*?)```")

func TestProducerPagesShowWhatTheWorkerActsOn(t *testing.T) {
	d := presetDecoder(t, mapping.Config{LookUpMail: true, ResolveDevices: true})
	pages := map[string]bool{}
	for _, m := range d.Mappings() {
		pages[m.Doc] = true
	}
	for page := range pages {
		text, err := os.ReadFile("../../" + page)
		if err != nil {
			t.Fatal(err)
		}
		for _, example := range exampleOnPage.FindAllSubmatch(text, -1) {
			items, err := d.Decode(event.Message{Body: example[1]})
			if err != nil {
				t.Errorf("%s: %v", page, err)
			}
			for _, item := range items {
				if item.Err != nil {
					t.Errorf("%s: %v", page, item.Err)
				}
			}
		}
	}
}
