package secevent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/go-jose/go-jose/v4"
	"go.yaml.in/yaml/v3"
)

const (
	// maxFile is the size of the largest file of transmitters in bytes.
	maxFile = 1 << 20
	// maxTransmitters bounds the transmitters: each has a goroutine, and is asked for its keys.
	maxTransmitters = 50
)

// Transmitter is one whose tokens are accepted. The tags are the names in the file.
type Transmitter struct {
	// Name is for logs, metrics, and audit records: 1 to 40 letters, digits, and hyphens.
	Name string `yaml:"name"`
	// Issuer is the exact iss of its tokens. No two transmitters have the same.
	Issuer string `yaml:"issuer"`
	// Audience is for whom its tokens are: one of these must be an aud of the token.
	Audience texts `yaml:"audience"`
	// JWKSURL or JWKSFile is where its keys are, as a JSON Web Key Set. The URL is https, or http on
	// a loopback address.
	JWKSURL  string `yaml:"jwks_url"`
	JWKSFile string `yaml:"jwks_file"`
	// Algorithms are the accepted ones. Defaults to all asymmetric ones that fit the keys.
	Algorithms texts `yaml:"algorithms"`
	// Unsigned accepts the claims of a token without its signature, as plain JSON, where whoever
	// sends to the queue has verified it.
	Unsigned bool `yaml:"unsigned"`
	// Subjects says what its identifiers mean.
	Subjects Subjects `yaml:"subjects"`
	// Critical are the members of subjects that its metadata calls critical
	// (critical_subject_members).
	Critical texts `yaml:"critical_subject_members"`
	// Events holds the rules for events, by the last part of the event's URI, or by the whole URI.
	// Those that are not listed have the default rules.
	Events map[string]Rules `yaml:"events"`

	line int // in the file; 0 if there is none
}

// texts is a list of strings, or one string.
type texts []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (t *texts) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		*t = texts{node.Value}
		return nil
	}
	return node.Decode((*[]string)(t))
}

// UnmarshalYAML reads rules: on, off, or a list. "on" becomes nil, for which Load takes what is
// suggested.
func (r *Rules) UnmarshalYAML(node *yaml.Node) error {
	switch {
	case node.Kind == yaml.ScalarNode && slices.Contains([]string{"off", "false"}, node.Value):
		*r = Rules{}
		return nil
	case node.Kind == yaml.ScalarNode && slices.Contains([]string{"on", "true"}, node.Value):
		*r = nil
		return nil
	case node.Kind != yaml.SequenceNode:
		return fmt.Errorf("line %d: rules are on, off, or a list", node.Line)
	}
	*r = Rules{}
	for _, item := range node.Content {
		rule, err := readRule(item)
		if err != nil {
			return err
		}
		*r = append(*r, rule)
	}
	return nil
}

// readRule reads a rule strictly: yaml.Node.Decode would ignore unknown names.
func readRule(node *yaml.Node) (Rule, error) {
	var rule Rule
	if node.Kind != yaml.MappingNode {
		return rule, fmt.Errorf("line %d: a rule has type, when, and unless", node.Line)
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		var err error
		switch name.Value {
		case "type":
			err = value.Decode(&rule.Type)
		case "when":
			rule.When, err = readConditions(value)
		case "unless":
			rule.Unless, err = readConditions(value)
		default:
			err = fmt.Errorf("line %d: %s is not known in a rule; it has type, when, and unless", name.Line, quote(name.Value))
		}
		if err != nil {
			return rule, err
		}
	}
	if rule.Type == "" {
		return rule, fmt.Errorf("line %d: a rule without a type", node.Line)
	}
	return rule, nil
}

func readConditions(node *yaml.Node) (map[string][]string, error) {
	var conditions map[string]texts
	if err := node.Decode(&conditions); err != nil {
		return nil, err
	}
	if len(conditions) == 0 {
		return nil, fmt.Errorf("line %d: no conditions; leave the name out", node.Line)
	}
	read := map[string][]string{}
	for name, values := range conditions {
		if len(values) == 0 {
			return nil, fmt.Errorf("line %d: %s has no values", node.Line, name)
		}
		read[name] = values
	}
	return read, nil
}

// Load reads a file of transmitters: YAML, with the list "transmitters". It checks what does not
// depend on other settings; New checks the rest. The error names the file and the line.
func Load(file string) ([]Transmitter, error) {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxFile:
		return nil, fmt.Errorf("%s: larger than %d bytes", file, maxFile)
	}
	list, err := read(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return list, nil
}

type transmittersFile struct {
	Transmitters []Transmitter `yaml:"transmitters"`
}

func read(text []byte) ([]Transmitter, error) {
	var content transmittersFile
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&content); err != nil {
		return nil, yamlProblem(err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document; keep one")
	}
	lines := linesOf(text)
	var problems []error
	for i := range content.Transmitters {
		t := &content.Transmitters[i]
		if i < len(lines) {
			t.line = lines[i]
		}
		problems = append(problems, t.complete())
	}
	switch n := len(content.Transmitters); {
	case n == 0:
		problems = append(problems, errors.New("no transmitters"))
	case n > maxTransmitters:
		problems = append(problems, fmt.Errorf("%d transmitters; at most %d are possible", n, maxTransmitters))
	}
	return content.Transmitters, errors.Join(problems...)
}

