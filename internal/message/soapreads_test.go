package message

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	soapURL = "https://" + rewritePrimary + "/XRMServices/2011/Organization.svc/web"

	soap11 = `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:a="http://www.w3.org/2005/08/addressing" ` + soapNames
	soap12 = `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/2005/08/addressing" ` + soapNames

	soapNames = `xmlns:v="` + servicesSpace + `" xmlns:i="http://www.w3.org/2001/XMLSchema-instance" ` +
		`xmlns:c="http://schemas.microsoft.com/crm/2011/Contracts" xmlns:x="http://schemas.microsoft.com/xrm/2011/Contracts">`

	bodyRetrieve = `<s:Body><v:Retrieve><v:entityName>account</v:entityName><v:columnSet><x:AllColumns>true</x:AllColumns></v:columnSet></v:Retrieve></s:Body></s:Envelope>`
	bodyCreate   = `<s:Body><v:Create><v:entity><x:LogicalName>account</x:LogicalName></v:entity></v:Create></s:Body></s:Envelope>`
)

// acted returns a header with a wsa:Action.
func acted(operation string) string {
	return `<s:Header><a:Action s:mustUnderstand="1">` + actionPrefix + operation + `</a:Action></s:Header>`
}

// executed returns the rest of an envelope that executes a request.
func executed(kind, name string) string {
	return `<s:Body><v:Execute><v:request i:type="` + kind + `"><x:Parameters/><x:RequestId i:nil="true"/><x:RequestName>` + name +
		`</x:RequestName></v:request></v:Execute></s:Body></s:Envelope>`
}

// type11 and type12 are the headers of the two bindings of Organization.svc.
func type11(operation string) string {
	return "Content-Type: text/xml; charset=utf-8\nSoapaction: \"" + actionPrefix + operation + `"`
}

const type12 = "Content-Type: application/soap+xml; charset=utf-8"

