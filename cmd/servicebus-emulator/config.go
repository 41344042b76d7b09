package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/session-revoker/session-revoker/cmd/internal/ports"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// brokerConfig returns what the flags declare.
func (o options) brokerConfig() (servicebus.Config, error) {
	var cfg servicebus.Config
	if o.amqp == "" && o.amqps == "" && o.https == "" && o.admin == "" {
		return cfg, errors.New("no port to open: give at least one of --amqp, --amqps, --https and --admin")
	}
	tls := o.amqps != "" || o.https != "" || o.entra != ""
	if !tls && (o.cert != "" || o.caOut != "" || len(o.hosts) > 0) {
		return cfg, errors.New("--cert, --ca-out and --host are for TLS: give --amqps, --https or --entra")
	}
	if o.entra == "" && len(o.entraClients) > 0 {
		return cfg, errors.New("--entra-client is for the sign-in endpoint: give --entra")
	}
	var err error
	if cfg.MaxMessageSize, err = servicebus.ParseMessageSize(o.maxMessageSize); err != nil {
		return cfg, fmt.Errorf("--max-message-size: %w", err)
	}
	if o.noDefaultKey && len(o.keys) == 0 {
		return cfg, errors.New("--no-default-key needs at least one --key")
	}
	if !o.noDefaultKey {
		cfg.Keys = append(cfg.Keys, servicebus.DefaultKey)
	}
	if err := ports.Declare(&cfg, o.keys, "config", o.config); err != nil {
		return cfg, err
	}
	for _, name := range o.queues {
		cfg.Queues = append(cfg.Queues, servicebus.QueueConfig{Name: name})
	}
	for _, text := range o.topics {
		if strings.HasSuffix(text, "/") {
			return cfg, fmt.Errorf("--topic %s: the name of the subscription is missing", text)
		}
		cfg.Topics = addTopic(cfg.Topics, text)
	}
	return cfg, nil
}

// addTopic adds TOPIC or TOPIC/SUBSCRIPTION. The topic may be there already.
func addTopic(topics []servicebus.TopicConfig, text string) []servicebus.TopicConfig {
	name, subscription := text, ""
	if at := strings.LastIndexByte(text, '/'); at >= 0 {
		name, subscription = text[:at], text[at+1:]
	}
	at := 0
	for at < len(topics) && !strings.EqualFold(topics[at].Name, name) {
		at++
	}
	if at == len(topics) {
		topics = append(topics, servicebus.TopicConfig{QueueConfig: servicebus.QueueConfig{Name: name}})
	}
	if subscription != "" {
		topics[at].Subscriptions = append(topics[at].Subscriptions,
			servicebus.SubscriptionConfig{QueueConfig: servicebus.QueueConfig{Name: subscription}})
	}
	return topics
}

// tlsConfig returns the certificate of --cert, or makes one and writes its authority to --ca-out.
func (o options) tlsConfig() (*tls.Config, error) {
	if o.cert == "" {
		return ports.GeneratedTLS("ca-out", o.caOut, o.hosts...)
	}
	pair, err := tls.LoadX509KeyPair(o.cert, o.certKey)
	if err != nil {
		return nil, fmt.Errorf("--cert and --cert-key: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// tenant is the directory's name in the sign-in endpoint's URLs.
const tenant = "tenant"

// directory returns the sign-in endpoint and a function that verifies its tokens.
func (o options) directory() (*graph.Server, func(token string) (servicebus.Grant, error), error) {
	texts := o.entraClients
	if len(texts) == 0 {
		texts = []string{"client=secret:Manage"}
	}
	var apps []graph.App
	rights := map[string]servicebus.Key{}
	for _, text := range texts {
		client, err := servicebus.ParseKey(text)
		if err != nil {
			return nil, nil, fmt.Errorf("--entra-client: %w", err)
		}
		apps = append(apps, graph.App{ClientID: client.Name, Secret: client.Value})
		rights[client.Name] = client
	}
	server, err := graph.New(graph.Config{Tenant: tenant, Apps: apps})
	if err != nil {
		return nil, nil, err
	}
	return server, func(token string) (servicebus.Grant, error) {
		id, expires, err := server.Verify(token, servicebus.Audience)
		client := rights[id]
		return servicebus.Grant{Listen: client.Listen, Send: client.Send, Manage: client.Manage, Until: expires}, err
	}, nil
}
