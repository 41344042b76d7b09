package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// entities that a feature needs, by names of its own. Forwards go to names of the same feature.
type entities struct {
	queues map[string]admin.QueueProperties
	topics map[string]topic
}

type topic struct {
	admin.TopicProperties
	subscriptions map[string]subscription
}

type subscription struct {
	admin.SubscriptionProperties
	rules []admin.RuleProperties // nil means a rule that matches every message
}

// oneQueue is a queue named q.
func oneQueue(properties admin.QueueProperties) entities {
	return entities{queues: map[string]admin.QueueProperties{"q": properties}}
}

// naming makes the names of a feature's entities from their own.
type naming string

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// namesFor returns the naming of a feature.
func namesFor(prefix, feature string) naming {
	return naming(prefix + "-" + strings.Trim(notInNames.ReplaceAllString(strings.ToLower(feature), "-"), "-") + "-")
}

func (n naming) of(name string) string { return string(n) + name }

func (n naming) optional(name *string) *string {
	if name == nil {
		return nil
	}
	return new(n.of(*name))
}

// queuesInOrder returns the names of the queues. Those that forward come after their targets.
func (e entities) queuesInOrder() []string {
	var order []string
	var visit func(name string)
	visit = func(name string) {
		q, known := e.queues[name]
		if !known || slices.Contains(order, name) {
			return
		}
		for _, next := range []*string{q.ForwardTo, q.ForwardDeadLetteredMessagesTo} {
			if next != nil {
				visit(*next)
			}
		}
		order = append(order, name)
	}
	for _, name := range slices.Sorted(maps.Keys(e.queues)) {
		visit(name)
	}
	return order
}

// create makes the entities through the administration API.
func (e entities) create(ctx context.Context, a *admin.Client, n naming) error {
	for _, name := range e.queuesInOrder() {
		q := e.queues[name]
		q.ForwardTo, q.ForwardDeadLetteredMessagesTo = n.optional(q.ForwardTo), n.optional(q.ForwardDeadLetteredMessagesTo)
		if _, err := a.CreateQueue(ctx, n.of(name), &admin.CreateQueueOptions{Properties: &q}); err != nil {
			return fmt.Errorf("create the queue %s: %w", n.of(name), err)
		}
	}
	for name, t := range e.topics {
		if _, err := a.CreateTopic(ctx, n.of(name), &admin.CreateTopicOptions{Properties: &t.TopicProperties}); err != nil {
			return fmt.Errorf("create the topic %s: %w", n.of(name), err)
		}
		for sub, s := range t.subscriptions {
			if err := s.create(ctx, a, n.of(name), sub); err != nil {
				return fmt.Errorf("create the subscription %s/%s: %w", n.of(name), sub, err)
			}
		}
	}
	return nil
}

func (s subscription) create(ctx context.Context, a *admin.Client, topic, name string) error {
	options := &admin.CreateSubscriptionOptions{Properties: &s.SubscriptionProperties}
	if _, err := a.CreateSubscription(ctx, topic, name, options); err != nil {
		return err
	}
	for _, r := range s.rules {
		if _, err := a.CreateRule(ctx, topic, name, &admin.CreateRuleOptions{
			Name: &r.Name, Filter: r.Filter, Action: r.Action,
		}); err != nil {
			return fmt.Errorf("rule %s: %w", r.Name, err)
		}
	}
	if s.rules == nil {
		return nil
	}
	_, err := a.DeleteRule(ctx, topic, name, "$Default", nil)
	return err
}

