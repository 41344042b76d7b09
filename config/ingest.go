package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Ingest configures worker ingest, which receives webhooks and shared signals, and puts them on the
// queue.
type Ingest struct {
	Address        string        `key:"address" default:"127.0.0.1:8088"`
	TLSCertFile    string        `key:"tls_cert_file"`
	TLSKeyFile     string        `key:"tls_key_file"`
	TrustedProxies []string      `key:"trusted_proxies"`
	Destination    string        `key:"destination"`
	Validate       bool          `key:"validate" default:"false"`
	Timeout        time.Duration `key:"timeout" default:"10s" min:"1s" max:"1m"`
	MaxBody        int           `key:"max_body" default:"245760" min:"1024" max:"1048576"`
	MaxConnections int           `key:"max_connections" default:"1024" min:"16" max:"65536"`
	Concurrency    int           `key:"concurrency" default:"128" min:"2" max:"1024"`
	AddressRate    int           `key:"address_rate" default:"200" min:"1" max:"100000"`

	// Sources and Streams are lists of objects, so they are in the file only, without a flag or
	// variable.
	Sources []IngestSource `list:"sources"`
	Streams []IngestStream `list:"streams"`
}

// IngestSource is one sender of webhooks, and how to know it. Package ingest says what each way to
// verify needs.
type IngestSource struct {
	// At is where the source is in the file, as FILE:LINE:COLUMN.
	At string

	Name               string        `key:"name"`
	Path               string        `key:"path"`
	Verify             string        `key:"verify"`
	SecretFile         string        `key:"secret_file"`
	PreviousSecretFile string        `key:"previous_secret_file"`
	Username           string        `key:"username"`
	Header             string        `key:"header"`
	TimestampHeader    string        `key:"timestamp_header"`
	IDHeader           string        `key:"id_header"`
	Algorithm          string        `key:"algorithm"`
	Encoding           string        `key:"encoding"`
	Prefix             string        `key:"prefix"`
	Signed             []string      `key:"signed"`
	Tolerance          time.Duration `key:"tolerance"`
	Tenant             string        `key:"tenant"`
	Audience           string        `key:"audience"`
	Issuer             string        `key:"issuer"`
	AppRole            string        `key:"app_role"`
	Caller             string        `key:"caller"`
	CAFile             string        `key:"ca_file"`
	Names              []string      `key:"names"`
	Subscriptions      []string      `key:"subscriptions"`
	Origins            []string      `key:"origins"`
	ContentType        string        `key:"content_type"`
	MaxBody            int           `key:"max_body"`
	Timeout            time.Duration `key:"timeout"`
	Rate               int           `key:"rate"`
	Burst              int           `key:"burst"`
	RespondBusy        int           `key:"respond_busy"`
	ExpectEvery        time.Duration `key:"expect_every"`
}

// IngestStream is one stream of a transmitter of shared signals. Package ingest says what each
// setting means.
type IngestStream struct {
	// At is where the stream is in the file, as FILE:LINE:COLUMN.
	At string

	Name               string        `key:"name"`
	Issuer             string        `key:"issuer"`
	Delivery           string        `key:"delivery"`
	StreamID           string        `key:"stream_id"`
	MetadataURL        string        `key:"metadata_url"`
	PollURL            string        `key:"poll_url"`
	Origins            []string      `key:"origins"`
	TokenFile          string        `key:"token_file"`
	ClientID           string        `key:"client_id"`
	ClientSecretFile   string        `key:"client_secret_file"`
	TokenURL           string        `key:"token_url"`
	Scopes             []string      `key:"scopes"`
	Events             []string      `key:"events"`
	MaxEvents          int           `key:"max_events"`
	PollEvery          time.Duration `key:"poll_every"`
	VerifyEvery        time.Duration `key:"verify_every"`
	ExpectEvery        time.Duration `key:"expect_every"`
	Rate               int           `key:"rate"`
	Path               string        `key:"path"`
	URL                string        `key:"url"`
	SecretFile         string        `key:"secret_file"`
	PreviousSecretFile string        `key:"previous_secret_file"`
}

// IngestOption is one setting of a source or a stream.
type IngestOption struct{ Key, Kind, Doc string }

// IngestOptions returns the settings of a source in order.
func IngestOptions() []IngestOption { return objectOptions[IngestSource](sourceDescriptions) }

// StreamOptions returns the settings of a stream in order.
func StreamOptions() []IngestOption { return objectOptions[IngestStream](streamDescriptions) }

// objectOptions returns the settings of an object in a list.
func objectOptions[T any](descriptions map[string]string) []IngestOption {
	var list []IngestOption
	for field := range reflect.TypeFor[T]().Fields() {
		key := field.Tag.Get("key")
		if key == "" {
			continue
		}
		kind := Option{value: reflect.New(field.Type).Elem()}.Kind()
		list = append(list, IngestOption{Key: key, Kind: kind, Doc: descriptions[key]})
	}
	return list
}

// loadIngest takes the lists of objects out of the document of a file, and sets them.
func loadIngest(ingest *Ingest, document *yaml.Node, file string, problems *Problems) {
	ingest.Sources = loadObjects[IngestSource](document, file, problems, "source", "name, path, and verify", IngestOptions())
	ingest.Streams = loadObjects[IngestStream](document, file, problems, "stream", "name and issuer", StreamOptions())
}

