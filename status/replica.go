// Package status says whether people are being signed out: from what the replicas of the worker
// report on their operations ports, and from what waits in the queues.
package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// askTimeout limits the questions to one replica. Only tests change it.
var askTimeout = 5 * time.Second

const (
	// maxPage is the maximum size of an answer in bytes. The metrics of a worker need 30 KB.
	maxPage = 4 << 20
	// maxParallel is the number of replicas that are asked at once.
	maxParallel = 16
	// namespace begins the names of the worker's metrics.
	namespace = "session_revoker_"
)

// Replica is what one worker says about itself.
type Replica struct {
	Address string `json:"address"`
	// Error says why the worker could not be asked. Then nothing else is known.
	Error   string `json:"error,omitempty"`
	Version string `json:"version,omitempty"`
	// Ready reports whether the worker has no problems. Problems and Warnings are by part: graph,
	// guard, servicebus, or servicebus and the source.
	Ready    bool              `json:"ready"`
	Problems map[string]string `json:"problems,omitempty"`
	Warnings map[string]string `json:"warnings,omitempty"`
	// UsersWaiting is the worker's estimate of the people who wait, including those whose messages
	// are still in the queue. ForecastSeconds is its estimate of the time until the last of them is
	// called; Never reports that nobody is being called at all.
	UsersWaiting    int     `json:"usersWaiting"`
	ForecastSeconds float64 `json:"forecastSeconds"`
	Never           bool    `json:"never,omitempty"`
	// PerSecond is the rate that Graph allowed when it last throttled. It is 0 if Graph has not
	// throttled. PauseSeconds is the rest of Graph's last Retry-After.
	PerSecond    float64 `json:"perSecond,omitempty"`
	PauseSeconds float64 `json:"pauseSeconds,omitempty"`
	// CallsInFlight and MessagesInFlight are under way. Deferred is the number of messages that this
	// worker has set aside, and Scheduled that of those that wait for their date.
	CallsInFlight    int `json:"callsInFlight"`
	MessagesInFlight int `json:"messagesInFlight"`
	Deferred         int `json:"deferred"`
	Scheduled        int `json:"scheduled"`
	// OldestSeconds is the age of the oldest message in flight.
	OldestSeconds float64 `json:"oldestSeconds"`
	BreakerOpen   bool    `json:"breakerOpen"`
	// SuspectedUsers reports that users fail for a reason of their own, and SuspectedGraph that Graph
	// may be the cause.
	SuspectedUsers bool     `json:"suspectedUsers,omitempty"`
	SuspectedGraph bool     `json:"suspectedGraph,omitempty"`
	LookupsStopped bool     `json:"lookupsStopped,omitempty"`
	Guard          []Guard  `json:"guard"`
	Sources        []Source `json:"sources"`
	// LastRevoked is when Graph last confirmed a call of this worker. It is zero if it has not since
	// the worker started.
	LastRevoked time.Time `json:"lastRevoked,omitzero"`
	// Revoked and DeadLettered count events since the worker started, the latter by reason.
	Revoked      int            `json:"revoked"`
	DeadLettered map[string]int `json:"deadLettered,omitempty"`
	// AuditFailures counts records that could not be written or published since the worker started.
	AuditFailures int `json:"auditFailures,omitempty"`
}

// Guard is the volume guard for one type of events.
type Guard struct {
	Type    string `json:"type"`
	Users   int    `json:"users"`
	Limit   int    `json:"limit"` // 0 means no limit
	Tripped bool   `json:"tripped"`
}

// Source is a queue or subscription as a worker sees it.
type Source struct {
	Name string `json:"name"`
	// LastHeard is when Service Bus last answered the worker. It is zero if it has not yet.
	LastHeard time.Time `json:"lastHeard,omitzero"`
}

// Address returns the URL of an operations port for HOST:PORT or a URL. An address that stands for
// all interfaces, such as :9090, becomes this machine's own.
func Address(text string) (string, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "", fmt.Errorf("%q is not HOST:PORT or a URL", text)
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("%q: use http or https", text)
	case u.User != nil, u.RawQuery != "", u.Fragment != "", strings.Trim(u.Path, "/") != "":
		return "", fmt.Errorf("%q: give only the host and port; /metrics and /readyz are added", u.Redacted())
	case u.Port() == "" && u.Scheme == "http":
		return "", fmt.Errorf("%q has no port: the operations port is 9090 unless ops.address says otherwise", u.Host)
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "" || ip != nil && ip.IsUnspecified() {
		u.Host = net.JoinHostPort("127.0.0.1", u.Port())
	}
	return u.Scheme + "://" + u.Host, nil
}

// AskAll asks the replicas at the addresses, which Address has returned. The result is in the same
// order. It takes at most a few seconds for each sixteen of them.
func AskAll(ctx context.Context, client *http.Client, addresses []string) []Replica {
	replicas := make([]Replica, len(addresses))
	var asking sync.WaitGroup
	slots := make(chan struct{}, maxParallel)
	for i, address := range addresses {
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			replicas[i] = Ask(ctx, client, address)
		})
	}
	asking.Wait()
	return replicas
}

// Ask asks one replica for its health and its metrics. The error is in the Replica. A client that
// follows redirects is not needed; Ask accepts none.
func Ask(ctx context.Context, client *http.Client, address string) Replica {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r := Replica{Address: address, Guard: []Guard{}, Sources: []Source{}}
	err := r.askHealth(ctx, client)
	if err == nil {
		err = r.askMetrics(ctx, client)
	}
	if err != nil {
		return Replica{Address: address, Error: reason(err), Guard: []Guard{}, Sources: []Source{}}
	}
	return r
}

