package servicebus

import (
	"encoding/xml"
	"io"
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
)

type atomText struct {
	Type string `xml:"type,attr"`
	Text string `xml:",chardata"`
}

type atomEntry struct {
	XMLName   xml.Name `xml:"http://www.w3.org/2005/Atom entry"`
	ID        string   `xml:"id"`
	Title     atomText `xml:"title"`
	Published string   `xml:"published,omitempty"`
	Updated   string   `xml:"updated,omitempty"`
	Content   struct {
		Type string `xml:"type,attr"`
		Of   any    // has its own XMLName
	} `xml:"content"`
}

type atomFeed struct {
	XMLName xml.Name `xml:"http://www.w3.org/2005/Atom feed"`
	ID      string   `xml:"id"`
	Title   atomText `xml:"title"`
	Updated string   `xml:"updated,omitempty"`
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
func newEntry(host, path, title string, content any) atomEntry {
	e := atomEntry{ID: "sb://" + host + "/" + path, Title: atomText{"text", title}}
	e.Content.Type, e.Content.Of = "application/xml", content
	return e
}

// readEntry reads the content of an entry, which is the body of a PUT.
func readEntry(body io.Reader, into any) error {
	var e struct {
		Content struct {
			Inner []byte `xml:",innerxml"`
		} `xml:"content"`
	}
	if err := xml.NewDecoder(io.LimitReader(body, maxAdminBody)).Decode(&e); err != nil {
		return invalid("The body is not an Atom entry: " + err.Error())
	}
	if err := xml.Unmarshal(e.Content.Inner, into); err != nil {
		return invalid("The entry's content is not readable: " + err.Error())
	}
	return nil
}

// namespaceInfo describes the namespace. The broker has one, named after the request's host.
func namespaceInfo(host string) atomEntry {
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
	d.CreatedTime, d.ModifiedTime, d.MessagingSKU, d.Name, d.NamespaceType = now, now, "Standard", host, "Messaging"
	return newEntry(host, "$namespaceinfo", host, d)
}
