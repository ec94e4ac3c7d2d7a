package failover

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheTextOfAGrowth(t *testing.T) {
	t.Parallel()
	last := Write{Method: "POST", Path: "/x"}
	for _, row := range []struct {
		to   Endpoint
		by   int
		want string
	}{
		{Alternate, 1, "POST /x was under way at the primary when the traffic switched"},
		{Alternate, 2, "2 writes were under way at the primary when the traffic switched"},
		{Primary, 1, "POST /x was under way at the primary when the outage ended"},
		{Primary, 3, "3 writes were under way at the primary when the outage ended"},
	} {
		g := growth{&LossReport{From: Primary, To: row.to}, row.by, last}
		assert.Equal(t, row.want, g.String())
	}
}

// Each write of a report is logged on one line, whichever version of the report lists it, up
// to a hundred lines. The rest are counted.
func TestTheLinesAboutALoss(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	transport := newTestTransport(t, acknowledging, Config{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	lines := func(r *LossReport) (labels []string, more float64) {
		log.Reset()
		transport.logLoss(r)
		for line := range strings.Lines(log.String()) {
			var got map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &got))
			assert.Equal(t, "WARN", got["level"])
			if got["msg"] == "failover: more writes at risk" {
				assert.Equal(t, []float64{float64(len(r.AtRisk)), float64(len(r.Unknown))}, []float64{got["at_risk"].(float64), got["unknown"].(float64)})
				more = got["more"].(float64)
				continue
			}
			assert.Equal(t, "failover: write at risk", got["msg"])
			labels = append(labels, got["label"].(string))
		}
		return labels, more
	}
	label := func(names ...string) (writes []Write) {
		for _, name := range names {
			writes = append(writes, Write{Label: name})
		}
		return writes
	}
	a := new(account)
	for _, row := range []struct {
		report LossReport
		want   []string
		more   float64
	}{
		{LossReport{AtRisk: label("a"), Unknown: label("b", "waiting"), settled: 1}, []string{"a", "b", "waiting"}, 0},
		{LossReport{AtRisk: label("a"), Unknown: label("b", "waiting"), settled: 1}, nil, 0},
		{LossReport{AtRisk: label("a", "c"), Unknown: label("b", "d", "later"), settled: 2}, []string{"c", "d"}, 0},
		{LossReport{AtRisk: label("a", "c"), Unknown: append(label("b", "d"), make([]Write, 95)...), settled: 97}, make([]string, 95), 0},
		{LossReport{AtRisk: label("a", "c", "e"), Unknown: make([]Write, 97), settled: 97}, nil, 1},
	} {
		row.report.account = a
		got, more := lines(&row.report)
		assert.Equal(t, row.want, got)
		assert.InDelta(t, row.more, more, 0)
	}
	got, _ := lines(&LossReport{AtRisk: label("of somebody else's report")})
	assert.Empty(t, got)
	got, _ = lines(nil)
	assert.Empty(t, got)
}

// A report releases its anchor.
func TestAReportReleasesItsAnchor(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1})
	at := &transport.endpoints[Primary].anchor
	at.succeeded(time.Second)
	at.hold()
	at.succeeded(time.Minute)
	transport.mu.Lock()
	defer transport.mu.Unlock()
	r := transport.reportLossLocked(Primary, Alternate, 1, "drill")
	assert.Equal(t, transport.started.Add(time.Second), r.LastSuccess)
	assert.Equal(t, transport.started.Add(time.Minute), at.time(transport.started))
}
