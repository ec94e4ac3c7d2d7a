package failover

import (
	"bytes"
	"context"
	"net/http"
	"path"
	"strings"

	"github.com/d365failover/failover/internal/message"
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

// isReadMethod reports whether requests with the method change nothing
// (RFC 9110, section 9.2.1).
func isReadMethod(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// isRead reports whether the request changes nothing at the organization. It
// looks once: the body may have to be parsed for it.
func (c *call) isRead() bool {
	if !c.looked {
		c.looked, c.onlyReads = true, c.reads()
	}
	return c.onlyReads
}

// reads looks at the request: at its method, whether it is a SOAP message that
// retrieves, or a batch of nothing but reads.
func (c *call) reads() bool {
	req := c.req
	if isReadMethod(req.Method) {
		return true
	}
	if req.Method != http.MethodPost {
		return false
	}
	if path.Base(req.URL.Path) == "$batch" {
		return message.BatchReads(req.Header.Get("Content-Type"), req.Header.Get("Content-Encoding"), c.body.held)
	}
	action, ok := message.Action(req.Header)
	return ok && (message.Retrieves(action) || message.Reads(action, c.body.held))
}

// isCompound reports whether the request holds several writes of which some may be
// carried out although the answer is an error: a $batch, an ExecuteMultiple, or one
// of the bulk operations, which are no transaction in elastic tables.
func (c *call) isCompound() bool {
	if c.req.Method != http.MethodPost || c.isRead() {
		return false
	}
	switch name := path.Base(c.req.URL.Path); strings.TrimPrefix(name, "Microsoft.Dynamics.CRM.") {
	case "$batch", "CreateMultiple", "UpdateMultiple", "UpsertMultiple", "DeleteMultiple":
		return true
	}
	action, ok := message.Action(c.req.Header)
	return ok && strings.HasSuffix(action, "/Execute") && (c.body.held == nil || bytes.Contains(c.body.held, []byte("Multiple")))
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
		return marked || isIdempotent(c.req) || c.isRead() ||
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
