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

// isSafe reports whether the request changes nothing by its line and header alone.
func isSafe(req *http.Request) bool { return message.Safe(req.Method, req.URL, req.Header) }

// isRead reports whether the request changes nothing at the organization. It
// looks once: the body may have to be parsed for it.
func (c *call) isRead() bool {
	if !c.looked {
		c.looked, c.onlyReads = true, message.Reads(c.req.Method, c.req.URL, c.req.Header, c.body.held)
	}
	return c.onlyReads
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
	if hasKey(req.Header, "Idempotency-Key") || hasKey(req.Header, "X-Idempotency-Key") {
		return true
	}
	if message.Overridden(req.Header) {
		return false // whatever the method is, another one may be meant
	}
	switch req.Method {
	case http.MethodPut, http.MethodDelete:
		return true
	case http.MethodPatch:
		// Without a condition it is an upsert, which would create a stub of a
		// record that was lost in a failover.
		return isCondition(req.Header["If-Match"]) || isAnyTag(req.Header["If-None-Match"])
	default:
		return false
	}
}

// hasKey reports whether a header marks the request as idempotent, as net/http has
// it: with a key, or without any value, which is not sent. A value that is empty
// is sent, and is no key.
func hasKey(h http.Header, name string) bool {
	values, ok := h[name]
	if !ok || len(values) == 0 {
		return ok
	}
	return len(values) == 1 && strings.TrimSpace(values[0]) != ""
}

// isCondition reports whether the values of If-Match make a service refuse the
// request unless the record exists: they are * or entity tags (RFC 9110, section
// 13.1.1). A service may ignore what it cannot read.
func isCondition(values []string) bool {
	if isAnyTag(values) {
		return true
	}
	for _, value := range values {
		for tag := range strings.SplitSeq(value, ",") {
			tag, quoted := strings.CutPrefix(strings.TrimPrefix(strings.TrimSpace(tag), "W/"), `"`)
			tag, closed := strings.CutSuffix(tag, `"`)
			if !quoted || !closed || tag == "" || strings.ContainsAny(tag, "\"\x00 ") {
				return false
			}
		}
	}
	return len(values) > 0
}

// isAnyTag reports whether the value of If-Match or If-None-Match is *.
func isAnyTag(values []string) bool {
	return len(values) == 1 && strings.TrimSpace(values[0]) == "*"
}
