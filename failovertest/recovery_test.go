package failovertest_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

// everywhere runs a test over real sockets with HTTP/2 and HTTP/1.1, and in
// memory, each with a client for old connections and one for new ones.
func everywhere(t *testing.T, cfg *failovertest.Config, test func(t *testing.T, org *failovertest.Org, old, fresh *http.Client)) {
	clients := func(org *failovertest.Org, http1 bool) (old, fresh *http.Client) {
		keep, dial := org.Transport(), org.Transport()
		dial.DisableKeepAlives = true
		if http1 {
			for _, tr := range []*http.Transport{keep, dial} {
				tr.Protocols = new(http.Protocols)
				tr.Protocols.SetHTTP1(true)
			}
		}
		return &http.Client{Transport: keep, Timeout: time.Minute}, &http.Client{Transport: dial, Timeout: time.Minute}
	}
	for _, proto := range []string{"HTTP/2.0", "HTTP/1.1"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			org := failovertest.Start(cfg)
			defer org.Close()
			old, fresh := clients(org, proto == "HTTP/1.1")
			test(t, org, old, fresh)
			for _, d := range org.Primary().Deliveries() {
				assert.Equal(t, proto, d.Proto)
			}
		})
	}
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			org := failovertest.StartInMemory(cfg)
			defer org.Close()
			old, fresh := clients(org, false)
			test(t, org, old, fresh)
		})
	})
}

// arrived waits until n requests have arrived at a datacenter, which a caller that gives up cannot
// know.
func arrived(t *testing.T, d *failovertest.Datacenter, n int) {
	t.Helper()
	assert.Eventually(t, func() bool { return d.Requests() >= n }, time.Minute, time.Millisecond)
	assert.Equal(t, n, d.Requests())
}

// olds are the ways in which a datacenter that was left can fail, and what a client sees that still
// has a connection to it.
var olds = []struct {
	name   string
	reason string
	old    failovertest.Failure
	stuck  bool // the client itself never leaves the old datacenter
	check  func(t *testing.T, r reply, err error)
}{
	{"fence", "the old datacenter lives and knows that it does not serve", failovertest.Failure{}, true,
		func(t *testing.T, r reply, err error) {
			require.NoError(t, err)
			assert.Equal(t, 503, r.StatusCode)
			assert.Equal(t, "0x8004b065", r.code(t))
		}},
	{"busy", "a front end answers for what is no longer behind it", failovertest.ServerBusy(), true,
		func(t *testing.T, r reply, err error) {
			require.NoError(t, err)
			assert.Equal(t, 503, r.StatusCode)
			assert.Equal(t, "ServiceUnavailable", r.code(t))
		}},
	{"black hole", "a region without power sends nothing, no reset either", failovertest.BlackHole(), true,
		func(t *testing.T, _ reply, err error) {
			assert.True(t, isTimeout(err), "%v", err)
		}},
	{"dead", "connections that are reset make the client dial, and it arrives", failovertest.Refuse(), false,
		func(t *testing.T, r reply, err error) {
			require.NoError(t, err)
			assert.Equal(t, 200, r.StatusCode)
		}},
}

