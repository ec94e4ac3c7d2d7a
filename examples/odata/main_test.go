package main

import (
	"bytes"
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/internal/machine"
)

// result is what a run has printed and returned.
type result struct {
	status int
	out    string
}

// item returns the number of a line of the summary.
func (r result) item(t *testing.T, title string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^  ` + title + ` +(\S+)`).FindStringSubmatch(r.out)
	require.NotNil(t, m, "no %q in\n%s", title, r.out)
	return m[1]
}

// inMemory runs the simulation in a bubble, where it takes no time.
func inMemory(t *testing.T, test func(ctx context.Context, t *testing.T, org *failovertest.Org) result) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(&failovertest.Config{Lag: lag})
		defer org.Close()
		r := test(t.Context(), t, org)
		if t.Failed() {
			t.Log(r.out)
		}
	})
}

func simulate(ctx context.Context, org *failovertest.Org, workers int) result {
	var out bytes.Buffer
	status := runSimulated(ctx, org, false, 18*time.Second, workers, &out, &out)
	return result{status, out.String()}
}

func TestNoCallerNoticesTheOutage(t *testing.T) {
	inMemory(t, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		r := simulate(ctx, org, 4)
		assert.Equal(t, 0, r.status)
		assert.Equal(t, "0", r.item(t, "failures"))
		assert.Equal(t, "2", r.item(t, "switches"))
		assert.Equal(t, 2, strings.Count(r.out, "▶ up "), "the failovers behind one address")
		assert.Regexp(t, `tripped +primary: fence`, r.out)
		assert.Regexp(t, `tripped +primary: connection refused`, r.out)
		assertNarrow(t, r.out)
		assert.Regexp(t, `switched +primary → alternate`, r.out)
		assert.Regexp(t, `switched +alternate → primary`, r.out)
		assert.Equal(t, 2, strings.Count(r.out, "▶ switched"))
		assert.NotZero(t, requests(org.Primary(), http.MethodPost))
		assert.NotZero(t, requests(org.Alternate(), http.MethodPost))
		assert.NotContains(t, r.out, "\x1b", "colors are for terminals")
		assert.NotContains(t, r.out, "unexplained")
		return r
	})
}

// assertNarrow asserts that no line is wider than a terminal.
func assertNarrow(t *testing.T, out string) {
	t.Helper()
	for line := range strings.Lines(out) {
		assert.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 80, line)
	}
}

func TestOneAddressAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(&failovertest.Config{Lag: lag, OneAddress: true})
		defer org.Close()
		var out bytes.Buffer
		assert.Equal(t, 0, runSimulated(t.Context(), org, true, 10*time.Second, 4, &out, &out))
		r := result{0, out.String()}
		assert.Equal(t, "0", r.item(t, "failures"))
		assert.Equal(t, 2, strings.Count(r.out, "▶ up "))
		assert.NotContains(t, r.out, "alternate")
		assert.NotContains(t, r.out, "unexplained")
		assertNarrow(t, r.out)
	})
}

func TestTheSummaryOwnsUpToLostWrites(t *testing.T) {
	inMemory(t, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		r := simulate(ctx, org, 40)
		assert.Equal(t, 0, r.status)
		present := regexp.MustCompile(`accounts created +(\d+) +(\d+) confirmed`).FindStringSubmatch(r.out)
		require.NotNil(t, present)
		assert.NotEqual(t, present[1], present[2])
		assert.NotEqual(t, "0", r.item(t, "lost accounts"))
		return r
	})
}

func TestOneWorkerOnlyReads(t *testing.T) {
	inMemory(t, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		r := simulate(ctx, org, 1)
		assert.Equal(t, 0, r.status)
		assert.Equal(t, "1", r.item(t, "accounts created"))
		assert.Equal(t, "0", r.item(t, "updates"))
		return r
	})
}

func TestCtrlCEndsWithTheSummary(t *testing.T) {
	inMemory(t, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
		defer cancel()
		start := time.Now()
		r := simulate(ctx, org, 4)
		assert.Equal(t, 12*time.Second, time.Since(start))
		assert.Equal(t, 0, r.status)
		assert.Equal(t, "0", r.item(t, "failures"))
		assert.Equal(t, "1", r.item(t, "switches"))
		return r
	})
}

func TestWorkWaitsWhereNothingServes(t *testing.T) {
	inMemory(t, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		org.Alternate().Fail(failovertest.Refuse()) // for good
		r := simulate(ctx, org, 4)
		assert.Equal(t, 0, r.status)
		assert.Equal(t, "0", r.item(t, "failures"))
		assert.Equal(t, 3, strings.Count(r.out, "▶ down "))
		took, err := time.ParseDuration(r.item(t, "longest call"))
		assert.NoError(t, err)
		assert.Greater(t, took, 4*time.Second)
		return r
	})
}

func TestFailuresAreShownAndChangeTheStatus(t *testing.T) {
	inMemory(t, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		org.Primary().Fail(failovertest.Status(http.StatusBadRequest, nil, "no"))
		r := simulate(ctx, org, 4)
		assert.Equal(t, 1, r.status)
		assert.Equal(t, "1", r.item(t, "failures"))
		assert.Regexp(t, `▶ failed +1, the first: `, r.out)
		return r
	})
}

func TestTheProgramOverRealConnections(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	var r result
	machine.Try(func() bool { // scenes have their times, and a machine that stalls skips some
		stdout.Reset()
		stderr.Reset()
		r.status = run(t.Context(), []string{"-duration", "10s"}, &stdout, &stderr)
		r.out = stdout.String()
		return r.status == 0 && r.item(t, "switches") == "2"
	})
	assert.Equal(t, 0, r.status, "%s%s", r.out, &stderr)
	assert.Equal(t, "0", r.item(t, "failures"))
	assert.Equal(t, "2", r.item(t, "switches"))
	assert.Empty(t, stderr.String())
}

func TestWrongFlags(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"unknown flag":         {"-x"},
		"an argument":          {"now"},
		"no workers":           {"-n", "0"},
		"too short":            {"-duration", "9s"},
		"write to nothing":     {"-write"},
		"a real one address":   {"-one-address", "-org", "https://contoso.crm4.dynamics.com"},
		"negative duration":    {"-duration", "-5s"},
		"no organization":      {"-org", "https://crm4.dynamics.com"},
		"credentials in a URL": {"-org", "https://user:hunter2@contoso.crm4.dynamics.com"},
	}
	for name, args := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			assert.Equal(t, 2, run(t.Context(), args, &stdout, &stderr))
			assert.NotEmpty(t, stderr.String())
			assert.NotContains(t, stderr.String(), "hunter2")
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	assert.Equal(t, 0, run(t.Context(), []string{"-h"}, &stdout, &stderr))
	assert.Contains(t, stderr.String(), "-org URL")
}
