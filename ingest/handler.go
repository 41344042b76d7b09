package ingest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/event"
)

// bodyTime bounds reading a body: a sender has it ready when it calls. With the largest body, that
// is a minimum of 48 KB per second.
const bodyTime = 5 * time.Second

// ServeHTTP answers one request. It writes success only when Service Bus has the message.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	src, key := s.route(r.URL)
	in := &incoming{Request: r, source: src, key: key, now: began}
	in.address, in.proxied = s.sender(r)
	var a *answer
	defer func() {
		if recover() != nil {
			// The library's own recovery would print a stack and break the connection: for some
			// senders, the event would be lost.
			a = &answer{status: http.StatusServiceUnavailable, result: busy, text: "a defect of session-revoker\n"}
			if src != nil {
				a.status = src.RespondBusy
			}
			s.deps.Log.Error("a defect of session-revoker: report it with this line", zap.Stack("stack"), zap.String("source", s.name(src)))
		}
		// net/http hides whether a chunked request has a length as well. A gateway that goes by the length
		// sees another end of the request, so what follows on the connection may be a stranger's
		// (RFC 9112 §6.1: the connection must be closed).
		if r.ProtoMajor == 1 && (s.stopping.Load() || len(r.TransferEncoding) > 0) {
			w.Header().Set("Connection", "close")
		}
		a.write(w)
		s.count(in, a)
	}()
	if src == nil {
		a = refuse(http.StatusNotFound, notFound, "there is no source at this path: compare the URL with ingest.sources")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), src.Timeout)
	defer cancel()
	a = s.receive(ctx, in, http.NewResponseController(w), w)
}

// route returns the source of a path, and the secret in the path if it has one. A path is taken as it
// is written: a gateway that lets some paths through has not seen a slash in %2F.
func (s *Server) route(u *url.URL) (src *source, key string) {
	path := u.Path
	if u.RawPath != "" {
		return nil, ""
	}
	if src := s.sources[path]; src != nil {
		return src, ""
	}
	if at := strings.LastIndexByte(path, '/'); at > 0 {
		if src := s.sources[path[:at]]; src != nil && src.keyInPath {
			return src, path[at+1:]
		}
	}
	return nil, ""
}

// receive decides about one request: first by its header, then by its body.
func (s *Server) receive(ctx context.Context, in *incoming, control *http.ResponseController, w http.ResponseWriter) *answer {
	src := in.source
	if in.Method != http.MethodPost && !slices.Contains(src.methods, in.Method) {
		return refuse(http.StatusMethodNotAllowed, wrongMethod, "this method is not allowed here", "Allow", src.allow())
	}
	leave := src.limits.enter(in.address, in.now)
	if leave == nil {
		return src.busy(limited, "too many requests from this address: come again")
	}
	defer leave()
	release := src.limits.acquire(ctx, in.address)
	if release == nil {
		return s.late(in, "too many requests of this source: come again")
	}
	defer release()
	if src.before != nil {
		if a := src.before(ctx, in); a != nil {
			return a
		}
	}
	if a := readBody(in, control, w); a != nil {
		return a
	}
	var proof delivery
	if src.after != nil {
		var a *answer
		if proof, a = src.after(in); a != nil {
			return a
		}
	}
	src.limits.know(in.address, in.now)
	contentType, a := src.contentType(in)
	if a != nil {
		return a
	}
	if len(in.body) == 0 {
		return refuse(http.StatusBadRequest, malformed, "the body is empty")
	}
	key := sha256.Sum256([]byte(proof.once + "\x00" + string(in.body)))
	if in.eventID != "" { // with the body, white space around a token would make it another one
		key = keyOf(in.eventID)
	}
	if proof.once != "" && src.seen.has(key) {
		// The sender repeats itself, or somebody else repeats the sender. The message is on the
		// queue, so both may know that all is well.
		return src.accepted(repeated)
	}
	if !src.limits.events.AllowN(in.now, 1) {
		return src.busy(limited, "too many events of this source: come again")
	}
	a = s.accept(ctx, in, contentType)
	if a.result == accepted && proof.once != "" {
		src.seen.add(key)
	}
	return a
}

// late is the answer to a request that did not get its turn.
func (s *Server) late(in *incoming, text string) *answer {
	why := busy
	if in.Context().Err() != nil {
		why = gone // nobody reads the answer, but the default one would be a success
	}
	return in.source.busy(why, text)
}

// accept puts an event on the queue.
func (s *Server) accept(ctx context.Context, in *incoming, contentType string) *answer {
	m := s.message(in, contentType)
	if s.cfg.Validate {
		if a := s.validate(in, m); a != nil {
			return a
		}
	}
	span := s.beginSpan(in, m)
	err := s.publisher.publish(ctx, m)
	endSpan(span, err)
	switch {
	case err == nil:
		return in.source.accepted(accepted)
	case errors.Is(err, azservicebus.ErrMessageTooLarge):
		return refuse(http.StatusRequestEntityTooLarge, tooLarge, "the event is larger than the queue accepts")
	}
	return s.late(in, "the event cannot be put on the queue now: come again")
}

