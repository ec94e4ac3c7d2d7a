package failovertest_test

import (
	"encoding/xml"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

const (
	soapURL  = "/XRMServices/2011/Organization.svc"
	services = "http://schemas.microsoft.com/xrm/2011/Contracts/Services"
)

// message is the part of a SOAP answer that the tests read.
type message struct {
	Action    string `xml:"Header>Action"`
	RelatesTo string `xml:"Header>RelatesTo"`
	Body      struct {
		Inner string `xml:",innerxml"`
		Fault struct {
			Code11 string   `xml:"faultcode"`
			Code12 string   `xml:"Code>Subcode>Value"`
			Org11  orgFault `xml:"detail>OrganizationServiceFault"`
			Org12  orgFault `xml:"Detail>OrganizationServiceFault"`
		} `xml:"Fault"`
	} `xml:"Body"`
}

type orgFault struct {
	ErrorCode  int
	RetryAfter string `xml:"ErrorDetails>KeyValuePairOfstringanyType>value"`
}

// soap sends an operation to a base URL in SOAP 1.1, then in SOAP 1.2, and
// returns the second status. to is the wsa:To; "" means the address itself.
func soap(t *testing.T, org *failovertest.Org, client *http.Client, base, to, op, body string) (v11, v12 message, status int) {
	t.Helper()
	content := "<" + op + ` xmlns="` + services + `" xmlns:i="http://www.w3.org/2001/XMLSchema-instance"` +
		` xmlns:a="http://schemas.microsoft.com/xrm/2011/Contracts"` +
		` xmlns:b="http://schemas.datacontract.org/2004/07/System.Collections.Generic">` + body + "</" + op + ">"
	action := services + "/IOrganizationService/" + op
	if to == "" {
		to = base + soapURL
	}
	r := must(t, org, client, "POST", base+soapURL+"/web",
		`<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>`+content+`</s:Body></s:Envelope>`,
		"Content-Type: text/xml; charset=utf-8", `SOAPAction: "`+action+`"`)
	require.NoError(t, xml.Unmarshal(r.body, &v11), "%s", r.body)
	assert.Equal(t, "text/xml; charset=utf-8", r.Header.Get("Content-Type"))
	r = must(t, org, client, "POST", base+soapURL,
		`<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope" xmlns:w="http://www.w3.org/2005/08/addressing">`+
			`<e:Header><w:Action>`+action+`</w:Action><w:MessageID>urn:uuid:contoso</w:MessageID><w:To>`+to+`</w:To></e:Header>`+
			`<e:Body>`+content+`</e:Body></e:Envelope>`,
		"Content-Type: application/soap+xml; charset=utf-8")
	require.NoError(t, xml.Unmarshal(r.body, &v12), "%s", r.body)
	assert.Equal(t, "urn:uuid:contoso", v12.RelatesTo)
	assert.Equal(t, "application/soap+xml; charset=utf-8", r.Header.Get("Content-Type"))
	return v11, v12, r.StatusCode
}

func execute(name string) string {
	return `<request i:type="d:` + name + `Request" xmlns:d="http://schemas.microsoft.com/crm/2011/Contracts"><a:Parameters/>` +
		`<a:RequestId i:nil="true"/><a:RequestName>` + name + `</a:RequestName></request>`
}

func entity(name, id, attributes string) string {
	return `<entity><a:Attributes>` + attributes + `</a:Attributes><a:EntityState i:nil="true"/><a:FormattedValues/>` +
		`<a:Id>` + id + `</a:Id><a:LogicalName>` + name + `</a:LogicalName><a:RelatedEntities/></entity>`
}

func attribute(key, typ, value string) string {
	return `<a:KeyValuePairOfstringanyType><b:key>` + key + `</b:key><b:value i:type="` + typ + `">` + value +
		`</b:value></a:KeyValuePairOfstringanyType>`
}

func TestSOAPExecute(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		id := must(t, org, client, "GET", org.URL()+api+"WhoAmI", "").json(t)["OrganizationId"].(string)
		v11, v12, status := soap(t, org, client, org.URL(), "", "Execute", execute("WhoAmI"))
		assert.Equal(t, 200, status)
		assert.Contains(t, v11.Body.Inner, id)
		assert.Contains(t, v12.Body.Inner, id)
		assert.Equal(t, services+"/IOrganizationService/ExecuteResponse", v12.Action)
		_, v12, _ = soap(t, org, client, org.URL(), "", "Execute", execute("RetrieveVersion"))
		assert.Contains(t, v12.Body.Inner, ">9.2.")
		v11, _, status = soap(t, org, client, org.URL(), "", "Execute", execute("Merge"))
		assert.Equal(t, 500, status)
		assert.Equal(t, -2147220989, v11.Body.Fault.Org11.ErrorCode)
	})
}

