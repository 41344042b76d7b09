package ingest_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/config"
)

// Each handshake is answered as its sender documents it, and puts nothing on the queue.

// TestOktasDocumentedVerification has the request of
// https://developer.okta.com/docs/concepts/event-hooks/#one-time-verification-request.
func TestOktasDocumentedVerification(t *testing.T) {
	source := config.IngestSource{Name: "okta", Path: "/hooks/okta", Verify: "okta", SecretFile: secretFile(t, theKey)}
	inWorld(t, settings{sources: []config.IngestSource{source}}, func(w *world) {
		get := func(header ...string) (int, string, string) {
			got := w.do(request(http.MethodGet, "/hooks/okta", "", header...))
			return got.Code, got.Body.String(), got.Header().Get("Content-Type")
		}
		status, body, contentType := get("X-Okta-Verification-Challenge", "my verification challenge")
		if status != 200 || body != `{"verification":"my verification challenge"}` || contentType != "application/json" {
			t.Errorf("%d %s (%s)", status, body, contentType)
		}
		if status, body, _ := get("X-Okta-Verification-Challenge", "<script>"); status != 200 || strings.Contains(body, "<") {
			t.Errorf("markup: %d %s", status, body)
		}
		if status, _, _ := get(); status != 400 {
			t.Errorf("no challenge: %d", status)
		}
		w.wantQueued("handshakes", 0)
		body = `{"eventType":"com.okta.event_hook","eventId":"b5a188b9-5ece-4636-b041-482ffda96311","data":{"events":[]}}`
		w.want("an event", w.post("/hooks/okta", body, "Authorization", theKey), 200)
		m := w.wantQueued("an event", 1)
		if !strings.HasPrefix(m.MessageID, "okta:b5a188b9-5ece-4636-b041-482ffda96311:") || string(m.Body) != body {
			t.Errorf("%s: %s", m.MessageID, m.Body)
		}
	})
}

// validation is the event of
// https://learn.microsoft.com/azure/event-grid/end-point-validation-event-grid-events-schema.
const validation = `[{
  "id": "2d1781af-3a4c-4d7c-bd0c-e34b19da4e66",
  "topic": "/subscriptions/xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
  "subject": "",
  "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6",
    "validationUrl": "https://rp-eastus2.eventgrid.azure.net:553/eventsubscriptions/estest/validate"},
  "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
  "eventTime": "2018-01-25T22:12:19.4556811Z", "metadataVersion": "1", "dataVersion": "1"}]`

func TestEventGridsDocumentedHandshake(t *testing.T) {
	source := config.IngestSource{
		Name: "grid", Path: "/hooks/grid", Verify: "event-grid", SecretFile: secretFile(t, theKey), Subscriptions: []string{"LEAVERS"},
	}
	inWorld(t, settings{sources: []config.IngestSource{source}}, func(w *world) {
		const path = "/hooks/grid?code=" + theKey
		validate := func(path, body, subscription string) (int, string) {
			got := w.post(path, body, "aeg-event-type", "SubscriptionValidation", "aeg-subscription-name", subscription)
			return got.Code, got.Body.String()
		}
		if status, body := validate(path, validation, "leavers"); status != 200 ||
			body != `{"validationResponse":"512d38b6-c7b8-40c8-89fe-f46f9e9622b6"}` {
			t.Errorf("%d %s", status, body)
		}
		if status, _ := validate(path, validation, "strangers"); status != 403 {
			t.Errorf("another subscription: %d", status)
		}
		if status, _ := validate("/hooks/grid?code=x", validation, "leavers"); status != 401 {
			t.Errorf("a wrong secret: %d", status)
		}
		const empty = `[{"eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{}}]`
		if status, _ := validate(path, empty, "leavers"); status != 400 {
			t.Errorf("no code: %d", status)
		}
		w.want("a deletion", w.post(path, `[]`, "aeg-event-type", "SubscriptionDeletion"), 200)
		w.wantQueued("handshakes", 0)
		body := `[{"id":"831e1650-001e-001b-66ab-eeb76e069631","eventType":"x","data":{}}]`
		w.want("an event", w.post(path, body, "aeg-event-type", "Notification"), 200)
		m := w.wantQueued("an event", 1)
		if !strings.HasPrefix(m.MessageID, "grid:831e1650-001e-001b-66ab-eeb76e069631:") || string(m.Body) != body {
			t.Errorf("%s: %s", m.MessageID, m.Body)
		}
	})
}

