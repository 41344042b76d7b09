package revoker

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/event"
)

const (
	// usedLately is how long the last logon of another person makes it unclear who has a device.
	usedLately = 30 * 24 * time.Hour
	// sameSerial bounds how many devices with one serial number are looked at: a device that was
	// enrolled again, or a placeholder such as "To be filled by O.E.M.".
	sameSerial = 10
	// foundFor bounds how long a look-up is remembered: devices and addresses are given to other
	// people.
	foundFor = 10 * time.Minute
	// maxFound bounds the look-ups that are remembered; each needs about 200 bytes.
	maxFound = 20_000
	// nobody is the user of a device without one.
	nobody = "00000000-0000-0000-0000-000000000000"
)

// lookupPermissions are the application permissions that allow a look-up, the least one first
// (https://learn.microsoft.com/graph/permissions-reference).
var lookupPermissions = map[event.Lookup][]string{
	event.ByMail:          {"User.Read.All", "User.ReadWrite.All", "Directory.Read.All", "Directory.ReadWrite.All"},
	event.ByManagedDevice: {"DeviceManagementManagedDevices.Read.All", "DeviceManagementManagedDevices.ReadWrite.All"},
	event.BySerialNumber:  {"DeviceManagementManagedDevices.Read.All", "DeviceManagementManagedDevices.ReadWrite.All"},
	event.ByEntraDevice:   {"Device.Read.All", "Device.ReadWrite.All", "Directory.Read.All", "Directory.ReadWrite.All"},
}

// MayLookUp reports whether the token holds a permission for the look-up.
func (c Claims) MayLookUp(by event.Lookup) bool {
	held := slices.Concat(c.Scopes, c.Roles)
	return slices.ContainsFunc(lookupPermissions[by], func(permission string) bool { return slices.Contains(held, permission) })
}

// person is somebody whom Graph names in answer to a look-up.
type person struct {
	Type     string `json:"@odata.type"`
	ID       string `json:"id"`
	UPN      string `json:"userPrincipalName"`
	UserType string `json:"userType"`
}

// persons is a list of them. It is incomplete if it has a link to more.
type persons struct {
	Value []person `json:"value"`
	More  string   `json:"@odata.nextLink"`
}

// managedDevice is a device in Intune. Only beta knows who has logged on
// (https://learn.microsoft.com/graph/api/resources/intune-devices-loggedonuser).
type managedDevice struct {
	UserID   string `json:"userId"`
	UPN      string `json:"userPrincipalName"`
	LoggedOn []struct {
		UserID string    `json:"userId"`
		At     time.Time `json:"lastLogOnDateTime"`
	} `json:"usersLoggedOn"`
}

const deviceProperties = "$select=id,userId,userPrincipalName,usersLoggedOn"

// LookUp asks Graph whom an event means that names only a device or a mail address, and returns
// their account: the id, and the user principal name if Graph tells it. It makes one or two
// requests, and revokes nothing.
//
// Any error is an *Error whose By is the way of the look-up. It is of kind OwnerUnclear if nobody,
// or more than one person, may be meant, and of kind External if the only one is a guest.
func (r *Revoker) LookUp(ctx context.Context, user event.User) (account event.User, last Attempt, err error) {
	by, value := user.Lookup()
	look := lookups{r: r, by: by}
	var found person
	switch by {
	case event.ByManagedDevice:
		found, err = look.managedDevice(ctx, value)
	case event.BySerialNumber:
		found, err = look.serialNumber(ctx, value)
	case event.ByEntraDevice:
		found, err = look.entraDevice(ctx, value)
	case event.ByMail:
		found, err = look.mail(ctx, value)
	default:
		err = errors.New("the event names its user: there is nothing to look up")
	}
	if err == nil && (strings.EqualFold(found.UserType, "Guest") || strings.Contains(strings.ToUpper(found.UPN), "#EXT#")) {
		return event.User{}, look.last, &Error{Kind: External, Attempt: look.last, By: by}
	}
	if err == nil {
		if account, err = event.NewUser(found.ID, found.UPN); err != nil { // a name of a form that no call accepts
			account, err = event.NewUser(found.ID, "")
		}
	}
	var failure *Error
	if err != nil && !errors.As(err, &failure) {
		err = &Error{Kind: OwnerUnclear, Attempt: look.last, By: by, Err: err}
	}
	return account, look.last, err
}

