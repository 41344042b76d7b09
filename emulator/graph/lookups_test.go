package graph_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

func TestLookupRoutes(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	w := newWorld(t, graph.Config{
		Apps: []graph.App{
			{
				ClientID: "client", Secret: "secret",
				Roles: []string{"User.Read.All", "Device.Read.All", "DeviceManagementManagedDevices.Read.All"},
			},
			{ClientID: "devices", Secret: "secret", Roles: []string{"Device.Read.All"}},
			{ClientID: "none", Secret: "secret"},
		},
		Devices: []graph.Device{
			{ManagedID: "m1", EntraID: "e1", SerialNumber: "S 1", UserID: ada.ID, Owners: []string{ada.ID}, Users: []string{svc.ID}},
			{ManagedID: "m2", SerialNumber: "s 1", LoggedOn: []graph.LoggedOn{{UserID: svc.ID, At: at}}},
		},
	})
	w.SetAddresses(ada.ID, "a.lovelace@contoso.com", "SMTP:a.lovelace@contoso.com", "smtp:countess@contoso.com")
	users := func(filter string) string { return "/v1.0/users?$filter=" + url.QueryEscape(filter) }
	serial := "/v1.0/deviceManagement/managedDevices?$filter=" + url.QueryEscape("serialNumber eq 'S 1'")
	for target, c := range map[string]struct {
		app    string
		status int
		has    []string // parts of the body
		hasNot string
	}{
		"GET /beta/deviceManagement/managedDevices/M1": {
			"client",
			200,
			[]string{`"userId":"` + ada.ID, `"userPrincipalName":"` + ada.UserPrincipalName},
			"",
		},
		"GET /v1.0/deviceManagement/managedDevices('m1')?$select=id,userId": {"client", 200, []string{`"id":"m1"`}, "serialNumber"},
		"GET /beta/deviceManagement/managedDevices/m2?$select=usersLoggedOn": {
			"client", 200, []string{svc.ID, "2026-03-01T12:00:00Z"}, "m2",
		},
		"GET /v1.0/deviceManagement/managedDevices/m2?$select=usersLoggedOn": {"client", 400, []string{"usersLoggedOn"}, svc.ID},
		"GET /beta/deviceManagement/managedDevices/m3":                       {"client", 404, []string{"ResourceNotFound"}, ""},
		"GET /beta/deviceManagement/managedDevices/m1?$select=id":            {"devices", 403, []string{"Insufficient"}, "m1"},
		"GET " + serial: {
			"client",
			200,
			[]string{`"m1"`, `"m2"`},
			"nextLink",
		},
		"GET " + serial + "&$top=1": {
			"client",
			200,
			[]string{`"m1"`, "nextLink"},
			`"m2"`,
		},
		"GET " + strings.Replace(serial, "S+1", "S2", 1): {"client", 200, []string{`"value":[]`}, "m1"},
		"GET /v1.0/devices(deviceId='E1')/registeredOwners": {
			"client",
			200,
			[]string{ada.ID, ada.UserPrincipalName, "#microsoft.graph.user"},
			svc.ID,
		},
		"GET /v1.0/devices(deviceId=%27e1%27)/registeredUsers": {"client", 200, []string{svc.ID}, ada.ID},
		"GET /v1.0/devices(deviceId='e1')/registeredOwners?$select=id": {
			"devices",
			200,
			[]string{ada.ID, `"userPrincipalName":null`},
			ada.UserPrincipalName,
		},
		"GET /v1.0/devices(deviceId='e2')/registeredOwners": {
			"client",
			404,
			[]string{"Request_ResourceNotFound"},
			"",
		},
		"GET /v1.0/devices(deviceId='e1')/registeredOwners?none": {
			"none", 403, []string{"Insufficient"}, ada.ID,
		},
		"POST /v1.0/devices(deviceId='e1')/registeredOwners":                                    {"client", 405, nil, ada.ID},
		"GET " + users("mail eq 'A.Lovelace@contoso.com'"):                                      {"client", 200, []string{ada.ID}, svc.ID},
		"GET " + users("mail eq 'x' or proxyAddresses/any(p:p eq 'smtp:countess@contoso.com')"): {"client", 200, []string{ada.ID}, svc.ID},
		"GET " + users("proxyAddresses/any(p:p eq 'SMTP:countess@contoso.com')"): {
			"client", 200, []string{`"value":[]`}, ada.ID,
		},
		"GET " + users("userPrincipalName eq '$o''neil@contoso.com'"):            {"client", 200, []string{svc.ID}, ada.ID},
		"GET " + users("startswith(mail,'a')"):                                   {"client", 400, []string{"BadRequest"}, ada.ID},
		"GET " + users("proxyAddresses/any(p:q eq 'smtp:countess@contoso.com')"): {"client", 400, []string{"BadRequest"}, ada.ID},
		"GET " + users("mail eq 'a.lovelace@contoso.com'") + "&x": {
			"devices",
			403,
			[]string{"Insufficient"},
			ada.ID,
		},
	} {
		method, path, _ := strings.Cut(target, " ")
		a := w.as(t.Context(), w.signIn(c.app, "secret"), method, path)
		if a.status != c.status || c.hasNot != "" && strings.Contains(a.body, c.hasNot) {
			t.Errorf("%s: %d %s, want %d without %q", target, a.status, a.body, c.status, c.hasNot)
		}
		for _, part := range c.has {
			if !strings.Contains(a.body, part) {
				t.Errorf("%s: %s, want %s", target, a.body, part)
			}
		}
	}
}

func TestLookupsAreRecordedAndHaveFaults(t *testing.T) {
	w := newWorld(t, graph.Config{Apps: []graph.App{
		{ClientID: "client", Secret: "secret", Roles: []string{"DeviceManagementManagedDevices.Read.All"}},
	}})
	if err := w.AddDevice(graph.Device{ManagedID: "m1", SerialNumber: "S1"}); err != nil {
		t.Fatal(err)
	}
	if err := w.AddDevice(graph.Device{ManagedID: "M1"}); err == nil {
		t.Error("one id for two devices")
	}
	if err := w.AddDevice(graph.Device{SerialNumber: "S2"}); err == nil {
		t.Error("a device without an id")
	}
	const path = "/beta/deviceManagement/managedDevices?$filter=serialNumber%20eq%20%27s1%27"
	for fault, status := range map[*graph.Fault]int{
		{User: "S1", Count: 1, Status: 429}:                 429,
		{User: "S2", Count: 1, Status: 429}:                 200,
		{Path: "deviceManagement", Count: 1, Status: 503}:   503,
		{Path: "revokeSignInSessions", Count: 1, Status: 5}: 200,
	} {
		remove := w.Inject(*fault)
		if a := w.call("GET", path); a.status != status {
			t.Errorf("with %+v: %d, want %d", *fault, a.status, status)
		}
		remove()
	}
	if calls := w.Calls(); len(calls) != 4 || calls[0].Key != "s1" || calls[0].Revoked {
		t.Errorf("%+v", calls)
	}
	w.RemoveDevice("s1")
	if a := w.call("GET", path); !strings.Contains(a.body, `"value":[]`) {
		t.Error(a.body)
	}
}
