package graph

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// QuotaModel is a way to count a quota.
type QuotaModel string

// The quota models. Microsoft does not document which one Graph uses.
const (
	// NoQuota allows everything.
	NoQuota QuotaModel = ""
	// FixedWindow allows Limit requests per Per. A window begins with the first request after the
	// last window has ended.
	FixedWindow QuotaModel = "fixed"
	// SlidingWindow allows Limit requests in any span of Per. Throttled requests count too: a
	// caller that never pauses is never served again.
	SlidingWindow QuotaModel = "sliding"
	// TokenBucket has Limit tokens, and regains Limit per Per.
	TokenBucket QuotaModel = "bucket"
)

// Quota bounds an app's writes. Graph's own quota for identity objects is 3,000 per 150 s for each
// app and tenant (https://learn.microsoft.com/graph/throttling-limits).
type Quota struct {
	Model QuotaModel    `json:"model"`
	Limit int           `json:"limit"`
	Per   time.Duration `json:"per"`
	// Headers adds x-ms-throttle-limit-percentage above 80 % of the limit, and x-ms-throttle-scope
	// and -information to 429s.
	Headers bool `json:"headers"`
	// NoRetryAfter omits Retry-After from 429s. RetryAfterDate sends it as a date.
	NoRetryAfter   bool `json:"noRetryAfter"`
	RetryAfterDate bool `json:"retryAfterDate"`
}

// CheapestDone returns the least time for n successes from an idle start.
func (q Quota) CheapestDone(n int) time.Duration {
	if q.Model == NoQuota || n <= q.Limit {
		return 0
	}
	if q.Model == TokenBucket {
		return time.Duration(n-q.Limit) * q.Per / time.Duration(q.Limit)
	}
	return time.Duration((n-1)/q.Limit) * q.Per
}

// SetQuota replaces the quota and forgets the use of the old one. It fails if the model is unknown
// or a bound is missing.
func (s *Server) SetQuota(q Quota) error {
	switch q.Model {
	case NoQuota:
	case FixedWindow, SlidingWindow, TokenBucket:
		if q.Limit <= 0 || q.Per <= 0 {
			return fmt.Errorf("quota %+v: Limit and Per must be positive", q)
		}
	default:
		return fmt.Errorf("quota model %q: use fixed, sliding or bucket", q.Model)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quota = q
	s.meters = map[string]*meter{}
	return nil
}

// meter is the use of one app. The server's lock guards it.
type meter struct {
	start  time.Time   // of the fixed window, or of the bucket's last update
	used   int         // in the fixed window
	tokens float64     // in the bucket
	recent []time.Time // in the sliding window, at most twice the limit
}

// meter counts a write. allowed reports whether it is within the quota; if not, retryAfter is the
// Retry-After to answer.
func (s *Server) meter(w http.ResponseWriter, app string) (retryAfter string, allowed bool) {
	s.mu.Lock()
	q := s.quota
	if q.Model == NoQuota {
		s.mu.Unlock()
		return "", true
	}
	m := s.meters[app]
	if m == nil {
		m = &meter{tokens: float64(q.Limit)}
		s.meters[app] = m
	}
	now := time.Now()
	usage, wait := m.use(q, now)
	s.mu.Unlock()

	if q.Headers && usage >= 0.8 {
		w.Header().Set("x-ms-throttle-limit-percentage", strconv.FormatFloat(min(usage, 1.8), 'f', 2, 64))
	}
	if wait <= 0 {
		return "", true
	}
	if q.Headers {
		w.Header().Set("x-ms-throttle-scope", fmt.Sprintf("Tenant_Application/Write/%s/%s", app, s.tenant))
		w.Header().Set("x-ms-throttle-information", "ResourceUnitLimitExceeded")
	}
	switch seconds := math.Ceil(wait.Seconds()); {
	case q.NoRetryAfter:
		return "", false
	case q.RetryAfterDate:
		// A date has whole seconds; rounding up twice is never too early.
		return s.now().Add(time.Duration(seconds+1) * time.Second).UTC().Format(http.TimeFormat), false
	default:
		return strconv.Itoa(int(seconds)), false
	}
}

// use counts one request. It returns the usage, where 1 is the limit, and how long to wait; 0 means
// that the request is allowed.
func (m *meter) use(q Quota, now time.Time) (usage float64, wait time.Duration) {
	limit := float64(q.Limit)
	switch q.Model {
	case FixedWindow:
		if m.start.IsZero() || now.Sub(m.start) >= q.Per {
			m.start, m.used = now, 0
		}
		m.used++
		if m.used > q.Limit {
			wait = q.Per - now.Sub(m.start)
		}
		return float64(m.used) / limit, wait
	case SlidingWindow:
		for len(m.recent) > 0 && now.Sub(m.recent[0]) >= q.Per {
			m.recent = m.recent[1:]
		}
		if n := len(m.recent); n >= q.Limit {
			// The n-limit+1 oldest must leave before one more fits.
			wait = q.Per - now.Sub(m.recent[n-q.Limit])
		}
		if len(m.recent) < 2*q.Limit {
			m.recent = append(m.recent, now)
		}
		return float64(len(m.recent)) / limit, wait
	default: // TokenBucket
		perSecond := limit / q.Per.Seconds()
		if !m.start.IsZero() {
			m.tokens = min(limit, m.tokens+now.Sub(m.start).Seconds()*perSecond)
		}
		m.start = now
		if m.tokens < 1-1e-9 {
			return 1, max(time.Duration((1-m.tokens)/perSecond*float64(time.Second)), time.Nanosecond)
		}
		m.tokens--
		return 1 - m.tokens/limit, 0
	}
}
