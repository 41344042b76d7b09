package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// maxFile is the maximum size in bytes of the configuration file and of each file that contains a
// secret.
const maxFile = 1 << 20

// Problems lists every problem of a configuration. Each names the key and what to set.
type Problems []string

func (p Problems) Error() string {
	noun := "problems"
	if len(p) == 1 {
		noun = "problem"
	}
	return fmt.Sprintf("%d %s with the configuration:\n  - %s", len(p), noun, strings.Join(p, "\n  - "))
}

func (p *Problems) add(format string, args ...any) {
	*p = append(*p, fmt.Sprintf(format, args...))
}

// Load reads the file that --config names, environ (as os.Environ returns it), and the flags that
// Flags registered. Each overrides the one before. Load validates the result. The error is
// Problems; it lists all of them and contains no secret.
func Load(flags *pflag.FlagSet, environ []string) (Config, error) { return read(flags, environ, true) }

// LoadForGraph is Load for a program that does not use Service Bus, whose settings may be missing.
func LoadForGraph(flags *pflag.FlagSet, environ []string) (Config, error) {
	return read(flags, environ, false)
}

func read(flags *pflag.FlagSet, environ []string, needsServiceBus bool) (Config, error) {
	var problems Problems
	var c Config
	values := map[string]any{}
	var inFile map[string]int
	name, _ := flags.GetString(FileFlag)
	if name != "" {
		inFile = loadFile(&c.Ingest, values, name, &problems)
	}
	ofFile := maps.Clone(values)
	loadEnvironment(values, environ, &problems)
	loadFlags(values, flags)

	for _, o := range options(&c) {
		raw := values[o.Key]
		if raw == nil {
			continue
		}
		if problem := assign(o, raw); problem != "" {
			problems.add("%s: %s (%s)", o.Key, problem, o.Env)
			_ = assign(o, o.Default) // so that validate reports no second problem
		}
	}
	readSecret(&c.ServiceBus.ConnectionString, c.ServiceBus.ConnectionStringFile, "servicebus.connection_string", &problems)
	readSecret(&c.Graph.ClientSecret, c.Graph.ClientSecretFile, "graph.client_secret", &problems)
	readSecret(&c.Redis.Password, c.Redis.PasswordFile, "redis.password", &problems)
	checkProxies(environ, &problems)
	problems = append(problems, c.validate(needsServiceBus)...)
	if len(problems) > 0 {
		problems.locate(name, inFile, func(key string) bool {
			of, ok := ofFile[key]
			return ok && reflect.DeepEqual(of, values[key])
		})
		slices.Sort(problems)
		return Config{}, problems
	}
	return c, nil
}

// locate replaces the environment variable of a problem by the file and line if the setting is from
// the file. lines has the line of each key.
func (p Problems) locate(name string, lines map[string]int, isOfFile func(key string) bool) {
	for _, o := range Options() {
		line, ok := lines[o.Key]
		if !ok || !isOfFile(o.Key) {
			continue
		}
		for i, problem := range p {
			if !strings.HasPrefix(problem, o.Key+":") {
				continue
			}
			where := fmt.Sprintf("(%s:%d)", name, line)
			if changed := strings.ReplaceAll(problem, "("+o.Env+")", where); changed != problem {
				p[i] = changed
			} else {
				p[i] += " " + where
			}
		}
	}
}

// linesOf adds the line of each setting of a YAML mapping to lines, by key.
func linesOf(lines map[string]int, prefix string, node *yaml.Node) {
	if node.Kind == yaml.DocumentNode && len(node.Content) > 0 {
		node = node.Content[0]
	}
	if node.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		lines[prefix+name.Value] = name.Line
		linesOf(lines, prefix+name.Value+".", value)
	}
}

// loadFile reads one YAML document. A file may be empty. The parser reports duplicate keys. The
// settings go into values; the sources and streams, which are no settings, go into ingest. It returns
// the line of each key.
func loadFile(ingest *Ingest, values map[string]any, name string, problems *Problems) (lines map[string]int) {
	text, err := readFile(name)
	if err != nil {
		problems.add("--%s: %v", FileFlag, err)
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	var settings map[string]any
	if err := decoder.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		problems.add("%s: %s", name, yamlProblem(err))
		return nil
	}
	lines = map[string]int{}
	linesOf(lines, "", &document)
	loadIngest(ingest, &document, name, problems)
	if err := document.Decode(&settings); err != nil {
		problems.add("%s: %s", name, yamlProblem(err))
		return nil
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		problems.add("%s: more than one YAML document; keep one", name)
		return nil
	}
	file := map[string]any{}
	for _, key := range flatten(file, "", settings) {
		problems.add("%s: %s is given twice, as a path and in its group", name, showKey(key))
	}
	known := Options()
	for key, value := range file {
		switch {
		case slices.ContainsFunc(known, func(o Option) bool { return o.Key == key }):
			if value != nil { // a template that fills in nothing
				values[key] = value
			}
		case value == nil && slices.ContainsFunc(known, func(o Option) bool { return strings.HasPrefix(o.Key, key+".") }):
			// a group whose settings are all commented out
		default:
			problems.add("%s: unknown setting %s", name, showKey(key))
		}
	}
	return lines
}

// flatten adds what settings holds to values, by key: the path from the top, with dots. Each name
// may be a path itself. A map without members is a value. It returns the keys that are there twice.
func flatten(values map[string]any, prefix string, settings map[string]any) (twice []string) {
	for name, value := range settings {
		key := prefix + name
		if group := groupOf(value); len(group) > 0 {
			twice = append(twice, flatten(values, key+".", group)...)
			continue
		}
		if _, there := values[key]; there {
			twice = append(twice, key)
		}
		values[key] = value
	}
	return twice
}

