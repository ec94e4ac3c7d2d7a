package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/sharedtest"
)

// running is a process with a Transport over a simulated organization, and its
// handler.
type running struct {
	org       *failovertest.Org
	transport *failover.Transport
	server    *httptest.Server
}

func newRunning(t *testing.T) *running {
	t.Helper()
	r := &running{org: failovertest.Start(nil)}
	t.Cleanup(r.org.Close)
	var err error
	r.transport, err = failover.New(r.org.URL(), &failover.Config{
		Shared: new(sharedtest.Memory),
		Base:   r.org.Transport(), Authorize: r.org.Authorize, ProbeTimeout: time.Minute,
		Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	t.Cleanup(func() { r.transport.Close() })
	mux := http.NewServeMux()
	mux.Handle("/ops/failover/", r.transport.ControlHandler())
	r.server = httptest.NewServer(mux)
	t.Cleanup(r.server.Close)
	return r
}

type subcommand = func(context.Context, []string, io.Writer, io.Writer) int

func (r *running) run(t *testing.T, command subcommand, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errors bytes.Buffer
	status = command(t.Context(), append(args, "-at", r.server.URL+"/ops/failover"), &out, &errors)
	for line := range strings.Lines(out.String() + errors.String()) {
		if !strings.Contains(strings.Join(args, " "), "-json") && !strings.Contains(line, "https://") { // which is to be copied
			assert.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), 80, "fits 80 columns: %q", line)
		}
	}
	return status, out.String(), errors.String()
}

func TestCommandsARunningProcess(t *testing.T) {
	t.Parallel()
	r := newRunning(t)
	client := &http.Client{Transport: r.transport}
	resp, err := client.Post(r.org.URL()+"/api/data/v9.2/accounts", "application/json", strings.NewReader(`{"name":"Contoso"}`))
	require.NoError(t, err)
	resp.Body.Close()

	exit, out, _ := r.run(t, Status)
	t.Log("\n" + out)
	assert.Equal(t, 0, exit)
	assert.Contains(t, out, "Active     primary")

	exit, out, errors := r.run(t, Switch, "alternate", "-reason", "drill")
	assert.Equal(t, 1, exit, out)
	assert.Contains(t, errors, "refused:", "the alternate is fenced")

	r.org.FailOver()
	exit, out, errors = r.run(t, Switch, "-reason", "drill", "alternate")
	t.Log("\n" + out)
	assert.Equal(t, 0, exit, errors)
	assert.Contains(t, out, "The traffic now goes to the alternate.")
	assert.Contains(t, out, "Writes at risk since the primary was left: 1 not verified")

	assert.Contains(t, out, "drill", "the reason is among the events")
	exit, out, errors = r.run(t, Verify)
	assert.Equal(t, 0, exit, errors)
	assert.Contains(t, out, "1 present")

	exit, out, errors = r.run(t, Pin, "primary", "-reason", "INC-4711")
	assert.Equal(t, 0, exit, errors)
	assert.Contains(t, out, "stays at the primary")
	assert.Contains(t, out, ", pinned")

	exit, out, errors = r.run(t, Unpin, "-reason", "over")
	assert.Equal(t, 0, exit, errors)
	assert.NotContains(t, out, ", pinned")

	exit, out, _ = r.run(t, Status, "-json")
	assert.Equal(t, 0, exit)
	var s status
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	assert.Equal(t, "primary", s.Active)
}

func TestFreezesAFleet(t *testing.T) {
	t.Parallel()
	r := newRunning(t)
	exit, out, errors := r.run(t, Freeze, "-reason", "migration")
	assert.Equal(t, 0, exit, errors)
	assert.Contains(t, out, "Automatic switches are disabled in the whole fleet.")
	exit, out, _ = r.run(t, Status)
	assert.Equal(t, 0, exit)
	assert.Contains(t, out, "Situation  frozen")
	assert.Contains(t, out, "Fleet      at the primary, frozen: migration")
	exit, out, errors = r.run(t, Unfreeze)
	assert.Equal(t, 0, exit, errors)
	assert.NotContains(t, out, "frozen")
}