// loadObjects takes the list of objects called noun out of the document of a file, and returns it.
// The problems say where in the file they are, and show no value, which may be a secret.
func loadObjects[T any](document *yaml.Node, file string, problems *Problems, noun, needs string, options []IngestOption) []T {
	key := "ingest." + noun + "s"
	list := takeList(document, key)
	if list == nil || list.Tag == "!!null" {
		return nil
	}
	at := func(n *yaml.Node) string { return fmt.Sprintf("%s:%d:%d", file, n.Line, n.Column) }
	if list.Kind != yaml.SequenceNode {
		problems.add("%s: %s must be a list of %ss", at(list), key, noun)
		return nil
	}
	var objects []T
	for _, item := range list.Content {
		if item.Kind != yaml.MappingNode {
			problems.add("%s: a %s of %s must be a mapping with %s", at(item), noun, key, needs)
			continue
		}
		var object T
		fields := reflect.ValueOf(&object).Elem()
		fields.FieldByName("At").SetString(at(item))
		seen := map[string]bool{}
		for i := 0; i+1 < len(item.Content); i += 2 {
			key, value := item.Content[i], item.Content[i+1]
			switch problem := setField(fields, key.Value, value); {
			case seen[key.Value]:
				problems.add("%s: %s is given twice", at(key), showObjectKey(key.Value, options))
			case errors.Is(problem, errUnknownKey):
				problems.add("%s: a %s has no setting %s", at(key), noun, showObjectKey(key.Value, options))
			case problem != nil:
				problems.add("%s: %s: %v", at(value), key.Value, problem)
			}
			seen[key.Value] = true
		}
		objects = append(objects, object)
	}
	return objects
}

// takeList removes ingest.NAME from a document, and returns its node or nil. The key may be written
// as a path.
func takeList(document *yaml.Node, key string) *yaml.Node {
	if document.Kind != yaml.DocumentNode || len(document.Content) == 0 {
		return nil
	}
	root := document.Content[0]
	if list := take(root, key); list != nil {
		return list
	}
	group := member(root, "ingest")
	if group == nil {
		return nil
	}
	list := take(group, strings.TrimPrefix(key, "ingest."))
	if list != nil && len(group.Content) == 0 {
		*group = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"} // nothing else is in the group
	}
	return list
}

func member(mapping *yaml.Node, name string) *yaml.Node {
	if mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// take removes a member of a mapping. A second member of the same name stays, and is reported as a
// value that does not fit.
func take(mapping *yaml.Node, name string) *yaml.Node {
	value := member(mapping, name)
	if value == nil {
		return nil
	}
	i := slices.Index(mapping.Content, value)
	mapping.Content = slices.Delete(mapping.Content, i-1, i+1)
	return value
}

var errUnknownKey = errors.New("unknown")

// setField sets the field of an object. The error shows no value.
func setField(fields reflect.Value, key string, value *yaml.Node) error {
	for i := range fields.NumField() {
		if tag := fields.Type().Field(i).Tag.Get("key"); tag == "" || tag != key {
			continue
		}
		field := fields.Field(i)
		o := Option{value: field}
		if value.Tag == "!!null" {
			return nil // a template that fills in nothing
		}
		if o.Kind() == "string" && (value.Kind != yaml.ScalarNode || value.Tag != "!!str") {
			return errors.New("must be a string: put it in quotes")
		}
		if o.Kind() == "duration" && value.Tag != "!!str" || value.Decode(field.Addr().Interface()) != nil {
			return errors.New("must be " + wanted(o))
		}
		return nil
	}
	return errUnknownKey
}

// showObjectKey quotes an unknown key, or only its beginning: it may be a secret in a wrong place.
func showObjectKey(unknown string, options []IngestOption) string {
	var known []string
	for _, o := range options {
		known = append(known, o.Key)
	}
	best := Similar(unknown[:min(len(unknown), 64)], known)
	switch {
	case best == unknown:
		return fmt.Sprintf("%q", unknown)
	case best != "":
		return fmt.Sprintf("%q; did you mean %q?", unknown, best)
	}
	return fmt.Sprintf("%q…", prefix(unknown, shownPrefix))
}

// Proxies returns the networks whose proxies are trusted.
func (i Ingest) Proxies() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range i.TrustedProxies {
		prefix, err := netip.ParsePrefix(text)
		if address, single := netip.ParseAddr(text); single == nil {
			prefix, err = address.Prefix(address.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("%s is neither an address nor a network like 10.0.0.0/8", show(text))
		}
		if prefix.Bits() == 0 {
			return nil, fmt.Errorf("%s trusts everybody, who could then name any address and client certificate: "+
				"name the gateway's network", text)
		}
		list = append(list, prefix.Masked())
	}
	return list, nil
}

// To returns the queue or topic that worker ingest sends to: ingest.destination, or else the one
// that the worker receives from. It returns "" if that is not clear.
func (c Config) To() string {
	if c.Ingest.Destination != "" {
		return c.Ingest.Destination
	}
	entities := c.ServiceBus.Entities()
	if len(entities) != 1 {
		return ""
	}
	if topic, _, ok := SplitSubscription(entities[0]); ok {
		return topic
	}
	return entities[0]
}

// SourcesTable returns the table of the settings of a source for the documentation.
func SourcesTable() string { return objectTable(IngestOptions()) }

// StreamsTable is SourcesTable for a stream.
func StreamsTable() string { return objectTable(StreamOptions()) }

func objectTable(options []IngestOption) string {
	var b strings.Builder
	b.WriteString("| setting | what it does |\n|---|---|\n")
	for _, o := range options {
		fmt.Fprintf(&b, "| `%s` | %s |\n", o.Key, o.Doc)
	}
	return b.String()
}
