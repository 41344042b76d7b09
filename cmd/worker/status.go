package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/cmd/internal/help"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/replay"
	"github.com/session-revoker/session-revoker/servicebus"
	"github.com/session-revoker/session-revoker/status"
)

// defaultPeek is how many messages of a queue, and of its dead letters, worker status looks at.
const defaultPeek = 5000

func (p *program) statusCommand() *cobra.Command {
	var workers []string
	var most int
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether people are being signed out, and why not",
		Long: `Say whether people are being signed out. The first line is the answer.

The command asks the operations port of each worker for /readyz and /metrics,
and peeks at the queues and their dead letters. It locks and changes nothing. A
worker that cannot be reached is named. What cannot be known is said.

A port of ops.address that is bound to 127.0.0.1 answers on its own machine
only; in a cluster, use kubectl port-forward for each pod, or run the command in
a pod.

Exit codes of the answer: 0 everybody is being signed out, perhaps slowly; 1
somebody is not, or it is not known.`,
		Example: `  worker status
  worker status --worker 10.0.0.5:9090 --worker 10.0.0.6:9090
  worker status --worker https://worker.internal:9443 --peek 0 -o json`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&workers, "worker", nil,
		"operations port of a worker: HOST:PORT or a URL; repeat it for each, or give a list (default: ops.workers, or ops.address)")
	fs.IntVar(&most, "peek", defaultPeek, "look at so many messages of each queue, and at so many dead letters; 0 means none")
	out.flag(fs)
	return p.operateWith(cmd, loadIfUsed, func(ctx context.Context, cfg config.Config, _ []string) error {
		if most < 0 {
			return fail(exitUsage, "--peek: %d is negative", most)
		}
		addresses, err := workerAddresses(workers, cfg)
		if err != nil {
			return err
		}
		client, err := opsClient(cfg)
		if err != nil {
			return fail(exitUsage, "%v", err)
		}
		replicas := status.AskAll(ctx, client, addresses)
		var queues []status.Queue
		if most > 0 && hasServiceBus(cfg) {
			queues = peekQueues(ctx, cfg, most)
		}
		if ctx.Err() != nil {
			return fail(exitFailed, "stopped")
		}
		s := status.Judge(time.Now(), replicas, queues)
		if err := out.value(s, func(w io.Writer) { printStatus(w, s) }); err != nil {
			return err
		}
		if s.State != status.Working {
			return fail(exitFailed, "")
		}
		return nil
	})
}

// workerAddresses returns the URLs of the operations ports, each once.
func workerAddresses(workers []string, cfg config.Config) ([]string, error) {
	if len(workers) == 0 {
		workers = cfg.Ops.Workers
	}
	switch {
	case len(workers) == 0 && cfg.Ops.Address == "":
		return nil, fail(exitUsage, "no worker is named: use --worker or ops.workers; ops.address is empty")
	case len(workers) == 0:
		workers = []string{cfg.Ops.Address}
	}
	var addresses []string
	for _, worker := range workers {
		address, err := status.Address(worker)
		if err != nil {
			return nil, fail(exitUsage, "--worker: %v", err)
		}
		if !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}
	return addresses, nil
}

// opsClient returns a client for operations ports. They are reached directly, not by a proxy.
func opsClient(cfg config.Config) (*http.Client, error) {
	network, err := app.NewNetwork(cfg)
	if err != nil {
		return nil, err
	}
	transport := network.Transport()
	transport.Proxy = nil
	return &http.Client{Transport: transport}, nil
}

// loadIfUsed reads the settings, of which those of Service Bus may be missing together.
func loadIfUsed(flags *pflag.FlagSet, environ []string) (config.Config, error) {
	cfg, err := config.LoadForGraph(flags, environ)
	if err == nil && hasServiceBus(cfg) {
		return config.Load(flags, environ)
	}
	return cfg, err
}

func hasServiceBus(cfg config.Config) bool {
	return cfg.ServiceBus.ConnectionString != "" || cfg.ServiceBus.Namespace != ""
}

// peekQueues looks at the first messages and dead letters of each queue.
func peekQueues(ctx context.Context, cfg config.Config, most int) []status.Queue {
	var queues []status.Queue
	client, err := app.NewServiceBus(cfg)
	if err == nil {
		defer closeClient(client)
	}
	for _, entity := range cfg.ServiceBus.Entities() {
		q := status.Queue{Name: entity, DeadLetters: map[string]int{}}
		err := err
		if err == nil {
			err = peekQueue(ctx, client, cfg, &q, most)
		}
		if err != nil {
			q.Error = explain(err, entity).Error()
		}
		queues = append(queues, q)
	}
	return queues
}

// peekQueue counts what one queue holds.
func peekQueue(ctx context.Context, client *azservicebus.Client, cfg config.Config, q *status.Queue, most int) error {
	count := func(dead bool, add func(*azservicebus.ReceivedMessage)) (more bool, err error) {
		receiver, err := servicebus.NewReceiver(client, q.Name, dead)
		if err != nil {
			return false, err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
			defer cancel()
			_ = receiver.Close(ctx)
		}()
		n := 0
		for found, err := range (&replay.Queue{Entity: q.Name, Receiver: receiver}).Find(ctx, replay.Filter{Limit: most + 1}) {
			if err != nil {
				return false, err
			}
			if n++; n > most {
				return true, nil
			}
			add(found.Message)
		}
		return false, nil
	}
	var err error
	if q.MoreDeadLetters, err = count(true, func(m *azservicebus.ReceivedMessage) {
		reason := ""
		if m.DeadLetterReason != nil {
			reason = *m.DeadLetterReason
		}
		q.DeadLetters[reason]++
	}); err != nil {
		return err
	}
	if cfg.ServiceBus.Sessions > 0 {
		return errors.New("the messages of sessions cannot be seen; only its dead letters can")
	}
	q.More, err = count(false, func(m *azservicebus.ReceivedMessage) {
		switch m.State {
		case azservicebus.MessageStateDeferred:
			q.Deferred++
		case azservicebus.MessageStateScheduled:
			q.Scheduled++
		default:
			q.Active++
			if m.EnqueuedTime != nil && (q.OldestActive.IsZero() || m.EnqueuedTime.Before(q.OldestActive)) {
				q.OldestActive = m.EnqueuedTime.UTC()
			}
		}
	})
	return err
}

