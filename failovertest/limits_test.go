package failovertest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

func TestFailShareFailsAShareOfTheRequests(t *testing.T) {
	both(t, nil, func(t *testing.T, org *failovertest.Org) {
		client := org.Client()
		run := func(seed uint64) (failed []int) {
			org.Primary().Heal()
			org.Primary().FailShare(0.17, seed, failovertest.OutagePage())
			for n := range 300 {
				if must(t, org, client, "GET", org.URL()+api+"WhoAmI", "").StatusCode == 503 {
					failed = append(failed, n)
				}
			}
			return failed
		}
		first := run(1)
		assert.InDelta(t, 0.17*300, len(first), 25)
		assert.Equal(t, first, run(1), "equal seeds choose alike")
		assert.NotEqual(t, first, run(2))
		assert.Equal(t, 1, org.Primary().Connections(), "the answers of a front end cut nothing")

		org.Primary().Heal()
		org.Primary().FailShare(1, 1, failovertest.Status(502, nil, ""))
		org.Primary().FailShare(1, 1, failovertest.Status(504, nil, ""))
		org.Primary().Fail(failovertest.Status(500, nil, ""))
		org.Primary().FailWhen(func(r *http.Request) bool { return r.Method == "DELETE" }, failovertest.Status(418, nil, ""))
		assert.Equal(t, 502, must(t, org, client, "GET", org.URL()+api+"WhoAmI", "").StatusCode)
		assert.Equal(t, 418, must(t, org, client, "DELETE", org.URL()+api+"WhoAmI", "").StatusCode)
		for _, share := range []float64{-0.1, 1.1} {
			assert.Panics(t, func() { org.Primary().FailShare(share, 1, failovertest.Refuse()) })
		}
	})
}

func TestFailShareOfConnectionsLeavesTheOpenOnes(t *testing.T) {
	both(t, nil, func(t *testing.T, org *failovertest.Org) {
		keep, dial := org.Client(), org.Client()
		dial.Transport.(*http.Transport).DisableKeepAlives = true
		must(t, org, keep, "GET", org.URL()+api+"WhoAmI", "")
		org.Primary().FailShare(0.5, 7, failovertest.Refuse())
		refused := 0
		for range 100 {
			must(t, org, keep, "GET", org.URL()+api+"WhoAmI", "")
			if _, err := send(t, org, dial, "GET", org.URL()+api+"WhoAmI", ""); err != nil {
				refused++
			}
		}
		assert.InDelta(t, 50, refused, 20)
	})
}

func TestSetLatencyDelaysEveryRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		client := org.Client()
		took := func() time.Duration {
			start := time.Now()
			send(t, org, client, "POST", org.URL()+api+"contacts", "{}")
			return time.Since(start)
		}
		org.Primary().SetLatency(3 * time.Second)
		assert.Equal(t, 3*time.Second, took())
		org.Primary().Fail(failovertest.Delay(time.Second))
		assert.Equal(t, 4*time.Second, took())
		org.Primary().Fail(failovertest.Reset(failovertest.BeforeAnswer))
		assert.Equal(t, 3*time.Second, took())
		client.Timeout = time.Second
		assert.Equal(t, time.Second, took(), "the caller gives up")
		assert.Len(t, org.Primary().Rows("contacts"), 2, "and the request has not arrived")
		org.Primary().Heal()
		assert.Zero(t, took())
	})
}

func TestMaxConcurrentRefusesWhatIsTooMuch(t *testing.T) {
	both(t, &failovertest.Config{MaxConcurrent: 2, OneAddress: true}, func(t *testing.T, org *failovertest.Org) {
		arrived := make(chan struct{}, 3)
		org.Primary().FailWhen(func(r *http.Request) bool {
			match := strings.HasSuffix(r.URL.Path, "/contacts")
			if match {
				arrived <- struct{}{}
			}
			return match
		}, failovertest.Delay(time.Hour))
		client := org.Client()
		ended := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := send(t, org, client, "POST", org.URL()+api+"contacts", "{}")
				ended <- err
			}()
			<-arrived
		}
		r := must(t, org, client, "POST", org.URL()+api+"contacts", "{}")
		assert.Equal(t, 429, r.StatusCode, "also instead of a delay")
		assert.Eventually(t, func() bool { return len(org.Primary().Rows("contacts")) == 2 }, time.Minute, time.Millisecond)
		r = must(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
		assert.Equal(t, 429, r.StatusCode)
		assert.Equal(t, "0x80072326", r.code(t))
		assert.Equal(t, "1", r.Header.Get("Retry-After"))
		v11, _, _ := soap(t, org, client, org.URL(), "", "Execute", `<request><a:RequestName>WhoAmI</a:RequestName></request>`)
		assert.Equal(t, -2147015898, v11.Body.Fault.Org11.ErrorCode)
		failures := map[string]int{}
		for _, d := range org.Primary().Deliveries() {
			failures[d.Failure.String()]++
		}
		assert.Equal(t, map[string]int{"delay 1h0m0s": 2, "too many at a time": 4}, failures)

		org.Drill(&failovertest.Recovery{Old: failovertest.Refuse()}) // ends the two
		require.Error(t, <-ended)
		require.Error(t, <-ended)
		assert.Equal(t, 200, must(t, org, client, "GET", org.URL()+api+"WhoAmI", "").StatusCode, "every datacenter has its own limit")
	})
}

