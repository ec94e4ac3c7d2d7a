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
		org := failovertest.StartInMemory(nil) // a simulated organization
		defer org.Close()
		client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize})
		if err != nil {
			t.Fatal(err)
		}
		defer transport.Close()
		read := func() {
			resp, err := client.Get(org.URL() + "/api/data/v9.2/accounts")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Error(resp.Status)
			}
		}
		read()
		org.Drill(nil) // as an administrator does: the address stays, what is behind it moves
		read()
		org.SwitchBack(nil)
		read()
		org.Disaster(failovertest.Refuse()) // a region is lost; the second address takes over
		read()
	})
}
