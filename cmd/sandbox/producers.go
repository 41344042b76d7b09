package main

import (
	"encoding/json"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
)

// helpDesk is the administrator whom the producers name beside the affected person. Nobody may
// sign them out. They may sign in with a device code and revoke others' sessions.
var helpDesk = func() graph.User {
	who := person(40, "helpdesk")
	who.Roles = []string{"Helpdesk Administrator"}
	return who
}()

// staff are the people in the producers' messages, and where the embedded Graph keeps their devices.
type staff struct {
	annie, dorothy, jean, katherine, kay, margaret, mary, radia, sophie, betty graph.User
}

func newStaff() staff {
	return staff{
		annie: person(41, "annie"), dorothy: person(42, "dorothy"), jean: person(43, "jean"), katherine: person(44, "katherine"),
		kay: person(45, "kay"), margaret: person(46, "margaret"), mary: person(47, "mary"), radia: person(48, "radia"),
		sophie: person(49, "sophie"), betty: person(50, "betty"),
	}
}

func (s staff) people() []graph.User {
	return []graph.User{
		helpDesk, s.annie, s.dorothy, s.jean, s.katherine, s.kay, s.margaret, s.mary, s.radia, s.sophie, s.betty,
	}
}

// serial is the serial number of Mary's laptop, whose user only Intune knows.
const serial = "C02XL0AAJGH5"

// devices returns what Intune knows.
func (s staff) devices() []graph.Device {
	return []graph.Device{{ManagedID: "6c4217e6-bc89-4e7f-a04c-129f04866de4", SerialNumber: serial, UserID: s.mary.ID}}
}

