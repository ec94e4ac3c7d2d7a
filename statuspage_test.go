package failover

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/internal/statuspage"
	"github.com/d365failover/failover/internal/statuspage/pagecheck"
)

var updateStatus = flag.Bool("update-status", false, "write testdata/status.json anew")

// The time of the status tests is 14 March 2026, 05:23:40 UTC, a little more than two hours
// after a failover.
var (
	statusNow     = time.Date(2026, 3, 14, 5, 23, 40, 0, time.UTC)
	statusStarted = statusNow.Add(-9 * 24 * time.Hour)
	statusRefused = &Fault{Class: ClassUnavailable, Delivery: NotSent, Err: errors.New("dial tcp 203.0.113.7:443: connect: connection refused")}
	statusFence   = &Fault{Class: ClassUnavailable, Definitive: true, Delivery: Refused, Endpoint: Alternate, Status: 503, Code: "0x8004B065", RequestID: "7b1c", RetryAfter: 30 * time.Second}
)

// clockTime returns a time on the day of statusNow.
func clockTime(h, m, s int) time.Time { return time.Date(2026, 3, 14, h, m, s, 0, time.UTC) }

// quietStatus is a Transport that has met no outage.
func quietStatus() Status {
	return Status{
		Since:     statusStarted,
		Primary:   EndpointStatus{URL: "https://contoso.api.crm.dynamics.com", LastSuccess: clockTime(5, 23, 39)},
		Alternate: EndpointStatus{URL: "https://contoso--s.api.crm.dynamics.com"},
	}
}

// failedOverStatus is a Transport that switched to the alternate at 03:12:05.
func failedOverStatus() Status {
	s := quietStatus()
	s.Active, s.Since, s.Generation = Alternate, clockTime(3, 12, 5), 1
	s.Primary = EndpointStatus{
		URL: s.Primary.URL, State: StateOpen, LastSuccess: clockTime(3, 11, 2), LastFault: statusRefused,
		Faults:    map[Class]uint64{ClassApplication: 41, ClassUnavailable: 3},
		LastProbe: clockTime(5, 23, 12), ProbeError: statusRefused,
	}
	s.Alternate.LastSuccess, s.Alternate.LastProbe = clockTime(5, 23, 39), clockTime(3, 12, 5)
	s.Events = []Event{
		{Kind: EventTripped, Time: clockTime(3, 12, 4), Reason: statusRefused.Error(), Fault: statusRefused},
		{Kind: EventSwitched, Time: clockTime(3, 12, 5), Generation: 1, To: Alternate, Reason: statusRefused.Error(), Fault: statusRefused},
	}
	return s
}

// downStatus is a Transport that has lost the alternate as well.
func downStatus() Status {
	s := failedOverStatus()
	s.Down = true
	s.Alternate.State, s.Alternate.LastFault, s.Alternate.ProbeError = StateOpen, statusFence, statusFence
	s.Events = append(s.Events,
		Event{Kind: EventTripped, Time: clockTime(5, 4, 5), Generation: 1, From: Alternate, To: Alternate, Reason: statusFence.Error(), Fault: statusFence},
		Event{Kind: EventDown, Time: clockTime(5, 4, 6), Generation: 1, From: Alternate, To: Alternate, Reason: "neither endpoint passes its probe", Fault: statusFence})
	return s
}

func statusLossExample() *LossReport {
	r := &LossReport{
		From: Primary, LastSuccess: clockTime(3, 11, 2), RPO: 5 * time.Second, Truncated: true,
		AtRisk: []Write{
			{Time: clockTime(3, 10, 58), Method: "POST", Path: "/api/data/v9.2/accounts", EntityID: "00000000-0000-0000-0000-00000000000a", RequestID: "d1b5", Label: "invoice run", Status: 204},
			{Time: clockTime(3, 11, 1), Method: "PATCH", Path: "/api/data/v9.2/contacts(00000000-0000-0000-0000-00000000000b)", Status: 204},
		},
		Unknown:  []Write{{Time: clockTime(3, 11, 58), Method: "POST", Path: "/api/data/v9.2/accounts"}},
		verified: new(atomic.Pointer[Verification]),
	}
	r.verified.Store(&Verification{Missing: r.AtRisk[:1], Present: r.AtRisk[1:]})
	return r
}

