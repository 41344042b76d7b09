package servicebus

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// serveEntity reads, creates, updates or deletes one queue, topic or subscription.
func (a admin) serveEntity(r *http.Request, path string) (status int, answer any, err error) {
	q := a.b.entity(path)
	if q != nil && q.kind == deadQueue {
		q = nil
	}
	switch r.Method {
	case http.MethodGet:
		if q == nil {
			return http.StatusOK, noSuchEntity, nil
		}
		return http.StatusOK, a.b.entityEntry(r, q), nil
	case http.MethodDelete:
		if q == nil {
			return 0, nil, missing(path)
		}
		a.b.remove(q)
		return http.StatusOK, nil, nil
	case http.MethodPut:
		d, err := readEntry[description](r.Body)
		if err != nil {
			return 0, nil, err
		}
		if err := a.authorizeForwarding(r, d); err != nil {
			return 0, nil, err
		}
		if r.Header.Get("If-Match") == "" {
			if q, err = a.create(path, d); err != nil {
				return 0, nil, err
			}
			return http.StatusCreated, a.b.entityEntry(r, q), nil
		}
		if q == nil {
			return 0, nil, missing(path)
		}
		if err := a.update(q, d); err != nil {
			return 0, nil, err
		}
		return http.StatusOK, a.b.entityEntry(r, q), nil
	}
	return 0, nil, notSupported(r.Method)
}

// create creates the kind of entity that the description's name says.
func (a admin) create(path string, d *description) (*queue, error) {
	cfg, err := d.config(QueueConfig{Name: path}, QueueConfig{})
	if err != nil {
		return nil, err
	}
	var list []rule.Rule
	k, ok := kindOf(d)
	if !ok {
		return nil, invalid("The content must be a QueueDescription, TopicDescription or SubscriptionDescription.")
	}
	if k == subscriptionQueue && d.DefaultRule != nil {
		one, err := d.DefaultRule.rule()
		if err != nil {
			return nil, err
		}
		list = []rule.Rule{one}
	}
	q, err := a.b.create(k, cfg, list)
	switch {
	case errors.Is(err, errEntityExists):
		return nil, conflict(cfg.Name)
	case errors.Is(err, errNoTopic):
		return nil, missing(cfg.Name)
	case err != nil:
		return nil, invalid(err.Error())
	}
	return q, nil
}

func kindOf(d *description) (k kind, ok bool) {
	k, ok = map[string]kind{
		"QueueDescription": plainQueue, "TopicDescription": topicQueue, "SubscriptionDescription": subscriptionQueue,
	}[d.XMLName.Local]
	return k, ok
}

// update replaces the settings of an entity. As in the service, what the description leaves out
// gets its default.
func (a admin) update(q *queue, d *description) error {
	if k, ok := kindOf(d); !ok || k != q.kind {
		return invalid(fmt.Sprintf("%s is a %s, and its description must be a %sDescription.", q.name, q.kind, q.kind))
	}
	err := a.b.update(q, func(cfg QueueConfig) (QueueConfig, error) {
		for _, fixed := range []struct {
			name    string
			to      *bool
			current bool
		}{
			{"RequiresSession", d.RequiresSession, cfg.RequiresSession},
			{"RequiresDuplicateDetection", d.RequiresDuplicateDetection, cfg.DuplicateWindow > 0},
		} {
			if fixed.to != nil && *fixed.to != fixed.current {
				return cfg, invalid(fmt.Sprintf("The value for the %s property of an existing %s cannot be changed.", fixed.name, q.kind))
			}
		}
		if d.EnablePartitioning != nil && *d.EnablePartitioning != cfg.unused.EnablePartitioning {
			return cfg, invalid(fmt.Sprintf("Partitioning cannot be changed for %s. ", q.kind))
		}
		fixed := QueueConfig{Name: cfg.Name, RequiresSession: cfg.RequiresSession, DuplicateWindow: cfg.DuplicateWindow}
		fixed.unused.EnablePartitioning = cfg.unused.EnablePartitioning
		changed, err := d.config(fixed, cfg)
		return changed.withDefaults(), err
	})
	var known *adminError
	if err != nil && !errors.As(err, &known) {
		return invalid(err.Error())
	}
	return err
}

// list returns one page of the entities for which belongs returns true, in the order of their
// names.
func (a admin) list(r *http.Request, title string, belongs func(*queue) bool) (status int, answer any, err error) {
	if r.Method != http.MethodGet {
		return 0, nil, notSupported(r.Method)
	}
	var all []*queue
	for _, q := range a.b.all() {
		if belongs(q) {
			all = append(all, q)
		}
	}
	slices.SortFunc(all, func(x, y *queue) int { return strings.Compare(strings.ToLower(x.name), strings.ToLower(y.name)) })
	f, err := newFeed(r, title, all, func(q *queue) atomEntry { return a.b.entityEntry(r, q) })
	return http.StatusOK, f, err
}
