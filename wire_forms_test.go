package failover

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The form of a request that must not be repeated in doubt depends on the endpoint's protocol:
// net/http itself repeats a request without a body, or with a GetBody.
func TestFormsOfWhatMustNotBeRepeated(t *testing.T) {
	t.Parallel()
	type form struct{ rewinds, hollow, notTwice bool }
	body, none := "{}", ""
	for _, row := range []struct {
		method, body, contentType string
		speaks                    uint32 // version of HTTP; 0: unknown
		direct                    bool
		want                      form
		why                       string
	}{
		{"POST", body, "", 1, true, form{rewinds: true}, "over HTTP/1.1 a body is sent again only if nothing of it has left"},
		{"POST", body, "", 1, false, form{}, "another Base may do as it likes"},
		{"POST", body, "", 2, true, form{}, "over HTTP/2 it would be sent again after a reset"},
		{"POST", body, "", 0, true, form{}, "it may be HTTP/2"},
		{"GET", none, "", 0, true, form{true, true, false}, "over HTTP/1.1 reads are repeated unless they have a body"},
		{"GET", none, "", 1, true, form{true, true, false}, "over HTTP/1.1 reads are repeated unless they have a body"},
		{"GET", none, "", 2, true, form{true, false, true}, "over HTTP/2 a body would be sent"},
		{"POST", none, "", 0, true, form{true, false, true}, "no proxy gets it without a length"},
		{"POST", none, "", 1, true, form{true, false, true}, "no proxy gets it without a length"},
		{"POST", none, "", 2, true, form{true, false, true}, "some servers want a type for a body"},
		{"POST", none, "application/json", 2, true, form{true, true, false}, "it has a type"},
		{"POST", none, "application/json", 1, true, form{true, false, true}, "no proxy gets it without a length"},
	} {
		name := fmt.Sprintf("%s %q %q, HTTP/%d, direct %v: %s", row.method, row.body, row.contentType, row.speaks, row.direct, row.why)
		req, err := http.NewRequest(row.method, "https://contoso.crm.dynamics.com/", strings.NewReader(row.body))
		require.NoError(t, err)
		if row.contentType != "" {
			req.Header.Set("Content-Type", row.contentType)
		}
		w := &sendWatch{protocol: new(protocol), connections: &connections{direct: row.direct}}
		w.protocol.version.Store(row.speaks)
		w.plan(req, true)
		assert.Equal(t, row.want, form{w.rewinds, w.hollow, w.notTwice}, name)
		assert.True(t, w.once, name)
		w = &sendWatch{protocol: w.protocol, connections: w.connections}
		w.plan(req, false)
		assert.Equal(t, form{rewinds: true}, form{w.rewinds, w.hollow, w.notTwice}, "what may be repeated is sent as it is")
		assert.False(t, w.once, name)
	}
}

