package servicebus_test

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

func TestAdminRefusesNamesThatTheServiceRefuses(t *testing.T) {
	_, d := newDocuments(t, oneTopic(subscription("s")))
	entity := func(kind string) string {
		return `<entry xmlns="` + nsAtom + `"><content><` + kind + `Description xmlns="` + nsConnect + `"/></content></entry>`
	}
	put := func(path string) (status int, answer string) {
		switch {
		case strings.Contains(path, "/Rules/"):
			return d.send(http.MethodPut, path, ruleDocument(""), false)
		case strings.Contains(path, "/Subscriptions/"):
			return d.send(http.MethodPut, path, entity("Subscription"), false)
		}
		if status, answer = d.send(http.MethodPut, path, entity("Topic"), false); status == http.StatusBadRequest {
			return d.send(http.MethodPut, path, entity("Queue"), false)
		}
		return status, answer
	}
	for path, want := range map[string]string{
		"a%3Fb": "the character '?'", "a%23b": "the character '#'", "a%5Cb": `the character '\\'`, "a@b": "the character '@'",
		"a*b": "the character '*'", "a%00b": "is not allowed", "a$b": "$ is reserved", "a//b": "empty part", "a%20": "a space",
		strings.Repeat("a", 261): "at most 260", strings.Repeat("ü", 261): "at most 260",
		"t/Subscriptions/" + strings.Repeat("a", 51): "at most 50", "t/Subscriptions/a@b": "the character '@'",
		"t/Subscriptions/a%2Fb":                              "/ is not allowed",
		"t/Subscriptions/s/Rules/" + strings.Repeat("a", 51): "at most 50", "t/Subscriptions/s/Rules/a%3Fb": "the character '?'",
		"t/Subscriptions/s/Rules/a/b": "/ is not allowed", "t/Subscriptions/s/Rules/$x": "$ is reserved",
	} {
		if status, answer := put(path); status != http.StatusBadRequest || !strings.Contains(answer, want) {
			t.Errorf("%s: %d, want 400 with %q: %s", path, status, want, answer)
		}
	}
	for _, path := range []string{
		"a", "A.b-c_d/e/f", strings.Repeat("ü", 260), "t/Subscriptions/" + strings.Repeat("s", 50), "t/Subscriptions/rules",
		"t/Subscriptions/s/Rules/rules", "t/Subscriptions/rules/Rules/" + strings.Repeat("r", 50), "a%20b",
	} {
		if status, answer := put(path); status != http.StatusCreated {
			t.Errorf("%s: %d: %s", path, status, answer)
		}
		d.want(http.StatusOK, http.MethodGet, path, "", "<entry")
	}
	// Names ignore case.
	for _, path := range []string{"A", "T/SUBSCRIPTIONS/RULES", "t/subscriptions/S/rules/RULES"} {
		if status, answer := put(path); status != http.StatusConflict && !strings.Contains(answer, "already exists") {
			t.Errorf("%s: %d: %s", path, status, answer)
		}
	}
}

