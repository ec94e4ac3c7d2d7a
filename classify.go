package failover

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/d365failover/failover/internal/answer"
	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/message"
	"github.com/d365failover/failover/internal/redact"
)

// errNoResult is the error of a [http.RoundTripper] that breaks its contract.
var errNoResult = errors.New("failover: round tripper returned neither response nor error")

// Classify classifies the outcome of a round trip, and returns nil for a healthy answer. It is
// the default of [Config.Classify].
//
// If err is not nil, Classify looks at it alone, by its type and never by its text. An error
// that wraps a *Fault is classified as that Fault, so that a program's own dialer or
// OnProxyConnectResponse can classify. Exhausted limits of this machine (file descriptors,
// ports, buffers) are [ClassLocal]. A request that net/http refuses to send, and an error of
// the request's own body, cannot be recognized by type: they are [ClassTransient] here, and
// ClassLocal in a [Transport].
//
// A response is classified by the code in its body, then by the kind of fault or page in the
// body, then by its status. An answer to a request for several operations ($batch,
// ExecuteMultiple, CreateMultiple and the like) is never [Refused], except by
// service-protection limits, because some of the operations may have been carried out. What
// a SOAP message asks for is looked up in its first 64 KiB, if the request has a GetBody; a
// [Transport] inspects the body that it has buffered.
//
// Classify reads at most 64 KiB of the body, and only if the response is neither 1xx nor
// 2xx, or is an HTML page in place of an API's answer. It replaces resp.Body by one that
// delivers the same bytes and the same error, for the caller to close as usual. What does
// not arrive within 2 seconds is left to the caller's Read.
//
// Classify is safe for concurrent use on different responses. It allocates nothing for a
// healthy answer.
func Classify(resp *http.Response, err error) *Fault {
	if err == nil && resp != nil && healthy(resp) {
		return nil
	}
	switch {
	case err != nil:
		return faultOfError(err)
	case resp == nil:
		return faultOfError(errNoResult)
	}
	return faultOfResponse(resp)
}

// healthy reports whether resp is healthy without a look at its body.
func healthy(resp *http.Response) bool {
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return !misplacedPage(resp)
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return !toSignIn(resp)
	}
	return resp.StatusCode >= 100 && resp.StatusCode < 200
}

// misplacedPage reports whether a 2xx response is an HTML page, such as an outage page or a
// captive portal, in place of an API's answer. The services mark their own answers with a
// protocol version.
func misplacedPage(resp *http.Response) bool {
	values := resp.Header["Content-Type"]
	if len(values) == 0 || !answer.IsHTML(values[0]) || resp.Request == nil || resp.Request.URL == nil {
		return false
	}
	return resp.Body != nil && resp.Body != http.NoBody &&
		resp.Request.Method != http.MethodHead && apiPath(message.Target(resp.Request.URL).Path) &&
		resp.Header["Odata-Version"] == nil && resp.Header["Dataserviceversion"] == nil
}

// apiPath reports whether path belongs to an API that never answers in HTML. On premises, the
// path begins with the organization's name.
func apiPath(path string) bool {
	for _, prefix := range []string{"/api", "/xrmservices", "/data", "/soap"} {
		if underPath(path, prefix) {
			return true
		}
	}
	i := strings.IndexByte(strings.TrimPrefix(path, "/"), '/') + 1
	return underPath(path[i:], "/api/data") || underPath(path[i:], "/xrmservices")
}

// underPath reports whether path is prefix or below it.
func underPath(path, prefix string) bool {
	return ascii.HasPrefixFold(path, prefix) && (len(path) == len(prefix) || path[len(prefix)] == '/')
}

// toSignIn reports whether resp redirects to a sign-in page: Microsoft Entra ID in any cloud, by
// its host, or AD FS, by its path.
func toSignIn(resp *http.Response) bool {
	if len(resp.Header["Location"]) == 0 {
		return false
	}
	u, err := resp.Location()
	if err != nil {
		return false
	}
	switch strings.ToLower(u.Hostname()) {
	case "login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "login.live.com",
		"login.microsoftonline.us", "login-us.microsoftonline.com", "login.microsoftonline.de",
		"login.chinacloudapi.cn", "login.partner.microsoftonline.cn", "sts.windows.net":
		return true
	}
	return ascii.HasPrefixFold(u.Path, "/adfs/ls") || ascii.HasPrefixFold(u.Path, "/adfs/oauth2")
}

