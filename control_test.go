package failover_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/internal/statuspage/pagecheck"
)

const formEncoded = "application/x-www-form-urlencoded"

// control sends a request to a handler, with header fields given in pairs.
func control(h http.Handler, method, path, contentType, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// controlled is the JSON answer.
type controlled struct {
	OK     bool
	Error  string
	Status *struct {
		Active, Situation string
		Pinned, Verifying bool
		Fleet             *struct{ Frozen string }
		Losses            []struct {
			AtRisk []struct{ State string }
		}
		Events []struct{ Kind, Reason string }
	}
}

// command sends an action as a program would.
func command(t testing.TB, h http.Handler, action string, fields url.Values) (int, controlled) {
	t.Helper()
	w := control(h, http.MethodPost, "/ops/"+action, formEncoded, fields.Encode(), "Accept", "application/json")
	var answer controlled
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	assert.Equal(t, answer.OK, answer.Error == "")
	return w.Code, answer
}

// The handler does what the methods do, and refuses the same things.
func TestControlDoesWhatTheMethodsDo(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		h := s.transport.ControlHandler()
		status, answer := command(s, h, "switch", url.Values{"to": {"alternate"}, "reason": {"drill"}})
		assert.Equal(s, http.StatusConflict, status)
		assert.Contains(s, answer.Error, "0x8004B065", "the standby is fenced")
		assert.Equal(s, "primary", answer.Status.Active)

		s.org.FailOver()
		status, answer = command(s, h, "switch", url.Values{"to": {"alternate"}, "reason": {"INC-4711"}})
		assert.Equal(s, http.StatusOK, status)
		assert.Equal(s, "alternate", answer.Status.Active)
		assert.Equal(s, failover.Alternate, s.active())
		assert.Equal(s, "INC-4711", answer.Status.Events[0].Reason)

		status, answer = command(s, h, "pin", url.Values{"endpoint": {"primary"}, "reason": {"we know better"}})
		assert.Equal(s, http.StatusOK, status)
		assert.True(s, answer.Status.Pinned)
		assert.Equal(s, failover.Primary, s.active(), "a pin asks nobody")

		status, answer = command(s, h, "unpin", url.Values{"reason": {"we do not"}})
		assert.Equal(s, http.StatusOK, status)
		assert.False(s, answer.Status.Pinned)
		assert.Equal(s, []failover.EventKind{failover.EventSwitched, failover.EventPinned, failover.EventSwitched, failover.EventUnpinned}, s.kinds())
		var reasons []string
		for _, e := range s.told() {
			reasons = append(reasons, e.Reason)
		}
		assert.Equal(s, []string{"INC-4711", "by hand: we know better", "pinned by hand: we know better", "by hand: we do not"}, reasons)

		s.transport.Close()
		for action, field := range map[string]string{"switch": "to", "pin": "endpoint", "unpin": "", "verify": ""} {
			status, answer = command(s, h, action, url.Values{field: {"primary"}, "reason": {"too late"}})
			assert.Equal(s, http.StatusConflict, status, action)
			assert.Equal(s, failover.ErrClosed.Error(), answer.Error, action)
		}
	})
}

