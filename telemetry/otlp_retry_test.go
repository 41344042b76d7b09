package telemetry

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// busyCollector answers 503 with Retry-After the first n times, and then 200.
func busyCollector(t *testing.T, n int, retryAfter string) (client *otlpClient, requests *int) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector")
	client, err := newOTLPClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	requests = new(int)
	client.http.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		*requests++
		status := http.StatusOK
		if *requests <= n {
			status = http.StatusServiceUnavailable
		}
		return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {retryAfter}}, Body: http.NoBody, Request: r}, nil
	})
	return client, requests
}

func TestTracesAreSentAgainWhenTheCollectorIsBusy(t *testing.T) {
	client, requests := busyCollector(t, 1, "20")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := client.UploadTraces(t.Context(), nil); err != nil || *requests != 2 || time.Since(start) != 20*time.Second {
			t.Errorf("%d requests in %v, %v", *requests, time.Since(start), err)
		}
	})
}

func TestTracesAreGivenUpAfterAMinute(t *testing.T) {
	client, requests := busyCollector(t, 1000, "1")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := client.UploadTraces(t.Context(), nil)
		if took := time.Since(start); err == nil || took > otlpMaxElapsed || *requests < 2 {
			t.Errorf("%d requests in %v, %v", *requests, took, err)
		}
	})
}

func TestTracesAreGivenUpWhenTheClientStops(t *testing.T) {
	client, _ := busyCollector(t, 1000, "1")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		time.AfterFunc(time.Second, func() { _ = client.Stop(context.Background()) })
		if err := client.UploadTraces(t.Context(), nil); err == nil || time.Since(start) != time.Second {
			t.Errorf("ended after %v, %v", time.Since(start), err)
		}
	})
}