// The names of the elements, in the order of the service.
func TestAdminDescribesEntitiesInTheOrderOfTheService(t *testing.T) {
	correlation, err := rule.NewCorrelation(map[string]string{"Label": "x"}, nil)
	must(t, err)
	cfg := oneTopic(subscription("s", rule.True{}, correlation), subscription("u"))
	cfg.Queues = []servicebus.QueueConfig{{Name: "q", ForwardDeadLettersTo: "t"}}
	_, d := newDocuments(t, cfg)
	elements := func(path, kind string) string {
		t.Helper()
		answer := d.want(http.StatusOK, http.MethodGet, path, "", "<"+kind+` xmlns="`+nsConnect+`"`,
			`<CountDetails xmlns:d2p1="http://schemas.microsoft.com/netservices/2011/06/servicebus"><d2p1:ActiveMessageCount>0<`)
		var names []string
		for _, found := range regexp.MustCompile(`<([A-Za-z]+|d2p1:[A-Za-z]+)[ >]`).FindAllStringSubmatch(answer[strings.Index(answer,
			"<"+kind):], -1) {
			names = append(names, found[1])
		}
		return strings.Join(names[1:], " ")
	}
	const (
		counts = "CountDetails d2p1:ActiveMessageCount d2p1:DeadLetterMessageCount d2p1:ScheduledMessageCount " +
			"d2p1:TransferMessageCount d2p1:TransferDeadLetterMessageCount "
		times   = "CreatedAt UpdatedAt AccessedAt "
		ofQueue = "LockDuration MaxSizeInMegabytes RequiresDuplicateDetection RequiresSession DefaultMessageTimeToLive " +
			"DeadLetteringOnMessageExpiration DuplicateDetectionHistoryTimeWindow MaxDeliveryCount EnableBatchedOperations " +
			"SizeInBytes MessageCount IsAnonymousAccessible AuthorizationRules Status " + times + "SupportOrdering " + counts +
			"AutoDeleteOnIdle EnablePartitioning EntityAvailabilityStatus ForwardDeadLetteredMessagesTo EnableExpress " +
			"MaxMessageSizeInKilobytes"
		ofTopic = "DefaultMessageTimeToLive MaxSizeInMegabytes RequiresDuplicateDetection DuplicateDetectionHistoryTimeWindow " +
			"EnableBatchedOperations SizeInBytes FilteringMessagesBeforePublishing IsAnonymousAccessible AuthorizationRules " +
			"Status " + times + "SupportOrdering " + counts + "SubscriptionCount AutoDeleteOnIdle EnablePartitioning " +
			"EntityAvailabilityStatus EnableSubscriptionPartitioning EnableExpress MaxMessageSizeInKilobytes SqlFilterCount " +
			"CorrelationFilterCount"
		ofSubscription = "LockDuration RequiresSession DefaultMessageTimeToLive DeadLetteringOnMessageExpiration " +
			"DeadLetteringOnFilterEvaluationExceptions MessageCount MaxDeliveryCount EnableBatchedOperations Status " + times +
			counts + "AutoDeleteOnIdle EntityAvailabilityStatus"
	)
	for _, version := range []string{"", "?api-version=2017-04", "?api-version=2021-05&enrich=False"} {
		for kind, c := range map[string]struct{ path, want string }{
			"QueueDescription": {"q", ofQueue}, "TopicDescription": {"t", ofTopic},
			"SubscriptionDescription": {"t/Subscriptions/s", ofSubscription},
		} {
			if got := elements(c.path+version, kind); got != c.want {
				t.Errorf("%s%s has\n%s, want\n%s", kind, version, got, c.want)
			}
		}
	}
	d.want(http.StatusOK, http.MethodGet, "t", "", "<SubscriptionCount>2<", "<SqlFilterCount>2<", "<CorrelationFilterCount>1<")
}

