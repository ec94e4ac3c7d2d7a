package failover

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A write that was sent before a report and ends after it still belongs to the report.
func TestLateWrites(t *testing.T) {
	t.Parallel()
	b := newBooks(64)
	b.report(Primary, Alternate, 1, time.Now(), "failover")
	b.report(Alternate, Primary, 2, time.Now(), "fail-back")
	b.report(Primary, Primary, 3, time.Now(), "end of an outage")
	late := func(at Endpoint, began uint64, label string) {
		w := ended(at, OutcomeAcknowledged, time.Now(), label)
		w.began = began
		b.record(w)
	}
	late(Primary, 0, "before all")
	late(Primary, 1, "cannot be, but is after the failover")
	late(Primary, 2, "after the fail-back")
	late(Primary, 3, "in time")
	late(Alternate, 1, "at the alternate")
	late(Alternate, 2, "too late for the fail-back")
	var got [][]string
	for _, r := range b.reports() {
		got = append(got, labels(r.AtRisk))
	}
	assert.Equal(t, [][]string{
		{"before all"},
		{"at the alternate"},
		{"before all", "cannot be, but is after the failover", "after the fail-back"},
	}, got)
	next := b.report(Primary, Alternate, 4, time.Now(), "")
	assert.Len(t, next.AtRisk, 4, "each is in the ledger once, whatever reports it is in")
}

// The cost of late writes is proportional to their number. Not parallel: it counts the bytes
// that all goroutines allocate.
func TestLateWritesAreLinear(t *testing.T) {
	cost := func(n int) uint64 {
		b := newBooks(16)
		b.report(Primary, Alternate, 1, time.Now(), "")
		w := ended(Primary, OutcomeAcknowledged, time.Now(), "late")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			b.record(w)
		}
		runtime.ReadMemStats(&after)
		require.Len(t, b.reports()[0].AtRisk, n)
		return after.TotalAlloc - before.TotalAlloc
	}
	small, large := cost(500), cost(8000)
	assert.Less(t, large, 32*small, "sixteen times as many")
}

func TestReportsAreNotChanged(t *testing.T) {
	t.Parallel()
	b := newBooks(16)
	b.record(ended(Primary, OutcomeAcknowledged, time.Now(), "first"))
	r := b.report(Primary, Alternate, 1, time.Now(), "")
	b.record(ended(Primary, OutcomeAcknowledged, time.Now(), "second"))
	second := b.reports()[0]
	mine := append(second.AtRisk, Write{Label: "mine"})
	b.record(ended(Primary, OutcomeAcknowledged, time.Now(), "third"))
	assert.Equal(t, []string{"first"}, labels(r.AtRisk))
	assert.Equal(t, []string{"first", "second", "mine"}, labels(mine), "nobody writes into the memory of another")
	assert.Equal(t, []string{"first", "second", "third"}, labels(b.reports()[0].AtRisk))
}

func TestTheLastReportsAreKept(t *testing.T) {
	t.Parallel()
	b := newBooks(16)
	for n := range 20 {
		b.report(Endpoint(n%2), Endpoint(1-n%2), uint64(n+1), time.Now(), fmt.Sprint(n))
	}
	reports := b.reports()
	require.Len(t, reports, 16)
	assert.Equal(t, "4", reports[0].Reason, "oldest first")
	assert.Equal(t, "19", reports[15].Reason)
}

// A report is anchored on the last success before the outage, not on the one that ends it.
func TestTheAnchorIsHeldFromTheFirstFault(t *testing.T) {
	t.Parallel()
	started := time.Now()
	at := func(d time.Duration) time.Time { return started.Add(d) }
	var a anchor
	assert.True(t, a.time(started).IsZero(), "never")
	a.hold()
	a.succeeded(time.Second)
	assert.True(t, a.time(started).IsZero(), "it had never succeeded before the outage")
	a.release()
	assert.Equal(t, at(time.Second), a.time(started))
	a.hold()
	a.succeeded(time.Minute)
	a.hold() // the second fault
	assert.Equal(t, at(time.Second), a.time(started))
	a.release()
	assert.Equal(t, at(time.Minute), a.time(started))
}

func TestAnEndpointHoldsItsAnchorForAnOutage(t *testing.T) {
	t.Parallel()
	e := endpoint{breaker: newBreaker(3, 3, time.Second)}
	started := time.Now()
	e.succeeded(time.Second)
	e.fault(&Fault{Class: ClassTransient})
	e.succeeded(2 * time.Second) // a request from before the outage is answered
	assert.Equal(t, started.Add(time.Second), e.anchor.time(started))
	e.success()
	assert.Equal(t, started.Add(2*time.Second), e.anchor.time(started), "it was a blip")
	for range 3 {
		e.fault(&Fault{Class: ClassTransient})
	}
	e.succeeded(3 * time.Second)
	e.success()
	assert.Equal(t, started.Add(2*time.Second), e.anchor.time(started), "one answer does not mend a breaker that has tripped")
	e.reset()
	assert.Equal(t, started.Add(3*time.Second), e.anchor.time(started))
}

