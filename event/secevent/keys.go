package secevent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/session-revoker/session-revoker/event"
)

const (
	// maxKeySet is the size of the largest key set in bytes, and maxKeys how many of its keys are
	// read.
	maxKeySet = 1 << 20
	maxKeys   = 100
	// maxTried is how many keys are tried for one token that does not name its key.
	maxTried = 16
	// minRSA and maxRSA bound the size of an RSA key in bits.
	minRSA, maxRSA = 2048, 8192
	// fetchTimeout bounds one fetch.
	fetchTimeout = 10 * time.Second
	// refreshURL and refreshFile are the times between two refreshes. Then a key that was removed is
	// not trusted any more.
	refreshURL  = 10 * time.Minute
	refreshFile = 30 * time.Second
	// refreshSoonest is the least time between two refreshes that tokens with an unknown key cause.
	refreshSoonest = time.Minute
	// After a failure the next attempt follows after retryFirst, and then after twice as long each
	// time, up to retryMost.
	retryFirst = time.Second
	retryMost  = time.Minute
	// published is how long after a token was issued its transmitter must have published the key at
	// the latest. Before that, a key that is missing may still come.
	published = 5 * time.Minute
)

// asymmetric are the algorithms that may be accepted, by default all. None of them uses a secret that
// both sides know: with such a one, the transmitter's public key could pass for the secret.
var asymmetric = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// key is a public key and the algorithms for which it may be used.
type key struct {
	id         string
	algorithms []jose.SignatureAlgorithm
	public     any
}

// keySet is the usable keys of a transmitter. It is immutable.
type keySet struct {
	keys  []key
	asked time.Time // when the transmitter was asked for it
}

// readKeySet returns the usable keys of a JSON Web Key Set (RFC 7517). Others are ignored, as the RFC
// says. It is an error if there is none.
func readKeySet(text []byte, asked time.Time) (*keySet, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("not a JSON Web Key Set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys; at most %d are read", len(set.Keys), maxKeys)
	}
	usable := &keySet{asked: asked}
	why := map[string]bool{}
	for _, raw := range set.Keys {
		k, err := readKey(raw)
		if err != nil {
			why[err.Error()] = true
			continue
		}
		usable.keys = append(usable.keys, k)
	}
	if len(usable.keys) == 0 {
		return nil, fmt.Errorf("no usable key among %d: %s", len(set.Keys), strings.Join(slices.Sorted(maps.Keys(why)), "; "))
	}
	return usable, nil
}

// readKey returns a key that may verify signatures.
func readKey(raw []byte) (key, error) {
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(raw); err != nil {
		return key{}, err
	}
	if k.Use != "" && k.Use != "sig" {
		return key{}, errors.New("a key that is not for signatures")
	}
	usable := key{id: k.KeyID, public: k.Key}
	switch public := k.Key.(type) {
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < minRSA || bits > maxRSA {
			return key{}, fmt.Errorf("an RSA key of %d bits; %d to %d are accepted", bits, minRSA, maxRSA)
		}
		usable.algorithms = asymmetric[:6]
	case *ecdsa.PublicKey:
		curves := map[elliptic.Curve]jose.SignatureAlgorithm{
			elliptic.P256(): jose.ES256, elliptic.P384(): jose.ES384, elliptic.P521(): jose.ES512,
		}
		usable.algorithms = []jose.SignatureAlgorithm{curves[public.Curve]}
	case ed25519.PublicKey:
		usable.algorithms = []jose.SignatureAlgorithm{jose.EdDSA}
	default:
		return key{}, errors.New("a private or symmetric key, or one of another type than RSA, EC, and Ed25519")
	}
	if k.Algorithm != "" {
		if !slices.Contains(usable.algorithms, jose.SignatureAlgorithm(k.Algorithm)) {
			return key{}, fmt.Errorf("alg %s does not fit the type of its key", quote(k.Algorithm))
		}
		usable.algorithms = []jose.SignatureAlgorithm{jose.SignatureAlgorithm(k.Algorithm)}
	}
	return usable, nil
}

// keySource is where the keys of one transmitter come from, and what came last.
type keySource struct {
	transmitter Transmitter
	accepted    []jose.SignatureAlgorithm
	client      *http.Client
	report      func(Status)
	changed     func() // is called when other keys are in use

	current atomic.Pointer[keySet] // nil until keys were read
	wanted  chan struct{}          // is signaled when a token's key is unknown
	one     chan struct{}          // has a token during a refresh
}

