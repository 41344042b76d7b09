package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/ingest"
)

// sample is a realistic morning of a security team: the users, the faults that Graph shows, and the
// messages with the expected result of each.
type sample struct {
	people   []graph.User
	devices  []graph.Device
	faults   []graph.Fault
	messages []sampleMessage
}

// sampleMessage is one message and its expected result.
type sampleMessage struct {
	about   string
	message *azservicebus.Message
	// via is the source of worker ingest that the message comes through, or "" if its sender writes to
	// the queue itself.
	via string
	// revoked holds the ids of the users whose sessions must be revoked. tried holds the ids of the
	// users for whom Graph refuses to do so.
	revoked, tried []string
	// reason is set if the message must be dead-lettered. The dead letter must then name failed as
	// the indexes of the events that failed.
	reason deadletter.Reason
	failed string
	// announced reports whether the message announces a date: a copy waits for it in Service Bus, and
	// nobody is signed out now.
	announced bool
	// oneOfMany reports whether a newer message of the same user may supersede this one instead.
	oneOfMany bool
	// atOnce leaves out the pause that lets people follow the output.
	atOnce bool
	// pause is the time to wait after the message in any case, also with --drain.
	pause time.Duration
}

const (
	breakGlass = "breakglass@contoso.com"
	domain     = "contoso.com"
	// canary is the account whose revocation tests whether Graph works. In a quiet queue, no other
	// success would show that a failure concerns one user only.
	canary       = "canary@contoso.com"
	canaryNumber = 14
	// massOffboarding describes the messages of the mass offboarding. Graph throttles when it
	// begins.
	massOffboarding = "mass offboarding"
	// storm is the number of times that a faulty MDM reports the same device.
	storm = 25
	// dayGoesOn is the number of events that follow all others, one at a time.
	dayGoesOn = 16
)

func person(n int, name string) graph.User {
	return graph.User{
		ID:                fmt.Sprintf("00000000-0000-4000-8000-%012d", n),
		UserPrincipalName: name + "@" + domain,
		UserType:          "Member",
		AccountEnabled:    true,
	}
}

// newSample builds the sample. leavers is the number of users in the mass offboarding.
func newSample(leavers int) sample {
	ada, grace, alan := person(1, "ada"), person(2, "grace"), person(3, "alan")
	edsger, barbara, tony := person(4, "edsger"), person(5, "barbara"), person(6, "tony")
	service, newcomer, unlucky := person(7, "$backup"), person(8, "newcomer"), person(9, "unlucky")
	stubborn, glass, stormy := person(10, "stubborn"), person(11, "breakglass"), person(13, "stormy")
	guest := person(12, "visitor_fabrikam.com#EXT#")
	guest.UserType = "Guest"

	s := sample{
		people: []graph.User{
			ada, grace, alan, edsger, barbara, tony, service, newcomer, unlucky, stubborn, glass, guest, stormy,
			person(canaryNumber, "canary"),
		},
		faults: []graph.Fault{
			{
				User: newcomer.ID, Count: 1, Status: 404,
				Body: `{"error":{"code":"Request_ResourceNotFound","message":"Resource does not exist ` +
					`or one of its queried reference-property objects are not present."}}`,
			},
			{User: unlucky.ID, Count: 1, Drop: true},
			{User: unlucky.ID, Count: 1, Status: 503, RetryAfter: "1"},
			{User: stubborn.ID, ValueFalse: true},
		},
	}
	add := func(m sampleMessage) { s.messages = append(s.messages, m) }

	add(sampleMessage{about: "stolen phone, CloudEvent", message: cloudEvent("device.stolen", ada), revoked: ids(ada)})
	add(sampleMessage{about: "the same phone reported again", message: cloudEvent("device.stolen", ada), revoked: ids(ada)})
	add(sampleMessage{
		about: "lost laptop, CloudEvent in binary form", message: binaryCloudEvent("device.lost", grace),
		revoked: ids(grace),
	})
	add(sampleMessage{
		about:   "leaver from HR, plain JSON",
		message: plain("user.offboarded", map[string]any{"userPrincipalName": alan.UserPrincipalName}), revoked: ids(alan),
	})
	add(sampleMessage{
		about: "compromised account, Event Grid schema", message: eventGrid("user.compromised", edsger),
		revoked: ids(edsger),
	})
	add(sampleMessage{about: "two leavers in one message", message: batch(barbara, tony), revoked: ids(barbara, tony)})
	add(sampleMessage{
		about:   "service account whose name begins with $",
		message: plain("user.offboarded", map[string]any{"userPrincipalName": service.UserPrincipalName}), revoked: ids(service),
	})
	add(sampleMessage{
		about: "account created a moment ago (Graph lags)", message: cloudEvent("device.lost", newcomer),
		revoked: ids(newcomer),
	})
	add(sampleMessage{
		about: "Graph drops the call, then answers 503", message: cloudEvent("device.stolen", unlucky),
		revoked: ids(unlucky),
	})
	add(sampleMessage{
		about: "Graph says that it revoked nothing", message: cloudEvent("device.lost", stubborn), tried: ids(stubborn),
		reason: deadletter.NotRevoked,
	})
	add(sampleMessage{
		about:   "a user whom Graph does not know",
		message: plain("device.lost", map[string]any{"userPrincipalName": "nobody@" + domain}), reason: deadletter.UserNotFound,
	})
	add(sampleMessage{
		about: "a guest", message: plain("device.lost", map[string]any{"userPrincipalName": guest.UserPrincipalName}),
		reason: deadletter.ExternalUser,
	})
	add(sampleMessage{
		about:   "the break-glass account",
		message: plain("user.compromised", map[string]any{"userPrincipalName": breakGlass}), reason: deadletter.ProtectedUser,
	})
	add(sampleMessage{
		about: "half a JSON document", message: body("application/json", `{"type":"device.lost","userId":`),
		reason: deadletter.InvalidEvent,
	})
	add(sampleMessage{
		about:   "a name that is a path",
		message: plain("device.lost", map[string]any{"userPrincipalName": "../groups/all@" + domain}), reason: deadletter.InvalidEvent,
	})
	add(sampleMessage{
		about: "an event type that is not on the allow-list", message: cloudEvent("device.enrolled", ada),
		reason: deadletter.UnknownEvent,
	})
	add(sampleMessage{
		about: "three users in one message, the second unknown", message: batch(ada, graph.User{ID: person(999, "gone").ID}, grace),
		revoked: ids(ada, grace), tried: ids(person(999, "gone")), reason: deadletter.UserNotFound, failed: "1",
	})
	staff := newStaff()
	s.people, s.devices = append(s.people, staff.people()...), staff.devices()
	s.people = append(s.people, hookPeople()...)
	for _, m := range staff.producers() {
		add(m)
	}
	unknown := person(998, "unknown")
	for i := range storm {
		add(sampleMessage{
			about: "a storm about one phone", message: cloudEvent("device.stolen", stormy), revoked: ids(stormy),
			atOnce: true,
		})
		add(sampleMessage{
			about: "a storm about an unknown user", message: cloudEvent("device.lost", unknown), tried: ids(unknown),
			reason: deadletter.UserNotFound, oneOfMany: i < storm-1, atOnce: true,
		})
	}
	for i := range leavers {
		leaver := person(1000+i, fmt.Sprintf("leaver%d", i))
		s.people = append(s.people, leaver)
		add(sampleMessage{about: massOffboarding, message: cloudEvent("user.offboarded", leaver), revoked: ids(leaver), atOnce: true})
	}
	for i := range dayGoesOn {
		one := person(500+i, fmt.Sprintf("day%d", i))
		s.people = append(s.people, one)
		add(sampleMessage{
			about: "the day goes on", message: cloudEvent("device.lost", one), revoked: ids(one), atOnce: true,
			pause: 700 * time.Millisecond,
		})
	}
	for i := range s.messages {
		id := fmt.Sprintf("sample-%03d", i)
		if m := s.messages[i]; m.via != "" {
			id = ingest.MessageID(m.via, "", m.message.Body)
		}
		s.messages[i].message.MessageID = &id
	}
	return s
}

