package answer

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/xmlpath"
)

// A node is a place in a document from which a value is taken, or an ancestor of one. Everything
// outside the nodes is skipped, so neither inner faults nor faults quoted in values are taken
// for the answer. A nil node has no children.
type node struct {
	below map[xml.Name]*node
	take  func(*reading, string) // takes the value, trimmed; nil for a mere ancestor
}

// A reading collects the values of a document.
type reading struct {
	*Answer
	xml *xmlpath.Reader // nil for JSON
	key string          // of the ErrorDetails entry being read
}

// every stands for all names that a node does not list.
var every = xml.Name{Local: "*"}

// nodesOf returns the root of the nodes at paths, which are names separated by slashes, in XML
// with a prefix of prefixOf.
func nodesOf(paths map[string]func(*reading, string)) *node {
	root := new(node)
	for path, take := range paths {
		n := root
		for _, s := range strings.Split(path, "/") {
			name := xml.Name{Local: s}
			if prefix, local, ok := strings.Cut(s, ":"); ok {
				name = xml.Name{Space: prefix, Local: local}
			}
			if n.below == nil {
				n.below = make(map[xml.Name]*node)
			}
			if n.below[name] == nil {
				n.below[name] = new(node)
			}
			n = n.below[name]
		}
		n.take = take
	}
	return root
}

func (n *node) child(name xml.Name) *node {
	if n == nil {
		return nil
	}
	if child, ok := n.below[name]; ok {
		return child
	}
	return n.below[every]
}

// jsonNodes are the nodes in errors of OData (v2, v3, v4), ASP.NET, API Management, token
// services, and gateways that pass on an organization's error.
var jsonNodes = nodesOf(map[string]func(*reading, string){
	"error":                             takeToken,
	"error/code":                        takeCode,
	"error/message":                     takeMessage,
	"error/message/value":               takeMessage,
	"error/innererror/type":             takeException,
	"error/extendedData/code":           takePassedOn,
	"error/" + annotation + "TraceText": takeTrace,
	"error/" + annotation + "ErrorDetails." + exceptionSourceKey: takeSource,
	"odata.error/code":            takeCode,
	"odata.error/message":         takeMessage,
	"odata.error/message/value":   takeMessage,
	"odata.error/innererror/type": takeException,
	"error_description":           takeDescription,
	"Message":                     takeMessage,
	"message":                     takeMessage,
	"ExceptionMessage":            takeMessage,
	"ExceptionType":               takeException,
})

func takeCode(r *reading, v string)      { first(&r.Code, v) }
func takePassedOn(r *reading, v string)  { first(&r.PassedOn, v) }
func takeMessage(r *reading, v string)   { first(&r.Message, v) }
func takeException(r *reading, v string) { first(&r.Exception, v) }

func takeDescription(r *reading, v string) {
	r.Described = true
	takeMessage(r, v)
}

// Answers of Dataverse name the source of an exception: in annotations, if the request asked for
// them (Prefer: odata.include-annotations), and in the details of SOAP faults. For an operation
// that has not begun, there is neither a trace nor a plug-in.
const (
	annotation         = "@Microsoft.PowerApps.CDS."
	exceptionSourceKey = "ApiExceptionSourceKey"
)

func takeTrace(r *reading, v string) { r.Running = r.Running || v != "" }

// takeSource takes "Plugin/Contoso.Orders.Book", or "PluginExecution".
func takeSource(r *reading, v string) {
	r.Running = r.Running || ascii.HasPrefixFold(v, "plugin")
}

func takeToken(r *reading, v string) {
	if isTokenError(v) {
		first(&r.Token, v)
	}
}

// isTokenError reports whether s has the form of a token service's error ("invalid_grant").
// Other services put a sentence in the same place.
func isTokenError(s string) bool {
	return Word(s) == s && s == ascii.Lower(s)
}

// readJSON reads an error in JSON, which may be incomplete.
func (a *Answer) readJSON(text []byte) {
	type level struct {
		at            *node // of the array or object
		object, keyed bool
		value         *node // of the member whose key was read
	}
	r := reading{Answer: a}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var levels []level
	for {
		token, err := dec.Token()
		if err != nil {
			return
		}
		var top *level
		if n := len(levels); n > 0 {
			top = &levels[n-1]
		}
		switch token := token.(type) {
		case json.Delim:
			switch {
			case token == ']' || token == '}':
				if levels = levels[:len(levels)-1]; len(levels) == 0 {
					return
				}
			case len(levels) == maxDepth:
				return
			default:
				next := level{at: jsonNodes, object: token == '{'}
				if top != nil {
					next.at, top.keyed = top.value, false // nil in an array, whose elements have no names
				}
				levels = append(levels, next)
			}
			continue
		case string:
			if top.object && !top.keyed {
				top.value, top.keyed = top.at.child(xml.Name{Local: token}), true
				continue
			}
			r.take(top.value, token)
		case json.Number:
			if int(dec.InputOffset()) < len(text) { // otherwise the value may be cut
				r.take(top.value, token.String())
			}
		}
		top.keyed = false
	}
}

