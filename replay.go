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

// isRead reports whether the request changes nothing at the organization. It
// looks once: the body may have to be parsed for it.
func (c *call) isRead() bool {
	if !c.looked {
		c.looked, c.onlyReads = true, message.Reads(c.req.Method, c.req.URL, c.req.Header, c.body.held)
	}
	return c.onlyReads
}

// maySendAgain reports whether the request may be sent once more after fault f, as
// far as that and the request go. It is the only place that decides on it.
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

// challenges reports whether the request was answered 401 by a gateway: it has not
// been applied (RFC 9110, section 15.5.2).
func (f *Fault) challenges() bool {
	return f.Class == ClassAuth && f.Status == http.StatusUnauthorized && f.Code == "" && f.Delivery == Answered
}

// once reports whether the request must not be carried out again while the outcome of
// an attempt is unknown. It looks once.
func (c *call) once() bool {
	if !c.judged {
		c.judged, c.onlyOnce = true, !c.repeatsInDoubt()
	}
	return c.onlyOnce
}

// repeatsInDoubt looks at the request: at its mark, its headers and method, what it
// asks for, and what Config.Replay says.
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

// idempotencyKeys make net/http repeat a request by itself.
var idempotencyKeys = [...]string{"Idempotency-Key", "X-Idempotency-Key"}

// isIdempotent reports whether carrying the request out twice does the same as
// doing it once.
func isIdempotent(req *http.Request) bool {
	for _, key := range idempotencyKeys {
		if hasKey(req.Header, key) {
			return true
		}
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
	if len(values) == 0 {
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

// isBulk reports whether the request is one for several operations, of which some may
// be carried out although the answer is an error. Classify goes by what it sees of a
// request; a call has more of it.
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
		return true // what is being sent cannot be had a second time, for all that is known
	}
	several, known := executesSeveral(c.body.getBody, math.MaxInt64)
	return several || !known
}

// ofBulk corrects what a fault says about a request for several operations: the limits
// of service protection hold before the first of them, and an answer in parts says
// itself how far it came; of a fence that answers the whole, nobody can tell.
func (f *Fault) ofBulk(resp *http.Response) {
	switch {
	case f.limited():
	case f.Definitive && !ascii.HasPrefixFold(valueOf(resp.Header, "Content-Type"), "multipart/"):
		f.Delivery = Unknown
	case f.Delivery == Refused:
		f.Delivery = Answered
	}
}

// bulk reports whether req asks for several operations at once, of which some may
// have been carried out although the answer is a refusal: the service commits
// them one by one in a $batch, an ExecuteMultiple, and all of them on elastic
// tables. Of a SOAP message only the body tells, where it can be had again.
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

// namesSeveral reports whether a URL is one for several operations.
func namesSeveral(u *url.URL) bool {
	name := operation(message.Target(u).Path)
	return ascii.Lower(name) == "$batch" || multiple(name)
}

// executesSeveral reports whether a SOAP message is one for several operations, by its first
// bytes, as many as most. It is not known if the message cannot be had again.
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

// mayExecute reports whether req may be a SOAP message. Some servers do not mind the
// case of a method.
func mayExecute(req *http.Request) bool {
	return ascii.EqualFold("post", req.Method) && message.MayBeSOAP(req.Header)
}

// operation returns what a path ends with, without its namespace and parameters.
func operation(path string) string {
	name := strings.TrimRight(path, "/")
	name = name[strings.LastIndexByte(name, '/')+1:]
	name, _, _ = strings.Cut(name, "(")
	return name[strings.LastIndexByte(name, '.')+1:]
}

// multiple reports whether name is that of CreateMultiple, ExecuteMultiple or
// another message of their kind.
func multiple(name string) bool {
	return strings.HasSuffix(ascii.Lower(strings.TrimSpace(name)), "multiple")
}

// executesMultiple reports whether a SOAP message executes a request of that kind,
// which its type or its RequestName says, or may do so because it cannot be read (in
// UTF-16, compressed).
func executesMultiple(body io.Reader) bool {
	r := xmlpath.NewReader(body, maxSOAPDepth)
	var name []byte // in RequestName, which may come in pieces
	for {
		token, err := r.Next()
		if err != nil {
			return !documentEnded(err) // somebody may read on where we cannot
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

// documentEnded reports whether err is that of a document which has ended, early or not.
func documentEnded(err error) bool {
	var syntax *xml.SyntaxError
	return err == io.EOF || errors.As(err, &syntax) && syntax.Msg == "unexpected EOF"
}

const (
	// maxSOAPDepth is more than the way to the name of a request takes.
	maxSOAPDepth = 64
	// maxRequestName is more bytes than the name of a request has.
	maxRequestName = 256
)

// budget bounds the repeats at one endpoint to a share of the requests, so that
// an endpoint in trouble does not get several times its load. It is counted in
// shares of a repeat; while it is full, requests only read it.
type budget struct{ shares atomic.Int64 }

const (
	sharesPerRepeat = 10 // one repeat for ten requests
	maxShares       = 10 * sharesPerRepeat
)

func (b *budget) fill() { b.shares.Store(maxShares) }

// deposit adds shares, up to the most that are saved; calls that meet may add a few more.
func (b *budget) deposit(shares int64) {
	if n := min(shares, maxShares-b.shares.Load()); n > 0 {
		b.shares.Add(n)
	}
}

// take pays for a repeat. Of calls that meet, one may be refused what it could have had.
func (b *budget) take() bool {
	if b.shares.Add(-sharesPerRepeat) >= 0 {
		return true
	}
	b.shares.Add(sharesPerRepeat)
	return false
}

func (b *budget) giveBack() { b.deposit(sharesPerRepeat) }
