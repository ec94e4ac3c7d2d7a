package failover_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

const (
	fenceJSON      = `{"error":{"code":"0x8004B065","message":"Contoso"}}`
	soapServices   = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"
	executeAction  = soapServices + "/IOrganizationService/Execute"
	executeSeveral = `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><Execute xmlns="` + soapServices + `"><request xmlns:x="http://schemas.microsoft.com/xrm/2011/Contracts">` +
		`<x:Parameters/><x:RequestName>ExecuteMultiple</x:RequestName></request></Execute></s:Body></s:Envelope>`
)

// fenceIn returns a SOAP fault with the code of a fence, and more in its detail.
func fenceIn(more string) string {
	return `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>Contoso</faultstring><detail>` +
		`<OrganizationServiceFault xmlns="http://schemas.microsoft.com/xrm/2011/Contracts" xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><ErrorCode>-2147176347</ErrorCode>` +
		more + `</OrganizationServiceFault></detail></s:Fault></s:Body></s:Envelope>`
}

// Each row is a write that the primary carries out and then answers with what looks like a
// proof that it was not, or like an answer of the organization. The alternate serves. What
// counts is how often the two have carried the write out, and whether the caller is told.
func TestWhatLooksLikeAProofIsNone(t *testing.T) {
	t.Parallel()
	const api, soap = "/api/data/v9.1/accounts", "/XRMServices/2011/Organization.svc/web"
	jsonHeader, soapHeader := http.Header{"Content-Type": {"application/json"}}, http.Header{"Content-Type": {"text/xml; charset=utf-8"}, "Soapaction": {executeAction}}
	long := strings.Repeat("<x:Entity/>", 10_000) // 110 KB
	oneOperation := strings.Replace(executeSeveral, "ExecuteMultiple", "contoso_Book", 1)
	rows := map[string]struct {
		method, path string
		header       http.Header
		body         string
		status       int
		kind, answer string
		effects      int
		doubt        bool
		why          string
	}{
		"a fence":               {"POST", api, jsonHeader, "{}", 500, "application/json", fenceJSON, 2, false, "the measure: this one is a proof, and is believed"},
		"a fence in SOAP":       {"POST", soap, soapHeader, oneOperation, 500, "text/xml", fenceIn(""), 2, false, "the measure"},
		"a fence with no trace": {"POST", soap, soapHeader, oneOperation, 500, "text/xml", fenceIn(`<ExceptionSource i:nil="true"/><TraceText i:nil="true"/>`), 2, false, "as the service writes it"},

		"a fence in SOAP, long":    {"POST", soap, soapHeader, strings.Replace(oneOperation, "<x:Parameters/>", "<x:Parameters>"+long+"</x:Parameters>", 1), 500, "text/xml", fenceIn(""), 2, false, "the measure: longer than Config.MaxBody"},
		"several operations, long": {"POST", soap, soapHeader, strings.Replace(executeSeveral, "<x:Parameters/>", "<x:Parameters>"+long+"</x:Parameters>", 1), 500, "text/xml", fenceIn(""), 1, true, "longer than Config.MaxBody"},

		"several operations":            {"POST", soap, soapHeader, executeSeveral, 500, "text/xml", fenceIn(""), 1, true, "some may have been carried out"},
		"several, names set by force":   {"POST", soap, http.Header{"content-type": {"text/xml"}, "soapaction": {executeAction}}, executeSeveral, 500, "text/xml", fenceIn(""), 1, true, "on the wire names have no case"},
		"several, action by force":      {"POST", soap, http.Header{"soapAction": {executeAction}}, executeSeveral, 500, "text/xml", fenceIn(""), 1, true, "on the wire names have no case"},
		"several, parameter twice":      {"POST", soap, http.Header{"Content-Type": {"application/soap+xml; charset=utf-8; charset=utf-16"}}, executeSeveral, 500, "text/xml", fenceIn(""), 1, true, "some servers read it"},
		"several, second type of media": {"POST", soap, http.Header{"Content-Type": {"text/plain", "text/xml"}}, executeSeveral, 500, "text/xml", fenceIn(""), 1, true, "servers choose differently"},
		"several, name in pieces":       {"POST", soap, soapHeader, strings.Replace(executeSeveral, "Multiple", "Mul<!-- -->tiple", 1), 500, "text/xml", fenceIn(""), 1, true, "the pieces are one text"},
		"several, name in sections":     {"POST", soap, soapHeader, strings.Replace(executeSeveral, "Multiple", "Mult<![CDATA[ip]]>le", 1), 500, "text/xml", fenceIn(""), 1, true, "the pieces are one text"},
		"several, optimized": {"POST", soap, http.Header{"Content-Type": {`multipart/related; type="application/xop+xml"; start-info="application/soap+xml"; boundary=b`}},
			"--b\r\nContent-Type: application/xop+xml; charset=utf-8; type=\"application/soap+xml\"\r\n\r\n" + executeSeveral + "\r\n--b--", 500, "text/xml", fenceIn(""), 1, true, "MTOM puts the message into a part"},
		"several, method in lower case": {"post", soap, soapHeader, executeSeveral, 500, "text/xml", fenceIn(""), 1, true, "some servers take it for POST"},

		"plug-in named":            {"POST", api, jsonHeader, "{}", 500, "application/json", `{"error":{"code":"0x8004B065","message":"x","@Microsoft.PowerApps.CDS.ErrorDetails.ApiExceptionSourceKey":"Plugin/Contoso.Orders.Book"}}`, 1, false, "it called another organization"},
		"plug-in traced":           {"POST", api, jsonHeader, "{}", 500, "application/json", `{"error":{"code":"0x8004B065","message":"x","@Microsoft.PowerApps.CDS.TraceText":"[Contoso.Orders: Contoso.Orders.Book]"}}`, 1, false, "it called another organization"},
		"plug-in named in SOAP":    {"POST", soap, soapHeader, oneOperation, 500, "text/xml", fenceIn(`<ExceptionSource>PluginExecution</ExceptionSource>`), 1, false, "it called another organization"},
		"plug-in traced in SOAP":   {"POST", soap, soapHeader, oneOperation, 500, "text/xml", fenceIn(`<TraceText>[Contoso.Orders: Contoso.Orders.Book]</TraceText>`), 1, false, "it called another organization"},
		"plug-in detailed in SOAP": {"POST", soap, soapHeader, oneOperation, 500, "text/xml", fenceIn(`<ErrorDetails xmlns:c="http://schemas.datacontract.org/2004/07/System.Collections.Generic"><KeyValuePairOfstringanyType><c:key>ApiExceptionSourceKey</c:key><c:value>Plugin/Contoso.Orders.Book</c:value></KeyValuePairOfstringanyType></ErrorDetails>`), 1, false, "it called another organization"},
		"passed on":                {"POST", api, jsonHeader, "{}", 500, "application/json", `{"error":{"code":"Failed","extendedData":{"code":"0x8004B065"}}}`, 1, true, "a fence met one of the requests that a gateway made"},

		"word of a gateway":       {"POST", api, jsonHeader, "{}", 504, "application/json", `{"error":"timeout"}`, 1, true, "not every word is that of a token service"},
		"number of a gateway":     {"POST", api, jsonHeader, "{}", 504, "application/json", `{"error":{"code":-32603,"message":"upstream timed out"}}`, 1, true, "not every number is a code of the organization"},
		"large number":            {"POST", api, jsonHeader, "{}", 502, "application/json", `{"error":{"code":"3000000000"}}`, 1, true, "not every number is a code of the organization"},
		"detail of a bus":         {"POST", soap, soapHeader, oneOperation, 504, "text/xml", `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Server</faultcode><faultstring>x</faultstring><detail><f:fault xmlns:f="urn:contoso:bus"/></detail></s:Fault></s:Body></s:Envelope>`, 1, true, "no operation throws a 504"},
		"token service is down":   {"POST", api, jsonHeader, "{}", 503, "application/json", `{"error":"temporarily_unavailable","error_description":"AADSTS90033"}`, 1, false, "the measure: nothing was asked of the organization"},
		"organization refuses":    {"POST", api, jsonHeader, "{}", 503, "application/json", `{"error":{"code":"0x80040203","message":"x"}}`, 1, false, "the measure: its own answer"},
		"X++ refuses in a detail": {"POST", "/soap/services/contosoorders", soapHeader, oneOperation, 500, "text/xml", `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>x</faultstring><detail><AifFault xmlns="http://schemas.microsoft.com/dynamics/2008/01/documents/Fault"/></detail></s:Fault></s:Body></s:Envelope>`, 1, false, "the measure: its own answer"},
	}

	var mu sync.Mutex
	effects := make(map[string]int)
	serve := func(isPrimary bool) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			name := r.Header.Get("X-Row")
			if name == "" { // a probe
				w.Header().Set("Content-Type", "application/json")
				if isPrimary {
					w.WriteHeader(500)
					io.WriteString(w, fenceJSON)
				} else {
					io.WriteString(w, `{"OrganizationId":"00000000-0000-0000-0000-000000000001"}`)
				}
				return
			}
			mu.Lock()
			effects[name]++
			mu.Unlock()
			if !isPrimary {
				w.WriteHeader(204)
				return
			}
			w.Header().Set("Content-Type", rows[name].kind)
			w.WriteHeader(rows[name].status)
			io.WriteString(w, rows[name].answer)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	primary, alternate := serve(true), serve(false)
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			transport, err := failover.New(primary, &failover.Config{Alternate: alternate, Logger: slog.New(slog.DiscardHandler), MaxBody: 100_000})
			require.NoError(t, err)
			defer transport.Close()
			req, err := http.NewRequest(row.method, primary+row.path, strings.NewReader(row.body))
			require.NoError(t, err)
			req.Header = row.header.Clone()
			req.Header.Set("X-Row", name)
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			_, doubt := failover.InDoubt(resp, err)
			assert.Equal(t, row.doubt, doubt, row.why)
			mu.Lock()
			defer mu.Unlock()
			assert.Equal(t, row.effects, effects[name], row.why)
		})
	}
}

