package consumer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/event"
)

// lookupDecoder reads events that name a user by {"lookup": "serial-number", "value": "C02"}, as a
// mapping may, and leaves all others to the native decoder.
type lookupDecoder struct{ native consumer.Decoder }

func (d lookupDecoder) Decode(m event.Message) ([]event.Item, error) {
	var body struct{ Type, Lookup, Value string }
	if json.Unmarshal(m.Body, &body) != nil || body.Lookup == "" {
		return d.native.Decode(m)
	}
	for by := event.ByMail; by <= event.BySerialNumber; by++ {
		if by.String() == body.Lookup {
			user, err := event.NewLookup(by, body.Value)
			return []event.Item{{Event: event.Event{Type: body.Type, User: user}, Err: err}}, nil
		}
	}
	return nil, fmt.Errorf("no look-up %q", body.Lookup)
}

// lookedUp returns an event whose user must be looked up.
func lookedUp(by event.Lookup, value string) *azservicebus.Message {
	return &azservicebus.Message{Body: fmt.Appendf(nil, `{"type":"device.stolen","lookup":%q,"value":%q}`, by, value)}
}

// mdm are the permissions of an app that may look up whose a device is, and nothing else.
var mdm = []string{"User.RevokeSessions.All", "DeviceManagementManagedDevices.Read.All", "Device.Read.All"}

const (
	deviceID = "7a1c0c0e-4a5c-4ee1-9a7e-0d3c5a6b0001"
	entraID  = "7a1c0c0e-4a5c-4ee1-9a7e-0d3c5a6b0002"
	serial   = "C02-ADA"
)

// adas is Ada's device.
func adas() graph.Device {
	return graph.Device{
		ManagedID: deviceID, EntraID: entraID, SerialNumber: serial, UserID: ada.ID, Owners: []string{ada.ID}, Users: []string{ada.ID},
	}
}

// withDevices runs a test in a bubble in which these devices exist.
func withDevices(t *testing.T, s settings, devices []graph.Device, test func(t *testing.T, w *world)) {
	t.Helper()
	s.resolveDevices = true
	if s.roles == nil {
		s.roles = mdm
	}
	inBubble(t, s, func(t *testing.T, w *world) {
		for _, d := range devices {
			if err := w.graph.AddDevice(d); err != nil {
				t.Fatal(err)
			}
		}
		test(t, w)
	})
}

// lookups returns how often Graph was asked whose a device or address is.
func (w *world) lookups() (n int) {
	for _, call := range w.graph.Calls() {
		if call.Method == http.MethodGet && (!strings.Contains(call.Path, "/users/")) {
			n++
		}
	}
	return n
}

func TestLookupFindsWhoseDeviceItIs(t *testing.T) {
	for by, value := range map[event.Lookup]string{
		event.ByManagedDevice: strings.ToUpper(deviceID), event.ByEntraDevice: entraID, event.BySerialNumber: strings.ToLower(serial),
	} {
		for _, readUsers := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, users are read: %v", by, readUsers), func(t *testing.T) {
				var records []audit.Decision
				s := settings{readUsers: readUsers, roles: append([]string{"User.Read.All"}, mdm...)}
				s.audit = func(d audit.Decision) { records = append(records, d) }
				withDevices(t, s, []graph.Device{adas()}, func(t *testing.T, w *world) {
					w.send(lookedUp(by, value))
					w.run()
					w.settled(time.Minute)
					w.wantRevoked(ada)
					w.wantDead(nil)
					if len(records) != 1 || records[0].UserID != ada.ID || !strings.HasPrefix(records[0].LookedUp, by.String()+":") {
						t.Errorf("the audit record does not name whom the device belongs to, and how that is known: %+v", records)
					}
					if log := strings.Join(w.lines(), "\n"); !strings.Contains(log, `"account":"`+ada.ID) {
						t.Errorf("the log does not name whose sessions were revoked: %s", log)
					}
				})
			})
		}
	}
}

