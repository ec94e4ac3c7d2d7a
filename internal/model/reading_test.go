package model_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// Little is read of an answer that nobody wants: that to a probe, and one that another attempt
// replaces.
func TestHowMuchIsRead(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		path   string
		status int
		kind   string
		most   int64
	}{
		"a probe":           {whoAmI, 200, asJSON, 64 << 10},
		"a replaced answer": {accounts, 503, "text/plain", 2 * (64 << 10)}, // once to classify it, once to keep the connection
	} {
		t.Run(name, func(t *testing.T) {
			var read atomic.Int64
			run(t, failover.Config{}, func(d *drill) {
				endless := &conduct{name: "does not end", counts: true, probe: bad, answer: func(req *http.Request) (*http.Response, error) {
					resp, err := answering(row.status, row.kind, "")(req)
					resp.Body, resp.ContentLength = io.NopCloser(&endlessReader{&read}), -1
					return resp, err
				}}
				requests, probes := sound, endless
				if row.path == accounts {
					requests, probes = endless, refusing
				}
				d.behave(failover.Primary, requests, probes)
				if row.path == whoAmI {
					assert.Error(d, d.transport.Switch(d.Context(), failover.Primary, "drill"))
				} else {
					require.Equal(d, 200, d.get(time.Minute))
					row.most *= int64(d.count() - 1) // those at the primary
				}
				assert.Positive(d, read.Load())
				assert.LessOrEqual(d, read.Load(), row.most+4096)
			})
		})
	}
}

type endlessReader struct{ read *atomic.Int64 }

func (r *endlessReader) Read(p []byte) (int, error) {
	r.read.Add(int64(len(p)))
	return copy(p, strings.Repeat(" ", len(p))), nil
}

// The Transport waits while the caller is still writing the body: at most a minute, and two
// seconds without progress. After that it streams the body.
func TestABodyIsWaitedForAsLongAsItComes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pauses int
		pause  time.Duration
		begun  time.Duration
	}{
		{1, 900 * time.Millisecond, 900 * time.Millisecond}, // buffered to its end
		{1, time.Minute, 2 * time.Second},
		{60, 900 * time.Millisecond, 54 * time.Second},
		{300, 900 * time.Millisecond, time.Minute},
	} {
		t.Run(fmt.Sprintf("%d x %v", test.pauses, test.pause), func(t *testing.T) {
			run(t, failover.Config{}, func(d *drill) {
				began := time.Now()
				parts := []io.Reader{strings.NewReader("{")}
				for range test.pauses {
					parts = append(parts, &pausingReader{func() error { time.Sleep(test.pause); return nil }}, strings.NewReader(" "))
				}
				pipe := io.MultiReader(append(parts, strings.NewReader("}"))...)
				d.mu.Lock()
				d.callers[""] = &caller{ctx: d.Context()}
				d.mu.Unlock()
				req, err := http.NewRequestWithContext(d.Context(), http.MethodPost, orgURL+accounts, pipe)
				require.NoError(d, err)
				var first sync.Once // later requests are probes
				var begun time.Time
				d.behave(failover.Primary, sound, sound)
				d.arrived = func() { first.Do(func() { begun = time.Now() }) }
				resp, err := d.transport.RoundTrip(req)
				require.NoError(d, err)
				resp.Body.Close()
				assert.Equal(d, test.begun, begun.Sub(began))
			})
		})
	}
}
