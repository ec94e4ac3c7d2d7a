package failover

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// How much of an attempt is watched: nothing of an ordinary read, the time of an attempt with
// a time limit, and everything where the outcome may be in doubt.
func TestWhatIsWatchedOfAnAttempt(t *testing.T) {
	t.Parallel()
	type watched struct{ any, hooks, once, givesUp, own bool }
	silence := func(c *call) { c.st.pool.waits.interval = 1 }
	for name, row := range map[string]struct {
		method string
		change func(*call)
		want   watched
	}{
		"read":                       {"GET", nil, watched{}},
		"read without method":        {"", nil, watched{}},
		"read with a bound":          {"GET", func(c *call) { c.t.cfg.AttemptTimeout = time.Second }, watched{any: true, own: true}},
		"read in silence":            {"GET", silence, watched{any: true, hooks: true, givesUp: true, own: true}},
		"read of a suspect endpoint": {"GET", func(c *call) { c.t.endpoints[Primary].suspect.Store(true) }, watched{any: true, hooks: true}},
		"read, limited connections":  {"GET", func(c *call) { c.t.connections.limited = true }, watched{any: true, hooks: true}},
		"read not to be repeated":    {"GET", func(c *call) { c.req = c.req.WithContext(NoReplay(t.Context())) }, watched{any: true, hooks: true, once: true}},
		"that read, with a bound":    {"GET", func(c *call) { c.req, c.t.cfg.AttemptTimeout = c.req.WithContext(NoReplay(t.Context())), time.Second }, watched{any: true, hooks: true, once: true, own: true}},
		"that read, in silence":      {"GET", func(c *call) { c.req = c.req.WithContext(NoReplay(t.Context())); silence(c) }, watched{any: true, hooks: true, once: true}},
		"write":                      {"POST", nil, watched{any: true, hooks: true, once: true}},
		"write in silence":           {"POST", silence, watched{any: true, hooks: true, once: true}},
		"write that may be repeated": {"PUT", nil, watched{any: true, hooks: true}},
		"that, with a bound":         {"PUT", func(c *call) { c.t.cfg.AttemptTimeout = time.Second }, watched{any: true, hooks: true, own: true}},
		"that, in silence":           {"PUT", silence, watched{any: true, hooks: true}},
	} {
		c := newCall(t, accountA, "application/json", "{}", 1<<20)
		c.t.base, c.t.connections.direct = http.DefaultTransport, true
		c.t.protocols[Primary].learn(false)
		c.req.Method = row.method
		st := &state{pool: new(pool)}
		c.st = st
		if row.change != nil {
			row.change(c)
		}
		require.Nil(t, c.prepare(st), name)
		w := c.sending
		c.follow()
		got := watched{any: w != nil}
		if w != nil {
			got = watched{true, w.trace.GotConn != nil, w.once, w.givesUp, w.cancel != nil}
			assert.Equal(t, c.t.cfg.AttemptTimeout, w.timeout, name)
		}
		assert.Equal(t, row.want, got, name)
		w.release()
	}
}

// Headers that make net/http repeat a request by itself are sent under names that servers read
// the same way but net/http does not recognize. The caller's headers stay as they are.
func TestKeysAreHiddenFromNetHTTP(t *testing.T) {
	t.Parallel()
	c := attempted(t, accountA, "application/json", "{}", 0)
	c.req.Header.Set("Idempotency-Key", "7")
	c.req.Header.Set("X-Idempotency-Key", "8")
	c.hideIdempotency()
	assert.Equal(t, http.Header{"Content-Type": {"application/json"}, "idempotency-key": {"7"}, "x-idempotency-key": {"8"}}, c.out.Header)
	assert.Equal(t, "7", c.req.Header.Get("Idempotency-Key"))
	c = attempted(t, accountA, "application/json", "{}", 0)
	c.hideIdempotency()
	assert.Same(t, c.req, c.out, "nothing has to be changed")
}