// yamlProblem returns an error of the YAML library without the names of Go's types.
func yamlProblem(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("empty")
	}
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = regexp.MustCompile(` (in|into) (type )?secevent\.\w+`).ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, "field ", "the name ")
	return errors.New(strings.ReplaceAll(strings.TrimPrefix(text, "unmarshal errors:\n  "), "\n  ", "; "))
}

// linesOf returns the lines on which the transmitters begin.
func linesOf(text []byte) (lines []int) {
	var document yaml.Node
	if yaml.Unmarshal(text, &document) != nil || len(document.Content) == 0 {
		return nil
	}
	top := document.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		if top[i].Value == "transmitters" {
			for _, item := range top[i+1].Content {
				lines = append(lines, item.Line)
			}
		}
	}
	return lines
}

// complete replaces the rules "on" by what is suggested for the event, and checks the names of events.
func (t *Transmitter) complete() error {
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(t.Events)) {
		i := slices.IndexFunc(kinds, func(k kind) bool { return k.uri == name || k.name() == name })
		switch {
		case i < 0 && !strings.Contains(name, ":"):
			problems = append(problems, t.problem("events: %s is no event of CAEP or RISC; give the whole URI of others", quote(name)))
		case isStreamEvent(name):
			problems = append(problems, t.problem("events: %s is about the stream, and about nobody", quote(name)))
		case t.Events[name] != nil:
		case i < 0 || kinds[i].suggested == nil:
			problems = append(problems, t.problem("events: %s has no suggested rules for \"on\": write some", quote(name)))
		default:
			t.Events[name] = kinds[i].suggested
		}
	}
	return errors.Join(problems...)
}

// problem returns an error about the transmitter.
func (t *Transmitter) problem(format string, args ...any) error {
	who := "transmitter " + quote(t.Name)
	if t.line > 0 {
		who = fmt.Sprintf("line %d: %s", t.line, who)
	}
	return fmt.Errorf("%s: %s", who, fmt.Sprintf(format, args...))
}

func (t *Transmitter) hasKeys() bool { return t.JWKSURL != "" || t.JWKSFile != "" }

var transmitterName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,39}$`) })

// validate returns all problems of a transmitter at once.
func (t *Transmitter) validate(cfg Config) error {
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, t.problem(format, args...))
		}
	}
	check(transmitterName().MatchString(t.Name), "name: 1 to 40 letters, digits, and hyphens are required")
	check(t.Issuer != "", "issuer: required, the exact iss of its tokens")
	check(len(t.Audience) > 0 && !slices.Contains(t.Audience, ""), "audience: required, the aud of its tokens")
	check(t.hasKeys() || t.Unsigned, "jwks_url or jwks_file: one is required, the transmitter's public keys")
	check(t.JWKSURL == "" || t.JWKSFile == "", "jwks_url and jwks_file are both set: keep one")
	if t.JWKSURL != "" {
		problem := urlProblem(t.JWKSURL)
		check(problem == "", "jwks_url: %s: %s", quote(t.JWKSURL), problem)
	}
	for _, a := range t.Algorithms {
		check(slices.Contains(asymmetric, jose.SignatureAlgorithm(a)), "algorithms: %s is none of %v", quote(a), asymmetric)
	}
	s := t.Subjects
	people := []Meaning{"", Foreign, EntraObjectID, UPN, Mail}
	check(slices.Contains([]Meaning{"", UPN, Mail}, s.Email), "subjects.email: %s is not upn or mail", quote(string(s.Email)))
	for name, meaning := range map[string]Meaning{"iss_sub": s.IssSub, "opaque": s.Opaque} {
		check(slices.Contains(people, meaning), "subjects.%s: %s is not foreign, entra_object_id, upn, or mail", name,
			quote(string(meaning)))
	}
	check(cfg.LookUpMail || !slices.Contains([]Meaning{s.Email, s.IssSub, s.Opaque}, Mail),
		"subjects: mail needs graph.read_users, which looks addresses up")
	check(slices.Contains([]Meaning{"", Foreign, EntraDeviceID, SerialNumber}, s.Device),
		"subjects.device: %s is not foreign, entra_device_id, or serial_number", quote(string(s.Device)))
	for _, name := range slices.Sorted(maps.Keys(t.Events)) {
		for _, rule := range t.Events[name] {
			_, listed := cfg.place(rule.Type)
			check(listed, "events: the type %s of %s is not on the allow-list: add it to events.types", quote(rule.Type), quote(name))
		}
	}
	return errors.Join(problems...)
}

// urlProblem returns what is wrong with the address of keys, or "".
func urlProblem(address string) string {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "":
		return "not a plain URL"
	case u.Scheme == "https":
		return ""
	case u.Scheme != "http":
		return "must begin with https://"
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return ""
	}
	return "whoever is on the way could change what comes by http: use https"
}