// faultOfResponse classifies a response that is not healthy.
func faultOfResponse(resp *http.Response) *Fault {
	f := &Fault{Status: resp.StatusCode, RequestID: requestID(resp.Header), RetryAfter: retryAfter(resp.Header)}
	if f.Status < 400 && f.Status >= 300 {
		f.Class, f.Delivery = ClassAuth, Answered
		return f
	}
	a := readAnswer(resp)
	if f.Status < 300 && helpPage(resp.Request, &a) {
		return nil
	}
	f.Message = redact.Line(a.Message, answer.MaxMessage)
	if f.RetryAfter == 0 {
		f.RetryAfter = min(a.RetryAfter, answer.MaxRetryAfter)
	}
	f.judge(&a)
	f.service = f.service || marked(resp.Header)
	switch {
	case f.Delivery != Refused:
	case a.Batch:
		f.Delivery = Answered // what came before the refused part was carried out
	case f.limited():
	case bulk(resp.Request) && f.Definitive:
		f.Delivery = Unknown // nobody can tell how far it came
	case bulk(resp.Request):
		f.Delivery = Answered
	}
	return f
}

// helpPage reports whether the page is the help page of a WCF or ASMX service.
func helpPage(req *http.Request, a *answer.Answer) bool {
	title, _, _ := strings.Cut(a.Page, "\n")
	path := ascii.Lower(message.Target(req.URL).Path)
	return req.Method == http.MethodGet && (strings.HasSuffix(path, ".svc") || strings.HasSuffix(path, ".asmx")) &&
		strings.HasSuffix(title, " service")
}

// fromService reports whether resp, classified as f, comes from the service itself and not from
// something in front of it, which proves nothing about the service.
func fromService(resp *http.Response, f *Fault) bool {
	return f == nil || f.service || marked(resp.Header)
}

// marked reports whether a header has a field that only the services themselves set.
func marked(h http.Header) bool {
	for _, key := range [...]string{"Odata-Version", "Dataserviceversion", "X-Ms-Service-Request-Id", "Req_id", "Ms-Dyn-Aid"} {
		if h[key] != nil {
			return true
		}
	}
	return false
}

// judge sets class, delivery and code. The first rule that applies decides.
func (f *Fault) judge(a *answer.Answer) {
	switch {
	case f.byCode(a):
	case f.bySubcode(a):
	case f.byDetail(a):
	case f.byException(a):
	case a.Token != "" && (a.Described || f.Status < 500): // others have such a word for their own troubles
		f.Code, f.Class, f.Delivery = a.Token, ClassAuth, Answered
	case f.byPage(a):
	default:
		f.byStatus(f.Status)
	}
}

// byCode classifies by the organization's error code. A number proves that the organization ran
// the request, whatever the status; a word does not.
func (f *Fault) byCode(a *answer.Answer) bool {
	n, ok := codeNumber(a.Code)
	passedOn := !ok
	if !ok {
		n, ok = codeNumber(a.PassedOn)
	}
	if !ok {
		f.Code = answer.Word(a.Code)
		if status, ok := codeStatus(a.Code); ok {
			f.byStatus(status)
			if f.Delivery = Answered; f.Status > http.StatusInternalServerError { // of a gateway, perhaps about itself
				f.Delivery = Unknown
			}
			return true
		}
		return false
	}
	f.Code, f.service = formatCode(n), true
	known, listed := codes[n]
	switch {
	case fromPlugin(n):
		f.Class, f.Delivery = ClassApplication, Answered
	case n == codeUnexpected:
		return false // whatever ExceptionRetriable says: it always says false
	case n == codeGenericSQL:
		f.Class, f.Delivery = sqlFault(a.Message)
	case listed:
		f.Class, f.Delivery, f.Definitive = known.class, known.delivery, definitive(n) && !a.Running
		switch {
		case f.Delivery != Refused:
		case a.Running: // the operation, or another organization that a plug-in has called
			f.Delivery = Answered
		case passedOn && f.Status != http.StatusTooManyRequests: // for one of the requests that the gateway has made of it
			f.Delivery = Unknown
		}
	default:
		f.Class, f.Delivery = ClassApplication, Answered
		switch f.Status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
			f.Class = ClassAuth
		case http.StatusTooManyRequests:
			f.Class = ClassThrottled
		}
	}
	return true
}