// The body of an attempt has the form that was chosen for it.
func TestBodiesOfAttempts(t *testing.T) {
	t.Parallel()
	none := attempted(t, accountA, "", "", 0)
	none.req.Body, none.req.GetBody, none.body, none.sending = nil, nil, payload{}, nil
	require.NoError(t, none.takeBody())
	assert.Same(t, none.req, none.out)

	empty := attempted(t, accountA, "", "", 0)
	empty.req.Body, empty.req.GetBody, empty.body = nil, nil, payload{}
	empty.sending.once, empty.sending.hollow = true, true
	require.NoError(t, empty.takeBody())
	assert.Equal(t, hollow{}, empty.out.Body)
	assert.Zero(t, empty.out.ContentLength)
	assert.Nil(t, empty.out.GetBody)

	odd := attempted(t, accountA, "application/json", "{}", 0)
	odd.req.GetBody = func() (io.ReadCloser, error) { return nil, nil }
	odd.body = payload{}
	require.NoError(t, odd.body.load(odd.req, 0))
	require.NoError(t, odd.takeBody())
	require.ErrorIs(t, odd.takeBody(), errNoBody, "and not sent without a body")
	assert.True(t, odd.body.failed())

	for name, row := range map[string]struct {
		change  func(*call)
		getBody bool
	}{
		"nothing is watched":      {func(c *call) { c.sending = nil }, true},
		"may be repeated":         {func(c *call) { c.sending.rewinds = true }, true},
		"must not, over HTTP/1.1": {func(c *call) { c.sending.once, c.sending.rewinds = true, true }, true},
		"must not, over HTTP/2":   {func(c *call) { c.sending.once = true }, false},
	} {
		c := attempted(t, accountA, "application/json", "{}", 0)
		row.change(c)
		for range 2 { // a repeated attempt, and a body that was read to be signed
			require.NoError(t, c.takeBody())
			text, err := io.ReadAll(c.out.Body)
			require.NoError(t, err)
			assert.Equal(t, "{}", string(text), name)
		}
		assert.Equal(t, row.getBody, c.out.GetBody != nil, name)
		assert.Equal(t, int64(2), c.out.ContentLength)
		assert.NotSame(t, c.req, c.out)
	}
	// Mapping changes the Content-Length of a body that states its length, and of no other.
	const link = `{"a@odata.bind":"https://contoso.crm.dynamics.com/api/data/v9.2/accounts(` + recordA + `)"}`
	for length, grows := range map[int64]bool{int64(len(link)): true, 0: false, -1: false} {
		c := attempted(t, "/api/data/v9.2/contacts", "application/json", link, 0)
		c.req.ContentLength = length
		require.NoError(t, c.takeBody())
		text, err := io.ReadAll(c.out.Body)
		require.NoError(t, err)
		assert.Len(t, text, len(link)+len("--s"))
		if grows {
			length = int64(len(text))
		}
		assert.Equal(t, length, c.out.ContentLength)
	}
	// A long body is sent as it stands in the first attempt, and obtained again for the next
	// ones.
	long := newCall(t, accountA, "application/json", "contoso", 1<<20)
	long.req.Body = io.NopCloser(strings.NewReader("so"))
	long.req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("contoso")), nil }
	long.body = payload{}
	require.NoError(t, long.body.load(long.req, 1))
	for _, want := range []string{"so", "contoso", "contoso"} {
		body, err := long.body.next()
		require.NoError(t, err)
		text, err := io.ReadAll(body)
		require.NoError(t, err)
		assert.Equal(t, want, string(text))
	}
	// A request that may be repeated keeps the key that makes net/http repeat it.
	keyed := attempted(t, accountA, "application/json", "{}", 0)
	keyed.req.Header.Set("Idempotency-Key", "7")
	require.NoError(t, keyed.takeBody())
	assert.Contains(t, keyed.out.Header, "Idempotency-Key")
	keyed.sending.once = true
	require.NoError(t, keyed.takeBody())
	assert.NotContains(t, keyed.out.Header, "Idempotency-Key")

	broken := attempted(t, accountA, "", "", 0)
	broken.body = payload{getBody: func() (io.ReadCloser, error) { return http.NoBody, io.ErrUnexpectedEOF }}
	assert.ErrorIs(t, broken.takeBody(), io.ErrUnexpectedEOF)
	_, f := broken.send()
	assert.Equal(t, ClassLocal, f.Class, "a body that cannot be had is no fault of the endpoint")
	assert.Equal(t, NotSent, f.Delivery)
}

