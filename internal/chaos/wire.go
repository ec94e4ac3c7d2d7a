package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/d365failover/failover"
)

// A breakOff is one way in which an HTTP/2 server ends a stream without an answer.
type breakOff struct {
	name string
	end  func(c *h2Conn, stream uint32) (goOn bool)
	// proof: it says credibly that the request was not carried out. A server must not send it
	// for a request that was.
	proof bool
}

func resets(code http2.ErrCode) breakOff {
	return breakOff{name: code.String(), end: func(c *h2Conn, stream uint32) bool { return c.WriteRSTStream(stream, code) == nil }}
}

func goesAway(name string, last func(stream uint32) uint32, code http2.ErrCode, proof bool) breakOff {
	return breakOff{name: name, proof: proof, end: func(c *h2Conn, stream uint32) bool {
		c.WriteGoAway(last(stream), code, nil)
		return false
	}}
}

var breakOffs = []breakOff{
	resets(http2.ErrCodeNo), resets(http2.ErrCodeProtocol), resets(http2.ErrCodeInternal), resets(http2.ErrCodeRefusedStream),
	resets(http2.ErrCodeCancel), resets(http2.ErrCodeEnhanceYourCalm), resets(http2.ErrCodeHTTP11Required),
	goesAway("GOAWAY without the stream", func(stream uint32) uint32 { return stream - 1 }, http2.ErrCodeNo, true),
	goesAway("GOAWAY with the stream", func(stream uint32) uint32 { return stream }, http2.ErrCodeNo, false),
	goesAway("GOAWAY, INTERNAL_ERROR", func(stream uint32) uint32 { return stream }, http2.ErrCodeInternal, false),
	{name: "closed", end: func(*h2Conn, uint32) bool { return false }},
}

// What the endpoint does after the break-off.
const (
	serves  = "serves"
	dies    = "dies"
	fences  = "fences"
	refuses = "refuses" // refuses every stream
)

var afterwards = []string{serves, dies, fences, refuses}

// A shape is one form of request.
type shape struct {
	name   string
	method string
	body   bool
	change func(*http.Request) *http.Request
	// untyped: it has neither body nor Content-Type and is sent unchanged, in which case
	// net/http does not show that a GOAWAY left it out.
	untyped bool
	once    bool // its body is streamed, and cannot be sent again
}

// believed reports whether the Transport can learn that a GOAWAY left the request out. For a
// request without a body, it can if it knows that the endpoint speaks HTTP/2.
func (c wireCell) believed() bool {
	return c.breakOff.proof && !c.shape.untyped && (c.shape.body || c.warm)
}

func noReplay(req *http.Request) *http.Request {
	return req.WithContext(failover.NoReplay(req.Context()))
}

func without(key string) func(*http.Request) *http.Request {
	return func(req *http.Request) *http.Request { req.Header.Del(key); return req }
}

func with(key, value string) func(*http.Request) *http.Request {
	return func(req *http.Request) *http.Request { req.Header.Set(key, value); return req }
}

func noGetBody(req *http.Request) *http.Request { req.GetBody = nil; return req }

// streamed hides the length of the body.
func streamed(req *http.Request) *http.Request {
	req.GetBody, req.ContentLength = nil, -1
	return req
}

func trailing(req *http.Request) *http.Request {
	req.Trailer = http.Header{"X-Contoso": {"7"}}
	return streamed(req)
}

func all(changes ...func(*http.Request) *http.Request) func(*http.Request) *http.Request {
	return func(req *http.Request) *http.Request {
		for _, change := range changes {
			req = change(req)
		}
		return req
	}
}

var shapes = []shape{
	{name: "GetBody", method: "POST", body: true},
	{name: "no GetBody", method: "POST", body: true, change: noGetBody},
	{name: "streamed", method: "POST", body: true, change: streamed},
	{name: "trailer", method: "POST", body: true, change: trailing, once: true},
	{name: "expect", method: "POST", body: true, change: with("Expect", "100-continue")},
	{name: "no body", method: "POST"},
	{name: "no body, no type", method: "POST", change: without("Content-Type"), untyped: true},
	{name: "PATCH", method: "PATCH", body: true},
	{name: "NoReplay, GetBody", method: "POST", body: true, change: noReplay},
	{name: "NoReplay, no body", method: "POST", change: noReplay},
	{name: "NoReplay, key", method: "POST", body: true, change: all(noReplay, with("Idempotency-Key", "7"))},
	{name: "NoReplay, key, no body", method: "POST", change: all(noReplay, with("Idempotency-Key", "7"))},
	{name: "NoReplay, PUT", method: "PUT", body: true, change: noReplay},
	{name: "NoReplay, DELETE", method: "DELETE", change: noReplay},
	{name: "NoReplay, GET", method: "GET", change: noReplay, untyped: true},
}

