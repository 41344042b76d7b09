package ssf

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// The ways of delivery (https://openid.net/specs/openid-sharedsignals-framework-1_0-final.html, section
// 6). Older transmitters write them as URIs.
const (
	Push = "push" // urn:ietf:rfc:8935
	Poll = "poll" // urn:ietf:rfc:8936
)

// methods are the URIs of each delivery, the current one first.
var methods = map[string][]string{
	Push: {"urn:ietf:rfc:8935", "https://schemas.openid.net/secevent/risc/delivery-method/push"},
	Poll: {"urn:ietf:rfc:8936", "https://schemas.openid.net/secevent/risc/delivery-method/poll"},
}

// Metadata is what a transmitter says of itself (SSF 1.0, section 7.1). Its endpoints are not checked:
// the Client does that before it calls one.
type Metadata struct {
	// Found is where the metadata is.
	Found string `json:"-"`

	Issuer          string   `json:"issuer"`
	JWKSURL         string   `json:"jwks_uri,omitempty"`
	DeliveryMethods []string `json:"delivery_methods_supported,omitempty"`
	Configuration   string   `json:"configuration_endpoint,omitempty"`
	Status          string   `json:"status_endpoint,omitempty"`
	AddSubject      string   `json:"add_subject_endpoint,omitempty"`
	RemoveSubject   string   `json:"remove_subject_endpoint,omitempty"`
	Verification    string   `json:"verification_endpoint,omitempty"`
	CriticalMembers []string `json:"critical_subject_members,omitempty"`
	DefaultSubjects string   `json:"default_subjects,omitempty"`
	SpecVersion     string   `json:"spec_version,omitempty"`
}

// Delivers reports whether the transmitter has a delivery. One that names none may have any.
func (m Metadata) Delivers(delivery string) bool {
	return len(m.DeliveryMethods) == 0 || slices.ContainsFunc(m.DeliveryMethods, func(uri string) bool {
		return slices.Contains(methods[delivery], uri)
	})
}

// Discover gets the transmitter's metadata. It tries the address of SSF 1.0, section 7.2, with the
// well-known part between host and path, then that of transmitters that append it to the issuer, and
// then the same for RISC's older name. The metadata must name the very issuer.
func (c *Client) Discover(ctx context.Context) (Metadata, error) {
	addresses := []string{c.cfg.MetadataURL}
	if c.cfg.MetadataURL == "" {
		addresses = wellKnown(c.cfg.Issuer)
	}
	var first error
	for _, address := range addresses {
		m, err := c.metadata(ctx, address)
		if err == nil {
			return m, nil
		}
		if first == nil {
			first = err
		}
		if _, answered := errors.AsType[*Error](err); !answered {
			return Metadata{}, err // the others would not do better
		}
	}
	return Metadata{}, fmt.Errorf("%w; tried: %s. Check issuer, or set metadata_url", first, strings.Join(addresses, ", "))
}

// wellKnown returns the addresses where the metadata of an issuer may be.
func wellKnown(issuer string) []string {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil
	}
	root, path := u.Scheme+"://"+u.Host, strings.TrimSuffix(u.EscapedPath(), "/")
	var list []string
	for _, name := range []string{"/.well-known/ssf-configuration", "/.well-known/risc-configuration"} {
		list = append(list, root+name+path)
		if path != "" {
			list = append(list, root+path+name)
		}
	}
	return list
}

func (c *Client) metadata(ctx context.Context, address string) (Metadata, error) {
	const doing = "get the metadata"
	if err := c.check("metadata", address); err != nil {
		return Metadata{}, err
	}
	body, _, err := c.call(ctx, request{doing: doing, method: http.MethodGet, endpoint: address, anybody: true}, http.StatusOK)
	if err != nil {
		return Metadata{}, err
	}
	m := Metadata{Found: address}
	if err := into(doing, body, &m); err != nil {
		return Metadata{}, err
	}
	if m.Issuer != c.cfg.Issuer {
		return Metadata{}, fmt.Errorf("the metadata at %s is that of the issuer %s, not of %q: correct issuer", address, show(m.Issuer),
			c.cfg.Issuer)
	}
	return m, nil
}
