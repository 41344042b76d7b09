package servicebus_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// raw is a client that sends and reads single frames.
type raw struct {
	t      testing.TB
	conn   net.Conn
	frames *amqp.FrameReader
	opened *amqp.Open // the broker's
}

// dial connects and opens the connection. The test does everything after that.
func dial(t testing.TB, addr string) *raw {
	t.Helper()
	r := connect(t, addr)
	if outcome := r.signIn("ANONYMOUS", ""); outcome != 0 {
		t.Fatalf("outcome %d", outcome)
	}
	r.open(65536)
	return r
}

// connect connects, and does nothing else.
func connect(t testing.TB, addr string) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	return newRaw(t, conn)
}

func newRaw(t testing.TB, conn net.Conn) *raw {
	return &raw{t: t, conn: conn, frames: amqp.NewFrameReader(conn, 1<<20)}
}

// signIn does SASL and returns the code of its outcome.
func (r *raw) signIn(mechanism amqp.Symbol, response string) uint8 {
	r.t.Helper()
	r.bytes(amqp.HeaderSASL[:])
	r.header(amqp.HeaderSASL)
	wait[*amqp.SASLMechanisms](r)
	r.frame(amqp.TypeSASL, 0, &amqp.SASLInit{Mechanism: mechanism, Response: []byte(response)})
	return wait[*amqp.SASLOutcome](r).Code
}

// open opens the connection for frames of at most maxFrame bytes.
func (r *raw) open(maxFrame uint32) {
	r.t.Helper()
	r.bytes(amqp.HeaderAMQP[:])
	r.header(amqp.HeaderAMQP)
	r.put(0, &amqp.Open{ContainerID: "raw", MaxFrameSize: maxFrame})
	r.opened = wait[*amqp.Open](r)
}

func (r *raw) bytes(b []byte) {
	_, err := r.conn.Write(b)
	must(r.t, err)
}

func (r *raw) header(want [8]byte) {
	r.t.Helper()
	got, err := r.frames.ReadProtocolHeader()
	must(r.t, err)
	if got != want {
		r.t.Fatalf("header %x, want %x", got, want)
	}
}

func (r *raw) frame(kind uint8, channel uint16, p amqp.Performative, payload ...[]byte) {
	r.t.Helper()
	b, err := amqp.AppendFrame(nil, kind, channel, p, payload...)
	must(r.t, err)
	r.bytes(b)
}

func (r *raw) put(channel uint16, p amqp.Performative, payload ...[]byte) {
	r.t.Helper()
	r.frame(amqp.TypeAMQP, channel, p, payload...)
}

// next returns the next performative and its payload.
func (r *raw) next() (amqp.Performative, []byte) {
	r.t.Helper()
	for {
		frame, err := r.frames.ReadFrame()
		must(r.t, err)
		if len(frame.Body) == 0 {
			continue
		}
		p, payload, err := amqp.ReadPerformative(frame.Body)
		must(r.t, err)
		return p, payload
	}
}

// wait returns the next performative of a type. It fails if the connection ends before.
func wait[P amqp.Performative](r *raw) P {
	r.t.Helper()
	for {
		if p, _ := r.next(); p != nil {
			if wanted, ok := p.(P); ok {
				return wanted
			}
		}
	}
}

func (r *raw) begin(channel uint16) {
	r.t.Helper()
	r.put(channel, &amqp.Begin{IncomingWindow: 5000, OutgoingWindow: 5000, HandleMax: 1000})
	wait[*amqp.Begin](r)
}

// authorize presents a token for an entity over $cbs on channel 0.
func (r *raw) authorize(addr, entity string) {
	r.t.Helper()
	r.begin(0)
	r.presentToken("amqp://" + addr + "/" + entity)
}