// lookups makes the requests of one look-up. An error that is no *Error says why the owner is
// unclear.
type lookups struct {
	r    *Revoker
	by   event.Lookup
	last Attempt
}

// get reads what is at a path into into. ok is false if nothing is there.
func (l *lookups) get(ctx context.Context, path string, into any) (ok bool, err error) {
	l.last, err = l.r.send(ctx, request{method: http.MethodGet, target: l.r.root + path, into: into, by: l.by})
	l.last.Sent = false // nobody was to be revoked
	var failure *Error
	if !errors.As(err, &failure) {
		return true, nil
	}
	failure.Sent = false
	if failure.Kind == NotFound {
		return false, nil
	}
	return false, failure
}

// literal returns a value as an OData literal in a query.
func literal(value string) string {
	return "%27" + strings.ReplaceAll(url.QueryEscape(strings.ReplaceAll(value, "'", "''")), "+", "%20") + "%27"
}

var (
	errNoDevice  = errors.New("no such device: find out whose it is")
	errNoUser    = errors.New("the device has no user: find out who has it")
	errShared    = errors.New("another person has logged on to the device lately: find out who has it")
	errUsers     = errors.New("several people have the device, or devices with its serial number: find out who has it")
	errNoAddress = errors.New("nobody has the mail address")
	errAddress   = errors.New("several accounts have the mail address: find out whose it is")
)

func (l *lookups) managedDevice(ctx context.Context, id string) (person, error) {
	var device managedDevice
	ok, err := l.get(ctx, "/beta/deviceManagement/managedDevices/"+url.PathEscape(id)+"?"+deviceProperties, &device)
	switch {
	case err != nil:
		return person{}, err
	case !ok:
		return person{}, errNoDevice
	}
	return device.user(time.Now())
}

// serialNumber finds the user of all managed devices with a serial number. A device that was
// enrolled again may be there twice.
func (l *lookups) serialNumber(ctx context.Context, serial string) (person, error) {
	var devices struct {
		Value []managedDevice `json:"value"`
		More  string          `json:"@odata.nextLink"`
	}
	path := "/beta/deviceManagement/managedDevices?$filter=serialNumber%20eq%20" + literal(serial) + "&" + deviceProperties + "&$top=10"
	ok, err := l.get(ctx, path, &devices)
	switch {
	case err != nil:
		return person{}, err
	case !ok || len(devices.Value) == 0:
		return person{}, errNoDevice
	case devices.More != "" || len(devices.Value) > sameSerial:
		return person{}, errUsers
	}
	var found person
	for _, device := range devices.Value {
		user, err := device.user(time.Now())
		if err != nil {
			return person{}, err
		}
		if found.ID != "" && !strings.EqualFold(found.ID, user.ID) {
			return person{}, errUsers
		}
		found = user
	}
	return found, nil
}

// user returns the primary user of the device, unless somebody else has used it lately.
func (d managedDevice) user(now time.Time) (person, error) {
	if d.UserID == "" || d.UserID == nobody {
		return person{}, errNoUser
	}
	for _, other := range d.LoggedOn {
		if other.UserID == "" || other.UserID == nobody || strings.EqualFold(other.UserID, d.UserID) {
			continue
		}
		if other.At.IsZero() || now.Sub(other.At) < usedLately {
			return person{}, errShared
		}
	}
	return person{ID: d.UserID, UPN: d.UPN}, nil
}

// entraDevice finds the registered owner of a device in Entra. Its registered users must be nobody
// else (https://learn.microsoft.com/graph/api/device-list-registeredowners).
func (l *lookups) entraDevice(ctx context.Context, id string) (person, error) {
	var all []person
	for _, relation := range []string{"registeredOwners", "registeredUsers"} {
		var list persons
		path := "/v1.0/devices(deviceId=" + literal(id) + ")/" + relation + "?$select=id,userPrincipalName,userType"
		ok, err := l.get(ctx, path, &list)
		switch {
		case err != nil:
			return person{}, err
		case !ok:
			return person{}, errNoDevice
		case list.More != "":
			return person{}, errUsers
		}
		list.Value = slices.DeleteFunc(list.Value, func(p person) bool {
			return p.ID == "" || p.Type != "" && !strings.EqualFold(p.Type, "#microsoft.graph.user")
		})
		if relation == "registeredOwners" && len(list.Value) == 0 {
			return person{}, errNoUser
		}
		all = append(all, list.Value...)
	}
	for _, other := range all[1:] {
		if !strings.EqualFold(other.ID, all[0].ID) {
			return person{}, errUsers
		}
	}
	return all[0], nil
}

