package failovertest_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

// inMemory runs a test in a bubble.
func inMemory(t *testing.T, cfg *failovertest.Config, test func(t *testing.T, org *failovertest.Org, client *http.Client)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(cfg)
		defer org.Close()
		test(t, org, org.Client())
	})
}

func TestWritesAndConditions(t *testing.T) {
	t.Parallel()
	const id, missing = "66666666-0000-0000-0000-000000000000", "77777777-0000-0000-0000-000000000000"
	const theirs = `W/"0"`
	rows := []struct {
		name, reason   string
		method, target string
		body           string
		headers        []string
		status         int
		code           string
		there          string // the name of the record afterwards, "" if there is none
	}{
		{"create", "a client may choose the id", "POST", "contacts", `{"contactid":"` + missing + `","name":"new"}`, nil, 204, "", "new"},
		{"create a duplicate", "ids are unique", "POST", "contacts", `{"contactid":"` + id + `","name":"new"}`, nil, 412, "0x80040237", "old"},
		{"create with a bad id", "ids are GUIDs", "POST", "contacts", `{"contactid":"7"}`, nil, 400, "0x80048d19", ""},
		{"create from garbage", "bodies are JSON objects", "POST", "contacts", `[1]`, nil, 400, "0x80048d19", ""},
		{"create from two objects", "bodies are one JSON object", "POST", "contacts", `{}{}`, nil, 400, "0x80048d19", ""},
		{"update", "PATCH changes what it names", "PATCH", "contacts(" + id + ")", `{"name":"new"}`, nil, 204, "", "new"},
		{"upsert", "PATCH without a condition creates", "PATCH", "contacts(" + missing + ")", `{"name":"new"}`, nil, 204, "", "new"},
		{"update only", "If-Match: * must not create", "PATCH", "contacts(" + missing + ")", `{"name":"new"}`, []string{"If-Match: *"}, 404, "0x80040217", ""},
		{"create only", "If-None-Match: * must not update", "PATCH", "contacts(" + id + ")", `{"name":"new"}`, []string{"If-None-Match: *"}, 412, "0x80040237", "old"},
		{"create only, missing", "If-None-Match: * creates", "PATCH", "contacts(" + missing + ")", `{"name":"new"}`, []string{"If-None-Match: *"}, 204, "", "new"},
		{"update of another version", "optimistic concurrency", "PATCH", "contacts(" + id + ")", `{"name":"new"}`, []string{"If-Match: " + theirs}, 412, "0x80060882", "old"},
		{"delete of another version", "optimistic concurrency", "DELETE", "contacts(" + id + ")", "", []string{"If-Match: " + theirs}, 412, "0x80060882", "old"},
		{"delete", "without a condition any version goes", "DELETE", "contacts(" + id + ")", "", nil, 204, "", ""},
		{"delete what is not there", "a repeated DELETE finds nothing", "DELETE", "contacts(" + missing + ")", "", nil, 404, "0x80040217", ""},
		{"put a property", "one attribute has an address", "PUT", "contacts(" + id + ")/name", `{"value":"new"}`, nil, 204, "", "new"},
		{"unknown segment", "entity sets are lower case", "POST", "Contact", `{}`, nil, 404, "0x8006088a", ""},
		{"wrong method", "a list cannot be deleted", "DELETE", "contacts", "", nil, 405, "0x80060888", ""},
		{"bad key", "records are known by id", "GET", "contacts(7)", "", nil, 400, "0x80060888", ""},
	}
	seen := make(map[string]bool)
	for _, row := range rows {
		require.NotEmpty(t, row.reason, "reason of %q", row.name)
		require.False(t, seen[row.name], "%q occurs twice", row.name)
		seen[row.name] = true
		t.Run(row.name, func(t *testing.T) {
			inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
				must(t, org, client, "POST", org.URL()+api+"contacts", `{"contactid":"`+id+`","name":"old"}`)
				r := must(t, org, client, row.method, org.URL()+api+row.target, row.body, row.headers...)
				assert.Equal(t, row.status, r.StatusCode, "%s", r.body)
				if row.code != "" {
					assert.Equal(t, row.code, r.code(t))
				}
				target := id
				if strings.Contains(row.target+row.body, missing) {
					target = missing
				}
				record, ok := org.Primary().Lookup("contacts", target)
				if row.there == "" && row.status < 400 || row.status == 404 && target == missing {
					assert.False(t, ok)
				} else if row.there != "" {
					assert.Equal(t, row.there, record["name"])
				}
				log := org.Primary().Deliveries()
				assert.Equal(t, row.status < 400, log[len(log)-1].Applied)
				assert.NotEmpty(t, r.Header.Get("x-ms-service-request-id"))
			})
		})
	}
}

