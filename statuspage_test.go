package failover

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"html"
	"html/template"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

var updateStatus = flag.Bool("update-status", false, "write testdata/status.json anew")

// The status tests look at 14 March 2026, 05:23:40 UTC, a little more than two
// hours after a failover.
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

// failedOverStatus is a Transport that moved to the alternate at 03:12:05.
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

// downStatus is a Transport that lost the alternate, too.
func downStatus() Status {
	s := failedOverStatus()
	s.Down = true
	s.Alternate.State, s.Alternate.LastFault, s.Alternate.ProbeError = StateOpen, statusFence, statusFence
	s.Events = append(s.Events,
		Event{Kind: EventTripped, Time: clockTime(5, 4, 5), Generation: 1, From: Alternate, To: Alternate, Reason: statusFence.Error(), Fault: statusFence},
		Event{Kind: EventDown, Time: clockTime(5, 4, 6), Generation: 1, From: Alternate, To: Alternate, Reason: "neither endpoint passes its probe", Fault: statusFence})
	return s
}

func trippedStatus() Status {
	s := quietStatus()
	s.Primary.State, s.Primary.LastFault = StateOpen, statusRefused
	s.Events = []Event{{Kind: EventTripped, Time: clockTime(5, 23, 30), Reason: "three faults"}}
	return s
}