func fleetExample() *FleetStatus {
	return &FleetStatus{
		Member: "web-1/17/ABCDEF", Loaded: clockTime(5, 20, 0), Err: errors.New("connection <refused>"), Witnesses: []string{"web-1/17/ABCDEF", "web-2/4711/GHIJKL"},
		Record: Record{Active: Alternate, Generation: 7, Since: clockTime(3, 12, 5), Reason: "the primary does not serve", By: "web-2/4711/GHIJKL"},
	}
}

// drawStatus returns the report of a status and its page.
func drawStatus(t *testing.T, s *Status) (*statuspage.Report, string) {
	t.Helper()
	r := newReport(s, new(Config), statusStarted, statusNow)
	page, policy, err := statuspage.NewPage().Draw(r)
	require.NoError(t, err)
	pagecheck.Markup(t, string(page), policy)
	return r, string(page)
}

// The page draws its conclusions from what a Status says, in the same words.
func TestStatusSituations(t *testing.T) {
	t.Parallel()
	lost := failedOverStatus()
	lost.Losses = []*LossReport{statusLossExample()}
	fleet := failedOverStatus()
	fleet.Fleet = fleetExample()
	pinned := failedOverStatus()
	pinned.Pinned = true
	latched := failedOverStatus()
	latched.Latched = true
	tripped := quietStatus()
	tripped.Primary.State, tripped.Primary.LastFault = StateOpen, statusFence
	closed := downStatus()
	closed.Closed = true
	unauthorized := failedOverStatus()
	unauthorized.Alternate.Recent.Faults = map[Class]int{ClassAuth: 600}
	throttled := quietStatus()
	throttled.Primary.Recent.Faults = map[Class]int{ClassThrottled: 600}
	failing := quietStatus()
	failing.Primary.Recent = Recent{Succeeded: 1, Faults: map[Class]int{ClassTransient: 30, ClassUnavailable: 70}}
	refused := quietStatus()
	refused.Primary.Recent.RefusedSwitches = 17
	doubt := quietStatus()
	doubt.Events = []Event{{Kind: EventOutcomeUnknown, Time: clockTime(5, 0, 0), Reason: "POST /a"}}
	single := quietStatus()
	single.Alternate = EndpointStatus{}
	for _, row := range []struct {
		name, why string
		status    Status
		want      []string // name and cause of each finding
	}{
		{"quiet", "nothing is wrong", quietStatus(), []string{"healthy: none"}},
		{"failed over", "the primary does not answer", failedOverStatus(), []string{"failed over: either"}},
		{"down", "the alternate answers the fence", downStatus(), []string{"down: Microsoft"}},
		{"loss", "one write is missing, one was not verified", lost, []string{"writes missing: Microsoft", "failed over: either", "writes at risk: Microsoft"}},
		{"fleet", "its store is gone", fleet, []string{"failed over: either", "fleet: us"}},
		{"pinned", "by hand", pinned, []string{"pinned: us"}},
		{"latched", "four switches", latched, []string{"latched: either"}},
		{"tripped", "by a fence", tripped, []string{"tripped: Microsoft"}},
		{"closed", "outranks down", closed, []string{"closed: us"}},
		{"unauthorized", "class auth", unauthorized, []string{"unauthorized: us", "failed over: either"}},
		{"throttled", "class throttled", throttled, []string{"throttled: us", "healthy: none"}},
		{"failing", "the counted classes together", failing, []string{"failing: either", "healthy: none"}},
		{"refused", "switches", refused, []string{"switches refused: either", "healthy: none"}},
		{"doubt", "by the event", doubt, []string{"writes in doubt: none", "healthy: none"}},
		{"one address", "has no alternate, and is well", single, []string{"healthy: none"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r, _ := drawStatus(t, &row.status)
			var got []string
			for _, f := range r.Findings {
				got = append(got, f.Name+": "+f.Cause)
			}
			assert.Equal(t, row.want, got, row.why)
			assert.Equal(t, !row.status.Down && !row.status.Closed, r.Ready)
			assert.Equal(t, row.name == "one address", r.Alternate == nil)
		})
	}
}

