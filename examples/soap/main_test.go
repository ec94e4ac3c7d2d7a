package main

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
func inMemory(t *testing.T, cfg *failovertest.Config, test func(ctx context.Context, t *testing.T, org *failovertest.Org) result) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(cfg)
		defer org.Close()
		r := test(t.Context(), t, org)
		if t.Failed() {
			t.Log(r.out)
		}
	})
}

func play(ctx context.Context, org *failovertest.Org) result {
	var out bytes.Buffer
	status := simulate(ctx, org, 10*time.Second, &out, &out)
	return result{status, out.String()}
}

func TestNoCallerNoticesTheOutage(t *testing.T) {
	inMemory(t, nil, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		r := play(ctx, org)
		assert.Equal(t, 0, r.status)
		assert.Equal(t, "0", r.item(t, "failures"))
		assert.Equal(t, "2", r.item(t, "switches"))
		assert.Equal(t, "1", r.item(t, "writes in doubt"))
		assert.Equal(t, "16", r.item(t, "accounts created"))
		assert.Contains(t, r.out, "16 confirmed present")
		assert.Regexp(t, `switched +primary → alternate`, r.out)
		assert.Regexp(t, `switched +alternate → primary`, r.out)
		assert.Equal(t, 2, strings.Count(r.out, "▶ switched"))
		assert.NotContains(t, r.out, "\x1b", "colors are for terminals")
		return r
	})
}

func TestEveryOperationIsServedByBothSides(t *testing.T) {
	inMemory(t, nil, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		r := play(ctx, org)
		for _, d := range []*failovertest.Datacenter{org.Primary(), org.Alternate()} {
			served := make(map[string]bool)
			for _, call := range calls(d) {
				if call.Status == 200 {
					served[call.Header.Get("SOAPAction")] = true
				}
			}
			for _, operation := range []string{"Execute", "Create", "Retrieve", "RetrieveMultiple", "Update"} {
				assert.True(t, served[`"`+actionPrefix+operation+`"`], "%s at %s", operation, d.Host())
			}
		}
		return r
	})
}

func TestNoWriteIsCarriedOutTwice(t *testing.T) {
	inMemory(t, nil, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		r := play(ctx, org)
		applied := make(map[string]int)
		for _, call := range append(calls(org.Primary()), calls(org.Alternate())...) {
			if call.Applied {
				applied[strings.Trim(call.Header.Get("SOAPAction"), `"`)]++
			}
		}
		// Two workers make 40 calls each, every fifth of them a Create.
		assert.Equal(t, map[string]int{actionPrefix + "Create": 16, actionPrefix + "Update": 16}, applied)
		return r
	})
}

func TestCtrlCEndsWithTheSummary(t *testing.T) {
	inMemory(t, nil, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		ctx, cancel := context.WithCancel(ctx)
		defer time.AfterFunc(4*time.Second, cancel).Stop()
		start := time.Now()
		r := play(ctx, org)
		assert.Equal(t, 4*time.Second, time.Since(start))
		assert.Equal(t, 0, r.status)
		assert.Equal(t, "1", r.item(t, "switches"))
		return r
	})
}

func TestFailuresAreShownAndChangeTheStatus(t *testing.T) {
	inMemory(t, nil, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		org.Alternate().Fail(failovertest.Refuse()) // for good
		r := play(ctx, org)
		assert.Equal(t, 1, r.status)
		assert.NotEqual(t, "0", r.item(t, "failures"))
		assert.Regexp(t, `▶ failed +\d+, the first: .*no endpoint serves`, strings.Join(strings.Fields(r.out), " "))
		return r
	})
}

func TestAMissingAccountChangesTheStatus(t *testing.T) {
	inMemory(t, &failovertest.Config{Lag: time.Second}, func(ctx context.Context, t *testing.T, org *failovertest.Org) result {
		r := play(ctx, org)
		assert.Equal(t, 1, r.status)
		assert.Contains(t, r.out, "Could not read an account back: Retrieve: status 500 0x80040217")
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
		r.status = run(t.Context(), []string{"-duration", "5s"}, &stdout, &stderr)
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
	for name, args := range map[string][]string{
		"unknown flag": {"-x"},
		"an argument":  {"now"},
		"too short":    {"-duration", "1s"},
	} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, 2, run(t.Context(), args, &stdout, &stderr), name)
		assert.NotEmpty(t, stderr.String(), name)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	assert.Equal(t, 0, run(t.Context(), []string{"-h"}, &stdout, &stderr))
	assert.Contains(t, stderr.String(), "-duration")
}
