package failover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// created returns a write that has created a record.
func created(path string, began uint64) *endedWrite {
	return &endedWrite{
		Write: Write{Time: time.Now(), Method: "POST", Path: path[:strings.LastIndexByte(path, '(')], Status: 204},
		named: path, began: began,
	}
}

func TestWhatIsGuarded(t *testing.T) {
	t.Parallel()
	const project = "/api/data/v9.2/new_2projects(" + recordA + ")"
	tests := []struct {
		name    string
		reason  string
		risk    Write
		named   string
		method  string
		path    string
		header  http.Header
		guarded bool
	}{
		{
			name: "update", reason: "it would create a record with nothing in it but the update",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/accounts", Status: 204}, named: accountA, method: "PATCH", path: accountA, guarded: true,
		},
		{
			name: "update by another version", reason: "it is the same record",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/accounts", Status: 201}, named: accountA,
			method: "PATCH", path: strings.Replace(strings.ToUpper(accountA), "V9.2", "v9.0", 1), guarded: true,
		},
		{
			name: "custom table", reason: "names have underscores and digits",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/new_2projects", Status: 204}, named: project, method: "PATCH", path: project, guarded: true,
		},
		{
			name: "child", reason: "the record is the one of the answer",
			risk: Write{Method: "POST", Path: accountB + "/contacts", Status: 204}, named: accountA, method: "PATCH", path: accountA, guarded: true,
		},
		{
			name: "caller's If-Match", reason: "it is what keeps a lost update away",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/accounts", Status: 204}, named: accountA, method: "PATCH", path: accountA, header: headerWith("If-Match", `W/"1"`),
		},
		{
			name: "caller's If-Match in other letters", reason: "net/http sends it as it is",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/accounts", Status: 204}, named: accountA, method: "PATCH", path: accountA, header: http.Header{"if-match": {`W/"1"`}},
		},
		{
			name: "caller's If-None-Match", reason: "it is meant to create",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/accounts", Status: 204}, named: accountA, method: "PATCH", path: accountA, header: headerWith("If-None-Match", "*"),
		},
		{
			name: "below the record", reason: "a column cannot be written without its record",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/accounts", Status: 204}, named: accountA, method: "PATCH", path: accountA + "/name",
		},
		{
			name: "DELETE", reason: "it creates nothing",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/accounts", Status: 204}, named: accountA, method: "DELETE", path: accountA,
		},
		{
			name: "PUT", reason: "it is meant to create",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/accounts", Status: 204}, named: accountA, method: "PUT", path: accountA,
		},
		{
			name: "another record", reason: "nothing is known against it",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/accounts", Status: 204}, named: accountA, method: "PATCH", path: accountB,
		},
		{
			name: "action on a record", reason: "the record was there before",
			risk: Write{Method: "POST", Path: accountA + "/Microsoft.Dynamics.CRM.Merge", Status: 204}, method: "PATCH", path: accountA,
		},
		{
			name: "new relation", reason: "the record was there before",
			risk: Write{Method: "POST", Path: accountB + "/contacts/$ref", Status: 204}, named: accountA, method: "PATCH", path: accountA,
		},
		{
			name: "upsert that created", reason: "whoever creates by upserts means to",
			risk: Write{Method: "PATCH", Path: accountA, Status: 201}, method: "PATCH", path: accountA,
		},
		{
			name: "change", reason: "the record was there before",
			risk: Write{Method: "PATCH", Path: accountA, Status: 204}, method: "PATCH", path: accountA,
		},
	}
	names := make(map[string]bool)
	for _, tt := range tests {
		require.NotEmpty(t, tt.reason, tt.name)
		require.False(t, names[tt.name], "name %q is used twice", tt.name)
		names[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequest(tt.method, "https://contoso.api.crm.dynamics.com"+tt.path, nil)
			require.NoError(t, err)
			if tt.header != nil {
				req.Header = tt.header
			}
			for _, to := range []Endpoint{Alternate, Primary} { // with a switch, and at the end of an outage without
				b, w := newBooks(8), endedWrite{Write: tt.risk, named: tt.named}
				w.Time = time.Now()
				b.record(&w)
				assert.False(t, b.guards(req), "before there is a report")
				r := b.report(Primary, to, 1, time.Now(), "")
				assert.Len(t, r.AtRisk, 1)
				assert.Equal(t, to != Primary, r.Moved())
				assert.Equal(t, tt.guarded, b.guards(req), tt.reason)
			}
		})
	}
}

