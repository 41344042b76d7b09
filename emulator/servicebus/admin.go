package servicebus

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Admin returns the administration API, which azservicebus/admin and KEDA use: it creates, reads,
// updates, lists and deletes entities and rules as Atom entries, and counts messages
// (https://learn.microsoft.com/rest/api/servicebus/entities-atom). It requires a shared access
// signature with the Manage claim. Clients insist on https: serve it with TLS, or rewrite the
// scheme of their requests.
func (b *Broker) Admin() http.Handler { return admin{b} }

type admin struct{ b *Broker }

// adminError is an error that the client gets.
type adminError struct {
	status int // of HTTP
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

func notSupported(method string) error {
	return &adminError{http.StatusMethodNotAllowed, method + " is not supported."}
}

// ServeHTTP implements http.Handler.
func (a admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(r.URL.Path, "/")
	var status int
	var answer any
	err := a.authorize(r, path)
	if err == nil {
		status, answer, err = a.serve(r, path)
	}
	if err != nil {
		failure := &adminError{http.StatusInternalServerError, err.Error()}
		errors.As(err, &failure)
		status, answer = failure.status, errorBody{Code: failure.status, Detail: detail{detailEscaper.Replace(failure.detail)}}
	}
	form := "entry"
	if _, isFeed := answer.(atomFeed); isFeed {
		form = "feed"
	}
	w.Header().Set("Content-Type", "application/atom+xml;type="+form+";charset=utf-8")
	w.WriteHeader(status)
	if answer != nil {
		encoded, _ := xml.Marshal(answer) // can be written: the types have no unsupported fields
		_, _ = io.WriteString(w, xml.Header)
		_, _ = characterReferences.WriteString(w, string(encoded))
	}
}

// characterReferences replaces the numeric character references of package xml, which the JavaScript client
// does not decode.
var characterReferences = strings.NewReplacer("&#39;", "&apos;", "&#34;", "&quot;", "&#xA;", "\n", "&#x9;", "\t")

// authorize returns an error unless the request's token has the Manage claim. As in the service,
// any valid token is enough to learn that an entity does not exist.
func (a admin) authorize(r *http.Request, path string) error {
	lower := strings.ToLower(path)
	granted, problem := a.granted(r.Header.Get("Authorization"), lower)
	switch {
	case problem != "":
		return &adminError{http.StatusUnauthorized, problem}
	case granted.Manage:
		return nil
	case r.Method == http.MethodGet && !strings.ContainsAny(path, "/$") && a.b.entity(path) == nil:
		return nil
	}
	return &adminError{http.StatusUnauthorized, missingClaim(r.Method, lower, r.Host)}
}

// granted returns what the token of a header allows with a path, or a problem.
func (a admin) granted(header, path string) (granted Grant, problem string) {
	if strings.HasPrefix(header, sasPrefix) || header == "" {
		return a.b.verifySignature(header, path)
	}
	// The Go client (azservicebus v1.11.0) leaves "Bearer" out, and the service takes that.
	return a.b.verifyAccessToken(strings.TrimPrefix(header, "Bearer "))
}

// authorizeForwarding returns an error unless a token of the request allows to send to each entity
// to which the described one forwards. Clients sign one more token for each of them, in a header of
// its own (azservicebus v1.11.0, internal/atom/per_retry_auth_policy.go).
func (a admin) authorizeForwarding(r *http.Request, d *description) error {
	for header, to := range map[string]string{
		"ServiceBusSupplementaryAuthorization": d.ForwardTo, "ServiceBusDlqSupplementaryAuthorization": d.ForwardDeadLettersTo,
	} {
		target := entityKey(nodeOf(to))
		own, _ := a.granted(r.Header.Get("Authorization"), target)
		more, _ := a.granted(r.Header.Get(header), target)
		if to != "" && !own.Send && !more.Send {
			return &adminError{http.StatusUnauthorized, fmt.Sprintf(
				"To forward to '%s', the request needs a token with the Send claim for it, in the header %s.", shortName(to), header)}
		}
	}
	return nil
}

// missingClaim returns the service's text about the claim that a request lacks.
func missingClaim(method, path, host string) string {
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
	return fmt.Sprintf(
		"401 SubCode=40100: Unauthorized : Unauthorized access for '%s' operation on endpoint 'sb://%s/%s'.", verb, host, path,
	)
}

// serve routes an authorized request. A nil answer is an empty body.
func (a admin) serve(r *http.Request, path string) (status int, answer any, err error) {
	lower := strings.ToLower(path)
	switch lower {
	case "$namespaceinfo":
		if r.Method != http.MethodGet {
			return 0, nil, notSupported(r.Method)
		}
		return http.StatusOK, namespaceInfo(r), nil
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
	if topic := topicOf(path); topic != "" {
		name, below, _ := strings.Cut(path[len(topic)+len("/subscriptions/"):], "/")
		if part, rule, _ := strings.Cut(below, "/"); strings.EqualFold(part, "rules") {
			address := topic + "/Subscriptions/" + name
			subscription := a.b.entity(address)
			if subscription == nil || subscription.rules == nil {
				return 0, nil, missing(address)
			}
			return a.serveRules(r, subscription, rule)
		}
	}
	return a.serveEntity(r, path)
}
