package failover_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// redirecting is an organization with two servers that redirect as told, and a client behind a
// Transport.
type redirecting struct {
	primary, alternate *httptest.Server
	serves             [2]atomic.Bool // passes its probe
	hangsUp            [2]atomic.Bool // answers nothing
	redirect           sync.Map       // host and path to the Location of the answer
	client             *http.Client
	transport          *failover.Transport

	mu   sync.Mutex
	seen []string // "primary POST /x body", except probes
}

func startRedirecting(t *testing.T) *redirecting {
	r := new(redirecting)
	server := func(e failover.Endpoint) *httptest.Server {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if r.hangsUp[e].Load() {
				panic(http.ErrAbortHandler)
			}
			if strings.HasSuffix(req.URL.Path, "/WhoAmI") {
				if !r.serves[e].Load() {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				fmt.Fprint(w, `{"OrganizationId":"00000000-0000-0000-0000-000000000001"}`)
				return
			}
			body, _ := io.ReadAll(req.Body)
			r.mu.Lock()
			r.seen = append(r.seen, strings.TrimSpace(fmt.Sprint(e, " ", req.Method, " ", req.URL.Path, " ", string(body))))
			r.mu.Unlock()
			if location, ok := r.redirect.Load(e.String() + req.URL.Path); ok {
				w.Header().Set("Location", location.(string))
				w.WriteHeader(http.StatusTemporaryRedirect)
				return
			}
			fmt.Fprint(w, e)
		}))
		t.Cleanup(s.Close)
		return s
	}
	r.primary, r.alternate = server(failover.Primary), server(failover.Alternate)
	r.serves[failover.Primary].Store(true)
	base := r.primary.Client().Transport // trusts both, which share a certificate
	var err error
	r.client, r.transport, err = failover.Wrap(nil, r.primary.URL, &failover.Config{
		Base: base, Alternate: r.alternate.URL, ProbeInterval: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { r.transport.Close() })
	return r
}

// post sends a body, follows redirects, and returns the answer or the error.
func (r *redirecting) post(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("contoso"))
	require.NoError(t, err)
	resp, err := r.client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

func (r *redirecting) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

// A client behind a Transport follows a redirect between the two endpoints as a bare client
// does: with the same requests to the same places.
func TestARedirectBetweenTheEndpointsIsFollowed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name      string
		redirects map[string]string // P and A stand for the origins
		active    failover.Endpoint
		ask       string
		want      []string
		answer    string
	}{
		{name: "to the alternate", redirects: map[string]string{"primary/x": "A/y"}, ask: "P/x",
			want: []string{"primary POST /x contoso", "alternate POST /y contoso"}, answer: "alternate"},
		{name: "on from there", redirects: map[string]string{"primary/x": "A/y", "alternate/y": "/z", "alternate/z": "A/w"}, ask: "P/x",
			want: []string{"primary POST /x contoso", "alternate POST /y contoso", "alternate POST /z contoso", "alternate POST /w contoso"}, answer: "alternate"},
		{name: "and back", redirects: map[string]string{"primary/x": "A/y", "alternate/y": "P/z"}, ask: "P/x",
			want: []string{"primary POST /x contoso", "alternate POST /y contoso", "primary POST /z contoso"}, answer: "primary"},
		{name: "within the primary", redirects: map[string]string{"primary/x": "P/y", "primary/y": "/z"}, ask: "P/x",
			want: []string{"primary POST /x contoso", "primary POST /y contoso", "primary POST /z contoso"}, answer: "primary"},
		{name: "to the primary", redirects: map[string]string{"alternate/x": "P/y"}, active: failover.Alternate, ask: "A/x",
			want: []string{"alternate POST /x contoso", "primary POST /y contoso"}, answer: "primary"},
		{name: "within the alternate", redirects: map[string]string{"alternate/x": "A/y", "alternate/y": "/z"}, active: failover.Alternate, ask: "A/x",
			want: []string{"alternate POST /x contoso", "alternate POST /y contoso", "alternate POST /z contoso"}, answer: "alternate"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var got [2][]string
			for i := range got { // bare, then behind a Transport
				r := startRedirecting(t)
				origins := strings.NewReplacer("P", r.primary.URL, "A", r.alternate.URL)
				for from, to := range row.redirects {
					r.redirect.Store(from, strings.NewReplacer("P/", r.primary.URL+"/", "A/", r.alternate.URL+"/").Replace(to))
				}
				if i == 0 {
					r.client = r.primary.Client()
				}
				r.transport.Pin(row.active) // the endpoint that redirects; other tests check what the redirect leads to
				assert.Equal(t, row.answer, r.post(t, origins.Replace(row.ask)))
				got[i] = r.requests()
			}
			assert.Equal(t, row.want, got[0], "bare")
			assert.Equal(t, row.want, got[1])
		})
	}
}

