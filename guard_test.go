package failover

import (
	"net/http"
	"strings"
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
			name: "creation without an address", reason: "there is nothing to compare an update with",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/contoso_readings", Status: 201}, method: "PATCH", path: accountA,
		},
		{
			name: "creation that failed halfway", reason: "nothing says that there was a record",
			risk: Write{Method: "POST", Path: "/api/data/v9.2/accounts", Status: 400, Outcome: OutcomePartial}, named: accountA, method: "PATCH", path: accountA,
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
			for _, to := range []Endpoint{Alternate, Primary} { // with a switch, and at the end of an outage without one
				b, w := newBooks(8), endedWrite{Write: tt.risk, named: tt.named}
				w.Time = time.Now()
				b.record(&w)
				assert.False(t, b.guards(req), "before there is a report")
				r := b.report(Primary, to, 1, time.Now(), "")
				assert.Len(t, r.AtRisk, 1)
				assert.Equal(t, to != Primary, r.Moved())
				assert.Equal(t, tt.guarded, b.guards(req), tt.reason)
				assert.NotContains(t, b.guarded, "", "no record has that address")
			}
		})
	}
}

// On the wire, with credentials of the Transport and with the caller's.
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
			"forgotten report", "an update would create it all the same", func(b *books, _ *LossReport) {
				b.record(&endedWrite{Write: Write{Time: time.Now().Add(time.Hour), Method: "POST", Path: "/api/data/v9.2/accounts"}, began: 1})
				for n := range maxReports {
					b.report(Primary, Primary, uint64(n+2), time.Now(), "")
				}
			}, false,
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
