package app

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/event/mapping"
)

// DecoderOptions changes how messages are decoded. The zero value changes nothing, and accepts no
// Security Event Tokens.
type DecoderOptions struct {
	// AnyType accepts all event types, for tools that only show events.
	AnyType bool
	// Tokens verifies Security Event Tokens.
	Tokens mapping.Tokens
	// Trials are files of mappings that are tried before the configured ones.
	Trials []string
}

// NewDecoder makes the decoder that the configuration asks for, with its mappings. The error lists
// all problems of the mappings.
func NewDecoder(cfg config.Config, o DecoderOptions) (*mapping.Decoder, error) {
	c := mapping.Config{
		Types: cfg.Events.Types, AnyType: o.AnyType, Tokens: o.Tokens,
		AllowedDomains: cfg.Events.AllowedDomains, TimeZone: cfg.Events.TimeZone,
		ResolveDevices: cfg.Events.ResolveDevices, LookUpMail: cfg.Graph.ReadUsers,
	}
	if p := cfg.Events.Presets; len(p) != 1 || p[0] != "all" {
		c.Presets = append([]string{}, p...)
	}
	var problems []error
	read := func(names []string) (files []mapping.File) {
		for _, name := range names {
			text, err := readMappings(name)
			problems = append(problems, err)
			files = append(files, mapping.File{Name: name, Text: text})
		}
		return files
	}
	c.Trials, c.Files = read(o.Trials), read(cfg.Events.Mappings)
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	decoder, err := mapping.New(c)
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	return decoder, nil
}

func readMappings(name string) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, mapping.MaxFileBytes+1)) // mapping.New refuses one that is longer
}