// bySubcode classifies a SOAP fault of WCF itself, before or after it called the service, which
// has no organization fault in it. WCF sends them all with status 500. Sources: WS-Addressing
// 1.0 SOAP binding, section 6.4; WS-SecureConversation, section 8;
// System.ServiceModel.Dispatcher.
func (f *Fault) bySubcode(a *answer.Answer) bool {
	name := a.Subcode
	if !standardNamespace(name.Space) {
		return false // a service may use the same word for something of its own
	}
	switch name.Local {
	case "EndpointUnavailable":
		f.Class, f.Delivery = ClassUnavailable, Unknown
	case "ServerTooBusy", "InternalServiceFault":
		f.Class, f.Delivery = ClassTransient, Unknown
	case "ActionNotSupported", "DestinationUnreachable", "DeserializationFailed",
		"MustUnderstand", "VersionMismatch", "DataEncodingUnknown":
		f.Class, f.Delivery, f.service = ClassApplication, Answered, true
	default: // BadContextToken, InvalidSecurity, FailedAuthentication, ...
		if !securityNamespace(name.Space) {
			return false
		}
		f.Class, f.Delivery = ClassAuth, Answered
	}
	if f.Code == "" {
		f.Code = answer.Word(name.Local)
	}
	return true
}

// byDetail classifies a SOAP fault by its typed detail. The service's contract declares such a
// detail, so an operation of the service (AIF of Finance and Operations, or a custom service)
// threw the fault. WCF's own detail for unexpected exceptions proves nothing.
func (f *Fault) byDetail(a *answer.Answer) bool {
	if f.Status > http.StatusInternalServerError {
		return false // no service sends a fault with it, but a service bus that got no answer does
	}
	switch a.Detail.Space {
	case "", "http://www.w3.org/2005/08/addressing", "http://schemas.xmlsoap.org/ws/2004/08/addressing",
		"http://schemas.datacontract.org/2004/07/System.ServiceModel":
		return false
	}
	if securityNamespace(a.Detail.Space) {
		return false
	}
	f.Class, f.Delivery, f.service = ClassApplication, Answered, true
	return true
}

// standardNamespace reports whether space is a namespace of the web service standards or of WCF.
func standardNamespace(space string) bool {
	for _, prefix := range []string{"http://schemas.microsoft.com/", "http://schemas.xmlsoap.org/", "http://www.w3.org/"} {
		if strings.HasPrefix(space, prefix) {
			return true
		}
	}
	return securityNamespace(space)
}

// securityNamespace reports whether space is one of WS-Security, WS-Trust or
// WS-SecureConversation.
func securityNamespace(space string) bool {
	switch space {
	case "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd",
		"http://docs.oasis-open.org/ws-sx/ws-trust/200512",
		"http://docs.oasis-open.org/ws-sx/ws-secureconversation/200512",
		"http://schemas.xmlsoap.org/ws/2005/02/trust",
		"http://schemas.xmlsoap.org/ws/2005/02/sc",
		"http://schemas.microsoft.com/ws/2006/05/security":
		return true
	}
	return false
}

// byException classifies by the .NET exception type that Finance and Operations name in place of
// a code. It leaves types that do not tell the cause to the status.
func (f *Fault) byException(a *answer.Answer) bool {
	name, _, _ := strings.Cut(a.Exception, ",") // the assembly may follow
	f.service = f.service || name != ""
	switch name[strings.LastIndexByte(name, '.')+1:] {
	case "AxODataWriteException", // refused by validation or a key; sent with 500 as well
		"ODataException", "ODataUnrecognizedPathException",
		"ErrorException",                                   // X++ "throw error(...)": always sent with 500
		"UpdateConflictException", "DuplicateKeyException": // X++
		f.Class, f.Delivery = ClassApplication, Answered
	case "UnauthorizedAccessException", "SecurityException":
		f.Class, f.Delivery = ClassAuth, Answered
	case "TimeoutException", "DeadlockException":
		f.Class, f.Delivery = ClassTransient, Unknown
	default:
		return false
	}
	return true
}

