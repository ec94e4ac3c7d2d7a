package failover

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slowBody is a body that stalls, or fails, after some bytes. Closing it ends a read.
type slowBody struct {
	counted
	err    error         // at the end; nil for EOF
	stalls time.Duration // before the end
	closes chan struct{}
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.left > 0 {
		return b.counted.Read(p)
	}
	select {
	case <-b.closes:
		return 0, http.ErrBodyReadAfterClose
	case <-time.After(b.stalls):
	}
	if b.err != nil {
		return 0, b.err
	}
	return 0, io.EOF
}

func (b *slowBody) Close() error {
	if b.closed++; b.closed == 1 {
		close(b.closes)
	}
	return nil
}

// An answer that may still be needed is kept if it arrives whole, within 64 KiB and 100 ms,
// whatever length it claims: that of an answer to HEAD has no body. Its body is closed in any
// case.
func TestWhichAnswersAreKept(t *testing.T) {
	t.Parallel()
	const most = 64 << 10
	for name, row := range map[string]struct {
		length, size int64
		err          error
		stalls       time.Duration
		kept         bool
		takes        time.Duration
		read         int64 // at most
	}{
		"short":                         {length: 7, size: 7, kept: true, read: 7},
		"empty":                         {length: 0, size: 0, kept: true},
		"as long as may be":             {length: most, size: most, kept: true, read: most},
		"too long":                      {length: most + 1, size: most + 1, read: most + 1},
		"far too long":                  {length: 4 * most, size: 4 * most, read: most + 1},
		"to HEAD":                       {length: 4 * most, size: 0, kept: true},
		"of unknown length":             {length: -1, size: most, kept: true, read: most},
		"of unknown length, too long":   {length: -1, size: most + 1, read: most + 1},
		"of unknown length, far longer": {length: -1, size: 16 * most, read: most + 1},
		"fails":                         {length: -1, size: 7, err: io.ErrUnexpectedEOF, read: 7},
		"fails at once":                 {length: -1, err: io.ErrUnexpectedEOF},
		"slow":                          {length: -1, size: 7, stalls: 99 * time.Millisecond, kept: true, takes: 99 * time.Millisecond, read: 7},
		"too slow":                      {length: -1, size: 7, stalls: 101 * time.Millisecond, takes: 100 * time.Millisecond, read: 7},
	} {
		synctest.Test(t, func(t *testing.T) {
			body := &slowBody{counted: counted{left: row.size}, err: row.err, stalls: row.stalls, closes: make(chan struct{})}
			resp, start := &http.Response{StatusCode: 502, Body: body, ContentLength: row.length}, time.Now()
			kept := keep(resp)
			assert.Equal(t, row.takes, time.Since(start), name)
			assert.LessOrEqual(t, body.read, row.read, name)
			if assert.Equal(t, row.kept, kept != nil, name) && row.kept {
				text, err := io.ReadAll(kept.Body)
				assert.NoError(t, err)
				assert.Len(t, text, int(row.size), name)
				assert.Equal(t, 502, kept.StatusCode)
				assert.NotSame(t, resp, kept)
			}
			assert.NotZero(t, body.closed, name)
			closed := body.closed
			time.Sleep(time.Second)
			assert.Equal(t, closed, body.closed, "nothing looks at it any more: %s", name)
		})
	}
	assert.Nil(t, keep(nil))
	assert.Nil(t, keep(&http.Response{StatusCode: 502}), "there is no body")
}

