package failover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover/internal/message"
)

// payload is the body of a call: it gives every attempt the whole of it. A body
// up to Config.MaxBody is held, as a copy: an attempt that has failed may go on
// reading its body, and the caller uses its buffer again once it has an answer, of
// another attempt. A longer one is obtained again by GetBody, or streamed, once.
//
// GetBody is called as late as possible: some, azcore's for one, return the body
// itself, rewound, and not another one.
type payload struct {
	held     []byte        // all of it, not nil if it is held
	wholes   [2]heldBody   // of what is held, by the endpoint that it is for
	original io.ReadCloser // the caller's, nil if there is none or it is held
	used     bool          // original was given to an attempt
	getBody  func() (io.ReadCloser, error)
	stream   *stream // original, if it can be had only once
	source   *source // of original and of what getBody returns; nil if the body was in memory
}

// none reports whether the call has no body.
func (p *payload) none() bool { return p.held == nil && p.original == nil }

// load prepares the body of a request that has one. What it returns is the error of the body's own Read, or
// of the request's context.
func (p *payload) load(req *http.Request, maxBody int64) error {
	p.original, p.getBody = req.Body, req.GetBody
	if mayHold(req, maxBody) {
		if err := p.hold(req, maxBody); err != nil || p.held != nil {
			return err
		}
	}
	p.watch()
	if p.getBody == nil {
		p.stream = &stream{Reader: p.original, Closer: p.original}
		return nil
	}
	source := p.source // not p, which is on the stack
	p.getBody = func() (io.ReadCloser, error) { return source.again(req) }
	return nil
}

// watch has the reads of the original watched.
func (p *payload) watch() {
	if p.source == nil {
		p.source = &source{reading: make(chan struct{}, 1)}
		p.original = &callersBody{p.original, p.source, 0}
	}
}

// source is what the bodies of a call have in common that come from its caller. Only the
// latest of them is read: GetBody may return the same one again, rewound.
type source struct {
	broken  atomic.Bool   // the caller's reader has failed
	latest  atomic.Int32  // number of the body that may be read
	reading chan struct{} // capacity 1: full while one is read or obtained
}

// again obtains the body once more. A Read under way of one before is waited for, for
// holdPause at most.
func (s *source) again(req *http.Request) (body io.ReadCloser, err error) {
	number := s.latest.Add(1)
	timer := time.NewTimer(holdPause)
	defer timer.Stop()
	select {
	case s.reading <- struct{}{}:
		body, err = req.GetBody()
		<-s.reading
	case <-timer.C:
		err = errStillRead
	case <-req.Context().Done():
		err = contextError(req.Context())
	}
	if err == nil && body == nil {
		err = errNoBody
	}
	if err != nil {
		s.broken.Store(true)
		return nil, err
	}
	return &callersBody{body, s, number}, nil
}

var (
	errNoBody    = errors.New("failover: GetBody returned neither a body nor an error")
	errStillRead = errors.New("failover: the request body is still being read for an earlier attempt")
)

// callersBody is a body as the caller gave it.
type callersBody struct {
	io.ReadCloser
	source *source
	number int32
}

func (b *callersBody) Read(p []byte) (int, error) {
	s := b.source
	s.reading <- struct{}{}
	defer func() { <-s.reading }()
	if b.number != s.latest.Load() {
		return 0, errWithdrawn
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		s.broken.Store(true)
	}
	return n, err
}

// hold reads the body ahead and holds it, unless it is longer than maxBody or takes
// its time to end: then it is resumed as if nothing had been read.
func (p *payload) hold(req *http.Request, maxBody int64) error {
	var begin []byte
	var err error
	var ahead *readAhead
	if inMemory(req.Body) {
		begin, err = readUpTo(req.Body, req.ContentLength, maxBody)
	} else {
		p.watch()
		ahead = aheadOf(p.original, req.ContentLength, maxBody+1)
		begin, err = ahead.wait(req.Context(), holdTimeout, holdPause)
	}
	switch {
	case err == io.EOF && int64(len(begin)) <= maxBody:
		p.close(false)
		p.original, p.held = nil, begin // which is not nil: there was a read
		if n := int64(len(begin)); req.ContentLength > 0 && n != req.ContentLength {
			return fmt.Errorf("failover: ContentLength=%d with a body of %d bytes", req.ContentLength, n) // as net/http has it
		}
		return nil
	case err != nil && err != io.EOF:
		return err
	case req.Context().Err() != nil:
		return contextError(req.Context())
	}
	if ahead != nil {
		p.original = &peekedBody{ReadCloser: p.original, ahead: ahead}
	} else {
		p.original = resumed{io.MultiReader(bytes.NewReader(begin), req.Body), req.Body}
	}
	return nil
}

