package servicebus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// maxRules bounds the rules of one subscription.
const maxRules = 1000

// rules are a subscription's. A subscription without rules gets no messages. It is safe for
// concurrent use.
type rules struct {
	mu   sync.Mutex
	list []rule.Rule
}

// newRules returns the rules, or for nil the rule $Default, which matches every message.
func newRules(list []rule.Rule) *rules {
	if list == nil {
		list = []rule.Rule{{Name: "$Default", Filter: rule.True{}}}
	}
	return &rules{list: slices.Clone(list)}
}

var (
	errRuleExists = errors.New("a rule of this name exists")
	errNoRule     = errors.New("there is no rule of this name")
	errManyRules  = fmt.Errorf("more than %d rules", maxRules)
)

// add returns errRuleExists or errManyRules if it does not add the rule.
func (r *rules) add(one rule.Rule) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.find(one.Name) >= 0:
		return errRuleExists
	case len(r.list) >= maxRules:
		return errManyRules
	}
	r.list = append(r.list, one)
	return nil
}

// replace returns errNoRule if there is no rule of that name.
func (r *rules) replace(one rule.Rule) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.find(one.Name)
	if i < 0 {
		return errNoRule
	}
	r.list[i] = one
	return nil
}

// remove returns errNoRule if there is no rule of that name.
func (r *rules) remove(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.find(name)
	if i < 0 {
		return errNoRule
	}
	r.list = slices.Delete(r.list, i, i+1)
	return nil
}

// find returns the index of a rule, or -1. The caller holds the lock. Names ignore case.
func (r *rules) find(name string) int {
	return slices.IndexFunc(r.list, func(one rule.Rule) bool { return strings.EqualFold(one.Name, name) })
}

func (r *rules) all() []rule.Rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// match reports whether any rule matches the message.
func (r *rules) match(m rule.Message) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.list, func(one rule.Rule) bool { return one.Filter.Match(m) })
}
