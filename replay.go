package failover

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/message"
	"github.com/d365failover/failover/internal/xmlpath"
)

type contextKey uint8

const (
	replayKey contextKey = iota
	labelKey
	doubtKey // see InDoubt
)

// WithReplay returns a context that marks requests as safe to repeat if the outcome of an
// attempt is unknown, for instance because the caller has assigned the record's id.
func WithReplay(ctx context.Context) context.Context {
	return context.WithValue(ctx, replayKey, true)
}

// NoReplay returns a context that limits requests to one attempt: they are never carried out
// twice, and never sent to the other endpoint. Within the attempt, a request goes over
// another connection only if nothing of it was written, or a GOAWAY (HTTP/2) excluded it. A
// request body without GetBody is streamed rather than buffered.
func NoReplay(ctx context.Context) context.Context {
	return context.WithValue(ctx, replayKey, false)
}

// WithLabel returns a context that labels requests, for example "invoice 7", so that their
// writes can be recognized in loss reports, events and log lines. Labels are cut at 256
// bytes.
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

// isRead reports whether the request is a read. The result is cached, because the body may have
// to be parsed.
func (c *call) isRead() bool {
	if !c.looked {
		c.looked, c.onlyReads = true, message.Reads(c.req.Method, c.req.URL, c.req.Header, c.body.held)
	}
	return c.onlyReads
}

// maySendAgain is the replay rule: it reports whether f and the request allow another attempt.
func (c *call) maySendAgain(f *Fault) bool {
	if replay, marked := c.req.Context().Value(replayKey).(bool); marked && !replay {
		return false
	}
	switch f.Delivery {
	case NotSent, Refused: // proof that the request was not carried out
		return true
	default:
		return f.challenges() && !c.isBulk() || !c.once()
	}
}

// challenges reports whether a gateway answered the request with 401, so that it was not
// applied (RFC 9110, section 15.5.2).
func (f *Fault) challenges() bool {
	return f.Class == ClassAuth && f.Status == http.StatusUnauthorized && f.Code == "" && f.Delivery == Answered
}

// once reports whether the request must not be sent again while the outcome of an attempt is
// unknown. The result is cached.
func (c *call) once() bool {
	if !c.judged {
		c.judged, c.onlyOnce = true, !c.repeatsInDoubt()
	}
	return c.onlyOnce
}

// repeatsInDoubt reports whether the request is safe to repeat: because of its context, method,
// headers or body, or because Config.Replay says so.
func (c *call) repeatsInDoubt() bool {
	if replay, marked := c.req.Context().Value(replayKey).(bool); marked {
		return replay
	}
	if c.isRead() || isIdempotent(c.req) {
		return true
	}
	safe := false
	if c.t.cfg.Replay != nil {
		c.t.protect("Replay", func() { safe = c.t.cfg.Replay(c.req) })
	}
	return safe
}

// idempotencyKeys are the headers that make net/http repeat a request by itself.
var idempotencyKeys = [...]string{"Idempotency-Key", "X-Idempotency-Key"}

// isIdempotent reports whether carrying out the request twice has the same effect as once.
func isIdempotent(req *http.Request) bool {
	for _, key := range idempotencyKeys {
		if hasKey(req.Header, key) {
			return true
		}
	}
	if message.Overridden(req.Header) {
		return false // another header names the method
	}
	switch req.Method {
	case http.MethodPut, http.MethodDelete:
		return true
	case http.MethodPatch:
		// Without a condition it is an upsert, which would create a record that a failover
		// has lost anew, from the updated columns alone.
		return isCondition(req.Header["If-Match"]) || isAnyTag(req.Header["If-None-Match"])
	default:
		return false
	}
}

// hasKey reports whether a header marks the request as idempotent: with a key, or, as net/http
// allows, with an empty list of values, which is not sent. An empty value is no key.
func hasKey(h http.Header, name string) bool {
	values, ok := h[name]
	if len(values) == 0 {
		return ok
	}
	return len(values) == 1 && strings.TrimSpace(values[0]) != ""
}

// isCondition reports whether the values of If-Match are valid, * or entity tags (RFC 9110,
// section 13.1.1), so that a service refuses the request unless the record exists. It may
// ignore invalid ones.
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

// isBulk reports whether the request is a bulk write: one for several operations, of which some
// may have been carried out although the answer is an error. A call knows more of the body
// than Classify, which uses bulk.
func (c *call) isBulk() bool {
	if c.isRead() {
		return false
	}
	switch {
	case namesSeveral(c.req.URL):
		return true
	case !mayExecute(c.req):
		return false
	case c.body.held != nil:
		return executesMultiple(bytes.NewReader(c.body.held))
	case bodyless(c.req) || !inMemory(c.req.Body):
		return true // the body cannot be inspected
	}
	several, known := executesSeveral(c.body.getBody, math.MaxInt64)
	return several || !known
}

