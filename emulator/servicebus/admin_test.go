package servicebus_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// adminOver serves the administration API over TLS and returns the real client for it.
func adminOver(t *testing.T, broker *servicebus.Broker, key servicebus.Key) *admin.Client {
	t.Helper()
	web := httptest.NewTLSServer(broker.Admin())
	t.Cleanup(web.Close)
	connection := servicebus.ConnectionString(strings.TrimPrefix(web.URL, "https://"), key)
	client, err := admin.NewClientFromConnectionString(connection, &admin.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport: web.Client(), Retry: policy.RetryOptions{MaxRetries: -1},
	}})
	must(t, err)
	return client
}

func wantStatus(t *testing.T, err error, status int) {
	t.Helper()
	var response *azcore.ResponseError
	if !errors.As(err, &response) || response.StatusCode != status {
		t.Errorf("error %v, want HTTP %d", err, status)
	}
}

func TestAdminQueues(t *testing.T) {
	broker, client, _ := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	a := adminOver(t, broker, servicebus.DefaultKey)
	created, err := a.CreateQueue(ctx, "made", &admin.CreateQueueOptions{Properties: &admin.QueueProperties{
		LockDuration: new("PT30S"), MaxDeliveryCount: new(int32(3)), DefaultMessageTimeToLive: new("P1D"),
		DeadLetteringOnMessageExpiration: new(true), ForwardDeadLetteredMessagesTo: new(queue),
	}})
	must(t, err)
	if created.QueueName != "made" || *created.LockDuration != "PT30S" || *created.MaxDeliveryCount != 3 ||
		*created.DefaultMessageTimeToLive != "P1D" ||
		!*created.DeadLetteringOnMessageExpiration || *created.ForwardDeadLetteredMessagesTo != queue {
		t.Errorf("created %+v", created.QueueProperties)
	}
	_, err = a.CreateQueue(ctx, "MADE", nil)
	wantStatus(t, err, http.StatusConflict)
	_, err = a.CreateQueue(ctx, "other", &admin.CreateQueueOptions{Properties: &admin.QueueProperties{ForwardTo: new("nowhere")}})
	wantStatus(t, err, http.StatusBadRequest)

	sender, err := client.NewSender("made", nil)
	must(t, err)
	for range 3 {
		must(t, sender.SendMessage(ctx, &azservicebus.Message{}, nil))
	}
	_, err = sender.ScheduleMessages(ctx, []*azservicebus.Message{{}}, time.Now().Add(time.Hour), nil)
	must(t, err)
	receiver, err := client.NewReceiverForQueue("made", nil)
	must(t, err)
	messages := receiveFrom(t, receiver, 2)
	must(t, receiver.DeadLetterMessage(ctx, messages[0], nil))
	runtime, err := a.GetQueueRuntimeProperties(ctx, "made", nil)
	must(t, err)
	if runtime.ActiveMessageCount != 2 || runtime.ScheduledMessageCount != 1 || runtime.DeadLetterMessageCount != 0 ||
		runtime.TotalMessageCount != 3 || runtime.CreatedAt.IsZero() {
		t.Errorf("counts %+v; the dead letter was forwarded", runtime.QueueRuntimeProperties)
	}

	properties := created.QueueProperties
	properties.MaxDeliveryCount = new(int32(7))
	updated, err := a.UpdateQueue(ctx, "made", properties, nil)
	must(t, err)
	if *updated.MaxDeliveryCount != 7 || *updated.LockDuration != "PT30S" {
		t.Errorf("updated %+v", updated.QueueProperties)
	}
	_, err = a.UpdateQueue(ctx, "missing", properties, nil)
	wantStatus(t, err, http.StatusNotFound)

	must2(t)(a.DeleteQueue(ctx, "made", nil))
	if got, err := a.GetQueue(ctx, "made", nil); err != nil || got != nil {
		t.Errorf("after deleting: %v, %v", got, err)
	}
	late, err := client.NewSender("made", nil)
	must(t, err)
	wantCode(t, late.SendMessage(ctx, &azservicebus.Message{}, nil), azservicebus.CodeNotFound)
}

