package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

// The check runs in worlds with one problem each, and must print what to fix.
func TestSaysTheRightThing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		world  func(*world)
		answer string
		exit   int
		words  []string // in the printed report, whose line breaks are taken out
		mend   string   // in the first thing to mend, "" if there is none
	}{
		{
			name: "all is well", world: func(*world) {}, answer: "yes", exit: 0,
			words: []string{"as it should before a failover", "HTTP/2.0", "TTL 60 s", "alias of eur-front.contoso.example",
				"agrees to the second", "fence: says that it does not serve", "failover available: yes"},
		},
		{
			name: "no name of the primary", world: func(w *world) { w.zone.set(w.primary.Host, "") }, answer: "no", exit: 1,
			words: []string{"✗ no such host", "- not reached"}, mend: "does not exist in DNS",
		},
		{
			name: "no name of the alternate that the organization says it has", world: func(w *world) { w.zone.set(w.alternate.Host, "") },
			answer: "cannot tell", exit: 2, mend: "Some names appear only with the failover",
		},
		{
			name:   "expired certificate",
			world:  func(w *world) { w.org.Alternate().Fail(failovertest.ExpiredCertificate()) },
			answer: "no", exit: 1, words: []string{"expired or is not valid yet", "failovertest authority"}, mend: "Check the clock of this machine first",
		},
		{
			name:   "certificate of a device in between",
			world:  func(w *world) { w.org.Primary().Fail(failovertest.BadCertificate()) },
			answer: "no", exit: 1, mend: "a device of your own that inspects TLS",
		},
		{
			name: "wrong audience", world: func(w *world) {
				own := w.source
				w.source = func(ctx context.Context, audience string) (string, error) {
					if strings.Contains(audience, "--s") {
						return token("https://contoso.crm.dynamics.com"), nil
					}
					return own(ctx, audience)
				}
			},
			answer: "no", exit: 1, words: []string{"✗ asks for contoso--s.crm.dynamics.com", "token is for contoso.crm.dynamics.com", "401: rejects the token"},
			mend: "requires tokens for contoso--s.crm.dynamics.com, but this one is for contoso.crm.dynamics.com",
		},
		{
			name: "an alternate that asks for tokens for the primary", world: func(w *world) {
				own := "Bearer " + w.org.Token("contoso--s.crm.dynamics.com")
				w.org.Alternate().FailWhen(func(r *http.Request) bool {
					return r.Header.Get("Authorization") == own || r.Header.Get("Authorization") == ""
				}, failovertest.Status(http.StatusUnauthorized, http.Header{"Www-Authenticate": {
					"Bearer authorization_uri=https://login.example/authorize, resource_id=https://contoso.crm.dynamics.com/"}}, ""))
			},
			answer: "yes", exit: 0, words: []string{"! asks for contoso.crm.dynamics.com", "rejected contoso--s.crm.dynamics.com", "· fence: says"},
			mend: "accepts only tokens for contoso.crm.dynamics.com, not for its own address",
		},
		{
			name: "no token for the address of the alternate", world: func(w *world) {
				own := w.source
				w.source = func(ctx context.Context, audience string) (string, error) {
					if strings.Contains(audience, "--s") {
						return "", errors.New("the sign-in service answered 400 (AADSTS500011)")
					}
					return own(ctx, audience)
				}
			},
			answer: "yes", exit: 0, words: []string{"! accepts contoso.crm.dynamics.com", "AADSTS500011"}, mend: "issues no tokens for contoso--s.api.crm.dynamics.com",
		},
		{
			name: "an alternate that asks for tokens for a stranger", world: func(w *world) {
				own := w.source
				w.source = func(ctx context.Context, audience string) (string, error) {
					assert.NotContains(w.t, audience, "stranger", "no token is asked for that would be good elsewhere")
					return own(ctx, audience)
				}
				w.org.Alternate().Fail(failovertest.Status(http.StatusUnauthorized, http.Header{"Www-Authenticate": {
					"Bearer authorization_uri=https://login.example/authorize, resource_id=https://stranger.example/"}}, ""))
			},
			answer: "no", exit: 1, mend: "requires tokens for stranger.example",
		},
		{
			name: "other organization", world: func(w *world) {
				other := failovertest.Start(&failovertest.Config{Host: w.alternate.Host, AlternateHost: "fabrikam.crm.dynamics.com"})
				w.t.Cleanup(other.Close)
				first, second := w.network.Dial, other.Transport().DialContext
				w.network.Dial = dialBy(map[string]dialer{w.primary.Host: first, w.alternate.Host: second})
				own := w.source
				w.source = func(ctx context.Context, audience string) (string, error) {
					if strings.Contains(audience, "--s") {
						return other.Token(w.alternate.Host), nil
					}
					return own(ctx, audience)
				}
			},
			answer: "no", exit: 1, words: []string{"✗ another organization"}, mend: "serves a different organization",
		},
		{
			name:   "fenced on both sides",
			world:  func(w *world) { w.org.Primary().Fence() },
			answer: "cannot tell", exit: 2, mend: "Neither endpoint serves the organization now",
		},
		{
			name:   "failed over right now",
			world:  func(w *world) { w.org.FailOver() },
			answer: "yes", exit: 0, words: []string{"is failed over now", "contoso--s.api.crm.dynamics.com serves it"},
		},
		{
			name: "proxy refuses the alternate", world: func(w *world) {
				w.proxy(func(host string) int {
					if strings.Contains(host, "--s") {
						return http.StatusForbidden
					}
					return http.StatusOK
				})
			},
			answer: "no", exit: 1, words: []string{"refuses (403)", "no such host here; the proxy resolves it"}, mend: "refuses to connect to contoso--s.api.crm.dynamics.com (403)",
		},
		{
			name: "proxy asks for a login", world: func(w *world) {
				w.proxy(func(string) int { return http.StatusProxyAuthRequired })
			},
			answer: "no", exit: 1, mend: "requires a login to connect",
		},
		{
			name: "clock off", world: func(w *world) {
				w.now = func() time.Time { return time.Now().Add(-7 * time.Minute) }
			},
			answer: "no", exit: 1, words: []string{"behind by 7 min 0 s"}, mend: "set up NTP",
		},
		{
			name: "clock a little off", world: func(w *world) {
				w.now = func() time.Time { return time.Now().Add(time.Minute) }
			},
			answer: "yes", exit: 0, words: []string{"with 1 reservation"}, mend: "set up NTP",
		},
		{
			name: "only one address, as the command line says", world: func(w *world) { w.alternate = nil }, answer: "yes", exit: 0,
			words: []string{"has one address", "self-service disaster recovery"},
		},
		{
			name: "only one address, as the organization says", world: func(w *world) {
				w.serve(failovertest.Start(&failovertest.Config{OneAddress: true}))
				w.zone.set(w.alternate.Host, "")
			}, answer: "yes", exit: 0,
			words: []string{"has one address (contoso--s.api.crm.dynamics.com does not exist, and the organization does not claim", "· no such host"},
		},
		{
			name: "an alternate that accepts tokens for the primary only", world: func(w *world) {
				w.org.Alternate().AcceptAudiences("contoso.crm.dynamics.com")
				w.org.FailOver()
			},
			// The challenge of the simulator names the address that was asked.
			answer: "no", exit: 1, words: []string{"401: rejects the token"}, mend: "rejects the token although the audience is right",
		},
		{
			name: "Finance and Operations", world: func(w *world) {
				w.serve(failovertest.Start(&failovertest.Config{Host: "contoso.operations.dynamics.com"}))
				w.primary, w.alternate = mustParse(w.t, w.org.URL()), nil
				w.zone.set(w.primary.Host, "192.0.2.10")
			}, answer: "yes", exit: 0,
			words: []string{"has one address", "not read: there is no WSDL", "✓ 200"},
		},
		{
			name: "HTTP/2 off", world: (*world).http1, answer: "yes", exit: 0,
			words: []string{"! HTTP/1.1"}, mend: "prevents HTTP/2",
		},
		{
			name: "slow", world: func(w *world) {
				w.org.Alternate().Fail(failovertest.Delay(400 * time.Millisecond))
				w.probe = 300 * time.Millisecond
			},
			answer: "no", exit: 1, words: []string{"✗ HTTP/2.0 round trip"}, mend: "set Config.ProbeTimeout",
		},
		{
			name: "nothing listens", world: func(w *world) { w.org.Alternate().Fail(failovertest.Refuse()) },
			answer: "no", exit: 1, words: []string{"connection refused"}, mend: "If there is a firewall",
		},
		{
			name: "a firewall that drops", world: func(w *world) {
				w.org.Alternate().Fail(failovertest.BlackHole())
				dial := w.network.Dial
				w.network.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if strings.HasPrefix(addr, w.alternate.Hostname()) { // only this one has so little time
						short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
						defer cancel()
						ctx = short
					}
					return dial(ctx, network, addr)
				}
			},
			answer: "no", exit: 1, words: []string{"✗ no answer in time"}, mend: "Cannot connect to port 443 of contoso--s.api.crm.dynamics.com (no answer in time)",
		},
		{
			name: "nobody signed in", world: func(w *world) { w.source = nil }, answer: "cannot tell", exit: 2,
			words: []string{"401: requires a token", "no token was sent"}, mend: "Sign in",
		},
		{
			name: "the hosts file fixes the address", world: func(w *world) {
				require.NoError(w.t, os.WriteFile(w.network.Hosts, []byte("192.0.2.10 "+w.primary.Host+" # for now\n"), 0o600))
			},
			answer: "no", exit: 1, words: []string{"fixed in the hosts file"}, mend: "Remove the line",
		},
		{
			name: "an outage", world: func(w *world) { w.org.Primary().Fail(failovertest.OutagePage()) },
			answer: "cannot tell", exit: 2, mend: "fails at the moment",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tt.world(w)
			report, printed := w.check()
			t.Log("\n" + printed)
			assert.Equal(t, tt.answer, report.Verdict.Answer)
			assert.Equal(t, tt.exit, report.Verdict.Exit())
			flat := strings.Join(strings.Fields(strings.ReplaceAll(printed, "│", " ")), " ")
			for _, words := range tt.words {
				assert.True(t, found(printed, words), "the report says %q:\n%s\n%s", words, printed, flat)
			}
			if tt.mend == "" {
				assert.Empty(t, report.Verdict.Mend)
				return
			}
			if assert.NotEmpty(t, report.Verdict.Mend) {
				assert.Contains(t, report.Verdict.Mend[0], tt.mend)
			}
			assert.NotContains(t, printed, "hunter2", "the password of the proxy is not shown")
		})
	}
}

