package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/telemetry"
)

// source is one sender of webhooks.
type source struct {
	config.IngestSource
	verifier
	limits *limits
	logs   logLimit
	seen   *memory // of signed requests; New sets it
}

// incoming is one request to a source.
type incoming struct {
	*http.Request
	source *source
	// address is the sender's, and proxied says that a trusted proxy reports it.
	address netip.Addr
	proxied bool
	// key is the last segment of the path, of a sender that has its secret there.
	key  string
	body []byte
	now  time.Time
	// eventID is the same for one token only. It is short and plain.
	eventID string
}

// verifier knows one sender.
type verifier struct {
	// methods are accepted beside POST.
	methods []string
	// keyInPath means that the path may have one more segment, which is a secret.
	keyInPath bool
	// headersProven means that the sender proves the headers as well, and not the body alone.
	headersProven bool
	// secrets are what the verifier reads from files.
	secrets []*secret

	// before decides by the header, before the body is read. It returns nil to go on, or an answer:
	// a refusal, or that of a handshake.
	before func(ctx context.Context, in *incoming) *answer
	// after decides by the body. It may be nil.
	after func(in *incoming) (delivery, *answer)
	// id returns the sender's own id of the event, or "". It may be nil.
	id func(in *incoming) string
	// success is the status of an answer to an event that is on the queue; 0 means 200.
	success int
}

// delivery is what is known of a request whose sender is proven.
type delivery struct {
	// once is the same only for the very same request: a signature that covers the time. It may be
	// empty.
	once string
}

// kind is a way to verify.
type kind struct {
	// needs and may are the settings that the kind requires, and those that it uses if they are
	// there.
	needs, may []string
	build      func(b *builder) (verifier, error)
	// busy is the status after which the sender tries again; 0 means 503.
	busy int
	// timeout is the sender's own limit for an answer, with time for the way; 0 means none.
	timeout time.Duration
}

// builder is what a kind builds its verifier from.
type builder struct {
	config.IngestSource
	authority string
	transport http.RoundTripper
	secrets   []*secret
}

// secret returns the source's secret.
func (b *builder) secret(check func(string) error) (*secret, error) {
	s, err := newSecret(b.SecretFile, b.PreviousSecretFile, check)
	if err == nil {
		b.secrets = append(b.secrets, s)
	}
	return s, err
}

// common are the settings that every kind may have.
var common = []string{
	"name", "path", "verify", "content_type", "max_body", "timeout", "rate", "burst", "respond_busy", "expect_every",
}

// kinds are the ways to verify, by the name in the setting verify.
var kinds = map[string]kind{
	"basic":             {needs: []string{"username", "secret_file"}, may: rotation, build: newBasic},
	"jamf":              {needs: []string{"secret_file"}, may: with(rotation, "username", "header"), build: newJamf},
	"workspace-one":     {needs: []string{"username", "secret_file"}, may: rotation, build: newWorkspaceOne},
	"bearer":            {needs: []string{"secret_file"}, may: rotation, build: newBearer},
	"header":            {needs: []string{"header", "secret_file"}, may: with(rotation, "id_header"), build: newHeader},
	"okta":              {needs: []string{"secret_file"}, may: with(rotation, "header"), build: newOkta, timeout: 2500 * time.Millisecond},
	"fleet":             {needs: []string{"secret_file"}, may: rotation, build: newFleet, busy: http.StatusTooManyRequests},
	"hmac":              {needs: []string{"header", "secret_file"}, may: with(rotation, signing...), build: newHMAC},
	"github":            {needs: []string{"secret_file"}, may: rotation, build: preset("github"), timeout: 8 * time.Second},
	"bamboohr":          {needs: []string{"secret_file"}, may: with(rotation, "tolerance"), build: preset("bamboohr")},
	"hibob":             {needs: []string{"secret_file"}, may: rotation, build: preset("hibob")},
	"personio":          {needs: []string{"secret_file"}, may: rotation, build: preset("personio")},
	"deel":              {needs: []string{"secret_file"}, may: with(rotation, "encoding"), build: preset("deel")},
	"rippling":          {needs: []string{"secret_file"}, may: rotation, build: preset("rippling")},
	"standard-webhooks": {needs: []string{"secret_file"}, may: with(rotation, "tolerance"), build: newStandardWebhooks},
	"graph": {
		needs: []string{"secret_file"}, may: with(rotation, "tenant"), build: newGraph, timeout: 2500 * time.Millisecond,
	},
	"entra":       {needs: []string{"tenant", "audience"}, may: []string{"issuer", "app_role", "caller"}, build: newEntra},
	"logic-apps":  {needs: []string{"tenant", "audience"}, may: []string{"issuer", "app_role", "caller"}, build: newEntra},
	"event-grid":  {may: with(rotation, with(entra, "subscriptions", "origins", "secret_file")...), build: newEventGrid},
	"cloudevents": {may: with(rotation, with(entra, "origins", "secret_file")...), build: newCloudEvents},
	"mtls":        {needs: []string{"ca_file", "names"}, may: []string{"header"}, build: newMutualTLS},
}