// A StatusHandler shows the status, and refuses all commands.
func TestStatusOfAStatusHandler(t *testing.T) {
	t.Parallel()
	r := newRunning(t)
	mux := http.NewServeMux()
	mux.Handle("/debug/failover", r.transport.StatusHandler())
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	var out, errors bytes.Buffer
	assert.Equal(t, 0, Status(t.Context(), []string{"-at", server.URL + "/debug/failover"}, &out, &errors), errors.String())
	assert.Contains(t, out.String(), "Active     primary")
	assert.Equal(t, 2, Unpin(t.Context(), []string{"-reason", "x", "-at", server.URL + "/debug/failover"}, &out, &errors))
	assert.Contains(t, strings.Join(strings.Fields(errors.String()), " "), "a StatusHandler")
}

// Error texts say what to do.
func TestErrorsNameWhatToDo(t *testing.T) {
	t.Parallel()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/page":
			_, _ = io.WriteString(w, "<html>hello</html>")
		case "/login", "/login/switch":
			w.WriteHeader(http.StatusUnauthorized)
		case "/away":
			http.Redirect(w, r, "https://contoso.example/", http.StatusFound)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(page.Close)
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, tt := range []struct {
		name    string
		command subcommand
		args    []string
		words   string
	}{
		{"nobody there", Status, []string{"-at", gone.URL}, "is the process running, and is -at correct?"},
		{"some other page", Status, []string{"-at", page.URL + "/page"}, "check -at"},
		{"no such page", Status, []string{"-at", page.URL + "/none"}, "a StatusHandler only shows the status"},
		{"a login", Status, []string{"-at", page.URL + "/login"}, "FAILOVER_AUTHORIZATION"},
		{"a login for an action", Switch, []string{"alternate", "-reason", "x", "-at", page.URL + "/login"}, "FAILOVER_AUTHORIZATION"},
		{"a redirect", Status, []string{"-at", page.URL + "/away"}, "answered 302"},
		{"no URL", Status, []string{"-at", "localhost:80"}, "give the URL of the handler"},
		{"a password", Status, []string{"-at", "https://clerk:hunter2@localhost/"}, "do not put a password on the command line"},
		{"no reason", Pin, []string{"primary"}, "give a -reason"},
		{"no reason for a freeze", Freeze, nil, "give a -reason"},
		{"a reason for an unfreeze", Unfreeze, []string{"-reason", "x"}, "flag provided but not defined"},
		{"no endpoint", Switch, []string{"-reason", "x"}, "give the endpoint"},
		{"another endpoint", Switch, []string{"secondary", "-reason", "x"}, "give the endpoint"},
		{"too much", Unpin, []string{"primary", "-reason", "x"}, "nothing to give but flags"},
		{"no such flag", Status, []string{"-nope"}, "flag provided but not defined"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out, errors bytes.Buffer
			assert.Equal(t, 2, tt.command(t.Context(), tt.args, &out, &errors))
			assert.Contains(t, strings.Join(strings.Fields(errors.String()), " "), tt.words)
			assert.NotContains(t, errors.String(), "hunter2")
			assert.Empty(t, out.String())
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]subcommand{"status": Status, "switch": Switch, "pin": Pin, "unpin": Unpin, "freeze": Freeze, "unfreeze": Unfreeze, "verify": Verify} {
		var out, errors bytes.Buffer
		assert.Equal(t, 0, command(t.Context(), []string{"-h"}, &out, &errors))
		assert.Contains(t, out.String(), "Usage: failover "+name)
		assert.Empty(t, errors.String())
		for line := range strings.Lines(out.String()) {
			assert.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), 80, "fits 80 columns: %q", line)
		}
	}
}
