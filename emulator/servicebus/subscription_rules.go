package servicebus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// maxRules bounds the rules of one subscription.
const maxRules = 1000

// rules are a subscription's. A subscription without rules gets no messages. It is safe for
// concurrent use.
type rules struct {
	mu      sync.Mutex
	changes uint64      // counts what Save would notice, and attempts that failed
	list    []rule.Rule // the slice is replaced, never changed
}

// newRules returns the rules, or for nil the rule $Default, which matches every message. The error
// names a rule that cannot be created.
func newRules(list []rule.Rule) (*rules, error) {
	if list == nil {
		list = []rule.Rule{{Name: defaultRule, Filter: rule.True{}}}
	}
	r := &rules{}
	for _, one := range list {
		if err := checkName(ruleName, one.Name); err != nil {
			return nil, err
		}
		if one.Filter == nil {
			return nil, fmt.Errorf("the rule %q has no filter", one.Name)
		}
		if _, err := r.add(one); err != nil {
			return nil, fmt.Errorf("the rule %q: %w", one.Name, err)
		}
	}
	return r, nil
}

var (
	errRuleExists = errors.New("a rule of this name exists")
	errNoRule     = errors.New("there is no rule of this name")
	errManyRules  = fmt.Errorf("more than %d rules", maxRules)
)

// add returns the rule with its time of creation, which is now unless the rule has one. The error is errRuleExists or errManyRules.
func (r *rules) add(one rule.Rule) (rule.Rule, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes++
	if one.Created.IsZero() {
		one.Created = time.Now()
	}
	switch {
	case r.find(one.Name) >= 0:
		return one, errRuleExists
	case len(r.list) >= maxRules:
		return one, errManyRules
	}
	r.list = append(slices.Clip(r.list), one)
	return one, nil
}

// replace returns the rule with its time of creation. The error is errNoRule.
func (r *rules) replace(one rule.Rule) (rule.Rule, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes++
	i := r.find(one.Name)
	if i < 0 {
		return one, errNoRule
	}
	one.Name, one.Created = r.list[i].Name, r.list[i].Created
	r.list = slices.Clone(r.list)
	r.list[i] = one
	return one, nil
}

// remove returns errNoRule if there is no rule of that name.
func (r *rules) remove(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes++
	i := r.find(name)
	if i < 0 {
		return errNoRule
	}
	r.list = slices.Delete(slices.Clone(r.list), i, i+1)
	return nil
}

// find returns the index of a rule, or -1. The caller holds the lock. Names ignore case.
func (r *rules) find(name string) int {
	return slices.IndexFunc(r.list, func(one rule.Rule) bool { return strings.EqualFold(one.Name, name) })
}

// all returns the rules in the order of their creation. The caller must not change the slice.
func (r *rules) all() []rule.Rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list
}

// byName returns the rules in the order in which the service lists them.
func (r *rules) byName() []rule.Rule {
	return slices.SortedFunc(slices.Values(r.all()), func(a, b rule.Rule) int {
		return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
}

// revision returns a number that is another one after a change.
func (r *rules) revision() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changes
}

// count returns how many of the rules have a correlation filter, and how many another one.
func (r *rules) count() (sql, correlation int) {
	for _, one := range r.all() {
		if _, ok := one.Filter.(rule.Correlation); ok {
			correlation++
		}
	}
	return len(r.all()) - correlation, correlation
}

// ruleFailure says that a rule could not be evaluated for a message.
type ruleFailure struct {
	reason string // of the dead letter
	rule   string
	err    error
}

func (e *ruleFailure) Error() string { return fmt.Sprintf("rule %s: %v", e.rule, e.err) }
func (e *ruleFailure) Unwrap() error { return e.err }

// copies returns the copies of a message that the rules select: one for all matching rules without
// an action, and one for each matching rule with an action, whose name it carries
// (https://learn.microsoft.com/azure/service-bus-messaging/topic-filters). The error is a
// ruleFailure for the first rule that fails, or errFull if the copies have more than maxBytes. With
// ignoreFailures, the rules that fail select nothing.
func (r *rules) copies(original *ruleView, ignoreFailures bool, maxBytes int64) ([]*message, error) {
	var list []*message
	var size int64
	plain := false
	for _, one := range r.all() {
		if plain && one.Action == nil {
			continue
		}
		selected, err := r.apply(one, original)
		if err != nil {
			if ignoreFailures {
				continue
			}
			return nil, err
		}
		if selected != nil {
			if size += selected.size(); size > maxBytes {
				return nil, errFull
			}
			list = append(list, selected)
			plain = plain || one.Action == nil
		}
	}
	return list, nil
}

// apply returns the copy that one rule selects, or nil if it does not select the message.
func (r *rules) apply(one rule.Rule, original *ruleView) (*message, error) {
	_, always := one.Filter.(rule.True)
	if always && one.Action == nil {
		return original.of.copied(), nil
	}
	seen, err := original.get()
	if err != nil {
		return nil, &ruleFailure{"FilterException", one.Name, err}
	}
	matches, err := one.Filter.Match(seen)
	if err != nil {
		return nil, &ruleFailure{"FilterException", one.Name, err}
	}
	if !matches {
		return nil, nil
	}
	c := original.of.copied()
	if one.Action == nil {
		return c, nil
	}
	changes, err := one.Action.Apply(seen)
	if err == nil {
		err = c.change(append(changes, rule.Change{Name: propertyRuleName, Value: one.Name}))
	}
	if err != nil {
		return nil, &ruleFailure{"RuleActionException", one.Name, err}
	}
	return c, nil
}
