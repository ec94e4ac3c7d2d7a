package failover_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// What calls and organizations cost, counted exactly: allocations, bytes, memory, round trips.
// (wire_cost_test.go counts what goes over the wire; the benchmarks measure times.)

// A costed is a request that is sent over and over.
type costed struct {
	method, path, contentType, action string
	body                              []byte
}

var (
	aGet    = costed{method: http.MethodGet, path: listPath}
	aCreate = costed{method: http.MethodPost, path: createPath, contentType: "application/json; charset=utf-8",
		body: []byte(`{"name":"Contoso","description":"` + strings.Repeat("x", 1<<10-35) + `"}`)}
	anAction = costed{method: http.MethodPost, path: actionPath, contentType: "application/json", body: aCreate.body}
	aSOAP    = costed{method: http.MethodPost, path: "/XRMServices/2011/Organization.svc/web", contentType: "text/xml; charset=utf-8",
		action: `"http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/Create"`, body: longSOAP()}
	aBatch = costed{method: http.MethodPost, path: "/api/data/v9.2/$batch", contentType: "multipart/mixed; boundary=batch", body: batchOfCreates(10)}
	aMiss  = costed{method: http.MethodGet, path: missingPath}
)

// missingPath is the path of a record that missing answers with the service's own 404.
const missingPath = "/api/data/v9.2/accounts(00000000-0000-0000-0000-000000000404)"

// longSOAP returns a Create of 5 KB.
func longSOAP() []byte {
	const attribute = `<b:KeyValuePairOfstringanyType><c:key xmlns:c="http://schemas.datacontract.org/2004/07/System.Collections.Generic">` +
		`name</c:key><c:value>Contoso</c:value></b:KeyValuePairOfstringanyType>`
	return []byte(`<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>` +
		`<Create xmlns="http://schemas.microsoft.com/xrm/2011/Contracts/Services"><entity xmlns:b="http://schemas.microsoft.com/xrm/2011/Contracts">` +
		`<b:Attributes>` + strings.Repeat(attribute, 25) + `</b:Attributes><b:LogicalName>account</b:LogicalName></entity></Create></s:Body></s:Envelope>`)
}

func batchOfCreates(n int) []byte {
	const part = "--batch\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n" +
		"POST /api/data/v9.2/accounts HTTP/1.1\r\nContent-Type: application/json\r\n\r\n{\"name\":\"Contoso\"}\r\n"
	return []byte(strings.Repeat(part, n) + "--batch--\r\n")
}

// missing is memory, except for missingPath.
type missing struct{ memory }

func (m *missing) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := m.memory.RoundTrip(req)
	if err == nil && req.URL.Path == missingPath {
		const body = `{"error":{"code":"0x80040217","message":"account With Id = 00000000-0000-0000-0000-000000000404 Does Not Exist"}}`
		resp.StatusCode, resp.Body, resp.ContentLength = http.StatusNotFound, io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	return resp, err
}

// counted returns what one call allocates.
func (c costed) counted(t *testing.T, rt http.RoundTripper) (mallocs, size float64) {
	t.Helper()
	var body io.Reader
	if c.body != nil {
		body = bytes.NewReader(c.body)
	}
	req, err := http.NewRequest(c.method, orgURL+c.path, body)
	require.NoError(t, err)
	req.Header = http.Header{"Accept": {"application/json"}, "Authorization": {"Bearer contoso"}, "Odata-Version": {"4.0"}, "User-Agent": {"contoso/1.0"}}
	if c.contentType != "" {
		req.Header["Content-Type"] = []string{c.contentType}
	}
	if c.action != "" {
		req.Header["Soapaction"] = []string{c.action}
	}
	call := benchCall{req}
	const n = 2000
	for range 5000 { // until the ledger has stopped growing
		call.call(rt)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	least, smallest := uint64(1<<63), uint64(1<<63)
	for range 5 { // the minimum of several runs, because other goroutines may allocate meanwhile
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			call.call(rt)
		}
		runtime.ReadMemStats(&after)
		least, smallest = min(least, after.Mallocs-before.Mallocs), min(smallest, after.TotalAlloc-before.TotalAlloc)
	}
	return float64(least / n), float64(smallest / n)
}