// What is known about the delivery of an attempt that ended in an error depends on what was
// seen of it.
func TestDeliveryByWhatWasSeen(t *testing.T) {
	t.Parallel()
	failed := errors.New("contoso")
	gone := fmt.Errorf("contoso: %w", errors.New("http2: Transport: cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY]"+
		" after Request.Body was written; define Request.GetBody to avoid this error"))
	for _, row := range []struct {
		marks         uint32
		said          Delivery
		err           error
		alive, direct bool
		want          Delivery
		why           string
	}{
		{sawGetConn, Unknown, failed, true, true, NotSent, "there was no connection"},
		{sawGetConn, Unknown, failed, true, false, NotSent, "there was no connection"},
		{0, Unknown, failed, true, true, Unknown, "a Base without hooks"},
		{sawGetConn | sawGotConn, Unknown, failed, true, true, NotSent, "nothing was written"},
		{sawGotConn, Unknown, failed, true, true, NotSent, "nothing was written"},
		{sawGotConn | sawHeaders, Unknown, failed, true, true, Unknown, "it was written"},
		{sawGotConn, NotSent, failed, true, false, Unknown, "a try before may have been sent"},
		{sawGotConn | sawHeaders, NotSent, failed, true, true, Unknown, "the error is about another connection: one that the body comes from"},
		{sawGotConn, Refused, failed, true, true, Refused, "the error knows more"},
		{sawGetConn | sawGotConn, Unknown, failed, false, true, Unknown, "hooks may come late after the end of a context"},
		{sawGetConn | sawGotConn, Unknown, failed, true, false, Unknown, "the hooks may be those of one try of several"},
		{sawGetConn | sawGotConn | bodyUnread, Unknown, failed, true, false, NotSent, "no try has begun to send the body"},
		{sawGetConn | sawGotConn | bodyUnread, Unknown, failed, false, false, Unknown, "hooks may come late after the end of a context"},
		{sawGetConn | sawGotConn | sawHeaders | bodyUnread, Unknown, failed, true, false, Unknown, "the headers were written"},
		{sawGetConn | sawGotConn | sawEarlier | bodyUnread, Unknown, failed, true, false, Unknown, "an earlier try may have been carried out"},
		{sawGetConn | sawGotConn | bodyUnread, NotSent, failed, true, false, NotSent, "no try has begun to send the body"},
		{sawGetConn | sawGotConn | sawHeaders | bodyUnread, NotSent, failed, true, false, Unknown, "the headers were written"},
		{bodyUnread, Unknown, failed, true, false, Unknown, "a Base without hooks may let go of a body unread"},
		{sawGetConn | sawGotConn | sawHeaders, Unknown, failed, true, true, Unknown, "it was written"},
		{sawGetConn | sawGotConn, NotSent, failed, true, false, Unknown, "a try before may have been sent"},
		{sawGetConn, NotSent, failed, true, false, NotSent, "nothing can have been sent"},
		{sawGetConn | sawGotConn, NotSent, failed, true, true, NotSent, "net/http knows"},
		{sawGetConn | sawGotConn | sawHeaders, NotSent, failed, true, true, Unknown, "the error is about another connection: one that the body comes from"},
		{sawGetConn | sawGotConn | sawHeaders, Unknown, gone, true, true, Refused, "the server has left it out"},
		{sawGetConn | sawGotConn | sawHeaders | sawEarlier, Unknown, gone, true, true, Unknown, "an earlier try may have been carried out"},
		{sawGetConn | sawEarlier, NotSent, failed, true, true, Unknown, "an earlier try may have been carried out"},
		{sawGetConn | sawGotConn | sawHeaders, Answered, nil, true, true, Answered, "there is an answer"},
		{sawGetConn, Refused, failed, true, true, Refused, "the error knows more"},
		{sawGetConn | sawGotConn, Answered, failed, true, false, Answered, "the error knows more"},
	} {
		w := &sendWatch{connections: &connections{direct: row.direct}}
		w.seen.Store(row.marks)
		assert.Equal(t, row.want, w.delivery(row.said, row.err, row.alive), "%b %v %v: %s", row.marks, row.said, row.direct, row.why)
	}
	var none *sendWatch
	assert.Equal(t, Unknown, none.delivery(Unknown, gone, true), "nothing was watched")
	assert.False(t, goneAway(failed))
	assert.False(t, goneAway(nil))
}

// A body is handed out again only if nothing of an earlier try can have arrived.
func TestABodyIsRewoundOnlyIfNothingWasSent(t *testing.T) {
	t.Parallel()
	getBody := func() (io.ReadCloser, error) { return http.NoBody, nil }
	for marks, want := range map[uint32]error{
		0:                       nil,
		sawGotConn:              nil,
		sawGotConn | sawHeaders: nil, // over HTTP/1.1, net/http has made sure of it
		sawGotConn | sawHTTP2:   nil,
		sawHTTP2 | sawHeaders:   errMayBeDone,
		sawEarlier:              errMayBeDone,
		sawEarlier | sawGotConn: errMayBeDone,
	} {
		w := &sendWatch{once: true, rewinds: true}
		w.seen.Store(marks)
		_, err := w.rewind(getBody)()
		assert.Equal(t, want, err, "%b", marks)
		w.once = false
		_, err = w.rewind(getBody)()
		assert.NoError(t, err, "%b: it may be repeated", marks)
	}
	assert.Nil(t, (&sendWatch{once: true}).rewind(getBody))
	assert.Nil(t, (&sendWatch{once: true, rewinds: true}).rewind(nil))
	assert.NotNil(t, (*sendWatch)(nil).rewind(getBody))
}

