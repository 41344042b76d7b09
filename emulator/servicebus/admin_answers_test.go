package servicebus_test

import (
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// TestAdminAnswersAsTheServiceDoes has what tests of the JavaScript client expect of the service.
func TestAdminAnswersAsTheServiceDoes(t *testing.T) {
	broker, client, _ := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: "target"}}})
	a := adminOver(t, broker, servicebus.DefaultKey)
	created, err := a.CreateQueue(ctx, "from", &admin.CreateQueueOptions{Properties: &admin.QueueProperties{
		ForwardTo: new("SB://LOCALHOST:1/TARGET"), DuplicateDetectionHistoryTimeWindow: new("PT2M"),
	}})
	must(t, err)
	if *created.ForwardTo != "sb://localhost:1/TARGET" || *created.DuplicateDetectionHistoryTimeWindow != "PT2M" {
		t.Errorf("forwards to %s, window %s", *created.ForwardTo, *created.DuplicateDetectionHistoryTimeWindow)
	}
	if *created.RequiresDuplicateDetection {
		t.Error("a window alone turned duplicate detection on")
	}

	_, err = a.CreateTopic(ctx, "t", nil)
	must(t, err)
	_, err = a.CreateSubscription(ctx, "t", "s", nil)
	must(t, err)
	for _, name := range []string{"z", "B", "a"} {
		_, err = a.CreateRule(ctx, "t", "s", &admin.CreateRuleOptions{Name: &name, Filter: &admin.TrueFilter{}})
		must(t, err)
	}
	page, err := a.NewListRulesPager("t", "s", nil).NextPage(ctx)
	must(t, err)
	var names []string
	for _, r := range page.Rules {
		names = append(names, r.Name)
	}
	if got := strings.Join(names, " "); got != "$Default a B z" {
		t.Errorf("rules in the order %s", got)
	}

	sender, err := client.NewSender("elsewhere", nil)
	must(t, err)
	err = sender.SendMessage(ctx, &azservicebus.Message{}, nil)
	if err == nil || !strings.Contains(err.Error(), "The messaging entity 'sb://127.0.0.1/elsewhere' could not be found.") {
		t.Errorf("send to what does not exist: %v", err)
	}
}
