package failover

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

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

// wait waits until that is done, the time is over or ctx ends, and returns what has
// been read by then and the error met after it.
func (r *readAhead) wait(ctx context.Context, timeout time.Duration) ([]byte, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
	case <-ctx.Done():
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
	beginning, _ := r.wait(context.Background(), peekTimeout) // a caller who gives up ends the read itself
	resp.Body = &peekedBody{ReadCloser: resp.Body, ahead: r}
	return beginning
}
