package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// attempted returns a call whose attempt at the alternate is in progress over an
// *http.Transport. Its body is buffered; marks are what was seen of it.
func attempted(t *testing.T, path, contentType, body string, marks uint32) *call {
	c := newCall(t, path, contentType, body, 1<<20)
	c.t.connections.direct = true
	c.st, c.out = &state{active: Alternate, pool: new(pool)}, c.req
	c.sending = &sendWatch{connections: &c.t.connections, protocol: &c.t.protocols[Alternate]}
	c.sending.seen.Store(marks)
	return c
}

// The classification of an answer is corrected by what was seen of the attempt, and by what
// the request asks for.
func TestWhatAnAnswerSaysIsCorrected(t *testing.T) {
	t.Parallel()
	const batch, parts = "/api/data/v9.2/$batch", "multipart/mixed; boundary=contoso"
	missing := Fault{Class: ClassApplication, Delivery: Answered, Status: 404, Code: "0x80040217", service: true}
	for name, row := range map[string]struct {
		path, contentType, body string
		method                  string
		marks                   uint32
		said                    Fault
		want                    Delivery
	}{
		"refused":                            {accountA, "", "{}", "POST", sawGotConn, Fault{Delivery: Refused}, Refused},
		"not sent, and answered":             {accountA, "", "{}", "POST", sawGotConn, Fault{Delivery: NotSent}, Unknown},
		"refused at the second try":          {accountA, "", "{}", "POST", sawGotConn | sawEarlier, Fault{Delivery: Refused}, Unknown},
		"gone at the second try":             {accountA, "", "", "DELETE", sawGotConn | sawEarlier, missing, Answered},
		"missing at the second try":          {accountA, "", "{}", "PUT", sawGotConn | sawEarlier, missing, Unknown},
		"several, refused":                   {batch, parts, batchOf("POST accounts"), "POST", sawGotConn, Fault{Delivery: Refused}, Answered},
		"several, fenced":                    {batch, parts, batchOf("POST accounts"), "POST", sawGotConn, Fault{Delivery: Answered, Definitive: true}, Unknown},
		"several, answered":                  {batch, parts, batchOf("POST accounts"), "POST", sawGotConn, Fault{Delivery: Answered}, Answered},
		"several reads, refused":             {batch, parts, batchOf("GET accounts"), "POST", sawGotConn, Fault{Delivery: Refused}, Refused},
		"several, refused at the second try": {batch, parts, batchOf("POST accounts"), "POST", sawGotConn | sawEarlier, Fault{Delivery: Refused}, Unknown},
	} {
		c := attempted(t, row.path, row.contentType, row.body, row.marks)
		c.req.Method = row.method
		said := row.said
		f := c.completeFault(&said, &http.Response{Header: http.Header{"Content-Type": {"application/json"}}}, nil)
		assert.Equal(t, row.want, f.Delivery, name)
		assert.Equal(t, Alternate, f.Endpoint, name)
		assert.Equal(t, row.said, said, "%s: a Config.Classify may share its faults", name)
		assert.Equal(t, row.said.service && !row.said.Definitive, f.subject != 0, name)
	}
	fenced := attempted(t, accountA, "", "{}", sawGotConn).completeFault(&Fault{Definitive: true, service: true}, nil, nil)
	assert.Zero(t, fenced.subject, "a fence is about no request")
	f := attempted(t, accountA, "", "{}", sawGotConn).completeFault(nil, &http.Response{}, nil)
	assert.Equal(t, ClassTransient, f.Class, "Config.Classify has found nothing")
}