// announcements returns how many messages announce a date.
func (s sample) announcements() (n int) {
	for _, m := range s.messages {
		if m.announced {
			n++
		}
	}
	return n
}

// users returns a function that returns the ids of the users of a message, by its message id.
func (s sample) users() func(messageID string) []string {
	byID := map[string][]string{}
	for _, m := range s.messages {
		byID[*m.message.MessageID] = slices.Concat(m.revoked, m.tried)
	}
	return func(messageID string) []string { return byID[messageID] }
}

func ids(users ...graph.User) []string {
	var list []string
	for _, u := range users {
		list = append(list, u.ID)
	}
	return list
}

func body(contentType, text string) *azservicebus.Message {
	return &azservicebus.Message{ContentType: &contentType, Body: []byte(text)}
}

func encoded(contentType string, v any) *azservicebus.Message {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // the sample holds strings and maps only
	}
	return body(contentType, string(text))
}

func plain(eventType string, fields map[string]any) *azservicebus.Message {
	fields["type"] = eventType
	return encoded("application/json", fields)
}

var made atomic.Int64 // the number of events made so far, for their ids

func envelope(eventType string, user graph.User) map[string]any {
	return map[string]any{
		"specversion": "1.0", "id": fmt.Sprintf("event-%d", made.Add(1)), "source": "/sandbox/mdm", "type": eventType,
		"time": time.Now().UTC().Format(time.RFC3339Nano), "datacontenttype": "application/json",
		"data": map[string]any{"userId": user.ID},
	}
}

func cloudEvent(eventType string, user graph.User) *azservicebus.Message {
	return encoded("application/cloudevents+json; charset=utf-8", envelope(eventType, user))
}

func batch(users ...graph.User) *azservicebus.Message {
	var events []any
	for _, u := range users {
		events = append(events, envelope("user.offboarded", u))
	}
	return encoded("application/cloudevents-batch+json", events)
}

func binaryCloudEvent(eventType string, user graph.User) *azservicebus.Message {
	m := encoded("application/json", map[string]any{"userId": user.ID})
	m.ApplicationProperties = map[string]any{}
	for key, value := range envelope(eventType, user) {
		if key != "data" && key != "datacontenttype" {
			m.ApplicationProperties["cloudEvents:"+key] = value
		}
	}
	return m
}

func eventGrid(eventType string, user graph.User) *azservicebus.Message {
	return encoded("application/json", []any{map[string]any{
		"id": fmt.Sprintf("event-%d", made.Add(1)), "topic": "/sandbox/topic", "subject": "devices/42", "eventType": eventType,
		"eventTime": time.Now().UTC().Format(time.RFC3339Nano), "dataVersion": "1", "data": map[string]any{"userId": user.ID},
	}})
}