// inMemory reports whether a body is at hand, as those are that http.NewRequest makes
// of a reader in memory. Others may block, also if they can be had again.
func inMemory(body io.ReadCloser) bool {
	v := reflect.ValueOf(body)
	if v.Type() != nopCloserWriterTo {
		return false
	}
	switch v.Field(0).Interface().(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return true
	}
	return false
}

// nopCloserWriterTo is the type that io.NopCloser returns for a reader in memory.
var nopCloserWriterTo = reflect.TypeOf(io.NopCloser(new(bytes.Reader)))

// mayHold reports whether reading the body ahead is of use and does no harm.
func mayHold(req *http.Request, maxBody int64) bool {
	replay, marked := req.Context().Value(replayKey).(bool)
	return req.ContentLength <= maxBody && maxBody > 0 && (replay || !marked || req.GetBody != nil) &&
		valueOf(req.Header, "Upgrade") == "" && req.Method != http.MethodConnect
}

// A body that its caller is still producing is waited for as long as it keeps coming, for
// holdTimeout at most. What comes next may depend on something that comes later, even on
// the response: the body is streamed once a look at it, holdPause after the last, finds
// nothing new.
const (
	holdTimeout = time.Minute
	holdPause   = time.Second
)

// maxAtOnce bounds what is allocated on the word of a Content-Length.
const maxAtOnce = 1 << 20

// readUpTo reads a body to its end, which is io.EOF, or until it is longer than
// maxBody. Length is that of the body as far as it is known.
func readUpTo(body io.Reader, length, maxBody int64) ([]byte, error) {
	begin := make([]byte, 0, min(max(length, 511), maxBody, maxAtOnce)+1) // one more, to see the end
	for len(begin) < cap(begin) {
		n, err := body.Read(begin[len(begin):cap(begin)])
		begin = begin[:len(begin)+n]
		if err != nil {
			return begin, err
		}
	}
	rest, err := io.ReadAll(io.LimitReader(body, maxBody-int64(len(begin))+1))
	begin = append(begin, rest...)
	if err == nil && int64(len(begin)) <= maxBody {
		err = io.EOF
	}
	return begin, err
}

// resumed is a body of which the beginning was read.
type resumed struct {
	io.Reader
	io.Closer
}

// heldBody is what is held as it goes to an endpoint. The body is nil as long as
// nobody has asked for it.
type heldBody struct {
	body   []byte
	mapped bool // it had links to the other endpoint
}

// heldFor returns the body for an attempt at endpoint to, nil if it is not held.
func (p *payload) heldFor(org *Org, req *http.Request, to Endpoint) heldBody {
	w := &p.wholes[to]
	if w.body == nil && p.held != nil {
		w.body, w.mapped = org.rewriteBody(req.Header, message.Target(req.URL).Path, p.held, to)
	}
	return *w
}

// next returns the body for an attempt, if it is not held; nil if there is none.
func (p *payload) next() (io.ReadCloser, error) {
	switch {
	case p.stream != nil:
		return p.stream.lease(), nil
	case p.original != nil && !p.used:
		p.used = true
		return p.original, nil
	case p.getBody != nil:
		return p.getBody()
	}
	return nil, nil
}

// spent reports whether the body cannot be had again.
func (p *payload) spent() bool { return p.stream != nil && p.stream.touched() }

// withdraw takes the body back from the last attempt and reports whether it can be
// had again.
func (p *payload) withdraw() bool { return p.stream == nil || p.stream.withdraw() }

// failed reports whether the caller's own reader has failed.
func (p *payload) failed() bool { return p.source != nil && p.source.broken.Load() }

