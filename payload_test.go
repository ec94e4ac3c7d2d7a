package failover

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// opaqueBody is a body that is not known to be in memory. It counts what is done to it.
type opaqueBody struct {
	io.Reader
	reads, closes int
}

func (b *opaqueBody) Read(p []byte) (int, error) { b.reads++; return b.Reader.Read(p) }
func (b *opaqueBody) Close() error               { b.closes++; return nil }

// A body of up to MaxBody is buffered, of whatever kind it is and whether or not its length is
// known. A longer one goes to the first attempt whole, and to the next ones only if it can be
// obtained again.
func TestBodiesUpToMaxBodyAreHeld(t *testing.T) {
	t.Parallel()
	for _, maxBody := range []int64{1, 300, 511, 512, 700, 5000} {
		for _, size := range []int64{0, 1, maxBody - 1, maxBody, maxBody + 1, maxBody + 2, 2*maxBody + 600} {
			content := strings.Repeat("contoso ", 2000)[:size]
			for kind := range 8 {
				known, again, atHand := kind&1 != 0, kind&2 != 0, kind&4 != 0
				name := fmt.Sprintf("%d of %d, length known %t, GetBody %t, in memory %t", size, maxBody, known, again, atHand)
				body := func() io.ReadCloser {
					if atHand {
						return io.NopCloser(strings.NewReader(content))
					}
					return &opaqueBody{Reader: strings.NewReader(content)}
				}
				req := &http.Request{Method: http.MethodPost, Header: http.Header{}, Body: body(), ContentLength: -1}
				if known {
					req.ContentLength = size
				}
				if again {
					req.GetBody = func() (io.ReadCloser, error) { return body(), nil }
				}
				var p payload
				require.NoError(t, p.load(req, maxBody), name)
				require.False(t, p.none(), name)
				require.Equal(t, size <= maxBody, p.held != nil, name)
				if p.held != nil {
					require.Equal(t, content, string(p.held), name)
					if b, ok := req.Body.(*opaqueBody); ok {
						require.Equal(t, 1, b.closes, name)
					}
					continue
				}
				require.Equal(t, again, p.getBody != nil, "Base may have what the caller has: %s", name)
				for attempt := range 2 {
					require.Equal(t, attempt > 0 && !again, p.spent(), name)
					if p.spent() {
						break
					}
					b, err := p.next()
					require.NoError(t, err, name)
					whole, err := io.ReadAll(b)
					require.NoError(t, err, name)
					require.Equal(t, content, string(whole), name)
					require.NoError(t, b.Close())
					require.Equal(t, again, p.withdraw(), name)
				}
				if b, ok := req.Body.(*opaqueBody); ok {
					require.Equal(t, 1, b.closes, name)
				}
			}
		}
	}
}

func TestWhichBodiesAreReadAhead(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, row := range map[string]struct {
		ctx     context.Context
		method  string
		upgrade string
		maxBody int64
		again   bool
		want    bool
	}{
		"as is":                           {ctx: ctx, maxBody: 8, want: true},
		"none is to be held":              {ctx: ctx, maxBody: 0},
		"it is to be sent again":          {ctx: WithReplay(ctx), maxBody: 8, want: true},
		"it is never sent again":          {ctx: NoReplay(ctx), maxBody: 8},
		"never, but net/http may have it": {ctx: NoReplay(ctx), maxBody: 8, again: true, want: true},
		"a tunnel":                        {ctx: ctx, maxBody: 8, method: http.MethodConnect},
		"an upgrade":                      {ctx: ctx, maxBody: 8, upgrade: "contoso"},
	} {
		for _, size := range []int{0, 8} {
			if size == 0 && name == "none is to be held" {
				size = -1
			}
			body := &opaqueBody{Reader: strings.NewReader(strings.Repeat("x", max(0, size)))}
			req := (&http.Request{Method: row.method, Header: http.Header{"Upgrade": {row.upgrade}}, Body: body, ContentLength: int64(size)}).WithContext(row.ctx)
			if row.again {
				req.GetBody = func() (io.ReadCloser, error) { return body, nil }
			}
			var p payload
			require.NoError(t, p.load(req, row.maxBody))
			assert.Equal(t, row.want, p.held != nil, "%s, %d bytes", name, size)
			assert.Equal(t, row.want, body.reads > 0, "%s: read ahead", name)
		}
	}
	long := &opaqueBody{Reader: strings.NewReader("123456789")}
	var p payload
	require.NoError(t, p.load(&http.Request{Header: http.Header{}, Body: long, ContentLength: 9}, 8))
	assert.Zero(t, long.reads, "it says itself that it is too long")
}

