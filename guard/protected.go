// Package guard knows whom the worker must never sign out.
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

// Protected are the people whose sessions are never revoked, by object id, user principal name or pattern of such names: break-glass
// accounts, service accounts of the sign-in system itself. It is safe for concurrent use.
type Protected struct {
	listed *entries
	file   atomic.Pointer[entries] // the last good content; nil without a file
}

// entries is a set; immutable.
type entries struct {
	keys     map[string]struct{}
	patterns []string
}

// NewProtected builds the set; an entry is an object id, a user principal name, or a pattern of such names in which * stands for
// any characters (svc-*@contoso.com), in any case. The error names every entry that is none of these.
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
		return nil, fmt.Errorf("protected users must be object ids (GUIDs), user principal names or patterns of such names: %s", strings.Join(bad, "; "))
	}
	return e, nil
}

func (e *entries) add(entry string) error {
	if strings.Contains(entry, "*") {
		// What a pattern may stand for must be a name: "*" for all of one is somebody's mistake, or the end of the worker's use.
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
		// Names hold none of the characters that path.Match knows beside *.
		if ok, _ := path.Match(pattern, strings.ToLower(user.UPN())); ok {
			return true
		}
	}
	return false
}

// Has says whether the user is protected by id or by user principal name. An event that names only one of the two can
// be recognized only by that one, so list both for accounts that matter; an id never fits a pattern.
func (p *Protected) Has(user event.User) bool {
	return p.listed.has(user) || p.file.Load().has(user)
}

// Len is how many entries there are.
func (p *Protected) Len() int {
	n := len(p.listed.keys) + len(p.listed.patterns)
	if file := p.file.Load(); file != nil {
		n += len(file.keys) + len(file.patterns)
	}
	return n
}

// Load adds the entries of a file, one to a line, in place of those that it had when it was loaded last; lines that begin with # are
// comments. On an error, which names each bad entry, the last good ones stay.
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

// Watch loads the file again whenever its content has changed, until ctx ends: Kubernetes replaces the files of a ConfigMap behind a
// link, so the content is compared, every so often. report is told of each change, and of an error once until it is mended or another.
func (p *Protected) Watch(ctx context.Context, file string, every time.Duration, report func(error)) {
	seen := [sha256.Size]byte{}
	if text, err := readFile(file); err == nil {
		seen = sha256.Sum256(text)
	}
	told := ""
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
		if err == nil && sum == seen && told == "" {
			continue
		}
		if err == nil {
			err = p.load(file, text)
		}
		switch {
		case err == nil:
			seen, told = sum, ""
			report(nil)
		case err.Error() != told:
			told = err.Error()
			report(err)
		}
	}
}