// A second try within an attempt is noticed where net/http may have sent the first.
func TestASecondTryWithinAnAttempt(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		marks              uint32
		direct, notTwice   bool
		earlier, cancelled bool
	}{
		{sawGotConn | sawHeaders | sawHTTP2 | sawReuse, true, true, true, true},
		{sawGotConn | sawHeaders | sawHTTP2, true, false, true, false},
		{sawGotConn | sawHeaders, true, true, false, false},
		{sawGotConn | sawHeaders, false, true, true, true},
		{sawGotConn | sawHTTP2, true, true, false, false},
		{sawHeaders | sawHTTP2, true, true, false, false},
		{sawGotConn | sawHeaders | sawHTTP2 | sawOther, false, true, false, false}, // Base asked for a token
		{sawGotConn | sawHeaders | bodyUnread, false, false, false, false},
		{sawGotConn | sawHeaders | sawHTTP2 | sawAnswer, false, true, true, false}, // Base signs it anew
	} {
		w := &sendWatch{notTwice: row.notTwice, connections: &connections{direct: row.direct}}
		ctx, cancel := context.WithCancelCause(t.Context())
		w.cancel = cancel
		w.seen.Store(row.marks)
		w.tryAgain()
		assert.Equal(t, row.earlier, w.saw(sawEarlier), "%+v", row)
		assert.Equal(t, row.cancelled, context.Cause(ctx) == errMayBeDone, "%+v", row)
		assert.False(t, w.saw(sawHeaders) || w.saw(sawHTTP2) || w.saw(sawReuse) || w.saw(sawAnswer), "what was seen of the first try is forgotten: %+v", row)
		cancel(nil)
	}
	bare := &sendWatch{notTwice: true, connections: new(connections)} // without a context of its own
	bare.seen.Store(sawGotConn | sawHeaders)
	bare.getConn("")
	assert.Equal(t, uint32(sawGetConn|sawGotConn|sawEarlier), bare.seen.Load())
	bare.seen.Store(0)
	bare.wroteHeaders()
	assert.Equal(t, uint32(sawHeaders), bare.seen.Load())
}

// The header fields tell the request from those that Base makes by itself. Over HTTP/2, the path
// does, even if Base has changed the host.
func TestWhoseHeadersAreWritten(t *testing.T) {
	t.Parallel()
	const path = accountA + "?$select=name"
	w := &sendWatch{request: httptest.NewRequest(http.MethodPost, "https://contoso.api.crm.dynamics.com"+path, nil)}
	w.request.Host = "" // http.Client leaves it out
	for _, row := range []struct {
		fields [][2]string
		other  bool
	}{
		{[][2]string{{"Host", "contoso.api.crm.dynamics.com"}}, false},
		{[][2]string{{"Host", "login.microsoftonline.com"}}, true},
		{[][2]string{{":authority", "CONTOSO.api.crm.dynamics.com"}, {":path", "/other"}}, false},
		{[][2]string{{":authority", "login.microsoftonline.com"}, {":path", "/token"}, {"x-ms-host", "contoso.api.crm.dynamics.com"}, {"referer", path}}, true},
		{[][2]string{{":authority", "gateway.contoso.com"}, {":path", "/crm" + path}}, false},
	} {
		for _, before := range []uint32{0, sawOther} {
			w.seen.Store(before)
			for _, field := range row.fields {
				w.wroteHeaderField(field[0], []string{field[1]})
			}
			assert.Equal(t, row.other, w.saw(sawOther), row.fields)
		}
	}
	for i := range 1 << 3 {
		once, notTwice, direct := i&1 != 0, i&2 != 0, i&4 != 0 // direct tells all about a request without that
		w := &sendWatch{once: once, notTwice: notTwice, connections: &connections{direct: direct}}
		w.context(t.Context(), 0)
		w.release()
		assert.Equal(t, !direct && (notTwice || !once), w.trace.WroteHeaderField != nil) // else its body tells
		if w.trace.WroteHeaderField != nil {
			w.trace.GotFirstResponseByte()
			assert.True(t, w.saw(sawAnswer))
			require.NoError(t, w.trace.Got1xxResponse(http.StatusEarlyHints, nil))
			assert.False(t, w.saw(sawAnswer), "that is no answer, and net/http may still repeat the request")
		}
	}
	w.request.Host = "front.contoso.com"
	w.wroteHeaderField("Host", []string{"front.contoso.com"})
	assert.False(t, w.saw(sawOther))
}