// stateColors are the colors of the answer.
var stateColors = map[status.State]color{status.Working: green, status.Partly: yellow, status.Unknown: yellow, status.Stopped: red}

func printStatus(w io.Writer, s status.Status) {
	paint(w, stateColors[s.State], wrapText(plain(s.Answer), help.Width))
	fmt.Fprint(w, "\n\n")
	say := func(label, format string, args ...any) {
		printHanging(w, label, statusColumn, plain(fmt.Sprintf(format, args...)))
	}
	for _, cause := range s.Causes {
		say("Problem", "%s", cause)
	}
	for _, note := range s.Notes {
		say("Note", "%s", note)
	}
	if !s.LastRevoked.IsZero() {
		say("Last signed out", "%s, %s ago", when(s.LastRevoked), ago(s.Time, s.LastRevoked))
	}
	switch {
	case s.UsersWaiting == 0:
		say("Waiting", "nobody")
	case s.Never:
		say("Waiting", "about %s; no forecast, because nobody is being called", count(s.UsersWaiting, "person", "people"))
	case slices.ContainsFunc(s.Replicas, func(r status.Replica) bool {
		return slices.ContainsFunc(r.Guard, func(g status.Guard) bool { return g.Tripped })
	}):
		say("Waiting", "about %s; those whom the volume guard stops wait for a release (worker guard release)",
			count(s.UsersWaiting, "person", "people"))
	default:
		say("Waiting", "about %s, the last of them for about %s", count(s.UsersWaiting, "person", "people"),
			time.Duration(s.ForecastSeconds*float64(time.Second)).Round(time.Second))
	}
	for _, q := range s.Queues {
		printQueue(say, q, s.Time)
	}
	for _, r := range s.Replicas {
		printReplica(say, r, s.Time)
	}
	for _, unknown := range s.Unknown {
		say("Not known", "%s", unknown)
	}
}

// statusColumn is the width of the labels and the space after them.
const statusColumn = len("Last signed out") + 2

// ago says how long before now something was.
func ago(now, then time.Time) time.Duration { return max(0, now.Sub(then).Round(time.Second)) }

func printQueue(say func(label, format string, args ...any), q status.Queue, now time.Time) {
	atLeast := func(more bool) string {
		if more {
			return "at least "
		}
		return ""
	}
	if q.Error == "" {
		oldest := ""
		if !q.OldestActive.IsZero() {
			oldest = fmt.Sprintf(", the oldest for %s", ago(now, q.OldestActive))
		}
		say("Queue", "%s: %s%s waiting or in flight%s; %d deferred, %d scheduled", q.Name, atLeast(q.More), count(q.Active, "message"),
			oldest, q.Deferred, q.Scheduled)
	}
	total, reasons := 0, ""
	for _, reason := range byCount(q.DeadLetters) {
		total += q.DeadLetters[reason]
		name := reason
		if name == "" {
			name = "no reason"
		}
		reasons += fmt.Sprintf(", %d %s", q.DeadLetters[reason], name)
	}
	if total > 0 {
		say("Dead letters", "%s: %s%d (%s)", q.Name, atLeast(q.MoreDeadLetters), total, reasons[2:])
	}
}

func printReplica(say func(label, format string, args ...any), r status.Replica, now time.Time) {
	if r.Error != "" {
		return // it is among the problems
	}
	ready := "ready"
	if !r.Ready {
		ready = "not ready"
	}
	say("Worker", "%s (%s): %s; %s and %s in flight; %d deferred", r.Address, r.Version, ready, count(r.CallsInFlight, "call"),
		count(r.MessagesInFlight, "message"), r.Deferred)
	rate := "Graph has not throttled"
	if r.PerSecond > 0 {
		rate = fmt.Sprintf("Graph allows about %.1f calls per second", r.PerSecond)
	}
	breaker := "the circuit breaker is closed"
	if r.BreakerOpen {
		breaker = "the circuit breaker is open"
	}
	say("", "%s; %s", rate, breaker)
	for _, source := range r.Sources {
		heard := "not heard from Service Bus yet"
		if !source.LastHeard.IsZero() {
			heard = fmt.Sprintf("heard from Service Bus %s ago", ago(now, source.LastHeard))
		}
		say("", "%s: %s", source.Name, heard)
	}
	for _, g := range r.Guard {
		limit := "no limit"
		if g.Limit > 0 {
			limit = fmt.Sprintf("%d of %d people in the window", g.Users, g.Limit)
		}
		state := ""
		if g.Tripped {
			state = "; tripped: worker guard release"
		}
		name := g.Type
		if name == "" {
			name = "all types"
		}
		if g.Tripped || g.Users > 0 {
			say("", "volume guard, %s: %s%s", name, limit, state)
		}
	}
}
