// Package guard knows whom the worker must never sign out (Protected), and how many people are too
// many to sign out in a time (Volume).
package guard

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/session-revoker/session-revoker/event"
)

// MaxFile bounds the file of protected users, in bytes.
const MaxFile = 1 << 20

// Protected is the set of users whose sessions are never revoked, such as break-glass accounts and
// the service accounts of the sign-in system. It is safe for concurrent use.
type Protected struct {
	listed *entries
	file   atomic.Pointer[entries] // the last valid content; nil without a file
}

// entries is an immutable set.
type entries struct {
	keys     map[string]struct{}
	patterns []string
}

// NewProtected returns the set of these entries. An entry is an object id, a user principal name,
// or a pattern of such names in which * matches any characters (svc-*@contoso.com), in any case.
// The error names every entry that is none of these.
func NewProtected(list []string) (*Protected, error) {
	listed, err := newEntries(list)
	if err != nil {
		return nil, err
	}
	return &Protected{listed: listed}, nil
}

func newEntries(list []string) (*entries, error) {
	e := &entries{keys: make(map[string]struct{}, len(list))}
	var bad []string
	for _, entry := range list {
		if problem := e.add(entry); problem != nil {
			bad = append(bad, fmt.Sprintf("%q (%v)", entry, problem))
		}
	}
	if bad != nil {
		return nil, fmt.Errorf("protected users must be object ids (GUIDs), user principal names or patterns of such names: %s",
			strings.Join(bad, "; "))
	}
	return e, nil
}

func (e *entries) add(entry string) error {
	if strings.Contains(entry, "*") {
		// A pattern must be able to match a name. One that matches every name is a mistake, since
		// the worker could then revoke nothing.
		if strings.Trim(entry, "*@.") == "" {
			return errors.New("it protects everybody")
		}
		if _, err := event.NewUser("", strings.ReplaceAll(entry, "*", "x")); err != nil {
			return err
		}
		e.patterns = append(e.patterns, strings.ToLower(entry))
		return nil
	}
	id, upn := entry, ""
	if strings.Contains(entry, "@") {
		id, upn = "", entry
	}
	user, err := event.NewUser(id, upn)
	if err != nil {
		return err
	}
	e.keys[user.Key()] = struct{}{}
	return nil
}

func (e *entries) has(user event.User) bool {
	if e == nil {
		return false
	}
	for _, name := range []string{user.ID(), strings.ToLower(user.UPN())} {
		if _, ok := e.keys[name]; ok && name != "" {
			return true
		}
	}
	for _, pattern := range e.patterns {
		// Names contain no other characters that are special for path.Match.
		if ok, _ := path.Match(pattern, strings.ToLower(user.UPN())); ok {
			return true
		}
	}
	return false
}

// Has reports whether the user is protected by object id or by user principal name. An event that
// names only one of the two is recognized by that one only, so accounts that matter should be
// listed by both. An id never matches a pattern.
func (p *Protected) Has(user event.User) bool {
	return p.listed.has(user) || p.file.Load().has(user)
}

// Len returns the number of entries.
func (p *Protected) Len() int {
	n := len(p.listed.keys) + len(p.listed.patterns)
	if file := p.file.Load(); file != nil {
		n += len(file.keys) + len(file.patterns)
	}
	return n
}

// Load replaces the entries that the last Load has added by those of a file. Each line is an entry;
// lines that begin with # are comments. On an error, which names each invalid entry, the previous
// entries stay.
func (p *Protected) Load(file string) error {
	text, err := readFile(file)
	if err != nil {
		return err
	}
	return p.load(file, text)
}

func (p *Protected) load(file string, text []byte) error {
	var list []string
	for line := range bytes.Lines(text) {
		if entry := strings.TrimSpace(string(line)); entry != "" && !strings.HasPrefix(entry, "#") {
			list = append(list, entry)
		}
	}
	loaded, err := newEntries(list)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	p.file.Store(loaded)
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err == nil && len(text) > MaxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, MaxFile)
	}
	return text, err
}

// Watch loads the file again when its content has changed, until ctx ends. It compares the content
// at this interval, because Kubernetes replaces the files of a ConfigMap behind a link. It reports
// nil after each change, and each distinct error once.
func (p *Protected) Watch(ctx context.Context, file string, every time.Duration, report func(error)) {
	seen := [sha256.Size]byte{}
	if text, err := readFile(file); err == nil {
		seen = sha256.Sum256(text)
	}
	problem := "" // the last one reported
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		text, err := readFile(file)
		sum := sha256.Sum256(text)
		if err == nil && sum == seen && problem == "" {
			continue
		}
		if err == nil {
			err = p.load(file, text)
		}
		switch {
		case err == nil:
			seen, problem = sum, ""
			report(nil)
		case err.Error() != problem:
			problem = err.Error()
			report(err)
		}
	}
}