func TestDrillLeavesOldConnectionsAtTheOldDatacenter(t *testing.T) {
	t.Parallel()
	for _, row := range olds {
		require.NotEmpty(t, row.reason)
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			everywhere(t, &failovertest.Config{OneAddress: true}, func(t *testing.T, org *failovertest.Org, old, fresh *http.Client) {
				whoAmI := org.URL() + api + "WhoAmI"
				must(t, org, old, "GET", whoAmI, "")
				before := org.Primary().Requests()
				report := org.Drill(&failovertest.Recovery{Old: row.old})
				assert.Empty(t, report.Lost)
				assert.Equal(t, report.Stopped, report.LastSync)

				r := must(t, org, fresh, "GET", whoAmI, "")
				assert.Equal(t, 200, r.StatusCode, "a fresh connection")
				assert.Equal(t, before, org.Primary().Requests(), "it leads to the new datacenter")

				old.Timeout = patience(row.old)
				r, err := send(t, org, old, "GET", whoAmI, "")
				row.check(t, r, err)
				if row.stuck {
					arrived(t, org.Primary(), before+1)
				} else {
					assert.Equal(t, before, org.Primary().Requests())
				}
				assert.Equal(t, 1, org.Primary().Connections())

				old.Timeout = time.Minute
				old.CloseIdleConnections()
				// A silent HTTP/2 connection counts as busy until it answers a ping.
				if row.old != failovertest.BlackHole() {
					r = must(t, org, old, "GET", whoAmI, "")
					assert.Equal(t, 200, r.StatusCode, "without its old connection the client arrives")
				}

				back := org.SwitchBack(nil)
				assert.Empty(t, back.Lost)
				r = must(t, org, fresh, "GET", whoAmI, "")
				assert.Equal(t, 200, r.StatusCode)
				d := org.Primary().Deliveries()
				assert.False(t, d[len(d)-1].ConnOpened.Before(back.NameMoved), "the name leads back")
			})
		})
	}
}

func TestDrillAndSwitchBackLoseNothing(t *testing.T) {
	t.Parallel()
	everywhere(t, &failovertest.Config{Lag: time.Hour, Accounts: 1}, func(t *testing.T, org *failovertest.Org, _, fresh *http.Client) {
		for n, move := range []func(*failovertest.Recovery) *failovertest.RecoveryReport{org.Drill, org.SwitchBack, org.Drill} {
			id := fmt.Sprintf("11111111-0000-0000-0000-%012x", n)
			r := must(t, org, fresh, "POST", org.URL()+api+"accounts", `{"accountid":"`+id+`"}`)
			require.Equal(t, 204, r.StatusCode)
			report := move(nil)
			require.NotNil(t, report)
			assert.Empty(t, report.Lost)
			r = must(t, org, fresh, "GET", org.URL()+api+"accounts("+id+")", "")
			assert.Equal(t, 200, r.StatusCode)
		}
		for _, d := range []*failovertest.Datacenter{org.Primary(), org.Secondary(), org.Alternate()} {
			assert.Len(t, d.Rows("accounts"), 4)
		}
		assert.Nil(t, org.Drill(nil), "it is there")
		org.FailOver()
		r := must(t, org, fresh, "GET", org.URL()+api+"WhoAmI", "")
		assert.Equal(t, 200, r.StatusCode, "no failover from the secondary datacenter")
	})
}