// On the wire, with credentials of the Transport and with the caller's own.
func TestTheGuardIsACondition(t *testing.T) {
	t.Parallel()
	for _, authorize := range []func(*http.Request) error{nil, func(req *http.Request) error { req.Header.Set("Authorization", "Bearer x"); return nil }} {
		var sent http.Header
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			resp, err := acknowledging(req)
			switch req.Method {
			case http.MethodPost:
				resp.Header.Set("OData-EntityId", "https://contoso.api.crm.dynamics.com"+accountA)
			case http.MethodPatch:
				sent = req.Header
				resp = replyWith(404, notFoundBody, "OData-Version", "4.0", "Content-Type", "application/json")
				resp.Request = req
			}
			return resp, err
		}), Config{Authorize: authorize, MinDwell: time.Hour, ProbeInterval: -1})
		require.Equal(t, 204, post(t, transport, "/api/data/v9.2/accounts", "", "application/json", "{}"))
		require.NoError(t, transport.Switch(t.Context(), Alternate, "by hand"))
		for _, condition := range []string{"", `W/"4711"`} {
			req, err := http.NewRequest("PATCH", "https://contoso.api.crm.dynamics.com"+accountA, strings.NewReader("{}"))
			require.NoError(t, err)
			want := "*"
			if condition != "" {
				req.Header.Set("If-Match", condition)
				want = condition
			}
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			resp.Body.Close()
			assert.Equal(t, want, sent.Get("If-Match"))
			assert.Equal(t, condition, req.Header.Get("If-Match"), "the caller's request is not changed")
		}
	}
}

func TestWhatEndsAGuard(t *testing.T) {
	t.Parallel()
	update, err := http.NewRequest("PATCH", "https://contoso.api.crm.dynamics.com"+accountA, nil)
	require.NoError(t, err)
	written := func(method, path string, status int, began uint64) func(*books, *LossReport) {
		return func(b *books, _ *LossReport) {
			b.record(&endedWrite{Write: Write{Time: time.Now(), Method: method, Path: path, Status: status}, began: began})
		}
	}
	verified := func(paths ...string) func(*books, *LossReport) {
		return func(_ *books, r *LossReport) {
			_, err := r.Verify(t.Context(), &http.Client{Transport: &readSide{answer: holding(paths...)}})
			assert.NoError(t, err)
		}
	}
	tests := []struct {
		name   string
		reason string
		then   func(*books, *LossReport)
		ends   bool
	}{
		{"nothing", "it is still at risk", func(*books, *LossReport) {}, false},
		{"found by Verify", "it is there", verified(accountA), true},
		{"missed by Verify", "an update would create it", verified(), false},
		{"created anew", "it is there", func(b *books, _ *LossReport) { b.record(created(accountA, 1)) }, true},
		{"replaced", "it is there", written("PUT", accountA, 204, 1), true},
		{"updated with a condition", "it is there", written("PATCH", accountA, 204, 1), true},
		{"part of it written", "it is there", written("PUT", accountA+"/name", 204, 1), true},
		{"another one written", "nothing is known about this one", written("PUT", accountB, 204, 1), false},
		{"written before the outage", "it went to the place that was left", written("PUT", accountA, 204, 0), false},
		{
			"written, outcome unknown", "it may not be there", func(b *books, _ *LossReport) {
				b.record(&endedWrite{Write: Write{Time: time.Now(), Method: "PUT", Path: accountA, Outcome: OutcomeUnknown}, began: 1})
			}, false,
		},
		{"an hour less a bit", "programs go on updating what they have created", func(*books, *LossReport) { time.Sleep(guardTime - 1) }, false},
		{"an hour", "whoever repairs by upserts is not to be kept from it", func(*books, *LossReport) { time.Sleep(guardTime) }, true},
		{
			"forgotten report", "what is kept is bounded", func(b *books, _ *LossReport) {
				for n := range maxReports {
					b.report(Alternate, Alternate, uint64(n+2), time.Now(), "")
				}
			}, true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBooks(8)
				b.record(created(accountA, 0))
				r := b.report(Primary, Primary, 1, time.Now(), "")
				require.True(t, b.guards(update))
				tt.then(b, r)
				assert.Equal(t, !tt.ends, b.guards(update), tt.reason)
				assert.Equal(t, !tt.ends, b.guarding.Load())
			})
		})
	}
}