func pinnedStatus(events ...Event) Status {
	s := failedOverStatus()
	s.Pinned = true
	s.Events = append(s.Events, events...)
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

type statusRow struct {
	name, why string
	status    Status
	loss      *LossReport
	cfg       Config
	closed    bool

	situation, level string
	summary          string // the whole of it
	advice           string // occurs in it
	page             []string
}

var statusRows = []statusRow{
	{
		name: "healthy", why: "the usual case says so, and since when",
		status: quietStatus(), situation: "healthy", level: "ok",
		summary: "Healthy: traffic has gone to the primary since 5 Mar 05:23 UTC (9 d 0 h).", advice: "Nothing to do.",
		page: []string{"None yet.", "No events.", "last 24 hours", "0 switches"},
	},
	{
		name: "just started", why: "nothing has happened yet, which is no alarm",
		status: Status{Since: statusNow}, situation: "healthy", level: "ok",
		summary: "Healthy: traffic has gone to the primary since 05:23 UTC (0 s).", advice: "Nothing",
	},
	{
		name: "failed over", why: "the case the library is for",
		status: failedOverStatus(), situation: "failed over", level: "warn",
		summary: "Failed over: traffic has gone to the alternate since 03:12 UTC (2 h 11 min).", advice: "returns by itself",
		page: []string{"(28 s ago)", "41 application", "3 unavailable", "switched to the alternate", ">failing<", "1 switch."},
	},
	{
		name: "failed over with writes at risk", why: "somebody has to look at the writes",
		status: failedOverStatus(), loss: statusLossExample(), situation: "failed over", level: "warn",
		summary: "Failed over: traffic has gone to the alternate since 03:12 UTC (2 h 11 min).", advice: "Check the writes at risk.",
		page: []string{"Acknowledged, perhaps not copied (2)", "Sent, outcome unknown (1)", ">missing<", ">present<", ">not verified<", "invoice run", "may be incomplete"},
	},
	{
		name: "failed over without writes at risk", why: "an empty report is good news",
		status: failedOverStatus(), loss: &LossReport{RPO: 5 * time.Second}, situation: "failed over", level: "warn",
		summary: "Failed over: traffic has gone to the alternate since 03:12 UTC (2 h 11 min).", advice: "returns by itself",
		page: []string{"no write was near enough", "never answered a request in good health"},
	},
	{
		name: "failed over, fail-back by hand", why: "with ManualFailback nothing comes back by itself",
		status: failedOverStatus(), cfg: Config{ManualFailback: true}, situation: "failed over", level: "warn",
		summary: "Failed over: traffic has gone to the alternate since 03:12 UTC (2 h 11 min).", advice: "up to you",
	},
	{
		name: "failed over, no probes", why: "without fail-back probes nothing comes back by itself",
		status: failedOverStatus(), cfg: Config{ProbeInterval: never}, situation: "failed over", level: "warn",
		summary: "Failed over: traffic has gone to the alternate since 03:12 UTC (2 h 11 min).", advice: "up to you",
	},
	{
		name: "primary recovering", why: "half-open with a good probe is not failing",
		status: func() Status {
			s := failedOverStatus()
			s.Primary.State, s.Primary.ProbeError = StateHalfOpen, nil
			return s
		}(),
		situation: "failed over", level: "warn",
		summary: "Failed over: traffic has gone to the alternate since 03:12 UTC (2 h 11 min).", advice: "returns by itself",
		page: []string{">recovering<", ">passed<"},
	},
	{
		name: "tripped", why: "the decision is being made",
		status: trippedStatus(), situation: "tripped", level: "bad",
		summary: "Tripped: the primary is failing, and traffic still goes there.", advice: "moves by itself if the alternate proves to serve",
	},
	{
		name: "tripped, switch refused", why: "the reason for staying is what one needs to know",
		status: func() Status {
			s := trippedStatus()
			s.Events = append(s.Events, Event{Kind: EventSwitchRefused, Time: clockTime(5, 23, 31), To: Alternate, Reason: "not confirmed: freeze"})
			return s
		}(),
		situation: "tripped", level: "bad",
		summary: "Tripped: the primary is failing, and traffic still goes there.", advice: "The move to the alternate was refused: not confirmed: freeze.",
	},
	{
		name: "tripped after an old refusal", why: "a refusal before the trip is about another outage",
		status: func() Status {
			s := trippedStatus()
			s.Events = append([]Event{{Kind: EventSwitchRefused, Time: clockTime(2, 0, 0), To: Alternate, Reason: "old"}}, s.Events...)
			return s
		}(),
		situation: "tripped", level: "bad",
		summary: "Tripped: the primary is failing, and traffic still goes there.", advice: "moves by itself",
	},
	{
		name: "alternate tripped", why: "worse than failed over",
		status: func() Status {
			s := failedOverStatus()
			s.Alternate.State = StateOpen
			return s
		}(),
		situation: "tripped", level: "bad",
		summary: "Tripped: the alternate is failing, and traffic still goes there.", advice: "if the primary proves to serve",
	},
	{
		name: "down", why: "outranks that the traffic is at the alternate",
		status: downStatus(), situation: "down", level: "bad",
		summary: "Down: neither endpoint serves the organization since 05:04 UTC (19 min).", advice: "Requests fail at once",
		page: []string{"DatacenterNotAvailable", `class="bar down"`},
	},
	{
		name: "down, passing through", why: "with PassThrough requests do not fail at once",
		status: downStatus(), cfg: Config{PassThrough: true}, situation: "down", level: "bad",
		summary: "Down: neither endpoint serves the organization since 05:04 UTC (19 min).", advice: "are sent to the alternate all the same",
	},
	{
		name: "pinned", why: "since the pin, not since the switch",
		status:    pinnedStatus(Event{Kind: EventPinned, Time: clockTime(5, 3, 0), From: Alternate, To: Alternate, Reason: "by hand"}),
		situation: "pinned", level: "warn",
		summary: "Pinned: traffic stays at the alternate since 05:03 UTC (20 min).", advice: "until somebody calls Unpin",
		page: []string{`class="bar pinned"`},
	},
	{
		name: "pinned long ago", why: "the event may have left the record",
		status: pinnedStatus(), situation: "pinned", level: "warn",
		summary: "Pinned: traffic stays at the alternate.", advice: "until somebody calls Unpin",
	},
	{
		name: "pinned to an endpoint that fails", why: "nothing will move the traffic but a hand",
		status: func() Status {
			s := pinnedStatus()
			s.Alternate.ProbeError = statusFence
			return s
		}(),
		situation: "pinned", level: "bad",
		summary: "Pinned to the alternate, which does not pass its probe.", advice: "or pin the primary",
	},
	{
		name: "latched", why: "automatic moves are off",
		status: func() Status {
			s := failedOverStatus()
			s.Latched = true
			s.Events = append(s.Events, Event{Kind: EventLatched, Time: clockTime(3, 12, 5), From: Alternate, To: Alternate, Reason: "4 switches within an hour"})
			return s
		}(),
		situation: "latched", level: "warn",
		summary: "Latched: traffic stays at the alternate after 4 switches within an hour.", advice: "move to the primary with Switch",
	},
	{
		name: "latched at an endpoint that fails", why: "requests fail until a hand moves them",
		status: func() Status {
			s := failedOverStatus()
			s.Latched, s.Alternate.State = true, StateOpen
			return s
		}(),
		situation: "latched", level: "bad",
		summary: "Latched at the alternate, which is failing: 4 switches within an hour.", advice: "If it is the primary, move there with Switch.",
	},
	{
		name: "alone with an outage", why: "the other processes of the fleet are well",
		status: func() Status {
			s := downStatus()
			s.Fleet = fleetExample()
			s.Fleet.Err, s.Fleet.Witnesses = nil, []string{"web-1/17/ABCDEF"}
			return s
		}(),
		situation: "down", level: "bad",
		summary: "Down: neither endpoint serves the organization since 05:04 UTC (19 min).", advice: "No other process of the fleet has seen the primary fail: look at the network of this one first",
		page: []string{">in step<", "web-1/17/ABCDEF"},
	},
	{
		name: "the fleet's store is gone", why: "others will not follow",
		status: func() Status {
			s := failedOverStatus()
			s.Fleet = fleetExample()
			return s
		}(),
		situation: "failed over", level: "warn",
		summary: "Failed over: traffic has gone to the alternate since 03:12 UTC (2 h 11 min).", advice: "this process is on its own",
		page: []string{">store does not answer<", "connection &lt;refused&gt;", "generation 7, by web-2/4711/GHIJKL: the primary does not serve"},
	},
	{
		name: "apart from the fleet", why: "the fleet has gone where this process cannot",
		status: func() Status {
			s := failedOverStatus()
			s.Fleet = fleetExample()
			s.Fleet.Err, s.Fleet.Apart, s.Fleet.Record = nil, true, Record{}
			return s
		}(),
		situation: "failed over", level: "warn",
		summary: "Failed over: traffic has gone to the alternate since 03:12 UTC (2 h 11 min).", advice: "The fleet is at the primary.",
		page: []string{">apart<", "no switch on record"},
	},
	{
		name: "closed", why: "outranks everything: nothing is sent",
		status: downStatus(), closed: true, situation: "closed", level: "off",
		summary: "Closed: this Transport sends nothing any more.", advice: "restart",
	},
}

func fleetExample() *FleetStatus {
	return &FleetStatus{
		Member: "web-1/17/ABCDEF", Loaded: clockTime(5, 20, 0), Err: errors.New("connection <refused>"), Witnesses: []string{"web-1/17/ABCDEF", "web-2/4711/GHIJKL"},
		Record: Record{Active: Alternate, Generation: 7, Since: clockTime(3, 12, 5), Reason: "the primary does not serve", By: "web-2/4711/GHIJKL"},
	}
}

// render returns the report of a row and its page.
func (row *statusRow) render(t *testing.T) (*statusReport, string) {
	t.Helper()
	row.status.Loss = row.loss
	row.status.Closed = row.closed
	r := newStatusReport(&row.status, &row.cfg, statusStarted, statusNow)
	return r, renderPage(t, statusHTML{r, newTimeline(&row.status, statusStarted, statusNow)})
}

func renderPage(t *testing.T, content statusHTML) string {
	t.Helper()
	var page bytes.Buffer
	require.NoError(t, template.Must(template.New("status").Parse(statusPage)).Execute(&page, content))
	return page.String()
}

func TestStatusSituations(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for _, row := range statusRows {
		require.NotEmpty(t, row.why, row.name)
		require.False(t, names[row.name], "%s twice", row.name)
		names[row.name] = true
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r, page := row.render(t)
			assert.Equal(t, row.situation, r.Situation, row.why)
			assert.Equal(t, row.level, r.Level)
			assert.Equal(t, row.summary, r.Summary)
			assert.Contains(t, r.Advice, row.advice)
			assert.Equal(t, !row.status.Down && !row.closed, r.Ready)

			assert.Contains(t, page, "<h1>"+html.EscapeString(row.summary)+"</h1>")
			assert.Contains(t, page, "<title>"+row.situation+": ")
			assert.Contains(t, page, `banner `+row.level+`"`)
			for _, text := range row.page {
				assert.Contains(t, page, text)
			}
			for _, e := range r.Events {
				assert.Contains(t, page, "<b>"+e.Kind+"</b>")
				assert.Contains(t, page, `datetime="`+e.Time.Format(time.RFC3339)+`"`)
			}
			checkMarkup(t, page)
		})
	}
}

