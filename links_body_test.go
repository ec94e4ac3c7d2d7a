package failover_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

const soapService = "/XRMServices/2011/Organization.svc"

// soap12 returns a SOAP 1.2 message that is addressed to the organization's own URL, as .NET
// clients send it.
func soap12(operation, content string) string {
	const services = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"
	return `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/2005/08/addressing"><s:Header>` +
		`<a:Action s:mustUnderstand="1">` + services + `/IOrganizationService/` + operation + `</a:Action>` +
		`<a:To s:mustUnderstand="1">` + orgURL + soapService + `</a:To></s:Header>` +
		`<s:Body><` + operation + ` xmlns="` + services + `" xmlns:i="http://www.w3.org/2001/XMLSchema-instance"` +
		` xmlns:x="http://schemas.microsoft.com/xrm/2011/Contracts" xmlns:b="http://schemas.datacontract.org/2004/07/System.Collections.Generic"` +
		` xmlns:c="http://schemas.microsoft.com/crm/2011/Contracts">` + content + `</` + operation + `></s:Body></s:Envelope>`
}

var soapWhoAmI = soap12("Execute", `<request i:type="c:WhoAmIRequest"><x:Parameters/><x:RequestId i:nil="true"/><x:RequestName>WhoAmI</x:RequestName></request>`)

var soapCreate = soap12("Create", `<entity><x:Attributes><x:KeyValuePairOfstringanyType><b:key>name</b:key>`+
	`<b:value i:type="d:string" xmlns:d="http://www.w3.org/2001/XMLSchema">see `+orgURL+`/notes</b:value></x:KeyValuePairOfstringanyType></x:Attributes>`+
	`<x:EntityState i:nil="true"/><x:FormattedValues/><x:Id>00000000-0000-0000-0000-000000000000</x:Id><x:LogicalName>account</x:LogicalName><x:RelatedEntities/></entity>`)

// send sends a body of any type, and returns the status and the answer.
func (s *story) send(method, path, contentType, body string, header ...string) (int, string) {
	s.Helper()
	req, err := http.NewRequest(method, s.org.URL()+path, strings.NewReader(body))
	require.NoError(s, err)
	req.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.client.Do(req)
	require.NoError(s, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(s, err)
	return resp.StatusCode, string(answer)
}

// everywhere runs a check before a failover, after it, and after the fail-back.
func everywhere(t *testing.T, check func(s *story, where string)) {
	tell(t, failover.Config{}, func(s *story) {
		check(s, "at home")
		s.org.FailOver()
		check(s, "failed over")
		require.Equal(s, failover.Alternate, s.active())
		s.org.FailBack()
		check(s, "back at home")
		require.Equal(s, failover.Primary, s.active())
	})
}

// Like WCF, Organization.svc refuses a message that is addressed to another endpoint.
func TestSOAPCallsWorkOnEitherSide(t *testing.T) {
	everywhere(t, func(s *story, where string) {
		status, answer := s.send("POST", soapService, "application/soap+xml; charset=utf-8", soapWhoAmI)
		require.Equal(s, 200, status, "%s: %s", where, answer)
		assert.Contains(s, answer, "OrganizationId", where)
		status, answer = s.send("POST", soapService, "application/soap+xml; charset=utf-8", soapCreate)
		require.Equal(s, 200, status, "%s: %s", where, answer)
		assert.Contains(s, answer, "CreateResult", where)
	})
}

func TestSOAPWithoutAddressingWorksOnEitherSide(t *testing.T) {
	everywhere(t, func(s *story, where string) {
		envelope := strings.ReplaceAll(soapWhoAmI, "http://www.w3.org/2003/05/soap-envelope", "http://schemas.xmlsoap.org/soap/envelope/")
		start, end := strings.Index(envelope, "<s:Header>"), strings.Index(envelope, "<s:Body>")
		status, answer := s.send("POST", soapService+"/web", "text/xml; charset=utf-8", envelope[:start]+envelope[end:],
			"SOAPAction", `"http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/Execute"`)
		require.Equal(s, 200, status, "%s: %s", where, answer)
		assert.Contains(s, answer, "OrganizationId", where)
	})
}

// A SOAP read is repeated after an unknown outcome, a SOAP write never.
func TestSOAPInDoubt(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Primary().FailNext(1, failovertest.Reset(failovertest.BeforeAnswer))
		status, _ := s.send("POST", soapService, "application/soap+xml; charset=utf-8", soapWhoAmI)
		assert.Equal(s, 200, status)
		assert.Equal(s, 2, deliveries(s.org.Primary(), "POST"))

		s.org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
		req, err := http.NewRequest("POST", s.org.URL()+soapService, strings.NewReader(soapCreate))
		require.NoError(s, err)
		req.Header.Set("Content-Type", "application/soap+xml; charset=utf-8")
		_, err = s.client.Do(req)
		require.ErrorIs(s, err, failover.ErrOutcomeUnknown)
		assert.Equal(s, 3, deliveries(s.org.Primary(), "POST"))
	})
}