func TestAcceptAudiencesTellsEndpointsApart(t *testing.T) {
	both(t, nil, func(t *testing.T, org *failovertest.Org) {
		client := org.Client()
		org.FailOver()
		org.Primary().Serve()
		ask := func(base, audience string) int {
			return must(t, org, client, "GET", base+api+"WhoAmI", "", "Authorization: Bearer "+org.Token(audience)).StatusCode
		}
		primary, alternate := org.Primary().Host(), org.Alternate().Host()
		rows := []struct {
			name   string
			accept func()
			want   [4]int // at the primary with either token, then at the alternate
		}{
			{"any", func() {}, [4]int{200, 200, 200, 200}},
			{"its own", func() {
				org.Primary().AcceptAudiences(primary)
				org.Alternate().AcceptAudiences(alternate)
			}, [4]int{200, 401, 401, 200}},
			{"the primary's everywhere", func() { org.Alternate().AcceptAudiences(primary) }, [4]int{200, 401, 200, 401}},
			{"any again", func() {
				org.Primary().AcceptAudiences()
				org.Alternate().AcceptAudiences(primary, alternate)
			}, [4]int{200, 200, 200, 200}},
		}
		for _, row := range rows {
			row.accept()
			assert.Equal(t, row.want, [4]int{ask(org.URL(), primary), ask(org.URL(), alternate),
				ask(org.AlternateURL(), primary), ask(org.AlternateURL(), alternate)}, row.name)
		}
	})
}

func TestRequestsCountsWhatABlackHoleSwallows(t *testing.T) {
	t.Parallel()
	everywhere(t, nil, func(t *testing.T, org *failovertest.Org, old, fresh *http.Client) {
		must(t, org, old, "GET", org.URL()+api+"WhoAmI", "")
		org.Primary().Fail(failovertest.BlackHole())
		old.Timeout = time.Second
		_, err := send(t, org, old, "POST", org.URL()+api+"contacts", "{}")
		require.Error(t, err)
		arrived(t, org.Primary(), 2)
		d := org.Primary().Deliveries()
		assert.Len(t, d, 1)
		assert.Empty(t, org.Primary().Rows("contacts"))
		if d[0].Proto == "HTTP/1.1" { // the caller closes the connection when it gives up
			assert.Eventually(t, func() bool { return org.Primary().OpenConnections() == 0 }, time.Minute, time.Millisecond)
		}
	})
}

func TestOpenConnections(t *testing.T) {
	t.Parallel()
	everywhere(t, nil, func(t *testing.T, org *failovertest.Org, old, _ *http.Client) {
		assert.Zero(t, org.Primary().OpenConnections())
		must(t, org, old, "GET", org.URL()+api+"WhoAmI", "")
		assert.Equal(t, 1, org.Primary().OpenConnections())
		org.Primary().Fail(failovertest.Refuse())
		assert.Zero(t, org.Primary().OpenConnections())
		assert.Equal(t, 1, org.Primary().Connections())
	})
}

func TestOneAddress(t *testing.T) {
	both(t, &failovertest.Config{OneAddress: true}, func(t *testing.T, org *failovertest.Org) {
		assert.Nil(t, org.Alternate())
		assert.Empty(t, org.AlternateURL())
		client := org.Client()
		_, err := client.Get("https://contoso--s.api.crm.dynamics.com")
		assert.ErrorContains(t, err, "no such host")
		must(t, org, client, "GET", "https://contoso.crm.dynamics.com"+api+"WhoAmI", "")
		for name, move := range map[string]func(){
			"FailOver": org.FailOver, "FailBack": org.FailBack, "FailBackWithLoss": org.FailBackWithLoss,
			"Disaster": func() { org.Disaster(failovertest.Refuse()) },
		} {
			assert.PanicsWithValue(t, "failovertest: an organization with one address has no alternate datacenter", move, name)
		}
		assert.Panics(t, func() {
			failovertest.StartInMemory(&failovertest.Config{OneAddress: true, AlternateHost: "contoso-dr.crm.dynamics.com"})
		})
		assert.Equal(t, 200, must(t, org, client, "GET", org.URL()+api+"WhoAmI", "").StatusCode, "it is where it was")
	})
}

