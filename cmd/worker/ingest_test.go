package main_test

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/session-revoker/session-revoker/emulator/leaks"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/ingest/ssf/ssftest"
	"github.com/session-revoker/session-revoker/telemetry"
)

const webhookSecret = "6b1d-webhook-secret-of-the-test"

// webhooks is a worker ingest with one source, and the senders that call it.
type webhooks struct {
	*cloud
	address atomic.Value // string: where the last process listens
	args    []string
	client  *http.Client
}

func newWebhooks(t *testing.T, c *cloud) *webhooks {
	t.Helper()
	dir := t.TempDir()
	secret, file := filepath.Join(dir, "secret"), filepath.Join(dir, "worker.yaml")
	for name, text := range map[string]string{
		secret: webhookSecret,
		file: fmt.Sprintf(`ingest:
  address: 127.0.0.1:0
  address_rate: 100000
  concurrency: 512
  timeout: 5s
  sources:
    - {name: mdm, path: /hooks/mdm, verify: bearer, secret_file: %s, rate: 100000}
`, secret),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &webhooks{
		cloud: c, args: []string{"ingest", "--config", file},
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
	}
}

func (h *webhooks) start(env ...string) *process {
	h.t.Helper()
	p := &process{Cmd: exec.Command(binary, h.args...)}
	p.Env = append(h.env, env...)
	p.Stdout, p.Stderr = &p.out, &p.out
	if err := p.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
		for _, leak := range leaks.Find(p.out.String(), webhookSecret, servicebus.DefaultKey.Value) {
			h.t.Error(leak)
		}
	})
	h.address.Store(h.cloud.address(p, webhookLine))
	return p
}

// post returns the status of a request, or 0 without an answer.
func (h *webhooks) post(body string) int {
	r, err := http.NewRequest(http.MethodPost, "http://"+h.address.Load().(string)+"/hooks/mdm", strings.NewReader(body))
	if err != nil {
		h.t.Error(err)
		return 0
	}
	r.Header.Set("Authorization", "Bearer "+webhookSecret)
	r.Header.Set("Content-Type", "application/json")
	response, err := h.client.Do(r)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return response.StatusCode
}

func TestIngestAndWorkerRevokeForAWebhook(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	h := newWebhooks(t, c)
	// The identity may send, and nothing else.
	writer := servicebus.ConnectionString(c.amqp.Addr().String(), servicebus.Key{Name: "writer", Value: "w"})
	p := h.start("REVOKER_SERVICEBUS_CONNECTION_STRING=" + writer)
	if got := h.post(fmt.Sprintf(`{"type":"device.lost","userId":%q}`, id(0))); got != 200 {
		t.Fatalf("%d\n%s", got, &p.out)
	}
	c.start()
	c.until("the revocation", func() bool { return c.revoked(1) == 1 })
	p.terminate(t)
	if h.post("{}") != 0 {
		t.Error("it answers after its end")
	}
}

