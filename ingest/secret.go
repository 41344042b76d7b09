package ingest

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// minSecret and maxSecret bound a secret, in bytes.
	minSecret = 16
	maxSecret = 4096
	// readEvery is the least time between two readings of a secret's file.
	readEvery = 5 * time.Second
)

// secret is what a sender proves to know: the content of a file and, during a rotation, that of a
// second file. It is read again while requests come. If the file becomes unusable, its last usable
// content stays in force: a sender must not be refused because a mount is being replaced.
type secret struct {
	file, previous string
	check          func(string) error // of a secret's form; may be nil

	mu      sync.Mutex
	read    time.Time
	values  []string // the current one, and the previous one if there is one
	problem error    // of the last reading
}

// newSecret reads the files. previous may be empty, and its file may be missing or empty.
func newSecret(file, previous string, check func(string) error) (*secret, error) {
	if file == "" {
		return nil, errors.New("secret_file is required")
	}
	s := &secret{file: file, previous: previous, check: check}
	if s.reread(time.Now()); s.problem != nil {
		return nil, s.problem
	}
	return s, nil
}

// all returns the secrets that are in force.
func (s *secret) all(now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.read) >= readEvery || now.Before(s.read) {
		s.reread(now)
	}
	return s.values
}

func (s *secret) reread(now time.Time) {
	s.read = now
	current, err := readSecret(s.file, s.check)
	if s.problem = err; err != nil {
		return
	}
	values := []string{current}
	if s.previous != "" {
		// A missing one is no problem: the rotation is over.
		if old, err := readSecret(s.previous, s.check); err == nil {
			values = append(values, old)
		}
	}
	s.values = values
}

// trouble returns the problem of the last reading, or nil if the file is usable.
func (s *secret) trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// is reports whether given is one of the secrets. The time it takes does not depend on how much of
// given is right.
func (s *secret) is(given string, now time.Time) bool {
	found := 0
	sum := sha256.Sum256([]byte(given))
	for _, value := range s.all(now) {
		want := sha256.Sum256([]byte(value))
		found |= subtle.ConstantTimeCompare(sum[:], want[:])
	}
	return found == 1
}

// readSecret returns what a file holds, without the white space around it. The error does not hold
// it.
func readSecret(file string, check func(string) error) (string, error) {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	value := strings.TrimSpace(string(text))
	switch {
	case len(text) > maxSecret:
		return "", fmt.Errorf("%s is larger than %d bytes", file, maxSecret)
	case len(value) < minSecret:
		return "", fmt.Errorf("%s holds %d bytes: a secret needs at least %d, from openssl rand -base64 32 for example",
			file, len(value), minSecret)
	case check != nil:
		if err := check(value); err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
	}
	return value, nil
}
