package event_test

import (
	"fmt"
	"log"
	"time"

	"github.com/session-revoker/session-revoker/event"
)

// The decoder turns a CloudEvent from the body of a Service Bus message into a user, a type, and a
// time.
func ExampleDecoder_Decode() {
	decoder, err := event.NewDecoder(event.Config{Types: []string{"device.stolen", "device.lost"}})
	if err != nil {
		log.Fatal(err)
	}
	items, err := decoder.Decode(event.Message{
		ContentType: "application/cloudevents+json",
		Body: []byte(`{
			"specversion": "1.0", "id": "42", "source": "/mdm", "type": "device.lost",
			"time": "2026-03-01T13:00:00+01:00",
			"data": {"userId": "0A5BD9B6-4A5C-4EE1-9A7E-0D3C5A6B7C01", "userPrincipalName": "ada@contoso.com"}
		}`),
	})
	if err != nil {
		log.Fatal(err) // the message as a whole cannot be decoded
	}
	for _, item := range items {
		if item.Err != nil {
			log.Fatal(item.Err) // this event is refused, the others are not affected
		}
		e := item.Event
		fmt.Println("who: ", e.User.ID(), e.User.UPN())
		fmt.Println("what:", e.Type, "with urgency", e.Urgency)
		fmt.Println("when:", e.Time.UTC().Format(time.RFC3339))
	}
	// Output:
	// who:  0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01 ada@contoso.com
	// what: device.lost with urgency 1
	// when: 2026-03-01T12:00:00Z
}

// A message may hold several events. The decoder refuses each invalid one on its own, and says why.
func ExampleDecoder_Decode_refused() {
	decoder, err := event.NewDecoder(event.Config{})
	if err != nil {
		log.Fatal(err)
	}
	items, err := decoder.Decode(event.Message{Body: []byte(`[
		{"type": "device.stolen", "userPrincipalName": "ada@contoso.com"},
		{"type": "device.stolen", "userPrincipalName": "../groups/all@contoso.com"},
		{"type": "device.enrolled", "userPrincipalName": "grace@contoso.com"}
	]`)})
	if err != nil {
		log.Fatal(err)
	}
	for _, item := range items {
		if item.Err != nil {
			fmt.Println(item.Index, "refused:", item.Err)
			continue
		}
		fmt.Println(item.Index, item.Event.Type, item.Event.User)
	}
	// Output:
	// 0 device.stolen ada@contoso.com
	// 1 refused: userPrincipalName: "../groups/all@contoso.com": dots must stand single and between other characters
	// 2 refused: type: "device.enrolled" is not on the allow-list (events.types)
}