// pages are phrases in the titles and headings of pages that front ends send with a misleading
// status.
var pages = []struct {
	phrase string
	class  Class
}{
	{"our services aren't available right now", ClassUnavailable}, // Azure Front Door; also with 400
	{"web app - unavailable", ClassUnavailable},                   // Azure App Service, stopped; with 403
	{"web app is stopped", ClassUnavailable},
	{"404 web site not found", ClassUnavailable}, // Azure App Service, no site of that name
	{"service unavailable", ClassUnavailable},    // IIS, proxies
	{"service is unavailable", ClassUnavailable}, // HTTP.sys
	{"temporarily unavailable", ClassUnavailable},
	{"bad gateway", ClassUnavailable},                                            // Application Gateway, nginx
	{"received an invalid response while acting as a gateway", ClassUnavailable}, // IIS with ARR
	{"there is a problem with the server", ClassUnavailable},                     // Finance and Operations without an AOS
	{"under maintenance", ClassUnavailable},
	{"scheduled maintenance", ClassUnavailable},
	{"gateway timeout", ClassTransient},
	{"gateway time-out", ClassTransient},
	{"request is blocked", ClassAuth}, // Azure Front Door firewall
	{"request rejected", ClassAuth},   // F5, with 200
	{"page blocked", ClassAuth},
	{"access denied", ClassAuth},
	{"access is denied", ClassAuth},
	{"internet security by zscaler", ClassAuth},
	{"403 forbidden", ClassAuth},
	{"sign in to your account", ClassAuth}, // Microsoft Entra ID
}

// byPage classifies an HTML page.
func (f *Fault) byPage(a *answer.Answer) bool {
	switch f.Status {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired, http.StatusTooManyRequests:
		return false // these statuses are reliable
	}
	for _, p := range pages {
		if strings.Contains(a.Page, p.phrase) {
			f.Class = p.class
			if p.class == ClassAuth {
				f.Delivery = Answered
			}
			return true
		}
	}
	return false
}

// Statuses of Cloudflare, without names in net/http. 520 to 530 are about the connection to the
// origin.
const (
	statusOriginFirst   = 520
	statusOriginTimeout = 524
	statusOriginLast    = 527
	statusOriginError   = 530
)

// byStatus classifies by status alone.
func (f *Fault) byStatus(status int) {
	f.Delivery = Answered
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		f.Class = ClassAuth
	case status == http.StatusTooManyRequests:
		f.Class, f.Delivery = ClassThrottled, Refused
	case status >= 400 && status < 500:
		f.Class = ClassApplication
	case status == http.StatusBadGateway, status == http.StatusServiceUnavailable, status == statusOriginError,
		status >= statusOriginFirst && status <= statusOriginLast && status != statusOriginTimeout:
		f.Class, f.Delivery = ClassUnavailable, Unknown
	default: // other 5xx; and pages that came with a 2xx
		f.Class, f.Delivery = ClassTransient, Unknown
	}
}

// requestID returns the service's id of the request, or else a gateway's or the caller's.
func requestID(h http.Header) string {
	for _, key := range requestIDHeaders {
		if id := redact.Line(valueOf(h, key), maxRequestText); id != "" {
			return id
		}
	}
	return ""
}

// valueOf returns the first value of a header whose name is in canonical form.
func valueOf(h http.Header, canonical string) string {
	if values := h[canonical]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// requestIDHeaders, in canonical form and in order of preference.
var requestIDHeaders = [...]string{"X-Ms-Service-Request-Id", "Req_id", "X-Ms-Request-Id", "Request-Id", "X-Ms-Client-Request-Id"}

// retryAfter returns the delay of the Retry-After header (RFC 9110, section 10.2.3). A date is
// relative to the Date header, because both are from the same clock.
func retryAfter(h http.Header) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if n, err := strconv.ParseUint(value, 10, 64); err == nil {
		return answer.Seconds(float64(n))
	} else if errors.Is(err, strconv.ErrRange) {
		return answer.MaxRetryAfter
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return min(max(at.Sub(now), 0), answer.MaxRetryAfter)
}

// readAnswer reads the beginning of the body, which can still be read from its start.
func readAnswer(resp *http.Response) answer.Answer {
	return answer.Read(peek(resp), resp.Header.Get("Content-Type"), resp.Header.Get("Content-Encoding"), resp.Uncompressed)
}