var soapReadCases = []readCase{
	{name: "1.1 Retrieve", reads: true, why: "named by header and body", header: type11("Retrieve"), body: soap11 + bodyRetrieve},
	{name: "1.1 Retrieve, spelling by force", reads: true, why: "on the wire the name has no case", header: "content-type: text/xml\nSOAPAction: " + actionPrefix + "Retrieve", body: soap11 + bodyRetrieve},
	{name: "1.1 WhoAmI", reads: true, why: "named by the request", header: type11("Execute"), body: soap11 + executed("c:WhoAmIRequest", "WhoAmI")},
	{name: "1.1 general request", reads: true, why: "the general type says nothing", header: type11("Execute"), body: soap11 + executed("x:OrganizationRequest", "RetrieveVersion")},
	{name: "1.1 both actions", reads: true, why: "they agree", header: type11("Retrieve"), body: soap11 + acted("Retrieve") + bodyRetrieve},
	{name: "1.2 by wsa:Action", reads: true, why: "named by envelope and body", body: `<?xml version="1.0" encoding="UTF-8" standalone="yes"?>` + "\n" + soap12 + acted("Retrieve") + bodyRetrieve},
	{name: "1.2 by media type", reads: true, why: "named by header and body", header: type12 + `; action="` + actionPrefix + `Retrieve"`, body: "\ufeff" + soap12 + bodyRetrieve},
	{name: "1.2 RetrieveMultiple", reads: true, why: "a query", body: soap12 + acted("RetrieveMultiple") + strings.ReplaceAll(bodyRetrieve, "v:Retrieve>", "v:RetrieveMultiple>")},
	{name: "1.2 typed query", reads: true, why: "types in a query do not matter", body: soap12 + acted("RetrieveMultiple") + `<s:Body><v:RetrieveMultiple><v:query i:type="x:QueryExpression"><x:EntityName>account</x:EntityName></v:query></v:RetrieveMultiple></s:Body></s:Envelope>`},
	{name: "FetchXML", reads: true, why: "a query in a text", body: soap12 + acted("RetrieveMultiple") + `<s:Body><v:RetrieveMultiple><v:query i:type="x:FetchExpression"><x:Query>&lt;fetch top="5"&gt;&lt;entity name="account"&gt;&lt;attribute name="name" /&gt;&lt;/entity&gt;&lt;/fetch&gt;</x:Query></v:query></v:RetrieveMultiple></s:Body></s:Envelope>`},
	{name: "message in a text", why: "some do not tell text from elements", body: soap12 + acted("Retrieve") + strings.Replace(bodyRetrieve, "account", "<![CDATA[<s:Body><v:Create/></s:Body>]]>", 1)},
	{name: "message in a comment", why: "some do not tell comments from elements", body: "<!-- " + strings.ReplaceAll(bodyCreate, "</s:Envelope>", "") + " -->" + soap12 + acted("Retrieve") + bodyRetrieve},
	{name: "name in a header", why: "some look anywhere", body: soap12 + strings.Replace(acted("Retrieve"), "</s:Header>", "<x:RequestName>WinOpportunity</x:RequestName></s:Header>", 1) + bodyRetrieve},
	{name: "comments", reads: true, why: "outside of names they do not matter", body: "<!-- a -->" + soap12 + acted("Retrieve") + "<!-- b -->" + bodyRetrieve},

	{name: "1.1 empty SOAPAction", reads: true, why: "names nothing; the envelope does", header: "Content-Type: text/xml\nSoapaction: \"\"", body: soap11 + acted("Retrieve") + bodyRetrieve},
	{name: "1.2 older addressing", reads: true, why: "some still use it", body: strings.Replace(soap12, "http://www.w3.org/2005/08/addressing", wsa04Space, 1) + acted("Retrieve") + bodyRetrieve},
	{name: "1.2 other headers", reads: true, why: "as WCF writes them", body: soap12 + strings.Replace(acted("Retrieve"), "<s:Header>", "<s:Header><x:SdkClientVersion>9.2</x:SdkClientVersion><a:MessageID>urn:uuid:1</a:MessageID><a:ReplyTo><a:Address>x</a:Address></a:ReplyTo>", 1) + bodyRetrieve},
	{name: "1.2 blanks around names", reads: true, why: "not part of them", body: soap12 + strings.Replace(strings.Replace(acted("Execute"), "Execute", "Execute\n", 1), actionPrefix, "\t "+actionPrefix, 1) + executed("c:WhoAmIRequest", " WhoAmI\n")},
	{name: "words in a text", reads: true, why: "no message without elements", body: soap12 + acted("Retrieve") + strings.Replace(bodyRetrieve, "account", "Envelope, Body and Action", 1)},

	{name: "1.1 Create", why: "a write", header: type11("Create"), body: soap11 + bodyCreate},
	{name: "1.2 Create", why: "a write", body: soap12 + acted("Create") + bodyCreate},
	{name: "1.2 Create that mentions Retrieve", why: "a write", body: soap12 + acted("Create") + strings.Replace(bodyCreate, "account", "Retrieve", 1)},
	{name: "1.2 Create with a left-over SOAPAction", why: "servers of SOAP 1.2 go by wsa:Action", header: type12 + "\nSoapaction: " + actionPrefix + "Retrieve", body: soap12 + acted("Create") + bodyRetrieve},
	{name: "1.2 Create with the media type of Retrieve", why: "servers go by one of them", header: type12 + `; action="` + actionPrefix + `Retrieve"`, body: soap12 + acted("Create") + bodyRetrieve},
	{name: "1.2 Retrieve that creates", why: "the element in the body may decide", body: soap12 + acted("Retrieve") + bodyCreate},
	{name: "1.1 Retrieve with wsa:Action Create", why: "the two differ", header: type11("Retrieve"), body: soap11 + acted("Create") + bodyRetrieve},
	{name: "1.2 Retrieve with the media type of Create", why: "servers go by one of them", header: type12 + `; action="` + actionPrefix + `Create"`, body: soap12 + acted("Retrieve") + bodyRetrieve},
	{name: "action without a namespace", why: "a name is not enough", header: "Content-Type: text/xml\nSoapaction: Retrieve", body: soap11 + bodyRetrieve},
	{name: "two actions that read", why: "servers choose differently", header: type11("Retrieve"), body: soap11 + acted("Execute") + executed("c:WhoAmIRequest", "WhoAmI")},
	{name: "two actions that read, the other way round", why: "servers choose differently", header: type11("Execute"), body: soap11 + acted("Retrieve") + bodyRetrieve},
	{name: "another operation that reads", why: "servers choose differently", body: soap12 + acted("Retrieve") + strings.ReplaceAll(bodyRetrieve, "v:Retrieve>", "v:RetrieveMultiple>")},
	{name: "no operation", why: "nothing is known", body: soap12 + "<s:Body/></s:Envelope><!-- Retrieve -->"},
	{name: "no operation, but an action", why: "nothing is known", body: soap12 + acted("Retrieve") + "<s:Body/></s:Envelope>"},
	{name: "action within a header", why: "not where it belongs", body: soap12 + strings.NewReplacer("<s:Header>", "<s:Header><x:y>", "</s:Header>", "</x:y></s:Header>").Replace(acted("Retrieve")) + bodyRetrieve},
	{name: "two SOAPActions", why: "servers choose differently", header: type11("Retrieve") + "\nSOAPAction: " + actionPrefix + "Create", body: soap11 + bodyRetrieve},
	{name: "two wsa:Actions", why: "servers choose differently", body: soap12 + strings.Replace(acted("Retrieve"), "</s:Header>", strings.TrimPrefix(acted("Retrieve"), "<s:Header>"), 1) + bodyRetrieve},
	{name: "Action of another namespace", why: "some look at the local name", body: soap12 + strings.ReplaceAll(acted("Retrieve"), "a:Action", "v:Action") + bodyRetrieve},
	{name: "second Action, nested", why: "some look anywhere", header: type11("Retrieve"), body: soap11 + `<s:Header><x:y><a:Action>Create</a:Action></x:y></s:Header>` + bodyRetrieve},
	{name: "no action", why: "servers go by the element, or by nothing", body: soap12 + bodyRetrieve},
	{name: "empty SOAPAction", why: "names nothing", header: "Content-Type: text/xml\nSoapaction: \"\"", body: soap11 + bodyRetrieve},
	{name: "action of another service", why: "a name is not enough", header: "Content-Type: text/xml\nSoapaction: urn:contoso/IOrganizationService/Retrieve", body: soap11 + bodyRetrieve},
	{name: "element of another service", why: "a name is not enough", header: type11("Retrieve"), body: strings.ReplaceAll(soap11, servicesSpace, "urn:contoso") + bodyRetrieve},
	{name: "action in pieces", why: "readers join texts differently", body: soap12 + strings.Replace(acted("Retrieve"), "Retrieve", "Re<!-- -->trieve", 1) + bodyRetrieve},

	{name: "two operations", why: "some carry out the last", header: type11("Retrieve"), body: soap11 + strings.Replace(bodyRetrieve, "</s:Body>", "<v:Create/></s:Body>", 1)},
	{name: "two bodies", why: "some carry out the last", header: type11("Retrieve"), body: soap11 + strings.Replace(bodyRetrieve, "</s:Envelope>", "<s:Body><v:Create/></s:Body></s:Envelope>", 1)},
	{name: "two envelopes", why: "some read on", header: type11("Retrieve"), body: soap11 + bodyRetrieve + soap11 + bodyCreate},
	{name: "header behind the body", why: "some look there", header: type11("Retrieve"), body: soap11 + strings.Replace(bodyRetrieve, "</s:Envelope>", acted("Create")+"</s:Envelope>", 1)},
	{name: "body of another namespace", why: "some look at the local name", header: type11("Retrieve"), body: soap11 + strings.Replace(bodyRetrieve, "<s:Body>", "<v:Body><v:Create/></v:Body><s:Body>", 1)},
	{name: "other envelope", why: "not SOAP", header: type11("Retrieve"), body: strings.ReplaceAll(soap11, "schemas.xmlsoap.org", "contoso.example") + bodyRetrieve},
	{name: "second envelope that is empty", why: "some read on", header: type11("Retrieve"), body: soap11 + bodyRetrieve + strings.Replace(soap11, ">", "/>", 1)},
	{name: "message in the declaration", why: "some do not tell it from elements", header: type11("Retrieve"), body: "<?xml <s:Body><v:Create/></s:Body>?>" + soap11 + bodyRetrieve},
	{name: "message is a comment", why: "some do not tell comments from elements", header: type11("Retrieve"), body: soap11 + "<!--<s:Body><v:Create/></s:Body>-->" + bodyRetrieve},
	{name: "message in an attribute", why: "some do not tell attributes from elements", header: type11("Retrieve"), body: soap11 + strings.Replace(bodyRetrieve, "account", `<x:y z="&lt;v:Create/"/>`, 1)},
	{name: "cut short", why: "more may come", header: type11("Retrieve"), body: strings.TrimSuffix(soap11+bodyRetrieve, "</s:Envelope>")},
	{name: "text behind", why: "does not parse", header: type11("Retrieve"), body: soap11 + bodyRetrieve + "x"},
	{name: "document type", why: "entities could mean anything", header: type11("Retrieve"), body: `<!DOCTYPE s:Envelope [<!ENTITY n "Create">]>` + soap11 + bodyRetrieve},
	{name: "processing instruction", why: "not allowed in SOAP; some carry them out", header: type11("Retrieve"), body: `<?contoso Create?>` + soap11 + bodyRetrieve},
	{name: "declared UTF-16", why: "the bytes are not what they say", header: type11("Retrieve"), body: `<?xml version="1.0" encoding="utf-16"?>` + soap11 + bodyRetrieve},
	{name: "too deep", why: "the reader's memory is bounded", header: type11("Retrieve"), body: soap11 + strings.Replace(bodyRetrieve, "account", strings.Repeat("<x>", 2000)+strings.Repeat("</x>", 2000), 1)},

	{name: "WinOpportunity", why: "a write", header: type11("Execute"), body: soap11 + executed("c:WinOpportunityRequest", "WinOpportunity")},
	{name: "WinOpportunity called WhoAmI", why: "the type may decide", header: type11("Execute"), body: soap11 + executed("c:WinOpportunityRequest", "WhoAmI")},
	{name: "WhoAmI called WinOpportunity", why: "the name may decide", header: type11("Execute"), body: soap11 + executed("c:WhoAmIRequest", "WinOpportunity")},
	{name: "WhoAmI called RetrieveVersion", why: "nobody writes it", header: type11("Execute"), body: soap11 + executed("c:WhoAmIRequest", "RetrieveVersion")},
	{name: "custom request", why: "nobody knows what it does", header: type11("Execute"), body: soap11 + executed("x:OrganizationRequest", "contoso_RetrieveAndClose")},
	{name: "odd name", why: "names are of letters", header: type11("Execute"), body: soap11 + executed("x:OrganizationRequest", "Retrieve;WinOpportunity")},
	{name: "ExecuteMultiple", why: "holds writes", header: type11("Execute"), body: soap11 + executed("x:ExecuteMultipleRequest", "ExecuteMultiple")},
	{name: "request within a request", why: "what is inside may be carried out", header: type11("Execute"),
		body: soap11 + strings.Replace(executed("c:RetrieveVersionRequest", "RetrieveVersion"), "<x:Parameters/>", `<x:Parameters><x:value i:type="x:CreateRequest"/></x:Parameters>`, 1)},
	{name: "name within a request", why: "what is inside may be carried out", header: type11("Execute"),
		body: soap11 + strings.Replace(executed("c:RetrieveVersionRequest", "RetrieveVersion"), "<x:Parameters/>", `<x:Parameters><x:value><x:RequestName>Retrieve</x:RequestName></x:value></x:Parameters>`, 1)},
	{name: "two names", why: "some take the last", header: type11("Execute"),
		body: soap11 + strings.Replace(executed("c:WhoAmIRequest", "WhoAmI"), "</x:RequestName>", "</x:RequestName><x:RequestName>WhoAmI</x:RequestName>", 1)},
	{name: "two names, one a write", why: "some take the last", header: type11("Execute"),
		body: soap11 + strings.Replace(executed("c:WhoAmIRequest", "WhoAmI"), "</x:RequestName>", "</x:RequestName><x:RequestName>WinOpportunity</x:RequestName>", 1)},
	{name: "name in pieces", why: "some take the first", header: type11("Execute"),
		body: soap11 + executed("x:OrganizationRequest", "Retrieve<!-- -->Version")},
	{name: "comment before a name", why: "some take the first node", header: type11("Execute"), body: soap11 + executed("x:OrganizationRequest", "<!-- -->WhoAmI")},
	{name: "name and a section", why: "some take the first", header: type11("Execute"), body: soap11 + executed("x:OrganizationRequest", "WhoAmI<![CDATA[x]]>")},
	{name: "name in front of a name", why: "some take the first", header: type11("Execute"), body: soap11 + executed("x:OrganizationRequest", `WinOpportunity<?xml version="1.0"?>WhoAmI`)},
	{name: "name within the parameters", why: "not where it belongs", header: type11("Execute"),
		body: soap11 + strings.NewReplacer("<x:Parameters/>", "<x:Parameters><x:RequestName>WhoAmI</x:RequestName></x:Parameters>", "<x:RequestName>WhoAmI</x:RequestName>", "").Replace(executed("c:WhoAmIRequest", "WhoAmI"))},
	{name: "type without a namespace", why: "some do not look at it", header: type11("Execute"), body: soap11 + strings.Replace(executed("c:WhoAmIRequest", "WhoAmI"), "i:type", "type", 1)},
	{name: "the same type twice", why: "nobody writes it", header: type11("Execute"), body: soap11 + executed(`c:WhoAmIRequest" i:type="c:WhoAmIRequest`, "WhoAmI")},
	{name: "name with an escape", why: "nobody writes it", header: type11("Execute"), body: soap11 + executed("x:OrganizationRequest", "&#87;hoAmI")},
	{name: "name in a section", why: "nobody writes it", header: type11("Execute"), body: soap11 + executed("x:OrganizationRequest", "<![CDATA[WhoAmI]]>")},
	{name: "type of another attribute", why: "some look at the local name", header: type11("Execute"), body: soap11 + strings.Replace(executed("c:WinOpportunityRequest", "WhoAmI"), "i:type", "type", 1)},
	{name: "name with a child", why: "some take its text", header: type11("Execute"), body: soap11 + executed("x:OrganizationRequest", "WhoAmI<x:y/>")},
	{name: "no name", why: "the type alone", header: type11("Execute"), body: soap11 + strings.NewReplacer("<x:RequestName>WhoAmI</x:RequestName>", "").Replace(executed("c:WhoAmIRequest", "WhoAmI"))},
	{name: "two requests", why: "some carry out the last", header: type11("Execute"),
		body: soap11 + strings.Replace(executed("c:WhoAmIRequest", "WhoAmI"), "</v:Execute>", `<v:request i:type="c:WhoAmIRequest"/></v:Execute>`, 1)},
	{name: "two types", why: "some take the last", header: type11("Execute"),
		body: soap11 + executed(`c:WhoAmIRequest" type="c:WinOpportunityRequest`, "WhoAmI")},

	{name: "compressed", why: "the bytes mean something else", header: type11("Retrieve") + "\nContent-Encoding: gzip", body: soap11 + bodyRetrieve},
	{name: "two encodings", why: "servers choose differently", header: type11("Retrieve") + "\nContent-Encoding: identity\nContent-Encoding: gzip", body: soap11 + bodyRetrieve},
	{name: "other charset", why: "the bytes mean other characters", header: strings.Replace(type11("Retrieve"), "utf-8", "utf-16", 1), body: soap11 + bodyRetrieve},
	{name: "two types of media", why: "servers choose differently", header: type11("Retrieve") + "\ncontent-type: application/octet-stream", body: soap11 + bodyRetrieve},
	{name: "no type of media", why: "not known to be SOAP", header: "Soapaction: " + actionPrefix + "Retrieve", body: soap11 + bodyRetrieve},
	{name: "JSON with a SOAPAction", why: "a left-over header of the client", header: "Content-Type: application/json\nSoapaction: " + actionPrefix + "Retrieve", body: `{"name":"Retrieve"}`},
}

