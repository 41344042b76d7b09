package ingest

import (
	"net/http"
	"strconv"
)

// result classifies answers, for the metrics and the log.
type result string

const (
	accepted        result = "accepted"  // Service Bus has the message
	repeated        result = "repeated"  // a replay or repeat of a signed request; the message is there already
	handshake       result = "handshake" // a sender's test, without an event
	unauthenticated result = "unauthenticated"
	malformed       result = "malformed"
	notUnderstood   result = "not_understood"
	tooLarge        result = "too_large"
	unsupported     result = "unsupported"
	limited         result = "limited" // too many requests
	busy            result = "busy"    // not on the queue, by our own trouble
	gone            result = "gone"    // the sender did not wait
	notFound        result = "not_found"
	wrongMethod     result = "wrong_method"
)

var results = []result{
	accepted, repeated, handshake, unauthenticated, malformed, notUnderstood, tooLarge, unsupported, limited, busy, gone, wrongMethod,
}

// answer is what a sender gets. The text tells an integrator what is wrong. It must not differ for
// an unknown user and a wrong password, and must not hold what a stranger has sent.
type answer struct {
	status      int
	result      result
	text        string
	logged      string // instead of text, which may hold what the sender itself has sent
	contentType string // of text; plain text if empty
	header      []string
}

// refuse returns an answer that refuses a request. header has names and values in turn.
func refuse(status int, why result, text string, header ...string) *answer {
	return &answer{status: status, result: why, text: text + "\n", header: header}
}

// forbidden refuses a request whose sender is not known by a scheme of HTTP authentication.
func forbidden(text string) *answer { return refuse(http.StatusForbidden, unauthenticated, text) }

// retryAfter is the Retry-After of answers that ask to come again, in seconds.
const retryAfter = "2"

// later asks the sender to come again, with the status after which it does.
func later(status int, why result, text string) *answer {
	return refuse(status, why, text, "Retry-After", retryAfter)
}

func (a *answer) write(w http.ResponseWriter) {
	h := w.Header()
	for i := 0; i+1 < len(a.header); i += 2 {
		h.Set(a.header[i], a.header[i+1])
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if a.text != "" {
		contentType := a.contentType
		if contentType == "" {
			contentType = "text/plain; charset=utf-8"
		}
		h.Set("Content-Type", contentType)
	}
	h.Set("Content-Length", strconv.Itoa(len(a.text)))
	w.WriteHeader(a.status)
	_, _ = w.Write([]byte(a.text))
}