// close closes the caller's body if no attempt has taken charge of it. The last
// attempt keeps it if that was answered: it may go on being sent.
func (p *payload) close(answered bool) {
	switch {
	case p.stream != nil:
		if answered {
			p.stream.handOver()
		}
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
	current *streamLease
}

// streamLease is the body of one attempt. Base may use it even after the attempt.
type streamLease struct {
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
	s.current = &streamLease{s: s}
	return s.current
}

// touched reports whether an attempt has begun to read the body.
func (s *stream) touched() bool { return s.current != nil && s.current.state.Load() == leaseTouched }

// handOver leaves the body to the last attempt for good, unless that has closed it
// already, without having read from it.
func (s *stream) handOver() {
	if s.current != nil {
		s.current.state.CompareAndSwap(leaseFresh, leaseTouched)
	}
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

func (l *streamLease) Read(p []byte) (int, error) {
	l.state.CompareAndSwap(leaseFresh, leaseTouched)
	if l.state.Load() == leaseWithdrawn {
		return 0, errWithdrawn
	}
	return l.s.Reader.Read(p)
}

// Close closes the caller's body if the attempt has read from it.
func (l *streamLease) Close() error {
	l.state.CompareAndSwap(leaseFresh, leaseWithdrawn)
	if l.state.Load() == leaseWithdrawn {
		return nil
	}
	return l.s.Closer.Close()
}

const (
	// maxPeek bounds what is read of a body, and what is made of it when it is
	// decompressed. Codes stand at the beginning of a fault.
	maxPeek = 64 << 10
	// firstRead is what holds most bodies that are looked at.
	firstRead = 4 << 10
	// shortFault is the size of most faults, which often come without a length.
	shortFault = 512
	// maxEmptyReads is how many reads without data and without an error are put
	// up with, as in [io.ErrNoProgress].
	maxEmptyReads = 100
)

// peekTimeout bounds the wait for what is looked at. A page that stalls must not
// keep its status from the caller for ever, who would have had it at once without
// us; one that is merely slow should be judged by what it says.
const peekTimeout = 2 * time.Second

// A peekedBody is a body of which the beginning has been read ahead. It
// reads like the body did: the same bytes, then the same error.
type peekedBody struct {
	io.ReadCloser // the rest, and Close
	ahead         *readAhead
	delivered     int // bytes of what was read ahead
}

func (b *peekedBody) Read(p []byte) (int, error) {
	buf, _ := b.ahead.result()
	if b.delivered == len(buf) {
		<-b.ahead.done
		var err error
		if buf, err = b.ahead.result(); b.delivered == len(buf) {
			if err != nil {
				return 0, err
			}
			return b.ReadCloser.Read(p)
		}
	}
	n := copy(p, buf[b.delivered:])
	b.delivered += n
	return n, nil
}

// A readAhead reads the beginning of a body in a goroutine of its own, which
// ends with the Read under way once it is told to stop, or the body is closed.
type readAhead struct {
	body  io.Reader
	max   int64         // bytes that are read at most
	first int64         // bytes that are read at first
	done  chan struct{} // closed when nothing more is read ahead

	mu   sync.Mutex // guards what follows
	buf  []byte     // bytes once read are not written again
	err  error      // met after buf
	stop bool
}

// aheadOf begins to read a body ahead. Length is that of the body, negative if it
// is not known.
func aheadOf(body io.Reader, length, max int64) *readAhead {
	r := &readAhead{body: body, max: max, first: firstRead, done: make(chan struct{})}
	if length >= 0 && length < firstRead {
		r.first = length + 1 // to see the end
	}
	go r.run()
	return r
}

// wait waits until that is done, the time is over, nothing has come from one pause to the
// next, or ctx ends, and returns what has been read by then and the error met after it.
func (r *readAhead) wait(ctx context.Context, timeout, pause time.Duration) ([]byte, error) {
	began, timer := time.Now(), time.NewTimer(pause)
	defer timer.Stop()
	for waiting, seen := true, -1; waiting; {
		select {
		case <-r.done:
			waiting = false
		case <-ctx.Done():
			waiting = false
		case <-timer.C:
			buf, _ := r.result()
			waiting, seen = len(buf) > seen && time.Since(began) < timeout, len(buf)
			timer.Reset(pause)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop = true
	return r.buf, r.err
}

func (r *readAhead) run() {
	defer close(r.done)
	buf := make([]byte, 0, min(r.first, r.max))
	var err error
	for empty := 0; err == nil && int64(len(buf)) < r.max && empty < maxEmptyReads; {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, min(max(4*int64(cap(buf)), firstRead), r.max)), buf...)
		}
		var n int
		n, err = r.body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if empty++; n > 0 {
			empty = 0
		}
		r.mu.Lock()
		r.buf, r.err = buf, err
		stop := r.stop
		r.mu.Unlock()
		if stop {
			return
		}
	}
}

// result returns what has been read so far, and the error met after that. The
// bytes must not be changed.
func (r *readAhead) result() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf, r.err
}

// peek returns at most maxPeek bytes from the beginning of the body and puts them
// back. The result must not be changed.
func peek(resp *http.Response) []byte {
	if resp.Body == nil || resp.Body == http.NoBody ||
		resp.Request != nil && resp.Request.Method == http.MethodHead {
		return nil
	}
	if _, ok := resp.Body.(io.Writer); ok {
		return nil // an upgraded connection, not a body
	}
	length := resp.ContentLength
	if length < 0 {
		length = shortFault - 1
	}
	r := aheadOf(resp.Body, length, maxPeek)
	beginning, _ := r.wait(context.Background(), peekTimeout, peekTimeout) // a caller who gives up ends the read itself
	resp.Body = &peekedBody{ReadCloser: resp.Body, ahead: r}
	return beginning
}
