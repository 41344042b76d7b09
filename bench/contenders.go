package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/cenkalti/backoff/v4"
	"github.com/microsoft/kiota-abstractions-go/authentication"
	kiotahttp "github.com/microsoft/kiota-http-go"
	kiotajson "github.com/microsoft/kiota-serialization-json-go"
	"github.com/microsoftgraph/msgraph-sdk-go/users"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/session-revoker/session-revoker/sanitizer"
	bus "github.com/session-revoker/session-revoker/servicebus"
)

// The contenders. Each runs as a separate process, which the worker's environment variables
// configure, until it gets SIGTERM.
const (
	bareLoop      = "bare loop"      // receives and completes messages, as every consumer must
	gatheringLoop = "gathering loop" // the bare loop over the worker's connection
	guardedLoop   = "guarded loop"   // the gathering loop behind the worker's sanitizer
	plainWorker   = "plain worker"   // calls Graph once for each message, and then completes it
	ourWorker     = "worker"         // cmd/worker
	// The usual ways to deal with throttling: the plain worker with the retries of the Graph SDK,
	// or with the defaults of backoff/v4.
	sdkRetries   = "plain worker with the SDK's retries"
	plainBackoff = "plain worker with backoff/v4"
)

// goroutines is the number of messages that the bare loop and the plain worker settle concurrently.
// In a duel, it is also the concurrency of the worker.
const goroutines = 64

// compete runs a contender in this process.
func compete(name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if name == bareReplay {
		return replayBarely()
	}
	var options *azservicebus.ClientOptions
	switch dial := (bus.Dialer{Plain: true}).Dial; name {
	case gatheringLoop:
		options = &azservicebus.ClientOptions{NewWebSocketConn: dial}
	case guardedLoop:
		options = &azservicebus.ClientOptions{NewWebSocketConn: sanitizer.New(sanitizer.Options{}).Over(dial)}
	}
	client, err := azservicebus.NewClientFromConnectionString(os.Getenv("REVOKER_SERVICEBUS_CONNECTION_STRING"), options)
	if err != nil {
		return err
	}
	receiver, err := client.NewReceiverForQueue(os.Getenv("REVOKER_SERVICEBUS_QUEUE"), nil)
	if err != nil {
		return err
	}
	work := func(context.Context, *azservicebus.ReceivedMessage) error { return nil }
	if name != bareLoop && name != gatheringLoop && name != guardedLoop {
		if work, err = callGraph(ctx, name == sdkRetries); err != nil {
			return err
		}
	}
	if name == plainBackoff {
		once := work
		work = func(ctx context.Context, m *azservicebus.ReceivedMessage) error {
			return backoff.Retry(func() error { return once(ctx, m) }, backoff.WithContext(backoff.NewExponentialBackOff(), ctx))
		}
	}
	messages := make(chan *azservicebus.ReceivedMessage)
	var workers sync.WaitGroup
	for range goroutines {
		workers.Go(func() {
			for m := range messages {
				if err := work(ctx, m); err != nil {
					_ = receiver.DeadLetterMessage(context.Background(), m, nil)
					continue
				}
				_ = receiver.CompleteMessage(context.Background(), m, nil)
			}
		})
	}
	for ctx.Err() == nil {
		// The worker waits for 1 ms, too. With the SDK's default of 20 ms, this difference would
		// decide the result.
		batch, err := receiver.ReceiveMessages(ctx, 4*goroutines,
			&azservicebus.ReceiveMessagesOptions{TimeAfterFirstMessage: time.Millisecond})
		if err != nil && ctx.Err() == nil {
			return err
		}
		for _, m := range batch {
			messages <- m
		}
	}
	close(messages)
	workers.Wait()
	return nil
}

// callGraph returns a function that calls Graph with its SDK for the user of a plain JSON event.
// retry enables the SDK's retries.
func callGraph(ctx context.Context, retry bool) (func(context.Context, *azservicebus.ReceivedMessage) error, error) {
	root := os.Getenv("REVOKER_GRAPH_ENDPOINT")
	signIn := clientcredentials.Config{
		ClientID: os.Getenv("REVOKER_GRAPH_CLIENT_ID"), ClientSecret: os.Getenv("REVOKER_GRAPH_CLIENT_SECRET"),
		TokenURL: os.Getenv("REVOKER_GRAPH_TOKEN_URL"), Scopes: []string{root + "/.default"},
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = goroutines // with the default of 2, nearly every call would dial
	// Use the SDK's own HTTP client, with or without its retries.
	middleware := slices.DeleteFunc(kiotahttp.GetDefaultMiddlewares(), func(m kiotahttp.Middleware) bool {
		_, retries := m.(*kiotahttp.RetryHandler)
		return retries && !retry
	})
	client := &http.Client{Transport: &oauth2.Transport{
		Source: signIn.TokenSource(ctx),
		Base:   kiotahttp.NewCustomTransportWithParentTransport(transport, middleware...),
	}}
	adapter, err := kiotahttp.NewNetHttpRequestAdapterWithParseNodeFactoryAndSerializationWriterFactoryAndHttpClient(
		&authentication.AnonymousAuthenticationProvider{}, // the client adds the token
		kiotajson.NewJsonParseNodeFactory(), kiotajson.NewJsonSerializationWriterFactory(), client)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, m *azservicebus.ReceivedMessage) error {
		var event struct {
			UserID string `json:"userId"`
		}
		if err := json.Unmarshal(m.Body, &event); err != nil {
			return err
		}
		answer, err := users.NewItemRevokeSignInSessionsRequestBuilder(root+"/v1.0/users/"+event.UserID+"/revokeSignInSessions", adapter).
			PostAsRevokeSignInSessionsPostResponse(ctx, nil)
		if err != nil {
			return err
		}
		if value := answer.GetValue(); value == nil || !*value {
			return errors.New("not revoked")
		}
		return nil
	}, nil
}

// isContender reports whether this program started itself as a contender, and returns the
// contender's name.
func isContender(args []string) (name string, ok bool) {
	if len(args) == 2 && args[0] == "contender" {
		return args[1], true
	}
	return "", false
}