// As with net/http, a body that is shorter or longer than its length says is refused.
func TestABodyIsAsLongAsItSays(t *testing.T) {
	t.Parallel()
	for length, refused := range map[int64]bool{-1: false, 0: false, 1: true, 6: true, 7: false, 8: true} {
		var p payload
		err := p.load(&http.Request{Header: http.Header{}, Body: io.NopCloser(strings.NewReader("contoso")), ContentLength: length}, 100)
		assert.Equal(t, refused, err != nil, "%d", length)
	}
}

func TestWhatIsInMemory(t *testing.T) {
	t.Parallel()
	type wrapper struct{ io.ReadCloser }
	for name, row := range map[string]struct {
		body io.ReadCloser
		want bool
	}{
		"bytes.Reader":           {io.NopCloser(bytes.NewReader(nil)), true},
		"bytes.Buffer":           {io.NopCloser(new(bytes.Buffer)), true},
		"strings.Reader":         {io.NopCloser(strings.NewReader("")), true},
		"one that can write":     {io.NopCloser(io.MultiReader()), false},
		"another reader":         {io.NopCloser(iotest.ErrReader(nil)), false},
		"a limited reader":       {io.NopCloser(&io.LimitedReader{R: strings.NewReader("")}), false},
		"a type of the caller's": {wrapper{io.NopCloser(strings.NewReader(""))}, false},
		"opaque":                 {&opaqueBody{}, false},
	} {
		assert.Equal(t, row.want, inMemory(row.body), name)
	}
}

// Only failures of the caller's own reader, and of its own GetBody, count as failures of the
// body.
func TestWhenTheCallersReaderHasFailed(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		body    io.Reader
		getBody error
		want    bool
	}{
		"the end":           {strings.NewReader("contoso"), nil, false},
		"an error":          {iotest.ErrReader(io.ErrUnexpectedEOF), nil, true},
		"GetBody fails":     {strings.NewReader("contoso"), io.ErrClosedPipe, true},
		"what it got fails": {iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("contoso"))), nil, true},
	} {
		req := &http.Request{Header: http.Header{}, Body: &opaqueBody{Reader: row.body}, ContentLength: 7}
		req.GetBody = func() (io.ReadCloser, error) {
			return &opaqueBody{Reader: row.body}, row.getBody
		}
		var p payload
		require.NoError(t, p.load(req, 0))
		assert.False(t, p.failed(), name)
		if row.getBody != nil {
			_, err := p.next()
			require.NoError(t, err)
			b, err := p.next()
			assert.Equal(t, row.getBody, err)
			assert.Nil(t, b)
		} else {
			for range 2 {
				b, err := p.next()
				require.NoError(t, err)
				io.ReadAll(b)
			}
		}
		assert.Equal(t, row.want, p.failed(), name)
	}
	assert.True(t, (&payload{}).none())
	assert.False(t, (&payload{}).failed())
	assert.False(t, (&payload{original: http.NoBody}).none())
	assert.False(t, (&payload{held: []byte{}}).none())
}

