package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/cmd/internal/ports"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
	"github.com/session-revoker/session-revoker/emulator/localhost"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/telemetry"
)

const (
	queue    = "session-events"
	tenant   = "sandbox.example"
	clientID = "11111111-1111-4111-8111-111111111111"
	// clientSecret is valid for the embedded Graph only.
	clientSecret = "sandbox-secret"
	// dedupeWindow is shorter than in production, so that people who watch see it end.
	dedupeWindow = 5 * time.Second
	// lockDuration is shorter than usual, so that the worker renews locks during the sample.
	lockDuration = 30 * time.Second
)

// servers are the embedded Service Bus and Graph.
type servers struct {
	broker           *servicebus.Broker
	graph            *graph.Server
	journal          *invariants.Journal // records how each message ended
	connectionString string
	graphURL         string

	admin, adminTLS, amqps, graphTLS string // addresses; "" for none

	ports *ports.Ports

	webhooks *webhooks // nil for none
}

// roles are the permissions of the worker's application. With the last one it finds out whose a
// device is.
var roles = []string{"User.RevokeSessions.All", "User.Read.All", "DeviceManagementManagedDevices.Read.All"}

// startServers opens the ports and serves until stop is called.
func startServers(o options, s sample) (*servers, error) {
	journal := &invariants.Journal{}
	cfg, err := brokerConfig(o)
	if err != nil {
		return nil, err
	}
	cfg.Observe = journal.Observe
	directory, err := graph.New(graph.Config{
		Tenant: tenant,
		Apps: []graph.App{{
			ClientID: clientID, Secret: clientSecret, Roles: roles, Public: true, Scopes: []string{"User.RevokeSessions.All", "User.Read"},
		}},
		Users: s.people,
		Quota: graph.Quota{Model: graph.FixedWindow, Limit: 3000, Per: 150 * time.Second, Headers: true},
	})
	if err != nil {
		return nil, err
	}
	for _, device := range s.devices {
		if err := directory.AddDevice(device); err != nil {
			return nil, err
		}
	}
	cfg.Authorize = func(token string) (servicebus.Grant, error) {
		_, expires, err := directory.Verify(token, servicebus.Audience)
		return servicebus.Grant{Manage: true, Until: expires}, err
	}
	broker, err := servicebus.New(cfg)
	if err != nil {
		return nil, err
	}
	started := &servers{broker: broker, graph: directory, journal: journal, ports: ports.New(broker)}
	if err := started.listen(o); err != nil {
		return nil, errors.Join(err, started.stop())
	}
	return started, nil
}

// listen opens the ports.
func (s *servers) listen(o options) error {
	address, err := s.ports.AMQP("amqp", o.amqp, nil)
	if err != nil {
		return err
	}
	s.connectionString = servicebus.ConnectionString(address, servicebus.DefaultKey)
	if address, err = s.ports.HTTP("graph", o.graph, nil, s.graph); err != nil {
		return err
	}
	s.graphURL = "http://" + address
	if s.admin, err = s.ports.HTTP("admin", o.admin, nil, localhost.Only(s.broker.Web())); err != nil {
		return err
	}
	if o.adminTLS == "" && o.amqps == "" && o.graphTLS == "" {
		return nil
	}
	secure, err := ports.GeneratedTLS("admin-cert", o.adminCert)
	if err != nil {
		return err
	}
	if s.adminTLS, err = s.ports.HTTP("admin-tls", o.adminTLS, secure, s.broker.Web()); err != nil {
		return err
	}
	if s.amqps, err = s.ports.AMQP("amqps", o.amqps, secure); err != nil {
		return err
	}
	s.graphTLS, err = s.ports.HTTP("graph-tls", o.graphTLS, secure, s.graph)
	return err
}

// brokerConfig returns the sandbox's queue and key, and what --entities and --key add.
func brokerConfig(o options) (servicebus.Config, error) {
	cfg := servicebus.Config{
		// Dead-lettering on expiration is on, as worker doctor asks for.
		Queues: []servicebus.QueueConfig{{
			Name: queue, LockDuration: lockDuration, MaxDeliveryCount: 100, DeadLetterOnExpiration: true,
		}},
		Keys: []servicebus.Key{servicebus.DefaultKey},
	}
	if o.maxMessageSize != "" {
		size, err := servicebus.ParseMessageSize(o.maxMessageSize)
		if err != nil {
			return cfg, fmt.Errorf("--max-message-size: %w", err)
		}
		cfg.MaxMessageSize = size
	}
	err := ports.Declare(&cfg, o.keys, "entities", o.entities)
	return cfg, err
}

// stop closes the ports and the broker.
func (s *servers) stop() error { return s.ports.Close() }