// The addresses of other hosts that a Base of the program's own asks are not the endpoint's.
func TestWhoseAddressesAreRecorded(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	for _, row := range []struct {
		name           string
		direct, record bool
	}{
		{"contoso.api.crm.dynamics.com", false, true},
		{"login.microsoftonline.com", false, false},
		{"login.microsoftonline.com", true, true}, // a name that TLSClientConfig sets
		{"127.0.0.1", false, true},                // which is not sent
	} {
		conn, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{ServerName: row.name, InsecureSkipVerify: true})
		require.NoError(t, err)
		defer conn.Close()
		w := &sendWatch{protocol: new(protocol), connections: &connections{direct: row.direct}, endpoint: new(endpoint)}
		w.request = httptest.NewRequest(http.MethodPost, "https://contoso.api.crm.dynamics.com"+accountA, nil)
		w.gotConn(httptrace.GotConnInfo{Conn: conn})
		assert.Equal(t, row.record, len(w.endpoint.addresses.seen) == 1, "%+v", row)
	}
}

// nowhere is a connection of httputil.DumpRequestOut.
type nowhere struct{ net.Conn }

func (nowhere) RemoteAddr() net.Addr { return nil }

// Nothing is sent over a connection that leads nowhere. A Base that is an http.Transport uses such
// a connection only if the program's own dialer makes it.
func TestTriesThatLeadNowhere(t *testing.T) {
	t.Parallel()
	for _, direct := range []bool{false, true} {
		w := &sendWatch{protocol: new(protocol), connections: &connections{direct: direct}, endpoint: new(endpoint)}
		w.request = httptest.NewRequest(http.MethodPost, "https://contoso.api.crm.dynamics.com"+accountA, nil)
		w.getConn("")
		w.gotConn(httptrace.GotConnInfo{Conn: nowhere{}})
		w.wroteHeaders()
		assert.Equal(t, direct, w.saw(sawGetConn|sawGotConn|sawHeaders))
		if direct {
			continue
		}
		assert.Zero(t, w.seen.Load()&(sawGetConn|sawGotConn|sawHeaders), "nor is it proof that nothing was sent")
		w.getConn("")
		assert.Equal(t, uint32(sawGetConn), w.seen.Load())
		w.gotConn(httptrace.GotConnInfo{Conn: tls.Client(nowhere{}, new(tls.Config))})
		w.wroteHeaders()
		assert.Equal(t, uint32(sawGetConn|sawGotConn|sawHeaders), w.seen.Load(), "TLS has an end")
		w.gotConn(httptrace.GotConnInfo{}) // of a Base that does not show its connections
		assert.True(t, w.saw(sawGotConn) && !w.saw(sawDump))
	}
}

// What kind of connection an attempt gets is seen when it gets it; what was seen of an earlier
// try is forgotten.
func TestWhatIsSeenOfAConnection(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	for name, version := range map[string]uint32{"h2": 2, "http/1.1": 1} {
		conn, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{NextProtos: []string{name}, InsecureSkipVerify: true})
		require.NoError(t, err)
		defer conn.Close()
		for _, reused := range []bool{false, true} {
			w := &sendWatch{protocol: new(protocol), connections: &connections{direct: true}, endpoint: new(endpoint)}
			w.protocol.learn(version == 1) // it spoke the other one before
			w.seen.Store(sawGetConn | sawGotConn | sawHeaders | sawHTTP2)
			w.gotConn(httptrace.GotConnInfo{Conn: conn, Reused: reused})
			want := uint32(sawGetConn | sawGotConn | sawEarlier)
			if version == 2 {
				want |= sawHTTP2
			}
			if reused {
				want |= sawReuse
			}
			assert.Equal(t, want, w.seen.Load(), "%s, reused %v", name, reused)
			assert.Equal(t, version, w.protocol.version.Load())
			assert.Equal(t, conn.RemoteAddr(), w.address)
		}
	}
	for _, http2 := range []bool{false, true} { // without TLS, what is known stays as it is
		w := &sendWatch{protocol: new(protocol), connections: &connections{direct: true}, endpoint: new(endpoint)}
		w.protocol.learn(http2)
		assert.Equal(t, !http2, w.protocol.speaksHTTP1())
		w.gotConn(httptrace.GotConnInfo{})
		assert.Equal(t, http2, w.saw(sawHTTP2))
		assert.False(t, w.saw(sawGetConn))
	}
}