// found reports whether a report holds the words, which may be broken over the
// lines of one column.
func found(printed, words string) bool {
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
	columns := make([]strings.Builder, 3)
	var plain strings.Builder
	for line := range strings.Lines(printed) {
		cells := strings.Split(line, "│")
		if len(cells) == 1 {
			plain.WriteString(line)
		}
		for i, cell := range cells {
			if i < len(columns) {
				columns[i].WriteString(cell)
			}
		}
	}
	for _, column := range columns {
		if strings.Contains(squeeze(column.String()), squeeze(words)) {
			return true
		}
	}
	return strings.Contains(squeeze(plain.String()), squeeze(words))
}

// The whole command runs against a server whose certificate this machine does not trust, so
// the check ends there.
func TestMainOnThisMachine(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	var out, problems bytes.Buffer
	assert.Equal(t, 1, Main(t.Context(), []string{server.URL, "-sign-in", "none", "-json"}, &out, &problems))
	assert.Empty(t, problems.String())
	var report Report
	require.NoError(t, json.Unmarshal(out.Bytes(), &report))
	assert.Equal(t, "no", report.Verdict.Answer)
	require.Len(t, report.Endpoints, 1)
	assert.Contains(t, report.Endpoints[0].TLS.Error, "does not trust")
	assert.Equal(t, "Acme Co", report.Endpoints[0].TLS.Chain[0].Issuer)

	out.Reset()
	assert.Equal(t, 1, Main(t.Context(), []string{server.URL, "-sign-in", "none"}, &out, &problems))
	assert.Contains(t, out.String(), "✗ the certificate is from an authority")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Equal(t, 2, Main(ctx, []string{server.URL, "-sign-in", "none"}, &out, &problems))
	assert.Contains(t, problems.String(), "interrupted")
}
