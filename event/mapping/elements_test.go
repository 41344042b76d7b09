package mapping_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/event"
)

// shown is what became of the events of a message: whom each signs out, or why it does not.
func shown(t *testing.T, m event.Message) string {
	t.Helper()
	d, err := withoutLookups()
	if err != nil {
		t.Fatal(err)
	}
	items, err := d.Decode(m)
	if err != nil {
		return "error: " + err.Error()
	}
	var all []string
	for i, item := range items {
		if item.Index != i {
			t.Errorf("event %d has the index %d", i, item.Index)
		}
		text := item.Event.Mapping + " " + item.Event.User.String()
		if problem, ok := errors.AsType[*event.Error](item.Err); ok {
			text = kinds[problem.Kind]
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

const (
	jamf = `{"webhook":{"webhookEvent":"%s","eventTimestamp":1772366400123},"event":{"emailAddress":"%s@contoso.com"}}`
	airw = `{"EventId":178,"EventType":"CompromisedStatusChanged","DeviceId":1,` +
		`"EnrollmentEmailAddress":"%s@contoso.com","CompromisedStatus":"%s"}`
	mine = `{"specversion":"1.0","id":"1","source":"/mdm","type":"%s","data":{"upn":"%s@contoso.com"}}`
	deed = `{"timestamp":"2026-03-01T12:00:00Z","actor_full_name":"Help Desk","type":"%s",` +
		`"details":{"device_mapping":[{"email":"%s@contoso.com","source":"mdm_idp_accounts"}]}}`
	evil = `{"id":"%s","severity":"high","title":"t",` +
		`"evidence":[{"@odata.type":"#microsoft.graph.security.userEvidence","userAccount":{"userPrincipalName":"%[1]s@contoso.com"}}]}`
)

func TestElementsOfAListAreReadOneByOne(t *testing.T) {
	lost := fmt.Sprintf(jamf, "MobileDeviceUnEnrolled", "ada")
	for name, c := range map[string]struct{ contentType, body, want string }{
		"webhooks of Jamf Pro": {
			"", "[" + lost + "," + fmt.Sprintf(jamf, "MobileDeviceCheckIn", "grace") + "]", "jamf-pro ada@contoso.com, NoTrigger",
		},
		"webhooks of Workspace ONE": {
			"", "[" + fmt.Sprintf(airw, "ada", "Compromised") + "," + fmt.Sprintf(airw, "grace", "Not Compromised") + "]",
			"workspace-one ada@contoso.com, NoTrigger",
		},
		"webhooks of Fleet": {
			"", "[" + fmt.Sprintf(deed, "edited_pack", "x") + "," + fmt.Sprintf(deed, "wiped_host", "ada") + "]",
			"NoTrigger, fleet ada@contoso.com",
		},
		"one of them": {"", "[" + lost + "]", "jamf-pro ada@contoso.com"},
		"of several senders": {
			"", "[" + lost + "," + fmt.Sprintf(airw, "grace", "Compromised") + `,{"hello":1}, 7]`,
			"jamf-pro ada@contoso.com, workspace-one grace@contoso.com, UnknownType, Invalid",
		},
		"CloudEvents with another type": {
			"application/cloudevents-batch+json",
			"[" + fmt.Sprintf(mine, "com.contoso.backup.done", "grace") + "," +
				fmt.Sprintf(mine, "com.contoso.mdm.device.lost", "ada") + "]",
			"UnknownType, cloudevents ada@contoso.com",
		},
		"CloudEvents whose data is in Base64": {
			"", `[{"specversion":"1.0","id":"1","source":"/x","type":"a.b","data":{}},{"specversion":"1.0","id":"2","source":"/x",` +
				`"type":"com.contoso.device.lost","data_base64":"eyJ1cG4iOiJhZGFAY29udG9zby5jb20ifQ=="}]`,
			"UnknownType, cloudevents ada@contoso.com",
		},
		"CloudEvents that end alike": {
			"", "[" + fmt.Sprintf(mine, "com.contoso.device.lost.resolved", "grace") + "," +
				fmt.Sprintf(mine, "com.contoso.device.lost", "ada") + "]",
			"UnknownType, cloudevents ada@contoso.com",
		},
		"Event Grid's with another type": {
			"", `[{"id":"1","eventType":"Microsoft.Storage.BlobCreated","data":{}},` +
				`{"id":"2","eventType":"Microsoft.Graph.UserDeleted",` +
				`"data":{"resourceData":{"id":"588d7c15-8565-448e-bc2d-57f2b7c4c58a"}}}]`,
			"UnknownType, eventgrid-entra-users 588d7c15-8565-448e-bc2d-57f2b7c4c58a",
		},
		"Graph's list of alerts": {
			"", `{"@odata.context":"https://graph.microsoft.com/v1.0/$metadata#security/alerts_v2","value":[` +
				fmt.Sprintf(evil, "ada") + "," + fmt.Sprintf(evil, "grace") + `]}`,
			"defender-alert ada@contoso.com, defender-alert grace@contoso.com",
		},
		"Graph's list of changes with another entry": {
			"", `{"value":[{"id":"n1","subscriptionId":"s","changeType":"deleted","resource":"Users/x",` +
				`"resourceData":{"@odata.type":"#Microsoft.Graph.User","id":"588d7c15-8565-448e-bc2d-57f2b7c4c58a"}},{"hello":1}]}`,
			"graph-notifications 588d7c15-8565-448e-bc2d-57f2b7c4c58a, UnknownType",
		},
		"a list of something else":    {"", `[{"hello":1},{"hello":2}]`, "UnknownType, UnknownType"},
		"a list beside other members": {"", `{"hello":1,"value":[` + lost + `]}`, "UnknownType"},
		"a list in a list":            {"", "[[" + lost + "]]", "Invalid"},
	} {
		if got := shown(t, event.Message{ContentType: c.contentType, Body: []byte(c.body)}); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestElementsAreBoundedTogether(t *testing.T) {
	lost := fmt.Sprintf(jamf, "MobileDeviceUnEnrolled", "ada")
	body := "[" + strings.Repeat(lost+",", event.MaxEvents) + lost + "]"
	if got := shown(t, event.Message{Body: []byte(body)}); !strings.HasPrefix(got, "error: ") {
		t.Errorf("%.200s", got)
	}
	hook := `{"eventType":"com.okta.event_hook","data":{"events":[` + strings.Repeat(`{"eventType":"user.session.end"},`, 600) + `{}]}}`
	if got := shown(t, event.Message{Body: []byte("[" + hook + "," + hook + "]")}); !strings.HasPrefix(got, "error: ") {
		t.Errorf("%.200s", got)
	}
}
