package message

import (
	"bytes"
	"encoding/xml"
	"mime"
	"net/http"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
)

// servicesSpace begins the actions of Organization.svc, such as
// http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/Retrieve,
// and is the namespace of its messages.
const servicesSpace = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"

// soapAction returns the action that the headers of a SOAP request name: in
// SOAPAction (SOAP 1.1, section 6.1.1) or as a parameter of the media type
// (SOAP 1.2, RFC 3902). It is "" if they name none; ok reports whether the request
// may be a SOAP message at all.
func Action(h http.Header) (action string, ok bool) {
	contentType := valueOf(h, "Content-Type")
	if ascii.HasPrefixFold(contentType, "application/json") {
		return "", false
	}
	for _, key := range [...]string{"Soapaction", "SOAPAction"} { // canonical, and as some clients set it by force
		if action := strings.Trim(valueOf(h, key), " \""); action != "" {
			return action, true
		}
	}
	if kind, _ := contentKind(contentType, valueOf(h, "Content-Encoding")); kind != kindXML {
		return "", false
	}
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", true
	}
	return params["action"], true
}

// retrieves reports whether an action reads whatever the envelope holds.
func Retrieves(action string) bool {
	operation, ok := strings.CutPrefix(action, servicesSpace+"/IOrganizationService/")
	return ok && (operation == "Retrieve" || operation == "RetrieveMultiple")
}

// executes reports whether an action runs the request that the envelope holds.
func executes(action string) bool {
	return action == servicesSpace+"/IOrganizationService/Execute"
}

// readsOnly reports whether an organization request of that name reads. Names of
// custom requests begin with a publisher's prefix, never with Retrieve.
func readsOnly(name string) bool {
	return name == "WhoAmI" || strings.HasPrefix(name, "Retrieve")
}

// soapReads reports whether the SOAP message in body retrieves, or executes a
// request that reads (WhoAmI, RetrieveVersion, Retrieve...). The action is taken
// from wsa:Action if it is "". In doubt, soapReads says no.
func Reads(action string, body []byte) bool {
	var m soapMessage
	dec := xml.NewDecoder(bytes.NewReader(body))
	for {
		token, err := dec.Token()
		if err != nil {
			break // the end, unless the envelope is broken: then names are missing
		}
		switch t := token.(type) {
		case xml.StartElement:
			if len(m.path) == maxXMLDepth {
				return false
			}
			m.open(t)
		case xml.CharData:
			m.text(t)
		case xml.EndElement:
			m.path = m.path[:len(m.path)-1]
		}
	}
	if action == "" {
		action = strings.TrimSpace(m.action)
	}
	if Retrieves(action) {
		return true
	}
	name := strings.TrimSpace(m.name)
	if m.kind == "" {
		m.kind = name
	}
	return executes(action) && readsOnly(name) && readsOnly(m.kind)
}

// soapMessage collects what says which operation an envelope asks for.
type soapMessage struct {
	path   []xml.Name
	action string // wsa:Action
	name   string // Execute/request/RequestName
	kind   string // the type of Execute/request without "Request", "" if it is the general one
}

func (m *soapMessage) open(t xml.StartElement) {
	m.path = append(m.path, t.Name)
	if !m.at("Body", "Execute", "request") {
		return
	}
	for _, a := range t.Attr {
		if a.Name.Space == "http://www.w3.org/2001/XMLSchema-instance" && a.Name.Local == "type" {
			_, kind, found := strings.Cut(strings.TrimSpace(a.Value), ":")
			if !found {
				kind = strings.TrimSpace(a.Value)
			}
			if m.kind = strings.TrimSuffix(kind, "Request"); m.kind == "Organization" {
				m.kind = ""
			}
		}
	}
}

func (m *soapMessage) text(t xml.CharData) {
	switch {
	case m.at("Header", "Action"):
		m.action += string(t)
	case m.at("Body", "Execute", "request", "RequestName"):
		m.name += string(t)
	}
}

// at reports whether the current element is the one reached from the envelope
// by these local names.
func (m *soapMessage) at(names ...string) bool {
	if len(m.path) != len(names)+1 || m.path[0].Local != "Envelope" ||
		m.path[0].Space != soap11Space && m.path[0].Space != soap12Space {
		return false
	}
	for i, name := range names {
		if m.path[i+1].Local != name {
			return false
		}
	}
	return true
}