// reason says in a few words why a request failed.
func reason(err error) string {
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %s", askTimeout)
	case errors.As(err, &dns):
		return "the name of its host is not known: " + dns.Err
	case errors.As(err, &op):
		return "no connection: " + op.Err.Error()
	}
	return err.Error()
}

func (r *Replica) askHealth(ctx context.Context, client *http.Client) error {
	page, err := get(ctx, client, r.Address+"/readyz", http.StatusOK, http.StatusServiceUnavailable)
	if err != nil {
		return err
	}
	var health struct {
		Ready    *bool             `json:"ready"`
		Problems map[string]string `json:"problems"`
		Warnings map[string]string `json:"warnings"`
	}
	if err := json.Unmarshal(page, &health); err != nil || health.Ready == nil {
		return errors.New("/readyz does not answer as a worker does: is this the operations port?")
	}
	r.Ready, r.Problems, r.Warnings = *health.Ready, health.Problems, health.Warnings
	return nil
}

func (r *Replica) askMetrics(ctx context.Context, client *http.Client) error {
	page, err := get(ctx, client, r.Address+"/metrics", http.StatusOK)
	if err != nil {
		return err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page))
	if err != nil || families[namespace+"build_info"] == nil {
		return errors.New("/metrics does not answer as a worker does: is this the operations port of worker run?")
	}
	r.read(families)
	return nil
}

// get returns the body of an answer with one of the status codes.
func get(ctx context.Context, client *http.Client, address string, codes ...int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := own.Do(req)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(io.LimitReader(response.Body, maxPage+1))
	switch {
	case err != nil:
		return nil, err
	case len(page) > maxPage:
		return nil, fmt.Errorf("the answer is larger than %d bytes: it is no worker's", maxPage)
	}
	if slices.Contains(codes, response.StatusCode) {
		return page, nil
	}
	return nil, fmt.Errorf("it answers %s with HTTP %d", req.URL.Path, response.StatusCode)
}

// read reads the metrics.
func (r *Replica) read(families map[string]*dto.MetricFamily) {
	each := func(name string, do func(value float64, label func(string) string)) {
		for _, m := range families[namespace+name].GetMetric() {
			label := func(name string) string {
				for _, pair := range m.GetLabel() {
					if pair.GetName() == name {
						return pair.GetValue()
					}
				}
				return ""
			}
			do(m.GetGauge().GetValue()+m.GetCounter().GetValue()+m.GetUntyped().GetValue(), label)
		}
	}
	sum := func(name string) (total float64) {
		each(name, func(value float64, _ func(string) string) { total += value })
		return total
	}
	number := func(name string) int { return whole(sum(name)) }
	each("build_info", func(_ float64, label func(string) string) { r.Version = label("version") })
	r.UsersWaiting, r.CallsInFlight = number("users_waiting"), number("graph_calls_in_flight")
	r.MessagesInFlight = number("messages_in_flight")
	r.Deferred, r.Scheduled, r.AuditFailures = number("messages_deferred"), number("messages_scheduled"), number("audit_failures_total")
	if r.ForecastSeconds = sum("forecast_seconds"); math.IsInf(r.ForecastSeconds, 0) || math.IsNaN(r.ForecastSeconds) {
		r.ForecastSeconds, r.Never = 0, true
	}
	finite := func(name string) float64 {
		if value := sum(name); !math.IsInf(value, 0) && !math.IsNaN(value) {
			return value
		}
		return 0
	}
	r.PerSecond, r.PauseSeconds, r.OldestSeconds = finite("rate_limit_calls_per_second"), finite("rate_limit_pause_seconds"),
		finite("oldest_message_seconds")
	r.BreakerOpen, r.LookupsStopped = sum("breaker_open") > 0, sum("lookups_stopped") > 0
	r.SuspectedUsers, r.SuspectedGraph = sum("suspected_users") > 0, sum("suspected_graph") > 0
	r.LastRevoked = unix(sum("last_revoked_timestamp_seconds"))
	guards := map[string]*Guard{}
	guard := func(kind string) *Guard {
		if guards[kind] == nil {
			guards[kind] = &Guard{Type: kind}
		}
		return guards[kind]
	}
	each("guard_users", func(value float64, label func(string) string) { guard(label("type")).Users = whole(value) })
	each("guard_limit", func(value float64, label func(string) string) { guard(label("type")).Limit = whole(value) })
	each("guard_tripped", func(value float64, label func(string) string) { guard(label("type")).Tripped = value > 0 })
	for _, kind := range sortedKeys(guards) {
		r.Guard = append(r.Guard, *guards[kind])
	}
	heard := map[string]time.Time{}
	each("messages_deferred", func(_ float64, label func(string) string) { heard[label("source")] = time.Time{} })
	each("last_receive_timestamp_seconds", func(value float64, label func(string) string) { heard[label("source")] = unix(value) })
	for _, name := range sortedKeys(heard) {
		r.Sources = append(r.Sources, Source{name, heard[name]})
	}
	r.DeadLettered = map[string]int{}
	each("events_total", func(value float64, label func(string) string) {
		switch n := whole(value); {
		case label("outcome") == "revoked":
			r.Revoked += n
		case label("outcome") == "dead_lettered" && n > 0:
			r.DeadLettered[label("reason")] += n
		}
	})
}

// whole returns a count. It is 0 for what is none.
func whole(value float64) int {
	if math.IsNaN(value) || value < 0 || value > math.MaxInt32 {
		return 0
	}
	return int(value)
}

// unix returns the time of a Unix timestamp. It is zero for 0, and for what is none.
func unix(seconds float64) time.Time {
	if math.IsNaN(seconds) || seconds <= 0 || seconds > 1<<40 {
		return time.Time{}
	}
	return time.UnixMilli(int64(seconds * 1000)).UTC()
}
