package servicebus

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The Atom documents that carry what the administration API returns and reads. Their names are
// those of Service Bus.

const (
	nsService  = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
	nsCounts   = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
	nsInstance = "http://www.w3.org/2001/XMLSchema-instance"
	nsSchema   = "http://www.w3.org/2001/XMLSchema"
	// nsSerialization has the types of .NET that XML Schema does not have.
	nsSerialization = "http://schemas.microsoft.com/2003/10/Serialization/"
)

type atomText struct {
	Type string `xml:"type,attr"`
	Text string `xml:",chardata"`
}

type atomLink struct {
	Rel  string `xml:"rel,attr"`
	Href string `xml:"href,attr"`
}

type atomEntry struct {
	XMLName   xml.Name `xml:"http://www.w3.org/2005/Atom entry"`
	ID        string   `xml:"id"`
	Title     atomText `xml:"title"`
	Published string   `xml:"published,omitempty"`
	Updated   string   `xml:"updated,omitempty"`
	Author    string   `xml:"author>name"`
	Link      atomLink `xml:"link"`
	Content   struct {
		Type string `xml:"type,attr"`
		Of   any    // has its own XMLName
	} `xml:"content"`
}

type atomFeed struct {
	XMLName xml.Name   `xml:"http://www.w3.org/2005/Atom feed"`
	ID      string     `xml:"id"`
	Title   atomText   `xml:"title"`
	Updated string     `xml:"updated,omitempty"`
	Links   []atomLink `xml:"link"`
	Entries []atomEntry
}

// noSuchEntity is what Service Bus returns instead of an entity that does not exist.
var noSuchEntity = atomFeed{Title: atomText{"text", "Publicly Listed Services"}}

type errorBody struct {
	XMLName xml.Name `xml:"Error"`
	Code    int      `xml:"Code"`
	Detail  detail   `xml:"Detail"`
}

// detail is text in which detailEscaper has escaped everything but quotes, because clients show the
// response without decoding it.
type detail struct {
	Text string `xml:",innerxml"`
}

var detailEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// newEntry returns an entry. The JavaScript client reads names from the path in its id.
func newEntry(r *http.Request, path, title string, content any) atomEntry {
	address := url.URL{Scheme: "https", Host: r.Host, Path: "/" + path, RawQuery: "api-version=" + apiVersion(r)}
	e := atomEntry{ID: address.String(), Title: atomText{"text", title}, Author: r.Host, Link: atomLink{"self", address.String()}}
	e.Content.Type, e.Content.Of = "application/xml", content
	return e
}

// apiVersion returns the version that the request names, or the one that most clients send. What
// the API returns is the same for all versions.
func apiVersion(r *http.Request) string {
	if version := r.URL.Query().Get("api-version"); version != "" {
		return url.QueryEscape(version)
	}
	return "2021-05"
}

// The sizes of pages.
const (
	defaultPage = 100
	maxPage     = 1000
)

// newFeed returns one page of a list, which $skip and $top select. The link "next" leads to the
// page that follows, if there is one: the clients for Java, JavaScript and Python follow it. Those
// for .NET and Go count, and ask until a page is empty.
func newFeed[T any](r *http.Request, title string, all []T, entry func(T) atomEntry) (atomFeed, error) {
	skip, top := 0, defaultPage
	query, _ := url.ParseQuery(r.URL.RawQuery)
	for key, values := range query {
		to := map[string]*int{"$skip": &skip, "$top": &top}[strings.TrimLeft(key, "?&")] // Go's client writes ?? for subscriptions
		if to == nil {
			continue
		}
		n, err := strconv.Atoi(values[0])
		if err != nil || n < 0 {
			return atomFeed{}, invalid(fmt.Sprintf("%s must be a number of entities, not %q.", key, values[0]))
		}
		*to = n
	}
	top = min(top, maxPage)
	page := func(skip int) string {
		return (&url.URL{
			Scheme: "https", Host: r.Host, Path: r.URL.Path,
			RawQuery: fmt.Sprintf("$skip=%d&$top=%d&api-version=%s", skip, top, apiVersion(r)),
		}).String()
	}
	f := atomFeed{
		ID: page(skip), Title: atomText{"text", title}, Updated: time.Now().UTC().Format(time.RFC3339),
		Links: []atomLink{{"self", page(skip)}},
	}
	rest := all[min(skip, len(all)):]
	if len(rest) > top && top > 0 {
		f.Links = append(f.Links, atomLink{"next", page(skip + top)})
	}
	for _, one := range rest[:min(top, len(rest))] {
		f.Entries = append(f.Entries, entry(one))
	}
	return f, nil
}

const (
	maxAdminBody  = 256 << 10 // of the body of a request, in bytes
	maxAdminDepth = 32        // of its elements; clients nest them eight deep
)

// readEntry reads the content of an entry, which is the body of a PUT. It reads the document as a
// whole, because clients declare namespaces on any of its elements.
func readEntry[T any](body io.Reader) (*T, error) {
	encoded, err := io.ReadAll(io.LimitReader(body, maxAdminBody+1))
	if err != nil {
		return nil, invalid("The body could not be read: " + err.Error())
	}
	if len(encoded) > maxAdminBody {
		return nil, invalid(fmt.Sprintf("The body has more than %d bytes.", maxAdminBody))
	}
	var entry struct {
		XMLName xml.Name `xml:"entry"`
		Content []struct {
			Of []*T `xml:",any"`
		} `xml:"content"`
	}
	document := xml.NewTokenDecoder(&shallow{xml.NewDecoder(bytes.NewReader(encoded)), 0})
	if err := document.Decode(&entry); err != nil {
		return nil, invalid("The body is not an Atom entry that describes an entity: " + err.Error())
	}
	if len(entry.Content) != 1 || len(entry.Content[0].Of) != 1 {
		return nil, invalid("The Atom entry must have one content with one element.")
	}
	return entry.Content[0].Of[0], nil
}

// shallow reads XML that is not nested deeper than maxAdminDepth.
type shallow struct {
	decoder *xml.Decoder
	depth   int
}

// Token implements xml.TokenReader.
func (s *shallow) Token() (xml.Token, error) {
	t, err := s.decoder.RawToken()
	switch t.(type) {
	case xml.StartElement:
		s.depth++
	case xml.EndElement:
		s.depth--
	}
	if s.depth > maxAdminDepth {
		return nil, fmt.Errorf("elements are nested more than %d deep", maxAdminDepth)
	}
	return t, err
}

// namespaceInfo describes the namespace. The broker has one, named after the request's host.
func namespaceInfo(r *http.Request) atomEntry {
	var d struct {
		XMLName       xml.Name
		CreatedTime   string `xml:"CreatedTime"`
		MessagingSKU  string `xml:"MessagingSKU"`
		ModifiedTime  string `xml:"ModifiedTime"`
		Name          string `xml:"Name"`
		NamespaceType string `xml:"NamespaceType"`
	}
	d.XMLName = xml.Name{Space: nsService, Local: "NamespaceInfo"}
	now := time.Now().UTC().Format(time.RFC3339)
	d.CreatedTime, d.ModifiedTime, d.MessagingSKU, d.Name, d.NamespaceType = now, now, "Standard", r.Host, "Messaging"
	return newEntry(r, "$namespaceinfo", r.Host, d)
}
