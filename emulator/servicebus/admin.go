package servicebus

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// Admin is the administration API: entities and rules are created, read, updated, listed and deleted as Atom entries, and
// their messages counted, as azservicebus/admin and KEDA do it
// (https://learn.microsoft.com/rest/api/servicebus/entities-atom). A shared access signature with the Manage claim is
// required. Clients insist on https: serve it with TLS, or rewrite their requests' scheme.
func (b *Broker) Admin() http.Handler { return admin{b} }

type admin struct{ b *Broker }

// adminError is what a client is told.
type adminError struct {
	status int
	detail string
}

func (e *adminError) Error() string { return e.detail }

func conflict(what string) error {
	return &adminError{http.StatusConflict, fmt.Sprintf("SubCode=40900. Conflict. The entity '%s' already exists.", what)}
}

func missing(what string) error {
	return &adminError{http.StatusNotFound, fmt.Sprintf("SubCode=40400. Not Found. The entity '%s' could not be found.", what)}
}

func invalid(problem string) error {
	return &adminError{http.StatusBadRequest, "SubCode=40000. Bad Request. " + problem}
}

// maxAdminBody bounds a request.
const maxAdminBody = 256 << 10

// ServeHTTP implements http.Handler.
func (a admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(r.URL.Path, "/")
	granted, problem := a.b.verify(r.Header.Get("Authorization"), strings.ToLower(path))
	if problem == "" && !granted.manage {
		problem = lacking(r.Method, strings.ToLower(path), r.Host)
		if r.Method == http.MethodGet && !strings.ContainsAny(path, "/$") && a.b.entity(path) == nil {
			problem = "" // the service tells everybody that there is nothing
		}
	}
	var status int
	var answer any
	var err error = &adminError{http.StatusUnauthorized, problem}
	if problem == "" {
		status, answer, err = a.serve(r, path)
	}
	if err != nil {
		failure := &adminError{http.StatusInternalServerError, err.Error()}
		errors.As(err, &failure)
		status, answer = failure.status, errorBody{Code: failure.status, Detail: detail{plainly.Replace(failure.detail)}}
	}
	w.Header().Set("Content-Type", "application/atom+xml;type=entry;charset=utf-8")
	w.WriteHeader(status)
	if answer != nil {
		_, _ = io.WriteString(w, xml.Header)
		_ = xml.NewEncoder(w).Encode(answer)
	}
}

// lacking says, in the service's words, which claim a request needs.
func lacking(method, path, host string) string {
	verb := map[string]string{http.MethodGet: "Get", http.MethodPut: "CreateOrUpdate", http.MethodDelete: "Delete"}[method]
	_, below, found := strings.Cut(path, "/subscriptions")
	switch {
	case found && below == "":
		verb += "Subscriptions"
		if method == http.MethodGet {
			verb = "EnumerateSubscriptions"
		}
	case found && strings.Contains(below, "/rules"):
		verb += "Rule"
	case found:
		verb += "Subscription"
	case method == http.MethodPut:
		return "Authorization failed for specified action: Manage,EntityWrite."
	case method == http.MethodDelete:
		return "Authorization failed for specified action: Manage,EntityDelete."
	default:
		return "Manage,EntityRead claims required for this operation."
	}
	return fmt.Sprintf("401 SubCode=40100: Unauthorized : Unauthorized access for '%s' operation on endpoint 'sb://%s/%s'.", verb, host, path)
}

func (a admin) serve(r *http.Request, path string) (status int, answer any, err error) {
	lower := strings.ToLower(path)
	switch lower {
	case "$namespaceinfo":
		return http.StatusOK, namespaceInfo(r.Host), nil
	case "$resources/queues":
		return a.list(r, "Queues", func(q *queue) bool { return q.kind == plainQueue })
	case "$resources/topics":
		return a.list(r, "Topics", func(q *queue) bool { return q.kind == topicQueue })
	}
	if topic, ok := strings.CutSuffix(lower, "/subscriptions"); ok {
		prefix := topic + "/subscriptions/"
		return a.list(r, "Subscriptions", func(q *queue) bool {
			return q.kind == subscriptionQueue && strings.HasPrefix(strings.ToLower(q.name), prefix)
		})
	}
	if at := lastFold(path, "/rules"); at > 0 && topicOf(path[:at]) != "" {
		subscription := a.b.entity(path[:at])
		if subscription == nil || subscription.rules == nil {
			return 0, nil, missing(path[:at])
		}
		return a.rules(r, subscription, strings.Trim(path[at+len("/rules"):], "/"))
	}
	return a.entity(r, path)
}