var (
	voidElement  = regexp.MustCompile(`<meta[^>]*>`)
	styleElement = regexp.MustCompile(`(?s)<style>(.*?)</style>`)
)

// checkMarkup holds a page to what it promises: elements that nest, no ids
// twice, nothing that runs or is loaded, and no style outside the one element
// that the policy names.
func checkMarkup(t *testing.T, page string) {
	t.Helper()
	strict := voidElement.ReplaceAllStringFunc(page, func(tag string) string { return strings.TrimSuffix(tag, ">") + "/>" })
	ids := make(map[string]bool)
	in := xml.NewDecoder(strings.NewReader(strict))
	for {
		token, err := in.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err, "the page is not well-formed")
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		require.NotContains(t, []string{"script", "link", "img", "iframe", "object", "base", "form"}, start.Name.Local)
		for _, a := range start.Attr {
			require.NotEqual(t, "style", a.Name.Local)
			require.NotEqual(t, "src", a.Name.Local)
			require.False(t, strings.HasPrefix(a.Name.Local, "on"), "handler %s", a.Name.Local)
			if a.Name.Local == "href" {
				require.Equal(t, "?format=json", a.Value)
			}
			if a.Name.Local == "id" {
				require.False(t, ids[a.Value], "id %s twice", a.Value)
				ids[a.Value] = true
			}
		}
	}
	styles := styleElement.FindAllStringSubmatch(page, -1)
	require.Len(t, styles, 1)
	sum := sha256.Sum256([]byte(styles[0][1]))
	require.Equal(t, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'", styleSource(statusPage),
		"the style as it is rendered does not match the policy")
	require.NotContains(t, styles[0][1], "@import")
	require.NotRegexp(t, `url\([^#]`, styles[0][1])
}