// Config.Authorize always gets a header map. Its error ends the attempt, which has no context of
// its own yet.
func TestAuthorizeBeforeAnAttempt(t *testing.T) {
	t.Parallel()
	var authorized error
	c := attempted(t, accountA, "", "", 0)
	c.t.cfg.AttemptTimeout = time.Second
	c.t.cfg.Authorize = func(req *http.Request) error { req.Header.Set("Authorization", "Bearer x"); return authorized }
	c.req.Header = nil
	require.Nil(t, c.prepare(c.st))
	assert.Equal(t, "Bearer x", c.out.Header.Get("Authorization"))
	assert.Nil(t, c.req.Header)
	authorized = io.ErrUnexpectedEOF
	f := c.prepare(c.st)
	require.NotNil(t, f)
	assert.Equal(t, ClassAuth, f.Class)
	assert.Equal(t, NotSent, f.Delivery)
	assert.ErrorIs(t, f.Err, io.ErrUnexpectedEOF)
	assert.Equal(t, c.req.Context(), c.out.Context())
}

// An attempt goes to the host of its endpoint, and so does its Host header if it names the
// organization.
func TestWhereAnAttemptIsAimed(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, new(closings), Config{ProbeInterval: -1, SuspectAfter: -1})
	const here, there = "contoso.api.crm.dynamics.com", "contoso--s.api.crm.dynamics.com"
	for _, row := range []struct {
		at, to     Endpoint
		host, want string
	}{
		{Primary, Alternate, here, ""},
		{Primary, Alternate, "", ""},
		{Primary, Alternate, "contoso.crm.dynamics.com", "contoso--s.crm.dynamics.com"},
		{Primary, Alternate, "proxy.contoso.example", "proxy.contoso.example"},
		{Alternate, Primary, there, ""},
		{Alternate, Primary, "contoso--s.crm.dynamics.com", "contoso.crm.dynamics.com"},
		{Primary, Primary, here, ""},
		{Primary, Primary, "proxy.contoso.example", "proxy.contoso.example"},
	} {
		hosts := [...]string{Primary: here, Alternate: there}
		req, err := http.NewRequest(http.MethodDelete, "https://"+hosts[row.at]+accountA+"?a=b", nil)
		require.NoError(t, err)
		req.Host = row.host
		variant, at, ok := transport.org.match(req.URL)
		require.True(t, ok)
		require.Equal(t, row.at, at)
		out, u := *req, new(url.URL)
		transport.aim(&out, u, variant, at, row.to)
		assert.Equal(t, "https://"+hosts[row.to]+accountA+"?a=b", out.URL.String())
		assert.Same(t, u, out.URL)
		assert.Equal(t, row.want, out.Host, "%+v", row)
		assert.Equal(t, hosts[row.at], req.URL.Host, "the caller's is not changed")
	}
}

// The $id of a DELETE names the record whose reference is removed. It is mapped too, even if
// the request itself already goes to the right host. With other methods, the query is the
// caller's.
func TestWhereAReferenceLeads(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, new(closings), Config{ProbeInterval: -1, SuspectAfter: -1})
	const here, there = "https://contoso.api.crm.dynamics.com", "https://contoso--s.api.crm.dynamics.com"
	for _, row := range []struct{ method, url, id, want string }{
		{"DELETE", here, there, here},
		{"DELETE", here, here, here},
		{"GET", here, there, there},
		{"DELETE", there, there, here},
		{"GET", there, there, there},
	} {
		req, err := http.NewRequest(row.method, row.url+accountA+"/contacts/$ref?$id="+row.id+accountB, nil)
		require.NoError(t, err)
		c := &call{t: transport, req: req, out: req, st: transport.state.Load()}
		_, c.at, _ = transport.org.match(req.URL)
		c.address()
		assert.Equal(t, here+accountA+"/contacts/$ref?$id="+row.want+accountB, c.out.URL.String(), "%+v", row)
		assert.Equal(t, row.url == here && row.want == row.id, c.out == req, "%+v: a copy only if it has to be", row)
	}
}