// What an attempt holds is released when its answer ends, and not earlier. An HTTP/2 answer
// that breaks off ends its request as well.
func TestAnAttemptIsNotReleasedBeforeItsAnswerEnds(t *testing.T) {
	t.Parallel()
	givenUp, cancel := context.WithCancel(t.Context()) // so that the end of the body does not count
	cancel()
	for _, row := range []struct {
		healthy  bool
		protocol int
		err      error
		over     bool
	}{
		{false, 1, nil, true}, {false, 2, nil, true}, {true, 1, nil, true}, {true, 2, nil, false},
		{true, 1, io.ErrUnexpectedEOF, true}, {true, 2, io.ErrUnexpectedEOF, true},
	} {
		c := attempted(t, accountA, "application/json", "{}", 0)
		ctx := c.sending.context(t.Context(), time.Hour)
		content := io.MultiReader(strings.NewReader("contoso"), &breaking{err: errors.Join(row.err)})
		if row.err == nil {
			content = strings.NewReader("contoso")
		}
		resp := &http.Response{StatusCode: 200, ProtoMajor: row.protocol, Request: c.req, Body: io.NopCloser(content)}
		if row.healthy {
			c.t.watchBody(resp, c.st, c.req.WithContext(givenUp), c.sending.canceler(), nil)
		} else {
			c.releaseWith(resp)
		}
		n, err := resp.Body.Read(make([]byte, 3))
		assert.Equal(t, 3, n)
		require.NoError(t, err)
		assert.NoError(t, ctx.Err(), "there is more")
		_, err = io.ReadAll(resp.Body)
		assert.ErrorIs(t, err, row.err)
		assert.Equal(t, row.over, ctx.Err() != nil, "%+v", row)
		require.NoError(t, resp.Body.Close())
		assert.Error(t, ctx.Err())
	}
}

// The last answer is returned, and an earlier one only if there is no other.
func TestTheLastAnswerCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if strings.HasSuffix(req.URL.Path, "/WhoAmI") {
				return nil, io.ErrUnexpectedEOF
			}
			if calls++; calls == 2 {
				time.Sleep(2 * time.Second) // ignoring the deadline
			}
			resp := replyWith(501+calls, "contoso")
			resp.Request = req
			return resp, nil
		}), Config{ProbeInterval: -1, SuspectAfter: -1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://contoso.api.crm.dynamics.com"+accountA, nil)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		assert.Equal(t, 2, calls)
		assert.Equal(t, 503, resp.StatusCode)
	})
}

// A Transport that is closed while the caller's body is being read sends nothing.
func TestClosedWhileABodyIsRead(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, roundTripFunc(func(*http.Request) (*http.Response, error) {
		t.Error("sent after Close")
		return nil, io.EOF
	}), Config{ProbeInterval: -1, SuspectAfter: -1})
	body := readerFunc(func([]byte) (int, error) { transport.Close(); return 0, io.EOF })
	req, err := http.NewRequest(http.MethodPost, "https://contoso.api.crm.dynamics.com"+accountA, body)
	require.NoError(t, err)
	_, err = transport.RoundTrip(req)
	assert.Equal(t, ErrClosed, err)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Without OnFault nothing is called, and no panic is logged.
func TestWithoutOnFaultNothingIsCalled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			return replyWith(400, notFoundBody, "Content-Type", "application/json"), nil
		}), Config{ProbeInterval: -1, SuspectAfter: -1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		_, resp := read(t, transport, "")
		require.NoError(t, resp.Body.Close())
		transport.Close()
		assert.NotContains(t, log.String(), "panic")
	})
}

// A body that can be read only once, and was read, does not delay the end of its call: the
// call ends with its first fault, at once. The body is closed whatever Base does with it.
func TestABodyThatIsSpentIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ reads, closes, answers bool }{{}, {closes: true}, {reads: true, closes: true}, {answers: true}} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
				calls++
				if row.reads {
					io.Copy(io.Discard, req.Body)
				}
				if row.closes {
					req.Body.Close()
				}
				if row.answers && calls == 1 {
					return replyWith(503, ""), nil
				}
				return nil, errAbandoned
			}), Config{ProbeInterval: -1, SuspectAfter: -1, MaxBody: 1, MaxAttempts: 2, FailureThreshold: 9,
				Probe: answersProbes(new([2]error))})
			sent := &opaqueBody{Reader: strings.NewReader("contoso")}
			req, err := http.NewRequest(http.MethodPut, "https://contoso.api.crm.dynamics.com"+accountA, sent)
			require.NoError(t, err)
			req.Header.Set("Idempotency-Key", "contoso")
			start := time.Now()
			resp, err := transport.RoundTrip(req)
			if row.answers { // the body is in memory by then, and no attempt has it
				require.NoError(t, err)
				assert.Equal(t, 503, resp.StatusCode)
				require.NoError(t, resp.Body.Close())
			} else {
				assert.Error(t, err)
			}
			if row.reads {
				assert.Equal(t, 1, calls)
				assert.Zero(t, time.Since(start))
			}
			assert.Equal(t, 1, sent.closes)
			time.Sleep(time.Minute)
		})
	}
}