// What a call may allocate on top of what Base does. More is a regression.
func TestAllocations(t *testing.T) { // not parallel: it counts the allocations of the process
	if raceDetector() {
		t.Skip("with the race detector, a sync.Pool drops some of what it is given")
	}
	with := func(cfg failover.Config) *failover.Transport {
		cfg.Base, cfg.Logger = new(missing), slog.New(slog.DiscardHandler)
		transport, err := failover.New(orgURL, &cfg)
		require.NoError(t, err)
		t.Cleanup(func() { transport.Close() })
		return transport
	}
	healthy := with(failover.Config{})
	authorized := with(failover.Config{Authorize: func(req *http.Request) error {
		req.Header["Authorization"] = []string{"Bearer contoso"}
		return nil
	}})
	timed := with(failover.Config{AttemptTimeout: time.Minute})
	moved, base := failedOver(t)
	down := allDown(t)
	refused := base.refused.Load()
	tests := []struct {
		name, reason  string
		rt            http.RoundTripper
		call          costed
		mallocs, size float64
	}{
		{"healthy GET", "by far the most calls", healthy, aGet, 1, 64},
		{"healthy create", "its body is held, it is watched on its way, and the ledger keeps it", healthy, aCreate, 7, 2000},
		{"healthy action", "a POST whose answer has a body", healthy, anAction, 8, 2100},
		{"SOAP write of 5 KB", "it is held, and parsed no further than it takes to see that it writes", healthy, aSOAP, 10, 8 << 10},
		{"$batch of ten writes", "the first of them will do", healthy, aBatch, 20, 4 << 10},
		{"404 of the service", "it is read for its code, by a goroutine that can be left behind", healthy, aMiss, 64, 3000},
		{"GET with Authorize", "a copy of the request and its header", authorized, aGet, 5, 1232},
		{"create with Authorize", "the same, and the body", authorized, aCreate, 13, 2752},
		{"GET with AttemptTimeout", "a context and a timer", timed, aGet, 7, 1024},
		{"create with AttemptTimeout", "the same, and the body", timed, aCreate, 11, 2432},
		{"failed over GET", "an outage must not cost more than the move", moved, aGet, 1, 512},
		{"failing fast", "while nothing serves, callers come back often", down, aGet, 5, 400},
	}
	seen := make(map[string]bool)
	for _, test := range tests {
		require.False(t, seen[test.name] || test.reason == "", "%q is there twice, or has no reason", test.name)
		seen[test.name] = true
		mallocs, size := test.call.counted(t, test.rt)
		if test.rt != down { // nothing is sent
			m, s := test.call.counted(t, new(missing))
			mallocs, size = mallocs-m, size-s
		}
		t.Logf("%s: %+.0f, %+.0f bytes", test.name, mallocs, size)
		assert.LessOrEqual(t, mallocs, test.mallocs, "%s: %s", test.name, test.reason)
		assert.LessOrEqual(t, size, test.size, "%s: %s", test.name, test.reason)
	}
	assert.Equal(t, refused, base.refused.Load(), "the dead primary was asked")
}

func raceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// A program may serve thousands of organizations. Each takes the same small amount of memory,
// and while they are healthy, nothing runs.
func TestOrganizationsAreSmall(t *testing.T) { // not parallel: it measures the memory of the process
	if raceDetector() {
		t.Skip("the race detector takes memory of its own")
	}
	organizations(t, 4000)                // memory that the process takes now, it keeps
	for _, n := range []int{1000, 4000} { // memory grows linearly
		idle, written, goroutines := organizations(t, n)
		for range 2 { // memory of other tests may or may not be freed meanwhile
			i, w, g := organizations(t, n)
			idle, written, goroutines = min(idle, i), min(written, w), min(goroutines, g)
		}
		t.Logf("%d organizations: %d bytes each, %d after a write", n, idle, written)
		assert.LessOrEqual(t, idle, 3<<10)
		assert.LessOrEqual(t, written, 12<<10)
		assert.Zero(t, goroutines)
	}
}

// organizations returns the bytes that each of n Transports takes, some time after a read and
// after a write, and the number of goroutines that all of them have.
func organizations(t *testing.T, n int) (idle, written, goroutines int) {
	synctest.Test(t, func(t *testing.T) {
		base := new(memory)
		all := make([]*failover.Transport, n)
		calls := make([]*benchCall, n)
		for i := range calls {
			calls[i] = newBenchCall(t, http.MethodGet, fmt.Sprintf("https://contoso%d.api.crm.dynamics.com%s", i, listPath))
		}
		heap, running := heapInUse(), runtime.NumGoroutine()
		for i, c := range calls {
			transport, err := failover.New("https://"+c.req.URL.Host, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			require.NoError(t, c.call(transport))
			all[i] = transport
		}
		time.Sleep(time.Minute)
		idle = int(heapInUse()-heap) / n
		for i, c := range calls {
			c.req.Method, c.req.URL.Path = http.MethodPost, createPath
			require.NoError(t, c.call(all[i]))
		}
		time.Sleep(time.Minute)
		written, goroutines = int(heapInUse()-heap)/n, runtime.NumGoroutine()-running
		for _, transport := range all {
			transport.Close()
		}
	})
	return idle, written, goroutines
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

// How long the first caller of an outage waits for an answer, in round trips of 20 ms. Once
// the breaker has tripped it takes two: the probe of the alternate and the repeated request.
// Before that come the attempts that trip it, and the pauses between them.
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
				// An early question takes as long as a repeat; so does a fence: a probe, and
				// the answer.
				assert.LessOrEqual(t, time.Since(start), time.Duration(test.attempts+2)*rtt, "no pause")
			})
		})
	}
}

// The floor of the benchmarks costs what they assume.
func TestTheFloorAllocatesTwice(t *testing.T) { // not parallel: it counts the allocations of the process
	mallocs, _ := aGet.counted(t, new(memory))
	assert.EqualValues(t, 2, mallocs)
	assert.Len(t, aCreate.body, 1<<10)
	assert.InDelta(t, 5000, len(aSOAP.body), 200)
}
