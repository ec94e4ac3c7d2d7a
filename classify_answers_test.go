package failover

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An answerRow is a response and the fault that it must be classified as.
type answerRow struct {
	name   string // unique
	why    string // the rule or experience behind the row
	method string // GET if empty
	path   string // /api/data/v9.2/accounts if empty
	status int
	header map[string]string
	body   string

	healthy    bool
	class      Class
	delivery   Delivery
	definitive bool
	code       string
	message    string
	retryAfter time.Duration
}

const (
	jsonType   = "application/json; odata.metadata=minimal"
	htmlType   = "text/html; charset=utf-8"
	orgService = "/XRMServices/2011/Organization.svc/web"
)

func typed(contentType string, more ...string) map[string]string {
	h := map[string]string{"Content-Type": contentType}
	for i := 0; i < len(more); i += 2 {
		h[more[i]] = more[i+1]
	}
	return h
}

// odata returns an OData v4 error.
func odata(code, message string) string {
	return `{"error":{"code":"` + code + `","message":"` + message + `"}}`
}

// soap11Fault returns a SOAP 1.1 fault around detail.
func soap11Fault(code, text, detail string) string {
	return `<?xml version="1.0" encoding="utf-8"?><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><e:Fault>` +
		code + `<faultstring>` + text + `</faultstring>` + detail + `</e:Fault></e:Body></e:Envelope>`
}

// soap12Fault returns a SOAP 1.2 fault with a subcode.
func soap12Fault(subcode, detail string) string {
	return `<env:Envelope xmlns:env="http://www.w3.org/2003/05/soap-envelope" xmlns:wsa="http://www.w3.org/2005/08/addressing"><env:Header/>` +
		`<env:Body><env:Fault><env:Code><env:Value>env:Receiver</env:Value>` + subcode + `</env:Code>` +
		`<env:Reason><env:Text xml:lang="en">Contoso said no.</env:Text></env:Reason>` + detail + `</env:Fault></env:Body></env:Envelope>`
}

// orgFault returns the detail that the organization service puts into its faults.
func orgFault(wrap, code, message, more string) string {
	return `<` + wrap + `><OrganizationServiceFault xmlns="http://schemas.microsoft.com/xrm/2011/Contracts" xmlns:i="http://www.w3.org/2001/XMLSchema-instance">` +
		`<ErrorCode>` + code + `</ErrorCode>` + more + `<Message>` + message + `</Message><InnerFault i:nil="true"/></OrganizationServiceFault></` + wrap + `>`
}

// entry returns an ErrorDetails element with one entry.
func entry(key, value string) string {
	return `<ErrorDetails xmlns:c="http://schemas.datacontract.org/2004/07/System.Collections.Generic"><KeyValuePairOfstringanyType>` +
		`<c:key>` + key + `</c:key><c:value i:type="d:duration" xmlns:d="http://schemas.microsoft.com/2003/10/Serialization/">` + value +
		`</c:value></KeyValuePairOfstringanyType></ErrorDetails>`
}

const (
	senderCode = `<faultcode>e:Client</faultcode>`
	wsse       = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
	dispatcher = "http://schemas.microsoft.com/net/2005/12/windowscommunicationfoundation/dispatcher"
)

func subcode(space, local string) string {
	return `<env:Subcode><env:Value xmlns:q="` + space + `">q:` + local + `</env:Value></env:Subcode>`
}