func TestEmergencyResponseLosesTheNewestWrites(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{false, true} {
		t.Run(fmt.Sprintf("replication cut %t", cut), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				org := failovertest.StartInMemory(&failovertest.Config{Lag: 5 * time.Minute, Accounts: 2})
				defer org.Close()
				client := org.Client()
				client.Transport.(*http.Transport).DisableKeepAlives = true
				one, two := org.URL()+api+"accounts("+failovertest.SeedID(1)+")", org.URL()+api+"accounts("+failovertest.SeedID(2)+")"
				must(t, org, client, "PATCH", one, `{"name":"kept"}`)
				time.Sleep(5 * time.Minute)
				disaster := time.Now()
				must(t, org, client, "PATCH", one, `{"name":"lost"}`)
				must(t, org, client, "DELETE", two, "")
				const id = "11111111-0000-0000-0000-000000000000"
				must(t, org, client, "POST", org.URL()+api+"contacts", `{"contactid":"`+id+`"}`)
				delta := must(t, org, client, "GET", org.URL()+api+"accounts", "", "Prefer: odata.track-changes").json(t)["@odata.deltaLink"].(string)
				if cut {
					org.CutReplication()
					org.Primary().Fail(failovertest.BlackHole())
					time.Sleep(time.Hour) // until somebody responds
					org.CutReplication()
				}
				report := org.EmergencyResponse(&failovertest.Recovery{Downtime: 7 * time.Minute})

				assert.Equal(t, disaster.Add(-5*time.Minute), report.LastSync)
				assert.Equal(t, report.Stopped.Add(7*time.Minute), report.Served)
				assert.Equal(t, report.Served, report.NameMoved)
				want := []failovertest.LostWrite{
					{Time: disaster, EntitySet: "accounts", ID: failovertest.SeedID(1), Op: "update"},
					{Time: disaster, EntitySet: "accounts", ID: failovertest.SeedID(2), Op: "delete"},
					{Time: disaster, EntitySet: "contacts", ID: id, Op: "create"},
				}
				assert.Equal(t, want, report.Lost)

				assert.Equal(t, "kept", must(t, org, client, "GET", one, "").json(t)["name"])
				assert.Equal(t, 200, must(t, org, client, "GET", two, "").StatusCode)
				assert.Equal(t, 404, must(t, org, client, "GET", org.URL()+api+"contacts("+id+")", "").StatusCode)
				assert.Equal(t, 400, must(t, org, client, "GET", delta, "").StatusCode, "the counter of versions steps back")
				_, ok := org.Primary().Lookup("contacts", id)
				assert.True(t, ok, "the old datacenter keeps it")
				assert.Equal(t, org.Secondary().Rows("accounts"), org.Alternate().Rows("accounts"))

				must(t, org, client, "PATCH", two, `{"name":"later"}`)
				org.Primary().Heal()
				assert.Empty(t, org.SwitchBack(nil).Lost)
				assert.Equal(t, "later", must(t, org, client, "GET", two, "").json(t)["name"])
				_, ok = org.Primary().Lookup("contacts", id)
				assert.False(t, ok, "what was lost stays lost")
			})
		})
	}
}

func TestNeitherDatacenterServesDuringDowntime(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name, reason string
		recovery     failovertest.Recovery
		early        bool // new connections lead to the new datacenter at once
		check        func(t *testing.T, r reply, err error)
	}{
		{"default", "the old datacenter answers with the fence", failovertest.Recovery{}, false, olds[0].check},
		{"name moved", "the new datacenter answers with the fence before it serves", failovertest.Recovery{NameAfter: -1}, true, olds[0].check},
		{"busy", "the old datacenter answers as it is told", failovertest.Recovery{Old: failovertest.ServerBusy()}, false, olds[1].check},
		{"old black hole, name moved", "what the old one does is not what the new one does",
			failovertest.Recovery{Old: failovertest.BlackHole(), NameAfter: -1}, true, olds[0].check},
		{"page at both", "a front end answers for both", failovertest.Recovery{During: failovertest.OutagePage(), NameAfter: -1}, true,
			func(t *testing.T, r reply, err error) {
				require.NoError(t, err)
				assert.Equal(t, "text/html", r.Header.Get("Content-Type"))
			}},
		{"no name", "the name vanishes in between", failovertest.Recovery{During: failovertest.NoSuchHost()}, false,
			func(t *testing.T, _ reply, err error) { assert.ErrorContains(t, err, "no such host") }},
	}
	for _, row := range rows {
		require.NotEmpty(t, row.reason)
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				org := failovertest.StartInMemory(nil)
				defer org.Close()
				fresh := org.Client()
				fresh.Timeout = time.Second
				fresh.Transport.(*http.Transport).DisableKeepAlives = true
				whoAmI := org.URL() + api + "WhoAmI"
				row.recovery.Downtime = time.Minute
				done := make(chan *failovertest.RecoveryReport)
				go func() { done <- org.Drill(&row.recovery) }()
				time.Sleep(30 * time.Second)
				r, err := send(t, org, fresh, "GET", whoAmI, "")
				row.check(t, r, err)
				assert.Equal(t, row.early, org.Secondary().Dials() > 0)
				report := <-done
				assert.Equal(t, report.Stopped.Add(time.Minute), report.Served)
				if row.early {
					assert.Equal(t, report.Stopped, report.NameMoved)
				}
				assert.Equal(t, 200, must(t, org, fresh, "GET", whoAmI, "").StatusCode)
			})
		})
	}
}

