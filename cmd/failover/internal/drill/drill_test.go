package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

// TestMeasuresToTheSecond compares the figures of the demonstration with the
// simulator's own account, in virtual time.
func TestMeasuresToTheSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, time.Second, failovertest.StartInMemory)
		response := r.Account[0]
		require.NotNil(t, r.Result.RTO)
		require.NotNil(t, r.Result.RPO)
		assert.InDelta(t, response.Served.Sub(response.Stopped).Seconds(), *r.Result.RTO, 1, "RTO")
		assert.InDelta(t, response.Stopped.Sub(response.LastSync).Seconds(), *r.Result.RPO, 1, "RPO")
		assert.Equal(t, response.Lost, r.Result.Lost, "lost writes")
		assert.Positive(t, r.Result.Lost, "the demonstration shows a loss")
		assert.Zero(t, r.Account[1].Lost, "nothing is lost on the way back")
		assert.Greater(t, r.worst(Kept).Duration, r.worst(New).Duration, "a kept connection stays at the old place")
		assert.InDelta(t, 30, r.Ended.Sub(r.Started).Seconds(), 4, "it takes 30 s")
	})
}

// TestMeasuresOverRealSockets is the same with TLS on the loopback interface, ten
// times as fast. On a busy machine requests take long at that pace, which the
// bounds allow for.
func TestMeasuresOverRealSockets(t *testing.T) {
	t.Parallel()
	rehearse(t, 100*time.Millisecond, failovertest.Start)
}

// rehearse runs the demonstration and checks what holds at any speed.
func rehearse(t *testing.T, interval time.Duration, start func(*failovertest.Config) *failovertest.Org) *Record {
	t.Helper()
	var out bytes.Buffer
	var org *failovertest.Org
	o := options{interval: interval, always: interval / 2, out: filepath.Join(t.TempDir(), "report"), version: "v0.1.0"}
	o.timeout = 10 * time.Second
	r, files, err := simulate(t.Context(), o, func(cfg *failovertest.Config) *failovertest.Org {
		org = start(cfg)
		return org
	}, &out, &bytes.Buffer{})
	require.NoError(t, err)
	t.Log("\n" + out.String())
	r.print(&out)
	for line := range strings.Lines(out.String()) {
		assert.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), 80, "fits 80 columns: %q", line)
	}

	require.Len(t, r.Account, 2)
	worst := r.worst(New)
	require.NotNil(t, worst)
	require.True(t, worst.over())
	truth := r.Account[0].Served.Sub(r.Account[0].Stopped).Seconds()
	assert.LessOrEqual(t, worst.Least, truth)
	assert.GreaterOrEqual(t, worst.Most, truth)
	assert.LessOrEqual(t, r.Result.Lost, r.Account[0].Lost)

	assert.Zero(t, r.Heartbeat.Left)
	for _, row := range org.Primary().Rows("accounts") {
		assert.NotContains(t, row["name"], "failover drill", "the markers are deleted")
	}
	require.Len(t, files, 2)
	page, err := os.ReadFile(files[0])
	require.NoError(t, err)
	record, err := os.ReadFile(files[1])
	require.NoError(t, err)
	assert.Contains(t, string(page), "Simulated.")
	assert.NotContains(t, string(page)+string(record)+out.String(), org.Token(org.Primary().Host()))
	var again Record
	require.NoError(t, json.Unmarshal(record, &again))
	assert.Equal(t, *r.Result.RTO, *again.Result.RTO)
	assert.Len(t, again.Samples, len(r.Samples))
	return r
}

// TestCtrlCWritesTheReport: the watch has no end of its own.
func TestCtrlCWritesTheReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second, cancel)
		var out bytes.Buffer
		o := options{interval: time.Second, always: time.Second, out: filepath.Join(t.TempDir(), "report")}
		o.timeout = 10 * time.Second
		r, files, err := simulate(ctx, o, failovertest.StartInMemory, &out, &bytes.Buffer{})
		require.NoError(t, err)
		assert.FileExists(t, files[0])
		assert.Contains(t, out.String(), "Ctrl-C again")
		worst := r.worst(New)
		require.NotNil(t, worst)
		assert.False(t, worst.over())
		assert.Nil(t, r.Result.RTO, "an outage that is not over has no duration")
		assert.Contains(t, r.Result.Summary, "did not serve again before the watch ended")
	})
}

func TestDoesNotReplaceAReport(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "report")
	require.NoError(t, os.WriteFile(path+".json", []byte("mine"), 0o600))
	_, err := reserve(path)
	assert.ErrorContains(t, err, "is there already")
	assert.NoFileExists(t, path+".html")
	content, err := os.ReadFile(path + ".json")
	require.NoError(t, err)
	assert.Equal(t, "mine", string(content))
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		args  []string
		words string
	}{
		{"nothing", nil, "give one URL"},
		{"both", []string{"-demo", "https://contoso.crm4.dynamics.com"}, "-demo takes no URL"},
		{"http", []string{"http://contoso.crm4.dynamics.com"}, "https://"},
		{"a password", []string{"https://clerk:hunter2@contoso.crm4.dynamics.com"}, "must not hold a user or password"},
		{"a path for an entity set", []string{"-heartbeat", "a/b", "https://contoso.crm4.dynamics.com"}, "names such as contoso_heartbeats"},
		{"heartbeats without a token", []string{"-heartbeat", "a", "-sign-in", "none", "https://contoso.crm4.dynamics.com"}, "somebody signed in"},
		{"heartbeats of Finance and Operations", []string{"-heartbeat", "a", "https://contoso.operations.dynamics.com"}, "needs Dataverse"},
		{"another sign-in", []string{"-sign-in", "magic", "https://contoso.crm4.dynamics.com"}, "default, token or none"},
		{"no environment", []string{"-sign-in", "none", "-environment", "a/b", "https://contoso.crm4.dynamics.com"}, "give the ID of an environment"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out, errors bytes.Buffer
			assert.Equal(t, 2, Main(t.Context(), tt.args, &out, &errors))
			assert.Contains(t, strings.Join(strings.Fields(errors.String()), " "), tt.words)
			assert.NotContains(t, errors.String(), "hunter2")
		})
	}
}

func TestHelpFits(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	assert.Equal(t, 0, Main(t.Context(), []string{"-h"}, &out, &bytes.Buffer{}))
	for line := range strings.Lines(out.String()) {
		assert.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), 80, "fits 80 columns: %q", line)
	}
}
