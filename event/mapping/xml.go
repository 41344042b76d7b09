package mapping

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/session-revoker/session-revoker/event"
)

// maxElements bounds the elements and attributes of an XML body.
const maxElements = 20000

// readXML returns an XML document as an object with one member, the root element:
//
//   - An element with neither attributes nor elements in it is its text.
//   - Any other element is an object: attributes are members named @name, elements are members by
//     their names, and text is the member #text.
//   - Elements of the same name become a list.
//   - Prefixes and declarations of namespaces are left out. An element with xsi:nil is null.
//
// A document type declaration is refused, and no entity is known but the five of XML: a small body
// stays small, and nothing is fetched.
func (d *document) readXML(body []byte) (*object, error) {
	x := newXMLReader(d, body)
	root := &object{doc: d, place: place{name: "body"}}
	for {
		token, err := x.decoder.Token()
		switch t := token.(type) {
		case xml.StartElement:
			if len(root.members) > 0 {
				return nil, errors.New("more than one root element")
			}
			name := t.Name.Local
			v, err := x.element(t, place{parent: &root.place, name: name}, 1)
			if err != nil {
				return nil, err
			}
			root.members = append(root.members, member{name: name, value: v})
		case xml.Directive:
			return nil, errors.New("a document type declaration, which is not read")
		case xml.CharData:
			if len(bytes.TrimSpace(t)) > 0 {
				return nil, errors.New("text outside of the root element")
			}
		}
		if errors.Is(err, io.EOF) && len(root.members) == 1 {
			return root, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

type xmlReader struct {
	doc      *document
	decoder  *xml.Decoder
	elements int
}

func newXMLReader(d *document, body []byte) *xmlReader {
	x := &xmlReader{doc: d, decoder: xml.NewDecoder(bytes.NewReader(body))}
	x.decoder.CharsetReader = func(label string, input io.Reader) (io.Reader, error) {
		switch strings.ToLower(label) {
		case "utf-8", "us-ascii", "utf-16", "iso-8859-1", "latin1", "windows-1252":
			return input, nil // the body is UTF-8 already, whatever it was
		}
		return nil, errors.New("the encoding " + quote(label) + " is not read")
	}
	return x
}

// element reads an element behind its start.
func (x *xmlReader) element(start xml.StartElement, at place, depth int) (ref.Val, error) {
	x.elements += 1 + len(start.Attr)
	if depth > event.MaxDepth {
		return nil, errors.New("nested too deep")
	}
	if x.elements > maxElements {
		return nil, errors.New("too many elements")
	}
	o := &object{doc: x.doc, place: at}
	isNil := false
	for _, a := range start.Attr {
		switch {
		case a.Name.Space == "xmlns" || a.Name.Local == "xmlns":
		case strings.HasSuffix(a.Name.Space, "XMLSchema-instance"):
			isNil = isNil || a.Name.Local == "nil" && (a.Value == "true" || a.Value == "1")
		default:
			o.members = append(o.members, member{name: "@" + a.Name.Local, value: types.String(a.Value)})
		}
	}
	var text strings.Builder
	seen := map[string]int{} // the indexes of the members that are elements
	for {
		token, err := x.decoder.Token()
		if err != nil {
			return nil, err
		}
		switch t := token.(type) {
		case xml.CharData:
			text.Write(t)
		case xml.Directive:
			return nil, errors.New("a declaration inside of an element")
		case xml.StartElement:
			if err := x.child(o, seen, t, depth+1); err != nil {
				return nil, err
			}
		case xml.EndElement:
			content := strings.TrimSpace(text.String())
			switch {
			case isNil:
				return types.NullValue, nil
			case len(o.members) == 0:
				return types.String(content), nil
			case content != "":
				o.members = append(o.members, member{name: "#text", value: types.String(content)})
			}
			o.fold()
			return o, nil
		}
	}
}

// child reads an element inside of another, and adds it to that one's members.
func (x *xmlReader) child(o *object, seen map[string]int, start xml.StartElement, depth int) error {
	name := start.Name.Local
	i, again := seen[name]
	if !again {
		v, err := x.element(start, place{parent: &o.place, name: name}, depth)
		if err == nil {
			seen[name] = len(o.members)
			o.members = append(o.members, member{name: name, value: v})
		}
		return err
	}
	l, ok := o.members[i].value.(*list)
	if !ok {
		l = &list{doc: x.doc, place: place{parent: &o.place, name: name}, values: []ref.Val{o.members[i].value}}
		if first, ok := l.values[0].(*object); ok {
			first.place = place{parent: &l.place, at: 0}
		}
		o.members[i].value = l
	}
	v, err := x.element(start, place{parent: &l.place, at: len(l.values)}, depth)
	if err == nil {
		l.values = append(l.values, v)
	}
	return err
}