// A write that ends after the report was made belongs to it if it was made before.
func TestLateWrites(t *testing.T) {
	t.Parallel()
	b := newBooks(64)
	b.report(Primary, Alternate, 1, time.Now(), "failover")
	b.report(Alternate, Primary, 2, time.Now(), "fail-back")
	b.report(Primary, Primary, 3, time.Now(), "end of an outage")
	late := func(at Endpoint, began uint64, label string) {
		w := ended(at, OutcomeAcknowledged, time.Now(), label)
		w.began = began
		b.record(w)
	}
	late(Primary, 0, "before all")
	late(Primary, 1, "cannot be, but is after the failover")
	late(Primary, 2, "after the fail-back")
	late(Primary, 3, "in time")
	late(Alternate, 1, "at the alternate")
	late(Alternate, 2, "too late for the fail-back")
	var got [][]string
	for _, r := range b.reports() {
		got = append(got, labels(r.AtRisk))
	}
	assert.Equal(t, [][]string{
		{"before all"},
		{"at the alternate"},
		{"before all", "cannot be, but is after the failover", "after the fail-back"},
	}, got)
	next := b.report(Primary, Alternate, 4, time.Now(), "")
	assert.Len(t, next.AtRisk, 4, "each is in the ledger once, whatever reports it is in")
}

// The cost of late writes is in proportion to their number.
// Not parallel: it counts the bytes that all goroutines allocate.
func TestLateWritesAreLinear(t *testing.T) {
	cost := func(n int) uint64 {
		b := newBooks(16)
		b.report(Primary, Alternate, 1, time.Now(), "")
		w := ended(Primary, OutcomeAcknowledged, time.Now(), "late")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			b.record(w)
		}
		runtime.ReadMemStats(&after)
		require.Len(t, b.reports()[0].AtRisk, n)
		return after.TotalAlloc - before.TotalAlloc
	}
	small, large := cost(500), cost(8000)
	assert.Less(t, large, 32*small, "sixteen times as many")
}

func TestReportsAreNotChanged(t *testing.T) {
	t.Parallel()
	b := newBooks(16)
	b.record(ended(Primary, OutcomeAcknowledged, time.Now(), "first"))
	r := b.report(Primary, Alternate, 1, time.Now(), "")
	b.record(ended(Primary, OutcomeAcknowledged, time.Now(), "second"))
	second := b.reports()[0]
	mine := append(second.AtRisk, Write{Label: "mine"})
	b.record(ended(Primary, OutcomeAcknowledged, time.Now(), "third"))
	assert.Equal(t, []string{"first"}, labels(r.AtRisk))
	assert.Equal(t, []string{"first", "second", "mine"}, labels(mine), "nobody writes into the memory of another")
	assert.Equal(t, []string{"first", "second", "third"}, labels(b.reports()[0].AtRisk))
}

