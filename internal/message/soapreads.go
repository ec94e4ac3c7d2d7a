package message

import (
	"bytes"
	"encoding/xml"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/xmlpath"
)

// servicesSpace is the namespace of the messages of Organization.svc.
const servicesSpace = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"

// actionPrefix is the prefix of its actions, such as
// http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/Retrieve.
const actionPrefix = servicesSpace + "/IOrganizationService/"

const instanceSpace = "http://www.w3.org/2001/XMLSchema-instance"

// MayBeSOAP reports whether a request may be a SOAP message, by its SOAPAction (SOAP 1.1,
// section 6.1.1) or its media type (SOAP 1.2, RFC 3902; MTOM). It ignores the spelling of header
// names, and considers every value.
func MayBeSOAP(h http.Header) bool {
	acts, isJSON := false, false
	for key, values := range h {
		switch {
		case ascii.EqualFold("soapaction", key):
			acts = acts || slices.ContainsFunc(values, func(v string) bool { return unquote(v) != "" })
		case ascii.EqualFold("content-type", key):
			for _, v := range values {
				if isSOAPType(v) {
					return true
				}
				isJSON = isJSON || ascii.HasPrefixFold(v, "application/json")
			}
		}
	}
	return acts && !isJSON
}

// isSOAPType reports whether contentType is a media type of SOAP messages, whatever its
// parameters.
func isSOAPType(contentType string) bool {
	contentType = strings.TrimLeft(contentType, " \t")
	return slices.ContainsFunc(soapTypes[:], func(begin string) bool { return ascii.HasPrefixFold(contentType, begin) })
}

var soapTypes = [...]string{"text/xml", "application/xml", "application/soap+", "application/xop+", "multipart/related"}

func unquote(action string) string { return strings.Trim(action, " \t\"") }

// soapReads reports whether a request is a SOAP message that only retrieves, or executes a
// request that only reads (WhoAmI, RetrieveVersion, Retrieve...).
//
// SOAP 1.1 names the operation in the header SOAPAction, SOAP 1.2 in wsa:Action or in the media
// type; the element in the body names it, too. The server's binding determines which of them
// counts, so all that are present must name the same operation.
func soapReads(h http.Header, body []byte) bool {
	o := operation{}
	for key, values := range h {
		if !ascii.EqualFold("soapaction", key) {
			continue
		}
		for _, v := range values {
			if action := unquote(v); action != "" && !o.named(action) {
				return false
			}
		}
	}
	if !namesRead(body) {
		return false // nearly always for writes, at a hundredth of the cost of parsing
	}
	kind, params := plainKind(h)
	if action := unquote(params["action"]); kind != kindXML || action != "" && !o.named(action) {
		return false
	}
	return o.readsOnly(body)
}

// namesRead reports whether a name that isReadName accepts occurs in body.
func namesRead(body []byte) bool {
	return bytes.Contains(body, []byte("Retrieve")) || bytes.Contains(body, []byte("WhoAmI"))
}

// isReadName reports whether the organization request with that name only reads. Names of custom
// requests begin with a publisher's prefix, never with Retrieve.
func isReadName(name string) bool {
	return name == "WhoAmI" || strings.HasPrefix(name, "Retrieve") && letters([]byte(name)) == len(name)
}

// operation is what a SOAP message asks for, as far as it has been read.
type operation struct {
	action string // of IOrganizationService: Retrieve, RetrieveMultiple or Execute
	space  string // of the Envelope, "" before it
	body   bool   // Body has begun
	name   string // of the element in Body
	kind   string // type of the executed request without "Request", "" for OrganizationRequest itself
	runs   bool   // Execute/request has begun
	text   *string
	called *string // RequestName
	acted  *string // wsa:Action
}

// named records an action. It returns false if that does not only read, or differs from another
// one.
func (o *operation) named(action string) bool {
	name, ok := strings.CutPrefix(action, actionPrefix)
	switch name {
	case "Retrieve", "RetrieveMultiple", "Execute":
	default:
		return false
	}
	if !ok || o.action != "" && o.action != name {
		return false
	}
	o.action = name
	return true
}

