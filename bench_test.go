package failover_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// What the Transport costs over the bare RoundTripper below it. One run of one
// binary holds both, and only their difference means something:
//
//	go test -run='^$' -bench=. -benchmem .
//
// docs/performance.md has the ratios, measured in turns, beside those of other
// libraries.

const (
	listPath   = "/api/data/v9.2/accounts?$select=name,revenue&$top=50"
	createPath = "/api/data/v9.2/accounts"
	actionPath = "/api/data/v9.2/contoso_Approve"
)

// memory is a Base without a network: it answers at once, as the Web API does,
// with two allocations. It writes to nothing that calls share, so that what
// parallel calls contend for is not of its making.
type memory struct {
	down    string       // name that connections to are refused; "*": all
	refused atomic.Int64 // calls to it
}

var (
	listed   = []byte(`{"@odata.context":"$metadata#accounts","value":[{"name":"Contoso","revenue":1250000.5},{"name":"Fabrikam","revenue":17}]}`)
	listHead = http.Header{
		"Content-Type":              {"application/json; odata.metadata=minimal"},
		"Date":                      {"Mon, 02 Nov 2026 08:00:00 GMT"},
		"Odata-Version":             {"4.0"},
		"X-Ms-Service-Request-Id":   {"7c0ad3b1-54a2-4b55-8f7d-3a1a52d3c001"},
		"Req_id":                    {"7c0ad3b1-54a2-4b55-8f7d-3a1a52d3c001"},
		"Strict-Transport-Security": {"max-age=31536000"},
	}
	createdHead = http.Header{
		"Date":                    {"Mon, 02 Nov 2026 08:00:00 GMT"},
		"Odata-Version":           {"4.0"},
		"Odata-Entityid":          {orgURL + createPath + "(00000000-0000-0000-0000-000000000001)"},
		"X-Ms-Service-Request-Id": {"7c0ad3b1-54a2-4b55-8f7d-3a1a52d3c002"},
	}
)

func (m *memory) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	if m.down != "" && (m.down == "*" || m.down == req.URL.Host) {
		m.refused.Add(1)
		return nil, errDial
	}
	if req.Method == http.MethodPost && req.URL.Path == createPath {
		return &http.Response{
			Status: "204 No Content", StatusCode: http.StatusNoContent, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: createdHead, Request: req, Body: http.NoBody,
		}, nil
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: listHead, Request: req,
		Body: &memoryBody{rest: listed}, ContentLength: int64(len(listed)),
	}, nil
}

type memoryBody struct{ rest []byte }

func (b *memoryBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *memoryBody) Close() error { return nil }

// inMemory returns a Transport over base that logs nothing, pauses for nothing and
// probes only to decide.
func inMemory(tb testing.TB, base http.RoundTripper) *failover.Transport {
	transport, err := failover.New(orgURL, &failover.Config{
		Base: base, FailFast: true, RetryBackoff: -1, ProbeInterval: -1, Logger: slog.New(slog.DiscardHandler),
		Probe: func(ctx context.Context, client *http.Client, endpoint *url.URL) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.String(), nil)
			if err != nil {
				return err
			}
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			return resp.Body.Close()
		},
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { transport.Close() })
	return transport
}

// bareBreaker is what a program does without the library: gobreaker around Base.
type bareBreaker struct {
	cb   *gobreaker.CircuitBreaker[*http.Response]
	base http.RoundTripper
}

func (b *bareBreaker) RoundTrip(req *http.Request) (*http.Response, error) {
	return b.cb.Execute(func() (*http.Response, error) { return b.base.RoundTrip(req) })
}

// peers are the round trippers that a healthy path is measured with, the floor first.
func peers(tb testing.TB) []struct {
	name string
	rt   http.RoundTripper
} {
	base := new(memory)
	return []struct {
		name string
		rt   http.RoundTripper
	}{
		{"base", base},
		{"gobreaker", &bareBreaker{gobreaker.NewCircuitBreaker[*http.Response](gobreaker.Settings{}), base}},
		{"failover", inMemory(tb, base)},
	}
}