// The service refuses a batch part that is addressed to another host.
func TestBatchesWorkOnEitherSide(t *testing.T) {
	const host = "contoso.api.crm.dynamics.com"
	forms := map[string]string{
		"absolute URL":           "GET " + orgURL + accounts + "?$top=1 HTTP/1.1\r\nAccept: application/json\r\n\r\n",
		"absolute path and Host": "GET " + accounts + "?$top=1 HTTP/1.1\r\nHost: " + host + "\r\nAccept: application/json\r\n\r\n",
		"relative":               "GET accounts?$top=1 HTTP/1.1\r\nAccept: application/json\r\n\r\n",
	}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(s *story, where string) {
				s.get(accounts) // fails over first, because a fence does not make a batch repeatable
				write := strings.Replace(form, "GET ", "POST ", 1)
				write = strings.Replace(write, "?$top=1", "", 1)
				write = strings.Replace(write, "Accept: application/json\r\n\r\n", "Content-Type: application/json\r\n\r\n", 1) +
					`{"name":"see ` + orgURL + `/notes"}`
				body := "--b\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n" + form + "\r\n" +
					"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n" +
					"--c\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: 1\r\n\r\n" + write + "\r\n--c--\r\n--b--\r\n"
				status, answer := s.send("POST", "/api/data/v9.2/$batch", "multipart/mixed; boundary=b", body)
				require.Equal(s, 200, status, "%s: %s", where, answer)
				assert.Equal(s, 1, strings.Count(answer, "HTTP/1.1 200"), "%s: %s", where, answer)
				assert.Equal(s, 1, strings.Count(answer, "HTTP/1.1 204"), "%s: %s", where, answer)
			})
		})
	}
}

// The service refuses a binding to a record of another host.
func TestBindingsWorkOnEitherSide(t *testing.T) {
	for _, stored := range []string{orgURL, "https://contoso--s.api.crm.dynamics.com"} {
		t.Run(stored, func(t *testing.T) {
			everywhere(t, func(s *story, where string) {
				link := fmt.Sprintf("%s%s(%s)", stored, accounts, failovertest.SeedID(1))
				status, answer := s.send("POST", "/api/data/v9.2/contacts", "application/json",
					`{"lastname":"Contoso","description":"`+link+`","parentcustomerid_account@odata.bind":"`+link+`"}`, "Prefer", "return=representation")
				require.Equal(s, 201, status, "%s: %s", where, answer)
				assert.Contains(s, answer, `"description":"`+link+`"`, "column values are the caller's: %s", where)
			})
		})
	}
}

func TestAReferenceIsRemovedOnEitherSide(t *testing.T) {
	everywhere(t, func(s *story, where string) {
		record := fmt.Sprintf("%s(%s)", accounts, failovertest.SeedID(1))
		contact := fmt.Sprintf("%s/api/data/v9.2/contacts(%s)", orgURL, failovertest.SeedID(7))
		status, answer := s.send("PATCH", strings.TrimPrefix(contact, orgURL), "application/json", `{"lastname":"Contoso"}`)
		require.Equal(s, 204, status, "%s: %s", where, answer)
		status, answer = s.send("POST", record+"/contact_customer_accounts/$ref", "application/json", `{"@odata.id":"`+contact+`"}`)
		require.Equal(s, 204, status, "%s: %s", where, answer)
		status, answer = s.send("DELETE", record+"/contact_customer_accounts/$ref?$id="+contact, "application/json", "")
		require.Equal(s, 204, status, "%s: %s", where, answer)
	})
}

// A mapped body is sent with its new length, and GetBody returns it whole.
func TestAMappedBodyIsWhole(t *testing.T) {
	t.Parallel()
	link := orgURL + accounts + "(1)"
	body := `{"parentaccountid@odata.bind":"` + link + `"}`
	want := strings.Replace(body, "contoso.", "contoso--s.", 1)
	for _, getBody := range []bool{true, false} {
		var lengths []int64
		base := &script{probe: onlyAlternateServes, answers: answers(fence, func(req *http.Request) (*http.Response, error) {
			lengths = append(lengths, req.ContentLength)
			again, err := req.GetBody()
			require.NoError(t, err)
			content, err := io.ReadAll(again)
			require.NoError(t, err)
			assert.Equal(t, want, string(content))
			return answer(204, "")(req)
		})}
		transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		req, err := http.NewRequestWithContext(failover.WithReplay(t.Context()), http.MethodPost, orgURL+accounts, bytes.NewReader([]byte(body)))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		if !getBody {
			req.GetBody = nil
		}
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		assert.Equal(t, 204, resp.StatusCode)
		require.Len(t, base.sent, 2)
		assert.Equal(t, body, base.sent[0].body)
		assert.Equal(t, want, base.sent[1].body)
		assert.Equal(t, []int64{int64(len(want))}, lengths)
	}
}
