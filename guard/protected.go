// Package guard knows whom the worker must never sign out.
package guard

import (
	"fmt"
	"strings"

	"github.com/session-revoker/session-revoker/event"
)

// Protected is a set of people, by object id or user principal name, whose sessions are never revoked: break-glass
// accounts, service accounts of the sign-in system itself. It is immutable and safe for concurrent use.
type Protected struct {
	keys map[string]struct{}
}

// NewProtected builds the set; entries are object ids or user principal names in any case. The error names every entry
// that is neither.
func NewProtected(entries []string) (*Protected, error) {
	p := &Protected{keys: make(map[string]struct{}, len(entries))}
	var bad []string
	for _, entry := range entries {
		id, upn := entry, ""
		if strings.Contains(entry, "@") {
			id, upn = "", entry
		}
		user, err := event.NewUser(id, upn)
		if err != nil {
			bad = append(bad, fmt.Sprintf("%q (%v)", entry, err))
			continue
		}
		p.keys[user.Key()] = struct{}{}
	}
	if bad != nil {
		return nil, fmt.Errorf("protected users must be object ids (GUIDs) or user principal names: %s", strings.Join(bad, "; "))
	}
	return p, nil
}

// Has says whether the user is protected by id or by user principal name. An event that names only one of the two can
// be recognised only by that one, so list both for accounts that matter.
func (p *Protected) Has(user event.User) bool {
	for _, name := range []string{user.ID(), user.UPN()} {
		if name == "" {
			continue
		}
		if _, ok := p.keys[strings.ToLower(name)]; ok {
			return true
		}
	}
	return false
}
