package graph

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Device is a device as Intune and Entra know it. Either of the two may not know it: then ManagedID
// or EntraID is empty.
type Device struct {
	// ManagedID is the id of the managed device in Intune. EntraID is the deviceId in Entra.
	ManagedID string `json:"managedId"`
	EntraID   string `json:"entraId"`
	// SerialNumber may be that of several devices.
	SerialNumber string `json:"serialNumber"`
	// UserID is the object id of the primary user in Intune; "" for none.
	UserID string `json:"userId"`
	// LoggedOn are the users who have logged on, as Intune knows them.
	LoggedOn []LoggedOn `json:"loggedOn"`
	// Owners and Users are the object ids of the registered owners and users in Entra.
	Owners []string `json:"owners"`
	Users  []string `json:"users"`
}

// LoggedOn is the last time at which a user has logged on to a device.
type LoggedOn struct {
	UserID string    `json:"userId"`
	At     time.Time `json:"at"`
}

// intuneReaders and deviceReaders are the application permissions that allow reading a device in
// Intune and in Entra.
var (
	intuneReaders = []string{"DeviceManagementManagedDevices.Read.All", "DeviceManagementManagedDevices.ReadWrite.All"}
	deviceReaders = []string{"Device.Read.All", "Device.ReadWrite.All", "Directory.Read.All", "Directory.ReadWrite.All"}
)

