package main

import (
	"encoding/xml"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// recorder keeps the bodies that reach the servers.
type recorder struct {
	memory
	bodies []string
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		body, _ := io.ReadAll(req.Body)
		req.Body.Close()
		r.bodies = append(r.bodies, string(body))
		req = req.WithContext(req.Context())
		req.Body = nil
	}
	return r.memory.RoundTrip(req)
}

// A peer that skips part of the work would look too fast.
func TestEveryPeerDoesTheWork(t *testing.T) {
	t.Parallel()
	for _, peer := range healthyPeers {
		t.Run(peer.name, func(t *testing.T) {
			t.Parallel()
			base := new(recorder)
			send := peer.make(base, primary, alternate)
			get := newCall(http.MethodGet, primary+listPath)
			resp, err := send(get)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			assert.Equal(t, string(listed), string(body))
			post := newCall(http.MethodPost, primary+createPath)
			for range 2 {
				require.NoError(t, post.do(send))
			}
			assert.Equal(t, []string{string(post.body), string(post.body)}, base.bodies)
		})
	}
}

func TestEveryPeerReachesTheAlternate(t *testing.T) {
	t.Parallel()
	for _, peer := range movedPeers[1:] {
		t.Run(peer.name, func(t *testing.T) {
			t.Parallel()
			base := &memory{down: primary, asked: new(atomic.Int64)}
			send := peer.make(base, primary, alternate)
			c := newCall(http.MethodGet, primary+listPath)
			for range 20 {
				assert.NoError(t, c.do(send))
			}
			assert.NotZero(t, base.asked.Load(), "the primary was never tried")
		})
	}
}

func TestTheReportIsPublished(t *testing.T) {
	t.Parallel()
	tiny := pairing{batch: 20 * time.Microsecond, pairs: 2, rounds: 1}
	text, charts := run{memory: tiny, network: tiny, scaling: tiny, outages: 1, goroutines: 4, size: 1 << 12, orgs: 10, peers: 5, sizes: []int{1 << 10}, callers: []int{2}, cell: time.Millisecond}.report()
	assert.Contains(t, text, "github.com/sony/gobreaker/v2 v2.")
	assert.Equal(t, 3, len(charts))
	for _, peer := range healthyPeers[:5] {
		assert.GreaterOrEqual(t, strings.Count(text, "\n| "+peer.name+" |"), 3, "%s: GET, POST, TLS", peer.name)
	}

	dir := t.TempDir()
	page := filepath.Join(dir, "performance.md")
	require.Error(t, publish(dir, text, charts, false), "no page")
	require.NoError(t, os.WriteFile(page, []byte("before\n"+begin+"old\n"+end+"after\n"), 0o644))
	require.NoError(t, publish(dir, text, charts, false))
	got, err := os.ReadFile(page)
	require.NoError(t, err)
	assert.Equal(t, "before\n"+begin+"\n"+text+end+"after\n", string(got))
	for name := range charts {
		drawn, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		assert.NoError(t, xml.Unmarshal(drawn, new(struct{})), "%s is well-formed", name)
	}
}

func TestSectionsAreReplacedOneByOne(t *testing.T) {
	t.Parallel()
	old := "go1\n\n### A\n\na\n\n### B\n\nb\n\n### C\n\nc\n\n"
	assert.Equal(t, "go2\n\n### A\n\na\n\n### B\n\nnew\n\n### C\n\nc\n\n", merge(old, "go2\n\n### B\n\nnew\n\n"))
	assert.Equal(t, old+"### D\n\nd\n\n", merge(old, "go1\n\n### D\n\nd\n\n"))
	assert.Equal(t, "go2\n\n### A\n\na\n\n", merge("", "go2\n\n### A\n\na\n\n"))

	dir := t.TempDir()
	page := filepath.Join(dir, "performance.md")
	require.NoError(t, os.WriteFile(page, []byte(begin+"\n"+old+end), 0o644))
	require.NoError(t, publish(dir, "go1\n\n### C\n\nnew\n\n", nil, true))
	got, err := os.ReadFile(page)
	require.NoError(t, err)
	assert.Equal(t, begin+"\n"+strings.Replace(old, "\nc\n", "\nnew\n", 1)+end, string(got))
}

func TestMedian(t *testing.T) {
	t.Parallel()
	assert.Equal(t, 2.0, median([]float64{3, 1, 2}))
	assert.Equal(t, 2.5, median([]float64{4, 1, 3, 2}))
}

func TestRatiosAreThoseOfTheWork(t *testing.T) {
	t.Parallel()
	var sum atomic.Int64
	spin := func(each int) work {
		return func(n int) {
			for range n * each {
				sum.Add(1)
			}
		}
	}
	s := pairing{batch: 50 * time.Microsecond, pairs: 50, rounds: 3}.compare(spin(100), []work{spin(100), spin(300)})
	assert.InDelta(t, 1, s[0].ratio, 0.5)
	assert.InDelta(t, 3, s[1].ratio, 1.5)
	assert.InDelta(t, 2*s[1].floor, s[1].added, 1.5*s[1].floor)
	assert.Equal(t, 2*s[1].added, s[1].times(2).added)
}
