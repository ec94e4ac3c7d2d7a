package failovertest_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

// Every request gets an answer; if a handler panicked, its connection would be cut.
func FuzzRequests(f *testing.F) {
	org := failovertest.StartInMemory(&failovertest.Config{Anonymous: true})
	f.Cleanup(org.Close)
	client := org.Client()
	f.Add("POST", "accounts", "", "application/json", `{"primarycontactid@odata.bind":"/contacts(1)"}`)
	f.Add("PATCH", "accounts("+failovertest.SeedID(1)+")", "", "application/json", `{"a":{"b":[1,null]}}`)
	f.Add("GET", "accounts", "$skiptoken=<cookie pagenumber=\"2\" after=\"3\" since=\"0\" />", "", "")
	f.Add("GET", "accounts", "$deltatoken=5!x&$filter=name eq 'x'&$top=3&$select=a,b", "", "")
	f.Add("DELETE", "accounts("+failovertest.SeedID(2)+")/nav("+failovertest.SeedID(1)+")/$ref", "$id=x", "", "")
	f.Add("POST", "$batch", "", "multipart/mixed; boundary=b", single("GET accounts HTTP/1.1\r\n\r\n")+
		changeSet(post("contacts", "{}"), "PATCH $1 HTTP/1.1\r\n\r\n{}")+"--b--\r\n")
	f.Add("POST", "soap", "", "text/xml", `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><Create xmlns="`+services+`">`+
		entity("contact", "", "")+`</Create></s:Body></s:Envelope>`)
	f.Fuzz(func(t *testing.T, method, path, query, contentType, body string) {
		base, action := org.URL()+api, ""
		if path == "soap" {
			base, path = org.URL()+soapURL, "/web"
			for _, op := range []string{"Execute", "Create", "Update", "Delete", "Retrieve", "RetrieveMultiple"} {
				if strings.Contains(body, op) {
					action = services + "/IOrganizationService/" + op
				}
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
		if err != nil || req.URL.Host != org.Primary().Host() {
			t.Skip("not a request to the organization")
		}
		req.URL.RawQuery = strings.NewReplacer("%24", "$", "%3D", "=", "%26", "&").Replace(url.QueryEscape(query))
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("SOAPAction", action)
		resp, err := client.Transport.RoundTrip(req)
		if err != nil && strings.Contains(err.Error(), "invalid") {
			t.Skip("not a request that can be sent")
		}
		require.NoError(t, err)
		resp.Body.Close()
	})
}
