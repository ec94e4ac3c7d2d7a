package chaos

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"golang.org/x/net/http2"
)

// idHeader carries the id of a request. Probes have none.
const idHeader = "X-Request-Id"

// A moment is when a fault begins, relative to the request that meets it.
type moment uint8

const (
	cold    moment = iota // before the request, with no connection open
	warm                  // before the request, with an idle connection open
	during                // after half of the request's body
	headers               // the request was carried out, and no header of the answer sent
	mid                   // after the headers and half of the body of the answer
)

func (m moment) String() string {
	return [...]string{"cold", "warm", "during request", "before headers", "mid-body"}[m]
}

// A delivery counts what happened to the requests with one id at one endpoint.
type delivery struct {
	arrived int // complete headers arrived
	refused int // provably not carried out: fence, GOAWAY, REFUSED_STREAM
	applied int
}

// A side is one endpoint.
type side struct {
	pair  *pair
	host  string
	ln    net.Listener
	srv   *http.Server
	h2    http2.Server
	proxy *toxiproxy.Proxy // nil if clients connect directly

	closed   atomic.Bool // refuses connections
	fenced   atomic.Bool
	nameGone atomic.Bool
	cert     atomic.Pointer[tls.Certificate]
	hole     atomic.Pointer[blackHole]
	front    atomic.Pointer[http.HandlerFunc]          // replaces the whole endpoint
	answer   atomic.Pointer[http.HandlerFunc]          // replaces the answer
	rawH2    atomic.Pointer[func(s *side, c net.Conn)] // replaces the HTTP/2 server
	written  atomic.Int64                              // bytes of hostile answers
	stalled  atomic.Bool                               // drops what arrives and what is sent

	mu         sync.Mutex
	deliveries map[string]delivery
	trap       *trap
	conns      map[net.Conn]bool
}

// A trap is a fault that is sprung when a request reaches a moment.
type trap struct {
	at     moment
	once   sync.Once
	spring func()
	// seen is closed when the client has received the headers of the answer.
	seen     chan struct{}
	seenOnce sync.Once
}

func newSide(p *pair, host string, proxied bool) *side {
	return newSideAt(p, host, "127.0.0.1:0", proxied)
}

// newSideAt is newSide at an address.
func newSideAt(p *pair, host, address string, proxied bool) *side {
	s := &side{pair: p, host: host, ln: must(net.Listen("tcp", address)),
		deliveries: make(map[string]delivery), conns: make(map[net.Conn]bool)}
	s.cert.Store(&certs().good)
	s.srv = &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0), ConnContext: withConn,
		TLSConfig: &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil },
			NextProtos:     []string{"h2", "http/1.1"},
		},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){"h2": s.serveH2},
	}
	if proxied {
		server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
		s.proxy = toxiproxy.NewProxy(server, host, "127.0.0.1:0", s.ln.Addr().String())
		if err := s.proxy.Start(); err != nil {
			panic("chaos: " + err.Error())
		}
	}
	s.serve()
	return s
}

// addr is where clients connect to.
func (s *side) addr() string {
	if s.closed.Load() {
		return refusing
	}
	if hole := s.hole.Load(); hole != nil {
		return hole.addr()
	}
	if s.proxy != nil {
		s.proxy.Lock()
		defer s.proxy.Unlock()
		return s.proxy.Listen
	}
	return s.ln.Addr().String()
}

func (s *side) close() {
	if hole := s.hole.Load(); hole != nil {
		hole.close()
	}
	if s.proxy != nil {
		s.proxy.Stop()
	}
	s.srv.Close()
	s.cut()
}

// refusing is an address where nothing listens. A port of our own, once closed, could be taken
// by another process.
const refusing = "127.0.0.1:1"

// refuse refuses new connections and closes the open ones.
func (s *side) refuse() {
	s.closed.Store(true)
	if s.proxy != nil {
		s.proxy.Stop()
	}
	s.cut()
}

// recover ends a refusal, a stall, or a hostile answer.
func (s *side) recover() {
	s.front.Store(nil)
	s.answer.Store(nil)
	if s.stalled.Swap(false) {
		s.cut() // data on open connections was lost
	}
	s.closed.Store(false)
}

// serve starts to accept connections.
func (s *side) serve() {
	ln := s.ln
	s.pair.running.Go(func() { s.srv.ServeTLS(tracked{ln, s}, "", "") })
}

// cut resets every connection.
func (s *side) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if tc, ok := c.(*trackedConn).Conn.(*net.TCPConn); ok {
			tc.SetLinger(0)
		}
		c.(*trackedConn).Conn.Close()
	}
	clear(s.conns)
}

