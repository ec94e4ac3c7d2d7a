package chaos

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"time"

	"github.com/d365failover/failover"
)

// A movedCell is one experiment.
type movedCell struct {
	kind       *baseKind
	front      *front // before both places, or nil
	departure  *departure
	h2         bool
	downtime   time.Duration // between leaving the old place and serving at the new
	oneAddress bool
	slower     time.Duration // a factor for the time limits
}

func (c movedCell) String() string {
	proto := "h1"
	if c.h2 {
		proto = "h2"
	}
	front := "no front end"
	if c.front != nil {
		front = c.front.name
	}
	return fmt.Sprintf("%s/%s/%s/%s/down %v/one address %v", c.kind.name, front, c.departure.name, proto, c.downtime, c.oneAddress)
}

func movedCells() (all []movedCell) {
	for k := range baseKinds {
		for d := range departures {
			for _, h2 := range []bool{false, true} {
				if baseKinds[k].onlyH2 && !h2 {
					continue
				}
				for _, downtime := range []time.Duration{0, 400 * time.Millisecond} {
					all = append(all, movedCell{&baseKinds[k], nil, &departures[d], h2, downtime, downtime > 0 != h2, 1})
				}
			}
		}
	}
	return all
}

// frontCells returns the cells with a front end.
func frontCells(f *front) (all []movedCell) {
	for d := range frontDepartures {
		for _, downtime := range []time.Duration{0, 400 * time.Millisecond} {
			all = append(all, movedCell{&baseKinds[0], f, &frontDepartures[d], f.h2, downtime, downtime > 0, 1})
		}
	}
	return all
}

type movedResult struct {
	cell    movedCell
	first   time.Duration // from when the new place serves until it answers a caller
	judged  time.Duration // until the event that announces the judgement
	old     int           // requests begun after that, and sent to the old place
	after   int           // requests begun after that
	failed  int           // those of them that failed
	reports int
	reason  string
	atRisk  int      // writes that the loss report lists
	wrong   []string // faults of that report
}

const (
	movedCallers = 6
	movedAfter   = 40 // requests of each caller after the move
	movedRPO     = 300 * time.Millisecond
)

// ended is how a write ended, as its caller saw it.
type ended struct {
	began, at      time.Time
	acked, unknown bool
}

