package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/url"
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

// The figures of the demonstration agree with the simulator's own account, in virtual time.
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

// The same with TLS on the loopback interface, four times as fast. What is not measured there is
// how long the machine takes: the bounds hold on a busy one.
func TestMeasuresOverRealSockets(t *testing.T) {
	t.Parallel()
	rehearse(t, 250*time.Millisecond, failovertest.Start)
}

// rehearse runs the demonstration and checks what holds at any speed.
func rehearse(t *testing.T, interval time.Duration, start func(*failovertest.Config) *failovertest.Org) *Record {
	t.Helper()
	var out bytes.Buffer
	var org *failovertest.Org
	var files []string
	r := new(Record)
	for try := 0; r.worst(New) == nil; try++ { // again, if the machine has slept through the outages
		require.Less(t, try, 10)
		out.Reset()
		o := options{interval: interval, always: interval / 2, out: filepath.Join(t.TempDir(), "report"), version: "v0.1.0"}
		o.timeout = time.Minute
		var err error
		r, files, err = simulate(t.Context(), o, func(cfg *failovertest.Config) *failovertest.Org {
			org = start(cfg)
			return org
		}, &out, &bytes.Buffer{})
		require.NoError(t, err)
		t.Log("\n" + out.String())
		require.Len(t, r.Account, 2)
	}
	r.print(&out)
	for line := range strings.Lines(out.String()) {
		assert.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), 80, "fits 80 columns: %q", line)
	}

	worst := r.worst(New)
	require.True(t, worst.over())
	move := r.Account[0]
	if r.Account[1].Stopped.Before(worst.Recovered) {
		move = r.Account[1]
	}
	truth := move.Served.Sub(move.Stopped).Seconds()
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

// The watch has no end of its own: Ctrl-C ends it and writes the report.
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

// The old place is silent, and the name flickers between it and the new one. Requests that
// hang are assigned to the right time.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(&failovertest.Config{OneAddress: true, Lag: 30 * time.Second})
		defer org.Close()
		o := options{interval: time.Second, always: time.Second, duration: 3 * time.Minute, set: "accounts", column: "name",
			out: filepath.Join(t.TempDir(), "report")}
		o.target = simulated(org, 10*time.Second)
		var out bytes.Buffer
		r, _, err := run(t.Context(), o, func(ctx context.Context, l *live) []Move {
			pause(ctx, 60300*time.Millisecond)
			report := org.EmergencyResponse(&failovertest.Recovery{Downtime: 45 * time.Second, Old: failovertest.BlackHole(), Flicker: 5 * time.Second})
			return []Move{{What: "emergency response", Stopped: report.Stopped, Served: report.Served, LastSync: report.LastSync, Lost: len(report.Lost)}}
		}, &out, &bytes.Buffer{})
		require.NoError(t, err)
		assert.Contains(t, out.String(), "… waiting for 5.0 s", "a person is not shown an ok that is no longer true")
		t.Log("\n" + out.String())
		truth := r.Account[0].Served.Sub(r.Account[0].Stopped).Seconds()
		worst := r.worst(New)
		require.NotNil(t, r.Result.RTO)
		assert.InDelta(t, truth, *r.Result.RTO, 1+5, "to the second, but for the flicker")
		assert.LessOrEqual(t, worst.Least, truth)
		assert.GreaterOrEqual(t, worst.Most, truth)
		assert.Equal(t, []string{"no answer in 10s"}, worst.Causes)
		require.NotNil(t, r.Result.RPO)
		assert.InDelta(t, 30, *r.Result.RPO, 1)
		assert.Equal(t, r.Account[0].Lost, r.Result.Lost)
		assert.Greater(t, r.worst(Kept).Duration, truth)
	})
}

// The primary region is lost, and after a while the alternate address serves. Heartbeats go
// where the organization serves.
func TestBothAddresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(&failovertest.Config{Lag: 5 * time.Second})
		defer org.Close()
		o := options{interval: time.Second, always: time.Second, duration: time.Minute, set: "accounts", column: "name",
			out: filepath.Join(t.TempDir(), "report")}
		o.target = simulated(org, 3*time.Second)
		o.second = &url.URL{Scheme: "https", Host: org.Alternate().Host()}
		var out bytes.Buffer
		r, files, err := run(t.Context(), o, func(ctx context.Context, l *live) []Move {
			pause(ctx, 20300*time.Millisecond)
			org.Primary().Fail(failovertest.Refuse())
			pause(ctx, 12*time.Second)
			org.FailOver()
			return nil
		}, &out, &bytes.Buffer{})
		require.NoError(t, err)
		t.Log("\n" + out.String())
		require.NotNil(t, r.Result.RTO)
		assert.InDelta(t, 12, *r.Result.RTO, 1)
		assert.Contains(t, out.String(), "The alternate address serves")
		assert.False(t, r.worst(New).over(), "the primary address is out for good")
		assert.True(t, r.worst(Writes).over(), "heartbeats go to the address that serves")
		require.NotNil(t, r.Result.RPO)
		assert.Zero(t, *r.Result.RPO, "replication had 12 s to catch up")
		assert.Zero(t, r.Heartbeat.Left)
		page, err := os.ReadFile(files[0])
		require.NoError(t, err)
		assert.Contains(t, string(page), "alternate address https://contoso--s")
	})
}

