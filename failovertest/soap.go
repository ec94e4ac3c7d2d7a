package failovertest

import (
	"encoding/xml"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// soapPath is the path of the organization service, in lower case: SOAP 1.2 with
// WS-Addressing here, SOAP 1.1 below it at "/web".
const soapPath = "/xrmservices/2011/organization.svc"

// Namespaces of the organization service.
const (
	nsSOAP11     = "http://schemas.xmlsoap.org/soap/envelope/"
	nsSOAP12     = "http://www.w3.org/2003/05/soap-envelope"
	nsAddressing = "http://www.w3.org/2005/08/addressing"
	nsServices   = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"
	nsContracts  = "http://schemas.microsoft.com/xrm/2011/Contracts"
	nsCRM        = "http://schemas.microsoft.com/crm/2011/Contracts"
	nsGeneric    = "http://schemas.datacontract.org/2004/07/System.Collections.Generic"
	nsXSI        = "http://www.w3.org/2001/XMLSchema-instance"
	nsXSD        = "http://www.w3.org/2001/XMLSchema"

	actionPrefix = nsServices + "/IOrganizationService/"
)

// envelope is a SOAP request. Headers and bodies are matched by namespace, whatever the
// prefixes.
type envelope struct {
	XMLName xml.Name
	Header  struct {
		To        string `xml:"http://www.w3.org/2005/08/addressing To"`
		Action    string `xml:"http://www.w3.org/2005/08/addressing Action"`
		MessageID string `xml:"http://www.w3.org/2005/08/addressing MessageID"`
	} `xml:"Header"`
	Body struct {
		Operation element `xml:",any"`
	} `xml:"Body"`
}

// element is any XML element.
type element struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Children []element  `xml:",any"`
	Text     string     `xml:",chardata"`
}

// at returns the descendant at a path of local names, or an empty element.
func (e *element) at(path ...string) *element {
	for _, name := range path {
		var next *element
		for i := range e.Children {
			if e.Children[i].XMLName.Local == name {
				next = &e.Children[i]
				break
			}
		}
		if next == nil {
			return &element{}
		}
		e = next
	}
	return e
}

func (e *element) text() string { return strings.TrimSpace(e.Text) }

// instance returns the local name of the xsi attribute's value.
func (e *element) instance(attr string) string {
	for _, a := range e.Attrs {
		if a.Name.Space == nsXSI && a.Name.Local == attr {
			return a.Value[strings.LastIndex(a.Value, ":")+1:]
		}
	}
	return ""
}

// soapCall is a request to the organization service.
type soapCall struct {
	*request
	dc  *Datacenter
	v11 bool
	env envelope
}

// soap answers a request to Organization.svc, or below it at /web if v11 is
// set. The caller holds org.mu.
func (d *Datacenter) soap(r *request, v11 bool) *answer {
	c := &soapCall{request: r, dc: d, v11: v11}
	switch {
	case r.method == http.MethodGet && !v11:
		return d.wsdl(r)
	case r.method != http.MethodPost:
		return newAnswer(http.StatusMethodNotAllowed, "text/html", []byte("<p>Method not allowed.</p>"))
	case !d.authorized(r):
		return d.challenge()
	}
	want, ns := "application/soap+xml", nsSOAP12
	if v11 {
		want, ns = "text/xml", nsSOAP11
	}
	if got, _, _ := mime.ParseMediaType(r.header.Get("Content-Type")); got != want {
		return newAnswer(http.StatusUnsupportedMediaType, "", nil) // as WCF does
	}
	if err := xml.Unmarshal(r.body, &c.env); err != nil || c.env.XMLName != (xml.Name{Space: ns, Local: "Envelope"}) {
		return newAnswer(http.StatusBadRequest, "", nil) // as WCF does
	}
	a := c.dispatch()
	a.header.Set("X-Ms-Service-Request-Id", newID())
	return a
}

// dispatch checks what WCF checks before it passes a message to the service, then the fence,
// and carries the operation out.
func (c *soapCall) dispatch() *answer {
	to := strings.TrimSpace(c.env.Header.To)
	if u, err := url.Parse(to); to != "" && (err != nil || !strings.EqualFold(u.Host, c.host) || !strings.EqualFold(u.Path, c.path)) {
		return c.wcfFault("DestinationUnreachable", fmt.Sprintf("The message with To '%s' cannot be processed at the receiver, "+
			"due to an AddressFilter mismatch at the EndpointDispatcher.  "+
			"Check that the sender and receiver's EndpointAddresses agree.", to))
	}
	action := strings.TrimSpace(c.env.Header.Action)
	if c.v11 {
		action = strings.Trim(c.header.Get("SOAPAction"), `"`)
	}
	op := &c.env.Body.Operation
	if action != actionPrefix+op.XMLName.Local || op.XMLName.Space != nsServices {
		return c.wcfFault("ActionNotSupported", fmt.Sprintf("The message with Action '%s' cannot be processed at the receiver, "+
			"due to a ContractFilter mismatch at the EndpointDispatcher.", action))
	}
	if c.dc.fenced {
		return c.fault(codeFence, fenceMessage)
	}
	switch op.XMLName.Local {
	case "Execute":
		return c.execute(op.at("request"))
	case "Create":
		return c.create(op.at("entity"))
	case "Update":
		return c.update(op.at("entity"))
	case "Delete":
		return c.delete(op.at("entityName").text(), op.at("id").text())
	case "Retrieve":
		return c.retrieve(op)
	case "RetrieveMultiple":
		return c.retrieveMultiple(op.at("query"))
	}
	return c.fault(codeArgument, "The simulator does not know this operation.")
}