// AddDevice adds a device. It fails if the device has no id, or one that another device has.
func (s *Server) AddDevice(d Device) error {
	if d.ManagedID == "" && d.EntraID == "" {
		return errors.New("a device needs a managed id or an Entra id")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.devices {
		if sameID(d.ManagedID, other.ManagedID) || sameID(d.EntraID, other.EntraID) {
			return fmt.Errorf("device %s%s is already there", d.ManagedID, d.EntraID)
		}
	}
	s.devices = append(s.devices, &d)
	return nil
}

// RemoveDevice removes the devices with this managed id, Entra id, or serial number.
func (s *Server) RemoveDevice(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices = slices.DeleteFunc(s.devices, func(d *Device) bool {
		return sameID(name, d.ManagedID) || sameID(name, d.EntraID) || sameID(name, d.SerialNumber)
	})
}

func sameID(a, b string) bool { return a != "" && strings.EqualFold(a, b) }

// lookup is a read that finds the user of a device, or the users with an address.
type lookup struct {
	value   string // the id, serial number, or address in the request
	allowed []string
	answer  func(s *Server, a *answer, version string)
}

// The paths of look-ups. Parentheses and quotes may be percent-encoded.
var (
	managedDevice  = regexp.MustCompile(`^deviceManagement/managedDevices(?:/([^/]+)|\('([^/]+)'\))$`)
	managedDevices = "deviceManagement/managedDevices"
	registered     = regexp.MustCompile(`^devices\(deviceId='([^/]+)'\)/(registeredOwners|registeredUsers)$`)

	bySerial = regexp.MustCompile(`^serialNumber eq '((?:[^']|'')*)'$`)
	clause   = regexp.MustCompile(`^(?:(mail|userPrincipalName) eq|proxyAddresses/any\((\w+):(\w+) eq) '((?:[^']|'')*)'\)?$`)
)

// parseLookup returns the look-up that a path and its query ask for.
func parseLookup(rest string, query url.Values) (l lookup, ok bool) {
	path, err := url.PathUnescape(rest)
	if err != nil {
		return lookup{}, false
	}
	filter := query.Get("$filter")
	if m := managedDevice.FindStringSubmatch(path); m != nil {
		id := m[1] + m[2]
		return lookup{value: id, allowed: intuneReaders, answer: func(s *Server, a *answer, version string) {
			found := s.devicesWhere(func(d *Device) bool { return sameID(d.ManagedID, id) })
			if len(found) == 0 {
				a.fail(http.StatusNotFound, "ResourceNotFound", "The device does not exist.")
				return
			}
			if one, ok := a.selectFrom(version, found[0]); ok {
				a.okJSON(one)
			}
		}}, true
	}
	if m := bySerial.FindStringSubmatch(filter); m != nil && path == managedDevices {
		serial := unescape(m[1])
		return lookup{value: serial, allowed: intuneReaders, answer: func(s *Server, a *answer, version string) {
			list := []map[string]any{}
			for _, d := range s.devicesWhere(func(d *Device) bool { return d.ManagedID != "" && sameID(d.SerialNumber, serial) }) {
				one, ok := a.selectFrom(version, d)
				if !ok {
					return
				}
				list = append(list, one)
			}
			a.page(list)
		}}, true
	}
	if m := registered.FindStringSubmatch(path); m != nil {
		registered := func(s *Server, a *answer, _ string) { s.registered(a, m[1], m[2]) }
		return lookup{value: m[1], allowed: deviceReaders, answer: registered}, true
	}
	if path == "users" && filter != "" {
		return byAddress(filter)
	}
	return lookup{}, false
}

// unescape returns the value of an OData literal, in which quotes are doubled.
func unescape(literal string) string { return strings.ReplaceAll(literal, "''", "'") }

// byAddress reads a filter of clauses that are joined by "or". Like Graph's, its comparisons do not
// depend on case, apart from those with an element of a list.
func byAddress(filter string) (l lookup, ok bool) {
	var fits []func(User) bool
	for text := range strings.SplitSeq(filter, " or ") {
		m := clause.FindStringSubmatch(text)
		if m == nil || m[2] != m[3] {
			return lookup{}, false
		}
		value := unescape(m[4])
		switch m[1] {
		case "mail":
			l.value = value
			fits = append(fits, func(u User) bool { return sameID(u.Mail, value) })
		case "userPrincipalName":
			fits = append(fits, func(u User) bool { return sameID(u.UserPrincipalName, value) })
		default:
			fits = append(fits, func(u User) bool { return slices.Contains(u.ProxyAddresses, value) })
		}
	}
	l.allowed = readers
	l.answer = func(s *Server, a *answer, _ string) {
		list := []map[string]any{}
		s.mu.Lock()
		for _, e := range s.byID {
			if slices.ContainsFunc(fits, func(fits func(User) bool) bool { return fits(e.User) }) {
				list = append(list, map[string]any{
					"id": e.ID, "userPrincipalName": e.UserPrincipalName, "userType": e.UserType,
					"mail": e.Mail, "proxyAddresses": append([]string{}, e.ProxyAddresses...),
				})
			}
		}
		s.mu.Unlock()
		slices.SortFunc(list, func(a, b map[string]any) int {
			return strings.Compare(a["id"].(string), b["id"].(string)) //nolint:forcetypeassert // made above
		})
		a.page(list)
	}
	return l, true
}

// lookUp answers a look-up.
func (s *Server) lookUp(a *answer, claims claims, version string, l lookup) {
	switch {
	case a.r.Method != http.MethodGet:
		a.w.Header().Set("Allow", http.MethodGet)
		a.fail(http.StatusMethodNotAllowed, "Request_BadRequest", "Specified HTTP method is not allowed for the request target.")
	case !claims.holdsAny(l.allowed):
		a.fail(http.StatusForbidden, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")
	default:
		a.limited = !claims.holdsAny(readers)
		l.answer(s, a, version)
	}
}

func (s *Server) devicesWhere(fits func(*Device) bool) (found []Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if fits(d) {
			found = append(found, *d)
		}
	}
	return found
}

// selectFrom returns the selected properties of a managed device. Only beta knows who has logged
// on. ok is false if it has answered that there is no such property.
func (a *answer) selectFrom(version string, d Device) (selected map[string]any, ok bool) {
	a.server.mu.Lock()
	upn := ""
	if e := a.server.find(d.UserID); e != nil {
		upn = e.UserPrincipalName
	}
	a.server.mu.Unlock()
	properties := map[string]any{
		"id": d.ManagedID, "azureADDeviceId": d.EntraID, "serialNumber": d.SerialNumber, "userId": d.UserID, "userPrincipalName": upn,
	}
	if version == "beta" {
		logons := []map[string]any{}
		for _, u := range d.LoggedOn {
			logons = append(logons, map[string]any{"userId": u.UserID, "lastLogOnDateTime": u.At.UTC().Format(time.RFC3339)})
		}
		properties["usersLoggedOn"] = logons
	}
	query := a.r.URL.Query().Get("$select")
	if query == "" {
		return properties, true
	}
	selected = map[string]any{}
	for name := range strings.SplitSeq(query, ",") {
		value, known := properties[name]
		if !known {
			a.fail(http.StatusBadRequest, "BadRequest",
				fmt.Sprintf("Could not find a property named '%s' on type 'microsoft.graph.managedDevice'.", name))
			return nil, false
		}
		selected[name] = value
	}
	return selected, true
}

// registered answers with the registered owners or users of a device. Without a permission to read
// users, Graph answers with their type and id alone.
func (s *Server) registered(a *answer, id, relation string) {
	found := s.devicesWhere(func(d *Device) bool { return sameID(d.EntraID, id) })
	if len(found) == 0 {
		a.notFound(id)
		return
	}
	ids := found[0].Owners
	if relation == "registeredUsers" {
		ids = found[0].Users
	}
	list := []map[string]any{}
	for _, id := range ids {
		one := map[string]any{"@odata.type": "#microsoft.graph.user", "id": id, "userPrincipalName": nil, "userType": nil}
		s.mu.Lock()
		if e := s.find(id); e != nil && !a.limited {
			one["userPrincipalName"], one["userType"] = e.UserPrincipalName, e.UserType
		}
		s.mu.Unlock()
		list = append(list, one)
	}
	a.page(list)
}

// page answers with a list, or with its first $top elements and a link to the others.
func (a *answer) page(list []map[string]any) {
	body := map[string]any{"value": list}
	var top int
	if _, err := fmt.Sscan(a.r.URL.Query().Get("$top"), &top); err == nil && top > 0 && len(list) > top {
		body["value"] = list[:top]
		body["@odata.nextLink"] = "https://" + a.r.Host + a.r.URL.RequestURI() + "&$skiptoken=next"
	}
	a.okJSON(body)
}

func (a *answer) okJSON(body map[string]any) {
	text, _ := json.Marshal(body) // only strings, lists, and null
	a.ok(string(text))
}

// SetAddresses sets the mail address and the proxyAddresses of a user, who is given by id or user
// principal name.
func (s *Server) SetAddresses(name, mail string, proxyAddresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(name); e != nil {
		e.Mail, e.ProxyAddresses = mail, slices.Clone(proxyAddresses)
	}
}