// toxic adds a toxiproxy toxic in both directions, given its type and its attributes in JSON.
func (s *side) toxic(kind, attributes string, streams ...string) {
	if len(streams) == 0 {
		streams = []string{"upstream", "downstream"}
	}
	for _, stream := range streams {
		spec := `{"type":"` + kind + `","stream":"` + stream + `","attributes":` + attributes + `}`
		must(s.proxy.Toxics.AddToxicJson(strings.NewReader(spec)))
	}
}

// set sets a trap for the first request that reaches the moment.
func (s *side) set(at moment, spring func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trap = &trap{at: at, spring: spring, seen: make(chan struct{})}
}

// reached springs the trap if it is set for the moment. In the middle of a body, it first
// waits until the client has received the headers.
func (s *side) reached(at moment) {
	t := s.currentTrap()
	if t == nil || t.at != at {
		return
	}
	t.once.Do(func() {
		if at == mid {
			select {
			case <-t.seen:
			case <-time.After(patience):
			}
		}
		t.spring()
	})
}

// sawHeaders notes that the client has received the headers of an answer.
func (s *side) sawHeaders() {
	if t := s.currentTrap(); t != nil {
		t.seenOnce.Do(func() { close(t.seen) })
	}
}

func (s *side) currentTrap() *trap {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trap
}

func (s *side) note(id string, what delivery) {
	if id == "" || s.pair.writes != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.deliveries[id]
	s.deliveries[id] = delivery{d.arrived + what.arrived, d.refused + what.refused, d.applied + what.applied}
}

// delivered returns the counts for an id.
func (s *side) delivered(id string) delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deliveries[id]
}

// Bodies long enough to be cut in the middle.
var (
	requestBody  = bytes.Repeat([]byte("r"), 64<<10)
	responseBody = bytes.Repeat([]byte("a"), 64<<10)
)

const (
	fenceBody = `{"error":{"code":"0x8004B065","message":"The datacenter is not available."}}`
	whoAmI    = `{"BusinessUnitId":"00000000-0000-4000-8000-000000000001","UserId":"00000000-0000-4000-8000-000000000002","OrganizationId":"00000000-0000-4000-8000-000000000003"}`
)

// ServeHTTP answers as an organization does, as far as the client can tell.
func (s *side) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(idHeader)
	s.note(id, delivery{arrived: 1})
	w.Header().Set("Content-Type", "application/json")
	if front := s.front.Load(); front != nil {
		io.Copy(io.Discard, r.Body)
		(*front)(w, r)
		return
	}
	if s.fenced.Load() && s.answer.Load() == nil {
		io.Copy(io.Discard, r.Body)
		s.note(id, delivery{refused: 1})
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, fenceBody)
		return
	}
	probe := strings.HasSuffix(r.URL.Path, "/WhoAmI")
	if !probe {
		io.CopyN(io.Discard, r.Body, int64(len(requestBody)/2))
		s.reached(during)
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
	s.note(id, delivery{applied: 1})
	if r.Method == http.MethodPost {
		s.pair.writes.add(id)
	}
	if !probe {
		s.reached(headers)
	}
	if answer := s.answer.Load(); answer != nil {
		(*answer)(w, r)
		return
	}
	if probe || r.URL.RawQuery == "small" {
		io.WriteString(w, whoAmI)
		return
	}
	w.Write(responseBody[:len(responseBody)/2])
	http.NewResponseController(w).Flush()
	s.reached(mid)
	w.Write(responseBody[len(responseBody)/2:])
}

// serveH2 serves an HTTP/2 connection, or leaves it to a script.
func (s *side) serveH2(_ *http.Server, c *tls.Conn, h http.Handler) {
	if raw := s.rawH2.Load(); raw != nil {
		(*raw)(s, c)
		return
	}
	s.h2.ServeConn(c, &http2.ServeConnOpts{Context: withConn(context.Background(), c), BaseConfig: s.srv, Handler: h})
}

// tracked is a listener that keeps track of the connections of its side.
type tracked struct {
	net.Listener
	s *side
}

func (t tracked) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tc := &trackedConn{c, t.s}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.s.conns[tc] = true
	return tc, nil
}

type trackedConn struct {
	net.Conn
	s *side
}

func (c *trackedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for err == nil && c.s.stalled.Load() {
		n, err = c.Conn.Read(p)
	}
	return n, err
}

func (c *trackedConn) Write(p []byte) (int, error) {
	if c.s.stalled.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

type connKey struct{}

// withConn puts the connection into the context of its requests.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c.(*tls.Conn).NetConn())
}

// resetConnection resets the connection of a request that was carried out.
func resetConnection(_ http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(*trackedConn)
	c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
	panic(http.ErrAbortHandler)
}

func (c *trackedConn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}