func TestSOAPRecordsAreTheWebAPIs(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		const none = "00000000-0000-0000-0000-000000000000"
		attributes := attribute("lastname", "c:string", "A &amp; B") + attribute("age", "c:int", "42") +
			attribute("vip", "c:boolean", "true") + attribute("kind", "a:OptionSetValue", "<a:Value>3</a:Value>") +
			attribute("parentcustomerid", "a:EntityReference", "<a:Id>"+failovertest.SeedID(1)+"</a:Id>")
		_, _, status := soap(t, org, client, org.URL(), "", "Create", entity("contact", none, attributes))
		assert.Equal(t, 200, status)
		rows := org.Primary().Rows("contacts")
		require.Len(t, rows, 2, "one by each version of SOAP")
		id := rows[0]["contactid"].(string)
		m := must(t, org, client, "GET", org.URL()+api+"contacts("+id+")", "").json(t)
		assert.Equal(t, "A & B", m["lastname"])
		assert.EqualValues(t, 42, m["age"])
		assert.EqualValues(t, 3, m["kind"])
		assert.Equal(t, true, m["vip"])
		assert.Equal(t, failovertest.SeedID(1), m["_parentcustomerid_value"])

		soap(t, org, client, org.URL(), "", "Update", entity("contact", id, attribute("lastname", "c:string", "new")))
		v11, _, _ := soap(t, org, client, org.URL(), "", "Retrieve", "<entityName>contact</entityName><id>"+id+
			"</id><columnSet><a:AllColumns>false</a:AllColumns><a:Columns><b:string>lastname</b:string></a:Columns></columnSet>")
		assert.Contains(t, v11.Body.Inner, ">new<")
		assert.NotContains(t, v11.Body.Inner, ">age<")

		log := len(org.Primary().Deliveries())
		v11, v12, status := soap(t, org, client, org.URL(), "", "Delete", "<entityName>contact</entityName><id>"+id+"</id>")
		assert.NotContains(t, v11.Body.Inner, "Fault")
		assert.Equal(t, 500, status, "the second one finds nothing")
		assert.Equal(t, -2147220969, v12.Body.Fault.Org12.ErrorCode)
		deliveries := org.Primary().Deliveries()[log:]
		assert.True(t, deliveries[0].Applied)
		assert.False(t, deliveries[1].Applied)

		v11, _, _ = soap(t, org, client, org.URL(), "", "Create", entity("account", failovertest.SeedID(1), ""))
		assert.Equal(t, -2147220937, v11.Body.Fault.Org11.ErrorCode, "duplicate")
	})
}