func TestAdminRefusesSettingsThatTheServiceRefusesOrItCannotKeep(t *testing.T) {
	cfg := oneTopic(subscription("s"))
	cfg.Queues = []servicebus.QueueConfig{{Name: "q", DuplicateWindow: time.Hour}}
	_, d := newDocuments(t, cfg)
	document := func(kind, inner string) string {
		return `<entry xmlns="` + nsAtom + `"><content><` + kind + ` xmlns="` + nsConnect + `">` + inner + `</` + kind +
			`></content></entry>`
	}
	element := func(name, text string) string { return "<" + name + ">" + text + "</" + name + ">" }
	for _, c := range []struct{ kind, path, name, text, want string }{
		{"QueueDescription", "n", "LockDuration", "PT6M", "from PT1S to PT5M, not PT6M"},
		{"QueueDescription", "n", "LockDuration", "a minute", "LockDuration"},
		{"QueueDescription", "n", "MaxDeliveryCount", "0", "at least 1"},
		{"QueueDescription", "n", "MaxDeliveryCount", "ten", "ten"},
		{"QueueDescription", "n", "MaxSizeInMegabytes", "0", "at least 1"},
		{"QueueDescription", "n", "DefaultMessageTimeToLive", "PT0S", "DefaultMessageTimeToLive"},
		{"QueueDescription", "n", "DuplicateDetectionHistoryTimeWindow", "P8D", "from PT20S to P7D"},
		{"QueueDescription", "n", "AutoDeleteOnIdle", "PT1M", "AutoDeleteOnIdle"},
		{"QueueDescription", "n", "Status", "Asleep", "Asleep"},
		{"QueueDescription", "n", "UserMetadata", strings.Repeat("m", 1025), "at most 1024"},
		{"QueueDescription", "n", "IsAnonymousAccessible", "true", "not supported"},
		{"QueueDescription", "n", "AuthorizationRules", strings.Repeat("<AuthorizationRule/>", 13), "at most 12"},
		{"TopicDescription", "n", "FilteringMessagesBeforePublishing", "true", "not supported"},
		{"SubscriptionDescription", "t/Subscriptions/n", "IsClientAffine", "true", "not supported"},
		{"QueueDescription", "n", "MaxMessageSizeInKilobytes", "102401", "from 1 to 102400"},
		{"QueueDescription", "n", "MaxMessageSizeInKilobytes", "0", "from 1 to 102400"},
		{"Description", "n", "LockDuration", "PT1M", "must be a QueueDescription"},
	} {
		d.want(http.StatusBadRequest, http.MethodPut, c.path, document(c.kind, element(c.name, c.text)), c.want)
	}
	for body, want := range map[string]string{
		document("QueueDescription", element("RequiresDuplicateDetection",
			"false")): "RequiresDuplicateDetection property of an existing Queue",
		document("QueueDescription", element("RequiresSession", "true")):    "RequiresSession property of an existing Queue",
		document("QueueDescription", element("EnablePartitioning", "true")): "Partitioning cannot be changed",
		document("TopicDescription", ""):                                    "must be a QueueDescription",
	} {
		if status, answer := d.send(http.MethodPut, "q", body, true); status != http.StatusBadRequest || !strings.Contains(answer, want) {
			t.Errorf("%s: %d: %s, want %q", body, status, answer, want)
		}
	}
	// An update replaces all settings that can change, and keeps those that cannot.
	if status, answer := d.send(http.MethodPut, "q", document("QueueDescription", element("LockDuration", "PT2M")),
		true); status != http.StatusOK ||
		!strings.Contains(answer, "<LockDuration>PT2M<") || !strings.Contains(answer, "<RequiresDuplicateDetection>true<") {
		t.Errorf("%d: %s", status, answer)
	}
	if status, answer := d.send(http.MethodPut, "q", document("QueueDescription", ""), true); status != http.StatusOK ||
		!strings.Contains(answer, "<LockDuration>PT1M<") || !strings.Contains(answer, "<MaxDeliveryCount>10<") {
		t.Errorf("%d: %s", status, answer)
	}
}

func TestAdminForwardsToNamesAndAddresses(t *testing.T) {
	broker, d := newDocuments(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: "a:b"}, {Name: "c/d"}}})
	for i, target := range []string{"a:b", "sb://some.where/a:b", "c/d", "Https://some.where/c%2Fd/"} {
		name := fmt.Sprint("from", i)
		d.want(http.StatusCreated, http.MethodPut, name, `<entry xmlns="`+nsAtom+`"><content><QueueDescription xmlns="`+nsConnect+
			`"><ForwardTo>`+target+`</ForwardTo></QueueDescription></content></entry>`)
		must(t, broker.Inject(name, data(1)))
	}
	for _, name := range []string{"a:b", "c/d"} {
		if counts, err := broker.Counts(name); err != nil || counts.Active != 2 {
			t.Errorf("%s got %d messages, want 2 (%v)", name, counts.Active, err)
		}
	}
}

