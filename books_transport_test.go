package failover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newTestTransport returns a Transport over base, and closes it at the end of the test.
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

// post sends a labelled POST and returns its status, or 0 for an error.
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

// What a batch did before it failed is at risk like any other write.
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
		{"batch, a limit of service protection", "it is refused before any part runs", "/api/data/v9.2/$batch", "multipart/mixed;boundary=b", "--b\r\n\r\nPOST /x HTTP/1.1\r\n\r\n--b--", 429, "application/json", `{"error":{"code":"0x80072322","message":"Number of requests exceeded the limit"}}`, nil},
		{"batch, throttled", "of elastic tables, parts may have been carried out", "/api/data/v9.2/$batch", "multipart/mixed;boundary=b", "--b\r\n\r\nPOST /x HTTP/1.1\r\n\r\n--b--", 429, "application/json", "{}", []Outcome{OutcomePartial}},
		{"batch, a part is not allowed", "the service says so, perhaps after other parts", "/api/data/v9.2/$batch", "multipart/mixed;boundary=b", "--b\r\n\r\nPOST /x HTTP/1.1\r\n\r\n--b--", 403, "application/json", `{"error":{"code":"0x80040220","message":"Contoso"}}`, []Outcome{OutcomePartial}},
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
		lastSync := time.Now().Round(0) // with the precision that a page shows
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

func TestOnWriteIsCalledInOrder(t *testing.T) {
	t.Parallel()
	for _, ledgerSize := range []int{0, -1} { // with and without a ledger
		synctest.Test(t, func(t *testing.T) {
			var told []string
			var transport *Transport
			transport = newTestTransport(t, acknowledging, Config{LedgerSize: ledgerSize, OnWrite: func(w Write) {
				transport.Status() // calling the Transport is allowed
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
		synctest.Wait() // OnWrite has the first
		for range 4096 + 7 {
			post(t, transport, "/api/data/v9.2/accounts", "", "", "")
		}
		assert.EqualValues(t, 7, transport.Status().WritesDropped)
		close(block)
		transport.Close()
		assert.Equal(t, 1+4096, told)
		assert.Contains(t, log.String(), "dropped=7")
		post(t, transport, "/api/data/v9.2/accounts", "", "", "") // after Close
		assert.Equal(t, 1+4096, told)
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
		assert.Equal(t, 100, n, "no more than that for one report")
		assert.Positive(t, more)
		transport.Close()
	})
}

// syncBuffer may be written and read concurrently.
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

// A write that is in progress during a switch stays in progress, and is listed until its
// answer says more.
func TestWritesInProgressAreListed(t *testing.T) {
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
		for _, w := range first.Unknown {
			assert.Equal(t, OutcomeUnknown, w.Outcome)
			assert.Equal(t, Primary, w.Endpoint)
		}
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

// After a panic of Base, no write counts as in progress.
func TestABaseThatPanicsLeavesNothingInProgress(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, roundTripFunc(func(*http.Request) (*http.Response, error) { panic("bug") }), Config{})
	assert.Panics(t, func() { post(t, transport, "/api/data/v9.2/accounts", "", "", "") })
	assert.Nil(t, transport.books.sent)
}

// Four thousand writes are in progress during a switch: one event a second reports them.
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

// A write that ends after Close is added to the report, but starts no goroutine to announce
// it.
func TestNothingIsAnnouncedAfterClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := newTestTransport(t, acknowledging, Config{MinDwell: time.Hour, ProbeInterval: -1, OnWrite: func(Write) { t.Error("reported") }})
		require.NoError(t, transport.Switch(t.Context(), Alternate, "by hand"))
		transport.Close()
		transport.recordWrite(ended(Primary, OutcomeAcknowledged, time.Now(), "late"))
		synctest.Wait()
		told := transport.books.grown()
		require.Len(t, told, 1)
		assert.Equal(t, "late", told[0].last.Label)
		assert.Equal(t, []string{"late"}, labels(transport.Status().Loss.AtRisk))
	})
}

// Growth is announced at once, but not twice within a second.
func TestGrowthIsAnnouncedOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var announced []time.Duration
		began := time.Now()
		transport := newTestTransport(t, acknowledging, Config{MinDwell: time.Hour, ProbeInterval: -1, OnEvent: func(e Event) {
			if e.Kind == EventLossGrown {
				announced = append(announced, time.Since(began))
			}
		}})
		require.NoError(t, transport.Switch(t.Context(), Alternate, "by hand"))
		began = time.Now()
		for _, pause := range []time.Duration{0, 1500 * time.Millisecond, 200 * time.Millisecond} {
			time.Sleep(pause)
			transport.recordWrite(ended(Primary, OutcomeAcknowledged, time.Now(), "late"))
		}
		time.Sleep(time.Minute)
		transport.Close()
		assert.Equal(t, []time.Duration{0, 1500 * time.Millisecond, 2500 * time.Millisecond}, announced)
	})
}