var (
	rotation = []string{"previous_secret_file"}
	signing  = []string{"timestamp_header", "id_header", "algorithm", "encoding", "prefix", "signed", "tolerance"}
	entra    = []string{"tenant", "audience", "issuer", "app_role", "caller"}
)

func with(keys []string, more ...string) []string { return append(slices.Clone(keys), more...) }

// Kinds returns the names of the ways to verify, sorted.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }

// newSources makes the sources, by path. The error joins all problems. transport may be nil.
func newSources(cfg Config, transport http.RoundTripper) (map[string]*source, error) {
	byPath, names := map[string]*source{}, map[string]bool{}
	var problems []error
	if len(cfg.Sources) > MaxSources {
		problems = append(problems, fmt.Errorf("ingest.sources: %d sources; at most %d are allowed", len(cfg.Sources), MaxSources))
	}
	for _, c := range cfg.Sources {
		src, err := newSource(c, cfg, transport)
		switch {
		case err != nil:
		case names[c.Name]:
			err = errors.New("another source has this name")
		case byPath[c.Path] != nil:
			err = fmt.Errorf("path: %s has it too", byPath[c.Path].Name)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: source %q: %w", c.At, c.Name, err))
			continue
		}
		names[c.Name], byPath[c.Path] = true, src
	}
	return byPath, errors.Join(problems...)
}

var (
	nameForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`) })
	pathForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*){1,8}$`) })
)

func newSource(c config.IngestSource, cfg Config, transport http.RoundTripper) (*source, error) {
	k, ok := kinds[c.Verify]
	switch {
	case !nameForm().MatchString(c.Name):
		return nil, errors.New("name: up to 32 small letters, digits, and hyphens")
	case !pathForm().MatchString(c.Path) || len(c.Path) > 128:
		return nil, errors.New("path: must be like /hooks/okta, of letters, digits, and . _ ~ -, without a slash at the end")
	case c.Verify == "":
		return nil, fmt.Errorf("verify: required; nobody may put events on the queue unverified. Use one of %s",
			strings.Join(Kinds(), ", "))
	case !ok:
		return nil, fmt.Errorf("verify: unknown; use one of %s", strings.Join(Kinds(), ", "))
	}
	if err := fits(c, k); err != nil {
		return nil, err
	}
	if err := checkNumbers(c, cfg.Ingest); err != nil {
		return nil, err
	}
	if c.MaxBody == 0 {
		c.MaxBody = cfg.MaxBody
	}
	if c.Timeout == 0 {
		c.Timeout = cfg.Timeout
		if k.timeout > 0 {
			c.Timeout = min(c.Timeout, k.timeout)
		}
	}
	if c.Rate == 0 {
		c.Rate = 500
	}
	if c.Burst == 0 {
		c.Burst = 2 * c.Rate
	}
	if c.RespondBusy == 0 {
		c.RespondBusy = http.StatusServiceUnavailable
		if k.busy > 0 {
			c.RespondBusy = k.busy
		}
	}
	if c.Tolerance == 0 {
		c.Tolerance = 5 * time.Minute
	}
	b := &builder{IngestSource: c, authority: cfg.Authority, transport: transport}
	v, err := k.build(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Verify, err)
	}
	v.secrets = b.secrets
	return &source{IngestSource: c, verifier: v, limits: newLimits(cfg.Concurrency, cfg.AddressRate, c.Rate, c.Burst)}, nil
}