func TestSOAPNamesAndTypes(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		const id = "99999999-0000-0000-0000-000000000000"
		attributes := attribute("n", "c:int", "42") + attribute("d", "c:decimal", "1.5") + attribute("w", "c:boolean", "false") +
			attribute("x", "c:int", "not a number") + `<a:KeyValuePairOfstringanyType><b:key>z</b:key><b:value i:nil="true"/></a:KeyValuePairOfstringanyType>`
		for name, set := range map[string]string{"opportunity": "opportunities", "address": "addresses", "mailbox": "mailboxes",
			"branch": "branches", "lead": "leads"} {
			soap(t, org, client, org.URL(), "", "Create", entity(name, id, attributes))
			record, ok := org.Primary().Lookup(set, id)
			require.True(t, ok, set)
			assert.Equal(t, id, record[name+"id"])
			v11, _, _ := soap(t, org, client, org.URL(), "", "Retrieve", "<entityName>"+name+"</entityName><id>"+id+
				"</id><columnSet><a:AllColumns>true</a:AllColumns></columnSet>")
			for _, want := range []string{`"c:int" xmlns:c="http://www.w3.org/2001/XMLSchema">42<`, `"c:double" xmlns:c="http://www.w3.org/2001/XMLSchema">1.5<`,
				`"c:boolean" xmlns:c="http://www.w3.org/2001/XMLSchema">false<`, `"c:string" xmlns:c="http://www.w3.org/2001/XMLSchema">not a number<`} {
				assert.Contains(t, v11.Body.Inner, want)
			}
			assert.NotContains(t, v11.Body.Inner, "<b:key>z<")
			assert.Contains(t, v11.Body.Inner, "<a:LogicalName>"+name+"<")
		}
		must(t, org, client, "POST", org.URL()+api+"leads", `{"leadid":"`+id[:35]+`1","nested":{"a":[1]}}`)
		v11, _, _ := soap(t, org, client, org.URL(), "", "Retrieve", "<entityName>lead</entityName><id>"+id[:35]+
			"1</id><columnSet><a:AllColumns>true</a:AllColumns></columnSet>")
		assert.Contains(t, v11.Body.Inner, `{&#34;a&#34;:[1]}`)
		_, _, status := soap(t, org, client, org.URL(), "", "Retrieve", "<entityName>lead</entityName><id>"+failovertest.SeedID(1)+"</id><columnSet/>")
		assert.Equal(t, 500, status)
		_, _, status = soap(t, org, client, org.URL(), "", "Create", entity("", "", ""))
		assert.Equal(t, 500, status)
	})
}

func TestSOAPRetrieveMultiple(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		query := func(criteria, page string) string {
			return `<query i:type="a:QueryExpression"><a:ColumnSet><a:AllColumns>true</a:AllColumns></a:ColumnSet>` +
				`<a:Criteria><a:Conditions>` + criteria + `</a:Conditions></a:Criteria><a:EntityName>account</a:EntityName>` +
				`<a:PageInfo>` + page + `</a:PageInfo></query>`
		}
		rows := []struct {
			criteria, page string
			want           int
			more           string
		}{
			{"", "", 25, "false"},
			{"", "<a:Count>10</a:Count><a:PageNumber>1</a:PageNumber>", 10, "true"},
			{"", "<a:Count>10</a:Count><a:PageNumber>3</a:PageNumber>", 5, "false"},
			{"<a:ConditionExpression><a:AttributeName>name</a:AttributeName><a:Operator>Equal</a:Operator>" +
				"<a:Values><b:anyType>Account 07</b:anyType></a:Values></a:ConditionExpression>", "", 1, "false"},
		}
		for _, row := range rows {
			v11, v12, status := soap(t, org, client, org.URL(), "", "RetrieveMultiple", query(row.criteria, row.page))
			assert.Equal(t, 200, status)
			for _, m := range []message{v11, v12} {
				assert.Equal(t, row.want, strings.Count(m.Body.Inner, "<a:Entity>"))
				assert.Contains(t, m.Body.Inner, "<a:MoreRecords>"+row.more)
			}
		}
		_, _, status := soap(t, org, client, org.URL(), "", "RetrieveMultiple", `<query i:type="a:FetchExpression"/>`)
		assert.Equal(t, 500, status)
	})
}

func TestSOAPFenceAndAddressFilter(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		v11, v12, status := soap(t, org, client, org.AlternateURL(), "", "Create", entity("contact", "", ""))
		assert.Equal(t, 500, status)
		assert.Equal(t, -2147176347, v11.Body.Fault.Org11.ErrorCode)
		assert.Equal(t, -2147176347, v12.Body.Fault.Org12.ErrorCode)
		assert.Equal(t, services+"/IOrganizationService/CreateOrganizationServiceFaultFault", v12.Action)
		assert.Empty(t, org.Alternate().Rows("contacts"))

		org.FailOver()
		_, v12, status = soap(t, org, client, org.AlternateURL(), org.URL()+soapURL, "Execute", execute("WhoAmI"))
		assert.Equal(t, 500, status)
		assert.Equal(t, "a:DestinationUnreachable", v12.Body.Fault.Code12)
		_, _, status = soap(t, org, client, org.AlternateURL(), "", "Execute", execute("WhoAmI"))
		assert.Equal(t, 200, status)
		v11, v12, status = soap(t, org, client, org.AlternateURL(), "", "Associate", "")
		assert.Equal(t, 500, status, "an operation the simulator does not know")
		assert.Equal(t, -2147220989, v11.Body.Fault.Org11.ErrorCode)
		assert.Equal(t, -2147220989, v12.Body.Fault.Org12.ErrorCode)
	})
}

