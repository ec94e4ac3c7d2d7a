package failover_test

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// The test that the README shows to those who write their own.
func TestReadsSurviveBothKindsOfFailover(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // minutes pass in no time
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize})
		if err != nil {
			t.Fatal(err)
		}
		defer transport.Close()
		for _, fail := range []func(){
			func() { org.Drill(nil) },                      // the address stays, what is behind it moves
			func() { org.SwitchBack(nil) },                 // and moves back
			func() { org.Disaster(failovertest.Refuse()) }, // a region is lost; the alternate takes over
		} {
			fail()
			resp, err := client.Get(org.URL() + "/api/data/v9.2/accounts")
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp, err)
			}
			resp.Body.Close()
		}
	})
}