func TestAddressesNameTheHostAddressed(t *testing.T) {
	inMemory(t, &failovertest.Config{PageSize: 2}, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		for _, host := range []string{"contoso.api.crm.dynamics.com", "contoso.crm.dynamics.com"} {
			r := must(t, org, client, "POST", "https://"+host+api+"contacts", "{}")
			assert.Contains(t, r.Header.Get("OData-EntityId"), "https://"+host+api+"contacts(")
			r = must(t, org, client, "GET", "https://"+host+api+"accounts", "")
			assert.Contains(t, r.json(t)["@odata.nextLink"], "https://"+host+api+"accounts?$skiptoken=")
		}
		org.FailOver()
		for _, host := range []string{"contoso--s.api.crm.dynamics.com", "contoso--s.crm.dynamics.com"} {
			r := must(t, org, client, "POST", "https://"+host+api+"contacts", "{}", "Prefer: return=representation")
			assert.Equal(t, 201, r.StatusCode)
			assert.Contains(t, r.Header.Get("OData-EntityId"), "https://"+host+api+"contacts(")
			assert.Contains(t, r.json(t)["@odata.context"], "https://"+host+api+"$metadata")
			assert.Equal(t, r.json(t)["@odata.etag"], r.Header.Get("ETag"))
		}
	})
}

func TestOnlyTheOrganizationIsThere(t *testing.T) {
	both(t, nil, func(t *testing.T, org *failovertest.Org) {
		client := org.Client()
		for _, url := range []string{"https://fabrikam.api.crm.dynamics.com", "http://contoso.api.crm.dynamics.com", org.URL() + ":8443"} {
			_, err := client.Get(url + api + "WhoAmI")
			assert.Error(t, err, url)
		}
		req, _ := http.NewRequest("GET", org.URL()+api+"WhoAmI", nil)
		require.NoError(t, org.Authorize(req))
		req.Host = org.Alternate().Host()
		resp, err := client.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, 400, resp.StatusCode, "a Host header the datacenter does not have")
		r := must(t, org, client, "GET", org.URL()+"/elsewhere", "")
		assert.Equal(t, 404, r.StatusCode)
	})
}

func TestTokens(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name, reason string
		auth         func(org *failovertest.Org) string
		status       int
	}{
		{"none", "the challenge tells what is wanted", func(*failovertest.Org) string { return "" }, 401},
		{"primary", "the host's own audience", func(o *failovertest.Org) string { return "Bearer " + o.Token(o.Primary().Host()) }, 200},
		{"alternate", "both hosts are one organization", func(o *failovertest.Org) string { return "Bearer " + o.Token(o.Alternate().Host()) }, 200},
		{"without api", "both variants are one organization", func(o *failovertest.Org) string { return "Bearer " + o.Token("contoso.crm.dynamics.com") }, 200},
		{"another audience", "tokens are good for their audience only", func(o *failovertest.Org) string { return "Bearer " + o.Token("fabrikam.crm.dynamics.com") }, 401},
		{"garbage", "tokens are signed", func(*failovertest.Org) string { return "Bearer aaaa.bbbb" }, 401},
		{"basic", "tokens are bearer tokens", func(o *failovertest.Org) string { return "Basic " + o.Token(o.Primary().Host()) }, 401},
		{"another organization", "each organization signs its own", func(*failovertest.Org) string {
			other := failovertest.StartInMemory(nil)
			defer other.Close()
			return "Bearer " + other.Token(other.Primary().Host())
		}, 401},
	}
	seen := make(map[string]bool)
	for _, row := range rows {
		assert.NotEmpty(t, row.reason)
		require.False(t, seen[row.name], "%q occurs twice", row.name)
		seen[row.name] = true
		t.Run(row.name, func(t *testing.T) {
			inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
				req, _ := http.NewRequestWithContext(t.Context(), "GET", org.URL()+api+"WhoAmI", nil)
				req.Header.Set("Authorization", row.auth(org))
				resp, err := client.Do(req)
				require.NoError(t, err)
				resp.Body.Close()
				assert.Equal(t, row.status, resp.StatusCode)
				challenge := resp.Header.Get("WWW-Authenticate")
				if row.status == 401 {
					assert.Regexp(t, `^Bearer authorization_uri=https://login\.microsoftonline\.com/[0-9a-f-]{36}/oauth2/authorize, resource_id=https://contoso\.crm\.dynamics\.com/$`, challenge)
				} else {
					assert.Empty(t, challenge)
				}
			})
		})
	}
}

