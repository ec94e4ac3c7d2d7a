package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/d365failover/failover/failovertest"
)

// scrape is what Prometheus reads.
type scrape struct {
	text   string
	series map[string]bool // names of series: those of histograms have suffixes
	labels map[string]bool
}

// afterOutages runs the program for two periods in a bubble and scrapes the metrics.
func afterOutages(t *testing.T) scrape {
	t.Helper()
	var s scrape
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(&failovertest.Config{Lag: lag})
		defer org.Close()
		app, err := newApp(org, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		defer app.transport.Close()
		for range 2 {
			app.live(t.Context(), 2*time.Minute)
		}
		answer := httptest.NewRecorder()
		app.metrics.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		require.Equal(t, http.StatusOK, answer.Code)
		s.text = answer.Body.String()
	})
	s.series, s.labels = make(map[string]bool), make(map[string]bool)
	for line := range strings.Lines(s.text) {
		if m := regexp.MustCompile(`^([a-z_]+)\{(.*)\}`).FindStringSubmatch(line); m != nil {
			s.series[m[1]] = true
			for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[2], -1) {
				s.labels[label[1]] = true
			}
		}
	}
	return s
}

// value returns the sum of the series of a metric whose lines have the texts in them.
func (s scrape) value(t *testing.T, name string, texts ...string) float64 {
	t.Helper()
	sum, found := 0.0, false
lines:
	for line := range strings.Lines(s.text) {
		if !strings.HasPrefix(line, name+"{") {
			continue
		}
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue lines
			}
		}
		var v float64
		_, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v)
		require.NoError(t, err, line)
		sum, found = sum+v, true
	}
	assert.True(t, found, "no series %s %v in\n%s", name, texts, s.text)
	return sum
}

func TestWhatPrometheusReads(t *testing.T) {
	t.Parallel()
	s := afterOutages(t)
	t.Run("the outages show", s.testOutages)
	t.Run("the dashboard asks for what there is", s.testDashboard)
	t.Run("the alerts ask for what there is", s.testAlerts)
	t.Run("the names are the documented ones", s.testNames)
}

func (s scrape) testOutages(t *testing.T) {
	assert.Equal(t, 1.0, s.value(t, "failover_active", `failover_endpoint="primary"`))
	assert.Equal(t, 2.0, s.value(t, "failover_switches_total", `failover_from="primary"`, `failover_to="alternate"`))
	assert.Equal(t, 2.0, s.value(t, "failover_switches_total", `failover_from="alternate"`, `failover_to="primary"`))
	// A ninth of each period, and up to 10 s until the alternate is probed again.
	downtime := s.value(t, "failover_downtime_seconds_total")
	assert.GreaterOrEqual(t, downtime, 2*(120.0/9-1))
	assert.LessOrEqual(t, downtime, 2*(120.0/9+10))
	for _, name := range []string{"failover_unknown_outcomes_total", "failover_replays_total", "failover_faults_total",
		"failover_probe_duration_seconds_count"} {
		assert.NotZero(t, s.value(t, name), name)
	}
}

// queries returns the PromQL in a document: the values of "expr", and the arguments of
// label_values.
func queries(t *testing.T, document any) (found []string) {
	t.Helper()
	switch v := document.(type) {
	case map[string]any:
		for key, value := range v {
			text, ok := value.(string)
			if ok && (key == "expr" || strings.HasPrefix(text, "label_values(")) {
				found = append(found, text)
				continue
			}
			found = append(found, queries(t, value)...)
		}
	case []any:
		for _, value := range v {
			found = append(found, queries(t, value)...)
		}
	}
	return found
}

// names are the metrics and labels in PromQL that come from OpenTelemetry.
var names = regexp.MustCompile(`\b(?:failover|server|error)_[a-z_]+\b`)

// check checks that the metrics and labels of a query exist.
func (s scrape) check(t *testing.T, query string) {
	t.Helper()
	found := 0
	for _, name := range names.FindAllString(query, -1) {
		if s.series[name] {
			found++
			continue
		}
		assert.True(t, s.labels[name], "%s is neither a metric nor a label of the scrape: %s", name, query)
	}
	assert.NotZero(t, found, "no metric in %s", query)
}