// must2 fails on the error of a call whose result does not matter.
func must2(t *testing.T) func(any, error) {
	return func(_ any, err error) {
		t.Helper()
		must(t, err)
	}
}

// Tools read a description, change one setting and write all of it back. No other setting may be
// lost.
func TestAdminReturnsSettingsAsWritten(t *testing.T) {
	broker, _, _ := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: "target"}}})
	a := adminOver(t, broker, servicebus.DefaultKey)
	want := admin.QueueProperties{
		LockDuration: new("PT45S"), MaxSizeInMegabytes: new(int32(4096)), RequiresDuplicateDetection: new(true), RequiresSession: new(true),
		DefaultMessageTimeToLive: new("PT6H"), DeadLetteringOnMessageExpiration: new(true),
		DuplicateDetectionHistoryTimeWindow: new("PT4H"),
		MaxDeliveryCount:                    new(int32(77)), EnableBatchedOperations: new(false), AutoDeleteOnIdle: new("PT10M"),
		EnablePartitioning: new(true),
		ForwardTo:          new("sb://namespace.example/target"), ForwardDeadLetteredMessagesTo: new("https://namespace.example/target"),
		UserMetadata: new("owner: <ada>"), MaxMessageSizeInKilobytes: new(int64(1024)),
		AuthorizationRules: []admin.AuthorizationRule{{
			AccessRights: []admin.AccessRight{admin.AccessRightSend}, KeyName: new("sender"), PrimaryKey: new("p"), SecondaryKey: new("s"),
		}},
	}
	created, err := a.CreateQueue(ctx, "made", &admin.CreateQueueOptions{Properties: &want})
	must(t, err)
	want.Status = new(admin.EntityStatusActive)
	want.MaxSizeInMegabytes = new(int32(16 * 4096)) // as the service reports a partitioned entity
	if !reflect.DeepEqual(created.QueueProperties, want) {
		t.Errorf("created\n%s, want\n%s", asJSON(created.QueueProperties), asJSON(want))
	}
	updated, err := a.UpdateQueue(ctx, "made", created.QueueProperties, nil)
	must(t, err)
	if !reflect.DeepEqual(updated.QueueProperties, want) {
		t.Errorf("updated\n%s, want\n%s", asJSON(updated.QueueProperties), asJSON(want))
	}
	for setting, change := range map[string]func(*admin.QueueProperties){
		"RequiresSession property": func(p *admin.QueueProperties) { p.RequiresSession = new(false) },
		"Partitioning cannot":      func(p *admin.QueueProperties) { p.EnablePartitioning = new(false) },
	} {
		changed := want
		change(&changed)
		_, err = a.UpdateQueue(ctx, "made", changed, nil)
		wantStatus(t, err, http.StatusBadRequest)
		if err != nil && !strings.Contains(err.Error(), setting) {
			t.Errorf("error %v, want one with %s", err, setting)
		}
	}
}

func asJSON(v any) string {
	written, _ := json.MarshalIndent(v, "", " ")
	return string(written)
}

