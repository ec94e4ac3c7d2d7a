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

// payload is the body of a call, which gives every attempt the whole of it. A body up to
// Config.MaxBody is held (buffered) as a copy: a failed attempt may still be reading its body
// when the caller, who has the answer of another attempt, reuses the buffer. A longer body
// comes from GetBody, or is streamed to one attempt.
//
// GetBody is called as late as possible, because some (azcore's, for example) rewind and return
// the same body rather than a new one.
type payload struct {
	held     []byte        // the whole body; nil if it is not held
	wholes   [2]heldBody   // held, by the endpoint that it is sent to
	original io.ReadCloser // the caller's; nil if there is none or it is held
	used     bool          // original was given to an attempt
	getBody  func() (io.ReadCloser, error)
	stream   *stream // over original, if there is no GetBody; or nil
	source   *source // of original and of what getBody returns; nil if the body was in memory
}

// none reports whether the call has no body.
func (p *payload) none() bool { return p.held == nil && p.original == nil }

// load prepares the body of a request that has one. It returns the error of the body's own
// reader, or of the request's context.
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

// watch makes the source, and reads original through it.
func (p *payload) watch() {
	if p.source == nil {
		p.source = &source{reading: make(chan struct{}, 1)}
		p.original = &callersBody{p.original, p.source, 0}
	}
}

// A source is what the caller's bodies of one call share. Only the latest of them is read,
// because GetBody may rewind and return the same body.
type source struct {
	broken  atomic.Bool   // the caller's reader has failed
	latest  atomic.Int32  // number of the body that may be read
	reading chan struct{} // capacity 1: full while a body is read or obtained
}