func TestTheLastReportsAreKept(t *testing.T) {
	t.Parallel()
	b := newBooks(16)
	for n := range 20 {
		b.report(Endpoint(n%2), Endpoint(1-n%2), uint64(n+1), time.Now(), fmt.Sprint(n))
	}
	reports := b.reports()
	require.Len(t, reports, 16)
	assert.Equal(t, "4", reports[0].Reason, "oldest first")
	assert.Equal(t, "19", reports[15].Reason)
}

// The success that ends an outage is not what its report starts from.
func TestTheAnchorIsHeldFromTheFirstFault(t *testing.T) {
	t.Parallel()
	started := time.Now()
	at := func(d time.Duration) time.Time { return started.Add(d) }
	var a anchor
	assert.True(t, a.time(started).IsZero(), "never")
	a.hold()
	a.succeeded(time.Second)
	assert.True(t, a.time(started).IsZero(), "it had never succeeded before the outage")
	a.release()
	assert.Equal(t, at(time.Second), a.time(started))
	a.hold()
	a.succeeded(time.Minute)
	a.hold() // the second fault
	assert.Equal(t, at(time.Second), a.time(started))
	a.release()
	assert.Equal(t, at(time.Minute), a.time(started))
}

func TestAnEndpointHoldsItsAnchorForAnOutage(t *testing.T) {
	t.Parallel()
	e := endpoint{breaker: newBreaker(3, 3, time.Second)}
	started := time.Now()
	e.succeeded(time.Second)
	e.fault(&Fault{Class: ClassTransient})
	e.succeeded(2 * time.Second) // answers a request from before the outage
	assert.Equal(t, started.Add(time.Second), e.anchor.time(started))
	e.success()
	assert.Equal(t, started.Add(2*time.Second), e.anchor.time(started), "it was a blip")
	for range 3 {
		e.fault(&Fault{Class: ClassTransient})
	}
	e.succeeded(3 * time.Second)
	e.success()
	assert.Equal(t, started.Add(2*time.Second), e.anchor.time(started), "one answer does not mend a breaker that has tripped")
	e.reset()
	assert.Equal(t, started.Add(3*time.Second), e.anchor.time(started))
}