func (c movedCell) run() movedResult {
	m, err := newMovable(c.front)
	if err != nil {
		return movedResult{cell: c, wrong: []string{err.Error()}}
	}
	defer m.close()
	var mu sync.Mutex
	var left, served, judged time.Time
	var reports []*failover.LossReport
	r := movedResult{cell: c}
	cfg := c.kind.make(m.base(c.h2))
	cfg.RPO, cfg.SuspectAfter, cfg.ProbeTimeout = movedRPO, time.Second, c.slower*2*time.Second
	cfg.Logger = slog.New(slog.DiscardHandler)
	if c.oneAddress {
		cfg.Alternate = failover.NoAlternate
	}
	over := make(chan struct{}) // closed at the judgement
	early := false              // a process of the old place has answered while the others were gone
	cfg.OnEvent = func(e failover.Event) {
		mu.Lock()
		defer mu.Unlock()
		switch e.Kind {
		case failover.EventUp, failover.EventRenewed:
			if !served.IsZero() && e.Time.After(served) && judged.IsZero() {
				judged = time.Now()
				r.judged, r.reason = e.Time.Sub(served), e.Reason
				close(over)
			}
			early = early || !left.IsZero() && (served.IsZero() || !e.Time.After(served))
		case failover.EventSwitched:
			r.wrong = append(r.wrong, "it has switched")
		}
		if e.Loss != nil && e.Kind != failover.EventLossGrown && !left.IsZero() {
			reports = append(reports, e.Loss)
		}
	}
	rt := must(failover.New(orgURL, cfg))
	defer rt.Close()
	if base, ok := cfg.Base.(interface{ CloseIdleConnections() }); ok {
		defer base.CloseIdleConnections()
	}

	// Calls that never end keep connections to the old place busy.
	slow, endSlow := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	defer readers.Wait()
	defer endSlow()
	for range 3 {
		req := must(http.NewRequestWithContext(slow, "GET", orgURL+"/api/data/v9.2/accounts?slow", nil))
		resp := must(rt.RoundTrip(req))
		readers.Go(func() { io.Copy(io.Discard, resp.Body); resp.Body.Close() })
	}

	writes := make(map[string]ended)
	began := make(map[string]time.Time) // by request id
	went := make(map[string]string)     // the address of the last connection, by request id
	var firstNew time.Time
	var workers sync.WaitGroup
	for worker := range movedCallers {
		workers.Go(func() {
			more := movedAfter
			for n := 0; more > 0; n++ {
				pause(10 * time.Millisecond)
				id, method := fmt.Sprintf("%s/%d-%d", m.old.addr(), worker, n), "GET" // unique among all experiments
				if worker%2 == 0 {
					method = "POST"
				}
				ctx, cancel := context.WithTimeout(failover.WithLabel(context.Background(), id), c.slower*3*time.Second)
				ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
					ip, _, _ := net.SplitHostPort(i.Conn.RemoteAddr().String())
					mu.Lock()
					went[id] = ip
					mu.Unlock()
				}})
				req := newSmallRequest(ctx, method, id)
				begun := time.Now()
				resp, err := rt.RoundTrip(req)
				status := 0
				if err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					status = resp.StatusCode
				}
				_, doubt := failover.InDoubt(resp, err)
				cancel()
				mu.Lock()
				began[id] = begun
				if method == "POST" {
					writes[id] = ended{begun, time.Now(), status == http.StatusOK, doubt}
				}
				if m.next.has(id) && status == http.StatusOK && firstNew.IsZero() {
					firstNew = time.Now()
				}
				if !judged.IsZero() && begun.After(judged) {
					more--
					r.failed += count(status != http.StatusOK)
				}
				if !served.IsZero() && time.Since(served) > c.slower*20*time.Second {
					more = 0
				}
				mu.Unlock()
			}
		})
	}
	pause(700 * time.Millisecond)
	mu.Lock()
	left = time.Now()
	mu.Unlock()
	c.departure.act(m.old)
	pause(c.downtime)
	m.behind.Store(m.next)
	mu.Lock()
	served = time.Now()
	m.next.mode.Store(placeServes)
	mu.Unlock()
	select {
	case <-over:
	case <-time.After(c.slower * 20 * time.Second):
		r.wrong = append(r.wrong, "nothing was judged")
	}
	workers.Wait()
	mu.Lock()
	defer mu.Unlock()
	if early && judged.IsZero() { // that was the judgement, before the move
		return c.run()
	}
	if r.first = firstNew.Sub(served); firstNew.IsZero() {
		r.wrong = append(r.wrong, "the new place has answered nobody")
	}
	old := m.old.ids()
	toOld := func(id string) bool { return old[id] || went[id] == oldIP }
	for id, at := range began {
		if !judged.IsZero() && at.After(judged) {
			r.after++
			r.old += count(toOld(id))
		}
	}
	r.reports = len(reports)
	if len(reports) > 0 {
		r.atRisk = len(reports[0].AtRisk)
		r.wrong = append(r.wrong, c.check(reports[0], writes, toOld)...)
	}
	return r
}

// check compares the loss report with what the callers know. It must list each write that the
// old place acknowledged since RPO before the last success, and each in doubt. The ledger may
// date a write a little earlier than its caller does.
func (c movedCell) check(r *failover.LossReport, writes map[string]ended, toOld func(string) bool) (wrong []string) {
	atRisk, unknown := labels(r.AtRisk), labels(r.Unknown)
	from := r.LastSuccess.Add(-r.RPO)
	for id, w := range writes {
		if w.at.After(r.Time) {
			continue
		}
		switch _, listed := atRisk[id]; {
		case w.acked && w.began.After(from) && !listed:
			wrong = append(wrong, fmt.Sprintf("acknowledged %v after the window began, and not listed: %s", w.at.Sub(from), id))
		case listed && (!w.acked || w.at.Before(from)):
			wrong = append(wrong, "listed and not of the window: "+id)
		}
		if _, listed := unknown[id]; listed != w.unknown && toOld(id) {
			wrong = append(wrong, fmt.Sprintf("in doubt %v, listed %v: %s", w.unknown, listed, id))
		}
	}
	slices.Sort(wrong)
	return wrong[:min(len(wrong), 3)]
}

func labels(list []failover.Write) map[string]bool {
	m := make(map[string]bool)
	for _, w := range list {
		m[w.Label] = true
	}
	return m
}

// writeMoved writes the results as a Markdown table.
func writeMoved(w io.Writer, results []movedResult) {
	fmt.Fprintln(w, "| Base | front end | old place | | downtime | first answer after | judged after | requests since, at the old place, failed | reason |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	for _, r := range results {
		front := "none"
		if r.cell.front != nil {
			front = r.cell.front.name
		}
		proto := "HTTP/1.1"
		if r.cell.h2 {
			proto = "HTTP/2"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %v | %s | %s | %d, %d, %d | %s |\n", r.cell.kind.name, front, r.cell.departure.name, proto, r.cell.downtime,
			seconds(r.first), seconds(r.judged), r.after, r.old, r.failed, r.reason)
	}
}