// The page links to the program's own runbook.
func TestTheRunbookIsConfigured(t *testing.T) {
	t.Parallel()
	s := downStatus()
	r := newReport(&s, &Config{Runbook: "https://wiki.contoso.example/failover"}, statusStarted, statusNow)
	assert.Equal(t, "https://wiki.contoso.example/failover#down", r.Findings[0].Runbook)
	r = newReport(&s, new(Config), statusStarted, statusNow)
	assert.Equal(t, "https://github.com/d365failover/failover/blob/main/docs/operations.md#down", r.Findings[0].Runbook)
	for _, wrong := range []string{"javascript:alert(1)", "/docs", "wiki.contoso.example", "https://", "https://user:s3cret@%"} {
		_, err := New("https://contoso.crm4.dynamics.com", &Config{Runbook: wrong})
		require.ErrorContains(t, err, "Runbook")
		assert.NotContains(t, err.Error(), "s3cret")
	}
}

// Secrets and markup are planted wherever a hostile or careless service, caller or Config
// function could put them.
func TestStatusPageEscapes(t *testing.T) {
	t.Parallel()
	const evil = `"><script>alert('x')</script>`
	fault := &Fault{
		Class: ClassUnavailable, Status: 503, Code: evil, RequestID: evil, Message: "record-data-of-the-service " + evil,
		Err: errors.New(evil + " https://user:hunter2@contoso.example/path?sig=s3cret Bearer t0ken"),
	}
	s := failedOverStatus()
	s.Primary.LastFault, s.Primary.ProbeError = fault, fmt.Errorf("probe: %w", fault.Err)
	s.Alternate.URL += evil
	s.Events = append(s.Events,
		Event{Kind: EventSwitchRefused, Time: clockTime(4, 0, 0), Reason: "not confirmed: " + fault.Err.Error(), Fault: fault, Err: fault.Err},
		Event{Kind: EventOutcomeUnknown, Time: clockTime(4, 0, 1), Err: fault.Err},
		Event{Kind: EventKind(200), Time: clockTime(4, 0, 2), Reason: strings.Repeat("long ", 1000), Fault: fault})
	write := Write{Method: evil, Path: evil, EntityID: evil, RequestID: evil, Label: evil}
	s.Losses = []*LossReport{{Reason: evil, AtRisk: []Write{write}, Unknown: []Write{write}}}
	r, page := drawStatus(t, &s)
	assert.NotContains(t, page, "<script")
	assert.GreaterOrEqual(t, strings.Count(page, "&lt;script&gt;"), 12, "the canaries were not all shown")

	data, err := json.Marshal(r)
	require.NoError(t, err)
	assert.NotContains(t, string(data), "<")
	for _, form := range []string{page, string(data)} {
		for _, secret := range []string{"record-data-of-the-service", "hunter2", "s3cret", "t0ken", "user:"} {
			assert.NotContains(t, form, secret)
		}
	}
	for _, e := range r.Events {
		assert.LessOrEqual(t, len(e.Reason), maxFaultText)
		assert.LessOrEqual(t, len(e.Error), maxFaultText)
	}
}

// The JSON has its golden form: its names are promises.
func TestStatusJSON(t *testing.T) {
	t.Parallel()
	s := downStatus()
	s.Events[3].Err = errors.New("no answer")
	s.Fleet, s.Losses = fleetExample(), []*LossReport{new(LossReport), statusLossExample()}
	s.Alternate.Recent = Recent{Succeeded: 7, Faults: map[Class]int{ClassUnavailable: 3}, InDoubt: 1, RefusedSwitches: 2}
	r, _ := drawStatus(t, &s)
	r.Process = statuspage.Process{Instance: s.Fleet.Member, Host: "web-1", PID: 17, Program: "orders", Version: "v1.2.3", Library: "v0.1.0", Go: "go1.26"}
	got, err := json.MarshalIndent(r, "", "  ")
	require.NoError(t, err)
	got = append(got, '\n')
	const golden = "testdata/status.json"
	if *updateStatus {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, got, 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got), "a field was renamed or is gone; -update-status if it only came in addition")
}

// Every field is in the doc comment of StatusHandler.
func TestStatusJSONIsDocumented(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("statuspage.go")
	require.NoError(t, err)
	_, comment, ok := strings.Cut(string(source), "// StatusHandler returns")
	require.True(t, ok)
	comment, _, ok = strings.Cut(comment, "func (t *Transport) StatusHandler")
	require.True(t, ok)
	for _, v := range []any{
		statuspage.Report{}, statuspage.Finding{}, statuspage.Process{}, statuspage.Endpoint{}, statuspage.Recent{}, statuspage.Probe{}, statuspage.Fault{},
		statuspage.Event{}, statuspage.Loss{}, statuspage.Write{}, statuspage.Fleet{},
	} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(v)) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			require.NotEmpty(t, name, "%T.%s has no name in the JSON", v, field.Name)
			if name != "-" {
				assert.Regexp(t, `\b`+name+`\b`, comment, "%T.%s", v, field.Name)
			}
		}
	}
}

