package failover

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// payload is the body of a call: it gives every attempt the whole of it.
type payload struct {
	req      *http.Request
	max      int64         // Config.MaxBody
	original io.ReadCloser // the caller's; nil if there is none, or it is held
	used     bool          // original was given to an attempt
	held     []byte        // all of it, if it was read ahead
	getBody  func() (io.ReadCloser, error)
	stream   *stream // original, if it can be had only once
}

// load prepares the body: one without GetBody is held if it is small enough,
// otherwise it will be streamed, once.
func (p *payload) load(req *http.Request, maxBody int64) error {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	p.req, p.max, p.original, p.getBody = req, maxBody, req.Body, req.GetBody
	if p.getBody != nil {
		return nil
	}
	body := io.Reader(p.original)
	if mayHold(req, maxBody) {
		held, err := io.ReadAll(io.LimitReader(p.original, maxBody+1))
		if err != nil {
			p.close()
			return err
		}
		if int64(len(held)) <= maxBody {
			p.close()
			p.original, p.held = nil, held
			p.getBody = func() (io.ReadCloser, error) { return newBody(held), nil }
			return nil
		}
		body = io.MultiReader(bytes.NewReader(held), p.original)
	}
	p.stream = &stream{Reader: body, Closer: p.original}
	return nil
}

// mayHold reports whether reading the body ahead is of use and does no harm.
func mayHold(req *http.Request, maxBody int64) bool {
	replay, marked := req.Context().Value(replayKey).(bool)
	return req.ContentLength <= maxBody && maxBody > 0 && (replay || !marked) && req.Header.Get("Upgrade") == ""
}

func newBody(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }

// content is the body of one attempt.
type content struct {
	io.ReadCloser // nil: the request's own will do
	again         func() (io.ReadCloser, error)
	mapped        bool // with links mapped: length bytes long
	length        int64
}

// next returns the body for an attempt at endpoint to.
func (p *payload) next(org *Org, to Endpoint) (content, error) {
	if mapped := p.mapped(org, to); mapped != nil {
		again := func() (io.ReadCloser, error) { return newBody(mapped), nil }
		return content{newBody(mapped), again, true, int64(len(mapped))}, nil
	}
	switch {
	case p.stream != nil:
		return content{ReadCloser: p.stream.lease()}, nil
	case p.original != nil && !p.used:
		p.used = true
	case p.getBody != nil:
		body, err := p.getBody()
		return content{ReadCloser: body, again: p.getBody}, err
	}
	return content{}, nil
}

// mapped returns the body with its links to the other endpoint mapped to
// endpoint to, nil if it has none.
func (p *payload) mapped(org *Org, to Endpoint) []byte {
	if p.req == nil || p.stream != nil {
		return nil
	}
	if kind, _ := contentKind(valueOf(p.req.Header, "Content-Type"), valueOf(p.req.Header, "Content-Encoding")); kind == kindOther {
		return nil
	}
	body, l := p.peek()
	defer l.release()
	if mapped, ok := org.rewriteBody(p.req.Header, p.req.URL.Path, body, to); ok {
		return mapped
	}
	return nil
}

// look is what it takes to look at a body.
type look struct {
	buffer bytes.Buffer
	limit  io.LimitedReader
}

var looks = sync.Pool{New: func() any { return new(look) }}

// release ends the look. A nil look has nothing to release.
func (l *look) release() {
	if l != nil {
		l.buffer.Reset()
		looks.Put(l)
	}
}

// peek returns the body for looking at, nil if it cannot be had or is larger
// than MaxBody. The bytes are valid until the look is released.
func (p *payload) peek() ([]byte, *look) {
	if p.held != nil || p.getBody == nil || p.req.ContentLength > p.max {
		return p.held, nil
	}
	rc, err := p.getBody()
	if err != nil {
		return nil, nil
	}
	defer rc.Close()
	l := looks.Get().(*look)
	l.limit = io.LimitedReader{R: rc, N: p.max + 1}
	n, err := l.buffer.ReadFrom(&l.limit)
	l.limit.R = nil
	if err != nil || n > p.max {
		l.release()
		return nil, nil
	}
	return l.buffer.Bytes(), l
}

// repeatable reports whether the body can be had again.
func (p *payload) repeatable() bool { return p.stream == nil || p.stream.withdraw() }

// failed reports whether the caller's own reader has failed.
func (p *payload) failed() bool { return p.stream != nil && p.stream.failed.Load() }

// close closes the caller's body if no attempt has taken charge of it.
func (p *payload) close() {
	switch {
	case p.stream != nil:
		if p.stream.withdraw() {
			p.stream.Closer.Close()
		}
	case p.original != nil && !p.used:
		p.original.Close()
	}
}

// stream is a body that can be read only once. Attempts lease it in turn until
// one has begun to read it.
type stream struct {
	io.Reader
	io.Closer
	current *lease
	failed  atomic.Bool // Read has returned an error other than io.EOF
}

// lease is the body of one attempt. Base may use it even after the attempt.
type lease struct {
	s     *stream
	state atomic.Uint32 // leaseFresh, leaseTouched or leaseWithdrawn
}

const (
	leaseFresh = iota
	leaseTouched
	leaseWithdrawn
)

var errWithdrawn = errors.New("failover: request body withdrawn from an attempt that has failed")

func (s *stream) lease() io.ReadCloser {
	s.current = &lease{s: s}
	return s.current
}

// withdraw takes the body back from the last attempt and reports whether that
// has left it untouched.
func (s *stream) withdraw() bool {
	if s.current == nil {
		return true
	}
	s.current.state.CompareAndSwap(leaseFresh, leaseWithdrawn)
	return s.current.state.Load() == leaseWithdrawn
}

func (l *lease) Read(p []byte) (int, error) {
	if !l.state.CompareAndSwap(leaseFresh, leaseTouched) && l.state.Load() == leaseWithdrawn {
		return 0, errWithdrawn
	}
	n, err := l.s.Reader.Read(p)
	if err != nil && err != io.EOF {
		l.s.failed.Store(true)
	}
	return n, err
}

// Close closes the caller's body if the attempt has read from it.
func (l *lease) Close() error {
	if l.state.CompareAndSwap(leaseFresh, leaseWithdrawn) || l.state.Load() == leaseWithdrawn {
		return nil
	}
	return l.s.Closer.Close()
}