// newTestTransport returns a Transport over base that is closed with the test.
func newTestTransport(t *testing.T, base http.RoundTripper, cfg Config) *Transport {
	t.Helper()
	cfg.Base = base
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	transport, err := New("https://contoso.api.crm.dynamics.com", &cfg)
	require.NoError(t, err)
	t.Cleanup(func() { transport.Close() })
	return transport
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// post sends a labelled POST and returns its status, 0 for an error.
func post(t *testing.T, transport *Transport, path, label, contentType, body string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(WithLabel(t.Context(), label), "POST", "https://contoso.api.crm.dynamics.com"+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", contentType)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

// What a batch had done before it failed is at risk as much as anything else.
func TestWhatFailsHalfWayIsInTheBooks(t *testing.T) {
	t.Parallel()
	const badRequest = `{"error":{"code":"0x80040217","message":"no such record"}}`
	const soap = "http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/Execute"
	half := "--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n\r\n--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 400 Bad Request\r\n\r\n" + badRequest + "\r\n--b--\r\n"
	tests := []struct {
		name        string
		reason      string
		path        string
		contentType string
		body        string
		status      int
		answerType  string
		answer      string
		want        []Outcome
	}{
		{"batch", "the parts before the one that failed were carried out", "/api/data/v9.2/$batch", "multipart/mixed;boundary=b", "--b\r\n\r\nPOST /x HTTP/1.1\r\n\r\n--b--", 400, "multipart/mixed;boundary=b", half, []Outcome{OutcomePartial}},
		{"batch, error of its own", "nothing says that no part was carried out", "/api/data/v9.2/$batch", "multipart/mixed;boundary=b", "--b\r\n\r\nPOST /x HTTP/1.1\r\n\r\n--b--", 400, "application/json", badRequest, []Outcome{OutcomePartial}},
		{"batch that went well", "it is acknowledged", "/api/data/v9.2/$batch", "multipart/mixed;boundary=b", "--b\r\n\r\nPOST /x HTTP/1.1\r\n\r\n--b--", 200, "multipart/mixed;boundary=b", half, []Outcome{OutcomeAcknowledged}},
		{"batch, throttled", "of elastic tables, parts may have been carried out", "/api/data/v9.2/$batch", "multipart/mixed;boundary=b", "--b\r\n\r\nPOST /x HTTP/1.1\r\n\r\n--b--", 429, "application/json", "{}", []Outcome{OutcomePartial}},
		{"batch, credentials refused", "nothing was carried out", "/api/data/v9.2/$batch", "multipart/mixed;boundary=b", "--b\r\n\r\nPOST /x HTTP/1.1\r\n\r\n--b--", 401, "text/html", "", nil},
		{"bulk operation", "in elastic tables it is no transaction", "/api/data/v9.2/contoso_readings/Microsoft.Dynamics.CRM.CreateMultiple", "application/json", "{}", 400, "application/json", badRequest, []Outcome{OutcomePartial}},
		{"ExecuteMultiple", "it is no transaction", "/XRMServices/2011/Organization.svc/web", `application/soap+xml; action="` + soap + `"`, "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope'><s:Body><Execute><request><RequestName>ExecuteMultiple</RequestName></request></Execute></s:Body></s:Envelope>", 400, "application/json", badRequest, []Outcome{OutcomePartial}},
		{"Execute", "it is a transaction", "/XRMServices/2011/Organization.svc/web", `application/soap+xml; action="` + soap + `"`, "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope'><s:Body><Execute><request><RequestName>Merge</RequestName></request></Execute></s:Body></s:Envelope>", 400, "application/json", badRequest, nil},
		{"create", "it is a transaction", "/api/data/v9.2/accounts", "application/json", "{}", 400, "application/json", badRequest, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
				resp := replyWith(tt.status, tt.answer, "Content-Type", tt.answerType, "OData-Version", "4.0")
				resp.Request = req
				return resp, nil
			}), Config{})
			assert.Equal(t, tt.status, post(t, transport, tt.path, "bulk", tt.contentType, tt.body))
			var got []Outcome
			for _, w := range transport.WritesSince(time.Now().Add(-time.Minute)).AtRisk {
				got = append(got, w.Outcome)
				assert.Equal(t, "bulk", w.Label)
				assert.Equal(t, tt.status, w.Status)
			}
			assert.Equal(t, tt.want, got, tt.reason)
		})
	}
}

// acknowledging answers every write, and WhoAmI.
var acknowledging = roundTripFunc(func(req *http.Request) (*http.Response, error) {
	resp := replyWith(204, "", "OData-Version", "4.0")
	if req.Method == http.MethodGet {
		resp = replyWith(200, `{"OrganizationId":"00000000-0000-0000-0000-000000000002"}`, "OData-Version", "4.0", "Content-Type", "application/json")
	}
	resp.Request = req
	return resp, nil
})

