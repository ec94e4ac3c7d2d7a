package statuspage

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/statuspage/pagecheck"
)

// draw returns the page of a report.
func draw(t *testing.T, r *Report) string {
	t.Helper()
	r.Judge()
	page, policy, err := NewPage().Draw(r)
	require.NoError(t, err)
	pagecheck.Markup(t, string(page), policy)
	return string(page)
}

func drawForm(t *testing.T, r *Report, f *Form) string {
	t.Helper()
	r.Judge()
	page, policy, err := NewPage().DrawForm(r, f)
	require.NoError(t, err)
	pagecheck.Markup(t, string(page), policy)
	return string(page)
}

func TestPageBoundsWrites(t *testing.T) {
	t.Parallel()
	writes := make([]Write, maxWriteRows+23)
	for i := range writes {
		writes[i] = Write{Time: clockTime(3, 11, 0), Method: "POST", Path: "/w" + strconv.Itoa(i) + "/", State: NotVerified}
	}
	r := failedOverReport()
	r.Losses = []Loss{{From: "primary", LastSuccess: clockTime(3, 11, 0), AtRisk: writes}}
	page := draw(t, r)
	assert.Contains(t, page, "/w99/")
	assert.NotContains(t, page, "/w100/")
	assert.Contains(t, page, "And 23 more")
}

// Earlier reports are expanded while their writes have to be looked at, and not shown if they
// have none.
func TestEarlierReports(t *testing.T) {
	t.Parallel()
	report := func(at time.Time, states ...string) Loss {
		l := Loss{Time: at, From: "primary", To: "primary"}
		for _, state := range states {
			l.AtRisk = append(l.AtRisk, Write{State: state})
		}
		return l
	}
	r := failedOverReport()
	r.Losses = []Loss{report(clockTime(5, 0, 0)), report(clockTime(4, 0, 0), Present, Missing), report(clockTime(3, 0, 0)), report(clockTime(2, 0, 0), Present)}
	var open []bool
	for _, l := range (view{r, nil}).LossesWithWrites() {
		open = append(open, l.Open)
	}
	assert.Equal(t, []bool{true, true, false}, open)
	page := draw(t, r)
	assert.Contains(t, page, "an outage at the primary has ended")
	assert.NotContains(t, page, "03:00:00")
}

// The page reloads itself, but not while somebody types into a form.
func TestFormsAreNotRenewed(t *testing.T) {
	t.Parallel()
	assert.Contains(t, draw(t, quietReport()), `http-equiv="refresh" content="10"`)
	for _, a := range Actions() {
		assert.NotContains(t, drawForm(t, failedOverReport(), &Form{Action: &a}), "refresh", a.Name)
	}
}

// The forms offer what exists, and preselect what is most likely meant.
func TestForms(t *testing.T) {
	t.Parallel()
	oneAddress := func() *Report {
		r := quietReport()
		r.Alternate = nil
		return r
	}
	for _, row := range []struct {
		name, why string
		report    *Report
		action    string
		form      Form
		want, not []string
	}{
		{"switch", "a switch leaves the active endpoint", quietReport(), "switch", Form{},
			[]string{`value="alternate" checked=""`, `name="to"`, `name="reason" required=""`, "Now: Healthy"}, []string{`value="primary" checked`, "role="}},
		{"switch back", "to where the traffic is not", failedOverReport(), "switch", Form{}, []string{`value="primary" checked=""`}, nil},
		{"pin", "a pin keeps what is", failedOverReport(), "pin", Form{}, []string{`value="alternate" checked=""`, `name="endpoint"`, "without a probe"}, nil},
		{"one address", "there is no alternate to choose", oneAddress(), "switch", Form{}, []string{`value="primary" checked=""`}, []string{`value="alternate"`}},
		{"unpin", "there is nothing to choose", failedOverReport(), "unpin", Form{}, []string{`name="reason"`}, []string{"radio"}},
		{"freeze", "the reason is what the others see", quietReport(), "freeze", Form{}, []string{`name="reason" required=""`, "every process of the fleet"}, []string{"radio"}},
		{"unfreeze", "there is nothing to fill in", quietReport(), "unfreeze", Form{}, []string{"every process of the fleet"}, []string{"<input"}},
		{"verify", "there is nothing to fill in", lossReport(), "verify", Form{}, []string{"There are 3."}, []string{"<input"}},
		{"verify nothing", "says so", quietReport(), "verify", Form{}, []string{"There are none."}, nil},
		{"refused", "what was entered is still there", quietReport(), "switch", Form{Chosen: "primary", Reason: `a "reason"`, Refused: "no <way>"},
			[]string{`value="primary" checked=""`, `value="a &#34;reason&#34;"`, "no &lt;way&gt;", `role="alert"`}, []string{`value="alternate" checked`}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			action, ok := FindAction(row.action)
			require.True(t, ok)
			row.form.Action = action
			page := drawForm(t, row.report, &row.form)
			for _, text := range row.want {
				assert.Contains(t, page, text, row.why)
			}
			for _, text := range row.not {
				assert.NotContains(t, page, text, row.why)
			}
		})
	}
	_, ok := FindAction("")
	assert.False(t, ok)
}

// The page links to the actions that are possible now, wherever it is mounted.
func TestActionsOfThePage(t *testing.T) {
	t.Parallel()
	links := func(r *Report) (all []string) {
		for _, l := range (view{r, nil}).Actions() {
			all = append(all, l.Link)
		}
		return all
	}
	r := quietReport()
	assert.Equal(t, []string{"./switch", "./pin"}, links(r))
	r.Mount = "failover/"
	r.Pinned, r.Losses = true, make([]Loss, 1)
	assert.Equal(t, []string{"./failover/switch", "./failover/pin", "./failover/unpin", "./failover/verify"}, links(r))
	assert.NotContains(t, draw(t, r), "<nav", "the handler shows, and does not control")
	r.Control = true
	assert.Contains(t, draw(t, r), `href="./failover/unpin"`)
	r.Mount = "javascript:alert(1)/"
	assert.NotContains(t, draw(t, r), `href="javascript`)
	r.Fleet = new(Fleet)
	assert.Contains(t, links(r), "./"+r.Mount+"freeze")
	assert.NotContains(t, links(r), "./"+r.Mount+"unfreeze")
	r.Fleet.Frozen = "migration"
	assert.NotContains(t, links(r), "./"+r.Mount+"freeze")
	assert.Contains(t, links(r), "./"+r.Mount+"unfreeze")
	r.Closed = true
	assert.Empty(t, links(r))
}

// A header of a megabyte is not read to its end.
func TestALongAcceptHeaderIsNotRead(t *testing.T) {
	t.Parallel()
	for name, accept := range map[string]string{
		"ranges": strings.Repeat("a/b,", 1<<18), "parameters": "application/json" + strings.Repeat(";a=b", 1<<18), "commas": strings.Repeat(",", 1<<20),
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept", accept)
		assert.False(t, WantsJSON(r), name)
		for _, one := range ranges(r.Header.Values("Accept")) {
			assert.LessOrEqual(t, len(one), maxRange, name)
		}
		assert.LessOrEqual(t, len(ranges(r.Header.Values("Accept"))), maxRanges, name)
	}
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
