package drill

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/cmd/failover/internal/dr"
	"github.com/d365failover/failover/failovertest"
)

var start = time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)

func at(s float64) time.Time { return start.Add(seconds(s)) }

// sampled reads a series: for each second a state ("." served, "x" failed, "?"
// unclear, " " no sample), and how long that took.
func sampled(series Series, states string, took map[int]float64) []Sample {
	var list []Sample
	for i, state := range states {
		s := Sample{Series: series, Begun: at(float64(i)), Took: 0.01}
		if t, ok := took[i]; ok {
			s.Took = t
		}
		switch state {
		case '.':
			s.State = Served
		case 'x':
			s.State, s.Cause = Failed, "refused"
		case '?':
			s.State = Unclear
		default:
			continue
		}
		list = append(list, s)
	}
	return list
}

func TestFindsOutages(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		states string
		took   map[int]float64
		want   [][3]float64 // stopped, recovered (-1: not), least duration
	}{
		{name: "none", states: "....."},
		{name: "one", states: "..xxx..", want: [][3]float64{{2, 5.01, 1.99}}},
		{name: "two", states: ".x..xx.", want: [][3]float64{{1, 2.01, 0}, {4, 6.01, 0.99}}},
		{name: "not over", states: "..xxx", want: [][3]float64{{2, -1, 1.99}}},
		{name: "from the start", states: "xx..", want: [][3]float64{{0, 2.01, 0.99}}},
		{name: "what is unclear is neither", states: "..x??x..", want: [][3]float64{{2, 6.01, 2.99}}},
		{name: "a throttled moment is no outage", states: "..??.."},
		{
			name: "requests that time out after the organization is back were begun before", states: "..xxx..",
			took: map[int]float64{2: 10, 3: 10, 4: 10}, want: [][3]float64{{2, 5.01, 0}},
		},
		{
			name: "a request that hangs and is then answered ends the outage when it is answered", states: "..x.x..",
			took: map[int]float64{3: 1.8}, want: [][3]float64{{2, 4.8, 1.99}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			list := outages(sampled(New, tt.states, tt.took), time.Second, New, New)
			require.Len(t, list, len(tt.want))
			for i, want := range tt.want {
				o := list[i]
				assert.Equal(t, at(want[0]), o.Stopped)
				assert.Equal(t, want[1] >= 0, o.over())
				if o.over() {
					assert.WithinDuration(t, at(want[1]), o.Recovered, time.Millisecond)
				}
				assert.InDelta(t, want[2], o.Least, 1e-6)
				assert.LessOrEqual(t, o.Least, o.Duration)
				assert.LessOrEqual(t, o.Duration, o.Most)
			}
			assert.Empty(t, outages(sampled(New, tt.states, tt.took), time.Second, Kept, Kept), "of another series")
		})
	}
}

// beats reads heartbeats: "." written and present, "!" written and missing, "d"
// in doubt and present, "r" refused.
func beats(states string) []Beat {
	var list []Beat
	for i, state := range states {
		b := Beat{Number: i + 1, Begun: at(float64(i)), Ended: at(float64(i) + 0.01), Answer: Written, Found: Present}
		switch state {
		case '!':
			b.Found = Missing
		case 'd':
			b.Answer = InDoubt
		case 'r':
			b.Answer, b.Found = Refused, Missing
		}
		list = append(list, b)
	}
	return list
}

func TestMeasuresTheLoss(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, states, beats string
		lost                int
		rpo                 float64 // -1: not measured
	}{
		{"nothing was lost", "...xx...", "...rr...", 0, 0},
		{"the last three", ".....xx..", "..!!!rr..", 3, 3},
		{"a survivor in between does not shorten the loss", ".....xx..", ".!.!!rr..", 3, 4},
		{"all of them", "...xx..", "!!!rr..", 3, 2.01},
		{"those in doubt are not counted", "....xx..", "....dd..", 0, 0},
		{"the worse of two outages", "...x....x..", "..!r..!!r..", 3, 2},
		{"none was acknowledged", "...", "rrr", 0, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &Record{Started: start, Ended: at(20), Interval: 1, Samples: sampled(New, tt.states, nil), Heartbeat: &Heartbeat{Beats: beats(tt.beats)}}
			r.conclude()
			assert.Equal(t, tt.lost, r.Result.Lost)
			if tt.rpo < 0 {
				assert.Nil(t, r.Result.RPO)
				return
			}
			require.NotNil(t, r.Result.RPO)
			assert.InDelta(t, tt.rpo, *r.Result.RPO, 1e-6)
		})
	}
}

