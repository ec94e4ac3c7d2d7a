package failover

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A body whose end comes with its last bytes is held up to MaxBody, and streamed from its
// beginning if it is a byte longer.
func TestABodyThatEndsWithItsLastBytes(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 9, 10, 11, 12} {
		text := strings.Repeat("c", size)
		req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/", iotest.DataErrReader(strings.NewReader(text)))
		require.NoError(t, err)
		req.ContentLength = -1
		var p payload
		require.NoError(t, p.load(req, 10))
		assert.Equal(t, size <= 10, p.held != nil, "%d", size)
		if p.held != nil {
			assert.Equal(t, text, string(p.held))
			continue
		}
		body, err := p.next()
		require.NoError(t, err)
		whole, err := io.ReadAll(body)
		require.NoError(t, err)
		assert.Equal(t, text, string(whole))
	}
}

// The error of GetBody is the program's own; that of a GetBody that returns nothing is ours.
func TestTheErrorOfGetBody(t *testing.T) {
	t.Parallel()
	own := errors.New("contoso keeps no copies")
	for _, want := range []error{own, errNoBody} {
		req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/", io.NopCloser(strings.NewReader("contoso")))
		require.NoError(t, err)
		req.GetBody = func() (io.ReadCloser, error) {
			if want == own {
				return nil, own
			}
			return nil, nil
		}
		var p payload
		require.NoError(t, p.load(req, 0))
		_, err = p.next()
		require.NoError(t, err, "the first is the body itself")
		assert.False(t, p.failed())
		_, err = p.next()
		assert.Equal(t, want, err)
		assert.True(t, p.failed())
	}
}

// A body is waited for until the caller ends its request, and no longer.
func TestABodyIsNotWaitedForInVain(t *testing.T) {
	t.Parallel()
	for _, want := range []error{context.DeadlineExceeded, context.Canceled} {
		synctest.Test(t, func(t *testing.T) {
			body, produce := io.Pipe()
			defer produce.Close() // ends the read under way
			req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/", body)
			require.NoError(t, err)
			if want == context.Canceled {
				over := make(chan struct{})
				time.AfterFunc(time.Second/2, func() { close(over) })
				req.Cancel = over //lint:ignore SA1019 callers still set it
			} else {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
				defer cancel()
				req = req.WithContext(ctx)
			}
			start := time.Now()
			assert.ErrorIs(t, new(payload).load(req, 10), want)
			assert.Equal(t, time.Second/2, time.Since(start))
		})
	}
}

// A Read may return nothing. A hundred in a row are put up with, and data begin anew.
func TestHowManyEmptyReadsAreReadAhead(t *testing.T) {
	t.Parallel()
	for empty, want := range map[int]int{0: 3, 99: 3, 100: 0} {
		reads, text := 0, ""
		r := aheadOf(readerFunc(func(p []byte) (int, error) {
			if reads++; reads%(empty+1) != 0 {
				return 0, nil
			}
			if text += "c"; len(text) > 3 {
				return 0, io.EOF
			}
			return copy(p, "c"), nil
		}), -1, 1<<10)
		<-r.done
		got, _ := r.result()
		assert.Len(t, got, want, "%d", empty)
		if want == 0 {
			assert.Equal(t, 100, reads)
		}
	}
}

// The length of a body says how much memory to begin with, and is not believed when that is much.
func TestHowMuchMemoryALengthGets(t *testing.T) {
	t.Parallel()
	for length, want := range map[int64]int{
		math.MinInt64: shortFault, -1: shortFault, 0: 1, 1: 2, shortFault: shortFault + 1,
		firstRead - 2: firstRead - 1, firstRead - 1: firstRead, firstRead: firstRead, math.MaxInt64: firstRead,
	} {
		for _, most := range []int64{1, shortFault, maxPeek} {
			var reads []int
			r := aheadOf(readFunc(func(p []byte) (int, error) { reads = append(reads, len(p)); return 0, io.EOF }), length, most)
			<-r.done
			assert.Equal(t, []int{min(want, int(most))}, reads, "length %d, up to %d", length, most)
		}
	}
}

// What is read of a body, ahead or for an attempt before, is waited for, for holdPause at most, or
// until the caller ends its request. Nothing more is read of it then.
func TestGetBodyWaitsForTheReadUnderWay(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		read, patience time.Duration
		want           error
	}{
		"ends":           {holdPause - 1, time.Hour, nil},
		"too long":       {holdPause + 1, time.Hour, errStillRead},
		"canceled":       {time.Hour, 500 * time.Millisecond, context.DeadlineExceeded},
		"Request.Cancel": {time.Hour, 500 * time.Millisecond, context.Canceled},
	} {
		for ahead, maxBody := range map[time.Duration]int64{0: 0, 2 * holdPause: 10} {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), ahead+row.patience)
				defer cancel()
				over := make(chan struct{})
				if row.want == context.Canceled {
					ctx = t.Context()
					time.AfterFunc(ahead+row.patience, func() { close(over) })
				}
				first := readFunc(func(p []byte) (int, error) { time.Sleep(ahead + row.read); return copy(p, "x"), nil })
				req, err := http.NewRequestWithContext(ctx, "POST", "https://contoso.api.crm.dynamics.com/", first)
				require.NoError(t, err)
				req.Cancel = over //lint:ignore SA1019 callers still set it
				req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("contoso")), nil }
				var p payload
				require.NoError(t, p.load(req, maxBody)) // which gives up after ahead
				body, err := p.next()
				require.NoError(t, err)
				if ahead == 0 {
					go body.Read(make([]byte, 8))
				}
				synctest.Wait()
				began := time.Now()
				again, err := p.next()
				if row.want == nil {
					require.NoError(t, err, name)
					assert.Equal(t, row.read, time.Since(began), name)
					whole, err := io.ReadAll(again)
					require.NoError(t, err, name)
					assert.Equal(t, "contoso", string(whole), name)
				} else {
					require.ErrorIs(t, err, row.want, name)
					assert.Equal(t, min(holdPause, row.patience), time.Since(began), name)
					assert.True(t, p.failed(), name)
				}
				time.Sleep(row.read)
				rest, err := io.ReadAll(body)
				assert.Equal(t, ahead > 0, string(rest) == "x", "%s: what was read ahead, and no more", name)
				assert.ErrorIs(t, err, errWithdrawn, name)
			})
		}
	}
}

// A panic of GetBody is the caller's. What is still reading for an earlier attempt goes on.
func TestAGetBodyThatPanicsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/", readFunc(func(p []byte) (int, error) { return copy(p, "x"), nil }))
		require.NoError(t, err)
		req.GetBody = func() (io.ReadCloser, error) { panic("contoso") }
		var p payload
		require.NoError(t, p.load(req, 0))
		body, err := p.next()
		require.NoError(t, err)
		assert.PanicsWithValue(t, "contoso", func() { p.next() })
		_, err = body.Read(make([]byte, 8))
		assert.ErrorIs(t, err, errWithdrawn)
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