// A request that is answered ends an outage, whatever the probes say. Its own success is not
// the anchor, however soon the breaker closes.
func TestTheAnswerThatEndsAnOutageIsNotItsAnchor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if !broken.Load() {
				return acknowledging(req)
			}
			resp := replyWith(503, "")
			resp.Request = req
			return resp, nil
		}), Config{Rise: -1, Probe: func(context.Context, *http.Client, *url.URL) error { return errors.New("no answer") }})
		post(t, transport, "/api/data/v9.2/accounts", "at risk", "", "")
		anchor := time.Now()
		time.Sleep(time.Minute)
		broken.Store(true)
		for !transport.Status().Down {
			post(t, transport, "/api/data/v9.2/accounts", "refused", "", "")
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		broken.Store(false)
		post(t, transport, "/api/data/v9.2/accounts", "after", "", "")
		require.False(t, transport.Status().Down)
		report := transport.Status().Loss
		require.NotNil(t, report)
		assert.WithinDuration(t, anchor, report.LastSuccess, time.Millisecond)
		assert.Contains(t, labels(report.AtRisk), "at risk")
		transport.Close()
	})
}

// A page that a front end makes up is no sign of the service, and no anchor.
func TestAPageOfAFrontEndIsNoAnchor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answers := map[string]*http.Response{
			"/api/data/v9.2/page":    replyWith(404, "<html><title>Not Found</title></html>", "Content-Type", "text/html"),
			"/api/data/v9.2/service": replyWith(404, notFoundBody, "Content-Type", "application/json", "OData-Version", "4.0"),
		}
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			resp, err := acknowledging(req)
			if answer := answers[req.URL.Path]; answer != nil {
				resp, answer.Request = answer, req
			}
			return resp, err
		}), Config{MinDwell: time.Hour, ProbeInterval: -1})
		lastSuccess := func() time.Time { return transport.Status().Primary.LastSuccess }
		post(t, transport, "/api/data/v9.2/accounts", "at risk", "", "")
		written := time.Now()
		time.Sleep(time.Minute)
		post(t, transport, "/api/data/v9.2/page", "", "", "")
		assert.WithinDuration(t, written, lastSuccess(), time.Millisecond)
		require.NoError(t, transport.Switch(t.Context(), Alternate, "by hand"))
		assert.Equal(t, []string{"at risk"}, labels(transport.Status().Loss.AtRisk), "the page does not empty the report")
		require.NoError(t, transport.Switch(t.Context(), Primary, "by hand"))
		post(t, transport, "/api/data/v9.2/service", "", "", "")
		assert.WithinDuration(t, time.Now(), lastSuccess(), time.Millisecond, "a 404 of the service is a sign of health")
		transport.Close()
	})
}

// The guard of a report ends without taking others with it, and a draft says what it is for.
func TestGuardsEndOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBooks(8)
		guarded := func(path string) bool {
			req, err := http.NewRequest("PATCH", "https://contoso.api.crm.dynamics.com"+path, nil)
			require.NoError(t, err)
			return b.guards(req)
		}
		b.record(created(accountA, 0))
		b.report(Primary, Alternate, 1, time.Now(), "")
		time.Sleep(guardTime / 2)
		late := created(accountB, 1)
		late.Endpoint = Alternate
		b.record(late)
		draft := b.draft(Alternate, Primary, time.Now().Add(-time.Minute), "contoso")
		assert.Equal(t, "contoso", draft.Reason)
		assert.Equal(t, b.rpo, draft.RPO)
		assert.Len(t, draft.AtRisk, 1)
		b.report(Alternate, Primary, 2, time.Now().Add(-time.Minute), "")
		assert.True(t, guarded(accountA) && guarded(accountB))
		time.Sleep(guardTime / 2)
		assert.False(t, guarded(accountA))
		assert.True(t, guarded(accountB))
		b.report(Primary, Primary, 3, time.Now(), "")
		assert.True(t, guarded(accountB))
		time.Sleep(guardTime / 2)
		assert.False(t, guarded(accountB))
	})
}

// The growth of a report is announced even if the report is no longer kept. One goroutine at a
// time announces it.
func TestTheGrowthOfAForgottenReportIsAnnounced(t *testing.T) {
	t.Parallel()
	b := newBooks(16)
	late := func(began uint64, label string) bool {
		w := ended(Primary, OutcomeAcknowledged, time.Now(), label)
		w.began = began
		return b.record(w)
	}
	report := func(epoch uint64) { b.report(Primary, Alternate, epoch, time.Now(), fmt.Sprint(epoch)) }
	b.record(ended(Primary, OutcomeAcknowledged, time.Now(), "at risk"))
	report(1)
	assert.True(t, late(0, "first"), "nobody tells of it yet")
	assert.False(t, late(0, "second"), "somebody does")
	for epoch := range uint64(maxReports - 1) {
		report(epoch + 2)
	}
	report(maxReports + 1) // one too many
	assert.Len(t, b.reports(), maxReports)
	assert.Equal(t, "2", b.reports()[0].Reason)
	told := b.grown()
	require.Len(t, told, 1)
	assert.Equal(t, "1", told[0].report.Reason)
	assert.Equal(t, 2, told[0].by)
	assert.Equal(t, "second", told[0].last.Label)
	assert.False(t, late(maxReports, "third"))
	assert.Len(t, b.grown(), 1)
	assert.Empty(t, b.grown())
	assert.True(t, late(maxReports, "fourth"), "nobody tells any more")
}
