package failover

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// A probe that could not be authorized has failed, and says why.
func TestProbesKeepTheErrorOfAuthorize(t *testing.T) {
	t.Parallel()
	refused := &Fault{Class: ClassAuth, Delivery: NotSent, Err: errors.New("no token")}
	side := &readSide{answer: func(int, *http.Request) (*http.Response, error) { return nil, refused }}
	for name, probe := range map[string]Probe{"web API": ProbeWebAPI, "path": ProbePath("/data")} {
		assert.Same(t, refused, probe(t.Context(), &http.Client{Transport: side}, contoso(t)), name)
	}
}

// Without traffic, probes come at growing intervals, which start again after a passed probe
// and are shorter while no endpoint is known to serve. Jitter keeps processes apart.
func TestTheTimesBetweenProbes(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, new(closings), Config{ProbeInterval: 10 * time.Second, MaxProbeInterval: time.Minute})
	const hold = "questions that change nothing"
	for name, row := range map[string]struct {
		next func() time.Duration
		want []float64 // seconds
	}{
		"ordinary":    {transport.schedule(new(state)).NextBackOff, []float64{10, 15, 22.5, 33.75, 50.625, 60, 60}},
		"down":        {transport.schedule(&state{down: true}).NextBackOff, []float64{1, 1.5, 2.25, 3.375, 5.0625, 7.59375, 8, 8}},
		"provisional": {transport.schedule(&state{provisional: true}).NextBackOff, []float64{1, 1.5, 2.25, 3.375, 5.0625, 7.59375, 8, 8}},
		hold:          {func() time.Duration { transport.mu.Lock(); defer transport.mu.Unlock(); return transport.holdLocked() }, []float64{1, 2, 4, 4}},
	} {
		exact := 0
		for i, want := range row.want {
			got := row.next().Seconds()
			assert.InDelta(t, want, got, want*0.2+1e-6, "%s, %d", name, i)
			if got == want {
				exact++
			}
		}
		assert.Less(t, exact, len(row.want), name)
	}
	s := transport.schedule(new(state))
	s.NextBackOff()
	s.NextBackOff()
	s.Reset()
	assert.InDelta(t, 10, s.NextBackOff().Seconds(), 2)
}

// The context of a probe ends with the probe, and so does what has been started for it.
func TestAProbeLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	var began context.Context
	transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Probe: func(ctx context.Context, _ *http.Client, _ *url.URL) error {
		began = ctx
		return ctx.Err()
	}})
	assert.NoError(t, transport.Switch(t.Context(), Alternate, "by hand"))
	assert.Error(t, began.Err())
	assert.NoError(t, transport.runProbe(t.Context(), Primary))
	assert.Error(t, began.Err())
}
