package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
)

const (
	// fetchTimeout bounds fetching the keys.
	fetchTimeout = 5 * time.Second
	// fetchEvery is the least time between two fetches because of a key that is not known: anybody
	// can send a token that names one.
	fetchEvery = time.Minute
	// retryFetch is the least time after a fetch that failed.
	retryFetch = 5 * time.Second
	// freshFor is how long keys are used before they are fetched again: a key that was withdrawn
	// must not be accepted for longer.
	freshFor = 12 * time.Hour
	// maxDocument bounds each document, in bytes, and maxKeys the number of keys.
	maxDocument = 1 << 20
	maxKeys     = 100
)

// errNoKeys means that it is not known now whether a key is one of the issuer's. It is no reason to
// refuse a sender for good.
var errNoKeys = errors.New("the keys that verify tokens cannot be fetched now")

// keys are the signing keys of an issuer, from its OpenID configuration
// (https://openid.net/specs/openid-connect-discovery-1_0.html). The last good set stays in use while
// no other can be fetched.
type keys struct {
	configuration string // URL
	client        *http.Client
	fetching      singleflight.Group

	mu      sync.Mutex
	set     []jose.JSONWebKey
	fetched time.Time // when set was fetched
	tried   time.Time
	failed  error // of the last try
}

func newKeys(configuration string, transport http.RoundTripper) *keys {
	return &keys{configuration: configuration, client: &http.Client{
		Transport: transport,
		Timeout:   fetchTimeout,
		// What the issuer's address says counts, not what it redirects to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// find returns the key with an ID. ok is false if the issuer has no such key. The error is errNoKeys,
// wrapped, if that is not certain.
func (k *keys) find(ctx context.Context, id string) (key any, ok bool, err error) {
	now := time.Now()
	k.mu.Lock()
	found := k.lookup(id)
	fresh := now.Sub(k.fetched) < freshFor
	// While nothing can be fetched, a known key stays good.
	mayFetch := now.Sub(k.tried) >= fetchEvery || k.failed != nil && now.Sub(k.tried) >= retryFetch || k.tried.IsZero()
	failed := k.failed
	k.mu.Unlock()
	switch {
	case found != nil && (fresh || !mayFetch):
		return found, true, nil
	case !mayFetch && failed != nil:
		return nil, false, fmt.Errorf("%w: %w", errNoKeys, failed)
	case !mayFetch:
		return nil, false, fmt.Errorf("%w: they were fetched less than a minute ago, without this one", errNoKeys)
	}
	// The fetch serves all requests that wait for it, so it must not end with one of them.
	done := k.fetching.DoChan("", func() (any, error) { return nil, k.fetch(context.WithoutCancel(ctx)) })
	select {
	case r := <-done:
		err = r.Err
	case <-ctx.Done():
		err = ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if found := k.lookup(id); found != nil {
		return found, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errNoKeys, err)
	}
	return nil, false, nil
}

func (k *keys) lookup(id string) any {
	for _, key := range k.set {
		if key.KeyID == id {
			return key.Key
		}
	}
	return nil
}

// fetch replaces the keys.
func (k *keys) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	set, err := k.download(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tried, k.failed = time.Now(), err
	if err == nil {
		k.set, k.fetched = set, k.tried
	}
	return err
}

func (k *keys) download(ctx context.Context) ([]jose.JSONWebKey, error) {
	var configuration struct {
		KeysURL string `json:"jwks_uri"`
	}
	if err := k.get(ctx, k.configuration, &configuration); err != nil {
		return nil, err
	}
	to, err := url.Parse(configuration.KeysURL)
	if err != nil || to.Scheme != "https" && !strings.HasPrefix(k.configuration, "http://") {
		return nil, fmt.Errorf("%s names no address of keys with https", k.configuration)
	}
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := k.get(ctx, configuration.KeysURL, &document); err != nil {
		return nil, err
	}
	if len(document.Keys) > maxKeys {
		return nil, fmt.Errorf("%s has %d keys: more than %d", configuration.KeysURL, len(document.Keys), maxKeys)
	}
	var set []jose.JSONWebKey
	for _, raw := range document.Keys {
		var key jose.JSONWebKey
		// A key of an unknown kind is none that we can use.
		if json.Unmarshal(raw, &key) == nil && key.IsPublic() && key.Valid() && key.Use != "enc" {
			set = append(set, key)
		}
	}
	if len(set) == 0 {
		return nil, fmt.Errorf("%s has no usable key", configuration.KeysURL)
	}
	return set, nil
}

func (k *keys) get(ctx context.Context, from string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	response, err := k.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers with HTTP %d", from, response.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", from, err)
	}
	if len(text) > maxDocument {
		return fmt.Errorf("%s has more than %d bytes", from, maxDocument)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s is not the JSON that it should be", from)
	}
	return nil
}
