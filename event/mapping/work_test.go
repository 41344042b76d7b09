package mapping_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/mapping"
)

// TestSharedPartsDoNotCostForEachEvent: expressions read what stands beside the events once for each
// of them. The presets are the ones that everybody uses.
func TestSharedPartsDoNotCostForEachEvent(t *testing.T) {
	d, err := mapping.New(mapping.Config{})
	if err != nil {
		t.Fatal(err)
	}
	repeat := func(text string) string { return strings.TrimSuffix(strings.Repeat(text+",", 1000), ",") }
	wipes := repeat(`{"name":"ACTION_REQUESTED","parameters":[{"name":"ACTION_TYPE","value":"DEVICE_WIPE"},
		{"name":"USER_EMAIL","value":"ada@contoso.com"}]}`)
	evidence := repeat(`{"entityType":"User","aadUserId":"588d7c15-8565-448e-bc2d-57f2b7c4c58a"}`)
	var members, spellings strings.Builder
	for i := range 14000 {
		fmt.Fprintf(&members, `"k%d":1,`, i)
		spelling := ""
		for bit, letter := range "uniqueQualifier" {
			if spelling += string(letter); i>>bit&1 == 1 {
				spelling += "_"
			}
		}
		fmt.Fprintf(&spellings, `"%s":null,`, spelling+"_")
	}
	wide := `{` + members.String() + `"applicationName":"mobile"}`
	for name, body := range map[string]string{
		"equal-objects":  `{"id":` + wide + `,"_id":` + wide + `,"events":[` + wipes + `]}`,
		"many-spellings": `{"id":{` + spellings.String() + `"applicationName":"mobile"},"events":[` + wipes + `]}`,
		"long-text":      `{"id":"1","severity":"High","status":"` + strings.Repeat("A ", 300000) + `","evidence":[` + evidence + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			items, err := d.Decode(event.Message{Body: []byte(body)})
			if err != nil || len(items) != 1000 || items[0].Err != nil {
				t.Fatalf("%d items, %v: want 1000, and the first one valid", len(items), err)
			}
			last := items[999]
			if last.Err == nil || !strings.Contains(last.Err.Error(), "takes too long to read") || !last.Event.User.IsZero() {
				t.Errorf("the last event: user %v, error %v; want one that says that this takes too long", last.Event.User, last.Err)
			}
		})
	}
	t.Run("real", func(t *testing.T) {
		hook := strings.ReplaceAll(string(largeHook(650)), "com.example.hook", "com.okta.event_hook")
		hook = strings.ReplaceAll(hook, `"user.deactivate"`, `"user.lifecycle.deactivate"`)
		items, err := d.Decode(event.Message{Body: []byte(hook)})
		if err != nil || len(items) != 650 || items[649].Err != nil {
			t.Errorf("%d items, %v: want 650 valid ones", len(items), err)
		}
	})
}
