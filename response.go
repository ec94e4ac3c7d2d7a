package failover

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// deliver makes a response fit the caller's world, which has one host.
func (c *call) deliver(resp *http.Response) {
	if c.out != c.req {
		resp.Request = c.req
	}
	c.redirects(resp)
	if c.st.active == Alternate && c.redirect == nil {
		c.t.org.mapLinks(resp.Header, Primary)
	}
}

// watchBody replaces the body of a healthy response by one that tells the
// endpoint's breaker how it ended.
func (c *call) watchBody(resp *http.Response) {
	if resp.Body == nil || resp.Body == http.NoBody {
		c.transit.release()
		c.t.answered(c.st, nil)
		c.st.pool.leave()
		return
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		c.transit.release() // as net/http does with its own
		return              // the body is the connection now, and not ours to wrap
	}
	b := c.answer
	if b == nil || c.body.held != nil { // a long answer is not to keep the request's body in memory
		b = new(watchedBody)
	}
	b.body, b.t, b.st, b.ctx, b.cancel, b.status = resp.Body, c.t, c.st, c.req.Context(), c.transit.canceler(), int32(resp.StatusCode)
	resp.Body = b
}

// releaseWith releases the context of the attempt, and its connection if that is not to
// be used again, when the body is closed.
func (c *call) releaseWith(resp *http.Response) {
	if resp.Body == nil || resp.Body == http.NoBody {
		c.transit.release()
		c.st.pool.leave()
		return
	}
	resp.Body = &releasingBody{resp.Body, c.transit.canceler(), c.st.pool}
}

type releasingBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc // or nil
	pool   *pool                   // or nil
}

func (b *releasingBody) Close() error {
	err := b.ReadCloser.Close()
	if b.cancel != nil {
		b.cancel(nil)
	}
	if b.pool != nil {
		b.pool.leave()
	}
	return err
}

// watchedBody is the body of a healthy response. An answer is a success once it
// was read to its end or closed; one that breaks off is a
// fault of the endpoint, although the response was returned long ago.
type watchedBody struct {
	body   io.ReadCloser
	t      *Transport
	st     *state
	ctx    context.Context         // the caller's
	cancel context.CancelCauseFunc // ends the context of the attempt, nil if it has none
	status int32
	over   atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.body.Close()
	b.end(io.EOF)
	if b.cancel != nil {
		b.cancel(nil)
	}
	return err
}

// end takes note of how the body ended, once.
func (b *watchedBody) end(err error) {
	if b.over.Load() || b.over.Swap(true) {
		return
	}
	b.st.pool.leave()
	if err == io.EOF {
		b.t.answered(b.st, nil)
		return
	}
	if b.ctx.Err() == context.Canceled {
		return
	}
	if f := b.t.classify(nil, err); f != nil {
		broken := *f
		broken.Endpoint, broken.Status, broken.Delivery = b.st.active, int(b.status), Answered
		b.t.count(b.st, &broken, b.ctx.Err() != nil)
	}
}

// maxDrain is how much of a response that nobody wants is read, and drainTimeout
// for how long at most, so that its connection can be used again.
const (
	maxDrain     = 64 << 10
	drainTimeout = 100 * time.Millisecond
)

// discard ends a response that is not returned.
func discard(resp *http.Response) {
	if resp == nil || resp.Body == nil {
		return
	}
	if resp.ContentLength <= maxDrain {
		defer time.AfterFunc(drainTimeout, func() { resp.Body.Close() }).Stop()
		io.CopyN(io.Discard, resp.Body, maxDrain)
	}
	resp.Body.Close()
}