func TestTokensAreForTheOrganizationOnly(t *testing.T) {
	inMemory(t, &failovertest.Config{Anonymous: true}, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		req, _ := http.NewRequest("GET", "https://fabrikam.crm.dynamics.com", nil)
		assert.Error(t, org.Authorize(req))
		assert.Empty(t, req.Header)
		resp, err := client.Get(org.URL() + api + "WhoAmI")
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, 200, resp.StatusCode, "anonymous")
	})
}

func TestFenceComesAfterAuthentication(t *testing.T) {
	inMemory(t, &failovertest.Config{FenceStatus: 403}, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		resp, err := client.Get(org.AlternateURL() + api + "WhoAmI")
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, 401, resp.StatusCode)
		r := must(t, org, client, "POST", org.AlternateURL()+api+"contacts", "{}")
		assert.Equal(t, 403, r.StatusCode)
		assert.Equal(t, "0x8004b065", r.code(t))
		assert.Empty(t, org.Alternate().Rows("contacts"))

		org.Alternate().Serve()
		r = must(t, org, client, "POST", org.AlternateURL()+api+"contacts", "{}")
		assert.Equal(t, 204, r.StatusCode)
		assert.Len(t, org.Alternate().Rows("contacts"), 1)
		assert.Empty(t, org.Primary().Rows("contacts"), "split brain is not replicated")
		org.Primary().Fence()
		r = must(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
		assert.Equal(t, "0x8004b065", r.code(t))
	})
}

func TestExplicitAlternateHost(t *testing.T) {
	cfg := &failovertest.Config{Host: "contoso.operations.dynamics.com", AlternateHost: "contoso-dr.operations.dynamics.com"}
	both(t, cfg, func(t *testing.T, org *failovertest.Org) {
		assert.Equal(t, "https://contoso-dr.operations.dynamics.com", org.AlternateURL())
		org.FailOver()
		r := must(t, org, org.Client(), "GET", org.AlternateURL()+api+"WhoAmI", "")
		assert.Equal(t, 200, r.StatusCode)
		r = must(t, org, org.Client(), "GET", org.AlternateURL()+"/data", "")
		assert.Equal(t, 200, r.StatusCode)
		r = must(t, org, org.Client(), "GET", org.URL()+"/data", "")
		assert.Equal(t, "0x8004b065", r.code(t))
		_, err := org.Client().Get("https://contoso.api.operations.dynamics.com")
		assert.Error(t, err, "no variants of explicit pairs")
	})
}

func TestPaging(t *testing.T) {
	inMemory(t, &failovertest.Config{Accounts: 25, PageSize: 10}, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		rows := []struct {
			query, prefer string
			pages         []int
		}{
			{"", "", []int{10, 10, 5}},
			{"", "odata.maxpagesize=20", []int{20, 5}},
			{"?$select=name&$count=true", "", []int{10, 10, 5}},
			{"?$top=12", "", []int{10, 2}},
			{"?$filter=" + url.QueryEscape("name eq 'Account 07'"), "", []int{1}},
			{"?$filter=" + url.QueryEscape("name eq 'nobody''s'"), "", []int{0}},
			{"?$filter=" + url.QueryEscape("telephone1 eq null"), "", []int{10, 10, 5}},
		}
		for _, row := range rows {
			var pages []int
			names := make(map[string]bool)
			for next := org.URL() + api + "accounts" + row.query; next != ""; {
				m := must(t, org, client, "GET", next, "", "Prefer: "+row.prefer).json(t)
				value, _ := m["value"].([]any)
				pages = append(pages, len(value))
				for _, v := range value {
					names[fmt.Sprint(v.(map[string]any)["name"])] = true
				}
				if strings.Contains(row.query, "$count") {
					assert.EqualValues(t, 25, m["@odata.count"])
				}
				next, _ = m["@odata.nextLink"].(string)
			}
			assert.Equal(t, row.pages, pages, row.query)
			total := 0
			for _, n := range row.pages {
				total += n
			}
			assert.Len(t, names, total, "%s: every record once", row.query)
		}
		r := must(t, org, client, "GET", org.URL()+api+"accounts/$count", "")
		assert.Equal(t, "25", string(r.body))
		for _, bad := range []string{"?$top=x", "?$skiptoken=x", "?$filter=x"} {
			r := must(t, org, client, "GET", org.URL()+api+"accounts"+bad, "")
			assert.Equal(t, 400, r.StatusCode, bad)
		}
	})
}

