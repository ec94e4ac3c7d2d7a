package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/d365failover/failover"
)

// otherCalls measures calls other than a plain GET or a POST of JSON.
func otherCalls(p pairing) table {
	t := table{head: []string{"**failover**", "x bare", "added ns", "added B", "added allocs"}}
	attribute := `<b:KeyValuePairOfstringanyType><c:key xmlns:c="http://schemas.datacontract.org/2004/07/System.Collections.Generic">` +
		`name</c:key><c:value>Contoso</c:value></b:KeyValuePairOfstringanyType>`
	soap := `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>` +
		`<Create xmlns="http://schemas.microsoft.com/xrm/2011/Contracts/Services"><entity xmlns:b="http://schemas.microsoft.com/xrm/2011/Contracts">` +
		`<b:Attributes>` + strings.Repeat(attribute, 25) + `</b:Attributes></entity></Create></s:Body></s:Envelope>`
	part := "--b\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n" +
		"POST /api/data/v9.2/accounts HTTP/1.1\r\nContent-Type: application/json\r\n\r\n{\"name\":\"Contoso\"}\r\n"
	authorize := func(req *http.Request) error {
		req.Header["Authorization"] = []string{"Bearer contoso"}
		return nil
	}
	for _, row := range []struct {
		name, method, path, contentType, body string
		cfg                                   failover.Config
	}{
		{name: "SOAP write of 5 KB", method: "POST", path: "/XRMServices/2011/Organization.svc/web", contentType: "text/xml; charset=utf-8", body: soap},
		{name: "$batch of ten writes", method: "POST", path: "/api/data/v9.2/$batch", contentType: "multipart/mixed; boundary=b", body: strings.Repeat(part, 10) + "--b--\r\n"},
		{name: "404 of the service", method: "GET", path: missingPath},
		{name: "GET with Authorize", method: "GET", path: listPath, cfg: failover.Config{Authorize: authorize}},
		{name: "GET with AttemptTimeout", method: "GET", path: listPath, cfg: failover.Config{AttemptTimeout: time.Minute}},
	} {
		row.cfg.Base, row.cfg.Logger = new(memory), silent
		transport := must(failover.New(primary, &row.cfg))
		of := func(rt http.RoundTripper) work {
			c := newCall(row.method, primary+row.path)
			if row.body != "" {
				c.body = []byte(row.body)
				c.req.ContentLength = int64(len(c.body))
				c.req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c.body)), nil }
				c.req.Header["Content-Type"] = []string{row.contentType}
				c.req.Header["Soapaction"] = []string{`"http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/Create"`}
			}
			send := over(rt)
			return func(n int) {
				for range n {
					check(c.do(send))
				}
			}
		}
		bare, wrapped := of(row.cfg.Base), of(transport)
		wrapped(5000) // until the ledger has stopped growing
		s := p.compare(bare, []work{wrapped})[0]
		least, floor := [2]float64{}, [2]float64{}
		least[0], least[1] = allocations(wrapped)
		floor[0], floor[1] = allocations(bare)
		t.add(row.name, s.String(), signed(s.added), f0(least[0]-floor[0]), f0(least[1]-floor[1]))
		transport.Close()
	}
	return t
}

// classification compares Classify with reading the tokens of the same 64 KiB by the standard
// decoder.
func classification(p pairing) table {
	t := table{head: []string{"answer of 64 KiB", "Classify: x one pass of tokens", "pass, us"}}
	detail := `{"code":"0x80040217","message":"account With Id = 1 Does Not Exist","target":"accounts"},`
	odata := `{"error":{"code":"0x80040217","details":[` + strings.Repeat(detail, 64<<10/len(detail)-2) + `{}],"message":"account With Id = 1 Does Not Exist"}}`
	item := `<KeyValuePairOfstringanyType><key>OperationStatus</key><value>0</value></KeyValuePairOfstringanyType>`
	fault := `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>Not found</faultstring><detail>` +
		`<OrganizationServiceFault xmlns="http://schemas.microsoft.com/xrm/2011/Contracts"><ErrorDetails>` + strings.Repeat(item, 64<<10/len(item)-6) +
		`</ErrorDetails><ErrorCode>-2147220969</ErrorCode><Message>Not found</Message></OrganizationServiceFault></detail></s:Fault></s:Body></s:Envelope>`
	for _, row := range []struct {
		name, contentType, body string
		pass                    func(io.Reader) error
	}{
		{"OData error", "application/json", odata, func(r io.Reader) (err error) {
			for d := json.NewDecoder(r); err == nil; _, err = d.Token() {
			}
			return err
		}},
		{"SOAP fault", "text/xml; charset=utf-8", fault, func(r io.Reader) (err error) {
			for d := xml.NewDecoder(r); err == nil; _, err = d.Token() {
			}
			return err
		}},
	} {
		req := newCall(http.MethodGet, primary+listPath).req
		classify := func(n int) {
			for range n {
				resp := &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{"Content-Type": {row.contentType}}, Request: req,
					ContentLength: int64(len(row.body)), Body: io.NopCloser(strings.NewReader(row.body))}
				if f := failover.Classify(resp, nil); f == nil || f.Class != failover.ClassApplication {
					panic(fmt.Sprint("not what it is: ", f))
				}
				resp.Body.Close()
			}
		}
		pass := func(n int) {
			for range n {
				if err := row.pass(strings.NewReader(row.body)); err != io.EOF {
					panic(err)
				}
			}
		}
		s := p.longer().compare(pass, []work{classify})[0]
		t.add(fmt.Sprintf("%s (%d bytes)", row.name, len(row.body)), s.String(), f0(s.floor/1e3))
	}
	return t
}
