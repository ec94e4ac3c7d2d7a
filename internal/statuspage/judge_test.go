package statuspage

import (
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFindings(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for _, row := range findings {
		require.NotEmpty(t, row.why, row.name)
		require.False(t, names[row.name], "%s twice", row.name)
		names[row.name] = true
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := *row.report
			page := draw(t, &r)
			require.NotEmpty(t, r.Findings)
			first := r.Findings[0]
			assert.Equal(t, row.situation, r.Situation, row.why)
			assert.Equal(t, row.level, r.Level)
			assert.Equal(t, row.summary, r.Summary)
			assert.Contains(t, r.Advice, row.advice)
			assert.Equal(t, []string{r.Situation, r.Level, r.Summary, r.Advice}, []string{first.Name, first.Level, first.Summary, first.Advice})
			assert.Equal(t, row.cause, first.Cause, row.why)
			assert.Contains(t, first.Why, row.because)
			if row.section == "" {
				assert.Empty(t, first.Runbook)
			} else {
				assert.Equal(t, "https://contoso.example/runbook#"+row.section, first.Runbook)
				assert.Contains(t, page, `href="`+first.Runbook+`"`)
			}
			var others []string
			for _, f := range r.Findings[1:] {
				others = append(others, f.Name)
				assert.Contains(t, page, html.EscapeString(f.Summary))
			}
			assert.ElementsMatch(t, row.others, others)

			assert.Contains(t, page, "<h1>"+html.EscapeString(row.summary)+"</h1>")
			assert.Contains(t, page, "<title>"+row.situation+": ")
			assert.Contains(t, page, `banner `+row.level+`"`)
			for _, text := range row.page {
				assert.Contains(t, page, text)
			}
			for _, text := range row.not {
				assert.NotContains(t, page, text)
			}
			for _, e := range r.Events {
				assert.Contains(t, page, "<b>"+e.Kind+"</b>")
				assert.Contains(t, page, `datetime="`+e.Time.Format(time.RFC3339)+`"`)
			}
		})
	}
}

// Every section that a finding refers to is a heading of the runbook, and every section is
// referred to by some finding.
func TestTheRunbookHasTheSections(t *testing.T) {
	t.Parallel()
	runbook, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	var anchors []string
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(runbook), -1) {
		anchors = append(anchors, anchor(heading[1]))
	}
	for _, section := range Sections {
		assert.Contains(t, anchors, section)
	}
	var reached []string
	for _, row := range findings {
		r := *row.report
		r.Judge()
		for _, f := range r.Findings {
			if _, section, ok := strings.Cut(f.Runbook, "#"); ok {
				reached = append(reached, section)
			}
		}
	}
	for _, section := range Sections {
		assert.True(t, slices.Contains(reached, section), "no situation leads to %s", section)
	}
}

// anchor returns the fragment under which GitHub shows a heading.
func anchor(heading string) string {
	kept := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(kept, " ", "-")
}

// A healthy organization has one finding, and judging twice changes nothing.
func TestJudgingTwice(t *testing.T) {
	t.Parallel()
	r := lossReport()
	r.Judge()
	before := slices.Clone(r.Findings)
	r.Judge()
	assert.Equal(t, before, r.Findings)
}

// The most serious finding comes first.
func TestFindingsAreInOrderOfTheirWeight(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []string{LevelOK, LevelWarn, LevelBad, LevelOff}, gravity)
}

// An endpoint that has failed and now passes its probe is recovering.
func TestWhatAnEndpointShows(t *testing.T) {
	t.Parallel()
	passed, missed := &Probe{Result: ProbePassed}, &Probe{Result: ProbeFailed}
	for name, row := range map[string]struct {
		breaker                         string
		probe                           *Probe
		failing, recovering, notServing bool
	}{
		"healthy":       {"closed", nil, false, false, false},
		"probed":        {"closed", passed, false, false, false},
		"standby":       {"closed", missed, false, false, true},
		"failed":        {"open", missed, true, false, false},
		"never probed":  {"open", nil, true, false, false},
		"passes again":  {"open", passed, false, true, false},
		"half-open":     {"half-open", passed, false, true, false},
		"half-open yet": {"half-open", missed, true, false, false},
	} {
		e := &Endpoint{Breaker: row.breaker, Probe: row.probe}
		assert.Equal(t, row.failing, e.Failing(), name)
		assert.Equal(t, row.recovering, e.Recovering(), name)
		assert.Equal(t, row.notServing, e.NotServing(), name)
	}
}

func TestWhichFormIsWanted(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "application/json": true, "text/html": false, "application/json, */*": true, "text/html, */*": false,
		"application/json, text/html": false, "application/json, text/html;q=0.9": true, "application/json;q=0.5, text/html": false,
		"application/json;q=0, */*;q=0": false, "application/*": true, "text/*": false, "application/json;q=0.5": true, "text/html;q=0.5, application/json;q=0.4": false,
		"application/*;q=0.2, */*;q=0.9":    false,
		"application/json;q=0.5, */*;q=0.9": false, "application/json;q=0.5, */*;q=0.5": true, "application/json;q": false, "application/json, text/html;q=1.0": false, "text/html, application/json;q=1.0": false,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept", accept)
		assert.Equal(t, want, WantsJSON(r), accept)
	}
	for query, want := range map[string]bool{"?format=json": true, "?format=html": false, "?format=": true} {
		r := httptest.NewRequest(http.MethodGet, "/"+query, nil)
		r.Header.Set("Accept", "application/json")
		assert.Equal(t, want, WantsJSON(r), query)
	}
}

// At most 64 ranges of 256 bytes of an Accept header are read.
func TestHowMuchOfAnAcceptHeaderIsRead(t *testing.T) {
	t.Parallel()
	long := "application/json;a=" + strings.Repeat("b", maxRange-len("application/json;a="))
	assert.Equal(t, []string{long, "", "x"}, ranges([]string{long + "," + long + "b", "x"}))
	assert.Len(t, ranges([]string{strings.Repeat("a,", 63) + "a", "b"}), 64)
	assert.Len(t, ranges([]string{strings.Repeat("a,", 62) + "a"}), 63)
}