// remove deletes the entities, also those of a create that stopped half-way.
func (e entities) remove(ctx context.Context, a *admin.Client, n naming) error {
	var problems []error
	order := e.queuesInOrder()
	slices.Reverse(order)
	for _, name := range order {
		_, err := a.DeleteQueue(ctx, n.of(name), nil)
		problems = append(problems, err)
	}
	for name := range e.topics {
		_, err := a.DeleteTopic(ctx, n.of(name), nil)
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// configFile returns the entities of features in the format of config.json of Microsoft's emulator
// (https://learn.microsoft.com/azure/service-bus-messaging/test-locally-with-service-bus-emulator).
func configFile(features map[naming]entities) []byte {
	type object = map[string]any
	queues, topics := []object{}, []object{}
	for _, n := range slices.Sorted(maps.Keys(features)) {
		e := features[n]
		for _, name := range e.queuesInOrder() {
			q := e.queues[name]
			properties := settings(q)
			for _, forward := range []string{"ForwardTo", "ForwardDeadLetteredMessagesTo"} {
				if to, ok := properties[forward].(string); ok {
					properties[forward] = n.of(to)
				}
			}
			queues = append(queues, object{"Name": n.of(name), "Properties": properties})
		}
		for _, name := range slices.Sorted(maps.Keys(e.topics)) {
			t := e.topics[name]
			subscriptions := []object{}
			for _, sub := range slices.Sorted(maps.Keys(t.subscriptions)) {
				s := t.subscriptions[sub]
				one := object{"Name": sub, "Properties": settings(s.SubscriptionProperties)}
				if s.rules != nil {
					one["Rules"] = rules(s.rules)
				}
				subscriptions = append(subscriptions, one)
			}
			topics = append(topics, object{"Name": n.of(name), "Properties": settings(t.TopicProperties), "Subscriptions": subscriptions})
		}
	}
	namespace := object{"Name": "sbemulatorns", "Queues": queues, "Topics": topics}
	text, err := json.MarshalIndent(object{"UserConfig": object{
		"Namespaces": []object{namespace}, "Logging": object{"Type": "File"},
	}}, "", "  ")
	if err != nil {
		panic(err) // the values above are all made of strings, numbers and booleans
	}
	return append(text, '\n')
}

// settings returns the properties that are set, under the names that the file has for them.
func settings(properties any) map[string]any {
	text, err := json.Marshal(properties)
	if err != nil {
		panic(err) // a struct of plain fields
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		panic(err) // it was marshaled above
	}
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

func rules(list []admin.RuleProperties) []map[string]any {
	var all []map[string]any
	for _, r := range list {
		properties := map[string]any{}
		switch f := r.Filter.(type) {
		case *admin.SQLFilter:
			properties["FilterType"], properties["SqlFilter"] = "Sql", map[string]any{"SqlExpression": f.Expression}
		case *admin.CorrelationFilter:
			filter := settings(f)
			if own, ok := filter["ApplicationProperties"]; ok {
				filter["Properties"] = own
			}
			delete(filter, "ApplicationProperties")
			if subject, ok := filter["Subject"]; ok {
				filter["Label"] = subject
			}
			delete(filter, "Subject")
			properties["FilterType"], properties["CorrelationFilter"] = "Correlation", filter
		case *admin.FalseFilter:
			properties["FilterType"], properties["SqlFilter"] = "Sql", map[string]any{"SqlExpression": "1=0"}
		default:
			properties["FilterType"], properties["SqlFilter"] = "Sql", map[string]any{"SqlExpression": "1=1"}
		}
		if action, ok := r.Action.(*admin.SQLAction); ok {
			properties["Action"] = map[string]any{"SqlExpression": action.Expression}
		}
		all = append(all, map[string]any{"Name": r.Name, "Properties": properties})
	}
	return all
}

// filePrefix begins the names of the entities that -write-config declares.
const filePrefix = "conformance"

var writeConfig = flag.String("write-config", "", "write the config.json of a target without administration to this file, and try nothing")

// maxOfFile is how many queues and topics Microsoft's emulator takes
// (https://learn.microsoft.com/azure/service-bus-messaging/overview-emulator).
const maxOfFile = 50

// allOfFile returns the entities that the file declares: of the first feature of each area, then of
// the second, and so on, as long as there is room.
func allOfFile() map[naming]entities {
	all := map[naming]entities{}
	room, most := maxOfFile, 0
	for _, area := range areas {
		most = max(most, len(area.features))
	}
	for i := range most {
		for _, area := range areas {
			if i >= len(area.features) || area.features[i].needs.admin {
				continue
			}
			f := area.features[i]
			if size := len(f.entities.queues) + len(f.entities.topics); size <= room {
				room -= size
				all[namesFor(filePrefix, area.name+" "+f.name)] = f.entities
			}
		}
	}
	return all
}

// TestConfigFile checks that the embedded broker reads the file, and that it stays within the
// quotas of Microsoft's emulator.
func TestConfigFile(t *testing.T) {
	text := configFile(allOfFile())
	queues, topics, err := servicebus.ReadEntities(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(queues) + len(topics); n > maxOfFile || n < maxOfFile/2 {
		t.Errorf("%d queues and topics: Microsoft's emulator takes %d", n, maxOfFile)
	}
	for _, q := range queues {
		if len(q.Name) > 260 {
			t.Errorf("%s: a name of %d characters", q.Name, len(q.Name))
		}
	}
}

func TestMain(m *testing.M) {
	flag.Parse()
	if *writeConfig == "" {
		os.Exit(m.Run())
	}
	if err := os.WriteFile(*writeConfig, configFile(allOfFile()), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("wrote", *writeConfig)
}