func TestWritesSince(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := newTestTransport(t, acknowledging, Config{LedgerSize: 4, MinDwell: time.Hour, ProbeInterval: -1})
		defer transport.Close()
		since := func(from time.Time) []string { return labels(transport.WritesSince(from).AtRisk) }
		born := time.Now()
		post(t, transport, "/api/data/v9.2/accounts", "1", "", "")
		time.Sleep(time.Minute)
		lastSync := time.Now().Round(0) // as a person reads it off a page
		post(t, transport, "/api/data/v9.2/accounts", "2", "", "")
		require.NoError(t, transport.Switch(t.Context(), Alternate, "by hand"))
		time.Sleep(time.Minute)
		post(t, transport, "/api/data/v9.2/accounts", "3", "", "")
		assert.Equal(t, []string{"2", "3"}, since(lastSync), "of both endpoints, from that moment on")
		assert.Equal(t, []string{"3"}, since(lastSync.Add(1)))
		assert.Equal(t, []string{"1", "2", "3"}, since(born))
		r := transport.WritesSince(born)
		assert.False(t, r.Truncated)
		assert.Equal(t, []Endpoint{Primary, Alternate}, []Endpoint{r.AtRisk[1].Endpoint, r.AtRisk[2].Endpoint})
		assert.Equal(t, Alternate, r.From)
		assert.False(t, r.Moved())
		assert.True(t, transport.WritesSince(born.Add(-1)).Truncated, "nothing is known of the time before")
		post(t, transport, "/api/data/v9.2/accounts", "4", "", "")
		post(t, transport, "/api/data/v9.2/accounts", "5", "", "")
		assert.True(t, transport.WritesSince(born).Truncated, "the ledger has no room for the first")
		assert.False(t, transport.WritesSince(lastSync).Truncated)
		assert.Len(t, transport.Status().Losses, 1, "to ask makes no report")
	})
}

func TestOnWriteIsToldInOrder(t *testing.T) {
	t.Parallel()
	for _, ledgerSize := range []int{0, -1} { // with a ledger and without
		synctest.Test(t, func(t *testing.T) {
			var told []string
			var transport *Transport
			transport = newTestTransport(t, acknowledging, Config{LedgerSize: ledgerSize, OnWrite: func(w Write) {
				transport.Status() // it may call the Transport
				told = append(told, w.Label)
				if w.Label == "1" {
					panic("OnWrite has a bug")
				}
			}})
			for n := range 3 {
				post(t, transport, "/api/data/v9.2/accounts", fmt.Sprint(n), "", "")
			}
			transport.Close()
			assert.Equal(t, []string{"0", "1", "2"}, told)
		})
	}
}

func TestOnWriteThatIsSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		told, block := 0, make(chan struct{})
		transport := newTestTransport(t, acknowledging, Config{
			Logger:  slog.New(slog.NewTextHandler(&log, nil)),
			OnWrite: func(Write) { <-block; told++ },
		})
		post(t, transport, "/api/data/v9.2/accounts", "", "", "")
		synctest.Wait() // the first is being told
		for range maxJournal + 7 {
			post(t, transport, "/api/data/v9.2/accounts", "", "", "")
		}
		assert.EqualValues(t, 7, transport.Status().WritesDropped)
		close(block)
		transport.Close()
		assert.Equal(t, 1+maxJournal, told)
		assert.Contains(t, log.String(), "dropped=7")
		post(t, transport, "/api/data/v9.2/accounts", "", "", "") // after Close
		assert.Equal(t, 1+maxJournal, told)
	})
}

func TestEachWriteAtRiskIsALineOfTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		release := make(chan struct{})
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if strings.HasSuffix(req.URL.Path, "/slow") {
				<-release
			}
			if strings.HasSuffix(req.URL.Path, "/lost") {
				return nil, errors.New("connection reset")
			}
			return acknowledging(req)
		}), Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), MinDwell: time.Hour, ProbeInterval: -1})
		for n := range 92 {
			post(t, transport, "/api/data/v9.2/accounts", fmt.Sprintf("import %d", n), "", "")
		}
		post(t, transport, "/api/data/v9.2/lost", "in doubt", "", "")
		var callers sync.WaitGroup
		for range 5 {
			callers.Go(func() { post(t, transport, "/api/data/v9.2/slow", "late", "", "") })
		}
		synctest.Wait()
		require.NoError(t, transport.Switch(t.Context(), Alternate, "by hand"))
		synctest.Wait()
		lines := func() (n, more int) {
			return strings.Count(log.String(), `"failover: write at risk"`), strings.Count(log.String(), `"failover: more writes at risk"`)
		}
		n, more := lines()
		assert.Equal(t, []int{98, 0}, []int{n, more})
		assert.Contains(t, log.String(), `at=primary outcome=acknowledged`)
		assert.Contains(t, log.String(), `label="import 91" status=204`)
		assert.Contains(t, log.String(), `outcome=unknown`)
		close(release)
		callers.Wait()
		time.Sleep(2 * growthInterval)
		n, more = lines()
		assert.Equal(t, maxRiskLines, n, "no more than that for one report")
		assert.Positive(t, more)
		transport.Close()
	})
}