// The meaning of an error depends on what was seen of the attempt, and on how the call itself
// ended.
func TestWhatAnErrorMeans(t *testing.T) {
	t.Parallel()
	failed := errors.New("contoso")
	const written = sawGetConn | sawGotConn | sawHeaders
	ended := func(ctx context.Context, cancel context.CancelFunc) context.Context { cancel(); return ctx }
	for name, row := range map[string]struct {
		marks    uint32
		change   func(*call)
		err      error
		class    Class
		delivery Delivery
	}{
		"written":                        {written, nil, failed, ClassTransient, Unknown},
		"no connection":                  {sawGetConn, nil, failed, ClassUnavailable, NotSent},
		"not written":                    {sawGetConn | sawGotConn, nil, failed, ClassUnavailable, NotSent},
		"no connection in time":          {sawGetConn, nil, errAttemptTimeout, ClassTransient, NotSent},
		"caller has cancelled":           {written, func(c *call) { c.req = c.req.WithContext(ended(context.WithCancel(t.Context()))) }, failed, ClassCanceled, Unknown},
		"caller's deadline, not sent":    {sawGetConn, func(c *call) { c.req = c.req.WithContext(ended(context.WithTimeout(t.Context(), 0))) }, failed, ClassTransient, NotSent},
		"client's Timeout, not sent":     {sawGetConn, func(c *call) { c.req = c.req.WithContext(overdue{t.Context()}); c.cancel(closed()) }, failed, ClassTransient, NotSent},
		"caller has closed Cancel":       {written, func(c *call) { c.cancel(closed()) }, failed, ClassCanceled, Unknown},
		"Cancel closed, hooks are late":  {sawGetConn | sawGotConn, func(c *call) { c.cancel(closed()) }, failed, ClassCanceled, Unknown},
		"cannot be sent any more":        {sawGetConn | sawGotConn | sawEarlier, func(c *call) { c.out.Header["a b"] = nil }, failed, ClassLocal, Unknown},
		"body fails":                     {written, func(c *call) { c.body.source = new(source); c.body.source.broken.Store(true) }, failed, ClassLocal, Unknown},
		"no files":                       {sawGetConn, nil, syscall.EMFILE, ClassLocal, NotSent},
		"waited for a connection":        {sawGetConn, func(c *call) { c.t.connections.limited = true; c.t.connections.tells.Store(true) }, failed, ClassLocal, NotSent},
		"cannot be sent":                 {sawGetConn | sawGotConn, func(c *call) { c.out.Header["a b"] = nil }, failed, ClassLocal, NotSent},
		"cannot be sent by another Base": {sawGetConn | sawGotConn, func(c *call) { c.out.Header["a b"] = nil; c.t.connections.direct = false }, failed, ClassLocal, Unknown},
		"was sent all the same":          {sawGotConn | sawHeaders, func(c *call) { c.out.Header["a b"] = nil }, failed, ClassTransient, Unknown},
		"cannot be sent over HTTP/2":     {sawGetConn, func(c *call) { c.out.Header.Set("Upgrade", "contoso"); c.t.protocols[Alternate].learn(true) }, failed, ClassLocal, NotSent},
		"upgrade over HTTP/1.1":          {sawGetConn, func(c *call) { c.out.Header.Set("Upgrade", "contoso") }, failed, ClassUnavailable, NotSent},
	} {
		c := attempted(t, "/api/data/v9.2/accounts", "application/json", "{}", row.marks)
		c.req.Header.Set("X-Ms-Client-Request-Id", "contoso-7")
		c.out = c.req.Clone(context.Background())
		if row.change != nil {
			row.change(c)
		}
		f := c.completeFault(&Fault{Class: ClassTransient, Delivery: Unknown}, nil, row.err)
		assert.Equal(t, row.class.String(), f.Class.String(), name)
		assert.Equal(t, row.delivery.String(), f.Delivery.String(), name)
		assert.Equal(t, row.err, f.Err, name)
		assert.Equal(t, "contoso-7", f.RequestID, name)
	}
	c := attempted(t, "/api/data/v9.2/accounts", "application/json", "{}", sawGetConn)
	f := c.completeFault(&Fault{Class: ClassAuth, Err: io.ErrUnexpectedEOF, RequestID: "contoso-8"}, nil, failed)
	assert.Equal(t, ClassAuth, f.Class, "only what is not known better")
	assert.Equal(t, io.ErrUnexpectedEOF, f.Err)
	assert.Equal(t, "contoso-8", f.RequestID)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c = attempted(t, "/api/data/v9.2/accounts", "application/json", "{}", sawGetConn|sawGotConn)
	c.out = c.req.WithContext(ctx)
	assert.Equal(t, Unknown, c.completeFault(nil, nil, failed).Delivery, "the context of the attempt has ended")
}

// cancel sets Request.Cancel, as clients with a Timeout do.
func (c *call) cancel(done <-chan struct{}) {
	//lint:ignore SA1019 clients do
	c.req.Cancel = done
}

// overdue is a context whose deadline has passed, and which has not ended yet: a client's Timeout
// may close Request.Cancel that much earlier.
type overdue struct{ context.Context }

func (overdue) Deadline() (time.Time, bool) { return time.Time{}, true }

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// A client with a Timeout closes Request.Cancel when the deadline passes: that is no
// cancellation by the caller.
func TestWhoseCancelItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := attempted(t, accountA, "", "", 0)
		assert.NoError(t, endOf(c.req))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, bounded := range []context.Context{t.Context(), ctx} {
			c.req = c.req.WithContext(bounded)
			c.cancel(make(chan struct{}))
			assert.NoError(t, endOf(c.req))
			c.cancel(closed())
			assert.Equal(t, context.Canceled, endOf(c.req))
		}
		time.Sleep(time.Second)
		assert.Equal(t, context.DeadlineExceeded, endOf(c.req))
		c.req = c.req.WithContext(overdue{t.Context()})
		assert.Equal(t, context.DeadlineExceeded, endOf(c.req))
	})
}