// The handler of any member freezes and unfreezes the fleet, and its page says so and why.
// Without a fleet, it freezes nothing.
func TestControlFreezesAFleet(t *testing.T) {
	tellOfAFleet(t, 3, failover.Config{}, func(s *fleetStory) {
		h, other := s.fleet[0].ControlHandler(), s.fleet[1].ControlHandler()
		status, answer := command(s, h, "freeze", url.Values{"reason": {" "}})
		assert.Equal(s, http.StatusBadRequest, status, answer.Error)
		status, answer = command(s, h, "freeze", url.Values{"reason": {"migration of https://user:hunter2@contoso.example"}})
		assert.Equal(s, http.StatusOK, status, answer.Error)
		assert.Equal(s, "frozen", answer.Status.Situation)
		assert.Equal(s, "migration of https://contoso.example", answer.Status.Fleet.Frozen)
		assert.Equal(s, "migration of https://contoso.example", s.record().Frozen)
		s.settle()
		s.org.FailOver()
		assert.NotEqual(s, 200, s.fleet[2].get())
		s.allAt(failover.Primary)
		page := control(other, http.MethodGet, "/", "", "")
		pagecheck.Markup(s, page.Body.String(), page.Header().Get("Content-Security-Policy"))
		assert.Contains(s, page.Body.String(), "Frozen: no automatic switches in the fleet: migration of https://contoso.example.")
		assert.Contains(s, page.Body.String(), `href="./unfreeze"`)

		status, answer = command(s, other, "unfreeze", nil)
		assert.Equal(s, http.StatusOK, status, answer.Error)
		assert.Empty(s, answer.Status.Fleet.Frozen)
		time.Sleep(10 * time.Second) // after which a refused switch is considered again
		assert.Equal(s, 200, s.fleet[2].get())
		s.allAt(failover.Alternate)
		assert.Contains(s, control(h, http.MethodGet, "/", "", "").Body.String(), `href="./freeze"`)

		s.fleet[0].suffer(refuses)
		status, answer = command(s, h, "freeze", url.Values{"reason": {"x"}})
		assert.Equal(s, http.StatusConflict, status)
		assert.Contains(s, answer.Error, "connection refused")
	})
}

func TestControlFreezesNothingWithoutAFleet(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		h := s.transport.ControlHandler()
		for _, action := range []string{"freeze", "unfreeze"} {
			status, answer := command(s, h, action, url.Values{"reason": {"migration"}})
			assert.Equal(s, http.StatusConflict, status)
			assert.Contains(s, answer.Error, "there is no fleet")
			assert.NotContains(s, control(h, http.MethodGet, "/", "", "").Body.String(), `href="./`+action)
		}
	})
}

func TestControlRefusesWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	transport, err := failover.New("https://contoso.api.crm.dynamics.com", &failover.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	h := transport.ControlHandler()
	const data = "application/json"
	for _, row := range []struct {
		name, why                 string
		method, path              string
		contentType, body, header string // header: a name and a value
		status                    int
		text                      string
	}{
		{"no reason", "a reason is for those who come after", "POST", "/pin", formEncoded, "endpoint=primary", "", 400, "a reason is required"},
		{"blank reason", "as none", "POST", "/pin", formEncoded, "endpoint=primary&reason=%20%09%00", "", 400, "a reason is required"},
		{"no endpoint", "nothing is guessed", "POST", "/pin", formEncoded, "reason=x", "", 400, "endpoint must be primary or alternate"},
		{"wrong endpoint", "names are exact", "POST", "/switch", formEncoded, "to=Alternate&reason=x", "", 400, "to must be primary or alternate"},
		{"field of another action", "each has its own", "POST", "/switch", formEncoded, "endpoint=primary&reason=x", "", 400, "to must be"},
		{"fields in the query", "a link must not carry an action", "POST", "/pin?endpoint=primary&reason=x", formEncoded, "", "", 400, "endpoint must be"},
		{"broken form", "%ZZ is no byte", "POST", "/pin", formEncoded, "endpoint=%ZZ", "", 400, "not form-encoded"},
		{"broken JSON", "not an object", "POST", "/pin", data, `["primary"]`, "", 400, "not a JSON object"},
		{"JSON of other types", "fields are strings", "POST", "/pin", data, `{"endpoint": 1, "reason": "x"}`, "", 400, "not a JSON object"},
		{"another type", "as a form of another site could send", "POST", "/pin", "text/plain", "endpoint=primary&reason=x", "", 415, "form-encoded or JSON"},
		{"too long", "nobody needs that much", "POST", "/pin", formEncoded, "reason=" + strings.Repeat("x", 16<<10), "", 413, "too long"},
		{"no such action", "nothing to do", "POST", "/close", formEncoded, "reason=x", "", 404, "no such action"},
		{"the page", "nothing to do", "POST", "/", formEncoded, "reason=x", "", 404, "no such action"},
		{"another method", "these do not act", "DELETE", "/pin", formEncoded, "endpoint=primary&reason=x", "", 405, "only GET, HEAD and POST"},
		{"another site", "a page of a stranger must not act", "POST", "/pin", formEncoded, "endpoint=primary&reason=x", "Sec-Fetch-Site: cross-site", 403, "another site"},
		{"another site, old browser", "the origin tells", "POST", "/pin", formEncoded, "endpoint=primary&reason=x", "Origin: https://evil.example", 403, "another site"},
		{"no origin to name", "a sandboxed frame", "POST", "/pin", formEncoded, "endpoint=primary&reason=x", "Origin: null", 403, "another site"},
		{"another site, no such action", "it learns nothing", "POST", "/close", formEncoded, "", "Sec-Fetch-Site: cross-site", 403, "another site"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			name, value, _ := strings.Cut(row.header, ": ")
			for _, accept := range []string{"text/html", "application/json"} {
				w := control(h, row.method, row.path, row.contentType, row.body, name, value, "Accept", accept)
				assert.Equal(t, row.status, w.Code, row.why)
				assert.Contains(t, w.Body.String(), row.text)
				switch {
				case row.status == 403:
					assert.NotContains(t, w.Body.String(), "contoso", "a stranger is told nothing")
				case strings.HasPrefix(w.Header().Get("Content-Type"), "text/html"):
					pagecheck.Markup(t, w.Body.String(), w.Header().Get("Content-Security-Policy"))
				}
			}
		})
	}
	t.Cleanup(func() { assert.Empty(t, transport.Status().Events, "none of them did anything") })
}