// An organization serves while one of its addresses does.
func TestEitherAddress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, primary, alternate string
		want                     int // outages
		duration                 float64
		open                     bool
	}{
		{"the alternate is fenced, as ever", "......", "xxxxxx", 0, 0, false},
		{"it takes over at once", "..xxxx", "xx....", 0, 0, false},
		{"it takes over later", "..xxxxxx", "xxxxx...", 1, 3.01, false},
		{"and gives back", "..xxxxx...", "xxxx...xxx", 1, 2.01, false},
		{"the watch ends before its last answer", "..xxxx", "xx...", 0, 0, false},
		{"the watch ends before the primary's last answer", ".....", "xxxxxx", 0, 0, false},
		{"neither serves until the end", "..xxx", "xxxx", 1, 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			list := outages(append(sampled(Second, tt.alternate, nil), sampled(New, tt.primary, nil)...), time.Second, Either, New, Second)
			require.Len(t, list, tt.want)
			if tt.want > 0 {
				assert.InDelta(t, tt.duration, list[0].Duration, 1e-6)
				assert.Equal(t, tt.open, !list[0].over())
			}
		})
	}
}

func TestSaysWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	r := &Record{Started: start, Ended: at(5), Samples: sampled(New, "?????", nil)}
	r.conclude()
	assert.Nil(t, r.Result.RTO)
	assert.Contains(t, r.Result.Summary, "Nothing is known")
	r = &Record{Started: start, Ended: at(5), Samples: sampled(New, "xxxxx", nil)}
	r.conclude()
	assert.Nil(t, r.Result.RTO)
	assert.Contains(t, r.Result.Summary, "nothing could be measured")
	r = &Record{Started: start, Ended: at(5), Samples: sampled(New, ".....", nil)}
	r.conclude()
	assert.Zero(t, *r.Result.RTO)
	assert.Contains(t, r.Result.Summary, "nothing is known about lost data")
}

// The operations of the administration API are read, and those that overlap the watch are
// kept.
func TestPutsTheStagesBeside(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, http.MethodGet, r.Method)
		switch {
		case strings.HasSuffix(r.URL.Path, "/operations"):
			_, _ = w.Write([]byte(`{"collection":[
				{"operationId":"1","name":"Backup","status":"Succeeded","startTime":"2026-11-26T08:00:00Z","endTime":"2026-11-26T08:10:00Z"},
				{"operationId":"2","name":"DisasterRecoveryDrill","status":"Succeeded","startTime":"2026-11-26T08:59:30Z","endTime":"2026-11-26T09:00:09Z"}]}`))
		case strings.HasSuffix(r.URL.Path, "/operations/2"):
			_, _ = w.Write([]byte(`{"operationId":"2","name":"DisasterRecoveryDrill","status":"Succeeded","startTime":"2026-11-26T08:59:30Z",
				"endTime":"2026-11-26T09:00:09Z","stageStatuses":[{"name":"Move <the> databases","status":"Succeeded","startTime":"2026-11-26T09:00:03Z","endTime":"2026-11-26T09:00:08Z"}]}`))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	admin := dr.NewClient(lead{server}, func(context.Context, string) (string, error) { return "secret", nil })
	r := &Record{Organization: "https://contoso.crm4.dynamics.com", Started: start, Ended: at(12), Interval: 1, Samples: sampled(New, "...xxxxx....", nil)}
	r.readOperations(t.Context(), admin, "11111111-2222-3333-4444-555555555555")
	r.conclude()
	require.Len(t, r.Operations, 1)
	assert.Equal(t, "DisasterRecoveryDrill", r.Operations[0].Name)
	require.Len(t, r.Operations[0].Stages, 1)
	var page bytes.Buffer
	require.NoError(t, draw(&page, r, "record.json", "00"))
	assert.Contains(t, page.String(), "Move &lt;the&gt; databases")
	assert.NotContains(t, page.String(), "Move <the>")
}

