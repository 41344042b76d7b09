package ssf

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/tidwall/gjson"
)

const (
	// MaxEvents is the maximum number of tokens in one answer to a poll, whatever the transmitter
	// sends: further ones come again.
	MaxEvents = 100
	// maxAnswer bounds an answer to a poll, in bytes. It has room for MaxEvents tokens of the largest
	// size (64 KiB), and for some white space.
	maxAnswer = 7 << 20
	// PollTimeout bounds a poll, with its answer. A transmitter that has nothing to send holds the
	// poll for about half a minute.
	PollTimeout = 90 * time.Second
	// maxKey bounds the name of a token in an answer, in bytes. It is the token's ID.
	maxKey = 512
)

// Request is a poll (RFC 8936, section 2.2).
type Request struct {
	// MaxEvents is the maximum number of tokens to answer with. 0 only acknowledges.
	MaxEvents int `json:"maxEvents"`
	// Immediately asks the transmitter not to hold the poll while it has nothing to send.
	Immediately bool `json:"returnImmediately"`
	// Ack are the IDs of tokens that need not come again.
	Ack []string `json:"ack,omitempty"`
	// Refused says why tokens are not accepted, by ID. They do not come again either.
	Refused map[string]Refusal `json:"setErrs,omitempty"`
}

// Refusal says why a token is not accepted.
type Refusal struct {
	// Code is one of the codes of RFC 8935, section 2.4.
	Code string `json:"err"`
	// Description is for people, in English.
	Description string `json:"description"`
}

// Answer is what a transmitter answers to a poll.
type Answer struct {
	// Tokens are at most as many as were asked for. Nothing of them is verified.
	Tokens []Token
	// More means that the transmitter says that it has more.
	More bool
	// Left is whether it has sent more than it was asked for. What is left comes again.
	Left bool
}

// Token is a token under its name in an answer, which should be its ID.
type Token struct{ Key, Text string }

// Poll polls an endpoint.
func (c *Client) Poll(ctx context.Context, endpoint string, ask Request) (Answer, error) {
	const doing = "poll"
	if err := c.check("poll endpoint", endpoint); err != nil {
		return Answer{}, err
	}
	r := request{doing: doing, method: http.MethodPost, endpoint: endpoint, body: ask, limit: maxAnswer, timeout: PollTimeout}
	if len(ask.Refused) > 0 {
		r.header = []string{"Content-Language", "en"} // of the descriptions
	}
	body, status, err := c.call(ctx, r, http.StatusOK, http.StatusAccepted, http.StatusNoContent)
	if err != nil || status != http.StatusOK || ask.MaxEvents == 0 {
		return Answer{}, err
	}
	return readAnswer(body, ask.MaxEvents)
}

// readAnswer reads at most most tokens. It makes nothing of the others: an answer may have a million.
func readAnswer(body []byte, most int) (Answer, error) {
	// gjson checks by recursion without a bound: a few megabytes of brackets would end the process.
	if !json.Valid(body) {
		return Answer{}, errors.New("poll: the answer is not JSON")
	}
	answer := gjson.ParseBytes(body)
	sets := answer.Get("sets")
	if !answer.IsObject() || sets.Exists() && !sets.IsObject() && sets.Type != gjson.Null {
		return Answer{}, errors.New("poll: the answer is not a JSON object with sets")
	}
	a := Answer{More: answer.Get("moreAvailable").Bool()}
	if !sets.IsObject() {
		return a, nil
	}
	var err error
	seen := map[string]string{}
	sets.ForEach(func(key, value gjson.Result) bool {
		if len(a.Tokens) >= most {
			a.Left = true
			return false
		}
		name, text := key.String(), value.String()
		before, twice := seen[name]
		switch {
		case len(name) > maxKey:
			a.Left = true
		case twice && before != text:
			// To acknowledge one of them is to acknowledge both.
			err = errors.New("poll: the answer has two tokens with one name")
		case !twice:
			a.Tokens = append(a.Tokens, Token{Key: name, Text: text})
			seen[name] = text
		}
		return err == nil
	})
	if err != nil {
		return Answer{}, err
	}
	return a, nil
}