// Requests of the same site, and requests that no browser sends, are accepted.
func TestControlTakesRequestsOfItsOwnSite(t *testing.T) {
	t.Parallel()
	for name, header := range map[string][]string{
		"browser":     {"Sec-Fetch-Site", "same-origin", "Origin", "http://example.com"},
		"old browser": {"Origin", "http://example.com"}, // the host that httptest requests
		"program":     nil,
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) { // calls t.Parallel
				w := control(s.transport.ControlHandler(), http.MethodPost, "/pin", "application/json", `{"endpoint":"primary","reason":"x"}`, header...)
				assert.Equal(s, http.StatusSeeOther, w.Code)
				assert.Equal(s, "./", w.Header().Get("Location"))
				assert.True(s, s.transport.Status().Pinned)
			})
		})
	}
}

// A reason appears in logs, events, the fleet's record and the page: as one line of bounded
// length, without secrets.
func TestReasonsAreRedactedAndBounded(t *testing.T) {
	var log strings.Builder
	tell(t, failover.Config{}, func(s *story) {
		transport, err := failover.New(s.org.URL(), &failover.Config{Base: s.org.Transport(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(s, err)
		h := transport.ControlHandler()
		const evil = "see https://user:hunter2@contoso.example/x?sig=s3cret \r\nlevel=ERROR Bearer t0ken\x00 <script>alert(1)</script> "
		status, _ := command(s, h, "pin", url.Values{"endpoint": {"primary"}, "reason": {evil + strings.Repeat("long ", 500)}})
		require.Equal(s, http.StatusOK, status)
		status, _ = command(s, h, "unpin", url.Values{"reason": {evil}})
		require.Equal(s, http.StatusOK, status)
		page := control(h, http.MethodGet, "/ops/", "", "").Body.String()
		form := control(h, http.MethodPost, "/ops/pin", formEncoded, url.Values{"reason": {evil}}.Encode())
		assert.Equal(s, http.StatusBadRequest, form.Code)
		pagecheck.Markup(s, form.Body.String(), form.Header().Get("Content-Security-Policy"))
		transport.Close()
		for name, text := range map[string]string{"log": log.String(), "page": page} {
			assert.Contains(s, text, "see https://[redacted]", name)
			for _, secret := range []string{"hunter2", "s3cret", "t0ken", "user:"} {
				assert.NotContains(s, text, secret, name)
			}
			assert.NotContains(s, text, "\nlevel=ERROR", name)
		}
		assert.NotContains(s, page+form.Body.String(), "<script")
		for _, e := range transport.Status().Events {
			assert.LessOrEqual(s, len(e.Reason), len("by hand: ")+200)
		}
	})
}

// The page links to the forms, and a form back to the page, wherever the handler is mounted.
func TestControlWorksWhereverItIsMounted(t *testing.T) {
	t.Parallel()
	transport, err := failover.New("https://contoso.api.crm.dynamics.com", &failover.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	h := transport.ControlHandler()
	mux := http.NewServeMux()
	mux.Handle("/", h)
	mux.Handle("/ops/failover/", h)
	mux.Handle("/exact", h)
	mux.Handle("/exact/", h)
	mux.Handle("/stripped/", http.StripPrefix("/stripped", h))
	mux.Handle("/bare/", http.StripPrefix("/bare/", h))
	server := httptest.NewServer(mux)
	defer server.Close()
	client := server.Client()
	get := func(u string) (string, *url.URL) {
		resp, err := client.Get(u)
		require.NoError(t, err)
		defer resp.Body.Close()
		var page strings.Builder
		require.NoError(t, resp.Write(&page))
		require.Equal(t, http.StatusOK, resp.StatusCode, u)
		return page.String(), resp.Request.URL
	}
	attribute := func(page, pattern string, base *url.URL) string {
		found := regexp.MustCompile(pattern).FindStringSubmatch(page)
		require.Len(t, found, 2, pattern)
		u, err := base.Parse(found[1])
		require.NoError(t, err)
		return u.String()
	}
	for _, mount := range []string{"/", "/ops/failover/", "/exact", "/exact/", "/stripped/", "/bare/"} {
		page, at := get(server.URL + mount)
		form, at := get(attribute(page, `href="([^"]*pin)"`, at))
		target := attribute(form, `action="([^"]*)"`, at)
		resp, err := client.PostForm(target, url.Values{"endpoint": {"primary"}, "reason": {"drill"}})
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, http.StatusOK, resp.StatusCode, mount)
		assert.Equal(t, strings.TrimSuffix(mount, "/")+"/", resp.Request.URL.Path, "sent back to the page")
		assert.Equal(t, strings.TrimSuffix(mount, "/")+"/", at.ResolveReference(&url.URL{Path: "./"}).Path, "Cancel leads there")
		assert.True(t, transport.Status().Pinned, mount)
		transport.Unpin()
	}
	resp, err := client.Head(server.URL + "/ops/failover/switch")
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	assert.Positive(t, resp.ContentLength)
}

// After a switch every request gets 401. The page must not say that there is nothing to do.
func TestThePageJudgesWhatRequestsMeet(t *testing.T) {
	situation := func(s *story) (string, string) {
		var r struct {
			Situation string
			Findings  []struct{ Name, Summary string }
		}
		w := control(s.transport.StatusHandler(), http.MethodGet, "/?format=json", "", "")
		require.NoError(s, json.Unmarshal(w.Body.Bytes(), &r))
		return r.Situation, r.Findings[0].Summary
	}
	tell(t, failover.Config{}, func(s *story) {
		for range 5 { // spaced out: one in a millisecond is counted
			require.Equal(s, 200, s.get(accounts))
			time.Sleep(2 * time.Millisecond)
		}
		name, _ := situation(s)
		assert.Equal(s, "healthy", name)
		s.org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.Path != whoAmI }, failovertest.Status(401, nil, ""))
		for range 20 {
			require.Equal(s, 401, s.get(accounts))
		}
		name, summary := situation(s)
		assert.Equal(s, "unauthorized", name)
		assert.Equal(s, "About 80% of the attempts at the primary in the last 5 minutes (20 of 25) got 401, 403 or a sign-in page.", summary)
		recent := s.transport.Status().Primary.Recent
		assert.Equal(s, failover.Recent{Succeeded: 5, Faults: map[failover.Class]int{failover.ClassAuth: 20}}, recent)

		time.Sleep(failover.RecentTime)
		name, _ = situation(s)
		assert.Equal(s, "healthy", name, "it was a while ago")
		assert.Equal(s, failover.Recent{Faults: map[failover.Class]int{}}, s.transport.Status().Primary.Recent)
	})
}

// Brown-outs, refused switches and writes in doubt are findings on the page, each counted
// where it happens.
func TestThePageCountsRefusalsAndDoubts(t *testing.T) {
	tell(t, failover.Config{MaxAttempts: -1}, func(s *story) {
		find := func() map[string]string {
			var r struct {
				Findings []struct{ Name, Summary string }
			}
			w := control(s.transport.StatusHandler(), http.MethodGet, "/", "", "", "Accept", "application/json")
			require.NoError(s, json.Unmarshal(w.Body.Bytes(), &r))
			found := make(map[string]string)
			for _, f := range r.Findings {
				found[f.Name] = f.Summary
			}
			return found
		}
		s.org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.Path != whoAmI }, failovertest.Status(503, nil, ""))
		for range 3 {
			require.Equal(s, 503, s.get(accounts))
		}
		synctest.Wait()
		require.Equal(s, 1, s.count(failover.EventSwitchRefused))
		found := find()
		assert.Equal(s, "1 switch was refused to leave the primary in the last 5 minutes.", found["switches refused"])
		assert.Equal(s, "All 3 attempts at the primary in the last 5 minutes failed.", found["failing"])

		s.org.Primary().Heal()
		s.org.Primary().FailWhen(func(r *http.Request) bool { return r.Method == http.MethodPost }, failovertest.Reset(failovertest.AfterApply))
		for range 2 {
			_, err := s.create("doubt")
			require.ErrorIs(s, err, failover.ErrOutcomeUnknown)
		}
		assert.Equal(s, "2 writes are in doubt, the newest since 00:00 UTC.", find()["writes in doubt"])
		recent := s.transport.Status().Primary.Recent
		assert.Equal(s, 2, recent.InDoubt)
		assert.Equal(s, 1, recent.RefusedSwitches)
		time.Sleep(10 * time.Minute)
		found = find()
		assert.NotContains(s, found, "switches refused")
		assert.NotContains(s, found, "failing")
		assert.Contains(s, found, "writes in doubt", "nobody has looked them up")
		time.Sleep(24 * time.Hour)
		assert.NotContains(s, find(), "writes in doubt")
	})
}