func TestTheOldDatacenterFailsAsToldAfterTheDowntime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		client := org.Client() // keeps its connection
		client.Timeout = 10 * time.Second
		whoAmI := org.URL() + api + "WhoAmI"
		must(t, org, client, "GET", whoAmI, "")
		done := make(chan *failovertest.RecoveryReport)
		go func() {
			done <- org.Drill(&failovertest.Recovery{Downtime: time.Minute, During: failovertest.ServerBusy(), Old: failovertest.BlackHole()})
		}()
		synctest.Wait()
		assert.Equal(t, "ServiceUnavailable", must(t, org, client, "GET", whoAmI, "").code(t))
		<-done
		ended := make(chan error)
		go func() {
			client := *client
			client.Timeout = 0
			_, err := send(t, org, &client, "POST", org.URL()+api+"contacts", "{}")
			ended <- err
		}()
		time.Sleep(time.Hour)
		select {
		case err := <-ended:
			t.Fatalf("a black hole answers: %v", err)
		default:
		}
		org.SwitchBack(nil)
		assert.True(t, wasReset(<-ended), "what was lost does not come back")
		assert.Empty(t, org.Primary().Rows("contacts"))
	})
}

// The failures of a Recovery take precedence over those of Fail, even over failures that happen
// earlier in a request.
func TestDowntimeReplacesOtherFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		client := org.Client()
		org.Primary().Fail(failovertest.Refuse())
		done := make(chan *failovertest.RecoveryReport)
		go func() {
			done <- org.EmergencyResponse(&failovertest.Recovery{Downtime: time.Minute, During: failovertest.ServerBusy()})
		}()
		synctest.Wait()
		assert.Equal(t, "ServiceUnavailable", must(t, org, client, "GET", org.URL()+api+"WhoAmI", "").code(t))
		<-done
		org.SwitchBack(nil)
		_, err := send(t, org, org.Client(), "GET", org.URL()+api+"WhoAmI", "")
		assert.ErrorIs(t, err, syscall.ECONNREFUSED, "nothing has healed it")
	})
}

// The name service is late: the new datacenter serves, but no connection leads to it.
func TestNameThatMovesLateAndFlickers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		fresh := org.Client()
		fresh.Transport.(*http.Transport).DisableKeepAlives = true
		ask := func() int {
			return must(t, org, fresh, "GET", org.URL()+api+"WhoAmI", "").StatusCode
		}
		done := make(chan *failovertest.RecoveryReport)
		go func() {
			done <- org.Drill(&failovertest.Recovery{Downtime: time.Minute, NameAfter: 3 * time.Minute, Flicker: time.Minute})
		}()
		time.Sleep(2 * time.Minute)
		assert.Equal(t, 503, ask())
		assert.Zero(t, org.Secondary().Requests())
		report := <-done
		assert.Equal(t, report.Stopped.Add(time.Minute), report.Served)
		assert.Equal(t, report.Stopped.Add(3*time.Minute), report.NameMoved)
		assert.Equal(t, []int{200, 503, 200, 503}, []int{ask(), ask(), ask(), ask()})
		time.Sleep(time.Minute)
		assert.Equal(t, []int{200, 200}, []int{ask(), ask()})
	})
}