// TestStatusPageEscapes plants what a hostile or careless service, caller and
// Config function could.
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
	row := statusRow{status: s, loss: &LossReport{AtRisk: []Write{write}, Unknown: []Write{write}}}
	r, page := row.render(t)
	checkMarkup(t, page)
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

// TestStatusJSON holds the JSON to its golden form: names in it are promises.
func TestStatusJSON(t *testing.T) {
	t.Parallel()
	row := statusRow{status: downStatus(), loss: statusLossExample()}
	row.status.Events[3].Err = errors.New("no answer")
	row.status.Fleet = fleetExample()
	r, _ := row.render(t)
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

// TestStatusJSONIsDocumented looks for every field in the comment of
// StatusHandler.
func TestStatusJSONIsDocumented(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("statuspage.go")
	require.NoError(t, err)
	_, comment, ok := strings.Cut(string(source), "// StatusHandler returns")
	require.True(t, ok)
	comment, _, ok = strings.Cut(comment, "func (t *Transport) StatusHandler")
	require.True(t, ok)
	for _, v := range []any{statusReport{}, statusEndpoint{}, statusProbe{}, statusFault{}, statusEvent{}, statusLoss{}, statusWrite{}, statusFleet{}} {
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
	row := statusRow{status: quietStatus(), loss: new(LossReport)}
	r, _ := row.render(t)
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

func TestStatusPageBoundsWrites(t *testing.T) {
	t.Parallel()
	writes := make([]Write, maxWriteRows+23)
	for i := range writes {
		writes[i] = Write{Time: clockTime(3, 11, 0), Method: "POST", Path: "/w" + strconv.Itoa(i) + "/"}
	}
	row := statusRow{status: failedOverStatus(), loss: &LossReport{LastSuccess: clockTime(3, 11, 0), AtRisk: writes}}
	r, page := row.render(t)
	assert.Len(t, r.Loss.AtRisk, len(writes), "the JSON has them all")
	assert.Contains(t, page, "/w99/")
	assert.NotContains(t, page, "/w100/")
	assert.Contains(t, page, "And 23 more")
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
				var r statusReport
				require.NoError(t, json.Unmarshal(w.Body.Bytes(), &r))
				assert.Equal(t, "healthy", r.Situation)
				return
			}
			checkMarkup(t, w.Body.String())
			policy := w.Header().Get("Content-Security-Policy")
			assert.Equal(t, "default-src 'none'; style-src "+styleSource(statusPage)+"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", policy)
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
		}
	}
}