// A wireCell is one experiment with what a server does to a stream.
type wireCell struct {
	breakOff *breakOff
	applied  bool // before the break-off
	then     string
	shape    *shape
	warm     bool // over a connection that has been used before
}

func (c wireCell) String() string {
	moment := "before"
	if c.applied {
		moment = "after"
	}
	return fmt.Sprintf("%s/%s/%s/%s/warm=%v", c.breakOff.name, moment, c.then, c.shape.name, c.warm)
}

func wireCells() (all []wireCell) {
	for b := range breakOffs {
		for _, applied := range []bool{false, true} {
			if applied && breakOffs[b].proof {
				continue // it would be a lie
			}
			for _, then := range afterwards {
				for s := range shapes {
					for _, warm := range []bool{false, true} {
						all = append(all, wireCell{&breakOffs[b], applied, then, &shapes[s], warm})
					}
				}
			}
		}
	}
	return all
}

type wireResult struct {
	cell          wireCell
	applied       int // how often the request was carried out
	good, inDoubt bool
	saw           string
	cold          bool // the request that warms the connection has failed
}

// play makes the experiment, through a Transport if ours is set. The time limits are longer by a
// factor.
func (c wireCell) play(ours bool, slower time.Duration) wireResult {
	p := newPair(false)
	defer p.close()
	p.alternate.fenced.Store(false)
	c.inject(p.primary)
	w := p.newWire(true)
	defer w.CloseIdleConnections()
	var rt http.RoundTripper = w.Transport
	if ours {
		transport := must(failover.New(orgURL, &failover.Config{Base: w.Transport, ProbeTimeout: slower * probeTimeout, Logger: slog.New(slog.DiscardHandler)}))
		defer transport.Close()
		rt = transport
	}
	ctx, cancel := context.WithTimeout(context.Background(), slower*callTimeout)
	defer cancel()
	if c.warm {
		req := must(http.NewRequestWithContext(ctx, "GET", orgURL+"/api/data/v9.2/accounts", nil))
		resp, err := rt.RoundTrip(req)
		if err != nil {
			return wireResult{cell: c, saw: describe(err), cold: true}
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	var body io.Reader
	if c.shape.body {
		body = bytes.NewReader(requestBody[:1<<10])
	}
	req := must(http.NewRequestWithContext(ctx, c.shape.method, orgURL+"/api/data/v9.2/accounts", body))
	req.Header.Set(idHeader, "it")
	req.Header.Set("Content-Type", "application/json")
	if c.shape.change != nil {
		req = c.shape.change(req)
	}
	resp, err := rt.RoundTrip(req)
	r := wireResult{cell: c, saw: describe(err)}
	_, r.inDoubt = failover.InDoubt(resp, err)
	if err == nil {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		r.good, r.saw = resp.StatusCode < 300, resp.Status
	}
	r.applied = p.primary.delivered("it").applied + p.alternate.delivered("it").applied
	return r
}

// inject makes a side break off the first request with an id.
func (c wireCell) inject(s *side) {
	var began atomic.Bool
	scripted(func(conn *h2Conn, stream uint32, id string) bool {
		if id == "" && !began.Load() {
			return conn.answer(stream, 200, whoAmI)
		}
		if id != "" && !began.Swap(true) {
			if c.applied {
				s.note(id, delivery{applied: 1})
			}
			s.closed.Store(c.then == dies)
			return c.breakOff.end(conn, stream)
		}
		switch c.then {
		case dies:
			return false
		case fences:
			return conn.answer(stream, 503, fenceBody)
		case refuses:
			return conn.WriteRSTStream(stream, http2.ErrCodeRefusedStream) == nil
		}
		s.note(id, delivery{applied: 1})
		return conn.answer(stream, 200, whoAmI)
	})(s)
}

// answer sends an answer in JSON.
func (c *h2Conn) answer(stream uint32, status int, body string) (goOn bool) {
	c.header(stream, status, "content-type", "application/json")
	return c.WriteData(stream, true, []byte(body)) == nil
}

// untrue says which rule a result of ours violates, if any, that holds whatever the time limits
// are.
func (r wireResult) untrue() string {
	read := r.cell.shape.method == "GET"
	switch {
	case r.applied > 1:
		return fmt.Sprintf("carried out %d times", r.applied)
	case r.good && r.applied == 0:
		return "a success that was not carried out"
	case r.good && r.inDoubt:
		return "a success in doubt"
	case !r.good && r.applied == 1 && !r.inDoubt && !read:
		return "a doubt is hidden: " + r.saw
	}
	return ""
}

// wrong says which other rule a result of ours violates, if any.
func (r wireResult) wrong() string {
	switch {
	case r.cold:
		return "before the fault: " + r.saw
	case r.inDoubt && r.applied == 0 && r.cell.believed() && r.cell.then != refuses:
		return "in doubt against the proof: " + r.saw
	case r.cell.believed() && r.cell.then == serves && !r.good && !r.cell.shape.once:
		return "not sent again: " + r.saw
	}
	return ""
}