// take passes the value at n to its function.
func (r *reading) take(n *node, value string) {
	if n != nil && n.take != nil {
		n.take(r, strings.TrimSpace(value))
	}
}

// prefixOf returns the prefix of a namespace in the paths below, "?" for any other namespace.
// Both versions of SOAP share one.
func prefixOf(space string) string {
	switch space {
	case "http://schemas.xmlsoap.org/soap/envelope/", "http://www.w3.org/2003/05/soap-envelope":
		return "s"
	case "http://www.w3.org/2005/08/addressing", "http://schemas.xmlsoap.org/ws/2004/08/addressing":
		return "a"
	case "http://schemas.microsoft.com/ado/2007/08/dataservices/metadata", "http://docs.oasis-open.org/odata/ns/metadata":
		return "m"
	case "http://schemas.datacontract.org/2004/07/System.Collections.Generic":
		return "c"
	case "":
		return ""
	}
	if strings.HasPrefix(space, "http://schemas.microsoft.com/xrm/") {
		return "x"
	}
	return "?"
}

// xmlNodes are the nodes in SOAP faults, with those of the organization, discovery and
// deployment services and of CRM 4, and in OData v2 errors.
var xmlNodes = nodesOf(xmlPaths())

func xmlPaths() map[string]func(*reading, string) {
	const fault = "s:Envelope/s:Body/s:Fault"
	paths := map[string]func(*reading, string){
		fault + "/faultcode":                takeQName,
		fault + "/s:Code/s:Value":           takeQName,
		fault + "/s:Code/s:Subcode/s:Value": takeSubcode,
		fault + "/faultstring":              takeMessage,
		fault + "/s:Reason/s:Text":          takeMessage,
		fault + "/detail/error/code":        takeCode,
		fault + "/detail/error/description": func(r *reading, v string) { r.Message = v }, // CRM 4: the fault string is "Server was unable to process request."
		"m:error/m:code":                    takeCode,
		"m:error/m:message":                 takeMessage,
		"m:error/m:innererror/m:type":       takeException,
	}
	for _, detail := range []string{fault + "/detail", fault + "/s:Detail"} {
		paths[detail+"/*"] = takeDetail
		paths[detail+"/a:RetryAfter"] = func(r *reading, v string) { r.RetryAfter = milliseconds(v) }
		for _, name := range []string{"OrganizationServiceFault", "DiscoveryServiceFault", "DeploymentServiceFault"} {
			service := detail + "/x:" + name
			paths[service+"/x:ErrorCode"] = takeCode
			paths[service+"/x:TraceText"] = takeTrace
			paths[service+"/x:ExceptionSource"] = takeSource
			paths[service+"/x:Message"] = func(r *reading, v string) { r.Message = v }
			entry := service + "/x:ErrorDetails/x:KeyValuePairOfstringanyType"
			paths[entry+"/c:key"] = func(r *reading, v string) { r.key = v }
			paths[entry+"/c:value"] = takeErrorDetail
		}
	}
	return paths
}

// takeQName takes the subcode of a fault, or its code if there is no subcode.
func takeQName(r *reading, v string) {
	if r.Subcode.Local == "" {
		r.Subcode = r.xml.Resolve(v)
	}
}

func takeSubcode(r *reading, v string) {
	if !r.subcode {
		r.Subcode, r.subcode = r.xml.Resolve(v), true
	}
}

// takeDetail takes the name of a detail in a namespace that prefixOf does not know.
func takeDetail(r *reading, _ string) {
	if path := r.xml.Path(); r.Detail.Local == "" {
		r.Detail = path[len(path)-1]
	}
}

func takeErrorDetail(r *reading, v string) {
	switch {
	case strings.EqualFold(r.key, "Retry-After"):
		r.RetryAfter = xsDuration(v)
	case r.key == exceptionSourceKey:
		takeSource(r, v)
	}
}

// readXML reads a SOAP fault or an OData error in XML, which may be incomplete.
func (a *Answer) readXML(text []byte) {
	r := reading{Answer: a, xml: xmlpath.NewReader(bytes.NewReader(text), maxDepth)}
	at := make([]*node, 1, 16) // of the open elements, below the root
	at[0] = xmlNodes
	var value []byte // of the innermost element at a node
	for {
		token, err := r.xml.Next()
		if err != nil {
			return
		}
		top := at[len(at)-1]
		switch t := token.(type) {
		case xml.StartElement:
			top = top.child(xml.Name{Space: prefixOf(t.Name.Space), Local: t.Name.Local})
			if at = append(at, top); len(at) == 2 && top == nil {
				return // a document of another kind
			}
			if top != nil {
				value = value[:0]
			}
		case xml.CharData:
			if top != nil {
				value = append(value, t[:min(len(t), maxText-len(value))]...)
			}
		case xml.EndElement:
			if top != nil && top.take != nil {
				top.take(&r, strings.TrimSpace(string(value)))
			}
			at = at[:len(at)-1]
		}
	}
}