var answerRows = []answerRow{
	// Healthy answers.
	{name: "ok json", why: "2xx is healthy", status: 200, header: typed(jsonType), body: `{"value":[]}`, healthy: true},
	{name: "no content", why: "2xx without a body is healthy", status: 204, healthy: true},
	{name: "partial content", why: "every 2xx is healthy", status: 206, header: typed("application/octet-stream"), body: "abc", healthy: true},
	{name: "not modified", why: "304 answers a conditional request", status: 304, healthy: true},
	{name: "redirect elsewhere", why: "a redirect that is not to a sign-in host is an answer", status: 302, header: map[string]string{"Location": "https://contoso.crm.dynamics.com/main.aspx"}, healthy: true},
	{name: "fault in a 200", why: "bodies of 2xx are the caller's business, whatever they hold", status: 200, header: typed(jsonType), body: odata("0x8004B065", "fenced"), healthy: true},
	{name: "html outside an API", why: "web resources are pages", path: "/WebResources/contoso_/start.html", status: 200, header: typed(htmlType), body: "<html><title>Service Unavailable</title></html>", healthy: true},
	{name: "html that the organization marked", why: "the service's own protocol version proves that it answered", status: 200, header: typed(htmlType, "OData-Version", "4.0"), body: "<html></html>", healthy: true},
	{name: "html that the old service marked", why: "OData v2 has its own version header", path: "/XRMServices/2011/OrganizationData.svc/$metadata", status: 200, header: typed(htmlType, "DataServiceVersion", "1.0;"), body: "<html></html>", healthy: true},
	{name: "head of html", why: "HEAD has no body that could be a page", method: http.MethodHead, status: 200, header: typed(htmlType), healthy: true},
	{name: "similar path", why: "/database is not below /data", path: "/database/x", status: 200, header: typed(htmlType), body: "<html></html>", healthy: true},

	// Codes in OData errors.
	{name: "fence", why: "the code the .NET SDK switches on", status: 500, header: typed(jsonType), body: odata("0x8004B065", "The data center is not available."), class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004B065", message: "The data center is not available."},
	{name: "fence in lower case under 403", why: "codes are numbers and decide under every status", status: 403, header: typed(jsonType), body: odata("0x8004b065", "x"), class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004B065", message: "x"},
	{name: "fence zero-padded", why: "leading zeros mean nothing", status: 503, header: typed(jsonType), body: odata("0x00000000008004B065", "x"), class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004B065", message: "x"},
	{name: "fence as a bare number", why: "JSON allows a number where a string is documented", status: 500, header: typed(jsonType), body: `{"error":{"code":-2147176347,"message":"x"}}`, class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004B065", message: "x"},
	{name: "fence as unsigned decimal", why: "the same 32 bits", status: 500, header: typed(jsonType), body: odata("2147790949", "x"), class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004B065", message: "x"},
	{name: "disabled organization", why: "definitive", status: 500, header: typed(jsonType), body: odata("0x8004A104", "x"), class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004A104", message: "x"},
	{name: "disabled scale group", why: "definitive", status: 500, header: typed(jsonType), body: odata("0x8004A107", "x"), class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004A107", message: "x"},
	{name: "organization not configured", why: "definitive", status: 500, header: typed(jsonType), body: odata("0x8004D253", "x"), class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004D253", message: "x"},
	{name: "administration mode", why: "unavailable, but no proof of a failover", status: 403, header: typed(jsonType), body: odata("0x8004A113", "x"), class: ClassUnavailable, delivery: Answered, code: "0x8004A113", message: "x"},
	{name: "no such record", why: "an unlisted code proves that the organization ran the request", status: 404, header: typed(jsonType), body: odata("0x80040217", "account 17 is gone"), class: ClassApplication, delivery: Answered, code: "0x80040217", message: "account 17 is gone"},
	{name: "unlisted code under 503", why: "it ran the request, whatever the status", status: 503, header: typed(jsonType), body: odata("0x80040203", "x"), class: ClassApplication, delivery: Answered, code: "0x80040203", message: "x"},
	{name: "unlisted code under 403", why: "the status still says refused", status: 403, header: typed(jsonType), body: odata("0x80040203", "x"), class: ClassAuth, delivery: Answered, code: "0x80040203", message: "x"},
	{name: "unlisted code under 429", why: "throttled, but not by a limit that is known to come first", status: 429, header: typed(jsonType), body: odata("0x80071151", "x"), class: ClassThrottled, delivery: Answered, code: "0x80071151", message: "x"},
	{name: "privilege missing", why: "listed as auth, under any status", status: 500, header: typed(jsonType), body: odata("0x80040220", "x"), class: ClassAuth, delivery: Answered, code: "0x80040220", message: "x"},
	{name: "service protection", why: "decided before the request runs", status: 429, header: typed(jsonType, "Retry-After", "42"), body: odata("0x80072322", "Too many requests."), class: ClassThrottled, delivery: Refused, code: "0x80072322", message: "Too many requests.", retryAfter: 42 * time.Second},
	{name: "sql governor", why: "throttled, but may come in the middle of the work", status: 500, header: typed(jsonType), body: odata("0x8004A001", "x"), class: ClassThrottled, delivery: Answered, code: "0x8004A001", message: "x"},
	{name: "plug-in with 503", why: "a plug-in chooses its status", status: 503, header: typed(jsonType), body: odata("0x80048D0A", "The data center is not available (0x8004B065)"), class: ClassApplication, delivery: Answered, code: "0x80048D0A", message: "The data center is not available (0x8004B065)"},
	{name: "plug-in with 429", why: "a plug-in chooses its status, and ran", status: 429, header: typed(jsonType), body: odata("0x80040265", "x"), class: ClassApplication, delivery: Answered, code: "0x80040265", message: "x"},
	{name: "plug-in with 401", why: "a plug-in chooses its status", status: 401, header: typed(jsonType), body: odata("0x80040224", "x"), class: ClassApplication, delivery: Answered, code: "0x80040224", message: "x"},
	{name: "code after the plug-in range", why: "0x80048D12 is about private links, not plug-ins", status: 403, header: typed(jsonType), body: odata("0x80048D12", "x"), class: ClassAuth, delivery: Answered, code: "0x80048D12", message: "x"},
	{name: "catch-all under 500", why: "says nothing: the status decides", status: 500, header: typed(jsonType), body: odata("0x80040216", "x"), class: ClassTransient, delivery: Unknown, code: "0x80040216", message: "x"},
	{name: "catch-all under 400", why: "says nothing: the status decides", status: 400, header: typed(jsonType), body: odata("0x80040216", "x"), class: ClassApplication, delivery: Answered, code: "0x80040216", message: "x"},
	{name: "zero code under 500", why: "0x0 is no code", status: 500, header: typed(jsonType), body: odata("0x0", "x"), class: ClassTransient, delivery: Unknown, message: "x"},
	{name: "empty code under 412", why: "the status decides", status: 412, header: typed(jsonType), body: odata("", "x"), class: ClassApplication, delivery: Answered, message: "x"},
	{name: "word under 503", why: "comes from in front of the organization", status: 503, header: typed(jsonType), body: odata("OrgUnavailable", "x"), class: ClassUnavailable, delivery: Unknown, code: "OrgUnavailable", message: "x"},
	{name: "word under 500", why: "a word does not prove that the organization answered", status: 500, header: typed(jsonType), body: odata("InternalServerError", "x"), class: ClassTransient, delivery: Unknown, code: "InternalServerError", message: "x"},
	{name: "code 429 under 500", why: "a bare status as code means that status", status: 500, header: typed(jsonType), body: odata("429", "x"), class: ClassThrottled, delivery: Answered, code: "429", message: "x"},
	{name: "code 409 under 500", why: "a bare status as code means that status", status: 500, header: typed(jsonType), body: odata("409", "x"), class: ClassApplication, delivery: Answered, code: "409", message: "x"},
	{name: "hostile code word", why: "only plain words become a code", status: 500, header: typed(jsonType), body: odata(`a b\u0000\nlevel=error`, "x"), class: ClassTransient, delivery: Unknown, message: "x"},
	{name: "code of a nested error", why: "only the outermost error counts", status: 500, header: typed(jsonType), body: `{"error":{"message":"x","innererror":{"code":"0x8004B065"}},"details":[{"error":{"code":"0x8004B065"}}]}`, class: ClassTransient, delivery: Unknown, message: "x"},
	{name: "second error member", why: "of what is said twice the first counts", status: 500, header: typed(jsonType), body: `{"error":{"code":"0x80040217","code":"0x8004B065"}}`, class: ClassApplication, delivery: Answered, code: "0x80040217"},

	// SQL errors.
	{name: "deadlock", why: "the database rolled it back and said so", status: 500, header: typed(jsonType), body: odata("0x80044150", "Generic SQL error. Sql Number: 1205"), class: ClassTransient, delivery: Answered, code: "0x80044150", message: "Generic SQL error. Sql Number: 1205"},
	{name: "database moving", why: "40613 is about the database, not the query", status: 500, header: typed(jsonType), body: odata("0x80044150", "SQL NUMBER: 40613."), class: ClassTransient, delivery: Unknown, code: "0x80044150", message: "SQL NUMBER: 40613."},
	{name: "sql time-out number", why: "a time-out is negative and its outcome unknown", status: 500, header: typed(jsonType), body: odata("0x80044150", "Sql Number: -2"), class: ClassTransient, delivery: Unknown, code: "0x80044150", message: "Sql Number: -2"},
	{name: "missing table", why: "208 is the query's fault", status: 500, header: typed(jsonType), body: odata("0x80044150", "1205 rows. Sql Number: 208"), class: ClassApplication, delivery: Answered, code: "0x80044150", message: "1205 rows. Sql Number: 208"},
	{name: "duplicate key", why: "2601 is the caller's data", status: 500, header: typed(jsonType), body: odata("0x80044150", "Sql Number: 2601"), class: ClassApplication, delivery: Answered, code: "0x80044150", message: "Sql Number: 2601"},
	{name: "sql error without a number", why: "taken for the worse", status: 500, header: typed(jsonType), body: odata("0x80044150", "1205 things went wrong"), class: ClassTransient, delivery: Unknown, code: "0x80044150", message: "1205 things went wrong"},
	{name: "sql time-out code", why: "the statement may have been committed", status: 500, header: typed(jsonType), body: odata("0x80044151", "x"), class: ClassTransient, delivery: Unknown, code: "0x80044151", message: "x"},
	{name: "no sandbox host", why: "coded transient faults are answers", status: 500, header: typed(jsonType), body: odata("0x8004418E", "x"), class: ClassTransient, delivery: Answered, code: "0x8004418E", message: "x"},

	// Other envelopes.
	{name: "odata v2 json", why: "the message is an object, the code decimal", path: "/XRMServices/2011/OrganizationData.svc/AccountSet", status: 500, header: typed("application/json"), body: `{"error":{"code":"-2147180284","message":{"lang":"en-US","value":"Contoso is closed"}}}`, class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004A104", message: "Contoso is closed"},
	{name: "odata v3 json", why: "the member has a prefix", status: 500, header: typed("application/json"), body: `{"odata.error":{"code":"-2147220969","message":{"value":"gone"}}}`, class: ClassApplication, delivery: Answered, code: "0x80040217", message: "gone"},
	{name: "odata v2 xml", why: "the XML form of the same error", path: "/XRMServices/2011/OrganizationData.svc/AccountSet", status: 500, header: typed("application/xml"), body: `<?xml version="1.0" encoding="utf-8" standalone="yes"?><error xmlns="http://schemas.microsoft.com/ado/2007/08/dataservices/metadata"><code> -2147176347 </code><message xml:lang="en-US">fenced</message></error>`, class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004B065", message: "fenced"},
	{name: "xml error of a stranger", why: "namespaces are compared", status: 500, header: typed("application/xml"), body: `<error xmlns="urn:contoso"><code>-2147176347</code></error>`, class: ClassTransient, delivery: Unknown},
	{name: "soap 1.1 fence", why: "SOAP faults have status 500", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "fenced", orgFault("detail", "-2147176347", "not here", "")), class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004B065", message: "not here"},
	{name: "soap 1.2 fence", why: "the other version, other prefixes", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault("", orgFault("env:Detail", "-2147176347", "not here", "")), class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004B065", message: "not here"},
	{name: "soap inner fault", why: "the outermost fault decides", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", orgFault("detail", "-2147220989", "bad name", `<InnerFault><ErrorCode>-2147176347</ErrorCode><Message>inner</Message></InnerFault>`)), class: ClassApplication, delivery: Answered, code: "0x80040203", message: "bad name"},
	{name: "soap throttled with xs:duration", why: "the wait is in the details", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", orgFault("detail", "-2147015902", "slow down", entry("Retry-After", "PT2M3S"))), class: ClassThrottled, delivery: Refused, code: "0x80072322", message: "slow down", retryAfter: 123 * time.Second},
	{name: "soap throttled with TimeSpan", why: "the same wait as .NET prints it, capped", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", orgFault("detail", "-2147015902", "slow down", entry("Retry-After", "00:05:01"))), class: ClassThrottled, delivery: Refused, code: "0x80072322", message: "slow down", retryAfter: 5 * time.Minute},
	{name: "soap details of another kind", why: "only Retry-After is a wait", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", orgFault("detail", "-2147015902", "slow down", entry("Elapsed", "PT2M3S"))), class: ClassThrottled, delivery: Refused, code: "0x80072322", message: "slow down"},
	{name: "soap catch-all", why: "says nothing: the status decides", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", orgFault("detail", "-2147220970", "oops", "")), class: ClassTransient, delivery: Unknown, code: "0x80040216", message: "oops"},
	{name: "soap catch-all not retriable", why: "ExceptionRetriable always says false: the status decides", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", orgFault("detail", "-2147220970", "oops", "<ExceptionRetriable>false</ExceptionRetriable>")), class: ClassTransient, delivery: Unknown, code: "0x80040216", message: "oops"},
	{name: "soap fault quoted in a value", why: "only the place counts, not the name; a typed detail comes from an operation", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", `<detail><Note xmlns="urn:contoso">`+orgFault("detail", "-2147176347", "x", "")+`</Note></detail>`), class: ClassApplication, delivery: Answered, message: "x"},
	{name: "soap fault in a foreign namespace", why: "names are compared with their namespace; a typed detail comes from an operation", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", `<detail><OrganizationServiceFault xmlns="urn:contoso"><ErrorCode>-2147176347</ErrorCode></OrganizationServiceFault></detail>`), class: ClassApplication, delivery: Answered, message: "x"},
	{name: "discovery fault", why: "the discovery service has a fault type of its own", method: http.MethodPost, path: "/XRMServices/2011/Discovery.svc", status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", `<detail><DiscoveryServiceFault xmlns="http://schemas.microsoft.com/xrm/2011/Contracts/Discovery"><ErrorCode>-2147180284</ErrorCode></DiscoveryServiceFault></detail>`), class: ClassUnavailable, delivery: Refused, definitive: true, code: "0x8004A104", message: "x"},
	{name: "crm 4", why: "the detail of the 2007 endpoints", method: http.MethodPost, path: "/MSCrmServices/2007/CrmService.asmx", status: 500, header: typed("text/xml"), body: soap11Fault(`<faultcode>e:Server</faultcode>`, "Server was unable to process request.", `<detail><error><code>0x80040217</code><description>account 17 is gone</description><type>Platform</type></error></detail>`), class: ClassApplication, delivery: Answered, code: "0x80040217", message: "account 17 is gone"},

	// WCF faults.
	{name: "wcf endpoint unavailable", why: "its wait is in milliseconds", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(`<env:Subcode><env:Value>wsa:EndpointUnavailable</env:Value></env:Subcode>`, `<env:Detail><wsa:RetryAfter>1500</wsa:RetryAfter></env:Detail>`), class: ClassUnavailable, delivery: Unknown, code: "EndpointUnavailable", message: "Contoso said no.", retryAfter: 1500 * time.Millisecond},
	{name: "wcf word of a stranger", why: "the namespace of the word counts", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(subcode("urn:contoso", "EndpointUnavailable"), ""), class: ClassTransient, delivery: Unknown, message: "Contoso said no."},
	{name: "wcf internal fault", why: "transient", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(subcode(dispatcher, "InternalServiceFault"), ""), class: ClassTransient, delivery: Unknown, code: "InternalServiceFault", message: "Contoso said no."},
	{name: "wcf too busy", why: "transient, with blanks around the name", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault("<faultcode xmlns:w=\""+dispatcher+"\">\n  w:ServerTooBusy\n</faultcode>", "x", ""), class: ClassTransient, delivery: Unknown, code: "ServerTooBusy", message: "x"},
	{name: "wcf wrong action", why: "the caller's mistake", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(`<env:Subcode><env:Value>wsa:ActionNotSupported</env:Value></env:Subcode>`, ""), class: ClassApplication, delivery: Answered, code: "ActionNotSupported", message: "Contoso said no."},
	{name: "wcf address filter", why: "wsa:To names another host: the caller's mistake", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(`<env:Subcode><env:Value>wsa:DestinationUnreachable</env:Value></env:Subcode>`, ""), class: ClassApplication, delivery: Answered, code: "DestinationUnreachable", message: "Contoso said no."},
	{name: "wcf security", why: "every word of WS-Security is about credentials", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(subcode(wsse, "InvalidSecurityToken"), ""), class: ClassAuth, delivery: Answered, code: "InvalidSecurityToken", message: "Contoso said no."},
	{name: "wcf lost context", why: "the token has to be renewed", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(subcode("http://schemas.xmlsoap.org/ws/2005/02/sc", "BadContextToken"), ""), class: ClassAuth, delivery: Answered, code: "BadContextToken", message: "Contoso said no."},

	// Finance and Operations, gateways, token services.
	{name: "finance write refused", why: "validation, sent with 500", path: "/data/CustomersV3", status: 500, header: typed(jsonType), body: `{"error":{"code":"","message":"An error has occurred.","innererror":{"message":"0x8004B065","type":"Contoso.Services.OData.AxODataWriteException","stacktrace":"at X"}}}`, class: ClassApplication, delivery: Answered, message: "An error has occurred."},
	{name: "finance custom service", why: "X++ errors always have status 500", path: "/api/services/Contoso/Orders/post", status: 500, header: typed("application/json"), body: `{"Message":"An error has occurred.","ExceptionMessage":"No such order","ExceptionType":"Contoso.Ax.Xpp.ErrorException"}`, class: ClassApplication, delivery: Answered, message: "An error has occurred."},
	{name: "finance time-out", why: "the type says so", path: "/data/CustomersV3", status: 500, header: typed("application/json"), body: `{"Message":"x","ExceptionType":"System.TimeoutException, mscorlib"}`, class: ClassTransient, delivery: Unknown, message: "x"},
	{name: "finance unknown type", why: "a type that is not known leaves it to the status", path: "/data/CustomersV3", status: 500, header: typed("application/json"), body: `{"Message":"x","ExceptionType":"System.NullReferenceException"}`, class: ClassTransient, delivery: Unknown, message: "x"},
	{name: "finance busy", why: "priority-based throttling", path: "/data/CustomersV3", status: 429, header: typed("application/json", "Retry-After", "7"), body: `{"Message":"busy"}`, class: ClassThrottled, delivery: Refused, message: "busy", retryAfter: 7 * time.Second},
	{name: "api management", why: "its bodies carry the status", status: 429, header: typed("application/json", "Retry-After", "3"), body: `{ "statusCode": 429, "message": "Slow down." }`, class: ClassThrottled, delivery: Refused, message: "Slow down.", retryAfter: 3 * time.Second},
	{name: "token service down", why: "both endpoints need the same tokens", status: 503, header: typed("application/json"), body: `{"error":"temporarily_unavailable","error_description":"AADSTS90033: try again"}`, class: ClassAuth, delivery: Answered, code: "temporarily_unavailable", message: "AADSTS90033: try again"},
	{name: "sentence in place of a token error", why: "other services put sentences there", status: 503, header: typed("application/json"), body: `{"error":"Service Unavailable","status":503}`, class: ClassUnavailable, delivery: Unknown},
	{name: "sign-in redirect", why: "no API client can sign in", status: 302, header: map[string]string{"Location": "https://login.microsoftonline.com/common/oauth2/authorize?x=1"}, class: ClassAuth, delivery: Answered},
	{name: "AD FS redirect", why: "on premises the sign-in host is the customer's", status: 302, header: map[string]string{"Location": "https://sts.contoso.com/adfs/ls/?wa=wsignin1.0"}, class: ClassAuth, delivery: Answered},

	// Answers seen in the field.
	{name: "lock while customizations are published", why: "transient like the other locks", method: http.MethodPost, status: 503, header: typed(jsonType), body: odata("0x80048D3D", "x"), class: ClassTransient, delivery: Answered, code: "0x80048D3D", message: "x"},
	{name: "catch-all around a database failover", why: "ExceptionRetriable always says false", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(senderCode, "x", orgFault("detail", "-2147220970", "SqlException: Database is not currently available (40613)", "<ExceptionRetriable>false</ExceptionRetriable>")), class: ClassTransient, delivery: Unknown, code: "0x80040216", message: "SqlException: Database is not currently available (40613)"},
	{name: "catch-all that is retriable", why: "nor does the opposite say anything", method: http.MethodPost, path: orgService, status: 400, header: typed("text/xml"), body: soap11Fault(senderCode, "x", orgFault("detail", "-2147220970", "x", "<ExceptionRetriable>true</ExceptionRetriable>")), class: ClassApplication, delivery: Answered, code: "0x80040216", message: "x"},
	{name: "typed detail of AIF", why: "an operation of Finance and Operations threw it", method: http.MethodPost, path: "/soap/services/contosoorders", status: 500, header: typed("text/xml"), body: soap11Fault(`<faultcode>e:Client</faultcode>`, "x", `<detail><AifFault xmlns="http://schemas.microsoft.com/dynamics/2008/01/documents/Fault"><FaultMessageListArray/></AifFault></detail>`), class: ClassApplication, delivery: Answered, message: "x"},
	{name: "typed detail of another contract", why: "whatever its namespace", method: http.MethodPost, path: "/soap/services/contosoorders", status: 500, header: typed("application/soap+xml"), body: soap12Fault("", `<env:Detail><OrderFault xmlns="http://schemas.datacontract.org/2004/07/Contoso.Orders"><Number>7</Number></OrderFault></env:Detail>`), class: ClassApplication, delivery: Answered, message: "Contoso said no."},
	{name: "detail of an exception that nobody expected", why: "WCF's own detail says nothing of the cause", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(`<faultcode>e:Server</faultcode>`, "x", `<detail><ExceptionDetail xmlns="http://schemas.datacontract.org/2004/07/System.ServiceModel"><Type>System.NullReferenceException</Type></ExceptionDetail></detail>`), class: ClassTransient, delivery: Unknown, message: "x"},
	{name: "detail without a namespace", why: "belongs to no contract", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(`<faultcode>e:Server</faultcode>`, "x", `<detail><stackTrace>at x</stackTrace></detail>`), class: ClassTransient, delivery: Unknown, message: "x"},
	{name: "detail of an addressing fault", why: "names the header, not an operation", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault("", `<env:Detail><wsa:ProblemAction/></env:Detail>`), class: ClassTransient, delivery: Unknown, message: "Contoso said no."},
	{name: "empty detail", why: "says nothing", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(`<faultcode>e:Server</faultcode>`, "x", `<detail/>`), class: ClassTransient, delivery: Unknown, message: "x"},
	{name: "typed detail with a subcode of WCF", why: "the dispatcher knows better", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(subcode(dispatcher, "InternalServiceFault"), `<env:Detail><X xmlns="urn:contoso"/></env:Detail>`), class: ClassTransient, delivery: Unknown, code: "InternalServiceFault", message: "Contoso said no."},
	{name: "finance action that failed", why: "a wrapped exception does not say what it was", method: http.MethodPost, path: "/data/ContosoJobs/Microsoft.Dynamics.DataEntities.Run", status: 500, header: typed(jsonType), body: `{"error":{"code":"","message":"An error has occurred.","innererror":{"message":"Exception occurred while executing action Run on Entity ContosoJob","type":"System.InvalidOperationException"}}}`, class: ClassTransient, delivery: Unknown, message: "An error has occurred."},
	{name: "organization's code behind a gateway", why: "the Flow API quotes it, of one of its own requests", path: "/providers/Contoso.Flow/flows", status: 404, header: typed("application/json"), body: `{"error":{"message":"no","extendedData":{"code":"0x8004A104"}}}`, class: ClassUnavailable, delivery: Unknown, definitive: true, code: "0x8004A104", message: "no"},
	{name: "another code behind a gateway", why: "any code of an organization can stand there", path: "/providers/Contoso.Flow/flows", status: 500, header: typed("application/json"), body: `{"error":{"extendedData":{"code":"-2147220969"},"code":"Failed"}}`, class: ClassApplication, delivery: Answered, code: "0x80040217"},
	{name: "word behind a gateway", why: "only the number of an organization counts there", path: "/providers/Contoso.Flow/flows", status: 502, header: typed("application/json"), body: `{"error":{"code":"BadGateway","extendedData":{"code":"Oops"}}}`, class: ClassUnavailable, delivery: Unknown, code: "BadGateway"},
	{name: "own code before one that is passed on", why: "the organization that answers decides", status: 400, header: typed(jsonType), body: `{"error":{"code":"0x80040203","extendedData":{"code":"0x8004A104"}}}`, class: ClassApplication, delivery: Answered, code: "0x80040203"},
	{name: "503 of Varnish", why: "it puts a wait on every 503 of its own", status: 503, header: typed(htmlType, "Retry-After", "5", "Via", "1.1 contoso (Varnish/7.1)"), body: "<html><head><title>503 Backend fetch failed</title></head><body><h1>Error 503 Backend fetch failed</h1></body></html>", class: ClassUnavailable, delivery: Unknown, message: "503 Backend fetch failed", retryAfter: 5 * time.Second},

	// APIs that never answer in HTML, and pages that are what was requested.
	{name: "page at the message queue", why: "Finance and Operations' recurring integrations are an API", path: "/api/connector/jobstatus/7", status: 200, header: typed(htmlType), body: "<title>Service Unavailable</title>", class: ClassUnavailable, delivery: Unknown, message: "Service Unavailable"},
	{name: "page at the search", why: "Dataverse search is an API", method: http.MethodPost, path: "/api/search/v1.0/query", status: 200, header: typed(htmlType), body: "<title>Hello</title>", class: ClassTransient, delivery: Unknown, message: "Hello"},
	{name: "page at the upload", why: "uploads are an API", method: http.MethodPost, path: "/api/fileupload", status: 200, header: typed(htmlType), body: "<title>Hello</title>", class: ClassTransient, delivery: Unknown, message: "Hello"},
	{name: "page at an API nobody knows", why: "everything below /api is one", path: "/api/contoso", status: 200, header: typed(htmlType), body: "<title>Hello</title>", class: ClassTransient, delivery: Unknown, message: "Hello"},
	{name: "page at the root of an API", why: "a prefix that is the whole path", path: "/data", status: 200, header: typed(htmlType), body: "<title>Hello</title>", class: ClassTransient, delivery: Unknown, message: "Hello"},
	{name: "help page of the organization service", why: "what WCF shows to a browser", path: "/XRMServices/2011/Organization.svc", status: 200, header: typed(htmlType), body: "<HTML><HEAD><TITLE>OrganizationService Service</TITLE></HEAD><BODY><P>You have created a service.</P></BODY></HTML>", healthy: true},
	{name: "help page of the old service", why: "what ASMX shows to a browser", path: "/contoso/XRMServices/2007/CrmService.asmx", status: 200, header: typed(htmlType), body: "<html><head><title>CrmService Web Service</title></head></html>", healthy: true},
	{name: "outage page at the address of a service", why: "only the help page is meant", path: "/XRMServices/2011/Organization.svc", status: 200, header: typed(htmlType), body: "<title>Service Unavailable</title>", class: ClassUnavailable, delivery: Unknown, message: "Service Unavailable"},
	{name: "help page in answer to a message", why: "a POST is no browser", method: http.MethodPost, path: "/XRMServices/2011/Organization.svc", status: 200, header: typed(htmlType), body: "<title>OrganizationService Service</title>", class: ClassTransient, delivery: Unknown, message: "OrganizationService Service"},
	{name: "help page with an error", why: "a status that is no success decides", path: "/XRMServices/2011/Organization.svc", status: 503, header: typed(htmlType), body: "<title>OrganizationService Service</title>", class: ClassUnavailable, delivery: Unknown, message: "OrganizationService Service"},

	// Answers to long-running and large operations.
	{name: "job under way", why: "202 with a wait is how jobs are polled", status: 202, header: map[string]string{"Retry-After": "10", "Location": "https://contoso.api.crm.dynamics.com/api/data/v9.2/jobs(1)"}, healthy: true},
	{name: "job done", why: "200 with a wait is healthy", status: 200, header: typed(jsonType, "Retry-After", "10"), body: "{}", healthy: true},
	{name: "accepted for later", why: "the preference was applied", method: http.MethodPost, status: 202, header: map[string]string{"Preference-Applied": "respond-async"}, healthy: true},
	{name: "chunk of an upload", why: "206 asks for the next", method: http.MethodPatch, status: 206, header: map[string]string{"x-ms-transfer-mode": "chunked"}, healthy: true},

	// Several operations in one request.
	{name: "hexadecimal 429", why: "elastic tables send the status as a code", method: http.MethodPost, status: 429, header: typed(jsonType), body: odata("0x1ad", "x"), class: ClassThrottled, delivery: Answered, code: "0x1ad", message: "x"},
	{name: "hexadecimal 409 under 500", why: "a bare status as code means that status", status: 500, header: typed(jsonType), body: odata("0x199", "x"), class: ClassApplication, delivery: Answered, code: "0x199", message: "x"},
	{name: "bulk throttled with a word", why: "elastic tables commit in part", method: http.MethodPost, path: "/api/data/v9.2/contoso_logs/Microsoft.Dynamics.CRM.CreateMultiple", status: 429, header: typed(jsonType), body: odata("TooManyRequests", "x"), class: ClassThrottled, delivery: Answered, code: "TooManyRequests", message: "x"},
	{name: "bulk throttled without a code", why: "elastic tables commit in part", method: http.MethodPost, path: "/api/data/v9.2/contoso_logs/Microsoft.Dynamics.CRM.UpsertMultiple()", status: 429, class: ClassThrottled, delivery: Answered},
	{name: "bulk throttled with an empty code", why: "elastic tables commit in part", method: http.MethodPost, path: "/api/data/v9.2/contoso_logs/Microsoft.Dynamics.CRM.UpdateMultiple", status: 429, header: typed(jsonType, "Retry-After", "1"), body: odata("", "x"), class: ClassThrottled, delivery: Answered, message: "x", retryAfter: time.Second},
	{name: "bulk delete throttled", why: "the same kind", method: http.MethodPost, path: "/api/data/v9.2/contoso_logs/Microsoft.Dynamics.CRM.DeleteMultiple", status: 429, class: ClassThrottled, delivery: Answered},
	{name: "execute multiple throttled", why: "the same kind", method: http.MethodPost, path: "/api/data/v9.2/ExecuteMultiple", status: 429, class: ClassThrottled, delivery: Answered},
	{name: "batch throttled without a code", why: "parts may have been carried out", method: http.MethodPost, path: "/api/data/v9.2/$batch", status: 429, class: ClassThrottled, delivery: Answered},
	{name: "batch fenced", why: "a fence may go up in the middle; it stays definitive", method: http.MethodPost, path: "/api/data/v9.2/$batch", status: 503, header: typed(jsonType), body: odata("0x8004B065", "x"), class: ClassUnavailable, delivery: Unknown, definitive: true, code: "0x8004B065", message: "x"},
	{name: "bulk refused by service protection", why: "its limits come before the request runs", method: http.MethodPost, path: "/api/data/v9.2/contoso_logs/Microsoft.Dynamics.CRM.CreateMultiple", status: 429, header: typed(jsonType), body: odata("0x80072326", "x"), class: ClassThrottled, delivery: Refused, code: "0x80072326", message: "x"},
	{name: "single create throttled", why: "nothing else could have been carried out", method: http.MethodPost, path: "/api/data/v9.2/contoso_multiples", status: 429, class: ClassThrottled, delivery: Refused},

	// Subcodes, types and namespaces: one of each that has a rule of its own.
	{name: "wcf body of another type", why: "the caller's mistake", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(subcode(dispatcher, "DeserializationFailed"), ""), class: ClassApplication, delivery: Answered, code: "DeserializationFailed", message: "Contoso said no."},
	{name: "soap of another version", why: "the caller's mistake", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(`<faultcode>e:VersionMismatch</faultcode>`, "x", ""), class: ClassApplication, delivery: Answered, code: "VersionMismatch", message: "x"},
	{name: "soap header not understood", why: "the caller's mistake", method: http.MethodPost, path: orgService, status: 500, header: typed("text/xml"), body: soap11Fault(`<faultcode>e:MustUnderstand</faultcode>`, "x", ""), class: ClassApplication, delivery: Answered, code: "MustUnderstand", message: "x"},
	{name: "soap encoding not known", why: "the caller's mistake", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(subcode("http://www.w3.org/2003/05/soap-envelope", "DataEncodingUnknown"), ""), class: ClassApplication, delivery: Answered, code: "DataEncodingUnknown", message: "Contoso said no."},
	{name: "wcf security of http://docs.oasis-open.org/ws-sx/ws-trust/200512", why: "its words are about credentials", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(subcode("http://docs.oasis-open.org/ws-sx/ws-trust/200512", "AnyWord"), ""), class: ClassAuth, delivery: Answered, code: "AnyWord", message: "Contoso said no."},
	{name: "wcf security of http://docs.oasis-open.org/ws-sx/ws-secureconversation/200512", why: "its words are about credentials", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(subcode("http://docs.oasis-open.org/ws-sx/ws-secureconversation/200512", "AnyWord"), ""), class: ClassAuth, delivery: Answered, code: "AnyWord", message: "Contoso said no."},
	{name: "wcf security of http://schemas.xmlsoap.org/ws/2005/02/trust", why: "its words are about credentials", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(subcode("http://schemas.xmlsoap.org/ws/2005/02/trust", "AnyWord"), ""), class: ClassAuth, delivery: Answered, code: "AnyWord", message: "Contoso said no."},
	{name: "wcf security of http://schemas.microsoft.com/ws/2006/05/security", why: "its words are about credentials", method: http.MethodPost, path: orgService, status: 500, header: typed("application/soap+xml"), body: soap12Fault(subcode("http://schemas.microsoft.com/ws/2006/05/security", "AnyWord"), ""), class: ClassAuth, delivery: Answered, code: "AnyWord", message: "Contoso said no."},
	{name: "finance Contoso.Xpp.UpdateConflictException", why: "the type says so", path: "/data/CustomersV3", status: 500, header: typed(jsonType), body: `{"error":{"code":"","message":"x","innererror":{"type":"Contoso.Xpp.UpdateConflictException"}}}`, class: ClassApplication, delivery: Answered, message: "x"},
	{name: "finance DuplicateKeyException", why: "the type says so", path: "/data/CustomersV3", status: 500, header: typed(jsonType), body: `{"error":{"code":"","message":"x","innererror":{"type":"DuplicateKeyException"}}}`, class: ClassApplication, delivery: Answered, message: "x"},
	{name: "finance Microsoft.OData.ODataException", why: "the type says so", path: "/data/CustomersV3", status: 500, header: typed(jsonType), body: `{"error":{"code":"","message":"x","innererror":{"type":"Microsoft.OData.ODataException"}}}`, class: ClassApplication, delivery: Answered, message: "x"},
	{name: "finance Microsoft.OData.UriParser.ODataUnrecognizedPathException", why: "the type says so", path: "/data/CustomersV3", status: 500, header: typed(jsonType), body: `{"error":{"code":"","message":"x","innererror":{"type":"Microsoft.OData.UriParser.ODataUnrecognizedPathException"}}}`, class: ClassApplication, delivery: Answered, message: "x"},
	{name: "finance System.UnauthorizedAccessException", why: "the type says so", path: "/data/CustomersV3", status: 500, header: typed(jsonType), body: `{"error":{"code":"","message":"x","innererror":{"type":"System.UnauthorizedAccessException"}}}`, class: ClassAuth, delivery: Answered, message: "x"},
	{name: "finance System.Security.SecurityException", why: "the type says so", path: "/data/CustomersV3", status: 500, header: typed(jsonType), body: `{"error":{"code":"","message":"x","innererror":{"type":"System.Security.SecurityException"}}}`, class: ClassAuth, delivery: Answered, message: "x"},
	{name: "finance Contoso.DeadlockException", why: "the type says so", path: "/data/CustomersV3", status: 500, header: typed(jsonType), body: `{"error":{"code":"","message":"x","innererror":{"type":"Contoso.DeadlockException"}}}`, class: ClassTransient, delivery: Unknown, message: "x"},

	// Batches.
	{name: "batch that failed in its last part", why: "parts before it were carried out: never Refused", method: http.MethodPost, path: "/api/data/v9.2/$batch", status: 429, header: typed("multipart/mixed; boundary=b"), body: "--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 429 Too Many Requests\r\n\r\n" + odata("0x80072322", "slow down") + "\r\n--b--\r\n", class: ClassThrottled, delivery: Answered, code: "0x80072322", message: "slow down"},
	{name: "batch refused by validation with 500", why: "the code of the failed part decides", method: http.MethodPost, path: "/api/data/v9.2/$batch", status: 500, header: typed("multipart/mixed; boundary=b"), body: "--b\r\n\r\nHTTP/1.1 500 Internal Server Error\r\n\r\n" + odata("0x80040333", "duplicate") + "\r\n--b--\r\n", class: ClassApplication, delivery: Answered, code: "0x80040333", message: "duplicate"},
	{name: "batch refused as a whole", why: "plain JSON: no part was run", method: http.MethodPost, path: "/api/data/v9.2/$batch", status: 429, header: typed(jsonType), body: odata("0x80072321", "slow down"), class: ClassThrottled, delivery: Refused, code: "0x80072321", message: "slow down"},

	// Pages.
	{name: "front door with 400", why: "an outage page outranks its status", status: 400, header: typed(htmlType), body: "<h2>Our services aren&#39;t available   right now</h2><p>Contoso</p>", class: ClassUnavailable, delivery: Unknown, message: "Our services aren't available right now"},
	{name: "stopped web app", why: "sent with 403", status: 403, header: typed(htmlType), body: "<html><head><TITLE>Web App - Unavailable</TITLE></head><h1>Error</h1></html>", class: ClassUnavailable, delivery: Unknown, message: "Web App - Unavailable"},
	{name: "bad gateway page with 200", why: "HTML where an API answers", status: 200, header: typed(htmlType), body: "<html><head><title>502 Bad Gateway</title></head></html>", class: ClassUnavailable, delivery: Unknown, message: "502 Bad Gateway"},
	{name: "bad gateway page for an organization on premises", why: "there the organization's name comes first in the path", path: "/contoso/api/data/v9.1/accounts", status: 200, header: typed(htmlType), body: "<h1>Bad Gateway</h1>", class: ClassUnavailable, delivery: Unknown, message: "Bad Gateway"},
	{name: "captive portal", why: "must not pass for an answer", status: 200, header: typed(htmlType), body: "<html><body>Welcome to the hotel</body></html>", class: ClassTransient, delivery: Unknown},
	{name: "sign-in page with 200", why: "a page for users in place of data", status: 200, header: typed(htmlType), body: "<html><title>Sign in to your account</title></html>", class: ClassAuth, delivery: Answered, message: "Sign in to your account"},
	{name: "plain text labelled html", why: "IIS does that", status: 503, header: typed("text/html"), body: "The service is unavailable.", class: ClassUnavailable, delivery: Unknown, message: "The service is unavailable."},
	{name: "firewall page with 503", why: "a block page is no outage", status: 503, header: typed(htmlType), body: "<html><h1>Access Denied</h1></html>", class: ClassAuth, delivery: Answered, message: "Access Denied"},
	{name: "outage words in a paragraph", why: "only title and headings count", status: 404, header: typed(htmlType), body: "<html><h1>Not found</h1><p>Our services aren't available right now</p></html>", class: ClassApplication, delivery: Answered, message: "Not found"},
	{name: "page of a gateway that throttles", why: "nobody sends 429 by mistake", status: 429, header: typed(htmlType, "Retry-After", "1"), body: "<h1>Service Unavailable</h1>", class: ClassThrottled, delivery: Refused, message: "Service Unavailable", retryAfter: time.Second},
	{name: "xhtml page", why: "a page may be well-formed XML", status: 502, header: typed("application/xhtml+xml"), body: `<?xml version="1.0"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><head><title>Oops</title></head></html>`, class: ClassUnavailable, delivery: Unknown, message: "Oops"},

	// Statuses.
	{name: "401", why: "auth", status: 401, class: ClassAuth, delivery: Answered},
	{name: "403", why: "auth", status: 403, class: ClassAuth, delivery: Answered},
	{name: "404", why: "a wrong name is wrong everywhere", status: 404, class: ClassApplication, delivery: Answered},
	{name: "407", why: "the proxy wants credentials", status: 407, class: ClassAuth, delivery: Answered},
	{name: "429", why: "throttled", status: 429, class: ClassThrottled, delivery: Refused},
	{name: "500", why: "unexplained", status: 500, class: ClassTransient, delivery: Unknown},
	{name: "501", why: "other 5xx", status: 501, class: ClassTransient, delivery: Unknown},
	{name: "502", why: "gateway without a backend", status: 502, class: ClassUnavailable, delivery: Unknown},
	{name: "503", why: "with a date as wait", status: 503, header: map[string]string{"Date": "Sun, 06 Nov 1994 08:49:37 GMT", "Retry-After": "Sun, 06 Nov 1994 08:50:07 GMT"}, class: ClassUnavailable, delivery: Unknown, retryAfter: 30 * time.Second},
	{name: "504", why: "the gateway gave up waiting", status: 504, class: ClassTransient, delivery: Unknown},
	{name: "520", why: "the way to the origin", status: 520, class: ClassUnavailable, delivery: Unknown},
	{name: "524", why: "like 504", status: 524, class: ClassTransient, delivery: Unknown},
	{name: "527", why: "the way to the origin", status: 527, class: ClassUnavailable, delivery: Unknown},
	{name: "528", why: "no longer about the origin", status: 528, class: ClassTransient, delivery: Unknown},
	{name: "530", why: "the way to the origin", status: 530, class: ClassUnavailable, delivery: Unknown},
	{name: "999", why: "no status of HTTP", status: 999, class: ClassTransient, delivery: Unknown},
	{name: "500 to HEAD", why: "there is no body to read", method: http.MethodHead, status: 500, header: typed(jsonType), class: ClassTransient, delivery: Unknown},
	{name: "500 with binary", why: "a body that is no text says nothing", status: 500, header: typed("application/octet-stream"), body: "\x00\xff\xfe\x80{", class: ClassTransient, delivery: Unknown},
}

// response returns the row's answer with the given body.
func (r *answerRow) response(body io.ReadCloser) *http.Response {
	path := r.path
	if path == "" {
		path = "/api/data/v9.2/accounts"
	}
	method := r.method
	if method == "" {
		method = http.MethodGet
	}
	header := make(http.Header)
	for k, v := range r.header {
		header.Set(k, v)
	}
	return &http.Response{
		StatusCode: r.status, Header: header, Body: body, ContentLength: -1,
		Request: &http.Request{Method: method, URL: &url.URL{Scheme: "https", Host: "contoso.api.crm.dynamics.com", Path: path}},
	}
}

// check compares f with what the row expects.
func (r *answerRow) check(t *testing.T, f *Fault) {
	t.Helper()
	if r.healthy {
		assert.Nil(t, f, r.why)
		return
	}
	require.NotNil(t, f, r.why)
	assert.Equal(t, r.class.String(), f.Class.String(), r.why)
	assert.Equal(t, r.delivery.String(), f.Delivery.String(), r.why)
	assert.Equal(t, r.definitive, f.Definitive, r.why)
	assert.Equal(t, r.code, f.Code, r.why)
	assert.Equal(t, r.message, f.Message, r.why)
	assert.Equal(t, r.retryAfter, f.RetryAfter, r.why)
	assert.Equal(t, r.status, f.Status)
	assert.NoError(t, f.Err)
}

func TestClassifyAnswers(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	classes := make(map[Class]bool)
	for _, row := range answerRows {
		require.False(t, seen[row.name], "row %q occurs twice", row.name)
		require.NotEmpty(t, row.why, "row %q gives no reason", row.name)
		seen[row.name] = true
		if !row.healthy {
			classes[row.class] = true
		}
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				resp := row.response(io.NopCloser(strings.NewReader(row.body)))
				row.check(t, Classify(resp, nil))
				rest, err := io.ReadAll(resp.Body)
				assert.NoError(t, err)
				assert.Equal(t, row.body, string(rest), "the body must be put back")
			})
		})
	}
	assert.Len(t, classes, 5, "every class that an answer can have needs a row")
}
