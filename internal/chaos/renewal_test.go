package chaos

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// answersOfAllKinds gives every kind of end that a call can have.
func answersOfAllKinds(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/WhoAmI"):
		io.WriteString(w, whoAmI)
	case r.URL.RawQuery == "nothing":
		w.WriteHeader(http.StatusNoContent)
	case r.URL.RawQuery == "unavailable":
		unavailable(w, r)
	case r.URL.RawQuery == "upgrade":
		hijacked(w, func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			io.Copy(c, c)
		})
	case r.URL.RawQuery == "silent":
		<-r.Context().Done()
	default:
		w.Write(responseBody)
	}
}

// A begunCall begins before a renewal and ends after it.
type begunCall struct {
	query, method string
	h1            bool // does not work over HTTP/2
	end           func(t *testing.T, resp *http.Response)
}

func readToEnd(t *testing.T, resp *http.Response) {
	_, err := io.Copy(io.Discard, resp.Body)
	assert.NoError(t, err)
	resp.Body.Close()
}

var begunCalls = []begunCall{
	{query: "read slowly", method: "GET", end: func(t *testing.T, resp *http.Response) {
		_, err := io.CopyN(io.Discard, resp.Body, 1000)
		assert.NoError(t, err)
		readToEnd(t, resp)
	}},
	{query: "closed early", method: "GET", end: func(_ *testing.T, resp *http.Response) { resp.Body.Close() }},
	{query: "nothing", method: "GET", end: readToEnd},
	{query: "head", method: "HEAD", end: readToEnd},
	{query: "written", method: "POST", end: readToEnd},
	{query: "unavailable", method: "POST", end: readToEnd},
	{query: "upgrade", method: "GET", h1: true, end: func(t *testing.T, resp *http.Response) {
		rw := resp.Body.(io.ReadWriteCloser)
		io.WriteString(rw, "ping\n")
		line, err := bufio.NewReader(rw).ReadString('\n')
		assert.NoError(t, err)
		assert.Equal(t, "ping\n", line)
		rw.Close()
	}},
}

// A thousand renewals leave no more connections, goroutines or memory behind: a connection is
// closed when its last call has ended. Not parallel: it counts the goroutines and the memory
// of the process.
func TestRenewalsLeakNothing(t *testing.T) {
	renewals := 1000
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			p := newPair(false)
			defer p.close()
			answers := http.HandlerFunc(answersOfAllKinds)
			p.primary.front.Store(&answers)
			p.alternate.front.Store(&answers)
			w := p.newWire(h2)
			// net/http keeps a closed HTTP/2 connection in memory until its longest timer has
			// run out.
			w.IdleConnTimeout, w.HTTP2.SendPingTimeout = time.Second, time.Second
			label := t.Name()
			pprof.Do(t.Context(), pprof.Labels("client", label), func(ctx context.Context) {
				rt, err := failover.New(orgURL, &failover.Config{Base: w.Transport, FailureThreshold: -1, MaxAttempts: -1, LedgerSize: -1, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				call := func(c begunCall) *http.Response {
					req := newSmallRequest(ctx, c.method, "")
					req.URL.RawQuery = strings.ReplaceAll(c.query, " ", "+")
					if c.query == "upgrade" {
						req.Header.Set("Connection", "Upgrade")
						req.Header.Set("Upgrade", "echo")
					}
					resp, err := rt.RoundTrip(req)
					require.NoError(t, err, c.query)
					return resp
				}
				settled := func() (conns int64, goroutines int) {
					tick := time.NewTicker(20 * time.Millisecond)
					defer tick.Stop()
					for range 500 {
						if conns, goroutines = w.open(), labelled(label); conns <= 2 && goroutines <= 8 {
							break
						}
						<-tick.C
					}
					return conns, goroutines
				}
				to := failover.Primary
				renew := func(i int) {
					c := begunCalls[i%len(begunCalls)]
					if c.h1 && h2 {
						c = begunCalls[0]
					}
					resp := call(c)
					impatient, cancel := context.WithCancel(ctx)
					waiting := make(chan struct{})
					if i%10 == 0 { // waits for its headers and is cancelled later
						go func() {
							defer close(waiting)
							req := newSmallRequest(impatient, "GET", "")
							req.URL.RawQuery = "silent"
							_, err := rt.RoundTrip(req)
							assert.Error(t, err)
						}()
					} else {
						close(waiting)
					}
					to ^= 1
					require.NoError(t, rt.Switch(ctx, to, "renewal"))
					c.end(t, resp)
					cancel()
					<-waiting
				}
				for i := range 50 {
					renew(i)
				}
				conns, goroutines := settled()
				before := liveHeap()
				for i := range renewals {
					renew(i)
					if i%250 == 249 {
						n, g := settled()
						assert.LessOrEqual(t, n, int64(2), "connections after %d renewals", i+1)
						assert.LessOrEqual(t, g, 8, "goroutines after %d renewals", i+1)
					}
				}
				n, g := settled()
				after := liveHeap()
				tick := time.NewTicker(100 * time.Millisecond)
				defer tick.Stop()
				for i := 0; i < 50 && after > before+1<<20; i++ {
					<-tick.C
					after = liveHeap()
				}
				t.Logf("connections %d and %d, goroutines %d and %d, memory %d KiB and %d KiB", conns, n, goroutines, g, before>>10, after>>10)
				assert.Less(t, after, before+1<<20, "there is no ledger")
				rt.Close()
			})
			w.CloseIdleConnections()
			goroutines, conns := leftovers(w, label)
			assert.Zero(t, goroutines)
			assert.Zero(t, conns)
		})
	}
}