// benchCall sends one request over and over, as http.Client would, and reads the
// answers. It is for one goroutine.
type benchCall struct{ req *http.Request }

// newBenchCall returns a call of GET, or of POST with a body of 1 KiB.
func newBenchCall(tb testing.TB, method, target string) *benchCall {
	var body io.Reader
	if method == http.MethodPost {
		body = bytes.NewReader([]byte(`{"name":"Contoso","description":"` + strings.Repeat("x", 1<<10-35) + `"}`))
	}
	req, err := http.NewRequest(method, target, body)
	require.NoError(tb, err)
	req.Header = http.Header{
		"Accept":           {"application/json"},
		"Authorization":    {"Bearer contoso"},
		"Odata-Maxversion": {"4.0"},
		"Odata-Version":    {"4.0"},
		"User-Agent":       {"contoso/1.0"},
	}
	if body != nil {
		req.Header["Content-Type"] = []string{"application/json; charset=utf-8"}
	}
	return &benchCall{req}
}

func (c *benchCall) call(rt http.RoundTripper) error {
	if c.req.GetBody != nil {
		c.req.Body, _ = c.req.GetBody()
	}
	resp, err := rt.RoundTrip(c.req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func BenchmarkHealthyGet(b *testing.B) {
	for _, p := range peers(b) {
		b.Run(p.name, func(b *testing.B) { benchmark(b, p.rt, http.MethodGet, listPath) })
	}
}

func BenchmarkHealthyGetParallel(b *testing.B) {
	for _, p := range peers(b) {
		b.Run(p.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				c := newBenchCall(b, http.MethodGet, orgURL+listPath)
				for pb.Next() {
					if err := c.call(p.rt); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// A create of 1 KiB, and an action, whose answer has a body.
func BenchmarkHealthyPost(b *testing.B) {
	for _, p := range peers(b) {
		b.Run("create/"+p.name, func(b *testing.B) { benchmark(b, p.rt, http.MethodPost, createPath) })
	}
	for _, p := range peers(b) {
		b.Run("action/"+p.name, func(b *testing.B) { benchmark(b, p.rt, http.MethodPost, actionPath) })
	}
}

func benchmark(b *testing.B, rt http.RoundTripper, method, path string) {
	c := newBenchCall(b, method, orgURL+path)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.call(rt); err != nil {
			b.Fatal(err)
		}
	}
}

// failedOver returns a Transport whose primary refuses connections and whose
// traffic has moved, and its Base.
func failedOver(tb testing.TB) (*failover.Transport, *memory) {
	base := &memory{down: "contoso.api.crm.dynamics.com"}
	transport := inMemory(tb, base)
	require.NoError(tb, newBenchCall(tb, http.MethodGet, orgURL+listPath).call(transport))
	require.Equal(tb, failover.Alternate, transport.Status().Active)
	return transport, base
}

func BenchmarkFailedOverGet(b *testing.B) {
	b.Run("base", func(b *testing.B) { benchmark(b, new(memory), http.MethodGet, listPath) })
	b.Run("failover", func(b *testing.B) {
		transport, base := failedOver(b)
		before := base.refused.Load()
		benchmark(b, transport, http.MethodGet, listPath)
		assert.Equal(b, before, base.refused.Load(), "the dead primary was asked")
	})
}

// allDown returns a Transport whose endpoints both refuse connections.
func allDown(tb testing.TB) *failover.Transport {
	transport := inMemory(tb, &memory{down: "*"})
	require.Error(tb, newBenchCall(tb, http.MethodGet, orgURL+listPath).call(transport))
	require.True(tb, transport.Status().Down)
	return transport
}

func BenchmarkDownFailingFast(b *testing.B) {
	transport := allDown(b)
	b.Run("sequential", func(b *testing.B) {
		c := newBenchCall(b, http.MethodGet, orgURL+listPath)
		b.ReportAllocs()
		for b.Loop() {
			if c.call(transport) == nil {
				b.Fatal("answered")
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			c := newBenchCall(b, http.MethodGet, orgURL+listPath)
			for pb.Next() {
				if c.call(transport) == nil {
					b.Error("answered")
					return
				}
			}
		})
	})
}

// Over HTTP/1.1 keep-alive connections with TLS to a server in this process. The
// callers share two cores with the server, so p99 is noisy.
func BenchmarkLoopbackTLS(b *testing.B) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("OData-Version", "4.0")
		w.Write(listed)
	}))
	defer server.Close()
	base := server.Client().Transport.(*http.Transport)
	base.MaxIdleConnsPerHost = 64
	transport, err := failover.New(server.URL, &failover.Config{Base: base, Alternate: "https://127.0.0.1:1", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	defer transport.Close()
	for _, p := range []struct {
		name string
		rt   http.RoundTripper
	}{{"base", base}, {"failover", transport}} {
		b.Run(p.name, func(b *testing.B) {
			var mu sync.Mutex
			var all []time.Duration
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				c := newBenchCall(b, http.MethodGet, server.URL+listPath)
				took := make([]time.Duration, 0, 1<<16)
				for pb.Next() {
					start := time.Now()
					if err := c.call(p.rt); err != nil {
						b.Error(err)
						return
					}
					took = append(took, time.Since(start))
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, took...)
			})
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Nanoseconds()), "p50-ns")
			b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds()), "p99-ns")
		})
	}
}