// An organization with one address has a page, JSON, readiness and control like any other, but
// no mention of an alternate.
func TestControlOfOneAddress(t *testing.T) {
	tell(t, failover.Config{Alternate: failover.NoAlternate}, func(s *story) {
		h := s.transport.ControlHandler()
		require.Equal(s, 200, s.get(accounts))
		for _, path := range []string{"/", "/switch", "/pin"} {
			w := control(h, http.MethodGet, path, "", "")
			pagecheck.Markup(s, w.Body.String(), w.Header().Get("Content-Security-Policy"))
			assert.NotContains(s, w.Body.String(), "contoso--s", path)
			assert.NotContains(s, w.Body.String(), `value="alternate"`, path)
		}
		page := control(h, http.MethodGet, "/", "", "")
		assert.Contains(s, page.Body.String(), "One address")
		assert.Contains(s, page.Body.String(), "Nothing to do.")
		var fields map[string]any
		require.NoError(s, json.Unmarshal(control(h, http.MethodGet, "/?format=json", "", "").Body.Bytes(), &fields))
		assert.Contains(s, fields, "primary")
		assert.NotContains(s, fields, "alternate")

		status, answer := command(s, h, "switch", url.Values{"to": {"alternate"}, "reason": {"drill"}})
		assert.Equal(s, http.StatusBadRequest, status)
		assert.Contains(s, answer.Error, "no alternate address")
		status, _ = command(s, h, "switch", url.Values{"to": {"primary"}, "reason": {"as it is"}})
		assert.Equal(s, http.StatusOK, status)
		status, _ = command(s, h, "pin", url.Values{"endpoint": {"primary"}, "reason": {"drill"}})
		assert.Equal(s, http.StatusOK, status)
		status, _ = command(s, h, "unpin", url.Values{"reason": {"drill"}})
		assert.Equal(s, http.StatusOK, status)

		s.org.Primary().Fail(failovertest.Refuse())
		_, err := s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
		require.Error(s, err)
		require.True(s, s.transport.Status().Down)
		assert.Contains(s, control(h, http.MethodGet, "/", "", "").Body.String(), "Down: the organization does not serve at its one address")
		ready := control(s.transport.ReadyHandler(), http.MethodGet, "/", "", "")
		assert.Equal(s, http.StatusServiceUnavailable, ready.Code)
		assert.NotContains(s, ready.Body.String(), "alternate")
		assert.Equal(s, s.transport.Org().Primary.String(), "https://contoso.api.crm.dynamics.com")
		assert.Nil(s, s.transport.Org().Alternate)
	})
}
