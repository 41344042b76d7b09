package ingest

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/secevent"
	"github.com/session-revoker/session-revoker/ingest/ssf"
)

const (
	// tokenType is the content type of a Security Event Token.
	tokenType = "application/secevent+jwt"
	// DefaultVerifyEvery is how often a heartbeat is asked for by default.
	DefaultVerifyEvery = 15 * time.Minute
	// findEvery is how often the metadata and the stream are read again.
	findEvery = time.Hour
	// silentAfter is how many heartbeats may be missing. With several replicas each one comes to any
	// of them.
	silentAfter = 3
)

// stream is one stream of a transmitter. run owns it; what requests of the transmitter touch is under
// mu.
type stream struct {
	config.IngestStream
	server *Server
	client *ssf.Client
	source *source // counts, limits, and names what comes

	// What run knows of the transmitter.
	found      time.Time // when the following was read; zero if it must be read again
	metadata   ssf.Metadata
	remote     ssf.Stream
	pollURL    string
	statusRead time.Time
	asked      time.Time // when the last heartbeat was asked for
	since      time.Time // when heartbeats began to be asked for
	weak       [3]string // what does not work while tokens come nevertheless: look, readStatus, heartbeat
	immediate  bool      // the next poll must not be held: the last one took too long
	again      int       // how many tokens of the last answer have come before
	stuck      int       // how many answers in turn brought only such tokens
	ack        []string
	refused    map[string]ssf.Refusal

	mu      sync.Mutex
	heard   time.Time // the last heartbeat or token
	pending string    // the state of the last heartbeat that was asked for
	status  string    // enabled, paused, disabled, or "" if it is not known
	came    bool      // the heartbeat that was asked for has come
	changed bool      // the transmitter says that the status has changed
	events  logLimit  // lines about events of the stream itself
}

// newStreams makes the streams. Those that the transmitter pushes to get a source. The error joins
// all problems.
func (s *Server) newStreams() ([]*stream, error) {
	names := map[string]bool{}
	for _, src := range s.sources {
		names[src.Name] = true
	}
	var list []*stream
	var problems []error
	if len(s.sources)+len(s.cfg.Streams) > MaxSources {
		problems = append(problems, fmt.Errorf("ingest.streams: %d sources and streams; at most %d are allowed",
			len(s.sources)+len(s.cfg.Streams), MaxSources))
	}
	for _, c := range s.cfg.Streams {
		st, err := s.newStream(c)
		switch {
		case err != nil:
		case names[c.Name]:
			err = errors.New("another stream or source has this name")
		case twin(list, st) != "":
			err = fmt.Errorf("stream_id: this is the same stream as %s, and each token would be published twice", twin(list, st))
		case c.Path != "" && s.sources[c.Path] != nil:
			err = fmt.Errorf("path: %s has it too", s.sources[c.Path].Name)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: stream %q: %w", c.At, c.Name, err))
			continue
		}
		names[c.Name] = true
		if c.Path != "" {
			s.sources[c.Path] = st.source
		}
		list = append(list, st)
	}
	return list, errors.Join(problems...)
}

// twin returns the name of the stream in a list that polls for the same tokens, or "".
func twin(list []*stream, st *stream) string {
	for _, other := range list {
		if st.Delivery == ssf.Poll && other.Delivery == ssf.Poll && st.Issuer == other.Issuer && st.StreamID == other.StreamID &&
			st.PollURL == other.PollURL && st.ClientID == other.ClientID && st.TokenFile == other.TokenFile {
			return other.Name
		}
	}
	return ""
}

