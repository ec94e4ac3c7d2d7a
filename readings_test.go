package failover_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// carriedOut is a server that carries out requests and breaks their connections before it
// answers, except those to /warm.
func carriedOut(t *testing.T, http2 bool) (server *httptest.Server, count *atomic.Int64) {
	count = new(atomic.Int64)
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case strings.HasSuffix(req.URL.Path, "/WhoAmI"):
			fmt.Fprint(w, `{"OrganizationId":"00000000-0000-0000-0000-000000000001"}`)
		case req.URL.Path == "/warm":
		default:
			io.Copy(io.Discard, req.Body)
			count.Add(1)
			panic(http.ErrAbortHandler)
		}
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.EnableHTTP2 = http2
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, count
}

// What a lenient server could take for a write is carried out once, over a used connection, on
// which net/http itself repeats reads. A read is sent again.
func TestWhatSomebodyCouldTakeForAWriteIsSentOnce(t *testing.T) {
	t.Parallel()
	const services = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"
	envelope := func(action, operation string) string {
		return `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Header><a:Action xmlns:a="http://www.w3.org/2005/08/addressing">` + services +
			"/IOrganizationService/" + action + `</a:Action></s:Header><s:Body><` + operation + ` xmlns="` + services + `"/></s:Body></s:Envelope>`
	}
	batch := func(lines string) string {
		return "--b\r\nContent-Type: application/http\r\n\r\nGET accounts HTTP/1.1\r\n" + lines + "\r\n--b--\r\n"
	}
	soap, multipart := http.Header{"Content-Type": {"application/soap+xml"}}, http.Header{"Content-Type": {"multipart/mixed; boundary=b"}}
	for _, row := range []struct {
		name, method, path string
		header             http.Header
		body               string
		once               bool
	}{
		{"dequeue", "GET", "/api/connector/dequeue/1", nil, "", true},
		{"Dequeue with a slash", "GET", "/api/connector/Dequeue/1/", nil, "", true},
		{"GET that means DELETE", "GET", "/data/Customers(1)", http.Header{"X-Http-Method-Override": {"DELETE"}}, "", true},
		{"GET", "GET", "/data/Customers", nil, "", false},
		{"SOAP Create, left-over SOAPAction", "POST", "/XRMServices/2011/Organization.svc",
			http.Header{"Content-Type": {"application/soap+xml"}, "Soapaction": {services + "/IOrganizationService/Retrieve"}}, envelope("Create", "Create"), true},
		{"SOAP Retrieve", "POST", "/XRMServices/2011/Organization.svc", soap, envelope("Retrieve", "Retrieve"), false},
		{"batch with a delimiter in a line", "POST", "/api/data/v9.2/$batch", multipart, batch("X: --b\r\nContent-Type: application/http\r\n\r\nPUT accounts(1) HTTP/1.1\r\n"), true},
		{"batch with a lone CR", "POST", "/api/data/v9.2/$batch", multipart, batch("X: a\r\rPOST accounts HTTP/1.1\r"), true},
		{"batch with an override", "POST", "/api/data/v9.2/$batch", multipart, batch("X-HTTP-Method: DELETE\r\n"), true},
		{"batch of reads", "POST", "/api/data/v9.2/$batch", multipart, batch("Accept: application/json\r\n"), false},
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/http2=%t", row.name, http2), func(t *testing.T) {
				t.Parallel()
				server, count := carriedOut(t, http2)
				client, transport, err := failover.Wrap(server.Client(), server.URL, &failover.Config{
					RetryBackoff: -1, ProbeInterval: -1, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				defer transport.Close()
				warm, err := client.Get(server.URL + "/warm")
				require.NoError(t, err)
				io.Copy(io.Discard, warm.Body)
				warm.Body.Close()
				req, err := http.NewRequestWithContext(t.Context(), row.method, server.URL+row.path, strings.NewReader(row.body))
				require.NoError(t, err)
				if row.body == "" {
					req.Body, req.GetBody = nil, nil
				}
				if row.header != nil {
					req.Header = row.header.Clone()
				}
				_, err = client.Do(req)
				require.Error(t, err)
				if row.once {
					assert.EqualValues(t, 1, count.Load())
					assert.ErrorIs(t, err, failover.ErrOutcomeUnknown)
					return
				}
				assert.Greater(t, count.Load(), int64(1))
				assert.NotErrorIs(t, err, failover.ErrOutcomeUnknown)
			})
		}
	}
}
