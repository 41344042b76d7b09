package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// These senders prove themselves with a shared secret in the header or in the URL.

const (
	basicChallenge  = `Basic realm="session-revoker", charset="UTF-8"`
	bearerChallenge = `Bearer realm="session-revoker"`
)

// newBasic knows HTTP's Basic authentication (RFC 7617).
func newBasic(b *builder) (verifier, error) {
	password, err := b.secret(nil)
	username := b.Username
	return verifier{headersProven: true, before: func(_ context.Context, in *incoming) *answer {
		user, given, _ := in.BasicAuth()
		if single(in.Header, "Authorization") == "" {
			user, given = "", ""
		}
		// Both are compared, whichever is wrong: the answer and its time are the same.
		right := password.is(given, in.now)
		if !equal(user, username) || !right {
			return refuse(http.StatusUnauthorized, unauthenticated, "user name and password are missing or wrong: "+
				"compare them with the settings of this webhook", "WWW-Authenticate", basicChallenge)
		}
		return nil
	}}, err
}

// newJamf knows Jamf Pro: Basic or header authentication.
func newJamf(b *builder) (verifier, error) {
	switch {
	case (b.Username == "") == (b.Header == ""):
		return verifier{}, errors.New("set username for Basic Authentication, or header for Header Authentication, as in Jamf Pro")
	case b.Username != "":
		return newBasic(b)
	}
	return newHeader(b)
}

// newWorkspaceOne knows Workspace ONE UEM: Basic authentication, and a test by GET.
func newWorkspaceOne(b *builder) (verifier, error) {
	v, err := newBasic(b)
	authenticate := v.before
	v.methods = []string{http.MethodGet}
	v.before = func(ctx context.Context, in *incoming) *answer {
		if a := authenticate(ctx, in); a != nil || in.Method == http.MethodPost {
			return a
		}
		return &answer{status: http.StatusOK, result: handshake, text: "ok\n"}
	}
	return v, err
}

// newBearer knows a static bearer token (RFC 6750).
func newBearer(b *builder) (verifier, error) {
	token, err := b.secret(nil)
	return verifier{headersProven: true, before: func(_ context.Context, in *incoming) *answer {
		if !token.is(bearer(in.Request), in.now) {
			return noToken("the bearer token is missing or wrong: compare it with the settings of this webhook")
		}
		return nil
	}}, err
}

func noToken(text string) *answer {
	return refuse(http.StatusUnauthorized, unauthenticated, text, "WWW-Authenticate", bearerChallenge)
}

// bearer returns the token in Authorization, or "".
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(single(r.Header, "Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// newHeader knows a secret that is the whole value of a header.
func newHeader(b *builder) (verifier, error) {
	if !httpguts.ValidHeaderFieldName(b.Header) {
		return verifier{}, errors.New("header: not the name of a header")
	}
	value, err := b.secret(nil)
	header, idHeader := b.Header, b.IDHeader
	return verifier{
		headersProven: true,
		before: func(_ context.Context, in *incoming) *answer {
			if !value.is(single(in.Header, header), in.now) {
				return forbidden("the header with the secret is missing or wrong: compare it with the settings of this webhook")
			}
			return nil
		},
		id: func(in *incoming) string {
			if idHeader == "" {
				return ""
			}
			return single(in.Header, idHeader)
		},
	}, err
}

// newOkta knows Okta's event hooks: a secret as the value of Authorization or of another header, and
// a one-time verification by GET
// (https://developer.okta.com/docs/concepts/event-hooks/#one-time-verification-request).
func newOkta(b *builder) (verifier, error) {
	if b.Header == "" {
		b.Header = "Authorization"
	}
	v, err := newHeader(b)
	authenticate := v.before
	v.methods = []string{http.MethodGet}
	v.before = func(ctx context.Context, in *incoming) *answer {
		if in.Method == http.MethodPost {
			return authenticate(ctx, in)
		}
		challenge := in.Header.Get("X-Okta-Verification-Challenge")
		if challenge == "" || len(challenge) > maxChallenge {
			return refuse(http.StatusBadRequest, malformed, "GET is for Okta's verification: "+
				"the header X-Okta-Verification-Challenge is missing")
		}
		return jsonAnswer(map[string]string{"verification": challenge})
	}
	v.id = func(in *incoming) string {
		var hook struct {
			EventID string `json:"eventId"`
		}
		_ = json.Unmarshal(in.body, &hook)
		return hook.EventID
	}
	return v, err
}

// maxChallenge bounds what is repeated in a handshake, in bytes.
const maxChallenge = 2048

func jsonAnswer(value map[string]string) *answer {
	text, err := json.Marshal(value)
	if err != nil {
		return refuse(http.StatusBadRequest, malformed, "the challenge is not readable")
	}
	return &answer{status: http.StatusOK, result: handshake, text: string(text), contentType: "application/json"}
}

// newFleet knows Fleet, which has no way to prove itself but a secret in the URL: as a segment behind
// the path, or as the parameter secret.
func newFleet(b *builder) (verifier, error) {
	key, err := b.secret(plainInURL)
	return verifier{keyInPath: true, headersProven: true, before: func(_ context.Context, in *incoming) *answer {
		given := in.key
		if given == "" {
			given = parameter(in.Request, "secret")
		}
		if !key.is(given, in.now) {
			return forbidden("the secret in the URL is missing or wrong: compare it with the settings of this webhook")
		}
		return nil
	}}, err
}

// plainInURL checks that a secret needs no escaping in a URL, which senders do in different ways.
func plainInURL(value string) error {
	if url.PathEscape(value) != value || url.QueryEscape(value) != value {
		return errors.New("the secret becomes part of a URL: use letters, digits, and - _ . ~ only, from openssl rand -hex 32 for example")
	}
	return nil
}

// single returns the value of a field of the header, or "". Only one of that name is believed: a
// gateway that has checked another one of several would have checked nothing.
func single(h http.Header, name string) string {
	if values := h.Values(name); len(values) == 1 {
		return values[0]
	}
	return ""
}

// parameter returns a parameter of the URL, or "". Only one of that name is believed.
func parameter(r *http.Request, name string) string {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(values[name]) != 1 {
		return ""
	}
	return values[name][0]
}
