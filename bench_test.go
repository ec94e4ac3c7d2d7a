package failover_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// What the Transport costs over the bare RoundTripper below it. One run of one binary measures
// both, and only their difference means anything:
//
//	go test -run='^$' -bench=. -benchmem .
//
// docs/performance.md has the ratios, measured in turns, beside those of other libraries.

const (
	listPath   = "/api/data/v9.2/accounts?$select=name,revenue&$top=50"
	createPath = "/api/data/v9.2/accounts"
	actionPath = "/api/data/v9.2/contoso_Approve"
)

// memory is a Base without a network: it answers at once, as the Web API does, with two
// allocations. Calls write to nothing that they share, so it adds no contention to parallel
// calls.
type memory struct {
	down    string       // the host that refuses connections; "*": all hosts
	refused atomic.Int64 // refused calls
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

// inMemory returns a Transport over base that logs nothing, does not pause, and probes only
// for decisions.
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

// peers are the round trippers on the healthy path that are compared, the floor first.
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

// A benchCall sends one request over and over, as http.Client would, and reads the answers.
// One goroutine may use it.
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

// A create of 1 KiB, and an action whose answer has a body.
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

// failedOver returns a Transport that has failed over from a primary that refuses connections,
// and its Base.
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

// Over HTTP/1.1 keep-alive connections with TLS, to a server in this process. Callers and
// server share two cores, so p99 is noisy.
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

// New allocates the memory of a Transport: B/op is an upper bound of it.
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
