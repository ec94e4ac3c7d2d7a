package failover

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
)

// deliver makes a response fit the caller's world, which has one host.
func (a *attempt) deliver(resp *http.Response) {
	if a.st.active == Alternate {
		a.c.t.org.mapLinks(resp.Header, Primary)
	}
	if a.out != a.c.req {
		resp.Request = a.c.req
	}
}

// watchBody replaces the body of a healthy response by one that tells the
// endpoint's breaker how it ended.
func (a *attempt) watchBody(resp *http.Response) {
	if resp.Body == nil || resp.Body == http.NoBody {
		a.cancel()
		a.c.t.clear(a.st)
		return
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return // the body is the connection now, and not ours to wrap
	}
	b := &a.c.answer // rather than memory of its own
	b.body, b.c, b.st, b.way, b.status = resp.Body, a.c, a.st, a.way, resp.StatusCode
	resp.Body = b
}

// releaseWith releases the context of the attempt when the body is closed.
func (a *attempt) releaseWith(resp *http.Response) {
	if a.way != nil && a.way.cancel != nil && resp.Body != nil {
		resp.Body = &releasingBody{resp.Body, a.way}
	}
}

type releasingBody struct {
	io.ReadCloser
	way *way
}

func (b *releasingBody) Close() error {
	defer b.way.release()
	return b.ReadCloser.Close()
}

// watchedBody is the body of a healthy response. An answer is a success once it
// was read to its end or closed without an error; one that breaks off is a
// fault of the endpoint, although the response was returned long ago.
type watchedBody struct {
	body   io.ReadCloser
	c      *call
	st     *state
	way    *way
	status int
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
	b.way.release()
	return err
}

// end takes note of how the body ended, once.
func (b *watchedBody) end(err error) {
	if b.over.Load() || b.over.Swap(true) {
		return
	}
	if err == io.EOF {
		b.c.t.clear(b.st)
		return
	}
	if b.c.req.Context().Err() == context.Canceled {
		return
	}
	if f := b.c.t.classify(nil, err); f != nil {
		broken := *f
		broken.Endpoint, broken.Status, broken.Delivery = b.st.active, b.status, Answered
		b.c.t.report(b.st, &broken)
	}
}

// clear takes the faults of the active endpoint off the record, if there are any.
func (t *Transport) clear(st *state) {
	e := &t.endpoints[st.active]
	if !e.suspect.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.Load().generation == st.generation {
		e.success()
	}
}

// maxDrain is how much of a response that nobody wants is read, so that its
// connection can be used again.
const maxDrain = 64 << 10

// discard ends a response that is not returned.
func discard(resp *http.Response) {
	if resp == nil || resp.Body == nil {
		return
	}
	if resp.ContentLength <= maxDrain {
		io.CopyN(io.Discard, resp.Body, maxDrain)
	}
	resp.Body.Close()
}