// Without TLS, an endpoint is known to speak HTTP/2 only if Base can speak nothing else.
func TestWhatABaseSpeaksWithoutTLS(t *testing.T) {
	t.Parallel()
	protocols := func(http1, h2c bool) *http.Protocols {
		p := new(http.Protocols)
		p.SetHTTP1(http1)
		p.SetUnencryptedHTTP2(h2c)
		return p
	}
	assert.True(t, speaksOnlyHTTP2(&http.Transport{Protocols: protocols(false, true)}, "http"))
	assert.False(t, speaksOnlyHTTP2(&http.Transport{Protocols: protocols(false, true)}, "https"))
	assert.False(t, speaksOnlyHTTP2(&http.Transport{Protocols: protocols(true, true)}, "http"))
	assert.False(t, speaksOnlyHTTP2(&http.Transport{Protocols: protocols(false, false)}, "http"))
	assert.False(t, speaksOnlyHTTP2(&http.Transport{}, "http"))
	transport, err := New("http://127.0.0.1:1", &Config{Base: &http.Transport{Protocols: protocols(false, true)}, Alternate: "http://127.0.0.2:1"})
	require.NoError(t, err)
	defer transport.Close()
	for e := range transport.protocols {
		assert.True(t, transport.protocols[e].speaksHTTP2())
	}
	assert.True(t, transport.connections.direct)
	assert.False(t, transport.connections.limited)
	transport, err = New("https://contoso.crm.dynamics.com", &Config{Base: &http.Transport{MaxConnsPerHost: 1}, Instrument: func(base http.RoundTripper) http.RoundTripper { return base }})
	require.NoError(t, err)
	defer transport.Close()
	for e := range transport.protocols {
		assert.False(t, transport.protocols[e].speaksHTTP2(), "the handshake tells")
	}
	for _, row := range []struct {
		protocols []string
		silent    bool
	}{{nil, false}, {[]string{"h2"}, false}, {[]string{"contoso"}, true}, {[]string{"h2", "contoso"}, true}, {[]string{"contoso", "h2"}, true}} {
		base := &http.Transport{TLSNextProto: make(map[string]func(string, *tls.Conn) http.RoundTripper)}
		for _, name := range row.protocols {
			base.TLSNextProto[name] = nil
		}
		for range 10 { // in any order
			knowing := &Transport{base: base, org: transport.org}
			knowing.knowBase()
			assert.Equal(t, row.silent, knowing.connections.silent, "%v", row.protocols)
		}
	}
	assert.False(t, transport.connections.direct, "who knows what Instrument adds")
	assert.True(t, transport.connections.limited)
}

