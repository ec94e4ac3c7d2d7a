package main

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

var errNotPlain = errors.New("not a plain read")

// steps is a lower bound rather than a peer: the steps that a Transport needs for a plain
// read, and nothing else.
func steps(base http.RoundTripper, _, _ string) sender {
	began := time.Now()
	var last atomic.Int64
	var shards [4]struct {
		waiting atomic.Int32
		_       [60]byte // for a cache line each
	}
	return func(c *call) (*http.Response, error) {
		h, path := c.req.Header, c.req.URL.Path
		for _, override := range [...]string{"X-Http-Method", "X-Http-Method-Override", "X-Method-Override"} {
			if h[override] != nil { // may be a write
				return nil, errNotPlain
			}
		}
		if strings.IndexByte(path, 'q') >= 0 || strings.IndexByte(path, 'Q') >= 0 { // may take a message from a queue
			return nil, errNotPlain
		}
		waiting := &shards[rand.Uint32()%4].waiting // may get no answer
		waiting.Add(1)
		resp, err := base.RoundTrip(c.req)
		waiting.Add(-1)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(resp.Header["Content-Type"][0], "text/html") { // may be an outage page
			return nil, errNotPlain
		}
		if now := time.Since(began); now-time.Duration(last.Load()) >= time.Millisecond { // the anchor of loss reports
			last.Store(int64(now))
		}
		resp.Body = &stepsBody{ReadCloser: resp.Body, ctx: c.req.Context(), status: resp.StatusCode}
		return resp, nil
	}
}

// stepsBody sees whether an answer breaks off.
type stepsBody struct {
	io.ReadCloser
	ctx    context.Context
	status int
	over   atomic.Bool
}

func (b *stepsBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.over.Swap(true)
	}
	return n, err
}

func (b *stepsBody) Close() error {
	if !b.over.Load() {
		b.over.Swap(true)
	}
	return b.ReadCloser.Close()
}