func TestAdminTopicsSubscriptionsAndRules(t *testing.T) {
	broker, client, _ := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	a := adminOver(t, broker, servicebus.DefaultKey)
	must2(t)(a.CreateTopic(ctx, "colors", nil))
	_, err := a.CreateSubscription(ctx, "missing", "all", nil)
	wantStatus(t, err, http.StatusNotFound)
	must2(t)(a.CreateSubscription(ctx, "colors", "all", &admin.CreateSubscriptionOptions{
		Properties: &admin.SubscriptionProperties{MaxDeliveryCount: new(int32(4))},
	}))
	must2(t)(a.CreateSubscription(ctx, "colors", "red", &admin.CreateSubscriptionOptions{Properties: &admin.SubscriptionProperties{
		DefaultRule: &admin.RuleProperties{Name: "red", Filter: &admin.SQLFilter{Expression: "color = 'red'"}},
	}}))
	must2(t)(a.CreateRule(ctx, "colors", "red", &admin.CreateRuleOptions{Name: new("five"), Filter: &admin.CorrelationFilter{
		Subject: new("green"), ApplicationProperties: map[string]any{"n": int64(5)},
	}}))
	_, err = a.CreateRule(ctx, "colors", "red", &admin.CreateRuleOptions{
		Name: new("bad"), Filter: &admin.SQLFilter{Expression: "color LIKE"},
	})
	if wantStatus(t, err, http.StatusBadRequest); err == nil || !strings.Contains(err.Error(), "column 11: expected a property") {
		t.Errorf("the error does not say why: %v", err)
	}
	got, err := a.GetRule(ctx, "colors", "red", "five", nil)
	must(t, err)
	if filter, ok := got.Filter.(*admin.CorrelationFilter); !ok || *filter.Subject != "green" ||
		filter.ApplicationProperties["n"] != int64(5) {
		t.Errorf("rule %+v", got.RuleProperties)
	}

	sender, err := client.NewSender("colors", nil)
	must(t, err)
	for _, color := range []string{"red", "green", "blue"} {
		must(t, sender.SendMessage(ctx, colored(color), nil))
	}
	for name, want := range map[string]int32{"all": 3, "red": 2} {
		runtime, err := a.GetSubscriptionRuntimeProperties(ctx, "colors", name, nil)
		must(t, err)
		if runtime.ActiveMessageCount != want || runtime.TotalMessageCount != int64(want) {
			t.Errorf("%s: %+v", name, runtime.SubscriptionRuntimeProperties)
		}
	}
	topic, err := a.GetTopicRuntimeProperties(ctx, "colors", nil)
	must(t, err)
	if topic.SubscriptionCount != 2 {
		t.Errorf("topic %+v", topic.TopicRuntimeProperties)
	}

	must2(t)(a.DeleteRule(ctx, "colors", "red", "red", nil))
	var names []string
	for pager := a.NewListRulesPager("colors", "red", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		must(t, err)
		for _, r := range page.Rules {
			names = append(names, r.Name)
		}
	}
	if len(names) != 1 || names[0] != "five" {
		t.Errorf("rules %v", names)
	}
	must2(t)(a.DeleteTopic(ctx, "colors", nil))
	if got, err := a.GetSubscription(ctx, "colors", "all", nil); err != nil || got != nil {
		t.Errorf("a subscription outlived its topic: %v, %v", got, err)
	}
}

func TestAdminListsInPages(t *testing.T) {
	cfg := servicebus.Config{Topics: []servicebus.TopicConfig{{QueueConfig: servicebus.QueueConfig{Name: "t"}}}}
	for i := range 5 {
		cfg.Queues = append(cfg.Queues, servicebus.QueueConfig{Name: "q" + string(rune('e'-i))})
		cfg.Topics[0].Subscriptions = append(cfg.Topics[0].Subscriptions, subscription("s"+string(rune('a'+i))))
	}
	broker, err := servicebus.New(cfg)
	must(t, err)
	t.Cleanup(func() { _ = broker.Close() })
	a := adminOver(t, broker, servicebus.DefaultKey)
	var names []string
	for pager := a.NewListQueuesPager(&admin.ListQueuesOptions{MaxPageSize: 2}); pager.More(); {
		page, err := pager.NextPage(ctx)
		must(t, err)
		if len(page.Queues) > 2 {
			t.Errorf("a page of %d", len(page.Queues))
		}
		for _, q := range page.Queues {
			names = append(names, q.QueueName)
		}
	}
	for pager := a.NewListSubscriptionsPager("t", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		must(t, err)
		for _, s := range page.Subscriptions {
			names = append(names, s.SubscriptionName)
		}
	}
	for pager := a.NewListTopicsPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		must(t, err)
		for _, topic := range page.Topics {
			names = append(names, topic.TopicName)
		}
	}
	if got := strings.Join(names, " "); got != "qa qb qc qd qe sa sb sc sd se t" {
		t.Errorf("listed %s", got)
	}
	info, err := a.GetNamespaceProperties(ctx, nil)
	if err != nil || info.SKU != "Standard" {
		t.Errorf("namespace %+v, %v", info, err)
	}
}

