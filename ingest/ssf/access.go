package ssf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/session-revoker/session-revoker/event/secevent"
)

// maxCredential bounds an access token and a client secret, in bytes.
const maxCredential = 16 << 10

// Authorization is how a Client gets access tokens: from a file, by OAuth client credentials (RFC
// 6749, section 4.4), or not at all if it is zero.
type Authorization struct {
	// TokenFile holds an access token. It is read for each request.
	TokenFile string
	// ClientID, ClientSecretFile, and TokenURL are all needed for client credentials.
	ClientID, ClientSecretFile, TokenURL string
	// Scopes are asked for.
	Scopes []string
}

// access gets access tokens. It is safe for concurrent use.
type access struct {
	Authorization
	http *http.Client

	mu   sync.Mutex
	last string // what the file has held when it could be read
	kept *oauth2.Token
	ask  *clientcredentials.Config // nil without client credentials
}

func newAccess(a Authorization, client *http.Client) (*access, error) {
	x := &access{Authorization: a, http: client}
	credentials := a.ClientID != "" || a.ClientSecretFile != "" || a.TokenURL != ""
	switch {
	case a.TokenFile != "" && credentials:
		return x, errors.New("token_file and client_id are both set: keep one")
	case a.TokenFile == "" && !credentials && len(a.Scopes) > 0:
		return x, errors.New("scopes: have no effect without client_id")
	case a.TokenFile != "":
		_, err := x.read("token_file", a.TokenFile)
		return x, err
	case !credentials:
		return x, nil
	case a.ClientID == "" || a.ClientSecretFile == "" || a.TokenURL == "":
		return x, errors.New("client_id, client_secret_file, and token_url belong together: set all of them")
	}
	if problem := secevent.AddressProblem(a.TokenURL); problem != "" {
		return x, fmt.Errorf("token_url: %q: %s", a.TokenURL, problem)
	}
	x.ask = &clientcredentials.Config{ClientID: a.ClientID, TokenURL: a.TokenURL, Scopes: a.Scopes}
	_, err := x.read("client_secret_file", a.ClientSecretFile)
	return x, err
}

// read returns what a file holds. While it cannot be read, what it has held before stays in force: a
// mount may be being replaced. The error does not show it.
func (x *access) read(setting, file string) (string, error) {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, maxCredential+1))
		_ = f.Close()
	}
	value := strings.TrimSpace(string(text))
	switch {
	case err != nil:
	case len(text) > maxCredential:
		err = fmt.Errorf("%s is larger than %d bytes", file, maxCredential)
	case value == "":
		err = fmt.Errorf("%s is empty", file)
	case strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }):
		err = fmt.Errorf("%s holds more than one word: it must hold the value alone", file)
	}
	if err == nil {
		x.last = value
		return value, nil
	}
	if x.last != "" {
		return x.last, nil
	}
	return "", fmt.Errorf("%s: %w", setting, err)
}

// header returns the value of the header Authorization, or "".
func (x *access) header(ctx context.Context) (string, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.TokenFile != "" {
		token, err := x.read("token_file", x.TokenFile)
		return "Bearer " + token, err
	}
	if x.ask == nil {
		return "", nil
	}
	if x.kept.Valid() {
		return "Bearer " + x.kept.AccessToken, nil
	}
	var err error
	if x.ask.ClientSecret, err = x.read("client_secret_file", x.ClientSecretFile); err != nil {
		return "", err
	}
	// Token reads at most 1 MB, and the client follows no redirect.
	token, err := x.ask.Token(context.WithValue(ctx, oauth2.HTTPClient, x.http))
	if err != nil {
		return "", fmt.Errorf("get an access token from %s: %w", plainEndpoint(x.TokenURL), tokenProblem(err))
	}
	if len(token.AccessToken) > maxCredential {
		return "", fmt.Errorf("get an access token from %s: it is larger than %d bytes", plainEndpoint(x.TokenURL), maxCredential)
	}
	x.kept = token
	return "Bearer " + token.AccessToken, nil
}

// tokenProblem returns an error without the answer's body, which the library would show.
func tokenProblem(err error) error {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok || refused.Response == nil {
		return err
	}
	e := &Error{Doing: "sign in", Endpoint: "it", Status: refused.Response.StatusCode}
	if errorCode().MatchString(refused.ErrorCode) {
		e.Code = refused.ErrorCode
	}
	return e
}

// forget drops an access token that was refused. It reports whether another one may be had at once.
func (x *access) forget() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	again := x.kept != nil
	x.kept = nil
	return again
}
