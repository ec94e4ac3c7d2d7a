package failover

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A clone of Base shares no connection with the original, keeps its settings, and notices dead
// connections.
func TestClonesOfBase(t *testing.T) {
	t.Parallel()
	none := fresh(new(http.Transport))
	assert.Equal(t, 90*time.Second, none.IdleConnTimeout, "no connection stays for ever")
	assert.Nil(t, none.TLSNextProto)
	assert.False(t, none.ForceAttemptHTTP2)
	off := fresh(&http.Transport{IdleConnTimeout: time.Hour, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}})
	assert.Equal(t, time.Hour, off.IdleConnTimeout)
	assert.NotNil(t, off.TLSNextProto, "this turns HTTP/2 off")
	assert.False(t, off.ForceAttemptHTTP2)
	on := fresh(&http.Transport{TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{"h2": func(string, *tls.Conn) http.RoundTripper { panic("of the original") }}})
	assert.Nil(t, on.TLSNextProto, "this leads to the connections of the original")
	assert.True(t, on.ForceAttemptHTTP2)

	wrapper := roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, io.EOF })
	base, owned := defaultBase(wrapper)
	assert.NotNil(t, base.(roundTripFunc))
	assert.False(t, owned)
	theirs := &http.Transport{HTTP2: &http.HTTP2Config{PingTimeout: time.Second, MaxConcurrentStreams: 7}}
	for _, current := range []*http.Transport{http.DefaultTransport.(*http.Transport), new(http.Transport), theirs, &http.Transport{HTTP2: &http.HTTP2Config{SendPingTimeout: time.Second}}} {
		base, owned := defaultBase(current)
		assert.True(t, owned)
		clone := base.(*http.Transport)
		want := http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}
		assert.NotSame(t, current, clone)
		if own := current.HTTP2; own != nil {
			assert.NotSame(t, own, clone.HTTP2)
			want.MaxConcurrentStreams = own.MaxConcurrentStreams
			want.PingTimeout = cmp.Or(own.PingTimeout, want.PingTimeout)
			want.SendPingTimeout = cmp.Or(own.SendPingTimeout, want.SendPingTimeout)
		}
		assert.Equal(t, want, *clone.HTTP2)
	}
	assert.Equal(t, http.HTTP2Config{PingTimeout: time.Second, MaxConcurrentStreams: 7}, *theirs.HTTP2, "the original is not changed")
}

// Close closes the idle connections of clones and leaves the program's own alone;
// CloseIdleConnections closes both.
func TestWhoseConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	for n := range 8 {
		set, instrumented, closes := n&1 != 0, n&2 != 0, n&4 != 0
		t.Run(fmt.Sprintf("Base set %t, Instrument %t, Close %t", set, instrumented, closes), func(t *testing.T) {
			t.Parallel()
			server := func() (string, <-chan struct{}) {
				closed := make(chan struct{}, 9)
				s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
				s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
					if state == http.StateClosed {
						closed <- struct{}{}
					}
				}
				s.Start()
				t.Cleanup(s.Close)
				return s.URL, closed
			}
			organization, ofPool := server()
			stranger, ofBase := server()
			base := new(http.Transport)
			defer base.CloseIdleConnections()
			cfg := Config{Alternate: NoAlternate, ProbeInterval: -1}
			if instrumented {
				cfg.Instrument = func(rt http.RoundTripper) http.RoundTripper { return nil } // nil leaves it as it is
			}
			client := &http.Client{Transport: base}
			if set {
				cfg.Base = base
			}
			client, transport, err := Wrap(client, organization, &cfg)
			require.NoError(t, err)
			defer transport.Close()
			for _, url := range []string{organization, stranger} {
				resp, err := client.Get(url)
				require.NoError(t, err)
				resp.Body.Close()
			}
			pool := transport.state.Load().pool
			assert.Equal(t, !set || instrumented, pool.own)
			assert.Equal(t, set && !instrumented, pool.base == http.RoundTripper(base))
			closing := [2]bool{true, true}
			if closes {
				transport.Close()
				closing = [2]bool{pool.own, false} // connections to other hosts are the program's own
			} else {
				transport.CloseIdleConnections()
			}
			for i, closed := range []<-chan struct{}{ofPool, ofBase} {
				if closing[i] {
					<-closed
				} else {
					assert.Empty(t, closed)
				}
			}
		})
	}
}

// idleClosings records calls of CloseIdleConnections.
type idleClosings struct {
	http.RoundTripper
	mu sync.Mutex
	at []time.Time
}

func (c *idleClosings) CloseIdleConnections() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = append(c.at, time.Now())
}

// The connections of a retired pool are closed at once, when a call that used one ends, and
// 100 ms after either, because net/http may be late.
func TestWhenConnectionsAreReleased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start, c := time.Now(), new(idleClosings)
		p := &pool{closer: c}
		p.leave()
		assert.Empty(t, c.at, "it is in use")
		p.retire()
		time.Sleep(time.Second)
		p.leave()
		time.Sleep(60 * time.Millisecond)
		p.leave()
		time.Sleep(time.Hour)
		var after []time.Duration
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, at := range c.at {
			after = append(after, at.Sub(start))
		}
		const ms = time.Millisecond
		assert.Equal(t, []time.Duration{0, 100 * ms, 1000 * ms, 1060 * ms, 1160 * ms}, after)
		(&pool{}).closeIdle() // for a Base that cannot close any
	})
}