// groupOf returns a YAML mapping with its names as strings, or nil if value is no mapping.
func groupOf(value any) map[string]any {
	switch group := value.(type) {
	case map[string]any:
		return group
	case map[any]any:
		named := make(map[string]any, len(group))
		for name, member := range group {
			named[fmt.Sprint(name)] = member
		}
		return named
	}
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return text, err
}

// loadEnvironment reads the worker's variables, and reports unknown ones with its prefix.
func loadEnvironment(values map[string]any, environ []string, problems *Problems) {
	known := map[string]Option{}
	for _, o := range Options() {
		known[o.Env] = o
	}
	for _, variable := range environ {
		if !strings.HasPrefix(variable, EnvPrefix) {
			continue
		}
		name, value, _ := strings.Cut(variable, "=")
		switch o, ok := known[name]; {
		case ok && value == "" && o.value.Kind() != reflect.String:
			// a template that fills in nothing
		case ok:
			values[o.Key] = value
		case !fromKubernetes(name):
			problems.add("unknown environment variable %s", showKey(name))
		}
	}
}

// loadFlags reads the flags that Flags registered. A flag that was not given holds the default, and
// yields to other values.
func loadFlags(values map[string]any, flags *pflag.FlagSet) {
	for _, o := range Options() {
		f := flags.Lookup(o.Flag)
		if o.Flag == "" || f == nil {
			continue
		}
		if _, set := values[o.Key]; set && !f.Changed {
			continue
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values[o.Key] = list.GetSlice()
		} else {
			values[o.Key] = f.Value.String()
		}
	}
}

// fromKubernetes recognizes the variables that the kubelet injects for a Service called "revoker"
// (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
func fromKubernetes(name string) bool {
	rest := strings.TrimPrefix(name, EnvPrefix)
	return rest == "SERVICE_HOST" || strings.HasPrefix(rest, "SERVICE_PORT") || rest == "PORT" || strings.HasPrefix(rest, "PORT_")
}

// hint returns a suggestion if the spelling of a known key or variable is close to the unknown one.
func hint(unknown string) string {
	var known []string
	for _, o := range Options() {
		known = append(known, o.Key, o.Env)
	}
	if best := Similar(unknown, known); best != "" && best != unknown {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}

// Similar returns the known word whose spelling is closest to an unknown one, ignoring case, or "" if
// none is close: up to three changes are a typing error.
func Similar(unknown string, known []string) string {
	best, nearest := "", 4
	for _, word := range known {
		if len(unknown) >= len(word)+nearest {
			continue // the distance is at least the difference of the lengths
		}
		if d := distance(strings.ToLower(unknown), strings.ToLower(word)); d < nearest {
			best, nearest = word, d
		}
	}
	return best
}

// distance returns the Levenshtein distance of two short strings.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// assign converts a value of a file, variable, or flag, and sets the field. It returns the problem
// with the value, or "".
func assign(o Option, raw any) (problem string) {
	text, isText := raw.(string)
	var value any
	var err error
	switch o.value.Interface().(type) {
	case string:
		if !isText {
			return "must be a string: put it in quotes"
		}
		value = text
	case int:
		if value = raw; isText {
			value, err = strconv.Atoi(text)
		}
	case bool:
		if value = raw; isText {
			value, err = strconv.ParseBool(text)
		}
	case time.Duration:
		if value = raw; isText {
			value, err = time.ParseDuration(text)
		}
	case []string:
		if isText {
			value = splitList(text)
			break
		}
		value, err = stringsOf(raw)
	}
	if converted := reflect.ValueOf(value); err == nil && converted.IsValid() && converted.Type() == o.value.Type() {
		o.value.Set(converted)
		return ""
	}
	if o.Secret {
		return "cannot be read"
	}
	if isText || reflect.ValueOf(raw).Kind() != reflect.Map && reflect.ValueOf(raw).Kind() != reflect.Slice {
		return fmt.Sprintf("%s is not %s", show(fmt.Sprint(raw)), wanted(o))
	}
	return "must be " + wanted(o)
}

func stringsOf(raw any) ([]string, error) {
	switch list := raw.(type) {
	case []string: // of a flag; read as the environment's
		return withoutEmpty(list), nil
	case []any:
		texts := make([]string, 0, len(list))
		for _, item := range list {
			text, ok := item.(string)
			if !ok {
				return nil, errors.New("an item is not a string")
			}
			texts = append(texts, text)
		}
		return texts, nil
	}
	return nil, errors.New("not a list")
}

func wanted(o Option) string {
	switch o.value.Interface().(type) {
	case int:
		return "a whole number"
	case bool:
		return "true or false"
	case time.Duration:
		return "a duration with its unit, like 90s or 1m30s"
	}
	return "a list of strings"
}

// fileProblem describes an error of a file that should contain a secret. It shows the name like a
// value, because operators sometimes set the secret itself.
func fileProblem(err error) string {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Sprintf("%s %s: %v", path.Op, show(path.Path), path.Err)
	}
	return err.Error()
}

func readSecret(into *string, file, key string, problems *Problems) {
	switch {
	case file == "":
	case *into != "":
		problems.add("%s and %s_file are both set: keep one", key, key)
	default:
		text, err := readFile(file)
		*into = strings.TrimSpace(string(text))
		if err != nil {
			problems.add("%s_file: %s", key, fileProblem(err))
		} else if *into == "" {
			problems.add("%s_file: %s is empty", key, file)
		}
	}
}
