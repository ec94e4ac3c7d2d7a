package failover_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// SOAP messages and batches that write are inspected only until that is clear, so the cost of
// a call does not depend on their length.
func TestMessagesThatWriteAllocateLittle(t *testing.T) { // not parallel: it counts the allocations of the process
	if raceDetector() {
		t.Skip("the race detector allocates")
	}
	const services = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"
	attributes := strings.Repeat(`<b:KeyValuePairOfstringanyType><c:key>name</c:key><c:value>Contoso</c:value></b:KeyValuePairOfstringanyType>`, 46)
	soap := `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><Create xmlns="` + services + `"><entity>` + attributes + `</entity></Create></s:Body></s:Envelope>`
	batch := strings.Repeat("--b\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\nPOST /api/data/v9.2/accounts HTTP/1.1\r\nContent-Type: application/json\r\n\r\n{\"name\":\"Contoso\"}\r\n", 10) + "--b--\r\n"
	for _, row := range []struct {
		name, path string
		header     http.Header
		body       string
		budget     float64
	}{
		{"SOAP write", "/XRMServices/2011/Organization.svc/web", http.Header{"Content-Type": {"text/xml; charset=utf-8"}, "Soapaction": {services + "/IOrganizationService/Create"}}, soap, 10},
		{"batch of 10 writes", "/api/data/v9.2/$batch", http.Header{"Content-Type": {"multipart/mixed; boundary=b"}}, batch, 20},
	} {
		cost := func(rt http.RoundTripper) float64 {
			body := []byte(row.body)
			req, err := http.NewRequest(http.MethodPost, orgURL+row.path, nil)
			require.NoError(t, err)
			req.Header, req.ContentLength = row.header, int64(len(body))
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
			return testing.AllocsPerRun(500, func() {
				req.Body, _ = req.GetBody()
				resp, err := rt.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			})
		}
		base := new(memory)
		added := cost(inMemory(t, base)) - cost(base)
		t.Logf("%s of %d bytes: %+.0f", row.name, len(row.body), added)
		assert.LessOrEqual(t, added, row.budget, row.name)
	}
}