func TestCloudEventsHandshake(t *testing.T) {
	sources := []config.IngestSource{
		{
			Name: "events", Path: "/events", Verify: "cloudevents", SecretFile: secretFile(t, theKey),
			Origins: []string{"eventemitter.example.com"}, Rate: 2,
		},
		{Name: "grid", Path: "/grid", Verify: "event-grid", SecretFile: secretFile(t, theKey)},
		{Name: "plain", Path: "/plain", Verify: "bearer", SecretFile: secretFile(t, theKey)},
	}
	inWorld(t, settings{sources: sources}, func(w *world) {
		ask := func(path, origin string) http.Header {
			got := w.do(request(http.MethodOptions, path, "", "WebHook-Request-Origin", origin, "WebHook-Request-Rate", "120",
				"WebHook-Request-Callback", "https://169.254.169.254/"))
			if got.Code != 200 {
				return nil
			}
			return got.Header()
		}
		got := ask("/events", "eventemitter.example.com")
		if got.Get("WebHook-Allowed-Origin") != "eventemitter.example.com" || got.Get("WebHook-Allowed-Rate") != "120" ||
			!strings.Contains(got.Get("Allow"), "POST") {
			t.Errorf("%v", got)
		}
		if ask("/grid", "eventgrid.azure.net").Get("WebHook-Allowed-Origin") != "eventgrid.azure.net" {
			t.Error("Event Grid's origin is not allowed")
		}
		for path, origin := range map[string]string{"/events": "evil.example.com", "/grid": "", "/plain": "eventemitter.example.com"} {
			if ask(path, origin) != nil {
				t.Errorf("%s: %q is allowed", path, origin)
			}
		}
	})
}

func TestGraphValidationToken(t *testing.T) {
	source := config.IngestSource{Name: "graph", Path: "/graph", Verify: "graph", SecretFile: secretFile(t, theKey)}
	inWorld(t, settings{sources: []config.IngestSource{source}}, func(w *world) {
		const token = "Validation: Testing client application reachability for subscription <1>+&"
		got := w.post("/graph?validationToken="+url.QueryEscape(token), "")
		if got.Code != 200 || got.Body.String() != token || !strings.HasPrefix(got.Header().Get("Content-Type"), "text/plain") ||
			got.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%d %s %v", got.Code, got.Body, got.Header())
		}
		w.want("too long", w.post("/graph?validationToken="+strings.Repeat("x", 3000), ""), 400)
		w.wantQueued("handshakes", 0)
	})
}

func TestWorkspaceOneTestsByGET(t *testing.T) {
	source := config.IngestSource{
		Name: "uem", Path: "/uem", Verify: "workspace-one", Username: "uem", SecretFile: secretFile(t, theKey),
	}
	inWorld(t, settings{sources: []config.IngestSource{source}}, func(w *world) {
		test := func(password string) int {
			return w.do(request(http.MethodGet, "/uem", "", "Authorization", basic("uem", password))).Code
		}
		if right, wrong := test(theKey), test("x"); right != 200 || wrong != 401 {
			t.Errorf("%d, and %d with a wrong password", right, wrong)
		}
		w.wantQueued("tests", 0)
		w.want("an event", w.post("/uem", `{"EventId":178}`, "Authorization", basic("uem", theKey)), 200)
		if m := w.wantQueued("an event", 1); strings.Contains(m.MessageID, "178") {
			t.Errorf("MessageID %q: EventId is the number of a type, not an id", m.MessageID)
		}
	})
}