func newKeySource(t Transmitter, transport http.RoundTripper, report func(Status), changed func()) *keySource {
	s := &keySource{
		transmitter: t, accepted: asymmetric, report: report, changed: changed,
		wanted: make(chan struct{}, 1), one: make(chan struct{}, 1),
	}
	if len(t.Algorithms) > 0 {
		s.accepted = nil
		for _, name := range t.Algorithms {
			s.accepted = append(s.accepted, jose.SignatureAlgorithm(name))
		}
	}
	s.client = &http.Client{
		Transport: transport, Timeout: fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s
}

// verify returns nil if one of the transmitter's keys has signed the token. The kind of the error is
// event.NotYet if the key may still come.
func (s *keySource) verify(t *token) *event.Error {
	if !slices.Contains(s.accepted, t.algorithm) {
		return invalid("header.alg", "%s is not accepted (algorithms of the transmitter %s)", quote(string(t.algorithm)),
			s.transmitter.Name)
	}
	signed, err := jose.ParseSignedCompact(t.text, s.accepted)
	if err != nil {
		return invalid("token", "%s", quote(err.Error()))
	}
	set := s.current.Load()
	if set == nil {
		s.want()
		return problem(event.NotYet, "header.kid", "the keys of the transmitter %s are not known yet; the message is tried again",
			s.transmitter.Name)
	}
	candidates, byName := set.candidates(t)
	for _, k := range candidates {
		payload, err := signed.Verify(k.public)
		if err == nil && bytes.Equal(payload, t.payload) {
			return nil
		}
	}
	if byName {
		return invalid("signature", "not by the key %s of the transmitter %s, or the key is not one for %s",
			quote(t.keyID), s.transmitter.Name, t.algorithm)
	}
	s.want()
	if set.asked.Before(t.issued.Add(published)) {
		return problem(event.NotYet, "header.kid",
			"the transmitter %s has not published the key %s yet; the message is tried again", s.transmitter.Name, quote(t.keyID))
	}
	return invalid("header.kid", "none of the transmitter %s's keys has signed the token, and none is called %s",
		s.transmitter.Name, quote(t.keyID))
}

// candidates returns the keys that may have signed the token. byName reports whether a key has the
// token's key ID.
func (s *keySet) candidates(t *token) (fitting []key, byName bool) {
	for _, k := range s.keys {
		named := t.keyID != "" && k.id == t.keyID
		byName = byName || named
		if (named || t.keyID == "" || k.id == "") && slices.Contains(k.algorithms, t.algorithm) && len(fitting) < maxTried {
			fitting = append(fitting, k)
		}
	}
	return fitting, byName
}

// want asks run for a refresh.
func (s *keySource) want() {
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// mayBeOld reports whether the transmitter may have replaced its keys since they were read, for a
// token that they have not signed: some do it under the same key ID. Then it asks run for a refresh. A
// transmitter's clock may be late, so keys that are new enough for the token must be new as well.
func (s *keySource) mayBeOld(issued time.Time) bool {
	if s == nil {
		return false // there are none
	}
	set := s.current.Load()
	if set == nil || !set.asked.Before(issued) && time.Since(set.asked) <= refreshSoonest {
		return false
	}
	s.want()
	return true
}

// run refreshes the keys until ctx ends.
func (s *keySource) run(ctx context.Context) {
	usual := refreshURL
	if s.transmitter.JWKSFile != "" {
		usual = refreshFile
	}
	retry := retryFirst
	for ctx.Err() == nil {
		began := time.Now()
		next := usual
		if err := s.refresh(ctx); err != nil {
			next, retry = retry, min(2*retry, retryMost)
		} else {
			retry = retryFirst
		}
		s.sleep(ctx, began, next)
	}
}

// sleep returns when the next refresh is due: next after the last one began, or refreshSoonest after
// it if a token's key is unknown.
func (s *keySource) sleep(ctx context.Context, began time.Time, next time.Duration) {
	due := time.NewTimer(time.Until(began.Add(next)))
	defer due.Stop()
	select {
	case <-due.C:
		return
	case <-ctx.Done():
		return
	case <-s.wanted:
	}
	sooner := time.NewTimer(time.Until(began.Add(min(next, refreshSoonest))))
	defer sooner.Stop()
	select {
	case <-sooner.C:
	case <-ctx.Done():
	}
}

// refresh reads or fetches the keys once. After an error the last good ones stay in use.
func (s *keySource) refresh(ctx context.Context) error {
	select {
	case s.one <- struct{}{}:
		defer func() { <-s.one }()
	case <-ctx.Done():
		return ctx.Err()
	}
	asked := time.Now()
	read := s.fetch
	if s.transmitter.JWKSFile != "" {
		read = s.readFile
	}
	text, err := read(ctx)
	var set *keySet
	if err == nil {
		set, err = readKeySet(text, asked)
	}
	if err == nil {
		if before := s.current.Swap(set); before == nil || !reflect.DeepEqual(before.keys, set.keys) {
			s.changed()
		}
	}
	if ctx.Err() == nil && s.report != nil {
		s.report(s.status(err))
	}
	return err
}

func (s *keySource) status(err error) Status {
	status := Status{Transmitter: s.transmitter.Name, Err: err}
	if set := s.current.Load(); set != nil {
		status.Keys = len(set.keys)
	}
	return status
}

func (s *keySource) readFile(context.Context) ([]byte, error) {
	f, err := os.Open(s.transmitter.JWKSFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

// fetch gets the key set. It follows no redirect, which could lead to http, or to a host that nobody
// has configured.
func (s *keySource) fetch(ctx context.Context) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.transmitter.JWKSURL, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers with HTTP %d; jwks_url must be the address of the keys itself",
			s.transmitter.JWKSURL, response.StatusCode)
	}
	return readAll(response.Body)
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxKeySet+1))
	if err == nil && len(text) > maxKeySet {
		err = fmt.Errorf("larger than %d bytes", maxKeySet)
	}
	return text, err
}