// ofBulk corrects the Delivery of a fault for a bulk request. Service protection limits apply
// before the first operation, and a multipart answer shows what was carried out. After a fence
// that answers the whole request, the outcome is unknown.
func (f *Fault) ofBulk(resp *http.Response) {
	switch {
	case f.limited():
	case f.Definitive && !ascii.HasPrefixFold(valueOf(resp.Header, "Content-Type"), "multipart/"):
		f.Delivery = Unknown
	case f.Delivery == Refused:
		f.Delivery = Answered
	}
}

// bulk reports whether req is a bulk request, as far as its URL and GetBody tell. The service
// commits the operations of a $batch or ExecuteMultiple one by one, and all bulk operations on
// elastic tables.
func bulk(req *http.Request) bool {
	if req == nil || req.URL == nil {
		return false
	}
	if namesSeveral(req.URL) {
		return true
	}
	if !mayExecute(req) {
		return false
	}
	several, _ := executesSeveral(req.GetBody, maxPeek)
	return several
}

// namesSeveral reports whether a URL is that of a bulk operation.
func namesSeveral(u *url.URL) bool {
	name := operation(message.Target(u).Path)
	return ascii.Lower(name) == "$batch" || multiple(name)
}

// executesSeveral reports whether a SOAP message executes several operations, judging by up to
// most bytes. Known is false if getBody is nil or returns no body.
func executesSeveral(getBody func() (io.ReadCloser, error), most int64) (several, known bool) {
	if getBody == nil {
		return false, false
	}
	body, err := getBody()
	if err != nil || body == nil {
		return false, false
	}
	defer body.Close()
	return executesMultiple(io.LimitReader(body, most)), true
}

// mayExecute reports whether req may be a SOAP message. Some servers ignore the case of the
// method.
func mayExecute(req *http.Request) bool {
	return ascii.EqualFold("post", req.Method) && message.MayBeSOAP(req.Header)
}

// operation returns the last segment of a path, without its namespace and parameters.
func operation(path string) string {
	name := strings.TrimRight(path, "/")
	name = name[strings.LastIndexByte(name, '/')+1:]
	name, _, _ = strings.Cut(name, "(")
	return name[strings.LastIndexByte(name, '.')+1:]
}

// multiple reports whether name is that of a message such as CreateMultiple or ExecuteMultiple.
func multiple(name string) bool {
	return strings.HasSuffix(ascii.Lower(strings.TrimSpace(name)), "multiple")
}

// executesMultiple reports whether a SOAP message executes such a request, by the type or the
// RequestName. It returns true if the message cannot be read (UTF-16, compressed).
func executesMultiple(body io.Reader) bool {
	r := xmlpath.NewReader(body, maxSOAPDepth)
	var name []byte // in RequestName, which may come in pieces
	for {
		token, err := r.Next()
		if err != nil {
			return !documentEnded(err) // the server may be able to read on
		}
		path := r.Path()
		if len(path) < 4 || path[1].Local != "Body" || path[2].Local != "Execute" || path[3].Local != "request" {
			continue
		}
		switch t := token.(type) {
		case xml.StartElement:
			for _, a := range t.Attr {
				if len(path) == 4 && a.Name.Local == "type" && multiple(strings.TrimSuffix(strings.TrimSpace(a.Value), "Request")) {
					return true
				}
			}
		case xml.CharData:
			if len(path) != 5 || path[4].Local != "RequestName" {
				continue
			}
			if name = append(name, t...); len(name) > maxRequestName || multiple(string(name)) {
				return true
			}
		}
	}
}

// documentEnded reports whether the document ended, completely or prematurely.
func documentEnded(err error) bool {
	var syntax *xml.SyntaxError
	return err == io.EOF || errors.As(err, &syntax) && syntax.Msg == "unexpected EOF"
}

const (
	maxSOAPDepth   = 64  // the name of a request is never nested that deeply
	maxRequestName = 256 // in bytes; longer than any name
)

// budget limits retries against the same endpoint to a share of the requests, so that an
// endpoint in trouble does not get a multiple of its load. Each successful request deposits one
// share, unless the budget is full.
type budget struct{ shares atomic.Int64 }

const (
	sharesPerRepeat = 10                   // retries are limited to 10% of requests
	maxShares       = 10 * sharesPerRepeat // with a burst of ten
)

func (b *budget) fill() { b.shares.Store(maxShares) }

// deposit adds shares, up to maxShares. Concurrent calls may exceed that slightly.
func (b *budget) deposit(shares int64) {
	if n := min(shares, maxShares-b.shares.Load()); n > 0 {
		b.shares.Add(n)
	}
}

// take takes the shares of one retry, and reports whether there were enough. Of concurrent
// calls, one may be refused wrongly.
func (b *budget) take() bool {
	if b.shares.Add(-sharesPerRepeat) >= 0 {
		return true
	}
	b.shares.Add(sharesPerRepeat)
	return false
}

func (b *budget) giveBack() { b.deposit(sharesPerRepeat) }
