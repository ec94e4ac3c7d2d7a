package failover_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/internal/machine"
)

// Network behaviour over real TLS connections.

func overSockets(t *testing.T, cfg failover.Config) (*failovertest.Org, *http.Client, *failover.Transport) {
	t.Helper()
	org := failovertest.Start(nil)
	t.Cleanup(org.Close)
	cfg.Base, cfg.Authorize, cfg.Logger = org.Transport(), org.Authorize, slog.New(slog.DiscardHandler)
	client, transport, err := failover.Wrap(nil, org.URL(), &cfg)
	require.NoError(t, err)
	t.Cleanup(func() { transport.Close() })
	return org, client, transport
}

func TestSurvivesADisasterOverTLS(t *testing.T) {
	t.Parallel()
	outages := map[string]failovertest.Failure{
		"refused":         failovertest.Refuse(),
		"DNS gone":        failovertest.NoSuchHost(),
		"bad certificate": failovertest.BadCertificate(),
		"fenced":          {},
	}
	for name, outage := range outages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			org, client, transport := overSockets(t, failover.Config{})
			post := func() {
				resp, err := client.Post(org.URL()+accounts, "application/json", strings.NewReader(`{"name":"Contoso"}`))
				require.NoError(t, err)
				defer resp.Body.Close()
				assert.Equal(t, 204, resp.StatusCode)
			}
			post() // leaves a connection to be cut
			org.Disaster(outage)
			post()
			assert.Equal(t, failover.Alternate, transport.Status().Active)
			assert.Equal(t, 1, deliveries(org.Alternate(), http.MethodPost))
			org.Primary().Heal()
			org.FailBack()
			post()
			assert.Equal(t, failover.Primary, transport.Status().Active)
		})
	}
}

func TestAWriteInDoubtOverTLS(t *testing.T) {
	t.Parallel()
	for _, moment := range []failovertest.Moment{failovertest.BeforeRequest, failovertest.BeforeAnswer, failovertest.AfterApply} {
		for _, warm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, connection used before %v", moment, warm), func(t *testing.T) {
				t.Parallel()
				org, client, _ := overSockets(t, failover.Config{})
				org.Alternate().Serve()
				if warm {
					resp, err := client.Get(org.URL() + accounts)
					require.NoError(t, err)
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				org.Primary().Fail(failovertest.Reset(moment))
				_, err := client.Post(org.URL()+accounts, "application/json", strings.NewReader(`{"name":"Contoso"}`))
				require.ErrorIs(t, err, failover.ErrOutcomeUnknown)
				assert.LessOrEqual(t, deliveries(org.Primary(), http.MethodPost), 1)
				assert.Zero(t, deliveries(org.Alternate(), http.MethodPost))
			})
		}
	}
}

// A proxy that refuses the tunnel has not seen the request. net/http says so only in words.
func TestAProxyThatRefusesTheTunnelHasSentNothing(t *testing.T) {
	t.Parallel()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	base := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }}
	transport, err := failover.New(orgURL, &failover.Config{Base: base, MaxAttempts: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	req, err := http.NewRequest(http.MethodPost, orgURL+accounts, strings.NewReader("{}"))
	require.NoError(t, err)
	_, err = transport.RoundTrip(req)
	var f *failover.Fault
	require.ErrorAs(t, err, &f)
	assert.Equal(t, failover.NotSent, f.Delivery)
	assert.Equal(t, failover.ClassUnavailable, f.Class)
	assert.NotErrorIs(t, err, failover.ErrOutcomeUnknown)
}

func TestAnUpgradedConnectionIsTheCallers(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "contoso")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		line, _ := rw.ReadString('\n')
		rw.WriteString("echo " + line)
		rw.Flush()
	}))
	defer server.Close()
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", AttemptTimeout: time.Minute})
	require.NoError(t, err)
	defer transport.Close()
	req, err := http.NewRequest(http.MethodGet, server.URL+"/socket", nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "contoso")
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	conn, ok := resp.Body.(io.ReadWriteCloser)
	require.True(t, ok)
	defer conn.Close()
	_, err = conn.Write([]byte("hello\n"))
	require.NoError(t, err)
	reply, err := io.ReadAll(conn)
	require.NoError(t, err)
	assert.Equal(t, "echo hello\n", string(reply))
}

func TestTheDefaultBaseHasATimeoutAndPings(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }))
	defer server.Close()
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "https://127.0.0.1:1", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	req, err := http.NewRequest(http.MethodGet, server.URL, nil)
	require.NoError(t, err)
	_, err = transport.RoundTrip(req)
	var unknown *tls.CertificateVerificationError
	require.ErrorAs(t, err, &unknown, "the default base verifies certificates")
}

func TestACaptivePortalIsNotASuccess(t *testing.T) {
	t.Parallel()
	base := &script{probe: onlyPrimaryServes, answers: answers(answer(200, "<html><body>Please sign in</body></html>", "Content-Type", "text/html"))}
	transport, err := failover.New(orgURL, &failover.Config{Base: base, MaxAttempts: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	req, err := http.NewRequest(http.MethodGet, orgURL+accounts, nil)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.True(t, bytes.HasPrefix(body, []byte("<html>")), "it goes through as it came")
	assert.EqualValues(t, 1, transport.Status().Primary.Faults[failover.ClassTransient])
}

func TestAHangingServerIsLeftOverTLS(t *testing.T) {
	t.Parallel()
	var org *failovertest.Org
	var transport *failover.Transport
	var resp *http.Response
	var err error
	machine.Try(func() bool { // the alternate has two seconds as well
		var client *http.Client
		org, client, transport = overSockets(t, failover.Config{AttemptTimeout: 2 * time.Second, ProbeTimeout: 2 * time.Second})
		org.Alternate().Serve()
		org.Primary().Fail(failovertest.Hang())
		resp, err = client.Get(org.URL() + accounts)
		return err == nil
	})
	require.NoError(t, err)
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, failover.Alternate, transport.Status().Active)
	for _, r := range org.Primary().Deliveries() {
		assert.Equal(t, "HTTP/2.0", r.Proto)
	}
}