// The memory of a Transport is what New allocates: B/op is its upper bound.
func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		transport, err := failover.New(orgURL, nil)
		if err != nil {
			b.Fatal(err)
		}
		transport.Close()
	}
}

// What a call may allocate beyond what Base does by itself. The budgets are what
// it takes today; more is a regression.
func TestAllocations(t *testing.T) { // not parallel: it counts the allocations of the process
	if raceDetector() {
		t.Skip("with the race detector, a sync.Pool drops some of what it is given")
	}
	healthy := inMemory(t, new(memory))
	moved, _ := failedOver(t)
	down := allDown(t)
	tests := []struct {
		name   string
		reason string
		rt     http.RoundTripper
		method string
		path   string
		budget float64
	}{
		{"healthy GET", "by far the most calls", healthy, http.MethodGet, listPath, 1},
		{"healthy create", "its body is held, it is watched on its way, and the ledger keeps it", healthy, http.MethodPost, createPath, 7},
		{"healthy action", "a POST whose answer has a body", healthy, http.MethodPost, actionPath, 8},
		{"failed over GET", "an outage must not cost more than the move", moved, http.MethodGet, listPath, 1},
		{"failing fast", "while nothing serves, callers come back often", down, http.MethodGet, listPath, 5},
	}
	seen := make(map[string]bool)
	for _, test := range tests {
		require.False(t, seen[test.name] || test.reason == "", "%q is there twice, or has no reason", test.name)
		seen[test.name] = true
		floor := allocations(t, new(memory), test.method, test.path)
		if test.rt == down {
			floor = 0 // nothing is sent
		}
		added := allocations(t, test.rt, test.method, test.path) - floor
		t.Logf("%s: %+.0f over %.0f", test.name, added, floor)
		assert.LessOrEqual(t, added, test.budget, "%s: %s", test.name, test.reason)
	}
}

func raceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func allocations(t *testing.T, rt http.RoundTripper, method, path string) float64 {
	c := newBenchCall(t, method, orgURL+path)
	return testing.AllocsPerRun(1000, func() { c.call(rt) })
}

// A program may serve a thousand organizations: memory grows by the same small
// amount for each, and while they are healthy nothing runs.
func TestManyHealthyOrganizations(t *testing.T) { // not parallel: it measures the memory of the process
	const most = 64 << 10
	hundred, goroutines := organizations(t, 100)
	assert.Less(t, hundred, most)
	assert.Zero(t, goroutines)
	thousand, goroutines := organizations(t, 1000)
	assert.Less(t, thousand, most)
	assert.Zero(t, goroutines)
	assert.InEpsilon(t, hundred, thousand, 0.25, "memory is not linear")
	t.Logf("%d bytes each", thousand)
}