func TestPagesSurviveAFailover(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		m := must(t, org, client, "GET", org.URL()+api+"accounts", "").json(t)
		org.FailOver()
		next := strings.Replace(m["@odata.nextLink"].(string), org.URL(), org.AlternateURL(), 1)
		m = must(t, org, client, "GET", next, "").json(t)
		value := m["value"].([]any)
		assert.Equal(t, "Account 11", value[0].(map[string]any)["name"])
		assert.Contains(t, m["@odata.nextLink"], org.AlternateURL())
	})
}

func TestETags(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		one := org.URL() + api + "accounts(" + failovertest.SeedID(1) + ")"
		r := must(t, org, client, "GET", one+"?$select=name", "")
		tag := r.Header.Get("ETag")
		assert.Regexp(t, `^W/"\d+"$`, tag)
		assert.Equal(t, map[string]any{"@odata.context": org.URL() + api + "$metadata#accounts/$entity",
			"@odata.etag": tag, "accountid": failovertest.SeedID(1), "name": "Account 01"}, r.json(t))
		r = must(t, org, client, "GET", one, "", "If-None-Match: "+tag)
		assert.Equal(t, 304, r.StatusCode)
		assert.Empty(t, r.body)
		r = must(t, org, client, "PATCH", one, `{"name":"x"}`, "If-Match: "+tag, "Prefer: return=representation")
		assert.Equal(t, 200, r.StatusCode)
		assert.NotEqual(t, tag, r.Header.Get("ETag"))
		assert.Equal(t, "x", r.json(t)["name"])
		r = must(t, org, client, "PATCH", one, `{"name":"y"}`, "If-Match: "+tag)
		assert.Equal(t, 412, r.StatusCode)
		r = must(t, org, client, "GET", one, "", "If-None-Match: "+tag)
		assert.Equal(t, 200, r.StatusCode)
		r = must(t, org, client, "GET", one+"/name", "")
		assert.Equal(t, "x", r.json(t)["value"])
		must(t, org, client, "DELETE", one+"/name", "")
		r = must(t, org, client, "GET", one+"/name", "")
		assert.Equal(t, 204, r.StatusCode)
	})
}

func TestDeltaLinks(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		changes := func(link string) (names, deleted []string, next string) {
			for link != "" {
				m := must(t, org, client, "GET", link, "", "Prefer: odata.track-changes").json(t)
				for _, v := range m["value"].([]any) {
					record := v.(map[string]any)
					if record["reason"] == "deleted" {
						deleted = append(deleted, record["id"].(string))
					} else {
						names = append(names, record["name"].(string))
					}
				}
				link, _ = m["@odata.nextLink"].(string)
				if link == "" {
					next = m["@odata.deltaLink"].(string)
				}
			}
			return
		}
		names, deleted, delta := changes(org.URL() + api + "accounts?$select=name")
		assert.Len(t, names, 25)
		assert.Empty(t, deleted)
		assert.Contains(t, delta, org.URL()+api+"accounts?$deltatoken=")

		names, deleted, delta = changes(delta)
		assert.Empty(t, names)
		assert.Empty(t, deleted)

		must(t, org, client, "PATCH", org.URL()+api+"accounts("+failovertest.SeedID(3)+")", `{"name":"changed"}`)
		must(t, org, client, "DELETE", org.URL()+api+"accounts("+failovertest.SeedID(4)+")", "")
		org.FailOver()
		names, deleted, delta = changes(strings.Replace(delta, org.URL(), org.AlternateURL(), 1))
		assert.Equal(t, []string{"changed"}, names)
		assert.Equal(t, []string{failovertest.SeedID(4)}, deleted)
		assert.Contains(t, delta, org.AlternateURL())

		r := must(t, org, client, "GET", org.AlternateURL()+api+"accounts?$deltatoken=999", "")
		assert.Equal(t, 400, r.StatusCode, "a token of changes this datacenter never saw")
		assert.Equal(t, "0x80044352", r.code(t))
	})
}