// settings returns the worker's settings for these servers, as environment variables.
func (s *servers) settings(o options) []string {
	settings := []string{
		"REVOKER_SERVICEBUS_CONNECTION_STRING=" + s.connectionString,
		"REVOKER_SERVICEBUS_QUEUE=" + queue,
		"REVOKER_SERVICEBUS_LOCK_DURATION=" + lockDuration.String(),
		"REVOKER_GRAPH_ENDPOINT=" + s.graphURL,
		"REVOKER_GRAPH_TOKEN_URL=" + s.graphURL + "/" + tenant + "/oauth2/v2.0/token",
		"REVOKER_GRAPH_TENANT_ID=" + tenant,
		"REVOKER_GRAPH_CLIENT_ID=" + clientID,
		"REVOKER_GRAPH_CLIENT_SECRET=" + clientSecret,
		"REVOKER_GRAPH_CANARY_USER=" + canary,
		"REVOKER_GUARD_PROTECTED_USERS=" + breakGlass,
		"REVOKER_EVENTS_RESOLVE_DEVICES=true",
		"REVOKER_EVENTS_ALLOWED_DOMAINS=" + domain,
		"REVOKER_OPS_ADDRESS=" + o.ops,
		// These are shorter than in production, so that the sample ends soon.
		"REVOKER_RETRY_MAX_ATTEMPTS=4",
		"REVOKER_RETRY_INITIAL_INTERVAL=250ms",
		"REVOKER_RETRY_MAX_INTERVAL=2s",
		"REVOKER_RETRY_NOT_FOUND_FOR=4s",
		"REVOKER_DEDUPE_WINDOW=" + dedupeWindow.String(),
	}
	if o.redis != "" {
		// Redis answers late on a busy machine, and a replica that gets no answer calls Graph on
		// its own.
		settings = append(settings, "REVOKER_REDIS_ADDRESSES="+o.redis, "REVOKER_REDIS_TIMEOUT=5s")
	}
	if o.auditFile != "" {
		settings = append(settings, "REVOKER_AUDIT_FILE="+o.auditFile)
	}
	if s.admin != "" {
		settings = append(settings, "REVOKER_SERVICEBUS_ADMIN_ENDPOINT=http://"+s.admin)
	}
	return settings
}

// describe prints how to reach the servers.
func (s *servers) describe(w io.Writer) {
	fmt.Fprintf(w, "Service Bus  %s\n", s.connectionString)
	fmt.Fprintf(w, "Queue        %s\n", queue)
	fmt.Fprintf(w, "Graph        %s (users like ada@%s; calls seen: %s/_emulator/calls)\n", s.graphURL, domain, s.graphURL)
	if s.admin != "" {
		fmt.Fprintf(w, "Administration  http://%s\n", s.admin)
	}
	if s.adminTLS != "" {
		fmt.Fprintf(w, "Administration  https://%s (--admin-cert FILE writes the certificate to trust)\n", s.adminTLS)
		fmt.Fprintf(w, "WebSocket    wss://%s%s\n", s.adminTLS, servicebus.WebSocketPath)
	}
	if s.amqps != "" {
		fmt.Fprintf(w, "AMQP with TLS  %s\n", servicebus.SecureConnectionString(s.amqps, servicebus.DefaultKey))
	}
	if s.graphTLS != "" {
		fmt.Fprintf(w, "Sign-in      https://%s/%s\n", s.graphTLS, tenant)
	}
	fmt.Fprintf(w, "\nTo run a worker with them, enter in another shell:\n\n")
	for _, setting := range s.settings(options{ops: "127.0.0.1:9090"}) {
		name, value, _ := strings.Cut(setting, "=")
		fmt.Fprintf(w, "export %s='%s'\n", name, value)
	}
	fmt.Fprintf(w, "go run ./cmd/worker run\n\nStop with Ctrl-C.\n")
}

// runningWorker is a worker in this process.
type runningWorker struct {
	*app.Worker
	cancel context.CancelFunc
	done   chan error
}

// workers are the replicas.
type workers []*runningWorker

// startWorkers runs o.replicas workers as cmd/worker does, with settings for these servers. stop
// ends them gracefully. They end at once when hard is done.
func startWorkers(hard context.Context, s *servers, o options, log io.Writer) (workers, error) {
	var all workers
	for i := range o.replicas {
		settings := s.settings(o)
		if i > 0 { // only the first worker can use the port of --ops
			host, _, _ := net.SplitHostPort(o.ops)
			settings = append(settings, "REVOKER_OPS_ADDRESS="+net.JoinHostPort(host, "0"))
		}
		worker, err := startWorker(hard, settings, log)
		if err != nil {
			return nil, errors.Join(err, all.stop())
		}
		all = append(all, worker)
	}
	return all, nil
}

func startWorker(hard context.Context, settings []string, log io.Writer) (*runningWorker, error) {
	flags := pflag.NewFlagSet("worker", pflag.ContinueOnError)
	config.Flags(flags)
	cfg, err := config.Load(flags, settings)
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

// stop ends all workers gracefully and waits for them.
func (w workers) stop() error {
	var err error
	for _, worker := range w {
		worker.cancel()
	}
	for _, worker := range w {
		err = errors.Join(err, <-worker.done)
	}
	return err
}

// State returns the sum of the workers' states. Each worker has its own rate limiter; State returns
// that of the first one.
func (w workers) State() telemetry.State {
	sum := w[0].State()
	for _, worker := range w[1:] {
		state := worker.State()
		sum.Pending += state.Pending
		sum.Parked += state.Parked
		sum.Queued += state.Queued
		sum.CallsInFlight += state.CallsInFlight
		sum.BreakerOpen = sum.BreakerOpen || state.BreakerOpen
	}
	return sum
}
