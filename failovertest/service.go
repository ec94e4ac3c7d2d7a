package failovertest

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Codes of the organization service. Source: "Web service error codes" in
// Microsoft's developer guide.
const (
	codeFence        = "0x8004b065" // DatacenterNotAvailable
	codeThrottled    = "0x80072322" // ThrottlingBurstRequestLimitExceededError
	codeConcurrency  = "0x80072326" // ThrottlingConcurrencyLimitExceededError
	codeNotFound     = "0x80040217" // ObjectDoesNotExist
	codeArgument     = "0x80040203" // InvalidArgument
	codeDuplicate    = "0x80040237" // DuplicateRecord
	codeVersion      = "0x80060882" // ConcurrencyVersionMismatch
	codeSegment      = "0x8006088a" // resource not found for the segment
	codeBadRequest   = "0x80060888" // a query or address that cannot be understood
	codeExpiredDelta = "0x80044352" // ExpiredVersionStamp
	codeInvalid      = "0x80048d19" // a body that cannot be understood
)

const (
	fenceMessage    = "The datacenter is not available for this organization."
	throttleMessage = "Number of requests exceeded the limit of 6000 over time window of 300 seconds."
)

// version is what RetrieveVersion answers.
const version = "9.2.24014.00190"

// request holds what the services of an organization use of an HTTP request.
type request struct {
	method string
	host   string // addressed
	path   string
	query  url.Values
	header http.Header
	body   []byte
}

// answer is a response. It may be sent several times.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	applied bool // a record was changed
}

func newAnswer(status int, contentType string, body []byte) *answer {
	a := &answer{status: status, header: make(http.Header), body: body}
	if contentType != "" {
		a.header.Set("Content-Type", contentType)
	}
	return a
}

// jsonAnswer is an OData answer.
func jsonAnswer(status int, v any) *answer {
	body, err := json.Marshal(v)
	if err != nil {
		panic("failovertest: " + err.Error()) // values come from JSON
	}
	a := newAnswer(status, "application/json; odata.metadata=minimal", body)
	a.header.Set("OData-Version", "4.0")
	return a
}

// errorAnswer is an OData error (OData JSON Format 4.0, section 19).
func errorAnswer(status int, code, message string) *answer {
	return jsonAnswer(status, map[string]any{"error": map[string]any{"code": code, "message": message}})
}

// writeHeader sends the header of the answer with the length of its whole body.
func (a *answer) writeHeader(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.header)
	if a.status != http.StatusNoContent && a.status != http.StatusNotModified {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
}

// serve answers a request to a datacenter that does not fail.
func (d *Datacenter) serve(r *request) *answer {
	host, port, hasPort := strings.Cut(r.host, ":")
	if !d.answersTo(host) || hasPort && port != "443" {
		// What HTTP.sys answers to a Host header it has no binding for.
		return newAnswer(http.StatusBadRequest, "text/html",
			[]byte("<h2>Bad Request - Invalid Hostname</h2><p>HTTP Error 400. The request hostname is invalid.</p>"))
	}
	d.org.mu.Lock()
	defer d.org.mu.Unlock()
	defer d.org.replicate()
	d.org.replicate()
	if version, rest, ok := webAPIPath(r.path); ok {
		return d.webAPI(r, version, rest)
	}
	if rest, ok := financePath(r.path); ok {
		return d.financeAndOperations(r, rest)
	}
	switch path := strings.ToLower(r.path); path {
	case soapPath, soapPath + "/web":
		return d.soap(r, path != soapPath)
	}
	return newAnswer(http.StatusNotFound, "text/html", []byte("<h1>404 - File or directory not found.</h1>"))
}

// throttle answers a request that exceeds a service-protection limit.
func (d *Datacenter) throttle(r *request, code, message string, retryAfter time.Duration) *answer {
	seconds := int(retryAfter / time.Second)
	if path := strings.ToLower(r.path); path == soapPath || path == soapPath+"/web" {
		c := &soapCall{request: r, dc: d, v11: path != soapPath}
		if xml.Unmarshal(r.body, &c.env) == nil {
			return c.faultWith(code, message, fmt.Sprintf(
				`<KeyValuePairOfstringanyType><a:key>Retry-After</a:key><a:value i:type="d:duration" `+
					`xmlns:d="http://schemas.microsoft.com/2003/10/Serialization/">PT%dS</a:value></KeyValuePairOfstringanyType>`, seconds))
		}
	}
	a := errorAnswer(http.StatusTooManyRequests, code, message)
	a.header.Set("Retry-After", strconv.Itoa(seconds))
	return a
}
