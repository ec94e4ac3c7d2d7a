package message

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/xmlpath"
)

// maxXMLDepth is the deepest nesting read: entities in entities are a few dozen
// levels deep, and the decoder keeps every open element.
const maxXMLDepth = 1000

const xmlSpace = " \t\r\n"

const (
	soap11Space = "http://schemas.xmlsoap.org/soap/envelope/"
	soap12Space = "http://www.w3.org/2003/05/soap-envelope"
	wsa04Space  = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
	wsa10Space  = "http://www.w3.org/2005/08/addressing"
	dsigSpace   = "http://www.w3.org/2000/09/xmldsig#"
	xencSpace   = "http://www.w3.org/2001/04/xmlenc#"
)

// soap finds wsa:To in the header of a SOAP 1.1 or 1.2 envelope. Other XML, and an envelope with
// a document type, get no edits.
func (r *rewriter) soap() {
	e := envelope{Reader: xmlpath.NewReader(bytes.NewReader(r.body), maxXMLDepth)}
	for {
		before := int(e.Offset())
		token, err := e.Next()
		if err == io.EOF {
			break
		}
		if err != nil || !e.read(token, before) {
			return
		}
	}
	if e.sealed() {
		return
	}
	for _, to := range e.to { // the URL may have white space around it
		text := r.body[to.start:to.end]
		start := to.start + len(text) - len(bytes.TrimLeft(text, xmlSpace))
		r.link(start, start+len(bytes.Trim(text, xmlSpace)), verbatim)
	}
}

// envelope is the state of reading a SOAP envelope.
type envelope struct {
	*xmlpath.Reader
	space  string   // of the Envelope, "" before it
	header bool     // the last child of Envelope is Header
	inTo   bool     // within Envelope/Header/To
	to     []span   // the contents of the To elements
	ids    []string // attribute values of Envelope, Header and To, including their Ids

	// What the security header says about signatures.
	signed    bool     // has a ds:Signature
	bare      bool     // the last one has no ds:Reference yet
	opaque    bool     // one refers to something that is not an Id
	encrypted bool     // has xenc:EncryptedData, which may be a signature
	refs      []string // the Ids that signatures cover
}

// read handles the next token, which begins at offset start. It returns false if this is not a
// SOAP envelope.
func (e *envelope) read(token xml.Token, start int) bool {
	switch t := token.(type) {
	case xml.StartElement:
		switch len(e.Path()) {
		case 1:
			return e.open(t)
		case 2:
			e.header = t.Name == xml.Name{Space: e.space, Local: "Header"}
		}
		if e.header {
			e.readHeader(t)
		}
	case xml.EndElement:
		if e.inTo { // also of a child, after which no address continues
			e.to[len(e.to)-1].end, e.inTo = start, false
		}
	case xml.CharData:
		return len(e.Path()) > 0 || len(bytes.Trim(t, "\ufeff"+xmlSpace)) == 0
	case xml.ProcInst:
		return t.Target != "xml" || isUTF8(t)
	case xml.Directive:
		return false
	}
	return true
}

// isUTF8 reports whether an XML declaration names no other encoding than UTF-8.
func isUTF8(declaration xml.ProcInst) bool {
	_, encoding, found := strings.Cut(string(declaration.Inst), "encoding")
	if !found {
		return true
	}
	encoding = strings.TrimLeft(encoding, "="+xmlSpace)
	return len(encoding) > 6 && ascii.EqualFold("utf-8", encoding[1:6]) && encoding[0] == encoding[6]
}

// open handles the root element.
func (e *envelope) open(t xml.StartElement) bool {
	if e.space != "" || t.Name.Local != "Envelope" || t.Name.Space != soap11Space && t.Name.Space != soap12Space {
		return false
	}
	e.space = t.Name.Space
	e.addIDs(t)
	return true
}

// readHeader handles the start of the Header or of an element in it.
func (e *envelope) readHeader(t xml.StartElement) {
	switch depth := len(e.Path()); {
	case depth == 2:
		e.addIDs(t)
	case depth == 3 && (t.Name == xml.Name{Space: wsa10Space, Local: "To"} || t.Name == xml.Name{Space: wsa04Space, Local: "To"}):
		e.addIDs(t)
		e.to = append(e.to, span{start: int(e.Offset())})
		e.inTo = true
	case t.Name == xml.Name{Space: xencSpace, Local: "EncryptedData"}:
		e.encrypted = true
	case t.Name == xml.Name{Space: dsigSpace, Local: "Signature"}:
		e.opaque = e.opaque || e.bare
		e.signed, e.bare = true, true
	case t.Name == xml.Name{Space: dsigSpace, Local: "Reference"}:
		e.bare = false
		e.addReference(t)
	}
}

func (e *envelope) addIDs(t xml.StartElement) {
	for _, a := range t.Attr {
		e.ids = append(e.ids, a.Value)
	}
}

// addReference records what a ds:Reference covers. Only "#id" names one element: a missing or
// empty URI means the whole document, and an XPointer may mean anything.
func (e *envelope) addReference(t xml.StartElement) {
	known := false
	for _, a := range t.Attr {
		if a.Name == (xml.Name{Local: "URI"}) {
			id, ok := strings.CutPrefix(a.Value, "#")
			known = ok && id != "" && !strings.ContainsAny(id, "()%")
			e.refs = append(e.refs, id)
		}
	}
	e.opaque = e.opaque || !known
}

// sealed reports whether a signature covers wsa:To, or may cover it. A changed message would be
// refused, while one that names the other host may still be served.
func (e *envelope) sealed() bool {
	if e.opaque || e.bare || e.encrypted && !e.signed {
		return true
	}
	covered := make(map[string]bool, len(e.refs))
	for _, id := range e.refs {
		covered[id] = true
	}
	for _, id := range e.ids {
		if covered[id] {
			return true
		}
	}
	return false
}