// A write that was provably not processed is sent again, but not without limit: both the tries
// and the pauses are bounded.
func TestWhatWasNotLookedAtIsSentAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		left := errors.New("http2: Transport: cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY]" +
			" after Request.Body was written; define Request.GetBody to avoid this error")
		notSent, refused := Fault{Err: io.EOF, Delivery: NotSent}, Fault{Err: left, Delivery: Refused}
		for name, row := range map[string]struct {
			marks  uint32
			fault  Fault
			change func(*call)
			want   int // tries
		}{
			"left out by a GOAWAY":       {sawGotConn, refused, nil, maxUnseen},
			"closed, used before":        {sawGotConn | sawReuse, notSent, nil, maxUnseen},
			"closed, new":                {sawGotConn, notSent, nil, unseenAtOnce},
			"no connection":              {sawReuse, notSent, nil, 0},
			"a GOAWAY, but not left out": {sawGotConn, Fault{Err: left, Delivery: Unknown}, nil, 0},
			"refused otherwise":          {sawGotConn, Fault{Err: io.EOF, Delivery: Refused}, nil, 0},
			"in doubt":                   {sawGotConn | sawReuse, Fault{Err: io.EOF, Delivery: Unknown}, nil, 0},
			"answered":                   {sawGotConn | sawReuse, Fault{Delivery: NotSent}, nil, 0},
			"the caller's trouble":       {sawGotConn | sawReuse, Fault{Err: io.EOF, Delivery: NotSent, Class: ClassLocal}, nil, 0},
			"may be repeated":            {sawGotConn | sawReuse, notSent, func(c *call) { c.sending.once = false }, 0},
			"the context has ended": {sawGotConn | sawReuse, notSent, func(c *call) {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				c.req = c.req.WithContext(ctx)
			}, 0},
			"not watched": {sawGotConn | sawReuse, notSent, func(c *call) { c.sending = nil }, 0},
			"body was read": {sawGotConn | sawReuse, notSent, func(c *call) {
				c.body.stream = &stream{Reader: http.NoBody}
				c.body.stream.lease().Read(make([]byte, 1))
			}, 0},
		} {
			c := attempted(t, "/api/data/v9.2/accounts", "application/json", "{}", row.marks)
			c.sending.once = true
			if row.change != nil {
				row.change(c)
			}
			began, times := time.Now(), 0
			for c.unseen(&row.fault) {
				times++
				require.LessOrEqual(t, times, maxUnseen)
				if times <= unseenAtOnce {
					assert.Zero(t, time.Since(began), name)
				}
			}
			assert.Equal(t, row.want, times, name)
			if row.want == maxUnseen { // 1, 2, 4, ... 64 ms
				assert.Equal(t, 127*time.Millisecond+10*64*time.Millisecond, time.Since(began), name)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Microsecond)
		defer cancel()
		c := attempted(t, "/api/data/v9.2/accounts", "application/json", "{}", sawGotConn|sawReuse)
		c.req, c.sending.once = c.req.WithContext(ctx), true
		times := 0
		for c.unseen(&notSent) {
			times++
		}
		assert.Equal(t, unseenAtOnce+1, times, "the context ends in the second pause")

		c = attempted(t, "/api/data/v9.2/accounts", "application/json", "{}", sawGotConn|sawReuse)
		c.sending.once, c.repeats = true, maxUnseen-1
		c.body.stream = &stream{Reader: http.NoBody}
		body := c.body.stream.lease()
		time.AfterFunc(time.Millisecond, func() { body.Read(make([]byte, 1)) })
		assert.False(t, c.unseen(&notSent), "the attempt before has begun to read the body in the pause")
	})
}

// A later answer settles what became of an earlier attempt only if it can know.
func TestWhatSettlesADoubt(t *testing.T) {
	t.Parallel()
	said := Fault{Class: ClassApplication, Delivery: Answered, Code: "0x80040217", Status: 404}
	for name, row := range map[string]struct {
		method, header string
		change         func(*Fault)
		want           bool
	}{
		"gone":                        {"DELETE", "", func(*Fault) {}, true},
		"gone for good":               {"DELETE", "", func(f *Fault) { f.Status = 410 }, true},
		"not there to be updated":     {"PATCH", "If-Match", func(*Fault) {}, true},
		"not there":                   {"PUT", "", func(*Fault) {}, false},
		"condition":                   {"PATCH", "If-Match", func(f *Fault) { f.Status = 412 }, true},
		"other condition":             {"PATCH", "If-None-Match", func(f *Fault) { f.Status = 412 }, true},
		"condition nobody made":       {"DELETE", "", func(f *Fault) { f.Status = 412 }, false},
		"exists, to an If-None-Match": {"PATCH", "If-None-Match", func(*Fault) {}, false},
		"validation":                  {"DELETE", "If-Match", func(f *Fault) { f.Status = 400 }, false},
		"another class":               {"DELETE", "", func(f *Fault) { f.Class = ClassAuth }, false},
		"not answered":                {"DELETE", "", func(f *Fault) { f.Delivery = Unknown }, false},
		"a page":                      {"DELETE", "", func(f *Fault) { f.Code = "" }, false},
	} {
		c := attempted(t, accountA, "", "", 0)
		c.req.Method = row.method
		if row.header != "" {
			c.req.Header.Set(row.header, "*")
		}
		f := said
		row.change(&f)
		assert.Equal(t, row.want, c.settles(&f), name)
	}
}