func TestStatusJSONHasListsAndEveryClass(t *testing.T) {
	t.Parallel()
	s := quietStatus()
	s.Losses = []*LossReport{new(LossReport)}
	r, _ := drawStatus(t, &s)
	data, err := json.Marshal(r)
	require.NoError(t, err)
	assert.NotContains(t, string(data), "null")
	assert.NotContains(t, string(data), "0001-01-01", "the zero time is left out")
	for c := range ClassLocal + 1 {
		assert.Contains(t, r.Primary.Faults, c.String())
	}
}

func TestStatusProbeResults(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, why string
		err       error
		result    string
	}{
		{"nil", "the endpoint serves", nil, "passed"},
		{"counted fault", "the endpoint does not serve", statusFence, "failed"},
		{"other error", "what is no Fault counts", errors.New("no"), "failed"},
		{"fault that does not count", "something answered, which proves neither", &Fault{Class: ClassAuth, Status: 403}, "inconclusive"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			v := endpointView(Primary, &EndpointStatus{LastProbe: statusNow, ProbeError: row.err}, Primary)
			require.NotNil(t, v.Probe)
			assert.Equal(t, row.result, v.Probe.Result, row.why)
			assert.Equal(t, row.err == nil, v.Probe.Error == "")
		})
	}
	assert.Nil(t, endpointView(Primary, &EndpointStatus{}, Primary).Probe, "never probed")
}

// statusTransport returns a Transport that never sends anything.
func statusTransport(t *testing.T) *Transport {
	tr, err := New("https://contoso.api.crm.dynamics.com", &Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { tr.Close() })
	return tr
}

func TestStatusHandlerForms(t *testing.T) {
	t.Parallel()
	handler := statusTransport(t).StatusHandler()
	const page, data = "text/html; charset=utf-8", "application/json"
	for _, row := range []struct {
		name, why, target string
		accept            []string
		contentType       string
	}{
		{"browser", "as browsers ask", "/", []string{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}, page},
		{"nothing", "a person may have typed it", "/", nil, page},
		{"curl", "no preference is none for JSON", "/", []string{"*/*"}, page},
		{"JSON", "plainly", "/", []string{"application/json"}, data},
		{"JSON first of all", "as fetch libraries ask", "/", []string{"application/json, text/plain, */*"}, data},
		{"two lines", "a header may come in lines", "/", []string{"text/html;q=0.5", "Application/JSON ; q=0.9"}, data},
		{"both alike", "neither is preferred", "/", []string{"application/json, text/html"}, page},
		{"family", "application/* includes JSON", "/", []string{"application/*, text/html;q=0.2"}, data},
		{"JSON not wanted", "a weight of 0 excludes", "/", []string{"application/json;q=0, */*"}, page},
		{"JSON excluded", "the page is what is left", "/", []string{"application/json;q=0"}, page},
		{"nonsense", "hostile input", "/", []string{";;,q=,application/json;q=x,/,*"}, page},
		{"query", "for people with a browser", "/?format=json", []string{"text/html"}, data},
		{"query for the page", "the query outranks the header", "/?format=html", []string{"application/json"}, page},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			req := httptest.NewRequest(http.MethodGet, row.target, nil)
			req.Header["Accept"] = row.accept
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, req)
			assert.Equal(t, http.StatusOK, w.Code)
			assert.Equal(t, row.contentType, w.Header().Get("Content-Type"), row.why)
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
			assert.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
			if row.contentType == data {
				var r statuspage.Report
				require.NoError(t, json.Unmarshal(w.Body.Bytes(), &r))
				assert.Equal(t, "healthy", r.Situation)
				return
			}
			pagecheck.Markup(t, w.Body.String(), w.Header().Get("Content-Security-Policy"))
			assert.NotContains(t, w.Body.String(), "<form")
		})
	}
}

func TestStatusHandlersRefuseOtherMethods(t *testing.T) {
	t.Parallel()
	tr := statusTransport(t)
	for name, handler := range map[string]http.Handler{"status": tr.StatusHandler(), "ready": tr.ReadyHandler()} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, "BREW"} {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
			assert.Equal(t, http.StatusMethodNotAllowed, w.Code, "%s %s", name, method)
			assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"), "%s %s", name, method)
			assert.Equal(t, "only GET and HEAD are answered here\n", w.Body.String())
		}
	}
}

