package timeline

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

func TestColorsAreForTerminals(t *testing.T) {
	t.Parallel()
	file, err := os.Create(t.TempDir() + "/out")
	require.NoError(t, err)
	defer file.Close()
	assert.False(t, wantsColor(file))
	assert.False(t, wantsColor(new(bytes.Buffer)))
	assert.Equal(t, "text", (&Timeline{}).paint(red, "text"))
	assert.Equal(t, "\x1b[31mtext\x1b[0m", (&Timeline{color: true}).paint(red, "text"))
}

func TestLinesAndSummary(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		line := New(&out, failover.Org{Alternate: &url.URL{Host: "contoso--s.crm4.dynamics.com"}})
		line.Begin(time.Second)
		time.Sleep(500 * time.Millisecond)
		line.Call("read", "contoso.crm4.dynamics.com", 20*time.Millisecond)
		line.Call("write", "contoso--s.crm4.dynamics.com", 70*time.Millisecond)
		line.Call("call that reached nobody", "", time.Millisecond)
		line.Failed(errors.New("no reason"))
		sum := line.End()
		line.OnEvent(failover.Event{Kind: failover.EventDown}) // too late
		sum.Print(&out)

		assert.Equal(t, 1, sum.Failures)
		want := []string{
			"   time   primary             alternate           probes",
			"   0.5s   █ 1                 █ 1",
			"   0.5s   ▶ failed     1, the first: no reason",
			"",
			"Summary",
			"  requests                2   1 answered by the primary, 1 by the alternate",
			"  failures                1   seen by the callers",
			"  switches                0",
			"  writes at risk          0   acknowledged so shortly before an outage that they",
			"                              may not have been replicated",
			"  on the alternate       0s",
			"  longest call         70ms   a write begun at 0.4s",
			"",
		}
		assert.Equal(t, want, strings.Split(out.String(), "\n"))
	})
}

func TestPlay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		line := New(&out, failover.Org{Alternate: &url.URL{}})
		line.Begin(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		start := time.Now()
		var happened []time.Duration
		happen := func() { happened = append(happened, time.Since(start)) }
		line.Play(ctx, 10*time.Second, []Scene{
			{Percent: 20, Text: "first", Happen: happen},
			{Percent: 60, Text: "second", Happen: happen},
			{Percent: 80, Text: "never", Happen: happen},
		})
		line.End()
		assert.Equal(t, []time.Duration{2 * time.Second, 6 * time.Second}, happened)
		assert.Equal(t, 7*time.Second, time.Since(start), "the scenes end with the context")
		assert.Contains(t, out.String(), "   2.0s   ▶ simulation first\n")
		assert.NotContains(t, out.String(), "never")
	})
}

// A switch that is late delays what has to come after it.
func TestPlayWaitsForASwitch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		line := New(new(bytes.Buffer), failover.Org{Alternate: &url.URL{}})
		line.Begin(time.Hour)
		start := time.Now()
		var happened []time.Duration
		for _, late := range []time.Duration{5 * time.Second, 9 * time.Second} {
			time.AfterFunc(late, func() {
				line.OnEvent(failover.Event{Kind: failover.EventSwitched, Time: time.Now(), Loss: new(failover.LossReport)})
			})
		}
		happen := func() { happened = append(happened, time.Since(start).Round(100*time.Millisecond)) }
		line.Play(t.Context(), 4*time.Second, []Scene{
			{Percent: 25, Text: "first", Happen: happen},
			{Percent: 50, Switched: true, Text: "second", Happen: happen},
			{Percent: 75, Text: "third", Happen: happen},
			{Percent: 100, Switched: true},
		})
		assert.Equal(t, []time.Duration{time.Second, 5 * time.Second, 5 * time.Second}, happened)
		assert.Equal(t, 9*time.Second, time.Since(start).Round(100*time.Millisecond), "the end waits, too")
		line.End()
	})
}
