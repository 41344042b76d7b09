package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/emulator/audit"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

const (
	queue    = "session-events"
	tenant   = "sandbox.example"
	clientID = "11111111-1111-4111-8111-111111111111"
	// clientSecret opens nothing but the embedded Graph.
	clientSecret = "sandbox-secret" //nolint:gosec // see above
	// dedupeWindow is shorter than in production, so that a watcher sees it end.
	dedupeWindow = 5 * time.Second
)

// servers are the embedded Service Bus and Graph.
type servers struct {
	broker           *servicebus.Broker
	graph            *graph.Server
	journal          *audit.Journal // what became of each message
	connectionString string
	graphURL         string

	web  *http.Server
	done chan error // one value from each of the two accept loops
}

// startServers opens both ports and serves until stop.
func startServers(o options, s sample) (*servers, error) {
	journal := &audit.Journal{}
	broker, err := servicebus.New(servicebus.Config{
		Queues:  []servicebus.QueueConfig{{Name: queue, LockDuration: 30 * time.Second, MaxDeliveryCount: 100}},
		Observe: journal.Observe,
	})
	if err != nil {
		return nil, err
	}
	directory, err := graph.New(graph.Config{
		Tenant: tenant,
		Apps:   []graph.App{{ClientID: clientID, Secret: clientSecret, Roles: []string{"User.RevokeSessions.All"}}},
		Users:  s.people,
		Quota:  graph.Quota{Model: graph.FixedWindow, Limit: 3000, Per: 150 * time.Second, Headers: true},
	})
	if err != nil {
		return nil, err
	}
	amqp, err := net.Listen("tcp", o.amqp)
	if err != nil {
		return nil, fmt.Errorf("open the Service Bus port: %w; choose another with --amqp", err)
	}
	web, err := net.Listen("tcp", o.graph)
	if err != nil {
		_ = amqp.Close()
		return nil, fmt.Errorf("open the Graph port: %w; choose another with --graph", err)
	}
	started := &servers{
		broker:           broker,
		graph:            directory,
		journal:          journal,
		connectionString: servicebus.ConnectionString(amqp.Addr().String(), servicebus.DefaultKey),
		graphURL:         "http://" + web.Addr().String(),
		web:              &http.Server{Handler: directory, ReadHeaderTimeout: 10 * time.Second},
		done:             make(chan error, 2),
	}
	go func() { started.done <- broker.Serve(amqp) }()
	go func() { started.done <- started.web.Serve(web) }()
	return started, nil
}

func (s *servers) stop() error {
	err := errors.Join(s.web.Close(), s.broker.Close())
	for range 2 {
		if serveErr := <-s.done; !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
	}
	return err
}

// settings are the worker's settings for these servers, as environment variables.
func (s *servers) settings(o options) []string {
	return []string{
		"REVOKER_SERVICEBUS_CONNECTION_STRING=" + s.connectionString,
		"REVOKER_SERVICEBUS_QUEUE=" + queue,
		"REVOKER_GRAPH_ENDPOINT=" + s.graphURL,
		"REVOKER_GRAPH_TOKEN_URL=" + s.graphURL + "/" + tenant + "/oauth2/v2.0/token",
		"REVOKER_GRAPH_TENANT_ID=" + tenant,
		"REVOKER_GRAPH_CLIENT_ID=" + clientID,
		"REVOKER_GRAPH_CLIENT_SECRET=" + clientSecret,
		"REVOKER_GUARD_PROTECTED_USERS=" + breakGlass,
		"REVOKER_OPS_ADDRESS=" + o.ops,
		// Shorter than in production, so that the sample ends while somebody watches.
		"REVOKER_RETRY_MAX_ATTEMPTS=4",
		"REVOKER_RETRY_INITIAL_INTERVAL=250ms",
		"REVOKER_RETRY_MAX_INTERVAL=2s",
		"REVOKER_RETRY_NOT_FOUND_FOR=4s",
		"REVOKER_DEDUPE_WINDOW=" + dedupeWindow.String(),
	}
}

// describe prints how to reach the servers.
func (s *servers) describe(w io.Writer) {
	fmt.Fprintf(w, "Service Bus  %s\n", s.connectionString)
	fmt.Fprintf(w, "Queue        %s\n", queue)
	fmt.Fprintf(w, "Graph        %s (users like ada@%s; calls seen: %s/_emulator/calls)\n", s.graphURL, domain, s.graphURL)
	fmt.Fprintf(w, "\nA worker for them in another shell:\n\n")
	for _, setting := range s.settings(options{ops: "127.0.0.1:9090"}) {
		name, value, _ := strings.Cut(setting, "=")
		fmt.Fprintf(w, "export %s='%s'\n", name, value)
	}
	fmt.Fprintf(w, "go run ./cmd/worker run\n\nStop with Ctrl-C.\n")
}

// runningWorker is the worker in this process.
type runningWorker struct {
	*app.Worker
	cancel context.CancelFunc
	done   chan error
}

// startWorker runs the worker as cmd/worker does, with settings for these servers. It ends with stop, at once with hard.
func startWorker(hard context.Context, s *servers, o options, log io.Writer) (*runningWorker, error) {
	flags := pflag.NewFlagSet("worker", pflag.ContinueOnError)
	config.Flags(flags)
	cfg, err := config.Load(flags, s.settings(o))
	if err != nil {
		return nil, err
	}
	worker, err := app.New(cfg, log)
	if err != nil {
		return nil, err
	}
	soft, cancel := context.WithCancel(hard)
	running := &runningWorker{Worker: worker, cancel: cancel, done: make(chan error, 1)}
	go func() { running.done <- worker.Run(soft, hard) }()
	return running, nil
}

func (w *runningWorker) stop() error {
	w.cancel()
	return <-w.done
}