func TestLookupThatIsUnclearIsADeadLetter(t *testing.T) {
	lately := func(d graph.Device, by string, ago time.Duration) graph.Device {
		d.LoggedOn = []graph.LoggedOn{{UserID: ada.ID, At: time.Now()}, {UserID: by, At: time.Now().Add(-ago)}}
		return d
	}
	with := func(change func(*graph.Device)) func() []graph.Device {
		return func() []graph.Device {
			d := adas()
			change(&d)
			return []graph.Device{d}
		}
	}
	second := func(owner string) func() []graph.Device {
		return func() []graph.Device {
			d := adas()
			d.ManagedID, d.EntraID, d.UserID = "7a1c0c0e-4a5c-4ee1-9a7e-0d3c5a6b0003", "", owner
			return []graph.Device{adas(), d}
		}
	}
	for name, c := range map[string]struct {
		by      event.Lookup
		devices func() []graph.Device
		want    string // the reason; "" if Ada is revoked
	}{
		"no such device in Intune": {event.ByManagedDevice, func() []graph.Device { return nil }, "OwnerUnclear"},
		"no such device in Entra":  {event.ByEntraDevice, func() []graph.Device { return nil }, "OwnerUnclear"},
		"no such serial number":    {event.BySerialNumber, func() []graph.Device { return nil }, "OwnerUnclear"},
		"no user":                  {event.ByManagedDevice, with(func(d *graph.Device) { d.UserID = "" }), "OwnerUnclear"},
		"the user is nobody": {
			event.BySerialNumber,
			with(func(d *graph.Device) { d.UserID = "00000000-0000-0000-0000-000000000000" }),
			"OwnerUnclear",
		},
		"no owner": {event.ByEntraDevice, with(func(d *graph.Device) { d.Owners = nil }), "OwnerUnclear"},
		"two owners": {
			event.ByEntraDevice,
			with(func(d *graph.Device) { d.Owners = []string{ada.ID, grace.ID} }),
			"OwnerUnclear",
		},
		"an owner, and another user": {
			event.ByEntraDevice,
			with(func(d *graph.Device) { d.Users = []string{ada.ID, grace.ID} }),
			"OwnerUnclear",
		},
		"used by somebody else a week ago": {
			event.ByManagedDevice,
			with(func(d *graph.Device) { *d = lately(*d, grace.ID, 7*24*time.Hour) }),
			"OwnerUnclear",
		},
		"used by somebody else last year": {
			event.ByManagedDevice,
			with(func(d *graph.Device) { *d = lately(*d, grace.ID, 300*24*time.Hour) }),
			"",
		},
		"two devices of two people, one serial number": {event.BySerialNumber, second(grace.ID), "OwnerUnclear"},
		"two devices of one person, one serial number": {event.BySerialNumber, second(ada.ID), ""},
		"two devices, one without a user, same serial": {event.BySerialNumber, second(""), "OwnerUnclear"},
		"the user is protected": {
			event.ByManagedDevice,
			with(func(d *graph.Device) { d.UserID = glass.ID }),
			"ProtectedUser",
		},
		"the user is protected by name": {
			event.BySerialNumber,
			with(func(d *graph.Device) { d.UserID = alan.ID }),
			"ProtectedUser",
		},
		"the user is a guest": {
			event.ByManagedDevice,
			with(func(d *graph.Device) { d.UserID = guest.ID }),
			"ExternalUser",
		},
		"the owner is protected": {
			event.ByEntraDevice,
			with(func(d *graph.Device) { d.Owners, d.Users = []string{glass.ID}, nil }),
			"ProtectedUser",
		},
		"mail, which nobody looks up without read_users": {event.ByMail, func() []graph.Device { return nil }, "OwnerUnclear"},
	} {
		t.Run(name, func(t *testing.T) {
			withDevices(t, settings{protected: []string{alan.UserPrincipalName}}, nil, func(t *testing.T, w *world) {
				for _, d := range c.devices() {
					if err := w.graph.AddDevice(d); err != nil {
						t.Fatal(err)
					}
				}
				value := map[event.Lookup]string{
					event.ByManagedDevice: deviceID, event.ByEntraDevice: entraID,
					event.BySerialNumber: serial, event.ByMail: "ada@contoso.com",
				}[c.by]
				w.send(lookedUp(c.by, value))
				w.run()
				w.settled(time.Minute)
				if c.want == "" {
					w.wantRevoked(ada)
					w.wantDead(nil)
					return
				}
				w.wantRevoked()
				w.wantDead(map[string]string{"m0": c.want})
			})
		})
	}
}

func TestLookupByMail(t *testing.T) {
	for name, c := range map[string]struct {
		address string
		want    []graph.User
		reason  string
	}{
		"the mail address":                       {"a.lovelace@contoso.com", []graph.User{ada}, ""},
		"an alias":                               {"countess@contoso.com", []graph.User{ada}, ""},
		"the user principal name":                {"ada@contoso.com", []graph.User{ada}, ""},
		"nobody's":                               {"nobody@contoso.com", nil, "OwnerUnclear"},
		"an alias of two":                        {"team@contoso.com", nil, "OwnerUnclear"},
		"a leaver's, now an alias of somebody's": {"alan@contoso.com", nil, "OwnerUnclear"},
		"a guest's":                              {"v@fabrikam.com", nil, "ExternalUser"},
		"a protected user's":                     {"emergency@contoso.com", nil, "ProtectedUser"},
		"with a quotation mark":                  {"o'neil@contoso.com", []graph.User{grace}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings{readUsers: true, roles: readers}
			withDevices(t, s, nil, func(t *testing.T, w *world) {
				for who, addresses := range map[string][]string{
					ada.ID:   {"SMTP:a.lovelace@contoso.com", "smtp:countess@contoso.com", "smtp:team@contoso.com"},
					grace.ID: {"SMTP:o'neil@contoso.com", "smtp:team@contoso.com", "smtp:alan@contoso.com"},
					guest.ID: {"SMTP:v@fabrikam.com"},
					glass.ID: {"SMTP:emergency@contoso.com"},
				} {
					w.graph.SetAddresses(who, strings.TrimPrefix(addresses[0], "SMTP:"), addresses...)
				}
				w.send(lookedUp(event.ByMail, c.address))
				w.run()
				w.settled(time.Minute)
				w.wantRevoked(c.want...)
				if c.reason != "" {
					w.wantDead(map[string]string{"m0": c.reason})
				}
			})
		})
	}
}

