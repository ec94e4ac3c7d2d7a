package dr

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/cmd/failover/internal/signin"
)

const environment = "11111111-2222-3333-4444-555555555555"

// api simulates the two APIs in their documented form.
type api struct {
	server *httptest.Server

	mu       sync.Mutex
	answers  map[string]answer // by host and path
	requests []*http.Request
}

type answer struct {
	status int
	body   string
}

func newAPI(t *testing.T) *api {
	t.Helper()
	base := "api.powerplatform.com/environmentmanagement/environments/" + environment
	// The clock of the simulated APIs: the drill began an hour ago.
	clock := strings.NewReplacer("2026-11-26T09", time.Now().UTC().Add(-time.Hour).Format("2006-01-02T15"))
	a := &api{answers: map[string]answer{
		base: {200, `{"id":"` + environment + `","displayName":"Contoso Production","url":"https://contoso.crm4.dynamics.com",
			"domainName":"contoso","azureRegion":"westeurope","geo":"EMEA","state":"Enabled","adminMode":false,
			"finOpsMetadata":{"url":"https://contoso.operations.dynamics.com"}}`},
		base + "/businessContinuityStateFullSnapshot": {200, `{"lastSyncTime":"2026-11-26T09:00:00Z"}`},
		base + "/operations": {200, `{"collection":[
			{"operationId":"op-1","name":"Enable","status":"Succeeded","startTime":"2026-10-01T10:00:00Z","endTime":"2026-10-01T10:05:00Z"},
			{"operationId":"op-2","name":"DisasterRecoveryDrill","status":"InProgress","startTime":"2026-11-26T09:05:00Z"}],"continuationToken":null}`},
		"api.powerplatform.com/environmentmanagement/operations/op-2": {200, `{"operationId":"op-2","name":"DisasterRecoveryDrill",
			"status":"InProgress","startTime":"2026-11-26T09:05:00Z","stageStatuses":[
			{"name":"Prepare","status":"Succeeded","startTime":"2026-11-26T09:05:00Z","endTime":"2026-11-26T09:05:42Z"},
			{"name":"Move","status":"InProgress","startTime":"2026-11-26T09:05:42Z"}]}`},
		"api.bap.microsoft.com/providers/Microsoft.BusinessAppPlatform/scopes/admin/environments/" + environment: {200,
			`{"properties":{"azureRegion":"westeurope","states":{"disasterRecovery":{"id":"Enabled"}}}}`},
	}}
	a.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.requests = append(a.requests, r)
		answer, ok := a.answers[r.Host+r.URL.Path]
		if !ok {
			answer.status = http.StatusNotFound
		}
		if want := "Bearer token for https://" + map[string]string{
			"api.powerplatform.com": "api.powerplatform.com", "api.bap.microsoft.com": "service.powerapps.com",
		}[r.Host]; r.Header.Get("Authorization") != want || r.URL.Query().Get("api-version") == "" {
			answer = answer401
		}
		w.WriteHeader(answer.status)
		_, _ = clock.WriteString(w, answer.body)
	}))
	t.Cleanup(a.server.Close)
	return a
}

var answer401 = answer{401, `{"error":{"code":"Unauthorized"}}`}

// RoundTrip sends every request to the simulation.
func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	there, err := url.Parse(a.server.URL)
	if err != nil {
		return nil, err
	}
	r.Host, r.URL.Host = r.URL.Host, there.Host
	return a.server.Client().Transport.RoundTrip(r)
}

func (a *api) set(suffix string, to answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for path := range a.answers {
		if strings.HasSuffix(path, suffix) {
			a.answers[path] = to
		}
	}
}

func (a *api) run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errors bytes.Buffer
	status = command(t.Context(), append([]string{"-environment", environment}, args...), &out, &errors, a,
		func(string, string) (signin.Source, error) {
			return func(_ context.Context, audience string) (string, error) { return "token for " + audience, nil }, nil
		})
	for line := range strings.Lines(out.String()) {
		assert.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), 80, "fits 80 columns: %q", line)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.requests {
		assert.Equal(t, http.MethodGet, r.Method, "it only reads")
	}
	assert.NotContains(t, out.String()+errors.String(), "token for")
	return status, out.String(), errors.String()
}