// liveHeap returns the bytes in use after garbage collections.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A read that has waited for long in the black hole of an old place is sent again over a new
// connection. A write keeps waiting.
func TestAReadThatWaitsAtTheOldPlaceIsSentAgain(t *testing.T) {
	t.Parallel()
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := newMovable(nil)
			require.NoError(t, err)
			defer m.close()
			base := m.base(h2)
			defer base.CloseIdleConnections()
			renewed := make(chan string, 16)
			rt, err := failover.New(orgURL, &failover.Config{Base: base, SuspectAfter: 200 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
				OnEvent: func(e failover.Event) {
					if e.Kind == failover.EventRenewed {
						renewed <- e.Reason
					}
				}})
			require.NoError(t, err)
			defer rt.Close()
			good := func(ctx context.Context, method, id string) error {
				resp, err := rt.RoundTrip(newSmallRequest(ctx, method, id))
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					return fmt.Errorf("status %d", resp.StatusCode)
				}
				_, err = io.Copy(io.Discard, resp.Body)
				return err
			}
			var idle []*http.Response
			for range 2 { // two connections, over HTTP/1.1
				resp, err := rt.RoundTrip(newSmallRequest(t.Context(), "GET", "before"))
				require.NoError(t, err)
				idle = append(idle, resp)
			}
			for _, resp := range idle {
				readToEnd(t, resp)
			}
			pause(500 * time.Millisecond) // reads sent right after an answer are not watched
			m.old.stalled.Store(true)
			m.next.mode.Store(placeServes)
			m.behind.Store(m.next)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			write, read := make(chan error, 1), make(chan error, 1)
			begun := time.Now()
			go func() { read <- good(ctx, "GET", "read") }()
			go func() { write <- good(ctx, "POST", "write") }()
			select {
			case err := <-read:
				require.NoError(t, err)
			case <-time.After(time.Minute):
				require.Fail(t, "the read waits")
			}
			assert.Greater(t, time.Since(begun), 2*time.Second, "nobody is given up at once")
			assert.True(t, m.next.has("read"))
			assert.Contains(t, <-renewed, "its name resolves to other addresses (127.0.0.1 before, 127.0.0.2 now)")
			select {
			case err := <-write:
				assert.Fail(t, "the write has ended", "%v", err)
			default:
			}
			assert.False(t, m.next.has("write"), "it is in doubt, and is not made twice")
			cancel()
			assert.ErrorIs(t, <-write, failover.ErrOutcomeUnknown)
		})
	}
}