// TestStatusHandlersAnswerHead goes through a server, which drops the body.
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

// TestReadinessThroughAnOutage tells the story of an organization that fails
// over, goes down and is given up, by what the handlers say.
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
			var r statusReport
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
		check("down", http.StatusServiceUnavailable, "^failover: neither endpoint serves the organization; primary: unavailable.*; alternate: unavailable")
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

func TestTimelinePeriods(t *testing.T) {
	t.Parallel()
	begin := clockTime(3, 0, 0)
	at := func(m int, kind EventKind, to ...Endpoint) Event {
		e := Event{Kind: kind, Time: clockTime(3, m, 0)}
		if len(to) > 0 {
			e.To, e.From = to[0], to[0]
		}
		if kind == EventSwitched {
			e.From = e.To.other()
		}
		return e
	}
	for _, row := range []struct {
		name, why string
		status    Status
		want      string
	}{
		{"no events", "nothing has changed", Status{}, "primary from 03:00:00"},
		{"no events, away", "the switch has left the record", Status{Active: Alternate, Pinned: true}, "alternate, pinned from 03:00:00"},
		{"events that move nothing", "they start no period", Status{Events: []Event{at(1, EventTripped), at(2, EventSwitchRefused), at(3, EventLatched), at(4, EventOutcomeUnknown)}}, "primary from 03:00:00"},
		{"there and back", "a period for each side", Status{Events: []Event{at(1, EventSwitched, Alternate), at(2, EventSwitched, Primary)}},
			"primary from 03:00:00 to 03:01:00; alternate from 03:01:00 to 03:02:00; primary from 03:02:00"},
		{"down and up", "the same side, down for a while", Status{Events: []Event{at(1, EventDown), at(2, EventUp)}},
			"primary from 03:00:00 to 03:01:00; primary, down from 03:01:00 to 03:02:00; primary from 03:02:00"},
		{"down until a switch", "a switch ends Down", Status{Active: Alternate, Events: []Event{at(1, EventDown), at(2, EventSwitched, Alternate)}},
			"primary from 03:00:00 to 03:01:00; primary, down from 03:01:00 to 03:02:00; alternate from 03:02:00"},
		{"down until a pin", "a pin ends Down", Status{Pinned: true, Events: []Event{at(1, EventDown), at(2, EventPinned)}},
			"primary from 03:00:00 to 03:01:00; primary, down from 03:01:00 to 03:02:00; primary, pinned from 03:02:00"},
		{"begins pinned and down", "the first event says what was before", Status{Active: Alternate, Events: []Event{at(1, EventUnpinned, Alternate), at(2, EventUp, Alternate)}},
			"alternate, down, pinned from 03:00:00 to 03:01:00; alternate, down from 03:01:00 to 03:02:00; alternate from 03:02:00"},
		{"begins at the alternate", "the first switch says where it began", Status{Events: []Event{at(1, EventSwitched, Primary)}},
			"alternate from 03:00:00 to 03:01:00; primary from 03:01:00"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range periods(&row.status, begin, statusNow) {
				got = append(got, p.words(statusNow))
			}
			assert.Equal(t, row.want, strings.Join(got, "; "), row.why)
		})
	}
}

