package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/secevent"
)

// maxPushed bounds a pushed token in bytes. It is more than what the verifier reads, so that the
// transmitter is told what is wrong.
const maxPushed = 96 << 10

// receiver returns the verifier of what the transmitter pushes (RFC 8935).
func (st *stream) receiver() (verifier, error) {
	key, err := newSecret(st.SecretFile, st.PreviousSecretFile, headerValue)
	if err != nil {
		return verifier{}, err
	}
	return verifier{
		secrets: []*secret{key},
		success: http.StatusAccepted,
		before: func(_ context.Context, in *incoming) *answer {
			if !key.is(in.Header.Get("Authorization"), in.now) {
				return refuseToken(http.StatusUnauthorized, unauthenticated, "authentication_failed",
					"the header Authorization is not the one that was agreed on (authorization_header)")
			}
			return nil
		},
		after: func(in *incoming) (delivery, *answer) {
			token, refused := st.verify(in.body)
			if refused != nil {
				return delivery{}, st.refusal(refused)
			}
			st.source.limits.know(in.address, in.now) // a heartbeat ends here
			in.eventID = eventID(token)
			key := keyOf(in.eventID)
			switch {
			case st.source.seen.has(key): // an old heartbeat is no sign of life
				return delivery{}, st.source.accepted(repeated)
			case st.note(token):
				st.source.seen.add(key)
				return delivery{}, st.source.accepted(handshake)
			}
			return delivery{once: in.eventID}, nil
		},
	}, nil
}

// headerValue checks that a secret can be the value of a header: no push could have another one, and
// each would be refused.
func headerValue(value string) error {
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
		return errors.New("it must be one line of ASCII, the value of the header Authorization")
	}
	return nil
}

// refusal is the answer to a token that is not accepted.
func (st *stream) refusal(refused *event.Error) *answer {
	if refused.Kind == event.NotYet {
		return st.source.busy(busy, "the token cannot be verified yet: come again")
	}
	return refuseToken(http.StatusBadRequest, resultOf(refused), secevent.ErrorCode(refused), refused.Error())
}

// refuseToken returns an answer in the form of RFC 8935, section 2.3.
func refuseToken(status int, why result, code, description string) *answer {
	text, _ := json.Marshal(map[string]string{"err": code, "description": description})
	return &answer{
		status: status, result: why, text: string(text), contentType: "application/json", header: []string{"Content-Language", "en"},
	}
}