// syncBuffer may be written to and read at the same time.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A write that waits as the traffic moves goes on waiting, and is listed until its
// answer says more.
func TestWritesThatAreUnderWayAreListed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if req.Method == http.MethodPost {
				<-release
			}
			switch {
			case strings.HasSuffix(req.URL.Path, "/refused"):
				resp := replyWith(400, notFoundBody, "OData-Version", "4.0", "Content-Type", "application/json")
				resp.Request = req
				return resp, nil
			case strings.HasSuffix(req.URL.Path, "/lost"):
				return nil, io.ErrUnexpectedEOF
			}
			return acknowledging(req)
		}), Config{MinDwell: time.Hour, ProbeInterval: -1})
		var callers sync.WaitGroup
		for _, kind := range []string{"carriedout", "refused", "lost"} {
			callers.Go(func() { post(t, transport, "/api/data/v9.2/"+kind, kind, "", "") })
		}
		synctest.Wait()
		kinds := []string{"carriedout", "lost", "refused"}
		sorted := func(writes []Write) []string { list := labels(writes); slices.Sort(list); return list }
		assert.Equal(t, kinds, sorted(transport.WritesSince(time.Now()).Unknown), "nobody knows yet")
		require.NoError(t, transport.Switch(t.Context(), Alternate, "by hand"))
		first := transport.Status().Loss
		assert.Empty(t, first.AtRisk)
		assert.Equal(t, kinds, sorted(first.Unknown))
		close(release)
		callers.Wait()
		last := transport.Status().Loss
		assert.Equal(t, []string{"carriedout"}, labels(last.AtRisk))
		assert.Equal(t, []string{"lost"}, labels(last.Unknown))
		assert.Equal(t, kinds, sorted(first.Unknown), "what was given out does not change")
		assert.Nil(t, transport.books.sent, "nothing is under way")
		transport.Close()
	})
}

// A Base that panics leaves no write under way.
func TestABaseThatPanicsLeavesNothingUnderWay(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, roundTripFunc(func(*http.Request) (*http.Response, error) { panic("bug") }), Config{})
	assert.Panics(t, func() { post(t, transport, "/api/data/v9.2/accounts", "", "", "") })
	assert.Nil(t, transport.books.sent)
}

// Four thousand callers wait as the traffic moves: one event a second tells of them.
func TestManyLateWritesAreFewEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers = 4000
		release := make(chan struct{})
		var grown []Event
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if req.Method == http.MethodPost {
				<-release
			}
			return acknowledging(req)
		}), Config{MinDwell: time.Hour, ProbeInterval: -1, OnEvent: func(e Event) {
			if e.Kind == EventLossGrown {
				grown = append(grown, e)
			}
		}})
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() { post(t, transport, "/api/data/v9.2/accounts", "late", "", "") })
		}
		synctest.Wait()
		require.NoError(t, transport.Switch(t.Context(), Alternate, "by hand"))
		close(release)
		wg.Wait()
		time.Sleep(5 * growthInterval)
		synctest.Wait()
		require.NotEmpty(t, grown)
		assert.LessOrEqual(t, len(grown), 2)
		last := grown[len(grown)-1]
		assert.Len(t, last.Loss.AtRisk, callers)
		assert.Same(t, transport.Status().Loss, last.Loss)
		for _, e := range transport.Status().Events {
			assert.NotEqual(t, 0, len(e.Reason))
		}
		assert.True(t, slices.ContainsFunc(transport.Status().Events, func(e Event) bool { return e.Kind == EventSwitched }), "the switch is not pushed out")
		transport.Close()
	})
}