// producers returns an hour in the life of a company: what its MDM, identity and HR systems send, in
// their own shapes. The presets understand them.
func (s staff) producers() []sampleMessage {
	now := time.Now().UTC()
	at := now.Format(time.RFC3339Nano)
	okta := func(eventType string, target graph.User) any {
		return map[string]any{
			"eventType": "com.okta.event_hook", "cloudEventsVersion": "0.1", "source": "https://contoso.okta.com/api/v1/eventHooks/who1",
			"data": map[string]any{"events": []any{map[string]any{
				"uuid": eventType, "published": at, "eventType": eventType, "displayMessage": eventType,
				"actor":   map[string]any{"id": "00u1", "type": "User", "alternateId": helpDesk.UserPrincipalName},
				"outcome": map[string]any{"result": "SUCCESS"},
				"target":  []any{map[string]any{"id": "00u2", "type": "User", "alternateId": target.UserPrincipalName}},
			}}},
		}
	}
	workday := func(who graph.User, status string, last time.Time) any {
		return map[string]any{"Report_Entry": []any{map[string]any{
			"Employment_Status": status, "Email_Address": who.UserPrincipalName, "Email_-_Primary_Home": "someone@home.example",
			"Termination_Date": last.Format("01/02/2006"), "Workday_ID": who.ID[30:], "Rehired_Employee": "No",
		}}}
	}
	return []sampleMessage{
		{
			about: "Intune: Help Desk wipes Annie's laptop", revoked: ids(s.annie),
			message: encoded("application/json", map[string]any{
				"@odata.type": "#microsoft.graph.remoteActionAudit", "id": "intune-1", "action": "factoryReset", "actionState": "pending",
				"deviceDisplayName": "ANNIE-LAPTOP", "deviceOwnerUserPrincipalName": s.annie.UserPrincipalName,
				"initiatedByUserPrincipalName": helpDesk.UserPrincipalName, "requestDateTime": at,
				"managedDeviceId": "6c4217e6-bc89-4e7f-a04c-129f04866de9",
			}),
		},
		{
			about: "Intune: the daily list of devices", reason: deadletter.NoTrigger,
			message: encoded("application/json", map[string]any{"records": []any{map[string]any{
				"time": at, "tenantId": "contoso", "category": "Devices", "operationName": "Devices", "resultType": "None",
				"properties": map[string]any{
					"DeviceName": "DOROTHY-LAPTOP", "UPN": s.dorothy.UserPrincipalName, "PrimaryUser": s.dorothy.ID,
				},
			}}}),
		},
		{
			via: "jamf", about: "Jamf Pro: Dorothy's iPad leaves management", revoked: ids(s.dorothy),
			message: encoded("application/json", map[string]any{
				"webhook": map[string]any{
					"id": 5, "name": "Unenrolled", "webhookEvent": "MobileDeviceUnEnrolled", "eventTimestamp": now.UnixMilli(),
				},
				"event": map[string]any{
					"deviceName": "Dorothy's iPad", "username": "Dorothy V", "emailAddress": s.dorothy.UserPrincipalName,
					"serialNumber": "DMQVGC0DHLA0",
				},
			}),
		},
		{
			via: "workspace-one", about: "Workspace ONE: Jean's phone is compromised, as XML", revoked: ids(s.jean),
			message: body("application/xml", "<Eventlog><EventId>178</EventId>"+
				"<EventType>CompromisedStatusChanged</EventType><DeviceId>1001</DeviceId>"+
				"<DeviceFriendlyName>jean phone</DeviceFriendlyName><EnrollmentEmailAddress>"+s.jean.UserPrincipalName+
				"</EnrollmentEmailAddress><EventTime>"+at+"</EventTime><CompromisedStatus>true</CompromisedStatus></Eventlog>"),
		},
		{
			via: "fleet", about: "Fleet: Mary's laptop is wiped; Intune knows whose it is", revoked: ids(s.mary),
			message: encoded("application/json", map[string]any{
				"timestamp": at, "type": "wiped_host", "actor_full_name": "Help Desk", "actor_id": 3,
				"actor_email": helpDesk.UserPrincipalName,
				"details":     map[string]any{"host_id": 12, "host_display_name": "Mary's MacBook", "host_serial": serial},
			}),
		},
		{
			via: "okta", about: "Okta: Help Desk suspends Katherine", revoked: ids(s.katherine),
			message: encoded("application/json", okta("user.lifecycle.suspend", s.katherine)),
		},
		{
			via: "okta", about: "Okta: Kay has signed out, as every evening", reason: deadletter.NoTrigger,
			message: encoded("application/json", okta("user.session.end", s.kay)),
		},
		{
			about: "Entra lifecycle workflow: Margaret leaves, her manager stays", revoked: ids(s.margaret),
			message: encoded("application/json", map[string]any{
				"data": map[string]any{
					"subject": map[string]any{
						"id": s.margaret.ID, "email": s.margaret.UserPrincipalName, "userPrincipalName": s.margaret.UserPrincipalName,
						"manager": map[string]any{"id": helpDesk.ID, "email": helpDesk.UserPrincipalName},
					},
					"task":                 map[string]any{"id": "t1", "displayName": "Run a custom task extension"},
					"taskProcessingResult": map[string]any{"id": "p1", "createdDateTime": at},
					"workflow":             map[string]any{"id": "w1", "displayName": "Offboard an employee"},
				},
				"type": "lifecycleEvent", "source": "sandbox",
			}),
		},
		{
			about: "Sentinel, through a Logic App: Radia's token was stolen", revoked: ids(s.radia),
			message: logicApp(map[string]any{
				"objectSchemaType": "Incident", "objectEventType": "Create",
				"object": map[string]any{
					"name": "i1", "type": "Microsoft.SecurityInsights/Incidents",
					"properties": map[string]any{
						"title": "Token theft", "severity": "High", "status": "New", "createdTimeUtc": at,
						"owner": map[string]any{"userPrincipalName": helpDesk.UserPrincipalName},
						"relatedEntities": []any{map[string]any{
							"kind": "Account",
							"properties": map[string]any{
								"aadUserId": s.radia.ID, "accountName": "radia", "upnSuffix": domain,
							},
						}},
					},
				},
			}),
		},
		{
			about: "Workday: Sophie left yesterday", revoked: ids(s.sophie),
			message: encoded("application/json", workday(s.sophie, "Terminated", now.AddDate(0, 0, -2))),
		},
		{
			about: "Workday: Betty leaves in a month", announced: true,
			message: encoded("application/json", workday(s.betty, "Active", now.AddDate(0, 1, 0))),
		},
		{
			about: "a private address", reason: deadletter.ForeignDomain,
			message: plain("device.lost", map[string]any{"userPrincipalName": "grace@home.example"}),
		},
	}
}

// logicApp wraps a body as the Service Bus connector of Logic Apps does.
func logicApp(v any) *azservicebus.Message {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // the sample holds strings and maps only
	}
	return encoded("application/json", map[string]any{"ContentData": text, "ContentType": "application/json"})
}
