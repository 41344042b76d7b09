package config

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
)

// EnvPrefix is the prefix of the worker's environment variables.
const EnvPrefix = "REVOKER_"

// FileFlag is the flag that names the configuration file.
const FileFlag = "config"

// Option is one setting.
type Option struct {
	// Key is the setting's path in the file, and Env its environment variable. Flag is empty for
	// secrets.
	Key, Env, Flag string
	Default, Doc   string
	Secret         bool
	// Min and Max are the bounds of numbers and durations, and empty for other kinds.
	Min, Max string

	value reflect.Value // the field
}

// Kind returns string, int, bool, duration, or list.
func (o Option) Kind() string {
	switch o.value.Interface().(type) {
	case int:
		return "int"
	case bool:
		return "bool"
	case time.Duration:
		return "duration"
	case []string:
		return "list"
	}
	return "string"
}

// Options returns every setting in the order of Config. The list is shared, so it must not be changed.
func Options() []Option { return described() }

// described reads the tags of Config once.
var described = sync.OnceValue(func() []Option { return options(new(Config)) })

// options returns the settings with their fields in c.
func options(c *Config) []Option {
	var list []Option
	groups := reflect.ValueOf(c).Elem()
	for i := range groups.NumField() {
		prefix := groups.Type().Field(i).Tag.Get("key")
		group := groups.Field(i)
		for j := range group.NumField() {
			tag := group.Type().Field(j).Tag
			if tag.Get("key") == "" {
				continue // a list of objects, which loadIngest reads
			}
			key := prefix + "." + tag.Get("key")
			o := Option{
				Key:     key,
				Env:     EnvPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_")),
				Flag:    key,
				Default: tag.Get("default"),
				Doc:     descriptions[key],
				Secret:  tag.Get("secret") == "true",
				Min:     tag.Get("min"),
				Max:     tag.Get("max"),
				value:   group.Field(j),
			}
			if o.Secret {
				o.Flag = ""
			}
			list = append(list, o)
		}
	}
	return list
}

// Flags registers --config and one flag for each setting that is not a secret. Load reads these
// flags.
func Flags(fs *pflag.FlagSet) {
	fs.StringP(FileFlag, "c", "", "YAML file with settings")
	for _, o := range Options() {
		if o.Secret {
			continue
		}
		switch o.value.Interface().(type) {
		case int:
			fs.Int(o.Flag, mustParse[int](o.Default), o.Doc)
		case bool:
			fs.Bool(o.Flag, mustParse[bool](o.Default), o.Doc)
		case time.Duration:
			fs.Duration(o.Flag, mustDuration(o.Default), o.Doc)
		case []string:
			fs.StringSlice(o.Flag, splitList(o.Default), o.Doc)
		default:
			fs.String(o.Flag, o.Default, o.Doc)
		}
	}
}

// mustParse parses a tag of Config. A bad tag is a bug, and panics.
func mustParse[T any](s string) (v T) {
	if _, err := fmt.Sscan(s, &v); err != nil {
		panic(fmt.Sprintf("config: bad tag %q: %v", s, err))
	}
	return v
}

func mustDuration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(fmt.Sprintf("config: bad tag %q: %v", s, err))
	}
	return d
}

func splitList(s string) []string { return withoutEmpty(strings.Split(s, ",")) }

// withoutEmpty returns the items without the spaces around them, and leaves out those that are
// empty then.
func withoutEmpty(items []string) []string {
	var list []string
	for _, item := range items {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

// MarkdownTable returns the table of all settings for the documentation.
func MarkdownTable() string {
	var b strings.Builder
	b.WriteString("| setting | environment | default | what it does |\n|---|---|---|---|\n")
	for _, o := range Options() {
		fallback := "–"
		if o.Default != "" {
			fallback = "`" + o.Default + "`"
		}
		doc := o.Doc
		if o.Min != "" {
			doc += fmt.Sprintf(" From %s to %s.", o.Min, o.Max)
		}
		if o.Secret {
			doc += " *Secret: no flag.*"
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", o.Key, o.Env, fallback, doc)
	}
	return b.String()
}