func (s *Server) newStream(c config.IngestStream) (*stream, error) {
	c.Delivery = cmp.Or(c.Delivery, ssf.Poll)
	if err := checkStream(c); err != nil {
		return nil, err
	}
	if s.deps.Tokens == nil {
		return nil, errors.New("issuer: set events.transmitters_file: tokens are verified before they are accepted " +
			"(docs/producers/shared-signals.md)")
	}
	if _, ok := s.deps.Tokens.Find(c.Issuer); !ok {
		return nil, fmt.Errorf("issuer: %q is in no entry of events.transmitters_file, where the way to verify its tokens is", c.Issuer)
	}
	c.MaxEvents = cmp.Or(c.MaxEvents, 50)
	c.PollEvery = cmp.Or(c.PollEvery, 5*time.Second)
	c.VerifyEvery = cmp.Or(c.VerifyEvery, DefaultVerifyEvery)
	c.Rate = cmp.Or(c.Rate, 500)
	client, err := NewStreamClient(c, s.deps.Transport)
	if err != nil {
		return nil, err
	}
	st := &stream{IngestStream: c, server: s, client: client, refused: map[string]ssf.Refusal{}, pollURL: c.PollURL}
	st.source = &source{
		IngestSource: config.IngestSource{
			At: c.At, Name: c.Name, Path: c.Path, ContentType: tokenType, MaxBody: maxPushed, Timeout: s.cfg.Timeout,
			RespondBusy: http.StatusServiceUnavailable, ExpectEvery: c.ExpectEvery,
		},
		limits: newLimits(max(s.cfg.Concurrency, 1), s.cfg.AddressRate, c.Rate, 2*max(c.Rate, ssf.MaxEvents)),
	}
	if c.Delivery == ssf.Push {
		if st.source.verifier, err = st.receiver(); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// NewStreamClient returns what speaks with the transmitter of a stream.
func NewStreamClient(c config.IngestStream, transport http.RoundTripper) (*ssf.Client, error) {
	return ssf.New(ssf.Config{
		Issuer: c.Issuer, MetadataURL: c.MetadataURL, PollURL: c.PollURL, Origins: c.Origins, Transport: transport,
		Authorization: ssf.Authorization{
			TokenFile: c.TokenFile, ClientID: c.ClientID, ClientSecretFile: c.ClientSecretFile, TokenURL: c.TokenURL, Scopes: c.Scopes,
		},
	})
}

// StreamSpec returns what is wanted of a stream. The secret that the transmitter sends with a push is
// read from its file.
func StreamSpec(c config.IngestStream) (ssf.Spec, error) {
	want := ssf.Spec{Delivery: cmp.Or(c.Delivery, ssf.Poll), ID: c.StreamID, Endpoint: c.URL}
	for _, name := range c.Events {
		uri, ok := secevent.Requested(name)
		if !ok {
			return want, fmt.Errorf("events: %q is no event of CAEP or RISC; give the whole URI of others", name)
		}
		want.Events = append(want.Events, uri)
	}
	if len(want.Events) == 0 {
		want.Events = secevent.Acting()
	}
	if want.Delivery != ssf.Push {
		return want, nil
	}
	value, err := readSecret(c.SecretFile, headerValue)
	want.Authorization = value
	return want, err
}

func checkStream(c config.IngestStream) error {
	pushed := c.Delivery == ssf.Push
	between := func(d, least, most time.Duration) bool { return d == 0 || d >= least && d <= most }
	switch {
	case !nameForm().MatchString(c.Name):
		return errors.New("name: up to 32 small letters, digits, and hyphens")
	case c.Issuer == "":
		return errors.New("issuer: required")
	case c.Delivery != ssf.Push && c.Delivery != ssf.Poll:
		return errors.New("delivery: poll or push")
	case pushed && (c.Path == "" || c.SecretFile == ""):
		return errors.New("path, secret_file: required with delivery: push")
	case !pushed && (c.Path != "" || c.URL != "" || c.SecretFile != "" || c.PreviousSecretFile != ""):
		return errors.New("path, url, secret_file, previous_secret_file: have no effect without delivery: push")
	case pushed && (c.PollURL != "" || c.MaxEvents != 0 || c.PollEvery != 0):
		return errors.New("poll_url, max_events, poll_every: have no effect with delivery: push")
	case c.PollURL != "" && (c.StreamID != "" || c.MetadataURL != "" || len(c.Events) > 0):
		return errors.New("stream_id, metadata_url, events: have no effect with poll_url, which is for transmitters without an API")
	case pushed && (!pathForm().MatchString(c.Path) || len(c.Path) > 128):
		return errors.New("path: must be like /signals/okta, of letters, digits, and . _ ~ -, without a slash at the end")
	case pushed && c.URL != "" && secevent.AddressProblem(c.URL) != "":
		return fmt.Errorf("url: %s", secevent.AddressProblem(c.URL))
	case c.MaxEvents < 0 || c.MaxEvents > ssf.MaxEvents:
		return fmt.Errorf("max_events: at most %d", ssf.MaxEvents)
	case !between(c.PollEvery, time.Second, 5*time.Minute):
		return errors.New("poll_every: from 1s to 5m")
	case !between(c.VerifyEvery, time.Minute, 24*time.Hour):
		return errors.New("verify_every: from 1m to 24h")
	case c.ExpectEvery < 0 || c.ExpectEvery > maxExpect:
		return errors.New("expect_every: at most 168h: the alert looks back eight days")
	case c.Rate < 0 || c.Rate > 100_000:
		return errors.New("rate: up to 100000")
	}
	for _, name := range c.Events {
		if _, ok := secevent.Requested(name); !ok {
			return fmt.Errorf("events: %q is no event of CAEP or RISC; give the whole URI of others", name)
		}
	}
	return nil
}

// part is the name of the stream in the health.
func (st *stream) part() string { return "stream " + st.Name }

// show makes the metrics have all of the stream before it is heard.
func (st *stream) show() {
	st.source.show(st.server.deps.Metrics)
	st.server.deps.Metrics.StreamWorking.WithLabelValues(st.Name).Set(0)
}

// report tells health, log, and metrics whether the stream works. The problem must be the same text
// as long as it is the same problem.
func (st *stream) report(problem string) {
	deps := st.server.deps
	working := 1.0
	if problem != "" {
		working = 0
	}
	deps.Metrics.StreamWorking.WithLabelValues(st.Name).Set(working)
	if !deps.Health.Warn(st.part(), problem) {
		return
	}
	if problem == "" {
		deps.Log.Info("the stream works again", zap.String("source", st.Name))
		return
	}
	deps.Log.Error("the stream does not work: "+problem, zap.String("source", st.Name))
}

// hasAPI reports whether the transmitter's API for streams is used. Without a poll endpoint there, a
// stream cannot be polled. One that is pushed to needs nothing but the address here.
func (st *stream) hasAPI() bool {
	return st.PollURL == "" && (st.Delivery == ssf.Poll || st.TokenFile != "" || st.ClientID != "")
}

// find reads the metadata and the stream, unless that was done lately. If it was done before, a
// transmitter that cannot be reached is no reason not to poll.
func (st *stream) find(ctx context.Context) error {
	if !st.hasAPI() || time.Since(st.found) < findEvery {
		return nil
	}
	err := st.look(ctx)
	if err != nil && !st.found.IsZero() && temporary(err) {
		st.weak[0] = err.Error()
		st.found = time.Now().Add(-findEvery + longestPause)
		return nil
	}
	return err
}

// temporary reports whether an error says nothing about the settings here and there.
func temporary(err error) bool {
	if refused, ok := errors.AsType[*ssf.Error](err); ok {
		return refused.Status >= 500 || refused.Status == http.StatusTooManyRequests
	}
	_, unreachable := errors.AsType[net.Error](err)
	return unreachable || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ssf.ErrNotJSON)
}

// look reads the metadata and the stream.
func (st *stream) look(ctx context.Context) error {
	metadata, err := st.client.Discover(ctx)
	if err != nil {
		return err
	}
	// The secret of a push is not needed to find the stream.
	want := ssf.Spec{Delivery: st.Delivery, ID: st.StreamID, Endpoint: st.URL}
	remote, err := st.client.Find(ctx, metadata, want)
	if errors.Is(err, ssf.ErrNoStream) {
		return fmt.Errorf("%w: run worker ssf create %s", err, st.Name)
	}
	if err != nil {
		return err
	}
	deps := st.server.deps
	if err := Audience(deps.Tokens, remote, st.Issuer); err != nil {
		return err
	}
	st.metadata, st.remote = metadata, remote
	if st.ExpectEvery == 0 && metadata.Verification != "" {
		deps.Metrics.Expected.WithLabelValues(st.Name).Set((silentAfter * remote.VerifyEvery(st.VerifyEvery)).Seconds())
	}
	if st.found.IsZero() {
		deps.Log.Info("the stream is found", zap.String("source", st.Name), zap.String("delivery", st.Delivery),
			zap.String("metadata", st.metadata.Found), zap.Bool("heartbeats", st.metadata.Verification != ""))
	}
	st.pollURL, st.found, st.statusRead, st.weak[0] = st.remote.Delivery.Endpoint, time.Now(), time.Time{}, ""
	return nil
}

// Audience returns an error if the tokens of a stream are for others. Each would be refused, and so
// be lost for good.
func Audience(tokens Tokens, s ssf.Stream, issuer string) error {
	t, ok := tokens.Find(issuer)
	if !ok || len(s.Audience) == 0 || slices.ContainsFunc(s.Audience, func(aud string) bool { return slices.Contains(t.Audience, aud) }) {
		return nil
	}
	const most, longest = 3, 128
	var shown []string
	for _, aud := range s.Audience[:min(len(s.Audience), most)] {
		shown = append(shown, aud[:min(len(aud), longest)])
	}
	return fmt.Errorf("the stream is for %q, which is not in the audience of %s in events.transmitters_file: add it there", shown, t.Name)
}

// readStatus reads the status of the stream if the transmitter tells it, and if that is due.
func (st *stream) readStatus(ctx context.Context) {
	st.mu.Lock()
	every := findEvery
	switch {
	case st.changed:
		every = pushEvery
	case st.status == ssf.Paused || st.status == ssf.Disabled:
		every = longestPause
	}
	st.mu.Unlock()
	if st.metadata.Status == "" || st.remote.ID == "" || time.Since(st.statusRead) < every {
		return
	}
	st.statusRead = time.Now()
	answer, err := st.client.Status(ctx, st.metadata, st.remote.ID)
	if st.weak[1] = ""; err != nil {
		st.weak[1] = err.Error()
		st.statusRead = time.Now().Add(-every + longestPause)
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.changed = false
	if slices.Contains([]string{ssf.Enabled, ssf.Paused, ssf.Disabled}, answer.Status) && answer.Status != st.status {
		st.server.deps.Log.Info("the status of the stream", zap.String("source", st.Name), zap.String("status", answer.Status),
			zap.String("before", cmp.Or(st.status, "not known")))
		st.status = answer.Status
	}
}

// heartbeat asks for a verification event if it is time.
func (st *stream) heartbeat(ctx context.Context) {
	now, every := time.Now(), st.remote.VerifyEvery(st.VerifyEvery)
	if st.metadata.Verification == "" || st.remote.ID == "" || !st.asked.IsZero() && now.Sub(st.asked) < every {
		return
	}
	st.asked = now
	if st.since.IsZero() {
		st.since = now
	}
	state := rand.Text()
	st.mu.Lock()
	st.pending = state
	st.mu.Unlock()
	err := st.client.Verify(ctx, st.metadata, st.remote.ID, state)
	st.weak[2] = ""
	if limited, ok := errors.AsType[*ssf.Error](err); ok && limited.Status == http.StatusTooManyRequests {
		return // somebody else has asked; what comes is a heartbeat, too
	}
	if err != nil {
		st.weak[2] = err.Error()
		st.asked = now.Add(-every + min(every, longestPause))
	}
}

// trouble returns what is wrong with a stream whose transmitter answers, or "".
func (st *stream) trouble() string {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.status == ssf.Disabled:
		return "the transmitter has disabled it, and its events are lost: worker ssf status --set enabled " + st.Name
	case st.status == ssf.Paused:
		return "the transmitter has paused it: worker ssf status --set enabled " + st.Name
	case cmp.Or(st.weak[:]...) != "":
		return cmp.Or(st.weak[:]...)
	case st.since.IsZero():
		return ""
	}
	last := st.since
	if st.heard.After(last) {
		last = st.heard
	}
	if time.Since(last) > silentAfter*st.remote.VerifyEvery(st.VerifyEvery) {
		return "the transmitter accepts requests for verification events, and sends none: events may not come either"
	}
	return ""
}

// note takes note of a verified token, and reports whether it is about the stream itself: then it
// does not belong on the queue.
func (st *stream) note(token secevent.Signal) (own bool) {
	deps := st.server.deps
	st.mu.Lock()
	defer st.mu.Unlock()
	e := token.Stream
	if e == nil {
		st.heard = time.Now()
		return false
	}
	skipped, mayLog := st.events.allow(time.Now())
	fields := []zap.Field{zap.String("source", st.Name), zap.Int("notLogged", skipped)}
	if !e.Verification {
		st.changed = true
		if e.Status != "" {
			st.status = e.Status
		}
		if mayLog {
			deps.Log.Warn("the transmitter says that the status of the stream has changed",
				append(fields, zap.String("status", cmp.Or(e.Status, "not said")))...)
		}
		return true
	}
	st.heard = time.Now()
	deps.Metrics.LastAccepted.WithLabelValues(st.Name).SetToCurrentTime()
	state := "another one" // another replica, worker ssf verify, or the process before this one has asked
	switch e.State {
	case "":
		state = "none"
	case st.pending:
		state, st.pending, st.came = "as asked for", "", true
	}
	if mayLog {
		deps.Log.Info("heartbeat of the stream", append(fields, zap.String("state", state))...)
	}
	return true
}

// verify verifies a token of this stream.
func (st *stream) verify(body []byte) (secevent.Signal, *event.Error) {
	token, refused := st.server.deps.Tokens.Verify(body)
	if refused == nil && token.Issuer != st.Issuer {
		refused = &event.Error{Kind: event.Invalid, Field: "iss", Problem: "not the issuer of this stream"}
	}
	return token, refused
}

// eventID returns the same ID for the same token, and another one for every other: with the jti alone,
// a token could suppress another one where Service Bus detects duplicates.
func eventID(token secevent.Signal) string {
	return "set-" + base64.RawURLEncoding.EncodeToString(token.Claims[:])
}

// keyOf returns the key by which a token is remembered.
func keyOf(eventID string) [32]byte { return sha256.Sum256([]byte(eventID)) }

// resultOf classifies a refused token.
func resultOf(refused *event.Error) result {
	switch secevent.ErrorCode(refused) {
	case "invalid_request":
		return malformed
	default:
		return unauthenticated
	}
}