func (s scrape) testDashboard(t *testing.T) {
	text, err := os.ReadFile("../grafana.json")
	require.NoError(t, err)
	var dashboard struct {
		Title, UID    string
		SchemaVersion int
		Panels        []struct {
			ID                       int
			Type, Title, Description string
			GridPos                  struct{ H, W, X, Y int }
			Datasource               struct{ UID string }
			Targets                  []struct{ Expr, RefID string }
		}
		Templating struct {
			List []struct{ Name, Type string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	assert.Equal(t, "datasource", dashboard.Templating.List[0].Type)
	ids, titles := make(map[int]bool), make(map[string]bool)
	for _, p := range dashboard.Panels {
		assert.False(t, ids[p.ID] || titles[p.Title], "twice: %d %s", p.ID, p.Title)
		ids[p.ID], titles[p.Title] = true, true
		assert.NotEmpty(t, p.Description, p.Title)
		assert.NotEmpty(t, p.Targets, p.Title)
		assert.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		assert.Equal(t, "${datasource}", p.Datasource.UID, p.Title)
	}
	var document any
	require.NoError(t, json.Unmarshal(text, &document))
	all := queries(t, document)
	assert.Greater(t, len(all), len(dashboard.Panels), "annotations and variables have queries, too")
	asked := strings.Join(all, "\n")
	for _, query := range all {
		s.check(t, query)
	}
	for name := range s.series {
		if strings.HasPrefix(name, "failover_") && !strings.HasSuffix(name, "_sum") && !strings.HasSuffix(name, "_count") {
			assert.Contains(t, asked, name, "the dashboard leaves a metric out")
		}
	}
}

func (s scrape) testAlerts(t *testing.T) {
	text, err := os.ReadFile("../alerts.yaml")
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&file))
	page, err := os.ReadFile("../../docs/telemetry.md")
	require.NoError(t, err)
	alerts := make(map[string]bool)
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			assert.False(t, alerts[rule.Alert], "twice: %s", rule.Alert)
			alerts[rule.Alert] = true
			s.check(t, rule.Expr)
			assert.Contains(t, []string{"page", "ticket"}, rule.Labels["severity"], rule.Alert)
			assert.Contains(t, rule.Annotations["summary"], "$labels.failover_organization", rule.Alert)
			assert.Contains(t, string(page), fmt.Sprintf("\n| `%s` | %s |", rule.Alert, rule.Labels["severity"]), "not in docs/telemetry.md")
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(Failover\\w+)` \\|").FindAllStringSubmatch(string(page), -1) {
		assert.True(t, alerts[row[1]], "%s is in docs/telemetry.md only", row[1])
	}
}

// The column of names for Prometheus in docs/telemetry.md is what it scrapes.
func (s scrape) testNames(t *testing.T) {
	page, err := os.ReadFile("../../docs/telemetry.md")
	require.NoError(t, err)
	rows := regexp.MustCompile("(?m)^\\| `(failover\\.[a-z_.]+)` \\| `(failover_[a-z_]+)` \\|").FindAllStringSubmatch(string(page), -1)
	named := make(map[string]bool)
	for _, row := range rows {
		named[row[2]] = true
		assert.True(t, s.series[row[2]] || s.series[row[2]+"_bucket"], row[2])
	}
	for name := range s.series {
		if strings.HasPrefix(name, "failover_") {
			assert.True(t, named[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")], name)
		}
	}
}

func TestTheProgramServesItsMetrics(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	var stderr bytes.Buffer
	status := make(chan int, 1)
	go func() { status <- run(ctx, []string{"-listen", "127.0.0.1:0", "-period", "10s"}, in, &stderr) }()
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	require.NoError(t, err, &stderr)
	go io.Copy(io.Discard, lines)

	address, _, _ := strings.Cut(line, " ")
	resp, err := http.Get(address)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	require.NoError(t, err)
	assert.Contains(t, string(body), "failover_active{")
	cancel()
	assert.Equal(t, 0, <-status)
	assert.Empty(t, stderr.String())
}

func TestWrongFlags(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"unknown flag":     {"-x"},
		"an argument":      {"now"},
		"too short":        {"-period", "1s"},
		"no such address":  {"-listen", "256.0.0.1:0"},
		"address in words": {"-listen", "here"},
	}
	for name, args := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			assert.NotZero(t, run(t.Context(), args, &stdout, &stderr))
			assert.NotEmpty(t, stderr.String())
			assert.Empty(t, stdout.String())
		})
	}
}
