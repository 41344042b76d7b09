// Package ingest receives webhooks and shared signals: it knows each sender by its own contract, puts
// the body on the queue unchanged, and answers or acknowledges only when Service Bus has the message.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/secevent"
	"github.com/session-revoker/session-revoker/telemetry"
)

// Config says what is received and where it goes.
type Config struct {
	config.Ingest
	// Entity is the queue or topic that the Sender sends to. It is only shown.
	Entity string
	// Authority is the sign-in authority of the cloud, with a slash at the end. Entra tokens are
	// checked with its keys.
	Authority string
	// Sessions means that the entity requires sessions. Each message then has a session of its own:
	// events need no order among them, and a message that waits must not hold up others.
	Sessions bool
}

// Sender is the part of *azservicebus.Sender that the Server uses, one call at a time or, after
// Service Bus refused a batch, several.
type Sender interface {
	SendAMQPAnnotatedMessage(ctx context.Context, message *azservicebus.AMQPAnnotatedMessage,
		options *azservicebus.SendAMQPAnnotatedMessageOptions) error
	NewMessageBatch(ctx context.Context, options *azservicebus.MessageBatchOptions) (*azservicebus.MessageBatch, error)
	SendMessageBatch(ctx context.Context, batch *azservicebus.MessageBatch, options *azservicebus.SendMessageBatchOptions) error
}

// Decoder decodes messages, for Config.Validate. It must be safe for concurrent use.
type Decoder interface {
	// Decode returns the events of a message in order, or an *event.Error if it cannot decode the
	// message as a whole.
	Decode(message event.Message) ([]event.Item, error)
}

// Tokens verifies Security Event Tokens: a *secevent.Verifier. It must be safe for concurrent use.
type Tokens interface {
	Verify(body []byte) (secevent.Signal, *event.Error)
	Find(issuer string) (secevent.Transmitter, bool)
}

// Dependencies are what the Server works with.
type Dependencies struct {
	Sender  Sender
	Log     *zap.Logger
	Metrics *telemetry.IngestMetrics
	// Health gets heartbeats, and problems of the part BusPart.
	Health *telemetry.Health
	// Tracer makes the spans. It may be nil.
	Tracer trace.Tracer
	// Tokens is needed with Config.Streams only.
	Tokens Tokens
	// Transport reaches the sign-in authority and the transmitters. nil means http.DefaultTransport.
	Transport http.RoundTripper
	// Decoder decides what is understood. It is needed with Config.Validate only.
	Decoder Decoder
}

// BusPart is the part of the health that is Service Bus.
const BusPart = "Service Bus"

// MaxSources is the maximum number of sources.
const MaxSources = 64

// Server is an http.Handler for all sources. It is safe for concurrent use.
type Server struct {
	cfg       Config
	deps      Dependencies
	proxies   []netip.Prefix
	sources   map[string]*source // by path
	streams   []*stream          // in the order of the settings
	publisher *publisher
	nowhere   logLimit     // refused requests that reach no source
	stopping  atomic.Bool  // no new connection is kept
	certs     *certificate // nil without TLS
}

// New returns a Server for valid settings. It reads the files with secrets. The error joins the
// problems of all sources. Run must be called for the Server to answer.
func New(cfg Config, deps Dependencies) (*Server, error) {
	s := &Server{cfg: cfg, deps: deps}
	var err error
	if s.proxies, err = cfg.Proxies(); err != nil {
		return nil, fmt.Errorf("ingest.trusted_proxies: %w", err)
	}
	if len(cfg.Sources)+len(cfg.Streams) == 0 {
		return nil, errors.New("ingest.sources: empty, and so is ingest.streams: list the senders in the configuration file " +
			"(docs/ingest.md, docs/shared-signals.md)")
	}
	if s.sources, err = newSources(cfg, deps.Transport); err != nil {
		return nil, err
	}
	if s.streams, err = s.newStreams(); err != nil {
		return nil, err
	}
	// Its own for each, so that no source makes the ingest forget what another one has sent.
	all := slices.Collect(maps.Values(s.sources))
	for _, st := range s.streams {
		if st.Path == "" { // the others are among the sources
			all = append(all, st.source)
		}
	}
	for _, src := range all {
		src.seen = newMemory(max(1, maxSeen/len(all)))
	}
	if cfg.TLSCertFile != "" {
		if s.certs, err = newCertificate(cfg.TLSCertFile, cfg.TLSKeyFile); err != nil {
			return nil, fmt.Errorf("ingest.tls_cert_file: %w", err)
		}
	}
	if cfg.Validate && deps.Decoder == nil {
		return nil, errors.New("ingest.validate: there is no decoder")
	}
	s.publisher = newPublisher(deps, cfg.Sessions)
	if deps.Metrics != nil {
		for _, src := range s.sources {
			src.show(deps.Metrics)
		}
		for _, st := range s.streams {
			st.show()
		}
	}
	return s, nil
}

// Listens reports whether anything is received by HTTP. Without, Run needs no listener.
func (s *Server) Listens() bool { return len(s.sources) > 0 }

// Check returns the problems of the sources and streams: settings that do not fit, and secrets that
// cannot be read. It contacts nobody. tokens may be nil if there are no streams.
func Check(cfg config.Ingest, tokens Tokens) error {
	s := &Server{
		cfg:  Config{Ingest: cfg, Authority: "https://login.microsoftonline.com/"},
		deps: Dependencies{Tokens: tokens},
	}
	var err error
	if s.sources, err = newSources(s.cfg, nil); err != nil {
		return err
	}
	_, err = s.newStreams()
	return err
}

// sendTimeout bounds one send. It is shorter than what most senders wait, so that requests that came
// while Service Bus was away are sent once more before their senders give up.
const sendTimeout = 5 * time.Second