// presentToken presents a token over $cbs on channel 0, and fails unless it is accepted.
func (r *raw) presentToken(audience string) {
	t := r.t
	t.Helper()
	r.put(0, &amqp.Attach{Name: "cbs-out", Handle: 0, Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: "$cbs"}})
	wait[*amqp.Flow](r)
	r.put(0, &amqp.Attach{
		Name: "cbs-in", Handle: 1, Role: amqp.RoleReceiver, Source: &amqp.Source{Address: "$cbs"}, Target: &amqp.Target{Address: "me"},
	})
	wait[*amqp.Attach](r)
	credit := uint32(10)
	handle := uint32(1)
	r.put(0, &amqp.Flow{
		NextIncomingID: new(uint32), IncomingWindow: 5000, OutgoingWindow: 5000, Handle: &handle, DeliveryCount: new(uint32),
		LinkCredit: &credit,
	})
	message, err := amqp.Properties{MessageID: "1", ReplyTo: "me"}.Append(nil)
	must(r.t, err)
	message, err = amqp.AppendMapSection(message, amqp.SectionApplicationProperties, amqp.Map{
		{Key: "operation", Value: "put-token"}, {Key: "type", Value: "servicebus.windows.net:sastoken"}, {Key: "name", Value: audience},
	})
	must(r.t, err)
	message, err = amqp.AppendAMQPValue(message, sign(audience, time.Now().Add(time.Hour)))
	must(r.t, err)
	r.put(0, &amqp.Transfer{DeliveryID: new(uint32), DeliveryTag: []byte{1}, MessageFormat: new(uint32), Settled: true}, message)
	for {
		p, payload := r.next()
		if _, answer := p.(*amqp.Transfer); !answer {
			continue
		}
		if !bytes.Contains(payload, []byte("Accepted")) {
			t.Errorf("the token for %s: %q", audience, payload)
		}
		break
	}
	r.put(0, &amqp.Detach{Handle: 0, Closed: true})
	r.put(0, &amqp.Detach{Handle: 1, Closed: true})
	wait[*amqp.Detach](r)
	wait[*amqp.Detach](r)
}

// sign returns a SAS token with the default key.
func sign(audience string, until time.Time) string {
	resource, expiry := strings.ToLower(url.QueryEscape(audience)), fmt.Sprint(until.Unix())
	mac := hmac.New(sha256.New, []byte(servicebus.DefaultKey.Value))
	mac.Write([]byte(resource + "\n" + expiry))
	return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%s&skn=%s", resource,
		url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))), expiry, servicebus.DefaultKey.Name)
}

// sender attaches a sender and waits for its credit.
func (r *raw) sender(channel uint16, handle uint32, address string) {
	r.t.Helper()
	r.put(channel, &amqp.Attach{
		Name: fmt.Sprint("out-", handle), Handle: handle, Role: amqp.RoleSender, Source: &amqp.Source{},
		Target: &amqp.Target{Address: address},
	})
	wait[*amqp.Flow](r)
}

// receiver attaches a receiver and returns the broker's answer.
func (r *raw) receiver(channel uint16, handle uint32, source *amqp.Source) *amqp.Attach {
	r.t.Helper()
	r.put(channel, &amqp.Attach{
		Name: fmt.Sprint("in-", handle), Handle: handle, Role: amqp.RoleReceiver, Source: source,
		Target: &amqp.Target{Address: fmt.Sprint("to-", handle)},
	})
	return wait[*amqp.Attach](r)
}

// credit grants credit in a window of 5,000 frames.
func (r *raw) credit(channel uint16, handle, n uint32) {
	r.t.Helper()
	r.put(channel, &amqp.Flow{
		NextIncomingID: new(uint32), IncomingWindow: 5000, OutgoingWindow: 5000, Handle: &handle, DeliveryCount: new(uint32),
		LinkCredit: &n,
	})
}

// send sends a message in one frame and returns the state with which the broker settles it.
func (r *raw) send(channel uint16, handle, id uint32, message []byte) amqp.DeliveryState {
	r.t.Helper()
	r.put(channel, &amqp.Transfer{Handle: handle, DeliveryID: &id, DeliveryTag: []byte{1}, MessageFormat: new(uint32)}, message)
	return wait[*amqp.Disposition](r).State
}

// data is a message with a body of n bytes.
func data(n int) []byte { return amqp.AppendData(nil, make([]byte, n)) }

// peekOne is a request to $management whose answer goes to the address.
func peekOne(t testing.TB, replyTo string, padding int) []byte {
	t.Helper()
	message, err := amqp.Properties{MessageID: "1", ReplyTo: replyTo}.Append(nil)
	must(t, err)
	message, err = amqp.AppendMapSection(message, amqp.SectionApplicationProperties, amqp.Map{
		{Key: "operation", Value: "com.microsoft:peek-message"},
	})
	must(t, err)
	message, err = amqp.AppendAMQPValue(message, amqp.Map{
		{Key: "from-sequence-number", Value: int64(0)},
		{Key: "message-count", Value: int32(1)},
		{Key: "padding", Value: strings.Repeat("x", padding)},
	})
	must(t, err)
	return message
}

// sendInFrames sends a message in frames that all carry the delivery-id, as rhea and Proton do.
func (r *raw) sendInFrames(channel uint16, handle, id uint32, message []byte, size int) {
	r.t.Helper()
	for len(message) > 0 {
		part := message[:min(size, len(message))]
		message = message[len(part):]
		r.put(channel, &amqp.Transfer{
			Handle: handle, DeliveryID: &id, DeliveryTag: []byte{1}, MessageFormat: new(uint32), More: len(message) > 0,
		}, part)
	}
}