func TestIngestAndWorkerRevokeForASharedSignal(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	tx := ssftest.New("")
	server := httptest.NewServer(tx)
	defer server.Close()
	tx.Issuer = server.URL
	tx.Open()
	dir := t.TempDir()
	transmitters, file := filepath.Join(dir, "transmitters.yaml"), filepath.Join(dir, "worker.yaml")
	for name, text := range map[string]string{
		transmitters: fmt.Sprintf("transmitters:\n  - {name: idp, issuer: %s, audience: %s, jwks_url: %s/keys, "+
			"subjects: {opaque: entra_object_id}}\n", tx.Issuer, ssftest.Audience, tx.Issuer),
		file: fmt.Sprintf("ingest:\n  streams:\n    - {name: idp, issuer: %s}\n", tx.Issuer),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.env = append(c.env, "REVOKER_EVENTS_TRANSMITTERS_FILE="+transmitters)
	c.commandIn("", nil, "doctor", "--config", file).want(t, 0, "poll, enabled; a heartbeat every 15m0s")
	p := &process{Cmd: exec.Command(binary, "ingest", "--config", file)}
	p.Env = c.env
	p.Stdout, p.Stderr = &p.out, &p.out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	tx.Emit(ssftest.AccountDisabled, nil, map[string]any{"format": "opaque", "id": id(0)})
	c.start()
	c.until("the revocation", func() bool { return c.revoked(1) == 1 })
	p.terminate(t)
	if tx.Waiting() != 0 || len(tx.Refused()) != 0 {
		t.Errorf("%d wait, refused %v\n%s", tx.Waiting(), tx.Refused(), &p.out)
	}
}

func TestIngestRefusesToStartWithoutAVerifiedSource(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	for name, text := range map[string]string{
		"no source":     "log: {level: info}\n",
		"no verifier":   "ingest:\n  sources:\n    - {name: a, path: /a}\n",
		"unknown key":   "ingest:\n  sources:\n    - name: a\n      secrt_file: x\n",
		"secret inside": "ingest:\n  sources:\n    - {name: a, path: /a, verify: bearer, secret: " + webhookSecret + "}\n",
	} {
		file := filepath.Join(t.TempDir(), "worker.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(binary, "ingest", "--config", file)
		cmd.Env = c.env
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != 2 || !bytes.Contains(out, []byte("source")) {
			t.Errorf("%s: exit code %d (%v)\n%s", name, code, err, out)
		}
		if bytes.Contains(out, []byte(webhookSecret)) {
			t.Errorf("%s: the secret is shown:\n%s", name, out)
		}
	}
}

// TestChaosOfIngest sends webhooks as fast as they are answered while the broker goes away and comes
// back, and while the ingest is killed at random instants. Each event with a success is on the
// queue, by the broker's own records.
func TestChaosOfIngest(t *testing.T) {
	random := newRand(t)
	kills, senders := long(60, 4), 64
	c := newCloud(t, 1, time.Minute)
	h := newWebhooks(t, c)
	p := h.start()

	// First as fast as it goes, undisturbed.
	var accepted sync.Map
	var successes, refusals atomic.Int64
	var round atomic.Int64
	done := make(chan struct{})
	var sending sync.WaitGroup
	for s := range senders {
		sending.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				key := fmt.Sprintf("%d-%d", s, n)
				switch h.post(fmt.Sprintf(`{"type":"device.lost","userId":%q,"id":%q}`, id(0), key)) {
				case http.StatusOK:
					accepted.Store(key, round.Load())
					successes.Add(1)
				case 0:
					refusals.Add(1)
					time.Sleep(time.Millisecond) // nobody listens
				default:
					refusals.Add(1)
				}
			}
		})
	}
	calm := long(10*time.Second, 2*time.Second)
	c.until("the first successes", func() bool { return successes.Load() > 100 })
	before, began := successes.Load(), time.Now()
	time.Sleep(calm)
	t.Logf("%.0f webhooks per second are accepted", float64(successes.Load()-before)/time.Since(began).Seconds())

	for range kills {
		round.Add(1)
		before := successes.Load()
		c.until("some successes", func() bool { return successes.Load() > before+int64(random.IntN(300)) })
		if random.IntN(2) == 0 {
			back := c.away()
			time.Sleep(upTo(random, time.Second))
			back()
		}
		time.Sleep(upTo(random, 20*time.Millisecond))
		if err := p.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
		p = h.start()
	}
	before = successes.Load()
	c.until("successes after the last kill", func() bool { return successes.Load() > before+100 })
	close(done)
	sending.Wait()
	p.terminate(t)

	queued := map[string]bool{}
	for from := int64(0); ; {
		page, err := c.broker.Peek(queue, from, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, m := range page {
			_, after, _ := strings.Cut(string(m.Body), `"id":"`)
			queued[strings.TrimSuffix(after, `"}`)] = true
			from = m.SequenceNumber + 1
		}
	}
	lost := 0
	accepted.Range(func(key, in any) bool {
		if !queued[key.(string)] {
			lost++
			t.Errorf("answered with success and not on the queue: %v, of round %v", key, in)
		}
		return lost < 10
	})
	t.Logf("killed %d times; %d successes, %d refusals, %d messages on the queue", kills, successes.Load(), refusals.Load(), len(queued))
}

func TestDoctorChecksTheSourcesOfIngest(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	h := newWebhooks(t, c)
	config := h.args[2]
	got := c.command("", "doctor", "--config", config)
	for _, want := range []string{"1 source; their secrets are readable", "can send to " + queue} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("doctor does not say %q:\n%s", want, got.stdout)
		}
	}
	if !strings.Contains(got.stdout, "not known: only the running worker ingest knows") {
		t.Errorf("doctor does not say that it does not know when the source was heard:\n%s", got.stdout)
	}
	replicas := []*telemetry.IngestMetrics{telemetry.NewIngestMetrics("v", "c"), telemetry.NewIngestMetrics("v", "c")}
	replicas[0].LastAccepted.WithLabelValues("mdm").Set(0)
	replicas[1].LastAccepted.WithLabelValues("mdm").Set(float64(time.Now().Add(-3 * time.Hour).Unix()))
	replicas[0].LastAccepted.WithLabelValues("hr") // never heard
	replicas[0].LastAccepted.WithLabelValues("\x1b[31mevil").Set(math.Inf(1))
	args := []string{"doctor", "--config", config}
	for _, m := range replicas {
		m.Expected.WithLabelValues("mdm").Set((2 * time.Hour).Seconds())
		page := httptest.NewServer(promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{}))
		defer page.Close()
		args = append(args, "--ingest", page.URL)
	}
	got = c.command("", args...)
	for _, want := range []string{
		"WARN  ingest: mdm                         last event 3h0m", "expect_every is 2h0m0s",
		"OK    ingest: hr                          no event since worker ingest has started",
	} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("doctor does not say %q:\n%s", want, got.stdout)
		}
	}
	if strings.Contains(got.stdout, "evil") {
		t.Errorf("doctor prints a name that is none of a source:\n%s", got.stdout)
	}
	got = c.command("", "doctor", "--config", config, "--ingest", "http://"+c.amqp.Addr().String())
	if !strings.Contains(got.stdout, "not known from http://") {
		t.Errorf("doctor takes another server for worker ingest:\n%s", got.stdout)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(config), "secret"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	got = c.command("", "doctor", "--config", config)
	if got.code != 2 || !strings.Contains(got.stdout, "a secret needs at least 16") || !strings.Contains(got.stdout, "worker.yaml:7:7") {
		t.Errorf("exit code %d\n%s", got.code, got.stdout)
	}
}