func (c *soapCall) execute(request *element) *answer {
	result := func(key, typ, value string) string {
		return fmt.Sprintf(`<a:KeyValuePairOfstringanyType><b:key>%s</b:key>`+
			`<b:value i:type=%s>%s</b:value></a:KeyValuePairOfstringanyType>`, key, typ, value)
	}
	const guidType = `"c:guid" xmlns:c="http://schemas.microsoft.com/2003/10/Serialization/"`
	name := request.at("RequestName").text()
	var results string
	switch name {
	case "WhoAmI":
		results = result("UserId", guidType, c.dc.org.userID) +
			result("BusinessUnitId", guidType, c.dc.org.unitID) +
			result("OrganizationId", guidType, c.dc.org.id)
	case "RetrieveVersion":
		results = result("Version", `"c:string" xmlns:c="`+nsXSD+`"`, version)
	default:
		return c.fault(codeArgument, "The simulator does not know this request.")
	}
	return c.reply("Execute", false, fmt.Sprintf(`<ExecuteResult i:type="d:%sResponse" xmlns:a="%s" xmlns:b="%s" xmlns:d="%s">`+
		`<a:ResponseName>%s</a:ResponseName><a:Results>%s</a:Results></ExecuteResult>`,
		name, nsContracts, nsGeneric, nsCRM, name, results))
}

func (c *soapCall) create(entity *element) *answer {
	set, id, next := decodeEntity(entity, &row{})
	switch {
	case set == "":
		return c.fault(codeArgument, "The entity has no logical name.")
	case id == "":
		id = newID()
	case c.dc.data.row(set, id) != nil:
		return c.fault(codeDuplicate, "Cannot insert duplicate key.")
	}
	c.dc.org.commit(c.dc, set, id, next)
	return c.reply("Create", true, "<CreateResult>"+id+"</CreateResult>")
}

func (c *soapCall) update(entity *element) *answer {
	set := plural(entity.at("LogicalName").text())
	id := strings.ToLower(entity.at("Id").text())
	r := c.dc.data.row(set, id)
	if r == nil {
		return c.notFound(set, id)
	}
	_, _, next := decodeEntity(entity, r.clone())
	c.dc.org.commit(c.dc, set, id, next)
	return c.reply("Update", true, "")
}

func (c *soapCall) delete(name, id string) *answer {
	set, id := plural(name), strings.ToLower(id)
	if c.dc.data.row(set, id) == nil {
		return c.notFound(set, id)
	}
	c.dc.org.commit(c.dc, set, id, nil)
	return c.reply("Delete", true, "")
}

func (c *soapCall) retrieve(op *element) *answer {
	set, id := plural(op.at("entityName").text()), strings.ToLower(op.at("id").text())
	r := c.dc.data.row(set, id)
	if r == nil {
		return c.notFound(set, id)
	}
	return c.reply("Retrieve", false, fmt.Sprintf(`<RetrieveResult xmlns:a="%s" xmlns:b="%s">%s</RetrieveResult>`,
		nsContracts, nsGeneric, encodeEntity(r, set, op.at("columnSet"))))
}

// retrieveMultiple answers a QueryExpression whose conditions are equalities, joined by And.
func (c *soapCall) retrieveMultiple(query *element) *answer {
	name := query.at("EntityName").text()
	if query.instance("type") != "QueryExpression" || name == "" {
		return c.fault(codeArgument, "The simulator answers a QueryExpression only.")
	}
	set := plural(name)
	rows := c.dc.data.sorted(set)
	for _, condition := range query.at("Criteria", "Conditions").Children {
		if condition.at("Operator").text() != "Equal" {
			return c.fault(codeArgument, "The simulator knows the operator Equal only.")
		}
		attr, want := condition.at("AttributeName").text(), condition.at("Values", "anyType").text()
		rows = slices.DeleteFunc(rows, func(r *row) bool { return fmt.Sprint(r.record(set)[attr]) != want })
	}
	count, _ := strconv.Atoi(query.at("PageInfo", "Count").text())
	page, _ := strconv.Atoi(query.at("PageInfo", "PageNumber").text())
	if count <= 0 {
		count = max(len(rows), 1)
	}
	first := min(max(page-1, 0)*count, len(rows))
	last := min(first+count, len(rows))
	var entities strings.Builder
	for _, r := range rows[first:last] {
		entities.WriteString("<a:Entity>" + encodeEntity(r, set, query.at("ColumnSet")) + "</a:Entity>")
	}
	return c.reply("RetrieveMultiple", false, fmt.Sprintf(`<RetrieveMultipleResult xmlns:a="%s" xmlns:b="%s">`+
		`<a:Entities>%s</a:Entities><a:EntityName>%s</a:EntityName><a:MinActiveRowVersion>-1</a:MinActiveRowVersion>`+
		`<a:MoreRecords>%t</a:MoreRecords><a:PagingCookie i:nil="true"/>`+
		`<a:TotalRecordCount>-1</a:TotalRecordCount><a:TotalRecordCountLimitExceeded>false</a:TotalRecordCountLimitExceeded>`+
		`</RetrieveMultipleResult>`, nsContracts, nsGeneric, &entities, escape(name), last < len(rows)))
}