// again gets the body from GetBody, once no Read of an earlier one is under way. It waits for
// that up to holdPause.
func (s *source) again(req *http.Request) (body io.ReadCloser, err error) {
	number := s.latest.Add(1)
	timer := time.NewTimer(holdPause)
	defer timer.Stop()
	select {
	case s.reading <- struct{}{}:
		body, err = func() (io.ReadCloser, error) {
			defer func() { <-s.reading }()
			return req.GetBody()
		}()
	case <-timer.C:
		err = errStillRead
	case <-req.Context().Done():
		err = endError(req)
	case <-canceled(req):
		err = endError(req)
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

// callersBody is the caller's body. It records whether its reader fails.
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

// hold reads the body and holds it, unless it is longer than maxBody or does not end in time.
// Such a body is then sent as if nothing of it had been read.
func (p *payload) hold(req *http.Request, maxBody int64) error {
	var begin []byte
	var err error
	var ahead *readAhead
	if inMemory(req.Body) {
		begin, err = readUpTo(req.Body, req.ContentLength, maxBody)
	} else {
		p.watch()
		ahead = aheadOf(p.original, req.ContentLength, maxBody+1)
		begin, err = ahead.wait(req.Context(), canceled(req), holdTimeout, holdPause)
	}
	switch {
	case err == io.EOF && int64(len(begin)) <= maxBody:
		p.close(false)
		p.original, p.held = nil, begin // not nil, even if empty
		if n := int64(len(begin)); req.ContentLength > 0 && n != req.ContentLength {
			return fmt.Errorf("failover: ContentLength=%d with a body of %d bytes", req.ContentLength, n) // as net/http has it
		}
		return nil
	case err != nil && err != io.EOF:
		return err
	case endOf(req) != nil:
		return endError(req)
	}
	if ahead != nil {
		p.original = &peekedBody{ReadCloser: p.original, ahead: ahead}
	} else {
		p.original = resumed{io.MultiReader(bytes.NewReader(begin), req.Body), req.Body}
	}
	return nil
}

// inMemory reports whether a body is one that http.NewRequest makes of a reader in memory.
// Reading any other one may block.
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

// mayHold reports whether holding the body is useful and harmless. A Read that sets trailers must
// not be called while net/http sends the headers.
func mayHold(req *http.Request, maxBody int64) bool {
	replay, marked := req.Context().Value(replayKey).(bool)
	return len(req.Trailer) == 0 && req.ContentLength <= maxBody && maxBody > 0 && (replay || !marked || req.GetBody != nil) &&
		valueOf(req.Header, "Upgrade") == "" && req.Method != http.MethodConnect
}

// While the caller still produces a body, hold waits for the rest, for up to holdTimeout. It
// looks for new data every holdPause, and streams the body if there is none: its writer may be
// waiting for the response.
const (
	holdTimeout = time.Minute
	holdPause   = time.Second
)

// maxAtOnce is the most that is allocated because a Content-Length says so.
const maxAtOnce = 1 << 20

// readUpTo reads a body until it ends, with io.EOF, or is longer than maxBody. Length is its
// length, if that is known.
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

// resumed is a body whose beginning was read already.
type resumed struct {
	io.Reader
	io.Closer
}

// heldBody is the held body as it is sent to an endpoint. Body is nil until it is needed.
type heldBody struct {
	body   []byte
	mapped bool // it had links to the other endpoint
}

// heldFor returns the body for an attempt at an endpoint. Its body is nil if the payload is not
// held.
func (p *payload) heldFor(org *Org, req *http.Request, to Endpoint) heldBody {
	w := &p.wholes[to]
	if w.body == nil && p.held != nil {
		w.body, w.mapped = org.rewriteBody(req.Header, message.Target(req.URL).Path, p.held, to)
	}
	return *w
}

// next returns the body for an attempt if it is not held; nil if there is none.
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

// spent reports whether the body cannot be sent again.
func (p *payload) spent() bool { return p.stream != nil && p.stream.touched() }

// withdraw takes the body back from the last attempt and reports whether it can be sent again.
func (p *payload) withdraw() bool { return p.stream == nil || p.stream.withdraw() }

// failed reports whether the caller's own reader has failed.
func (p *payload) failed() bool { return p.source != nil && p.source.broken.Load() }

// close closes the caller's body unless an attempt owns it. Answered: the last attempt keeps
// it, because it may still be sending.
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

// stream is a body that can be read only once. Attempts lease it in turn, until one begins to
// read it.
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

// handOver leaves the body to the last attempt for good, unless that has closed it unread.
func (s *stream) handOver() {
	if s.current != nil {
		s.current.state.CompareAndSwap(leaseFresh, leaseTouched)
	}
}

// withdraw takes the body back from the last attempt and reports whether it is unread.
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
	// maxPeek is how many bytes of a body are inspected, before and after decompression. A
	// fault begins with its code.
	maxPeek = 64 << 10
	// firstRead bounds the first buffer, and is enough for most bodies that are inspected.
	firstRead = 4 << 10
	// shortFault is enough for most faults, which often come without a length.
	shortFault = 512
	// maxEmptyReads is how many reads in a row may return neither data nor an error, as for
	// [io.ErrNoProgress].
	maxEmptyReads = 100
)

// peekTimeout bounds the wait for the bytes to inspect. A page that stalls must not keep the
// status from the caller, who would have it at once without the Transport.
const peekTimeout = 2 * time.Second

// A peekedBody is a body whose beginning has been read ahead. It returns the same bytes and the
// same error as the body itself.
type peekedBody struct {
	io.ReadCloser // the rest, and Close
	ahead         *readAhead
	delivered     int // bytes of ahead that were read
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

// A readAhead reads the beginning of a body in a goroutine of its own. Once it is stopped, or
// the body is closed, the goroutine ends with its current Read.
type readAhead struct {
	body io.Reader
	max  int64         // number of bytes to read
	done chan struct{} // closed when the goroutine ends

	mu   sync.Mutex // guards what follows
	buf  []byte     // append-only
	err  error      // after buf
	stop bool
}

// aheadOf starts to read a body ahead. Length is its length, negative if that is unknown.
func aheadOf(body io.Reader, length, most int64) *readAhead {
	first := min(length, firstRead-1) + 1 // to see the end
	if length < 0 {
		first = shortFault
	}
	r := &readAhead{body: body, max: most, buf: make([]byte, 0, min(first, most)), done: make(chan struct{})}
	go r.run()
	return r
}

// wait waits until the goroutine ends, timeout is over, nothing was read for a pause, ctx ends,
// or cancel is closed. It then stops the goroutine and returns the bytes read so far and the
// error after them.
func (r *readAhead) wait(ctx context.Context, cancel <-chan struct{}, timeout, pause time.Duration) ([]byte, error) {
	began, timer := time.Now(), time.NewTimer(pause)
	defer timer.Stop()
	for waiting, seen := true, -1; waiting; {
		select {
		case <-r.done:
			waiting = false
		case <-ctx.Done():
			waiting = false
		case <-cancel:
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
	buf, err := r.buf, error(nil) // nobody writes to it yet
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

// result returns the bytes read so far and the error after them. The bytes must not be changed.
func (r *readAhead) result() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf, r.err
}

// peek returns up to maxPeek bytes from the beginning of the body, which can still be read from
// its start. The result must not be changed.
func peek(resp *http.Response) []byte {
	if resp.Body == nil || resp.Body == http.NoBody ||
		resp.Request != nil && resp.Request.Method == http.MethodHead {
		return nil
	}
	if _, ok := resp.Body.(io.Writer); ok {
		return nil // an upgraded connection, not a body
	}
	r := aheadOf(resp.Body, resp.ContentLength, maxPeek)
	beginning, _ := r.wait(context.Background(), nil, peekTimeout, peekTimeout) // if the caller gives up, the read ends by itself
	resp.Body = &peekedBody{ReadCloser: resp.Body, ahead: r}
	return beginning
}