// Whatever an attempt and the call do, in any order, to a body that can be read only once.
func TestAStreamGoesToOneAttempt(t *testing.T) {
	t.Parallel()
	const fresh, touched, withdrawn = 0, 1, 2
	var try func(done string)
	try = func(done string) {
		for _, op := range []string{"read", "close", "withdraw", "hand over", "end, answered", "end"} {
			body := &opaqueBody{Reader: strings.NewReader(strings.Repeat("x", 100))}
			s := &stream{Reader: body, Closer: body}
			p := payload{stream: s, original: body}
			assert.True(t, s.withdraw(), "of nobody")
			assert.False(t, s.touched())
			s.handOver()
			lease, err := p.next()
			require.NoError(t, err)
			state, reads, closes := fresh, 0, 0
			ops := append(strings.Split(done, "; ")[1:], op)
			for _, op := range ops {
				switch op {
				case "read":
					n, err := lease.Read(make([]byte, 2))
					if state == withdrawn {
						require.ErrorIs(t, err, errWithdrawn, ops)
						require.Zero(t, n, ops)
						break
					}
					require.NoError(t, err, ops)
					state = touched
					reads++
				case "close":
					require.NoError(t, lease.Close(), ops)
					if state == touched {
						closes++
					} else {
						state = withdrawn
					}
				case "withdraw":
					require.Equal(t, state != touched, p.withdraw(), ops)
					if state == fresh {
						state = withdrawn
					}
				case "hand over":
					if s.handOver(); state == fresh {
						state = touched
					}
				default:
					answered := op == "end, answered"
					p.close(answered)
					switch {
					case state == fresh && answered:
						state = touched // from now on the attempt has the body
					case state == fresh || state == withdrawn:
						state = withdrawn
						closes++
					}
				}
				require.Equal(t, state == touched, p.spent(), ops)
				require.Equal(t, []int{reads, closes}, []int{body.reads, body.closes}, ops)
			}
			if len(ops) < 4 {
				try(done + "; " + op)
			}
		}
	}
	try("")
}

// A body is read to its end, or until it is known to be too long.
func TestHowFarABodyIsRead(t *testing.T) {
	t.Parallel()
	for _, maxBody := range []int64{1, 600, 5000} {
		for size := max(0, maxBody-600); size < maxBody+3; size++ {
			for _, length := range []int64{-1, size} {
				body := strings.NewReader(strings.Repeat("x", int(size)+1000))
				ended := io.LimitReader(body, size)
				begin, err := readUpTo(ended, length, maxBody)
				require.Equal(t, size <= maxBody, err == io.EOF)
				require.Len(t, begin, int(min(size, maxBody+1)))

				broken := io.MultiReader(io.LimitReader(body, 0), strings.NewReader(strings.Repeat("x", int(size))), iotest.ErrReader(io.ErrClosedPipe))
				begin, err = readUpTo(broken, length, maxBody)
				if size <= maxBody {
					require.Equal(t, io.ErrClosedPipe, err)
				}
				require.Len(t, begin, int(min(size, maxBody+1)))
			}
		}
	}
}

// Reading a body ahead does not change its error, or what precedes that.
func TestABodyThatWasReadAheadFailsAsBefore(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, firstRead, maxPeek - 1} {
		content := strings.Repeat("x", size)
		body := io.MultiReader(strings.NewReader(content), iotest.ErrReader(io.ErrUnexpectedEOF))
		resp := &http.Response{StatusCode: 500, ContentLength: -1, Body: &opaqueBody{Reader: &failingOnce{Reader: body}}}
		assert.Equal(t, content, string(peek(resp)))
		for range 2 {
			rest, err := io.ReadAll(resp.Body)
			assert.Equal(t, io.ErrUnexpectedEOF, err)
			assert.Equal(t, content, string(rest))
			content = ""
		}
	}
}

// failingOnce goes on after an error as if there had been none.
type failingOnce struct {
	io.Reader
	failed bool
}

func (f *failingOnce) Read(p []byte) (int, error) {
	if f.failed {
		return copy(p, "never"), nil
	}
	n, err := f.Reader.Read(p)
	f.failed = err != nil
	return n, err
}

// The caller's body is closed by the attempt that got it, or at the end of the call if none
// did.
func TestABodyThatWasNotUsedIsClosed(t *testing.T) {
	t.Parallel()
	for _, used := range []bool{false, true} {
		body := &opaqueBody{Reader: strings.NewReader("contoso")}
		p := payload{original: body, getBody: func() (io.ReadCloser, error) { return body, nil }}
		if used {
			_, err := p.next()
			require.NoError(t, err)
		}
		p.close(false)
		assert.Equal(t, used, body.closes == 0)
	}
}
