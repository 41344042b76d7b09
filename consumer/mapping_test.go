package consumer_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event/mapping"
)

// mdmMappings is a mapping for a made-up MDM.
const mdmMappings = `
mappings:
  - name: mdm
    match: body.?vendor.orValue("") == "acme"
    each: body.events
    types: {of: item.kind, is: {lost: device.lost}}
    user: [{id: 'item.?owner'}, {name: 'item.?login'}]
    device: {serial: 'item.?serial'}
    takes_effect: item.?due
`

func mdmDecoder(t *testing.T) *mapping.Decoder {
	t.Helper()
	d, err := mapping.New(mapping.Config{
		Files: []mapping.File{{Name: "mdm.yaml", Text: []byte(mdmMappings)}}, Presets: []string{mapping.NoPresets},
		AllowedDomains: []string{"contoso.com"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// fromMDM returns a message of the MDM about ada, about nobody, and about somebody of another domain.
func fromMDM() *azservicebus.Message {
	return &azservicebus.Message{Body: fmt.Appendf(nil, `{"vendor":"acme","initiatedBy":%q,"events":[
		{"kind":"lost","owner":%q},{"kind":"ping","owner":%q},{"kind":"lost","serial":"C02"},{"kind":"lost","login":"eve@gmail.com"}]}`,
		grace.UserPrincipalName, ada.ID, grace.ID)}
}

func TestMappedMessageRevokesItsUserAndDeadLettersTheRest(t *testing.T) {
	for _, hashed := range []bool{false, true} {
		var mu sync.Mutex
		var records []audit.Decision
		keep := func(d audit.Decision) {
			mu.Lock()
			defer mu.Unlock()
			records = append(records, d)
		}
		inBubble(t, settings{audit: keep, hashUsers: hashed, decoder: mdmDecoder(t)}, func(t *testing.T, w *world) {
			w.send(fromMDM())
			w.run()
			w.settled(time.Minute)
			w.wantRevoked(ada)
			for _, m := range w.dead() {
				if got := m.ApplicationProperties[deadletter.PropertyFailed]; got != "1,2,3" {
					t.Errorf("failed events %v", got)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			reasons := map[string]bool{}
			for _, d := range records {
				reasons[d.Reason] = true
				if d.Reason == "ForeignDomain" && !strings.Contains(d.UserPrincipalName, "gmail") {
					t.Errorf("the record does not say who was refused: %+v", d)
				}
				if d.Mapping != "mdm" || d.Outcome == "revoked" && d.Field != "body.events[0].owner" {
					t.Errorf("%+v", d)
				}
			}
			if len(records) != 4 || !reasons["NoTrigger"] || !reasons["OwnerUnclear"] || !reasons["ForeignDomain"] {
				t.Errorf("%+v", records)
			}
			lines := strings.Join(w.lines(), "\n")
			if strings.Count(lines, `"mapping":"mdm"`) < 4 || !strings.Contains(lines, `"field":"body.events[0].owner"`) {
				t.Errorf("the log lacks the mapping or the field:\n%s", lines)
			}
			if hashed && (strings.Contains(lines, ada.ID) || strings.Contains(lines, "C02") || strings.Contains(lines, "gmail")) {
				t.Errorf("the log names somebody:\n%s", lines)
			}
		})
	}
}

func TestDryRunSaysWhatWouldBecomeOfMappedEvents(t *testing.T) {
	inBubble(t, settings{decoder: mdmDecoder(t), horizon: 365 * 24 * time.Hour}, func(t *testing.T, w *world) {
		soon := time.Now().Add(30 * 24 * time.Hour).UTC().Format(time.RFC3339)
		w.send(fromMDM(), &azservicebus.Message{Body: fmt.Appendf(nil, `{"vendor":"acme","events":[
			{"kind":"lost","login":"ada@contoso.com","due":%q}]}`, soon)})
		ended := make(chan struct{})
		go func() { defer close(ended); w.worker.DryRun(w.soft) }()
		time.Sleep(10 * time.Second)
		w.stopSoft()
		<-ended
		lines := strings.Join(w.lines(), "\n")
		for text, want := range map[string]int{`"would_revoke"`: 1, `"would_dead_letter"`: 3, `"would_schedule"`: 1} {
			if got := strings.Count(lines, text); got != want {
				t.Errorf("%s: %d lines, want %d\n%s", text, got, want, lines)
			}
		}
	})
}
