package failovertest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

// both runs a test over real sockets and in memory.
func both(t *testing.T, cfg *failovertest.Config, test func(t *testing.T, org *failovertest.Org)) {
	t.Parallel()
	t.Run("sockets", func(t *testing.T) {
		t.Parallel()
		org := failovertest.Start(cfg)
		defer org.Close()
		test(t, org)
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			org := failovertest.StartInMemory(cfg)
			defer org.Close()
			test(t, org)
		})
	})
}

// reply is an answer read to its end.
type reply struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

func (r reply) json(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	require.NoError(t, json.Unmarshal(r.body, &m), "%s", r.body)
	return m
}

func (r reply) code(t *testing.T) string {
	t.Helper()
	e, _ := r.json(t)["error"].(map[string]any)
	code, _ := e["code"].(string)
	return code
}

// send sends a request with a token for its host; headers are "Name: value".
func send(t *testing.T, org *failovertest.Org, client *http.Client, method, url, body string, headers ...string) (reply, error) {
	t.Helper()
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, rd)
	require.NoError(t, err)
	require.NoError(t, org.Authorize(req))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	r := reply{Response: resp}
	r.body, r.err = io.ReadAll(resp.Body)
	return r, nil
}

// must is send for requests that get an answer.
func must(t *testing.T, org *failovertest.Org, client *http.Client, method, url, body string, headers ...string) reply {
	t.Helper()
	r, err := send(t, org, client, method, url, body, headers...)
	require.NoError(t, err)
	require.NoError(t, r.err)
	return r
}

const api = "/api/data/v9.2/"

func TestFailoverLosesTheNewestWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(&failovertest.Config{Lag: 5 * time.Second, Accounts: -1})
		defer org.Close()
		client := org.Client()
		const old, lost = "11111111-0000-0000-0000-000000000000", "22222222-0000-0000-0000-000000000000"

		must(t, org, client, "POST", org.URL()+api+"accounts", `{"name":"old","accountid":"`+old+`"}`)
		_, ok := org.Alternate().Lookup("accounts", old)
		assert.False(t, ok, "not replicated yet")
		time.Sleep(5 * time.Second)
		_, ok = org.Alternate().Lookup("accounts", old)
		assert.True(t, ok, "replicated after the lag")

		must(t, org, client, "POST", org.URL()+api+"accounts", `{"name":"lost","accountid":"`+lost+`"}`)
		time.Sleep(4 * time.Second)
		org.FailOver()
		time.Sleep(time.Minute)
		r := must(t, org, client, "GET", org.AlternateURL()+api+"accounts("+old+")", "")
		assert.Equal(t, 200, r.StatusCode)
		r = must(t, org, client, "GET", org.AlternateURL()+api+"accounts("+lost+")", "")
		assert.Equal(t, 404, r.StatusCode)
		_, ok = org.Primary().Lookup("accounts", lost)
		assert.True(t, ok, "the primary keeps it until the fail-back")

		r = must(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
		assert.Equal(t, 503, r.StatusCode)
		assert.Equal(t, "0x8004b065", r.code(t))

		const back = "33333333-0000-0000-0000-000000000000"
		must(t, org, client, "POST", org.AlternateURL()+api+"accounts", `{"name":"back","accountid":"`+back+`"}`)
		time.Sleep(time.Hour)
		_, ok = org.Primary().Lookup("accounts", back)
		assert.False(t, ok, "the primary takes nothing before the fail-back")
		org.FailBack()
		r = must(t, org, client, "GET", org.URL()+api+"accounts("+back+")", "")
		assert.Equal(t, 200, r.StatusCode, "a fail-back replicates fully")
		_, ok = org.Primary().Lookup("accounts", lost)
		assert.False(t, ok, "what the failover lost stays lost")
		r = must(t, org, client, "GET", org.AlternateURL()+api+"WhoAmI", "")
		assert.Equal(t, "0x8004b065", r.code(t))
	})
}

func TestFailBackWithLossLosesTheNewestWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(&failovertest.Config{Lag: 5 * time.Second})
		defer org.Close()
		client := org.Client()
		org.FailOver()
		one := org.AlternateURL() + api + "accounts(" + failovertest.SeedID(1) + ")"
		must(t, org, client, "PATCH", one, `{"name":"kept"}`)
		time.Sleep(5 * time.Second)
		must(t, org, client, "PATCH", one, `{"name":"lost"}`)
		must(t, org, client, "DELETE", org.AlternateURL()+api+"accounts("+failovertest.SeedID(2)+")", "")
		org.FailBackWithLoss()
		record, _ := org.Primary().Lookup("accounts", failovertest.SeedID(1))
		assert.Equal(t, "kept", record["name"])
		_, ok := org.Primary().Lookup("accounts", failovertest.SeedID(2))
		assert.True(t, ok, "the deletion is lost too")
	})
}

func TestFailoverOverSocketsAndInMemory(t *testing.T) {
	both(t, nil, func(t *testing.T, org *failovertest.Org) {
		client := org.Client()
		r := must(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
		assert.Equal(t, 200, r.StatusCode)
		assert.NotEmpty(t, r.json(t)["OrganizationId"])
		org.Disaster(failovertest.Refuse())
		_, err := send(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
		require.Error(t, err)
		alt := must(t, org, client, "GET", org.AlternateURL()+api+"WhoAmI", "")
		assert.Equal(t, r.json(t)["OrganizationId"], alt.json(t)["OrganizationId"])
		assert.Len(t, org.Alternate().Rows("accounts"), 25)
	})
}

// Without a lag, no failover loses an acknowledged write, whatever fails meanwhile.
func TestSwitchesUnderTrafficKeepWhatWasAcknowledged(t *testing.T) {
	both(t, nil, func(t *testing.T, org *failovertest.Org) {
		client := org.Client()
		client.Timeout = time.Minute
		var mu sync.Mutex
		acknowledged := make(map[string]bool)
		var writers sync.WaitGroup
		for n := range 8 {
			writers.Go(func() {
				for i := range 30 {
					id := fmt.Sprintf("%08x-0000-0000-0000-%012x", n, i)
					base := []string{org.URL(), org.AlternateURL()}[i%2]
					r, err := send(t, org, client, "POST", base+api+"contacts", `{"contactid":"`+id+`"}`)
					if err == nil && r.StatusCode == 204 {
						mu.Lock()
						acknowledged[id] = true
						mu.Unlock()
					}
				}
			})
		}
		for _, f := range []failovertest.Failure{failovertest.Refuse(), failovertest.Reset(failovertest.AfterApply),
			failovertest.Status(500, nil, ""), failovertest.NoSuchHost(), failovertest.BadCertificate()} {
			org.Disaster(f)
			org.Alternate().FailNext(2, f)
			org.Primary().Heal()
			org.FailBack()
		}
		writers.Wait()
		at := make(map[string]bool)
		for _, record := range org.Primary().Rows("contacts") {
			at[record["contactid"].(string)] = true
		}
		require.NotEmpty(t, acknowledged)
		for id := range acknowledged {
			assert.True(t, at[id], "lost %s", id)
		}
	})
}

func TestConfigHostsAreHostNames(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"https://contoso.crm.dynamics.com", "contoso.crm.dynamics.com:443"} {
		assert.Panics(t, func() { failovertest.StartInMemory(&failovertest.Config{Host: host}) }, host)
		assert.Panics(t, func() { failovertest.StartInMemory(&failovertest.Config{AlternateHost: host}) }, host)
	}
}

func TestAfterCloseNothingAnswersAndAllCanBeRead(t *testing.T) {
	both(t, nil, func(t *testing.T, org *failovertest.Org) {
		client := org.Client()
		must(t, org, client, "POST", org.URL()+api+"contacts", "{}")
		org.Close()
		org.Close()
		_, err := send(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
		assert.True(t, wasRefused(err), "%v", err)
		assert.Len(t, org.Primary().Rows("contacts"), 1)
		assert.Len(t, org.Primary().Deliveries(), 1)
	})
}