func TestSOAPReads(t *testing.T) {
	t.Parallel()
	runReadCases(t, type12, soapReadCases)
}

// The elements by which a server may find the operation must be in their places, and occur
// once.
func TestEveryElementOfASOAPMessageHasItsPlace(t *testing.T) {
	t.Parallel()
	const header = `<s:Header><a:MessageID>1</a:MessageID></s:Header>`
	for _, c := range []struct {
		header, body string
		elements     []string // by which the operation is found
	}{
		{type12, soap12 + acted("Retrieve") + bodyRetrieve, []string{"s:Envelope", "s:Header", "s:Body", "a:Action", "v:Retrieve"}},
		{type11("Retrieve"), soap11 + header + bodyRetrieve, []string{"s:Envelope", "s:Header", "s:Body", "v:Retrieve"}},
		{type11("Execute"), soap11 + header + executed("c:WhoAmIRequest", "WhoAmI"), []string{"s:Envelope", "s:Header", "s:Body", "v:Execute", "v:request", "x:RequestName"}},
	} {
		h := headerOf(c.header)
		reads := func(body string) bool { return Reads(http.MethodPost, soapAddress, h, []byte(body)) }
		require.True(t, reads(c.body))
		for _, name := range c.elements {
			space, local, _ := strings.Cut(name, ":")
			for _, other := range []string{space + ":Other", "i:" + local} {
				if name == "x:RequestName" && other == "i:RequestName" {
					continue // its namespace differs between versions of the service
				}
				renamed := strings.NewReplacer("<"+name+" ", "<"+other+" ", "<"+name+">", "<"+other+">", "</"+name+">", "</"+other+">").Replace(c.body)
				assert.False(t, reads(renamed), renamed)
			}
		}
		probes := []string{"<s:Envelope/>", "<s:Body/>", "<a:Action/>", "<a:Action>" + actionPrefix + "Retrieve</a:Action>", "<x:RequestName>WhoAmI</x:RequestName>", "<x:Envelope/>", "<x:Header/>", "<x:Body/>", "<x:Action/>"}
		for i := range c.body {
			behind := i + 1
			if c.body[i] != '>' || behind == len(c.body) {
				continue
			}
			for _, probe := range probes {
				if c.header == type11("Retrieve") && strings.HasPrefix(probe, "<a:Action>") && strings.Contains(c.body[:behind], "<s:Header>") && !strings.Contains(c.body[:behind], "</s:Header>") && !strings.HasSuffix(c.body[:behind], "<a:MessageID>") {
					continue // this is its place
				}
				inserted := c.body[:behind] + probe + c.body[behind:]
				assert.False(t, reads(inserted), inserted)
			}
		}
		for _, twice := range c.elements[2:] { // an empty one after it, or before it
			assert.False(t, reads(strings.Replace(c.body, "</"+twice+">", "</"+twice+"><"+twice+"/>", 1)), twice)
			assert.False(t, reads(strings.Replace(c.body, "<"+twice, "<"+twice+"/><"+twice, 1)), twice)
		}
		assert.False(t, reads(strings.Replace(c.body, "</s:Body>", "</s:Body><s:Header/>", 1)), "a header behind the body")
	}
}

