package failover

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/statuspage"
)

// The texts of a report are cut at their limits, and not before; its times are exact to a
// millisecond.
func TestTheTextsOfTheReportAreBounded(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		most int
		show func(text string) string
	}{
		"error":              {400, func(s string) string { return boundedText(errors.New(s)) }},
		"code":               {64, func(s string) string { return faultView(&Fault{Code: s}, statusNow).Code }},
		"request id":         {128, func(s string) string { return faultView(&Fault{RequestID: s}, statusNow).RequestID }},
		"reason of a fleet":  {400, func(s string) string { return fleetView(&FleetStatus{Record: Record{Reason: s}}).Reason }},
		"reason of a freeze": {400, func(s string) string { return fleetView(&FleetStatus{Record: Record{Frozen: s}}).Frozen }},
		"reason of a loss":   {400, func(s string) string { return lossView(&LossReport{Reason: s}).Reason }},
		"reason of an event": {400, func(s string) string { return eventView(&Event{Reason: s}).Reason }},
		"host":               {64, func(s string) string { return processOf(s, []string{"x"}, 7, nil).Host }},
		"program":            {64, func(s string) string { return processOf("x", []string{s}, 7, nil).Program }},
	} {
		text := strings.Repeat("x ", row.most)
		assert.Equal(t, text[:row.most-1], row.show(text[:row.most-1]), name)
		exact := text[:row.most-1] + "x"
		assert.Equal(t, exact, row.show(exact), name)
		assert.Equal(t, exact, row.show(exact+"y"), name)
	}
	for d, want := range map[time.Duration]float64{0: 0, time.Millisecond: 0.001, 1500 * time.Microsecond: 0.002, 1499 * time.Microsecond: 0.001, time.Minute + time.Millisecond: 60.001} {
		assert.InDelta(t, want, inSeconds(d), 1e-9, d)
	}
}

// What a report says about the configuration and the recorded events.
func TestTheReportKnowsTheConfiguration(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		cfg               Config
		manual, failsFast bool
	}{
		"default": {}, "manual": {Config{ManualFailback: true}, true, false}, "no probes": {Config{ProbeInterval: never}, true, false},
		"fails fast": {Config{FailFast: true}, false, true}, "waits": {Config{WaitForUp: true}, false, false}, "waits rather": {Config{FailFast: true, WaitForUp: true}, false, false},
	} {
		s := quietStatus()
		r := newReport(&s, &row.cfg, statusStarted, statusNow)
		assert.Equal(t, row.manual, r.ManualFailback, name)
		assert.Equal(t, row.failsFast, r.FailsFast, name)
		assert.Equal(t, 4, r.Latch, "switches within an hour")
	}
	for events, full := range map[int]bool{0: false, 63: false, 64: true} {
		s := quietStatus()
		s.Events = make([]Event, events)
		r := newReport(&s, new(Config), statusStarted, statusNow)
		assert.Equal(t, full, r.RecordFull, events)
		assert.Len(t, r.Events, events)
	}
	witnesses := FleetStatus{Failed: Alternate, Witnesses: []string{"a"}, WitnessCount: 1}
	assert.Equal(t, "alternate", fleetView(&witnesses).Failed)
	witnesses.Witnesses = nil
	assert.Empty(t, fleetView(&witnesses).Failed, "nobody has seen an endpoint fail")
}

// A report names the program that the process runs, and the versions that it was built from.
func TestTheProcessOfAReport(t *testing.T) {
	t.Parallel()
	library := &debug.Module{Path: module, Version: "v1.2.3"}
	other := &debug.Module{Path: module + "/failoverotel", Version: "v0.1.0"}
	named := statuspage.Process{Instance: "web-1/7", Host: "web-1", PID: 7, Program: "importer", Go: runtime.Version()}
	for name, row := range map[string]struct {
		build            *debug.BuildInfo
		version, library string
	}{
		"unknown":    {nil, "", ""},
		"a program":  {&debug.BuildInfo{Main: debug.Module{Path: "contoso.example/importer", Version: "v0.9.0"}, Deps: []*debug.Module{other, library}}, "v0.9.0", "v1.2.3"},
		"our own":    {&debug.BuildInfo{Main: *library, Deps: []*debug.Module{other}}, "v1.2.3", "v1.2.3"},
		"without us": {&debug.BuildInfo{Main: *other}, "v0.1.0", ""},
	} {
		want := named
		want.Version, want.Library = row.version, row.library
		assert.Equal(t, want, processOf("web-1", []string{"/opt/contoso/importer", "-x"}, 7, row.build), name)
	}
}