func (a admin) entity(r *http.Request, path string) (status int, answer any, err error) {
	q := a.b.entity(path)
	if q != nil && q.kind == deadQueue {
		q = nil
	}
	switch r.Method {
	case http.MethodGet:
		if q == nil {
			return http.StatusOK, nothing, nil
		}
		return http.StatusOK, a.b.entryOf(q, r.Host), nil
	case http.MethodDelete:
		if q == nil {
			return 0, nil, missing(path)
		}
		a.b.remove(q)
		return http.StatusOK, nil, nil
	case http.MethodPut:
		var d description
		if err := readEntry(r.Body, &d); err != nil {
			return 0, nil, err
		}
		if r.Header.Get("If-Match") != "" {
			if q == nil {
				return 0, nil, missing(path)
			}
			if err := a.b.update(q, d); err != nil {
				return 0, nil, err
			}
			return http.StatusOK, a.b.entryOf(q, r.Host), nil
		}
		if q, err = a.create(path, d); err != nil {
			return 0, nil, err
		}
		return http.StatusCreated, a.b.entryOf(q, r.Host), nil
	}
	return 0, nil, &adminError{http.StatusMethodNotAllowed, r.Method + " is not supported."}
}

// create makes a new entity; which kind follows from the description's name.
func (a admin) create(path string, d description) (*queue, error) {
	cfg, err := d.config(QueueConfig{Name: path})
	if err != nil {
		return nil, err
	}
	k := plainQueue
	var list []rule.Rule
	switch d.XMLName.Local {
	case "QueueDescription":
	case "TopicDescription":
		k = topicQueue
	case "SubscriptionDescription":
		k = subscriptionQueue
		if d.DefaultRule != nil {
			one, err := d.DefaultRule.rule()
			if err != nil {
				return nil, err
			}
			list = []rule.Rule{one}
		}
	default:
		return nil, invalid("The content must be a QueueDescription, TopicDescription or SubscriptionDescription.")
	}
	return a.b.create(k, cfg, list)
}

// list is one page of entities, in the order of their names.
func (a admin) list(r *http.Request, title string, belongs func(*queue) bool) (status int, answer any, err error) {
	var all []*queue
	for _, q := range a.b.all() {
		if belongs(q) {
			all = append(all, q)
		}
	}
	slices.SortFunc(all, func(x, y *queue) int { return strings.Compare(strings.ToLower(x.name), strings.ToLower(y.name)) })
	f := feed{Title: text{"text", title}}
	for _, q := range page(r, all) {
		f.Entries = append(f.Entries, a.b.entryOf(q, r.Host))
	}
	return http.StatusOK, f, nil
}

// page honors $skip and $top; pagers ask until a page is empty.
func page[T any](r *http.Request, all []T) []T {
	skip, top := 0, 100
	query, _ := url.ParseQuery(r.URL.RawQuery)
	for key, values := range query {
		n, err := strconv.Atoi(values[0])
		if err != nil || n < 0 {
			continue
		}
		switch strings.TrimLeft(key, "?&") { // the Go client asks for subscriptions with two question marks
		case "$skip":
			skip = n
		case "$top":
			top = min(n, 1000)
		}
	}
	all = all[min(skip, len(all)):]
	return all[:min(top, len(all))]
}

func (a admin) rules(r *http.Request, subscription *queue, name string) (status int, answer any, err error) {
	rules := subscription.rules
	list := rules.all()
	if name == "" {
		f := feed{Title: text{"text", "Rules"}}
		for _, one := range page(r, list) {
			f.Entries = append(f.Entries, ruleEntry(subscription, one, r.Host))
		}
		return http.StatusOK, f, nil
	}
	at := slices.IndexFunc(list, func(one rule.Rule) bool { return strings.EqualFold(one.Name, name) })
	switch r.Method {
	case http.MethodGet:
		if at < 0 {
			return http.StatusOK, nothing, nil
		}
		return http.StatusOK, ruleEntry(subscription, list[at], r.Host), nil
	case http.MethodDelete:
		if rules.remove(name) != nil {
			return 0, nil, missing(name)
		}
		return http.StatusOK, nil, nil
	case http.MethodPut:
		var d ruleDescription
		if err := readEntry(r.Body, &d); err != nil {
			return 0, nil, err
		}
		d.Name = name
		one, err := d.rule()
		if err != nil {
			return 0, nil, err
		}
		if r.Header.Get("If-Match") != "" {
			if rules.replace(one) != nil {
				return 0, nil, missing(name)
			}
			return http.StatusOK, ruleEntry(subscription, one, r.Host), nil
		}
		switch err := rules.add(one); {
		case errors.Is(err, errRuleExists):
			return 0, nil, conflict(name)
		case err != nil:
			return 0, nil, invalid(err.Error())
		}
		return http.StatusCreated, ruleEntry(subscription, one, r.Host), nil
	}
	return 0, nil, &adminError{http.StatusMethodNotAllowed, r.Method + " is not supported."}
}
