package failover

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
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
		assert.Len(t, b.guarded, 1)
		time.Sleep(guardTime / 2)
		b.report(Primary, Primary, 4, time.Now(), "")
		assert.Empty(t, b.guarded, "a report ends the guards whose time is over")
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

// Writes that are under way stay listed, whatever other writes end, and however often.
func TestAWriteUnderWayIsListedUntilItEnds(t *testing.T) {
	t.Parallel()
	b := newBooks(8)
	req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
	require.NoError(t, err)
	sent := make([]*underway, 4)
	for i := range sent {
		sent[i] = &underway{req: req, label: fmt.Sprint(i), at: Primary}
		b.begin(sent[i])
	}
	underWay := func() []string {
		r := b.report(Primary, Primary, b.epoch.Load()+1, time.Now(), "")
		assert.ElementsMatch(t, labels(r.Unknown), labels(b.draft(Primary, Alternate, time.Now(), "").Unknown))
		return labels(r.Unknown)
	}
	assert.ElementsMatch(t, []string{"0", "1", "2", "3"}, underWay())
	b.forget(sent[1])
	b.forget(sent[1])
	assert.ElementsMatch(t, []string{"0", "2", "3"}, underWay(), "one between others")
	b.forget(sent[3])
	b.begin(sent[1])
	b.forget(sent[3])
	b.record(&endedWrite{underway: sent[3]})
	assert.ElementsMatch(t, []string{"0", "1", "2"}, underWay(), "what has ended ends nothing else")
	b.end(sent[2])
	b.begin(sent[2])
	assert.ElementsMatch(t, []string{"0", "1", "2"}, underWay(), "it is sent a second time")
}

// At whatever point of the making of a report a write is entered, the report has it once.
func TestAWriteThatIsEnteredWhileAReportIsMadeIsInItOnce(t *testing.T) {
	t.Parallel()
	for name, enter := range map[string]func(b *books, w *endedWrite){
		"with the old epoch": func(b *books, w *endedWrite) {
			assert.Zero(t, b.enter(w))
			b.report(Primary, Alternate, 1, time.Now(), "")
		},
		"with the new epoch": func(b *books, w *endedWrite) {
			b.epoch.Store(1) // as the report does first
			ended := b.enter(w)
			assert.Empty(t, b.report(Primary, Alternate, 1, time.Now(), "").AtRisk, "it is for the write to add itself")
			assert.True(t, b.addToLossReport(w, ended))
		},
		"between two reports": func(b *books, w *endedWrite) {
			b.report(Primary, Primary, 1, time.Now(), "")
			ended := b.enter(w)
			b.report(Primary, Alternate, 2, time.Now(), "")
			assert.True(t, b.addToLossReport(w, ended))
		},
	} {
		b := newBooks(8)
		enter(b, ended(Primary, OutcomeAcknowledged, time.Now(), "late"))
		for _, r := range b.reports() {
			assert.Equal(t, []string{"late"}, labels(r.AtRisk), name)
		}
	}
}

// Who adds nothing to a report does not keep others from telling of it.
func TestAWriteOfNoReportTellsNothing(t *testing.T) {
	t.Parallel()
	b := newBooks(8)
	b.report(Primary, Alternate, 1, time.Now(), "")
	assert.False(t, b.record(ended(Alternate, OutcomeAcknowledged, time.Now(), "elsewhere")))
	assert.True(t, b.record(ended(Primary, OutcomeAcknowledged, time.Now(), "late")))
}

// What goes is the first of the most frequent kind: of a switch or not, with or without writes.
func TestOfManyReportsTheFirstOfTheMostFrequentKindGoes(t *testing.T) {
	t.Parallel()
	report := func(to Endpoint, atRisk, unknown, waiting int) *account {
		return &account{latest: &LossReport{To: to}, atRisk: make([]Write, atRisk), unknown: make([]Write, unknown), waiting: make([]Write, waiting)}
	}
	for _, tt := range []struct {
		name string
		list []*account
		goes int
	}{
		{"writes of any outcome are writes", []*account{
			report(Primary, 1, 1, 0), report(Primary, 0, 0, 0), report(Primary, 1, 0, 1), report(Primary, 0, 1, 1), report(Primary, 0, 0, 0),
			report(Primary, 0, 0, 0), report(Primary, 0, 0, 0),
		}, 1},
		{"empty ones of switches, and others with writes", []*account{
			report(Primary, 1, 0, 0), report(Alternate, 0, 0, 0), report(Primary, 0, 1, 0), report(Alternate, 0, 0, 0), report(Alternate, 0, 0, 0),
		}, 1},
		{"switches with writes", []*account{
			report(Alternate, 0, 0, 0), report(Primary, 0, 0, 1), report(Alternate, 0, 0, 1), report(Alternate, 1, 0, 0),
		}, 2},
	} {
		b := books{accounts: slices.Clone(tt.list)}
		b.forgetReportLocked()
		assert.Equal(t, slices.Delete(tt.list, tt.goes, tt.goes+1), b.accounts, tt.name)
	}
}

// Lists are in order of time, whatever the order in which the writes ended and were entered.
func TestListsAreInOrderOfTime(t *testing.T) {
	t.Parallel()
	b := newBooks(8)
	now := time.Now()
	for i, label := range []string{"2", "4", "1", "3"} {
		for _, outcome := range []Outcome{OutcomeAcknowledged, OutcomeUnknown} {
			b.record(ended(Endpoint(i%2), outcome, now.Add(time.Duration(label[0])), label))
		}
	}
	all := b.since(now, Primary)
	assert.Equal(t, []string{"1", "2", "3", "4"}, labels(all.AtRisk))
	assert.Equal(t, []string{"1", "2", "3", "4"}, labels(all.Unknown))
}