// Over a server, which drops the body.
func TestStatusHandlersAnswerHead(t *testing.T) {
	t.Parallel()
	tr := statusTransport(t)
	for name, handler := range map[string]http.Handler{"status": tr.StatusHandler(), "ready": tr.ReadyHandler()} {
		server := httptest.NewServer(handler)
		defer server.Close()
		resp, err := server.Client().Head(server.URL)
		require.NoError(t, err, name)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.NoError(t, err, name)
		assert.Equal(t, http.StatusOK, resp.StatusCode, name)
		assert.Empty(t, body, name)
		assert.Positive(t, resp.ContentLength, name)
	}
}

// The handlers tell the story of an organization that fails over, goes down, and is given up.
func TestReadinessThroughAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		tr, err := New(org.URL(), &Config{Base: org.Transport(), Authorize: org.Authorize, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer tr.Close()
		ask := func(h http.Handler, target string) (int, string) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
			return w.Code, w.Body.String()
		}
		check := func(situation string, status int, text string) {
			t.Helper()
			code, body := ask(tr.ReadyHandler(), "/readyz")
			assert.Equal(t, status, code)
			assert.Regexp(t, text, body)
			assert.Equal(t, 1, strings.Count(body, "\n"), "one line")
			code, body = ask(tr.StatusHandler(), "/?format=json")
			assert.Equal(t, http.StatusOK, code)
			var r statuspage.Report
			require.NoError(t, json.Unmarshal([]byte(body), &r))
			assert.Equal(t, situation, r.Situation)
			assert.Equal(t, status == http.StatusOK, r.Ready)
		}
		get := func() error {
			req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, org.URL()+"/api/data/v9.2/accounts", nil)
			require.NoError(t, err)
			resp, err := (&http.Client{Transport: tr}).Do(req)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			return err
		}
		check("healthy", http.StatusOK, "^ok\n$")
		require.NoError(t, tr.Ready())

		require.NoError(t, get())
		org.Disaster(failovertest.Refuse())
		require.NoError(t, get())
		check("failed over", http.StatusOK, "^ok\n$")

		org.Alternate().Fail(failovertest.Refuse())
		require.ErrorIs(t, get(), ErrUnavailable)
		check("down", http.StatusServiceUnavailable, "^failover: no endpoint serves the organization; primary: unavailable.*; alternate: unavailable")
		require.ErrorIs(t, tr.Ready(), ErrUnavailable)
		var f *Fault
		require.ErrorAs(t, tr.Ready(), &f)
		assert.Equal(t, Primary, f.Endpoint)

		org.Alternate().Heal()
		time.Sleep(30 * time.Second)
		check("failed over", http.StatusOK, "^ok\n$")

		tr.Pin(Primary)
		check("pinned", http.StatusOK, "^ok\n$")

		require.NoError(t, tr.Close())
		require.ErrorIs(t, tr.Ready(), ErrClosed)
		check("closed", http.StatusServiceUnavailable, "^failover: transport closed\n$")
	})
}

func TestEveryEventKindHasItsGlyph(t *testing.T) {
	t.Parallel()
	kinds := 0
	for kind := EventTripped; kind.String() != "unknown"; kind++ {
		assert.True(t, statuspage.HasGlyph(kind.String()) || kind == EventProbed, kind) // probes are not recorded
		kinds++
	}
	assert.GreaterOrEqual(t, kinds, 14)
}

// The page names the process as the fleet does, and says what it runs.
func TestTheReportNamesTheProcess(t *testing.T) {
	t.Parallel()
	s := quietStatus()
	r, page := drawStatus(t, &s)
	assert.Equal(t, os.Getpid(), r.Process.PID)
	assert.Equal(t, runtime.Version(), r.Process.Go)
	assert.Equal(t, fmt.Sprintf("%s/%d", r.Process.Host, r.Process.PID), r.Process.Instance)
	assert.NotEmpty(t, r.Process.Host)
	assert.Equal(t, "contoso.api.crm.dynamics.com", r.Organization)
	assert.Contains(t, page, html.EscapeString(r.Process.Program)+" on "+html.EscapeString(r.Process.Host))
	s.Fleet = fleetExample()
	r, _ = drawStatus(t, &s)
	assert.Equal(t, s.Fleet.Member, r.Process.Instance)
}