// What becomes of a watched attempt, and of what Base returns too late.
func TestTheEndOfAnAttempt(t *testing.T) {
	t.Parallel()
	failed := errors.New("contoso")
	synctest.Test(t, func(t *testing.T) {
		for name, row := range map[string]struct {
			takes    time.Duration
			resp     bool
			err      error
			notTwice bool
			marks    uint32
			want     error
			closed   int
		}{
			"answer":                     {0, true, nil, false, 0, nil, 0},
			"error":                      {0, false, failed, false, 0, failed, 0},
			"answer in the last moment":  {time.Second - 1, true, nil, false, 0, nil, 0},
			"answer that comes too late": {time.Second + 1, true, nil, false, 0, errAttemptTimeout, 1},
			"error of the cancellation":  {time.Second + 1, false, context.Canceled, false, 0, errAttemptTimeout, 0},
			"another error after it":     {time.Second + 1, false, failed, false, 0, failed, 0},
			"error of a second try":      {0, false, failed, true, sawEarlier, errMayBeDone, 0},
			"error of a first try":       {0, false, failed, true, sawGotConn, failed, 0},
			"second try, which may be":   {0, false, failed, false, sawEarlier, failed, 0},
			"answer to a second try":     {0, true, nil, true, sawEarlier, nil, 0},
			"response and error":         {0, true, failed, false, 0, errTwoResults, 1},
			"neither":                    {0, false, nil, false, 0, errNoResult, 0},
		} {
			body := &breaking{err: io.EOF}
			w := &sendWatch{connections: new(connections), notTwice: row.notTwice}
			w.seen.Store(row.marks)
			ctx := w.context(t.Context(), time.Second)
			resp, err := w.roundTrip(roundTripFunc(func(*http.Request) (resp *http.Response, err error) {
				time.Sleep(row.takes)
				assert.Equal(t, row.takes > time.Second, ctx.Err() != nil, name)
				if row.resp {
					resp = &http.Response{Body: body}
				}
				return resp, row.err
			}), new(http.Request).WithContext(ctx))
			assert.ErrorIs(t, err, row.want, name)
			assert.Equal(t, row.want == nil, resp != nil, name)
			assert.Equal(t, row.closed, body.closed, name)
			time.Sleep(time.Minute)
			assert.Equal(t, row.takes > time.Second, ctx.Err() != nil, "%s: after its headers, an attempt has time", name)
			w.release()
		}
	})
}

// An attempt was waiting for a connection if it never got one, their number is limited, and
// none was being opened.
func TestAnAttemptThatHasWaited(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		marks          uint32
		limited, tells bool
		want           bool
	}{
		{sawGetConn, true, true, true},
		{sawGetConn, false, true, false},
		{sawGetConn, true, false, false},
		{0, true, true, false},
		{sawGetConn | sawGotConn, true, true, false},
		{sawGetConn | sawDial, true, true, false},
	} {
		w := &sendWatch{connections: &connections{limited: row.limited}}
		w.connections.tells.Store(row.tells)
		w.seen.Store(row.marks)
		assert.Equal(t, row.want, w.waited(), "%+v", row)
	}
	assert.False(t, (*sendWatch)(nil).waited())
}

// An attempt has a context of its own only if something may end it.
func TestContextsOfAttempts(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		w       *sendWatch
		timeout time.Duration
		own     bool
	}{
		{&sendWatch{}, 0, false},
		{&sendWatch{}, time.Second, true},
		{&sendWatch{notTwice: true}, 0, true},
		{&sendWatch{givesUp: true}, 0, true},
		{&sendWatch{timed: true}, time.Second, true},
	} {
		row.w.connections = new(connections)
		ctx := row.w.context(t.Context(), row.timeout)
		assert.Equal(t, row.own, row.w.cancel != nil)
		assert.Equal(t, row.timeout, row.w.timeout)
		assert.Equal(t, row.own, row.w.canceler() != nil)
		row.w.release()
		assert.Equal(t, row.own, ctx.Err() != nil)
		assert.Equal(t, !row.w.timed, row.w.trace.GotConn != nil)
		assert.Nil(t, row.w.trace.ConnectStart, "only a limited number of connections makes it worth it")
	}
	for _, begins := range []func(*sendWatch){
		func(w *sendWatch) { w.trace.DNSStart(httptrace.DNSStartInfo{}) },
		func(w *sendWatch) { w.trace.ConnectStart("tcp", "") },
	} {
		w := &sendWatch{connections: &connections{limited: true}}
		w.context(t.Context(), 0)
		begins(w)
		assert.Equal(t, uint32(sawDial), w.seen.Load())
		assert.True(t, w.connections.tells.Load())
	}
	assert.Nil(t, (*sendWatch)(nil).canceler())
	(*sendWatch)(nil).release()
}