func TestDatacentersHaveAddresses(t *testing.T) {
	t.Parallel()
	everywhere(t, nil, func(t *testing.T, org *failovertest.Org, _, fresh *http.Client) {
		remote := func() (addr string) {
			ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
				GotConn: func(info httptrace.GotConnInfo) { addr = info.Conn.RemoteAddr().String() }})
			req, err := http.NewRequestWithContext(ctx, "GET", org.URL(), nil)
			require.NoError(t, err)
			resp, err := fresh.Do(req)
			require.NoError(t, err)
			resp.Body.Close()
			return addr
		}
		assert.Equal(t, org.Primary().Addr().String(), remote())
		org.Drill(nil)
		assert.Equal(t, org.Secondary().Addr().String(), remote())
		assert.NotEqual(t, org.Primary().Addr().String(), org.Secondary().Addr().String())
	})
}

func TestCloseEndsARecovery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		done := make(chan *failovertest.RecoveryReport)
		go func() { done <- org.Drill(&failovertest.Recovery{Downtime: time.Hour}) }()
		go func() { done <- org.SwitchBack(nil) }()
		synctest.Wait()
		org.Close()
		a, b := <-done, <-done
		if a == nil {
			a = b
		}
		require.NotNil(t, a)
		assert.False(t, a.Stopped.IsZero())
		assert.Zero(t, a.Served)
		assert.Zero(t, a.NameMoved)
	})
}

// Concurrent moves run one after the other.
func TestSwitchBackWaitsForTheDrill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		drill := make(chan *failovertest.RecoveryReport, 1)
		go func() { drill <- org.Drill(&failovertest.Recovery{Downtime: time.Minute}) }()
		synctest.Wait()
		back := org.SwitchBack(nil)
		require.NotNil(t, back)
		assert.Equal(t, (<-drill).Served, back.Stopped)
	})
}

// Under constant traffic, a drill and the switch back lose no acknowledged write, and an emergency
// response loses exactly those that it reports.
func TestTheReportOfAMoveUnderTrafficIsExact(t *testing.T) {
	t.Parallel()
	everywhere(t, &failovertest.Config{OneAddress: true, Accounts: -1, Lag: time.Hour},
		func(t *testing.T, org *failovertest.Org, old, fresh *http.Client) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			const writers = 4
			acknowledged, done := make(chan string, 1<<16), make(chan struct{})
			for w := range writers {
				client := []*http.Client{old, fresh}[w%2]
				go func() {
					defer func() { done <- struct{}{} }()
					for i := 0; ctx.Err() == nil && i < 10000; i++ {
						id := fmt.Sprintf("%08x-0000-0000-0000-%012x", w, i)
						r, err := send(t, org, client, "POST", org.URL()+api+"contacts", `{"contactid":"`+id+`"}`)
						if err == nil && r.StatusCode == 204 {
							acknowledged <- id
						}
						time.Sleep(time.Millisecond) // or a bubble's time would stand still
					}
				}()
			}
			all := make(map[string]bool)
			progress := func() { // until writes were made and acknowledged from now on
				for n := len(acknowledged) + 2*writers; n > 0; n-- {
					all[<-acknowledged] = true
				}
			}
			progress()
			for range 2 {
				assert.Empty(t, org.Drill(&failovertest.Recovery{Downtime: 10 * time.Millisecond}).Lost)
				old.CloseIdleConnections()
				progress()
				assert.Empty(t, org.SwitchBack(&failovertest.Recovery{Old: failovertest.Refuse()}).Lost)
				progress()
			}
			report := org.EmergencyResponse(&failovertest.Recovery{Downtime: 10 * time.Millisecond, Old: failovertest.Refuse()})
			progress()
			cancel()
			for range writers {
				<-done
			}
			close(acknowledged)
			for id := range acknowledged {
				all[id] = true
			}
			lost := make(map[string]bool)
			for _, w := range report.Lost {
				assert.True(t, w.Time.After(report.LastSync))
				assert.False(t, w.Time.After(report.Stopped))
				lost[w.ID] = true
			}
			assert.NotEmpty(t, lost)
			at := make(map[string]bool)
			for _, record := range org.Secondary().Rows("contacts") {
				at[record["contactid"].(string)] = true
			}
			for id := range all {
				assert.NotEqual(t, lost[id], at[id], id)
			}
		})
}