// A probe shares no connections: it opens its own, outside the limits of Base, and closes it.
func TestAProbeOpensAConnectionOfItsOwn(t *testing.T) {
	t.Parallel()
	release, entered, addresses := make(chan struct{}), make(chan struct{}), make(chan string, 9)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/occupied" {
			close(entered)
			<-release
			return
		}
		assert.True(t, r.Close)
		addresses <- r.RemoteAddr
	}))
	defer server.Close()
	base := &http.Transport{MaxConnsPerHost: 1}
	defer base.CloseIdleConnections()
	transport := newTestTransport(t, base, Config{ProbeInterval: -1})
	go base.RoundTrip(httptest.NewRequestWithContext(t.Context(), "GET", server.URL+"/occupied", nil))
	<-entered
	defer close(release)
	for range 3 {
		resp, err := transport.dialAnew(httptest.NewRequestWithContext(t.Context(), "GET", server.URL, nil))
		require.NoError(t, err)
		resp.Body.Close()
	}
	a, b, c := <-addresses, <-addresses, <-addresses
	assert.True(t, a != b && b != c && a != c)
}

// connecting is a Base that is not an *http.Transport, and has old connections.
type connecting struct {
	idleClosings
	old     int // how many attempts get an old connection
	fails   bool
	bodies  []*opaqueBody
	causes  []error
	ctx     context.Context
	ofCalls func()
}

func (c *connecting) RoundTrip(req *http.Request) (*http.Response, error) {
	if c.ofCalls != nil {
		c.ofCalls()
	}
	if c.ctx = req.Context(); !req.Close {
		return nil, errors.New("not the last one")
	}
	if trace := httptrace.ContextClientTrace(c.ctx); trace != nil {
		trace.GotConn(httptrace.GotConnInfo{Reused: len(c.causes) < c.old})
		trace.WroteHeaders()
	}
	c.causes = append(c.causes, context.Cause(c.ctx))
	if c.fails {
		return nil, io.EOF
	}
	body := &opaqueBody{Reader: strings.NewReader("")}
	c.bodies = append(c.bodies, body)
	return &http.Response{StatusCode: 200, Body: body}, nil
}

// A probe through a wrapped Base uses up old connections, seven at most.
func TestAProbeWearsOutOldConnections(t *testing.T) {
	t.Parallel()
	for old, tries := range map[int]int{0: 1, 1: 2, 7: 8, 8: 8, 100: 8} {
		c := &connecting{old: old}
		transport := newTestTransport(t, c, Config{ProbeInterval: -1})
		resp, err := transport.dialAnew(httptest.NewRequestWithContext(t.Context(), "GET", "https://contoso.example", nil))
		require.NoError(t, err)
		require.Len(t, c.causes, tries, "%d", old)
		assert.Len(t, c.at, tries, "idle connections are closed first")
		for i, cause := range c.causes {
			if i < old && i < 7 {
				assert.Equal(t, errOldConnection, cause, "the answer is not waited for")
				assert.Equal(t, 1, c.bodies[i].closes)
			} else {
				assert.NoError(t, cause)
				assert.Zero(t, c.bodies[i].closes)
			}
		}
		assert.NoError(t, c.ctx.Err(), "while the body is read")
		resp.Body.Close()
		assert.Error(t, c.ctx.Err(), "the context is released")
	}
	c := &connecting{fails: true}
	transport := newTestTransport(t, c, Config{ProbeInterval: -1})
	_, err := transport.dialAnew(httptest.NewRequestWithContext(t.Context(), "GET", "https://contoso.example", nil))
	assert.Equal(t, io.EOF, err)
	assert.Error(t, c.ctx.Err(), "the context is released")

	ctx, cancel := context.WithCancel(t.Context())
	c = &connecting{old: 100, ofCalls: cancel}
	transport = newTestTransport(t, c, Config{ProbeInterval: -1})
	transport.dialAnew(httptest.NewRequestWithContext(ctx, "GET", "https://contoso.example", nil))
	assert.Len(t, c.causes, 1, "the probe is over")

	c = new(connecting)
	transport = newTestTransport(t, c, Config{ProbeBase: c, ProbeInterval: -1})
	_, err = transport.dialAnew(httptest.NewRequestWithContext(t.Context(), "GET", "https://contoso.example", nil))
	assert.EqualError(t, err, "not the last one", "a ProbeBase knows itself what to do")
	assert.Empty(t, c.at)
}

// A Base that answers without a body, against the rules of http.RoundTripper, does not make a
// probe panic.
func TestAProbeThatIsAnsweredWithoutABody(t *testing.T) {
	t.Parallel()
	req, err := http.NewRequest("GET", "https://contoso.api.crm.dynamics.com/", nil)
	require.NoError(t, err)
	base := roundTripFunc(func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 204}, nil })
	resp, err, old := lastOfConnection(base, req, true)
	require.NoError(t, err)
	assert.Nil(t, resp.Body)
	assert.False(t, old)
}