// KEDA's scaler reads these.
func TestAdminCountsMessages(t *testing.T) {
	cfg := servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}}
	broker, client, _ := overTCP(t, cfg)
	a := adminOver(t, broker, servicebus.DefaultKey)
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	for range 3 {
		must(t, sender.SendMessage(ctx, colored("red"), nil))
	}
	got, err := a.GetQueueRuntimeProperties(ctx, queue, nil)
	must(t, err)
	want := admin.QueueRuntimeProperties{
		SizeInBytes: got.SizeInBytes, CreatedAt: got.CreatedAt, UpdatedAt: got.UpdatedAt, AccessedAt: got.AccessedAt,
		TotalMessageCount: 3, ActiveMessageCount: 3,
	}
	if got.QueueRuntimeProperties != want || got.SizeInBytes < 9 || got.AccessedAt.Before(got.CreatedAt) {
		t.Errorf("%+v", got.QueueRuntimeProperties)
	}
}

func TestAdminSetsTheSizeOfMessages(t *testing.T) {
	broker, client, _ := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	a := adminOver(t, broker, servicebus.DefaultKey)
	large := &azservicebus.Message{Body: make([]byte, 1<<20)}
	send := func(name string, m *azservicebus.Message) error {
		sender, err := client.NewSender(name, nil)
		must(t, err)
		defer sender.Close(ctx)
		return sender.SendMessage(ctx, m, nil)
	}
	if err := send(queue, large); !errors.Is(err, azservicebus.ErrMessageTooLarge) {
		t.Errorf("the default size: %v", err)
	}
	must2(t)(a.CreateQueue(ctx, "large",
		&admin.CreateQueueOptions{Properties: &admin.QueueProperties{MaxMessageSizeInKilobytes: new(int64(102400))}}))
	must(t, send("large", large))
	receiver, err := client.NewReceiverForQueue("large",
		&azservicebus.ReceiverOptions{ReceiveMode: azservicebus.ReceiveModeReceiveAndDelete})
	must(t, err)
	if m := receiveFrom(t, receiver, 1)[0]; len(m.Body) != len(large.Body) {
		t.Errorf("%d bytes", len(m.Body))
	}
	must2(t)(a.CreateQueue(ctx, "small",
		&admin.CreateQueueOptions{Properties: &admin.QueueProperties{MaxMessageSizeInKilobytes: new(int64(1))}}))
	if err := send("small", &azservicebus.Message{Body: make([]byte, 2<<10)}); !errors.Is(err, azservicebus.ErrMessageTooLarge) {
		t.Errorf("a small size: %v", err)
	}
}

// A Config may have settings that the service would refuse. Clients that read them can write them
// back.
func TestAdminKeepsTheSettingsOfAConfig(t *testing.T) {
	cfg := servicebus.Config{Queues: []servicebus.QueueConfig{{
		Name: queue, LockDuration: time.Hour, DuplicateWindow: time.Second, DefaultTTL: time.Millisecond, MaxDeliveryCount: 5000,
	}}}
	broker, _, _ := overTCP(t, cfg)
	a := adminOver(t, broker, servicebus.DefaultKey)
	got, err := a.GetQueue(ctx, queue, nil)
	must(t, err)
	updated, err := a.UpdateQueue(ctx, queue, got.QueueProperties, nil)
	must(t, err)
	if !reflect.DeepEqual(updated.QueueProperties, got.QueueProperties) {
		t.Errorf("updated\n%s, want\n%s", asJSON(updated.QueueProperties), asJSON(got.QueueProperties))
	}
	got.LockDuration = new("PT2H")
	_, err = a.UpdateQueue(ctx, queue, got.QueueProperties, nil)
	wantStatus(t, err, http.StatusBadRequest)
}