func (c *soapCall) notFound(set, id string) *answer {
	return c.fault(codeNotFound, fmt.Sprintf("%s With Id = %s Does Not Exist", singular(set), id))
}

// reply answers an operation with its result.
func (c *soapCall) reply(op string, applied bool, result string) *answer {
	a := c.envelope(http.StatusOK, actionPrefix+op+"Response",
		fmt.Sprintf(`<%sResponse xmlns="%s" xmlns:i="%s">%s</%[1]sResponse>`, op, nsServices, nsXSI, result))
	a.applied = applied
	return a
}

// fault answers with an OrganizationServiceFault. Its code is the signed
// decimal form of the hexadecimal one.
func (c *soapCall) fault(code, message string) *answer { return c.faultWith(code, message, "") }

// faultWith is fault with the content of the element ErrorDetails, in which
// the prefix a is bound to the generic collections.
func (c *soapCall) faultWith(code, message, details string) *answer {
	n, err := strconv.ParseUint(code, 0, 32)
	if err != nil {
		panic("failovertest: " + err.Error()) // codes are constants
	}
	detail := fmt.Sprintf(`<OrganizationServiceFault xmlns="%s" xmlns:i="%s"><ErrorCode>%d</ErrorCode>`+
		`<ErrorDetails xmlns:a="%s">%s</ErrorDetails><Message>%s</Message><Timestamp>%s</Timestamp>`+
		`<InnerFault i:nil="true"/><TraceText i:nil="true"/></OrganizationServiceFault>`,
		nsContracts, nsXSI, int32(uint32(n)), nsGeneric, details, escape(message), time.Now().UTC().Format(time.RFC3339Nano))
	op := c.env.Body.Operation.XMLName.Local
	if c.v11 {
		return c.envelope(http.StatusInternalServerError, "", fmt.Sprintf(`<s:Fault><faultcode>s:Client</faultcode>`+
			`<faultstring xml:lang="en-US">%s</faultstring><detail>%s</detail></s:Fault>`, escape(message), detail))
	}
	return c.envelope(http.StatusInternalServerError, actionPrefix+op+"OrganizationServiceFaultFault",
		fmt.Sprintf(`<s:Fault><s:Code><s:Value>s:Sender</s:Value></s:Code><s:Reason><s:Text xml:lang="en-US">%s</s:Text></s:Reason>`+
			`<s:Detail>%s</s:Detail></s:Fault>`, escape(message), detail))
}

// wcfFault answers with a fault of WCF itself: the message never reached the service.
func (c *soapCall) wcfFault(code, message string) *answer {
	if c.v11 {
		return c.envelope(http.StatusInternalServerError, "", fmt.Sprintf(
			`<s:Fault><faultcode xmlns:a="http://schemas.microsoft.com/ws/2005/05/addressing/none">a:%s</faultcode>`+
				`<faultstring xml:lang="en-US">%s</faultstring></s:Fault>`, code, escape(message)))
	}
	return c.envelope(http.StatusInternalServerError, nsAddressing+"/soap/fault", fmt.Sprintf(
		`<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>a:%s</s:Value></s:Subcode></s:Code>`+
			`<s:Reason><s:Text xml:lang="en-US">%s</s:Text></s:Reason></s:Fault>`, code, escape(message)))
}

// envelope wraps the body of an answer in the SOAP version of the caller.
func (c *soapCall) envelope(status int, action, body string) *answer {
	if c.v11 {
		return newAnswer(status, "text/xml; charset=utf-8", fmt.Appendf(nil,
			`<s:Envelope xmlns:s="%s"><s:Body>%s</s:Body></s:Envelope>`, nsSOAP11, body))
	}
	return newAnswer(status, "application/soap+xml; charset=utf-8", fmt.Appendf(nil,
		`<s:Envelope xmlns:s="%s" xmlns:a="%s"><s:Header><a:Action s:mustUnderstand="1">%s</a:Action>`+
			`<a:RelatesTo>%s</a:RelatesTo></s:Header><s:Body>%s</s:Body></s:Envelope>`,
		nsSOAP12, nsAddressing, action, escape(strings.TrimSpace(c.env.Header.MessageID)), body))
}

func escape(text string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(text))
	return b.String()
}