// mail finds the only account that has an address as its mail address, as an alias, or as its user
// principal name. The latter matters if the address was given to somebody else as an alias: then
// there are two accounts, and it is unclear whom the event means.
func (l *lookups) mail(ctx context.Context, address string) (person, error) {
	filter := "mail%20eq%20" + literal(address) +
		"%20or%20userPrincipalName%20eq%20" + literal(address) +
		"%20or%20proxyAddresses/any(p:p%20eq%20" + literal("smtp:"+address) + ")" +
		"%20or%20proxyAddresses/any(p:p%20eq%20" + literal("SMTP:"+address) + ")"
	var list persons
	ok, err := l.get(ctx, "/v1.0/users?$filter="+filter+"&$select=id,userPrincipalName,userType&$top=2", &list)
	switch {
	case err != nil:
		return person{}, err
	case !ok || len(list.Value) == 0:
		return person{}, errNoAddress
	case len(list.Value) > 1 || list.More != "":
		return person{}, errAddress
	}
	return list.Value[0], nil
}

// Finding revokes like Next, and first looks up users whom events name by a device or a mail
// address. It calls nobody for them: once the account is known, the error is of kind Named and holds
// it. The caller can then find out what else is being done, or was just done, for the same person.
// A Finding is safe for concurrent use.
type Finding struct {
	Graph *Revoker
	// Next makes the attempts for users who are known by id or name: Graph, or a Verifying.
	Next interface {
		Revoke(ctx context.Context, user event.User) (Attempt, error)
	}
	// Devices and Mails are which look-ups may be made. The others end as OwnerUnclear.
	Devices, Mails bool
	// SkewMargin is the allowed difference between Service Bus' clock, which sets enqueued times,
	// and ours.
	SkewMargin time.Duration

	mu    sync.Mutex
	found map[string]name
}

// Check is Revoker.Check.
func (f *Finding) Check(ctx context.Context) error { return f.Graph.Check(ctx) }

// Revoke makes one attempt for a known user, or one look-up. Any error is an *Error.
func (f *Finding) Revoke(ctx context.Context, user event.User) (Attempt, error) {
	by, _ := user.Lookup()
	began := time.Now()
	switch {
	case by == event.NoLookup:
		return f.Next.Revoke(ctx, user)
	case by == event.ByMail && !f.Mails, by != event.ByMail && !f.Devices:
		return Attempt{Start: began}, refuseLookup(user)
	}
	account, last, err := f.Graph.LookUp(ctx, user)
	if last.Start.IsZero() {
		last.Start = began
	}
	if err != nil {
		return last, err
	}
	f.remember(user, name{account, began})
	return last, &Error{Kind: Named, Attempt: last, By: by, Account: account}
}

func (f *Finding) remember(user event.User, found name) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.found == nil || len(f.found) >= maxFound {
		f.found = map[string]name{} // forgetting costs only a look-up
	}
	f.found[user.Key()] = found
}

// Known returns the account of a user who is given by a device or mail address, if a look-up has
// found it that began after the event was enqueued, and not long ago: by then the device can belong
// to somebody else.
func (f *Finding) Known(user event.User, enqueued time.Time) (account event.User, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known, ok := f.found[user.Key()]
	if !ok || enqueued.IsZero() || !known.at.Add(-f.SkewMargin).After(enqueued) || time.Since(known.at) >= foundFor {
		return event.User{}, false
	}
	return known.user, true
}

// refuseLookup returns the error for a user who must be looked up, where no look-up is made: a
// device must never become part of a user's URL.
func refuseLookup(user event.User) error {
	by, _ := user.Lookup()
	switch by {
	case event.NoLookup:
		return nil
	case event.ByMail:
		return &Error{Kind: OwnerUnclear, By: by, Err: errors.New("the event names its user by a mail address, " +
			"which nobody looks up: set graph.read_users, or find out whose it is")}
	default:
		return &Error{Kind: OwnerUnclear, By: by, Err: errors.New("the event names only a device, " +
			"whose user nobody looks up: set events.resolve_devices, or find out whose it is")}
	}
}
