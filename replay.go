package failover

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

type contextKey uint8

const (
	replayKey contextKey = iota
	labelKey
)

// WithReplay marks the requests made with the context as safe to repeat even if
// the outcome of an attempt is unknown, for instance because the caller made
// them idempotent by an alternate key.
func WithReplay(ctx context.Context) context.Context {
	return context.WithValue(ctx, replayKey, true)
}

// NoReplay marks the requests made with the context as never to be sent twice.
// A request body without GetBody is then streamed and not held.
func NoReplay(ctx context.Context) context.Context {
	return context.WithValue(ctx, replayKey, false)
}

// WithLabel puts a label on the requests made with the context, by which their
// writes can be told in reports and events.
func WithLabel(ctx context.Context, label string) context.Context {
	return context.WithValue(ctx, labelKey, label)
}

// isRead reports whether the request changes nothing at the organization.
func isRead(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// maySendAgain reports whether the request may be sent once more after fault f.
// It is the only place that decides on it.
func (c *call) maySendAgain(f *Fault) bool {
	replay, marked := c.req.Context().Value(replayKey).(bool)
	if marked && !replay || !c.body.repeatable() {
		return false
	}
	switch f.Delivery {
	case NotSent, Refused: // proof that the request was not carried out
		return true
	default:
		return marked || isRead(c.req) || isIdempotent(c.req) ||
			c.t.cfg.Replay != nil && c.t.cfg.Replay(c.req)
	}
}

// isIdempotent reports whether carrying the request out twice does the same as
// doing it once.
func isIdempotent(req *http.Request) bool {
	if _, ok := req.Header["Idempotency-Key"]; ok { // as net/http has it
		return true
	}
	if _, ok := req.Header["X-Idempotency-Key"]; ok {
		return true
	}
	switch req.Method {
	case http.MethodPut, http.MethodDelete:
		return true
	case http.MethodPatch:
		// Without a condition it is an upsert, which would create a stub of a
		// record that was lost in a failover.
		return req.Header.Get("If-Match") != "" || req.Header.Get("If-None-Match") == "*"
	default:
		return false
	}
}

// payload gives every attempt the request body from its start.
type payload struct {
	original io.ReadCloser // nil if there is no body, or it is held
	getBody  func() (io.ReadCloser, error)
	used     bool    // original was given to an attempt
	stream   *stream // original, if it can be had only once
}

// load prepares the body: one without GetBody is held if it is small enough,
// otherwise it will be streamed, once.
func (p *payload) load(req *http.Request, maxBody int64) error {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	p.original, p.getBody = req.Body, req.GetBody
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
			p.original, p.getBody = nil, func() (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(held)), nil
			}
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

// next returns the body of the next attempt if that is not the request's own.
func (p *payload) next() (body io.ReadCloser, fresh bool, err error) {
	switch {
	case p.stream != nil:
		return p.stream.lease(), true, nil
	case p.original != nil && !p.used:
		p.used = true
		return nil, false, nil
	case p.getBody != nil:
		body, err = p.getBody()
		return body, true, err
	default:
		return nil, false, nil
	}
}

// repeatable reports whether the body can be had again.
func (p *payload) repeatable() bool { return p.stream == nil || p.stream.withdraw() }

// failed reports whether the caller's own reader has failed.
func (p *payload) failed() bool { return p.stream != nil && p.stream.failed.Load() }

// close closes the caller's body if no attempt has taken charge of it.
func (p *payload) close() {
	switch {
	case p.stream != nil:
		p.stream.withdraw()
		if p.stream.untouched() {
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
	if s.current != nil {
		s.current.state.CompareAndSwap(leaseFresh, leaseWithdrawn)
	}
	return s.untouched()
}

func (s *stream) untouched() bool {
	return s.current == nil || s.current.state.Load() == leaseWithdrawn
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