// validate refuses a message that no form of event and no mapping understands. What is understood
// and will not be acted on is put on the queue: the worker decides, and records it.
func (s *Server) validate(in *incoming, m *azservicebus.AMQPAnnotatedMessage) *answer {
	items, err := s.deps.Decoder.Decode(event.Message{
		ContentType: *m.Properties.ContentType, Properties: m.ApplicationProperties, Body: in.body,
	})
	var problem *event.Error
	for _, item := range items {
		if !errors.As(item.Err, &problem) || problem.Kind != event.Invalid && problem.Kind != event.UnknownType {
			return nil
		}
	}
	if len(items) == 0 && (!errors.As(err, &problem) || problem.Kind != event.Invalid && problem.Kind != event.UnknownType) {
		return nil
	}
	a := refuse(http.StatusUnprocessableEntity, notUnderstood, "the event is not understood: "+problem.Error())
	a.logged = "the event is not understood, by its field " + problem.Field
	return a
}

// readBody reads the body within its bounds.
func readBody(in *incoming, control *http.ResponseController, w http.ResponseWriter) *answer {
	if slices.ContainsFunc(in.Header.Values("Content-Encoding"), func(encoding string) bool {
		return encoding != "" && !strings.EqualFold(encoding, "identity")
	}) {
		// A signature is over what was sent, and what is on the queue should be that.
		return refuse(http.StatusUnsupportedMediaType, unsupported, "a compressed body is not accepted: send it as it is",
			"Accept-Encoding", "identity")
	}
	size := in.source.MaxBody
	if in.ContentLength > int64(size) {
		return refuse(http.StatusRequestEntityTooLarge, tooLarge, "the body is too large", "Connection", "close")
	}
	// Only a connection has deadlines; a request of a test has none.
	_ = control.SetReadDeadline(time.Now().Add(min(bodyTime, in.source.Timeout)))
	body, err := io.ReadAll(http.MaxBytesReader(w, in.Body, int64(size)))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return refuse(http.StatusRequestEntityTooLarge, tooLarge, "the body is too large", "Connection", "close")
	}
	if err != nil {
		a := in.source.busy(gone, "the body did not arrive in time")
		a.header = append(a.header, "Connection", "close")
		return a
	}
	// A deadline that passes later would look as if the sender had gone. Without the whole body it
	// stays, since net/http reads the rest of a body before it closes a connection.
	_ = control.SetReadDeadline(time.Time{})
	in.body = body
	return nil
}

// sender returns the address of the sender. proxied reports whether a trusted proxy says so: of the
// addresses in X-Forwarded-For, the last one that is not a trusted proxy's counts, since anybody can
// put others before it.
func (s *Server) sender(r *http.Request) (address netip.Addr, proxied bool) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	address = peer.Addr().Unmap()
	if !s.trusts(address) {
		return address, false
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && i >= len(hops)-maxHops; i-- {
		hop, ok := readHop(strings.TrimSpace(hops[i]))
		if !ok {
			break
		}
		if address = hop.Unmap().WithZone(""); !s.trusts(address) {
			break
		}
	}
	return address, true
}

// readHop reads an address in X-Forwarded-For. Some gateways add the port.
func readHop(text string) (netip.Addr, bool) {
	if address, err := netip.ParseAddr(text); err == nil {
		return address, true
	}
	address, err := netip.ParseAddrPort(text)
	return address.Addr(), err == nil
}

// maxHops bounds how many addresses in X-Forwarded-For are looked at.
const maxHops = 16

func (s *Server) trusts(address netip.Addr) bool {
	for _, p := range s.proxies {
		if p.Contains(address) {
			return true
		}
	}
	return false
}

func (s *Server) name(src *source) string {
	if src == nil {
		return ""
	}
	return src.Name
}

// count counts an answer, and writes the log line about it. A line holds nothing that a stranger
// sends but their address.
func (s *Server) count(in *incoming, a *answer) {
	name, limit := "", &s.nowhere
	if in.source != nil {
		name, limit = in.source.Name, &in.source.logs
	}
	s.deps.Metrics.Requests.WithLabelValues(name, string(a.result)).Inc()
	if a.result == accepted {
		s.deps.Metrics.LastAccepted.WithLabelValues(name).SetToCurrentTime()
	}
	fields := func() []zap.Field {
		return []zap.Field{
			zap.String("source", name), zap.String("result", string(a.result)), zap.Int("status", a.status),
			zap.Stringer("address", in.address), zap.Duration("duration", time.Since(in.now)),
		}
	}
	switch a.result {
	case accepted, repeated:
		if line := s.deps.Log.Check(zap.DebugLevel, "event accepted"); line != nil {
			line.Write(append(fields(), zap.Int("bytes", len(in.body)))...)
		}
	default:
		// Strangers may cause these lines.
		skipped, ok := limit.allow(time.Now())
		switch {
		case !ok:
		case a.result == handshake:
			s.deps.Log.Info("handshake answered", append(fields(), zap.Int("notLogged", skipped))...)
		default:
			s.deps.Log.Warn("request refused: "+strings.TrimSpace(cmp.Or(a.logged, a.text)),
				append(fields(), zap.Int("notLogged", skipped))...)
		}
	}
}