// A name that Graph does not know is not looked up as a mail address: the producer has said that it
// is a user principal name.
func TestLookupByMailOnlyIfTheEventSaysSo(t *testing.T) {
	withDevices(t, settings{readUsers: true, roles: readers}, nil, func(t *testing.T, w *world) {
		w.graph.SetAddresses(ada.ID, "a.lovelace@contoso.com")
		w.send(named("a.lovelace@contoso.com"))
		w.run()
		w.settled(2 * time.Minute)
		w.wantRevoked()
		w.wantDead(map[string]string{"m0": "UserNotFound"})
	})
}

func TestLookupOfAStormIsOneLookupAndOneCall(t *testing.T) {
	withDevices(t, settings{}, []graph.Device{adas()}, func(t *testing.T, w *world) {
		var storm []*azservicebus.Message
		for range 200 {
			storm = append(storm, lookedUp(event.BySerialNumber, serial))
		}
		w.send(append(storm, about(ada))...)
		time.Sleep(10 * time.Second) // so that the first attempt covers all
		w.run()
		w.settled(2 * time.Minute)
		w.wantRevoked(ada)
		w.wantDead(nil)
		if calls, _ := w.count(); calls != 1 || w.lookups() != 1 {
			t.Errorf("%d calls and %d look-ups, want one each", calls, w.lookups())
		}
	})
}

// A device may be given to somebody else. Then an event that comes later means the new user.
func TestLookupIsMadeAgainForALaterEvent(t *testing.T) {
	withDevices(t, settings{}, []graph.Device{adas()}, func(t *testing.T, w *world) {
		w.run()
		w.send(lookedUp(event.ByManagedDevice, deviceID))
		w.settled(time.Minute)
		w.graph.RemoveDevice(deviceID)
		given := adas()
		given.UserID = grace.ID
		if err := w.graph.AddDevice(given); err != nil {
			t.Fatal(err)
		}
		w.send(lookedUp(event.ByManagedDevice, deviceID))
		w.settled(time.Minute)
		w.wantRevoked(ada, grace)
	})
}

func TestLookupOutageOfGraphDeadLettersNothing(t *testing.T) {
	for name, away := range map[string]graph.Fault{
		"Graph is down":                  {Status: http.StatusServiceUnavailable},
		"Graph drops":                    {Drop: true},
		"Graph hangs":                    {Delay: time.Hour},
		"Intune is down":                 {Status: http.StatusInternalServerError, Path: "deviceManagement"},
		"Intune hangs":                   {Delay: time.Hour, Path: "deviceManagement"},
		"Intune throttles":               {Status: http.StatusTooManyRequests, RetryAfter: "30", Path: "deviceManagement"},
		"Intune answers something else":  {Status: 200, Body: "<html>", ContentType: "text/html", Path: "deviceManagement"},
		"Intune answers half a truth":    {Status: 200, Body: `{"error":{}}`, Path: "deviceManagement"},
		"Intune refuses the token":       {Status: http.StatusUnauthorized, Path: "deviceManagement"},
		"the tenant has no Intune (yet)": {Status: http.StatusBadRequest, Path: "deviceManagement"},
		"no tokens":                      {Status: http.StatusServiceUnavailable, Token: true},
	} {
		t.Run(name, func(t *testing.T) {
			withDevices(t, settings{}, []graph.Device{adas()}, func(t *testing.T, w *world) {
				mend := w.graph.Inject(away)
				w.run()
				w.send(lookedUp(event.ByManagedDevice, deviceID))
				for minute := range 20 {
					time.Sleep(time.Minute)
					if away.Path == "" {
						continue
					}
					// Attempts do not suffer from that.
					u := member(fmt.Sprintf("0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6c%04d", minute), fmt.Sprintf("u%d@contoso.com", minute))
					if err := w.graph.AddUser(u); err != nil {
						t.Fatal(err)
					}
					w.send(about(u))
					time.Sleep(time.Second)
					if _, ok := w.graph.Revoked(u.ID); !ok {
						t.Fatalf("after %d minutes, a user was not called within a second: %v", minute, w.lines())
					}
				}
				w.wantDead(nil)
				mend()
				w.settled(5 * time.Minute)
				w.wantRevoked(ada)
				w.wantDead(nil)
			})
		})
	}
}