func TestShowsWhatTheInterfacesSay(t *testing.T) {
	t.Parallel()
	status, out, _ := newAPI(t).run(t)
	t.Log("\n" + out)
	assert.Equal(t, 0, status)
	for _, words := range []string{"Contoso Production", "https://contoso.crm4.dynamics.com", "https://contoso.operations.dynamics.com",
		"westeurope, EMEA", "enabled", ":00:00 UTC, 1 h", "DisasterRecoveryDrill", "  Prepare", "42.0 s", "  Move", "far ", // "so far", on one line or two
		"Start a drill", "does not document"} {
		assert.Contains(t, out, words)
	}
	assert.Less(t, strings.Index(out, "DisasterRecoveryDrill"), strings.Index(out, "Enable "), "newest first")
}

func TestSaysWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		break_ func(*api)
		status int
		words  []string
	}{
		{"no permission for anything", func(a *api) { a.set("", answer{403, `{"error":{"code":"Forbidden","message":"secret"}}`}) }, 2,
			[]string{"unknown: the API answered 403 (Forbidden)", "EnvironmentManagement.Environments.Read", "admin center"}},
		{"no such environment", func(a *api) { a.set("", answer{404, "<html>"}) }, 2, []string{"no environment with this ID"}},
		{"off", func(a *api) {
			a.set("admin/environments/"+environment, answer{200, `{"properties":{"states":{"disasterRecovery":{"id":"Disabled"}}}}`})
		}, 1, []string{"disabled"}},
		{"the older interface does not say", func(a *api) { a.set("admin/environments/"+environment, answer{200, `{"properties":{}}`}) }, 2,
			[]string{"unknown: the answer does not say"}},
		{"a word that is not known", func(a *api) {
			a.set("admin/environments/"+environment, answer{200, `{"properties":{"states":{"disasterRecovery":{"id":"Enabling"}}}}`})
		}, 2, []string{"enabling"}},
		{"no time of the last synchronization", func(a *api) { a.set("Snapshot", answer{200, `{}`}) }, 0, []string{"unknown: the answer has no time"}},
		{"another form", func(a *api) { a.set("/operations", answer{200, `[]`}) }, 0, []string{"not in the documented form"}},
		{"no operations", func(a *api) { a.set("/operations", answer{200, `{"collection":[]}`}) }, 0, []string{"Operations         none"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			tt.break_(a)
			status, out, _ := a.run(t)
			t.Log("\n" + out)
			assert.Equal(t, tt.status, status)
			for _, words := range tt.words {
				assert.Contains(t, strings.Join(strings.Fields(out), " "), strings.Join(strings.Fields(words), " "))
			}
			assert.NotContains(t, out, "secret")
		})
	}
}

func TestJSONHoldsEverything(t *testing.T) {
	t.Parallel()
	status, out, _ := newAPI(t).run(t, "-json")
	assert.Equal(t, 0, status)
	var report Report
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	assert.Equal(t, "Enabled", report.DisasterRecovery)
	require.Len(t, report.Operations, 2)
	assert.Len(t, report.Operations[0].Stages, 2)
	assert.True(t, report.Operations[0].Running())
	assert.WithinDuration(t, time.Now().Add(-90*time.Minute), *report.LastSync, 31*time.Minute)
}

func TestRefusesWhatIsNoID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "../..", "a/b", "a?b", "-x"} {
		var out, errors bytes.Buffer
		assert.Equal(t, 2, command(t.Context(), []string{"-environment=" + id}, &out, &errors, nil, nil), "%q", id)
		assert.Contains(t, errors.String(), "give the ID of an environment")
	}
}

func TestEndsWithItsContext(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errors bytes.Buffer
	status := command(ctx, []string{"-environment", environment, "-sign-in", "none"}, &out, &errors, a, signin.New)
	assert.Equal(t, 2, status)
	assert.Contains(t, errors.String(), "interrupted")
}
