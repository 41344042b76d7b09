package mapping

import (
	"strings"

	"github.com/session-revoker/session-revoker/event"
)

// domains are the domains that users' names may have.
type domains struct {
	exact  map[string]bool
	suffix []string // of *.contoso.com: .contoso.com
}

func newDomains(list []string) domains {
	d := domains{exact: map[string]bool{}}
	for _, entry := range list {
		entry = strings.ToLower(entry)
		if suffix, ok := strings.CutPrefix(entry, "*"); ok {
			d.suffix = append(d.suffix, suffix)
		} else {
			d.exact[entry] = true
		}
	}
	return d
}

// check returns the problem with the domain of a user's name or mail address, or nil. A user who is
// known only by an id or a device has none.
func (d domains) check(u event.User, field string) *event.Error {
	if len(d.exact)+len(d.suffix) == 0 {
		return nil
	}
	name := u.UPN()
	if by, mail := u.Lookup(); by == event.ByMail {
		name = mail
	}
	if name == "" {
		return nil
	}
	domain := strings.ToLower(name[strings.LastIndexByte(name, '@')+1:])
	if d.exact[domain] {
		return nil
	}
	for _, suffix := range d.suffix {
		if strings.HasSuffix(domain, suffix) {
			return nil
		}
	}
	return &event.Error{
		Kind: event.ForeignDomain, Field: field, Problem: quote(domain) + " is not on the list events.allowed_domains", User: u,
	}
}

// withDomains refuses the events whose user has a foreign domain.
func (d *Decoder) withDomains(items []event.Item) []event.Item {
	for i := range items {
		if items[i].Err != nil {
			continue
		}
		if problem := d.domains.check(items[i].Event.User, items[i].Event.Field); problem != nil {
			items[i].Event.User, items[i].Err = event.User{}, problem
		}
	}
	return items
}