// readsOnly parses the whole message, and reports whether it only reads.
func (o *operation) readsOnly(body []byte) bool {
	r := xmlpath.NewReader(bytes.NewReader(body), maxXMLDepth)
	for {
		start := r.Offset()
		token, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil || !o.read(token, body[start:r.Offset()], r.Path()) {
			return false
		}
	}
	if o.action == "" || o.name != o.action {
		return false
	}
	if o.name != "Execute" {
		return true
	}
	return o.called != nil && isReadName(*o.called) && (o.kind == "" || o.kind == *o.called)
}

// read takes the next token, which is written as raw. It returns false if the message does not
// read, or readers could disagree on what it asks for.
func (o *operation) read(token xml.Token, raw []byte, at []xml.Name) bool {
	switch t := token.(type) {
	case xml.StartElement:
		return o.text == nil && o.open(t, at)
	case xml.EndElement:
		return o.close()
	case xml.CharData:
		switch {
		case len(at) == 0:
			return len(bytes.Trim(t, "\ufeff"+xmlSpace)) == 0
		case o.text != nil:
			if *o.text != "" || !bytes.Equal(t, raw) { // in several pieces, or escaped
				return false
			}
			*o.text = string(t)
		default:
			return !holdsMessage(t)
		}
	case xml.ProcInst:
		return t.Target == "xml" && isUTF8(t) && bytes.IndexByte(t.Inst, '<') < 0
	case xml.Comment:
		return o.text == nil && bytes.IndexByte(t, '<') < 0
	case xml.Directive:
		return false
	}
	return true
}

// holdsMessage reports whether an unescaped text may contain a message, for a reader that
// confuses text with elements. FetchXML is none.
func holdsMessage(text []byte) bool {
	if bytes.IndexByte(text, '<') < 0 {
		return false
	}
	for _, name := range [...]string{"Envelope", "Header", "Body", "Action", "RequestName", "Request\""} {
		if bytes.Contains(text, []byte(name)) {
			return true
		}
	}
	return false
}

// open handles the start of an element. An element whose local name matters must be in its
// proper place, because a reader may ignore namespaces.
func (o *operation) open(t xml.StartElement, at []xml.Name) bool {
	kind, typed := "", false
	for _, a := range t.Attr {
		value := strings.Trim(a.Value, xmlSpace)
		name, isRequest := strings.CutSuffix(value[strings.LastIndexByte(value, ':')+1:], "Request")
		switch {
		case strings.ContainsAny(value, "<>]"):
			return false
		case !isRequest:
			continue
		case typed || a.Name != xml.Name{Space: instanceSpace, Local: "type"} || name != "Organization" && !isReadName(name):
			return false
		case name != "Organization":
			kind = name
		}
		typed = true
	}
	switch name := t.Name.Local; {
	case len(at) == 1: // the Envelope, and the only one
		first := o.space == ""
		o.space = t.Name.Space
		return first && name == "Envelope" && (o.space == soap11Space || o.space == soap12Space)
	case len(at) == 2: // Header, then Body
		first := !o.body
		o.body = name == "Body"
		return first && t.Name.Space == o.space && (o.body || name == "Header")
	case len(at) == 3 && o.body:
		first := o.name == ""
		o.name = name
		return first && t.Name.Space == servicesSpace
	case len(at) == 3 && name == "Action":
		return o.begin(&o.acted, t.Name.Space == wsa04Space || t.Name.Space == wsa10Space)
	case len(at) == 4 && o.name == "Execute":
		first := !o.runs
		o.runs, o.kind = true, kind
		return first && name == "request" && t.Name.Space == servicesSpace
	case len(at) == 5 && o.runs && name == "RequestName":
		return o.begin(&o.called, true)
	case name == "Envelope", name == "Header", name == "Body", name == "Action", name == "RequestName":
		return false // elsewhere
	}
	return true
}

// begin starts to collect the text of an element that may occur once.
func (o *operation) begin(text **string, ok bool) bool {
	if !ok || *text != nil {
		return false
	}
	*text = new(string)
	o.text = *text
	return true
}

// close handles the end of an element.
func (o *operation) close() bool {
	if o.text == nil {
		return true
	}
	*o.text = strings.Trim(*o.text, xmlSpace)
	isAction := o.text == o.acted
	o.text = nil
	return !isAction || o.named(*o.acted)
}