// organizations returns the bytes that each of n Transports takes after a
// request, and how many goroutines all of them have.
func organizations(t *testing.T, n int) (bytes, goroutines int) {
	base := new(memory)
	all := make([]*failover.Transport, n)
	heap, running := heapInUse(), runtime.NumGoroutine()
	for i := range all {
		host := fmt.Sprintf("https://contoso%d.api.crm.dynamics.com", i)
		transport, err := failover.New(host, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		require.NoError(t, newBenchCall(t, http.MethodGet, host+listPath).call(transport))
		all[i] = transport
	}
	bytes, goroutines = int(heapInUse()-heap)/n, runtime.NumGoroutine()-running
	for _, transport := range all {
		transport.Close()
	}
	return bytes, goroutines
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestNothingRunsWhileHealthy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		transport := inMemory(t, roundTripper(func(req *http.Request) (*http.Response, error) {
			calls.Add(1)
			return new(memory).RoundTrip(req)
		}))
		require.NoError(t, newBenchCall(t, http.MethodGet, orgURL+listPath).call(transport))
		time.Sleep(24 * time.Hour)
		assert.EqualValues(t, 1, calls.Load(), "a probe was sent")
	})
}

// How long the first caller of an outage waits for an answer, in round trips of
// 20 ms. Once the breaker has tripped it takes two: the probe of the alternate
// and the repeated request. Before that come the attempts that make it trip and
// the pauses between them.
func TestTheFirstGoodAnswerOfAnOutage(t *testing.T) {
	t.Parallel()
	const rtt = 20 * time.Millisecond
	tests := []struct {
		name, reason string
		primary      func(*http.Request) (*http.Response, error)
		attempts     int // at the primary
	}{
		{"refused", "a hard outage: three faults trip the breaker", refuse(errDial), 3},
		{"bare 503", "a front end without a back end", answer(503, ""), 3},
		{"fence", "the endpoint says so itself: one fault will do", fence, 1},
	}
	seen := make(map[string]bool)
	for _, test := range tests {
		require.False(t, seen[test.name] || test.reason == "", "%q is there twice, or has no reason", test.name)
		seen[test.name] = true
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var attempts int
				transport, err := failover.New(orgURL, &failover.Config{
					Logger: slog.New(slog.DiscardHandler),
					Base: roundTripper(func(req *http.Request) (*http.Response, error) {
						time.Sleep(rtt)
						switch alternate := strings.HasPrefix(req.URL.Host, "contoso--s."); {
						case alternate && strings.HasSuffix(req.URL.Path, "/WhoAmI"):
							return serves(req)
						case alternate:
							return new(memory).RoundTrip(req)
						case strings.HasSuffix(req.URL.Path, "/WhoAmI"):
							return test.primary(req)
						}
						attempts++
						return test.primary(req)
					}),
				})
				require.NoError(t, err)
				defer transport.Close()
				start := time.Now()
				require.NoError(t, newBenchCall(t, http.MethodGet, orgURL+listPath).call(transport))
				t.Logf("%v: %d attempts of %v", time.Since(start), attempts, rtt)
				assert.Equal(t, test.attempts, attempts)
				// An early question takes as long as a repeat, and so the fence: a probe, and the answer.
				assert.LessOrEqual(t, time.Since(start), time.Duration(test.attempts+2)*rtt, "no pause")
			})
		})
	}
}

// The inner round tripper of the benchmarks is what they take it for.
func TestTheFloorAllocatesTwice(t *testing.T) { // not parallel: it counts the allocations of the process
	assert.EqualValues(t, 2, allocations(t, new(memory), http.MethodGet, listPath))
	c := newBenchCall(t, http.MethodPost, orgURL+actionPath)
	body, err := c.req.GetBody()
	require.NoError(t, err)
	var sent bytes.Buffer
	n, err := sent.ReadFrom(body)
	require.NoError(t, err)
	assert.EqualValues(t, 1<<10, n)
}
