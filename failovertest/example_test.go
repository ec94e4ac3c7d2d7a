package failovertest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/d365failover/failover/failovertest"
)

// What a client without failover sees of a disaster and of the return.
func Example() {
	org := failovertest.StartInMemory(nil)
	defer org.Close()
	client := org.Client()
	whoAmI := func(base string) {
		req, _ := http.NewRequest("GET", base+"/api/data/v9.2/WhoAmI", nil)
		org.Authorize(req)
		resp, err := client.Do(req)
		if err != nil {
			fmt.Println(req.URL.Host, "refuses:", errors.Is(err, syscall.ECONNREFUSED))
			return
		}
		defer resp.Body.Close()
		fmt.Println(req.URL.Host, "answers", resp.StatusCode)
	}

	whoAmI(org.URL())
	whoAmI(org.AlternateURL())
	org.Disaster(failovertest.Refuse())
	whoAmI(org.URL())
	whoAmI(org.AlternateURL())
	org.Primary().Heal()
	org.FailBack()
	whoAmI(org.URL())
	// Output:
	// contoso.api.crm.dynamics.com answers 200
	// contoso--s.api.crm.dynamics.com answers 503
	// contoso.api.crm.dynamics.com refuses: true
	// contoso--s.api.crm.dynamics.com answers 200
	// contoso.api.crm.dynamics.com answers 200
}

// A failover loses the writes that were not replicated.
func ExampleOrg_FailOver() {
	org := failovertest.StartInMemory(&failovertest.Config{Lag: 5 * time.Second})
	defer org.Close()
	req, _ := http.NewRequest("POST", org.URL()+"/api/data/v9.2/contacts",
		strings.NewReader(`{"contactid":"11111111-0000-0000-0000-000000000000","lastname":"Doe"}`))
	org.Authorize(req)
	resp, err := org.Client().Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode)

	org.FailOver()
	_, atPrimary := org.Primary().Lookup("contacts", "11111111-0000-0000-0000-000000000000")
	_, atAlternate := org.Alternate().Lookup("contacts", "11111111-0000-0000-0000-000000000000")
	fmt.Println(atPrimary, atAlternate)
	// Output:
	// 204
	// true false
}

// An unknown outcome: the connection breaks although the record was created.
func ExampleReset() {
	org := failovertest.StartInMemory(nil)
	defer org.Close()
	org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
	req, _ := http.NewRequest("POST", org.URL()+"/api/data/v9.2/contacts", strings.NewReader(`{"lastname":"Doe"}`))
	org.Authorize(req)
	_, err := org.Client().Do(req)
	fmt.Println(errors.Is(err, syscall.ECONNRESET), len(org.Primary().Rows("contacts")))
	// Output: true 1
}

// Failures can be limited to some requests.
func ExampleDatacenter_FailWhen() {
	org := failovertest.StartInMemory(&failovertest.Config{Anonymous: true})
	defer org.Close()
	isWrite := func(r *http.Request) bool { return r.Method != http.MethodGet }
	org.Primary().FailWhen(isWrite, failovertest.Throttle(17*time.Second))

	resp, err := org.Client().Post(org.URL()+"/api/data/v9.2/contacts", "application/json", strings.NewReader("{}"))
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode, resp.Header.Get("Retry-After"))
	// Output: 429 17
}

// A datacenter records the requests that have reached it.
func ExampleDatacenter_Deliveries() {
	org := failovertest.StartInMemory(nil)
	defer org.Close()
	client := org.Client()
	for _, method := range []string{"GET", "DELETE"} {
		req, _ := http.NewRequest(method, org.URL()+"/api/data/v9.2/accounts("+failovertest.SeedID(1)+")", nil)
		org.Authorize(req)
		resp, err := client.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
	}
	for _, d := range org.Primary().Deliveries() {
		fmt.Println(d.Method, d.Status, d.Applied)
	}
	// Output:
	// GET 200 false
	// DELETE 204 true
}

// With Start, the simulation runs over real TLS.
func ExampleStart() {
	org := failovertest.Start(&failovertest.Config{Anonymous: true, Accounts: 3})
	defer org.Close()
	resp, err := org.Client().Get(org.URL() + "/api/data/v9.2/accounts?$select=name&$top=1")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	var list struct {
		Value []struct{ Name string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(resp.Proto, resp.TLS.HandshakeComplete, list.Value)
	// Output: HTTP/2.0 true [{Account 01}]
}

// A disaster behind one address. An open connection keeps leading to the old datacenter, and
// a new one leads to the new datacenter.
func ExampleOrg_EmergencyResponse() {
	org := failovertest.StartInMemory(&failovertest.Config{OneAddress: true, Anonymous: true, Lag: 5 * time.Minute})
	defer org.Close()
	old, fresh := org.Client(), org.Client()
	resp, err := old.Post(org.URL()+"/api/data/v9.2/contacts", "application/json",
		strings.NewReader(`{"contactid":"11111111-0000-0000-0000-000000000000","lastname":"Doe"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()

	report := org.EmergencyResponse(&failovertest.Recovery{Downtime: 10 * time.Millisecond})
	fmt.Println("last sync:", report.LastSync.Sub(report.Stopped))
	for _, w := range report.Lost {
		fmt.Println("lost:", w.Op, w.EntitySet, w.ID)
	}
	for _, client := range []*http.Client{old, fresh} {
		resp, err := client.Get(org.URL() + "/api/data/v9.2/WhoAmI")
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		fmt.Println(resp.StatusCode)
	}
	fmt.Println("requests:", org.Primary().Requests(), org.Secondary().Requests())
	// Output:
	// last sync: -5m0s
	// lost: create contacts 11111111-0000-0000-0000-000000000000
	// 503
	// 200
	// requests: 2 1
}

// A drill of Finance and Operations: nothing is lost.
func ExampleOrg_Drill() {
	org := failovertest.Start(&failovertest.Config{
		Host: "contoso.operations.dynamics.com", Anonymous: true, Accounts: 1, Lag: time.Hour})
	defer org.Close()
	client := org.Client()
	report := org.Drill(&failovertest.Recovery{Old: failovertest.Refuse()})
	resp, err := client.Get(org.URL() + "/data/CustomersV3(dataAreaId='usmf',CustomerAccount='US-001')")
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode, len(report.Lost), report.Served.IsZero())
	// Output: 200 0 false
}

// A brown-out: about every sixth request fails, and the others are slow.
func ExampleDatacenter_FailShare() {
	org := failovertest.StartInMemory(&failovertest.Config{Anonymous: true})
	defer org.Close()
	org.Primary().SetLatency(time.Millisecond)
	org.Primary().FailShare(0.17, 3, failovertest.OutagePage())
	client, statuses := org.Client(), make(map[int]int)
	for range 100 {
		resp, err := client.Get(org.URL() + "/api/data/v9.2/WhoAmI")
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		statuses[resp.StatusCode]++
	}
	fmt.Println(statuses)
	// Output: map[200:81 503:19]
}