func TestLookupWithoutThePermissionWaitsForIt(t *testing.T) {
	withDevices(t, settings{roles: []string{"User.RevokeSessions.All"}}, []graph.Device{adas()}, func(t *testing.T, w *world) {
		w.run()
		for n := range 40 { // more than the worker holds
			w.send(lookedUp(event.BySerialNumber, fmt.Sprintf("%s-%d", serial, n)))
		}
		w.send(lookedUp(event.ByManagedDevice, deviceID), about(grace))
		time.Sleep(5 * time.Second)
		w.wantRevoked(grace)
		time.Sleep(70 * time.Minute) // longer than retry.max_age
		w.wantDead(nil)
		if n := w.lookups(); n > 2*70+10 {
			t.Errorf("%d look-ups in 70 minutes, although none is allowed", n)
		}
		warning := w.health.Warnings()["lookups"]
		if w.health.Problems()["graph"] != "" || !strings.Contains(warning, "DeviceManagementManagedDevices.Read.All") {
			t.Errorf("problems %v, warnings %v; want a warning that names the permission", w.health.Problems(), w.health.Warnings())
		}
		w.send(about(alan))
		time.Sleep(time.Second)
		w.wantRevoked(grace, alan)
		w.graph.SetRoles("app", mdm)
		w.settled(10 * time.Minute)
		w.wantRevoked(ada, grace, alan)
		if n := w.counts().DeadLetter; n != 40 || len(w.health.Warnings()) > 0 {
			t.Errorf("%d dead letters, want 40 of devices that do not exist; warnings %v", n, w.health.Warnings())
		}
	})
}

// One device that Graph fails for must not be taken for everybody's trouble, once other look-ups
// show that it is the device's own.
func TestLookupThatAlwaysFailsIsADeadLetterOnceOthersSucceed(t *testing.T) {
	withDevices(t, settings{}, []graph.Device{adas()}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: "BROKEN", Status: http.StatusInternalServerError})
		w.run()
		broken, id := lookedUp(event.BySerialNumber, "BROKEN"), "broken"
		broken.MessageID = &id
		w.send(broken, about(grace))
		time.Sleep(10 * time.Minute)
		w.wantDead(nil) // the revocation of Grace proves nothing about look-ups
		for n := range 10 {
			w.send(lookedUp(event.BySerialNumber, fmt.Sprintf("unknown-%d", n)))
			time.Sleep(2 * time.Minute)
		}
		w.settled(time.Second)
		if n := w.counts().DeadLetter; n != 11 || w.dead()["broken"].DeadLetterReason != "RetriesExhausted" {
			t.Errorf("%d dead letters, the broken one as %q", n, w.dead()["broken"].DeadLetterReason)
		}
	})
}

func TestLookupFloodDelaysNobody(t *testing.T) {
	for name, c := range map[string]struct {
		fault  *graph.Fault
		events int
		within time.Duration
	}{
		"of unknown devices":   {nil, 1000, 3 * time.Second},
		"while Intune is down": {&graph.Fault{Status: http.StatusServiceUnavailable, Path: "deviceManagement"}, 200, 3 * time.Second},
		"while Intune hangs":   {&graph.Fault{Delay: time.Hour, Path: "deviceManagement"}, 200, 10 * time.Second}, // until it is noticed
	} {
		t.Run(name, func(t *testing.T) {
			withDevices(t, settings{}, nil, func(t *testing.T, w *world) {
				if c.fault != nil {
					w.graph.Inject(*c.fault)
				}
				w.run()
				batch, err := w.sender.NewMessageBatch(context.Background(), nil)
				if err != nil {
					t.Fatal(err)
				}
				for n := range c.events {
					if err := batch.AddMessage(lookedUp(event.BySerialNumber, fmt.Sprintf("unknown-%d", n)), nil); err != nil {
						t.Fatal(err)
					}
				}
				if err := w.sender.SendMessageBatch(context.Background(), batch, nil); err != nil {
					t.Fatal(err)
				}
				w.send(about(ada))
				time.Sleep(c.within)
				w.wantRevoked(ada)
				if c.fault != nil {
					time.Sleep(time.Minute)
					w.send(about(grace))
					time.Sleep(time.Second)
					w.wantRevoked(ada, grace)
					w.wantDead(nil)
				}
			})
		})
	}
}