func TestMayBeSOAP(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]bool{
		"":                         false,
		"Content-Type: text/plain": false,
		"Content-Type: text/xml":   true,
		"content-type: text/xml":   true,
		"Content-Type: text/xml\nSoapaction: \"\"": true,
		"Soapaction: \"\"":                         false,
		"Soapaction: urn:x":                        true,
		"soapaction: urn:x":                        true,
		"Soapaction: \"\"\nSOAPAction: urn:x":      true,
		"Content-Type: application/json; charset=utf-8\nSoapaction: urn:x":            false,
		"content-type: application/json\nSoapaction: urn:x":                           false,
		"Content-Type: application/json\ncontent-type: text/xml":                      true,
		`Content-Type: application/soap+xml; action="urn:x"`:                          true,
		"Content-Type: Application/SOAP+xml; charset=utf-8; charset=utf-16":           true,
		"Content-Type: application/soap+msbin1":                                       true,
		"Content-Type: application/xml; charset=utf-16":                               true,
		"Content-Type: \ttext/xml; charset":                                           true,
		"Content-Type: text/xml; =":                                                   true,
		`Content-Type: multipart/related; type="application/xop+xml"`:                 true,
		"Content-Type: application/xop+xml":                                           true,
		`Content-Type: multipart/mixed; boundary=b; action="urn:x"`:                   false,
		"Content-Type: text/plain\nSoapaction: urn:x":                                 true,
		"Content-Type: application/json\nContent-Type: text/plain\nSoapaction: urn:x": false,
		"Content-Types: text/xml":                                                     false,
		"Content-Type: application/octet-stream\nContent-Type: application/xml":       true,
	} {
		assert.Equal(t, want, MayBeSOAP(headerOf(header)), header)
	}
	for range 50 { // in any order
		assert.True(t, MayBeSOAP(headerOf("Soapaction: urn:x\nSOAPAction: \"\"\nsoapAction: \"\"")))
	}
}