func TestAddressesInBodiesMustNameTheHostAddressed(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		account := "accounts(" + failovertest.SeedID(1) + ")"
		rows := []struct {
			target string
			status int
		}{
			{"/" + account, 204},
			{account, 204},
			{org.URL() + api + account, 204},
			{strings.Replace(org.URL(), "contoso", "CONTOSO", 1) + api + account, 204},
			{org.AlternateURL() + api + account, 400},
			{"https://fabrikam.crm.dynamics.com" + api + account, 400},
			{strings.Replace(org.URL(), "https", "http", 1) + api + account, 400},
			{"/accounts(" + "99999999-0000-0000-0000-000000000000" + ")", 404},
			{"accounts", 400},
			{"", 400},
		}
		for _, row := range rows {
			r := must(t, org, client, "POST", org.URL()+api+"contacts",
				fmt.Sprintf(`{"parentcustomerid_account@odata.bind":%q}`, row.target), "Prefer: return=minimal")
			assert.Equal(t, row.status, r.StatusCode, "bind %s: %s", row.target, r.body)
			r = must(t, org, client, "PUT", org.URL()+api+"accounts("+failovertest.SeedID(2)+")/parentaccountid/$ref",
				fmt.Sprintf(`{"@odata.id":%q}`, row.target))
			assert.Equal(t, row.status, r.StatusCode, "ref %s: %s", row.target, r.body)
		}
		contacts := org.Primary().Rows("contacts")
		require.Len(t, contacts, 4)
		assert.Equal(t, failovertest.SeedID(1), contacts[3]["_parentcustomerid_account_value"])
	})
}

func TestReferences(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		const nav = "/contact_customer_accounts"
		one := org.URL() + api + "accounts(" + failovertest.SeedID(1) + ")" + nav
		target := func(n int) string { return org.URL() + api + "accounts(" + failovertest.SeedID(n) + ")" }
		list := func() []any { return must(t, org, client, "GET", one+"/$ref", "").json(t)["value"].([]any) }
		for n := 2; n <= 4; n++ {
			r := must(t, org, client, "POST", one+"/$ref", `{"@odata.id":"`+target(n)+`"}`)
			assert.Equal(t, 204, r.StatusCode)
		}
		r := must(t, org, client, "POST", one+"/$ref", `{"@odata.id":"`+target(2)+`"}`)
		assert.Equal(t, 412, r.StatusCode, "associated already")
		assert.Len(t, list(), 3)
		r = must(t, org, client, "DELETE", one+"("+failovertest.SeedID(2)+")/$ref", "")
		assert.Equal(t, 204, r.StatusCode)
		r = must(t, org, client, "DELETE", one+"/$ref?$id="+url.QueryEscape(target(3)), "")
		assert.Equal(t, 204, r.StatusCode)
		assert.Equal(t, []any{map[string]any{"@odata.id": target(4)}}, list())
		r = must(t, org, client, "DELETE", one+"("+failovertest.SeedID(2)+")/$ref", "")
		assert.Equal(t, 404, r.StatusCode)
		r = must(t, org, client, "DELETE", one+"/$ref?$id="+url.QueryEscape(strings.Replace(target(4), org.URL(), org.AlternateURL(), 1)), "")
		assert.Equal(t, 400, r.StatusCode, "another host")
		must(t, org, client, "DELETE", one+"/$ref", "")
		assert.Empty(t, list())
	})
}

func TestFunctions(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, org *failovertest.Org, client *http.Client) {
		for _, name := range []string{"WhoAmI", "WhoAmI()"} {
			m := must(t, org, client, "GET", org.URL()+api+name, "").json(t)
			assert.Len(t, m["UserId"], 36)
			assert.Len(t, m["BusinessUnitId"], 36)
			assert.Len(t, m["OrganizationId"], 36)
		}
		m := must(t, org, client, "GET", org.URL()+"/api/data/v9.0/RetrieveVersion()", "").json(t)
		assert.Regexp(t, `^9\.2\.`, m["Version"])
		r := must(t, org, client, "POST", org.URL()+api+"WhoAmI", "{}")
		assert.Equal(t, 405, r.StatusCode)
	})
}