// TestTimelineStaysInItsFrame draws random histories, some of them with far more
// events than one would like to see.
func TestTimelineStaysInItsFrame(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	number := func(s string) float64 {
		n, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
		require.NoError(t, err)
		return n
	}
	for range 500 {
		s := Status{Active: Endpoint(random.IntN(2))}
		at := statusNow.Add(-time.Duration(random.Int64N(int64(72 * time.Hour))))
		started := at.Add(-time.Duration(random.Int64N(int64(72 * time.Hour))))
		for range random.IntN(maxRecent + 1) {
			at = at.Add(time.Duration(random.Int64N(int64(statusNow.Sub(at))/8 + 1)))
			from, to := Endpoint(random.IntN(2)), Endpoint(random.IntN(2))
			s.Events = append(s.Events, Event{Kind: EventKind(random.IntN(int(EventTokensSuspect) + 1)), Time: at, From: from, To: to})
		}
		tl := newTimeline(&s, started, statusNow)
		require.Len(t, tl.Lanes, 2)
		require.NotEmpty(t, tl.Bars)
		for i, b := range tl.Bars {
			x, width := number(b.X), number(b.Width)
			require.GreaterOrEqual(t, x, 0.0)
			require.Greater(t, width, 0.0)
			require.LessOrEqual(t, x+width, 100.3)
			require.NotEmpty(t, b.Text)
			if i > 0 {
				require.GreaterOrEqual(t, x, number(tl.Bars[i-1].X), "bars are in order")
			}
		}
		end := tl.Bars[len(tl.Bars)-1]
		require.InDelta(t, 100, number(end.X)+number(end.Width), 0.3, "the last bar reaches now")
		for _, m := range tl.Marks {
			require.GreaterOrEqual(t, number(m.X), 0.0)
			require.LessOrEqual(t, number(m.X), 100.0)
			require.Positive(t, m.Y)
			require.Less(t, m.Y, tl.Lanes[0].Text)
		}
		labels := 0
		for _, k := range tl.Ticks {
			if k.Label != "" {
				labels++
			}
		}
		require.GreaterOrEqual(t, labels, 2, "an axis needs numbers")
		require.LessOrEqual(t, labels, 6, "more do not fit a phone")
		require.LessOrEqual(t, tl.Height, 240)
		require.LessOrEqual(t, len(tl.Legend), 12)
	}
}

// TestTimelineBeginsWhereTheRecordBegins: with a full record nothing is known of
// the time before its first event.
func TestTimelineBeginsWhereTheRecordBegins(t *testing.T) {
	t.Parallel()
	s := Status{}
	for i := range maxRecent {
		s.Events = append(s.Events, Event{Kind: EventTripped, Time: clockTime(4, 0, i)})
	}
	tl := newTimeline(&s, statusStarted, statusNow)
	assert.Contains(t, tl.Text, "primary from 04:00:00.")
	s.Events = s.Events[1:]
	tl = newTimeline(&s, statusStarted, statusNow)
	assert.Contains(t, tl.Text, "primary from 5 Mar 05:23:40.")
}

func TestEveryEventKindHasItsMark(t *testing.T) {
	t.Parallel()
	names, paths := make(map[string]bool), make(map[string]bool)
	for kind := EventTripped; kind.String() != "unknown"; kind++ {
		for _, to := range []Endpoint{Primary, Alternate} {
			g := glyphOf(&Event{Kind: kind, To: to})
			if kind != EventSwitched && to == Alternate {
				continue
			}
			assert.False(t, names[g.Name], "%s has the name of another", kind)
			assert.False(t, paths[g.Path], "%s has the shape of another", kind)
			assert.Contains(t, []string{"ok", "warn", "bad", "move"}, g.Level)
			assert.True(t, strings.HasPrefix(g.Name, kind.String()))
			names[g.Name], paths[g.Path] = true, true
		}
	}
	assert.Len(t, names, 15)
}

func TestTimesInWords(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, why string
		at        time.Time
		clock     string
		ago       string
	}{
		{"same moment", "no time has passed", statusNow, "05:23:40", "now"},
		{"clocks apart", "a time to come is now", statusNow.Add(time.Minute), "05:24:40", "now"},
		{"seconds", "below a minute", clockTime(5, 23, 12), "05:23:12", "28 s ago"},
		{"minutes", "below an hour", clockTime(5, 4, 6), "05:04:06", "19 min ago"},
		{"hours", "below a day", clockTime(3, 12, 5), "03:12:05", "2 h 11 min ago"},
		{"yesterday", "another day is named", clockTime(-1, 0, 0), "13 Mar 23:00:00", "6 h 23 min ago"},
		{"last year", "another year is named", clockTime(0, 0, 0).AddDate(-1, 0, 0), "14 Mar 2025 00:00:00", "365 d 5 h ago"},
		{"another zone", "all is UTC", clockTime(3, 12, 5).In(time.FixedZone("", 3600)), "03:12:05", "2 h 11 min ago"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, row.clock, clock(row.at, statusNow, "15:04:05"), row.why)
			assert.Equal(t, row.ago, ago(row.at, statusNow), row.why)
		})
	}
}