func TestAdminNeedsTheManageClaim(t *testing.T) {
	listenOnly := servicebus.Key{Name: "reader", Value: "r", Listen: true, Send: true}
	broker, err := servicebus.New(servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: queue}}, Keys: []servicebus.Key{servicebus.DefaultKey, listenOnly},
	})
	must(t, err)
	t.Cleanup(func() { _ = broker.Close() })
	for _, key := range []servicebus.Key{listenOnly, {Name: "RootManageSharedAccessKey", Value: "wrong"}, {Name: "nobody", Value: "x"}} {
		_, err := adminOver(t, broker, key).GetQueue(ctx, queue, nil)
		wantStatus(t, err, http.StatusUnauthorized)
	}
	a := adminOver(t, broker, listenOnly)
	if got, err := a.GetQueue(ctx, "nowhere", nil); err != nil || got != nil {
		t.Errorf("a queue that does not exist: %v, %v; the service does not require a claim to say so", got, err)
	}
	_, write := a.CreateQueue(ctx, "new", nil)
	_, remove := a.DeleteQueue(ctx, queue, nil)
	_, create := a.CreateSubscription(ctx, "topic", "s", nil)
	_, list := a.NewListSubscriptionsPager("topic", nil).NextPage(ctx)
	for want, err := range map[string]error{
		"Manage,EntityWrite": write, "Manage,EntityDelete": remove, "'CreateOrUpdateSubscription'": create,
		"'EnumerateSubscriptions'": list,
	} {
		wantStatus(t, err, http.StatusUnauthorized)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %s", err, want)
		}
	}
}

func TestAdminUpdateDetachesLinks(t *testing.T) {
	broker, client, _ := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	a := adminOver(t, broker, servicebus.DefaultKey)
	receiver, err := client.NewReceiverForQueue(queue, nil)
	must(t, err)
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("one")}, nil))
	must(t, receiver.CompleteMessage(ctx, receiveFrom(t, receiver, 1)[0], nil))
	got, err := a.GetQueue(ctx, queue, nil)
	must(t, err)
	got.MaxDeliveryCount = new(int32(5))
	must2(t)(a.UpdateQueue(ctx, queue, got.QueueProperties, nil))
	after, err := client.NewReceiverForQueue(queue, nil)
	must(t, err)
	waiting := make(chan error, 1)
	go func() {
		short, cancel := context.WithTimeout(ctx, 600*time.Millisecond) // the detach comes after 150 ms
		defer cancel()
		_, err := after.ReceiveMessages(short, 1, nil)
		waiting <- errors.Join(err, after.Close(ctx))
	}()
	// The receiver notices and continues with a new link.
	messages, err := receiver.ReceiveMessages(ctx, 1, nil)
	if len(messages) != 0 || err != nil {
		t.Fatalf("received %v, %v; want the link to end", messages, err)
	}
	// A link that was made after the change stays.
	if err := <-waiting; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the wait on a newer link ended with %v", err)
	}
	must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("two")}, nil))
	if got := bodies(receiveFrom(t, receiver, 1)); got != "[two]" {
		t.Errorf("received %s", got)
	}
	disabled := admin.EntityStatusDisabled
	got.Status = &disabled
	must2(t)(a.UpdateQueue(ctx, queue, got.QueueProperties, nil))
	late, err := client.NewSender(queue, nil)
	must(t, err)
	if err := late.SendMessage(ctx, &azservicebus.Message{}, nil); err == nil || !strings.Contains(err.Error(), "disabled") {
		t.Errorf("sending to a disabled queue: %v", err)
	}
}