// While the sign-in service is down but the organization is not, there is no outage.
func TestTokenTroubleIsNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(&failovertest.Config{OneAddress: true})
		defer org.Close()
		o := options{interval: time.Second, always: time.Second, duration: time.Minute, out: filepath.Join(t.TempDir(), "report")}
		o.target = simulated(org, 10*time.Second)
		token, began := o.source, time.Now()
		o.source = func(ctx context.Context, audience string) (string, error) {
			if since := time.Since(began); since > 20*time.Second && since < 40*time.Second {
				return "", errors.New("the sign-in service answered 503")
			}
			return token(ctx, audience)
		}
		var out bytes.Buffer
		r, _, err := run(t.Context(), o, nil, &out, &bytes.Buffer{})
		require.NoError(t, err)
		assert.Empty(t, r.Outages)
		assert.Zero(t, *r.Result.RTO)
		assert.Contains(t, out.String(), "? no token: the sign-in")
		assert.False(t, r.Simulated)
	})
}

// Without a token, the command says so before the watch begins, and leaves no files.
func TestNoTokenNoDrill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		o := options{interval: time.Second, out: filepath.Join(t.TempDir(), "report")}
		o.target = simulated(org, time.Second)
		o.source = func(context.Context, string) (string, error) { return "", errors.New("run \"az login\"") }
		_, _, err := run(t.Context(), o, nil, &bytes.Buffer{}, &bytes.Buffer{})
		require.ErrorContains(t, err, "az login")
		assert.NoFileExists(t, o.out+".html")
		assert.NoFileExists(t, o.out+".json")
	})
}

// Heartbeats that cannot be written are reported before the watch; an organization that is
// down is watched.
func TestHeartbeatsThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		fails failovertest.Failure
		words string // in the error, "" for none
	}{
		{"no such set", failovertest.Status(404, nil, `{"error":{"code":"0x80060888","message":"Resource not found for the segment"}}`), "check that -heartbeat names an entity set"},
		{"not allowed", failovertest.Status(403, nil, `{"error":{"code":"0x80040220","message":"no privilege"}}`), "the caller may create records"},
		{"down", failovertest.Refuse(), ""},
		{"throttled", failovertest.Throttle(time.Second), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				org := failovertest.StartInMemory(&failovertest.Config{OneAddress: true})
				defer org.Close()
				org.Primary().Fail(tt.fails)
				o := options{interval: time.Second, always: time.Minute, duration: 5 * time.Second, set: "contoso_beats", column: "contoso_name",
					out: filepath.Join(t.TempDir(), "report")}
				o.target = simulated(org, time.Second)
				time.AfterFunc(3*time.Second, org.Primary().Heal)
				r, _, err := run(t.Context(), o, nil, &bytes.Buffer{}, &bytes.Buffer{})
				if tt.words != "" {
					assert.ErrorContains(t, err, tt.words)
					assert.NoFileExists(t, o.out+".html")
					return
				}
				require.NoError(t, err)
				assert.Zero(t, r.Heartbeat.Left)
			})
		})
	}
}

func TestDoesNotReplaceAReport(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "report")
	require.NoError(t, os.WriteFile(path+".json", []byte("mine"), 0o600))
	_, err := reserve(path)
	assert.ErrorContains(t, err, "already exists")
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
		{"a password", []string{"https://clerk:hunter2@contoso.crm4.dynamics.com"}, "must not contain a user name or password"},
		{"a path for an entity set", []string{"-heartbeat", "a/b", "https://contoso.crm4.dynamics.com"}, "names such as contoso_heartbeats"},
		{"heartbeats without a token", []string{"-heartbeat", "a", "-sign-in", "none", "https://contoso.crm4.dynamics.com"}, "needs a sign-in"},
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