func TestSOAPMessagesWCFRefuses(t *testing.T) {
	t.Parallel()
	const body = `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><Execute xmlns="` + services + `"/></s:Body></s:Envelope>`
	rows := []struct {
		name, reason string
		path, body   string
		headers      []string
		status       int
		want         string
	}{
		{"wrong version", "/web takes SOAP 1.1", soapURL + "/web", body, []string{"Content-Type: application/soap+xml"}, 415, ""},
		{"wrong envelope", "Organization.svc takes SOAP 1.2", soapURL, body, []string{"Content-Type: application/soap+xml"}, 400, ""},
		{"not XML", "there is nothing to dispatch", soapURL + "/web", "x", []string{"Content-Type: text/xml"}, 400, ""},
		{"wrong action", "the action chooses the operation", soapURL + "/web", body, []string{"Content-Type: text/xml", "SOAPAction: urn:oops"}, 500, "a:ActionNotSupported"},
		{"GET of web", "messages are posted", soapURL + "/web", "", nil, 405, ""},
	}
	seen := make(map[string]bool)
	for _, row := range rows {
		require.NotEmpty(t, row.reason, "reason of %q", row.name)
		require.False(t, seen[row.name], "%q occurs twice", row.name)
		seen[row.name] = true
		t.Run(row.name, func(t *testing.T) {
			inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
				method := "POST"
				if row.body == "" {
					method = "GET"
				}
				r := must(t, org, client, method, org.URL()+row.path, row.body, row.headers...)
				assert.Equal(t, row.status, r.StatusCode)
				assert.Contains(t, string(r.body), row.want)
			})
		})
	}
}

func TestSOAPThrottling(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		org.Primary().Fail(failovertest.Throttle(17 * time.Second))
		v11, v12, status := soap(t, org, client, org.URL(), "", "Execute", execute("WhoAmI"))
		assert.Equal(t, 500, status)
		assert.Equal(t, -2147015902, v11.Body.Fault.Org11.ErrorCode)
		assert.Equal(t, "PT17S", v11.Body.Fault.Org11.RetryAfter)
		assert.Equal(t, -2147015902, v12.Body.Fault.Org12.ErrorCode)
		assert.Equal(t, "PT17S", v12.Body.Fault.Org12.RetryAfter)
	})
}

func TestSOAPNeedsAToken(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		resp, err := client.Post(org.URL()+soapURL+"/web", "text/xml", strings.NewReader("<x/>"))
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, 401, resp.StatusCode)
	})
}

func TestWSDLTellsWhoServes(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		enabled := func(base string) string {
			var root struct {
				Import struct {
					Location string `xml:"location,attr"`
				} `xml:"http://schemas.xmlsoap.org/wsdl/ import"`
			}
			var policies struct {
				Policy struct {
					Available string `xml:"http://schemas.microsoft.com/xrm/2012/Contracts/Services FailoverAvailable"`
					Enabled   string `xml:"http://schemas.microsoft.com/xrm/2012/Contracts/Services EndpointEnabled"`
				} `xml:"Policy>ExactlyOne>All>FailoverPolicy"`
			}
			for url, v := range map[string]any{base + soapURL + "?wsdl": &root, base + soapURL + "?wsdl=wsdl0": &policies} {
				resp, err := client.Get(url)
				require.NoError(t, err, "no token needed")
				require.NoError(t, xml.NewDecoder(resp.Body).Decode(v))
				resp.Body.Close()
			}
			assert.Equal(t, base+soapURL+"?wsdl=wsdl0", root.Import.Location)
			assert.Equal(t, "true", policies.Policy.Available)
			return policies.Policy.Enabled
		}
		assert.Equal(t, "true", enabled(org.URL()))
		assert.Equal(t, "false", enabled(org.AlternateURL()))
		org.FailOver()
		assert.Equal(t, "false", enabled(org.URL()))
		assert.Equal(t, "true", enabled(org.AlternateURL()))
		r := must(t, org, client, "GET", org.URL()+soapURL+"?wsdl=wsdl7", "")
		assert.Equal(t, 404, r.StatusCode)
		r = must(t, org, client, "GET", org.URL()+soapURL, "")
		assert.Equal(t, 200, r.StatusCode)
	})
}