// A write is recognized at a glance: it costs next to nothing, however long it is.
func TestAGlanceAtWritesIsCheap(t *testing.T) { // counts allocations, so not parallel
	long := strings.Repeat(`<x:KeyValuePairOfstringanyType><x:key>name</x:key></x:KeyValuePairOfstringanyType>`, 60)
	create := strings.Replace(bodyCreate, "</v:entity>", long+"</v:entity>", 1)
	batch := strings.Repeat(crlf(part("POST accounts HTTP/1.1\nContent-Type: application/json\n\n{\"name\":\"Contoso\"}\n")), 10) + crlf(end)
	for _, c := range []readCase{
		{name: "1.1 Create", why: "5 KB", url: soapURL, header: type11("Create"), body: soap11 + create},
		{name: "1.1 Execute", why: "5 KB", url: soapURL, header: type11("Execute"), body: soap11 + strings.Replace(executed("x:CreateRequest", "Create"), "<x:Parameters/>", long, 1)},
		{name: "1.2 Create", why: "5 KB", url: soapURL, header: type12, body: soap12 + acted("Create") + create},
		{name: "batch of 10 creates", why: "nothing is parsed", header: "Content-Type: multipart/mixed; boundary=b", body: batch},
		{name: "JSON or 1.2 Retrieve", why: "the server may go by the first type", url: soapURL, header: "Content-Type: application/json\n" + type12, body: soap12 + acted("Retrieve") + bodyRetrieve},
		{name: "JSON", why: "nothing is parsed", url: "https://" + rewritePrimary + "/api/data/v9.2/accounts", header: "Content-Type: application/json", body: `{"name":"Contoso"}`},
	} {
		method, u, h, body := c.request(t, "")
		assert.False(t, Reads(method, u, h, body), c.name)
		assert.Zero(t, testing.AllocsPerRun(100, func() { Reads(method, u, h, body) }), c.name)
	}
	h := map[string][]string{"Accept": {"application/json"}, "Authorization": {"Bearer x"}, "Odata-Version": {"4.0"}}
	_, u, _, _ := readCase{name: "GET", why: "a read"}.request(t, "")
	assert.Zero(t, testing.AllocsPerRun(100, func() { Reads("GET", u, h, nil) }))
}