const customers = "/data/CustomersV3"

func TestFinanceAndOperations(t *testing.T) {
	both(t, &failovertest.Config{Host: "contoso.operations.dynamics.com", Accounts: 3, PageSize: 2}, func(t *testing.T, org *failovertest.Org) {
		assert.Nil(t, org.Alternate(), "there is no rule for another address")
		client := org.Client()
		r := must(t, org, client, "GET", org.URL()+customers+"?$select=CustomerAccount&$count=true", "")
		assert.Len(t, r.json(t)["value"], 2)
		assert.EqualValues(t, 3, r.json(t)["@odata.count"])
		r = must(t, org, client, "GET", r.json(t)["@odata.nextLink"].(string), "")
		assert.Equal(t, map[string]any{"CustomerAccount": "US-003", "@odata.etag": `W/"3"`}, r.json(t)["value"].([]any)[0])
		r = must(t, org, client, "GET", org.URL()+customers+"?$filter=CustomerAccount%20eq%20'US-002'", "")
		assert.Len(t, r.json(t)["value"], 1)
		r = must(t, org, client, "GET", org.URL()+customers+"/$count", "")
		assert.Equal(t, "3", string(r.body))

		r = must(t, org, client, "POST", org.URL()+customers, `{"dataAreaId":"usmf","CustomerAccount":"O'Hara"}`)
		assert.Equal(t, 201, r.StatusCode)
		one := r.Header.Get("Location")
		assert.Equal(t, org.URL()+customers+"(dataAreaId='usmf',CustomerAccount='O''Hara')", one)
		assert.Equal(t, "O'Hara", r.json(t)["CustomerAccount"])
		r = must(t, org, client, "POST", org.URL()+customers, `{"dataAreaId":"usmf","CustomerAccount":"o'hara"}`)
		assert.Equal(t, 400, r.StatusCode)
		inner := r.json(t)["error"].(map[string]any)["innererror"].(map[string]any)
		assert.Contains(t, inner["type"], "AxODataWriteException")
		assert.Contains(t, inner["message"], "already exists")
		assert.Equal(t, 400, must(t, org, client, "POST", org.URL()+customers, `{"dataAreaId":"usmf"}`).StatusCode)

		other := org.URL() + customers + "(CustomerAccount='O''Hara',dataAreaId='usmf')"
		assert.Equal(t, 204, must(t, org, client, "PATCH", other, `{"OrganizationName":"Contoso"}`).StatusCode)
		assert.Equal(t, 412, must(t, org, client, "PATCH", other, `{}`, `If-Match: W/"1"`).StatusCode)
		assert.Equal(t, 400, must(t, org, client, "PATCH", other, `{"CustomerAccount":"x"}`).StatusCode)
		r = must(t, org, client, "GET", one, "")
		assert.Equal(t, "Contoso", r.json(t)["OrganizationName"])
		assert.Equal(t, 400, must(t, org, client, "GET", org.URL()+customers+"(dataAreaId='usmf')", "").StatusCode)

		record, ok := org.Primary().Lookup("CustomersV3", "dataAreaId='usmf',CustomerAccount='O''Hara'")
		assert.True(t, ok)
		assert.Equal(t, "Contoso", record["OrganizationName"])
		assert.Equal(t, 204, must(t, org, client, "DELETE", one, "").StatusCode)
		assert.Equal(t, 404, must(t, org, client, "GET", one, "").StatusCode)
		assert.Equal(t, 404, must(t, org, client, "PATCH", one, `{}`).StatusCode, "no upserts")

		r = must(t, org, client, "POST", org.URL()+"/data/ContosoThings", `{"Name":"x"}`)
		assert.Equal(t, "x", must(t, org, client, "GET", r.Header.Get("Location"), "").json(t)["Name"], "an entity that the simulator does not know")

		org.Drill(&failovertest.Recovery{Old: failovertest.Refuse()})
		assert.Len(t, org.Secondary().Rows("CustomersV3"), 3)
		r = must(t, org, client, "GET", org.URL()+customers+fmt.Sprintf("(dataAreaId='usmf',CustomerAccount='US-%03d')", 1), "")
		assert.Equal(t, 200, r.StatusCode)
	})
}