// The stages are queried from a simulated API during the watch.
func TestTellsTheStagesAsTheyCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(&failovertest.Config{OneAddress: true})
		defer org.Close()
		began := time.Now()
		o := options{interval: time.Second, always: time.Minute, duration: 2 * time.Minute, out: filepath.Join(t.TempDir(), "report"), environment: "1"}
		o.target = simulated(org, time.Second)
		o.admin = dr.NewClient(answers(func(path string) string {
			stage := "InProgress"
			switch since := time.Since(began); {
			case since < 40*time.Second:
				return `{"collection":[]}`
			case since > time.Minute:
				stage = "Succeeded"
			}
			return `{"collection":[{"operationId":"1","name":"DisasterRecoveryDrill","status":"InProgress","startTime":"2000-01-01T00:00:40Z",
				"stageStatuses":[{"name":"Move","status":"` + stage + `","startTime":"2000-01-01T00:00:40Z"}]}]}`
		}), func(context.Context, string) (string, error) { return "secret", nil })
		var out bytes.Buffer
		r, _, err := run(t.Context(), o, nil, &out, &bytes.Buffer{})
		require.NoError(t, err)
		assert.Equal(t, 1, strings.Count(out.String(), "Microsoft: DisasterRecoveryDrill is InProgress"))
		assert.Equal(t, 1, strings.Count(out.String(), "Microsoft: DisasterRecoveryDrill, Move is InProgress"))
		assert.Equal(t, 1, strings.Count(out.String(), "Microsoft: DisasterRecoveryDrill, Move is Succeeded"))
		require.Len(t, r.Operations, 1)

		o.out += "2"
		o.admin = dr.NewClient(answers(func(string) string { return "<html>" }), func(context.Context, string) (string, error) { return "secret", nil })
		out.Reset()
		r, _, err = run(t.Context(), o, nil, &out, &bytes.Buffer{})
		require.NoError(t, err)
		assert.Equal(t, 1, strings.Count(out.String(), "The stages cannot be read"))
		assert.Contains(t, r.OperationsError, "not in the documented form")
	})
}

// answers is a server in memory.
type answers func(path string) string

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(a(r.URL.Path))), Request: r}, nil
}

// lead leads every request to a server.
type lead struct{ *httptest.Server }

func (l lead) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	there, err := url.Parse(l.URL)
	if err != nil {
		return nil, err
	}
	r.URL.Host = there.Host
	return l.Client().Transport.RoundTrip(r)
}

// In a long watch, hours of samples share the columns of the plot. If DRILL_REPORT is set to a
// path, the report is left there for inspection.
func TestDrawsALongWatch(t *testing.T) {
	t.Parallel()
	states := strings.Repeat(".", 3000) + strings.Repeat("x", 400) + strings.Repeat(".", 2000) + "x" + strings.Repeat(".", 1000)
	marks := strings.Repeat(".", 2400) + strings.Repeat("!", 600) + strings.Repeat("r", 400) + strings.Repeat(".", 3001)
	r := &Record{Organization: "https://contoso.crm4.dynamics.com", Machine: "orders-7f9c", Version: "v0.1.0", Started: start, Ended: at(float64(len(states))),
		Interval: 1, Timeout: 10, Samples: append(sampled(New, states, nil), sampled(Kept, states, nil)...),
		Heartbeat: &Heartbeat{EntitySet: "contoso_heartbeats", Column: "contoso_name", Run: "failover drill 1", Beats: beats(marks)}}
	began, moved, ended := at(2900), at(3050), at(3390)
	r.Operations = []dr.Operation{{Name: "DisasterRecoveryDrill", Status: "Succeeded", StartTime: &began, EndTime: &ended, Stages: []dr.Stage{
		{Name: "Prepare", Status: "Succeeded", StartTime: &began, EndTime: &moved}, {Name: "Move", Status: "Succeeded", StartTime: &moved, EndTime: &ended}}}}
	r.conclude()
	assert.InDelta(t, 600, *r.Result.RPO, 1e-6)
	var page bytes.Buffer
	require.NoError(t, draw(&page, r, "record.json", strings.Repeat("0", 64)))
	assert.Less(t, strings.Count(page.String(), "<rect"), 2500, "of %d samples", len(r.Samples))
	assert.NotContains(t, page.String(), "<script")
	assert.NotContains(t, page.String(), "http://", "it loads nothing")
	if path := os.Getenv("DRILL_REPORT"); path != "" {
		require.NoError(t, os.WriteFile(path, page.Bytes(), 0o600))
	}
}