// fits checks that a source has the settings that its kind needs, and no others: a setting without
// effect is a mistake.
func fits(c config.IngestSource, k kind) error {
	fields := reflect.ValueOf(c)
	for i := range fields.NumField() {
		key := fields.Type().Field(i).Tag.Get("key")
		set := !fields.Field(i).IsZero()
		switch {
		case key == "":
		case !set && slices.Contains(k.needs, key):
			return fmt.Errorf("%s: required with verify: %s", key, c.Verify)
		case set && !slices.Contains(common, key) && !slices.Contains(k.needs, key) && !slices.Contains(k.may, key):
			return fmt.Errorf("%s: has no effect with verify: %s", key, c.Verify)
		}
	}
	return nil
}

// maxExpect is the longest time for which the alert SessionRevokerSourceSilent can tell.
const maxExpect = 7 * 24 * time.Hour

func checkNumbers(c config.IngestSource, all config.Ingest) error {
	switch {
	case c.MaxBody < 0 || c.MaxBody > all.MaxBody:
		return fmt.Errorf("max_body: at most ingest.max_body, %d", all.MaxBody)
	case c.Timeout < 0 || c.Timeout > time.Minute || c.Timeout > 0 && c.Timeout < 500*time.Millisecond:
		return errors.New("timeout: from 500ms to 1m")
	case c.Rate < 0 || c.Rate > 100_000 || c.Burst < 0 || c.Burst > 1_000_000:
		return errors.New("rate, burst: rate up to 100000, burst up to 1000000")
	case c.RespondBusy != 0 && c.RespondBusy != http.StatusServiceUnavailable && c.RespondBusy != http.StatusTooManyRequests:
		return errors.New("respond_busy: 503 or 429")
	case c.Tolerance < 0 || c.Tolerance > time.Hour:
		return errors.New("tolerance: at most 1h")
	case c.ExpectEvery < 0 || c.ExpectEvery > maxExpect:
		return errors.New("expect_every: at most 168h: the alert looks back eight days")
	}
	if c.ContentType != "" {
		if _, _, err := mime.ParseMediaType(c.ContentType); err != nil || len(c.ContentType) > maxContentType {
			return errors.New("content_type: not a media type like application/json")
		}
	}
	return nil
}

// show makes the metrics have all results of the source, since an alert must see the first one, and
// what is expected of it.
func (s *source) show(m *telemetry.IngestMetrics) {
	for _, r := range results {
		m.Requests.WithLabelValues(s.Name, string(r))
	}
	m.LastAccepted.WithLabelValues(s.Name)
	if s.ExpectEvery > 0 {
		m.Expected.WithLabelValues(s.Name).Set(s.ExpectEvery.Seconds())
	}
}

// accepted is the answer to an event that is on the queue.
func (s *source) accepted(why result) *answer {
	return &answer{status: cmp.Or(s.success, http.StatusOK), result: why}
}

// busy is the answer while the event cannot be put on the queue, for a reason that is ours.
func (s *source) busy(why result, text string) *answer { return later(s.RespondBusy, why, text) }

// allow is the value of Allow.
func (s *source) allow() string {
	return strings.Join(append([]string{http.MethodPost}, s.methods...), ", ")
}