// An error stays an error even if Config.Classify finds nothing wrong with it.
func TestAnErrorIsNoAnswer(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }),
		Config{Classify: func(*http.Response, error) *Fault { return nil }, MaxAttempts: 1, ProbeInterval: -1})
	req, err := http.NewRequest(http.MethodGet, "https://contoso.api.crm.dynamics.com"+accountA, nil)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(req)
	assert.Nil(t, resp)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// An answer of the service is a sign of life even if it is an error. The credentials of a
// request that was answered while neither endpoint served are offered to the probes.
func TestWhatAnAnswerIsGoodFor(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		status int
		header []string
		down   bool
		heard  bool
		lent   bool
	}{
		"good":                     {200, []string{"OData-Version", "4.0"}, false, true, false},
		"good, while down":         {200, []string{"OData-Version", "4.0"}, true, true, true},
		"not found by the service": {404, []string{"OData-Version", "4.0"}, false, true, false},
		"not found by a front end": {404, nil, false, false, false},
		"unavailable":              {503, []string{"OData-Version", "4.0"}, false, false, false},
	} {
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			resp := replyWith(row.status, "", row.header...)
			resp.Request = req
			return resp, nil
		}), Config{ProbeInterval: -1, SuspectAfter: -1})
		req, err := http.NewRequest(http.MethodGet, "https://contoso.api.crm.dynamics.com"+accountA, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer x")
		st := *transport.state.Load()
		st.down = row.down
		st.pool.waits.last.Store(7)
		c := &call{t: transport, req: req}
		require.Nil(t, c.prepare(&st))
		resp, _ := c.send()
		resp.Body.Close()
		assert.Equal(t, row.heard, st.pool.waits.last.Load() != 7, name)
		assert.Equal(t, row.heard, transport.endpoints[Primary].lastSuccess.Load() != 0, name)
		assert.Equal(t, row.lent, len(transport.credentials.kept) > 0, name)
		assert.True(t, transport.protocols[Primary].speaksHTTP1(), name)
		resp.ProtoMajor, resp.Body = 2, http.NoBody
		c.judge(resp, nil)
		assert.True(t, transport.protocols[Primary].speaksHTTP2(), name)
	}
}

// net/http's error for Request.Cancel is a timeout if a client's Timeout has closed that.
func TestTheErrorOfAClientsTimeout(t *testing.T) {
	t.Parallel()
	const waiting = "net/http: request canceled while waiting for connection"
	for _, row := range []struct {
		ctx     context.Context
		err     error
		timeout bool
	}{
		{overdue{t.Context()}, errors.New(waiting), true},
		{overdue{t.Context()}, fmt.Errorf("contoso: %w", errors.New("net/http: request canceled")), true},
		{overdue{t.Context()}, syscall.ECONNRESET, false},
		{t.Context(), errors.New(waiting), false},
	} {
		c := attempted(t, accountA, "", "", 0)
		c.req = c.req.WithContext(row.ctx)
		c.cancel(closed())
		err := sayTimeout(c.req, row.err)
		assert.Equal(t, row.err.Error(), err.Error())
		assert.ErrorIs(t, err, row.err)
		var e net.Error
		//lint:ignore SA1019 net.Error has it
		assert.Equal(t, row.timeout, errors.As(err, &e) && e.Timeout() && e.Temporary())
		assert.Equal(t, row.timeout, errors.Is(err, context.DeadlineExceeded))
		assert.NotErrorIs(t, err, context.Canceled)
	}
}

// The reason why a caller has ended its request is given only once.
func TestWhyACallerHasEndedItsRequest(t *testing.T) {
	t.Parallel()
	c := attempted(t, accountA, "", "", 0)
	c.cancel(closed())
	assert.Equal(t, context.Canceled, endError(c.req))
	c.req = c.req.WithContext(overdue{t.Context()})
	assert.Equal(t, context.DeadlineExceeded, endError(c.req))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(nil)
	assert.Equal(t, context.Canceled, endError(c.req.WithContext(ctx)))
	ctx, cancel = context.WithCancelCause(t.Context())
	cancel(io.EOF)
	err := endError(c.req.WithContext(ctx))
	assert.Equal(t, "context canceled: EOF", err.Error())
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorIs(t, err, io.EOF)
}