// A page or report that cannot be made is answered with a server error.
func TestWhatCannotBeShown(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	respondPage(w, http.StatusOK, []byte("half a page"), "", errors.New("contoso"))
	assert.Equal(t, 500, w.Code)
	assert.Equal(t, "status: contoso\n", w.Body.String())
	w = httptest.NewRecorder()
	respondJSON(w, http.StatusOK, func() {})
	assert.Equal(t, 500, w.Code)
	assert.Equal(t, "status: json: unsupported type: func()\n", w.Body.String())
	w = httptest.NewRecorder()
	respondPage(w, http.StatusConflict, []byte("page"), "policy", nil)
	assert.Equal(t, 409, w.Code)
	assert.Equal(t, headerWith("Content-Security-Policy", "policy", "Referrer-Policy", "same-origin", "Content-Type", "text/html; charset=utf-8",
		"Content-Length", "4", "Cache-Control", "no-store", "X-Content-Type-Options", "nosniff"), w.Header())
}

// Links to the actions are relative to the path that the browser has requested.
func TestThePathThatWasAskedFor(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ asked, seen, want string }{
		{"/ops/failover?x=1", "/", "/ops/failover"}, {"/ops/a%20b/", "/x", "/ops/a%20b/"}, {"", "/ops/a b", "/ops/a%20b"}, {"https://contoso.example/ops", "/", "/ops"}, {"ops", "/x", "/x"},
	} {
		assert.Equal(t, row.want, requestPath(&http.Request{RequestURI: row.asked, URL: &url.URL{Path: row.seen}}), row.asked)
	}
}

// The bodies of actions, and what a form shows again.
func TestTheBodiesOfActions(t *testing.T) {
	t.Parallel()
	h := statusTransport(t).ControlHandler()
	post := func(action, contentType, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, "/"+action, strings.NewReader(body))
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for _, row := range []struct {
		contentType, body string
		status            int
	}{
		{"", "", 400}, {"text/plain", "", 400}, {"", "x", 415}, {"text/plain", "x", 415}, {"application/json", "x", 400}, {"application/json", "{}", 400},
		{"application/json; charset=utf-8", `{"reason":"drill"}`, 303}, {"application/x-www-form-urlencoded", "reason=drill", 303}, {"application/x-www-form-urlencoded", "reason=%", 400},
		{"application/x-www-form-urlencoded", "reason=drill&x=" + strings.Repeat("x", 16<<10-len("reason=drill&x=")), 303},
		{"application/x-www-form-urlencoded", "reason=drill&x=" + strings.Repeat("x", 16<<10-len("reason=drill&x=")+1), 413},
	} {
		assert.Equal(t, row.status, post("unpin", row.contentType, row.body).Code, "%s %.20s", row.contentType, row.body)
	}
	r := httptest.NewRequest(http.MethodPost, "/unpin", iotest.ErrReader(errors.New("connection reset")))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	assert.Equal(t, 400, w.Code)
	assert.Contains(t, w.Body.String(), "the body cannot be read")

	const form = "application/x-www-form-urlencoded"
	for chosen, shown := range map[string]string{"primary": "primary", "alternate": "alternate", "elsewhere": "alternate", "": "alternate"} {
		page := post("switch", form, url.Values{"to": {chosen}}.Encode()).Body.String()
		assert.Contains(t, page, `value="`+shown+`" checked=""`, "chosen %q, or else the one most likely meant", chosen)
	}

	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodDelete, "/unpin", nil))
	assert.Equal(t, 405, w.Code)
	assert.Equal(t, "GET, HEAD, POST", w.Header().Get("Allow"))
}

// The reports are verified from the newest on, until one cannot be.
func TestEveryReportIsVerified(t *testing.T) {
	t.Parallel()
	side := &readSide{answer: holding(accountA, accountB)}
	reports := []*LossReport{{URL: "https://contoso.api.crm.dynamics.com", AtRisk: []Write{create(accountA, 204)}}, {URL: "https://contoso.api.crm.dynamics.com", AtRisk: []Write{create(accountB, 204)}}}
	require.NoError(t, verifyAll(t.Context(), &http.Client{Transport: side}, reports))
	assert.Equal(t, []string{"GET https://contoso.api.crm.dynamics.com" + accountB, "GET https://contoso.api.crm.dynamics.com" + accountA}, side.reads)
	reports[1].URL = ""
	require.Error(t, verifyAll(t.Context(), &http.Client{Transport: side}, reports))
	assert.Len(t, side.reads, 2)
}