// What says nothing about the record ends no doubt about what became of it.
func TestWhatEndsNoDoubt(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		method string
		header http.Header
		second func(*http.Request) (*http.Response, error)
		doubt  bool
	}{
		"gone":                          {"DELETE", nil, coded(404, "0x80040217"), false},
		"gone, word of a gateway":       {"DELETE", nil, coded(404, "ResourceNotFound"), true},
		"gone, status as word":          {"DELETE", nil, coded(410, "410"), true},
		"gone, says a plug-in":          {"DELETE", nil, coded(404, "0x80048D05"), true},
		"gone, throws a plug-in":        {"DELETE", nil, coded(404, "0x80040265"), true},
		"changed":                       {"PATCH", http.Header{"If-Match": {`W/"7"`}}, coded(412, "0x80060882"), false},
		"changed, word of a gateway":    {"PATCH", http.Header{"If-Match": {`W/"7"`}}, coded(412, "PreconditionFailed"), true},
		"changed, says a plug-in":       {"PATCH", http.Header{"If-Match": {`W/"7"`}}, coded(412, "0x80048D09"), true},
		"there already, says a plug-in": {"PATCH", http.Header{"If-None-Match": {"*"}}, coded(412, "0x80048D11"), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				base := &script{answers: answers(refuse(errReset), row.second), probe: onlyPrimaryServes}
				transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				defer transport.Close()
				req, err := http.NewRequest(row.method, orgURL+accounts+"(00000000-0000-4000-8000-000000000001)", nil)
				require.NoError(t, err)
				req.Header = row.header
				if row.header == nil {
					req.Header = make(http.Header)
				}
				_, doubt := failover.InDoubt(transport.RoundTrip(req))
				assert.Equal(t, row.doubt, doubt)
				assert.Len(t, base.sent, 2)
			})
		})
	}
}

// A GET in whose header another method stands is carried out once, in whatever spelling
// that was set: the server sees one.
func TestAReadThatMeansAnotherMethodIsCarriedOutOnce(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"X-Http-Method", "X-HTTP-Method", "x-http-method", "x-http-method-override", "X-METHOD-OVERRIDE", "X-Correlation"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/WhoAmI") {
					return
				}
				seen.Add(1)
				panic(http.ErrAbortHandler)
			}))
			defer server.Close()
			transport, err := failover.New(server.URL, &failover.Config{Alternate: failover.NoAlternate, Logger: slog.New(slog.DiscardHandler), RetryBackoff: -1, FailureThreshold: 10, MaxAttempts: 3})
			require.NoError(t, err)
			defer transport.Close()
			req, err := http.NewRequest("GET", server.URL+"/api/data/v9.1/accounts(1)", nil)
			require.NoError(t, err)
			req.Header[name] = []string{"DELETE"}
			_, doubt := failover.InDoubt(transport.RoundTrip(req))
			assert.Equal(t, name != "X-Correlation", doubt)
			assert.Equal(t, name != "X-Correlation", seen.Load() == 1, "sent %d times", seen.Load())
		})
	}
}
