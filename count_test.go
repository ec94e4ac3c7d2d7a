package failover_test

import (
	"flag"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

var (
	booked   = flag.Int("booked", 30_000, "number of writes for TestNoWriteIsMissingFromTheBooks")
	switches = flag.Int("switches", 30, "number of switches for TestNoWriteIsMissingFromTheBooks")
)

// bothSides answers for both endpoints, in memory. It answers some writes only after the next
// switch, and others never. It records in which report each write must be.
type bothSides struct {
	moved    atomic.Int64                  // switches so far, back and forth
	next     atomic.Pointer[chan struct{}] // closed after the next switch
	expected []atomic.Int64                // by write: the number of the report, from 1
	waiting  atomic.Int64                  // writes that wait for the next switch
	late     atomic.Int64                  // writes that were answered after a switch
}

func (s *bothSides) RoundTrip(req *http.Request) (*http.Response, error) {
	answer := func(status int, body string) *http.Response {
		return &http.Response{
			StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
			Header: http.Header{"Odata-Version": {"4.0"}, "Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)),
		}
	}
	if req.Method == http.MethodGet {
		return answer(200, `{"UserId":"00000000-0000-0000-0000-000000000001","OrganizationId":"00000000-0000-0000-0000-000000000002"}`), nil
	}
	moved, at := s.moved.Load(), int64(0)
	if strings.Contains(req.URL.Host, "--s") {
		at = 1
	}
	// The next switch leaves this endpoint. If it happened while the write was on its way, the
	// one after it does.
	report := moved + 1
	if at != moved%2 {
		report++
	}
	id, err := strconv.Atoi(req.Header.Get("X-Ms-Client-Request-Id"))
	if err != nil {
		panic(err)
	}
	s.expected[id].Store(report)
	switch dice := rand.IntN(1000); {
	case dice < 3:
		s.waiting.Add(1)
		<-*s.next.Load()
		s.waiting.Add(-1)
		s.late.Add(1)
	case dice < 50:
		runtime.Gosched()
	case dice == 999:
		return nil, io.ErrUnexpectedEOF
	}
	return answer(204, ""), nil
}

// Whatever switches while writes end: each write that was acknowledged or is in doubt is in
// the report of the next switch away from its endpoint. The RPO is so long that no write is
// outside the window.
func TestNoWriteIsMissingFromTheBooks(t *testing.T) {
	t.Parallel()
	const writers, slack = 8, 8
	interval := int64(*booked / (*switches + 1)) // writes between two switches
	side := &bothSides{expected: make([]atomic.Int64, *booked)}
	next := make(chan struct{})
	side.next.Store(&next)
	transport, err := failover.New("https://contoso.api.crm.dynamics.com", &failover.Config{
		Base: side, Logger: slog.New(slog.DiscardHandler), FailureThreshold: -1, MinDwell: time.Hour, ProbeInterval: -1,
		LedgerSize: int(8 * interval), RPO: time.Hour,
	})
	require.NoError(t, err)
	defer transport.Close()

	var count, doubts atomic.Int64
	var since [writers]atomic.Int64 // the number of switches before the current write
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			defer since[n].Store(math.MaxInt64)
			for id := count.Add(1) - 1; id < int64(*booked); id = count.Add(1) - 1 {
				for id > (side.moved.Load()+3)*interval { // the ledger has room for that many
					runtime.Gosched()
				}
				since[n].Store(side.moved.Load())
				req, _ := http.NewRequest(http.MethodPost, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
				req.Header.Set("X-Ms-Client-Request-Id", strconv.FormatInt(id, 10))
				resp, err := transport.RoundTrip(req)
				if err != nil {
					doubts.Add(1)
					continue
				}
				resp.Body.Close()
			}
		})
	}

	found := make([]bool, *booked)
	number := int64(0)                     // of the latest report
	look := func(r *failover.LossReport) { // the report no longer grows
		number++
		last := -1
		ids := make([]int, 0, len(r.AtRisk)+len(r.Unknown))
		for _, w := range slices.Concat(r.AtRisk, r.Unknown) {
			id, err := strconv.Atoi(w.RequestID)
			require.NoError(t, err)
			require.Equal(t, r.From, w.Endpoint)
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for _, id := range ids {
			require.NotEqual(t, last, id, "in one report twice")
			last = id
			found[id] = found[id] || side.expected[id].Load() == number
		}
	}
	move := func() {
		require.NoError(t, transport.Switch(t.Context(), transport.Status().Active^1, "by hand"))
		fresh := make(chan struct{})
		passed := side.next.Swap(&fresh)
		side.moved.Add(1)
		close(*passed)
		for n := range since { // reports that are no longer kept do not grow
			for since[n].Load() < side.moved.Load()-slack {
				runtime.Gosched()
			}
		}
		if losses := transport.Status().Losses; int64(len(losses)) > slack+1 && number < side.moved.Load()-slack-1 {
			look(losses[len(losses)-slack-2])
		}
	}
	for n := range *switches {
		for count.Load() < int64(n+1)*interval {
			if side.waiting.Load() == writers {
				move()
			}
			runtime.Gosched()
		}
		move()
	}
	close(*side.next.Load()) // nothing waits any more
	wg.Wait()
	fresh := make(chan struct{})
	side.next.Store(&fresh)
	move() // so that both endpoints are left once more
	move()
	losses := transport.Status().Losses
	for _, r := range losses[int64(len(losses))-(side.moved.Load()-number):] {
		look(r)
	}
	require.Equal(t, side.moved.Load(), number)

	missing := 0
	for _, ok := range found {
		if !ok {
			missing++
		}
	}
	assert.Zero(t, missing, "of %d writes", len(found))
	assert.NotZero(t, doubts.Load())
	assert.NotZero(t, side.late.Load())
	t.Logf("%d writes, %d of them in doubt and %d answered after a switch, %d switches: %d missing", len(found), doubts.Load(), side.late.Load(), number, missing)
}