// If the caller names the primary while the alternate is active, redirects within the
// alternate stay there, although they name the primary by then.
func TestARedirectWithinTheActiveAlternateStaysThere(t *testing.T) {
	t.Parallel()
	r := startRedirecting(t)
	r.redirect.Store("alternate/x", r.alternate.URL+"/y")
	r.transport.Pin(failover.Alternate)
	assert.Equal(t, "alternate", r.post(t, r.primary.URL+"/x"))
	assert.Equal(t, []string{"alternate POST /x contoso", "alternate POST /y contoso"}, r.requests())
}

// http.Client removes credentials from a request that follows a redirect to another host. A
// redirect within an endpoint never looks like one, whichever endpoint the caller names.
func TestAClientKeepsItsCredentialsWhereAnEndpointRedirectsToItself(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"contoso.crm.dynamics.com", "contoso--s.crm.dynamics.com", "contoso.api.crm.dynamics.com", "contoso--s.api.crm.dynamics.com"} {
		for _, active := range []failover.Endpoint{failover.Primary, failover.Alternate} {
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(req.Header.Get("Authorization"))), Request: req}
				if req.URL.Path == "/x" {
					resp.StatusCode = http.StatusTemporaryRedirect
					resp.Header.Set("Location", "https://"+req.URL.Host+"/y")
				}
				return resp, nil
			})
			client, transport, err := failover.Wrap(nil, "https://contoso.crm.dynamics.com", &failover.Config{Base: base, ProbeInterval: -1, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			defer transport.Close()
			transport.Pin(active)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+"/x", nil)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer canary")
			resp, err := client.Do(req)
			require.NoError(t, err)
			text, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			assert.Equal(t, "Bearer canary", string(text), "%s, %v", host, active)
			assert.Equal(t, "https://"+host+"/y", resp.Request.URL.String(), "the %v", active)
		}
	}
}

func TestEndpointsThatRedirectToEachOtherAreLeftToTheClient(t *testing.T) {
	t.Parallel()
	r := startRedirecting(t)
	r.redirect.Store("primary/x", r.alternate.URL+"/x")
	r.redirect.Store("alternate/x", r.primary.URL+"/x")
	r.transport.Pin(failover.Primary)
	assert.Contains(t, r.post(t, r.primary.URL+"/x"), "stopped after 10 redirects")
	assert.Len(t, r.requests(), 10)
}

// A redirect to the other endpoint is the service's own word: both endpoints are probed.
func TestARedirectToTheOtherEndpointAsksBoth(t *testing.T) {
	t.Parallel()
	t.Run("the other serves", func(t *testing.T) {
		t.Parallel()
		r := startRedirecting(t)
		r.serves[failover.Alternate].Store(true)
		r.redirect.Store("primary/x", r.alternate.URL+"/x")
		assert.Equal(t, "alternate", r.post(t, r.primary.URL+"/x"))
		require.Eventually(t, func() bool { return r.transport.Status().Active == failover.Alternate }, time.Minute, 5*time.Millisecond)
		assert.Equal(t, "alternate", r.post(t, r.primary.URL+"/x"))
		assert.Equal(t, []string{"primary POST /x contoso", "alternate POST /x contoso", "alternate POST /x contoso"}, r.requests())
	})
	t.Run("the other does not", func(t *testing.T) {
		t.Parallel()
		r := startRedirecting(t)
		r.redirect.Store("primary/x", r.alternate.URL+"/x")
		assert.Equal(t, "alternate", r.post(t, r.primary.URL+"/x"))
		require.Eventually(t, func() bool { return !r.transport.Status().Alternate.LastProbe.IsZero() }, time.Minute, 5*time.Millisecond)
		status := r.transport.Status()
		assert.Equal(t, failover.Primary, status.Active)
		assert.False(t, status.Down)
		assert.Equal(t, "primary", r.post(t, r.primary.URL+"/y"))
	})
}

// Faults count for their own endpoint: one that a redirect led to counts for neither.
func TestAFaultBehindARedirectDoesNotTripTheActiveEndpoint(t *testing.T) {
	t.Parallel()
	r := startRedirecting(t)
	r.redirect.Store("primary/x", r.alternate.URL+"/x")
	r.hangsUp[failover.Alternate].Store(true) // a port that is closed may soon be another test's
	for range 5 {
		assert.Contains(t, r.post(t, r.primary.URL+"/x"), "EOF")
	}
	status := r.transport.Status()
	assert.Equal(t, failover.Primary, status.Active)
	assert.Equal(t, failover.StateClosed, status.Primary.State)
	assert.Empty(t, status.Primary.Faults)
	assert.Equal(t, "primary", r.post(t, r.primary.URL+"/y"))
}
