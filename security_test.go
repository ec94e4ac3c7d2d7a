package failover_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// This file plays the adversaries of SECURITY.md against a whole Transport. The unit tests of
// addresses, errors and bodies cover the details.

const alternateURL = "https://contoso--s.api.crm.dynamics.com"

// secret marks what no stranger may see and no text may show. What follows it says where it
// was planted.
const secret = "CANARY-"

var secrets = regexp.MustCompile(secret + "[a-z-]*")

var quietLog = slog.New(slog.DiscardHandler)

// hostileNetwork is a network in which every name leads to the same server, which has a
// certificate for every name. Only the client's own care keeps credentials from strangers.
type hostileNetwork struct {
	*http.Transport
	mu      sync.Mutex
	seen    map[string]bool  // origins that received a secret
	handler http.HandlerFunc // answers, if set
}

func newHostileNetwork(t *testing.T) *hostileNetwork {
	n := &hostileNetwork{seen: make(map[string]bool)}
	secure, plain := httptest.NewTLSServer(n), httptest.NewServer(n)
	n.Transport = &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			server := secure
			if strings.HasSuffix(address, ":80") {
				server = plain
			}
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		},
	}
	t.Cleanup(func() {
		n.CloseIdleConnections()
		secure.Close()
		plain.Close()
	})
	return n
}

// ServeHTTP records who receives a secret. It redirects requests for /to as the query says,
// and otherwise answers for the organization.
func (n *hostileNetwork) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	origin := "http://" + r.Host
	if r.TLS != nil {
		origin = "https://" + r.TLS.ServerName // the host that the client believes it talks to
		if _, port, err := net.SplitHostPort(r.Host); err == nil {
			origin += ":" + port
		}
	}
	var sent bytes.Buffer
	r.Header.Write(&sent)
	n.mu.Lock()
	if strings.Contains(sent.String(), secret) {
		n.seen[origin] = true
	}
	n.mu.Unlock()
	switch {
	case n.handler != nil:
		n.handler(w, r)
	case r.URL.Path == "/to":
		to := r.URL.Query().Get("url")
		w.Header().Set("Location", to)
		w.Header().Set("Content-Location", to)
		w.Header().Set("OData-EntityId", to)
		w.Header().Set("Operation-Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	default:
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"OrganizationId":"11111111-2222-3333-4444-555555555555"}`)
	}
}

// strangers returns the origins outside the pair that received a secret.
func (n *hostileNetwork) strangers() (list []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for origin := range n.seen {
		if origin != orgURL && origin != alternateURL {
			list = append(list, origin)
		}
	}
	slices.Sort(list)
	return list
}

// elsewhere are addresses that a hostile answer may lead to.
var elsewhere = []struct{ name, url, why string }{
	{"a stranger", "https://contoso.example/collect", "the plain case"},
	{"a path-relative stranger", "//contoso.example/collect", "an address without a scheme still names a host"},
	{"the organization as a label", orgURL + ".contoso.example/", "prefixes are not hosts"},
	{"below the organization", "https://www.contoso.api.crm.dynamics.com/", "suffixes are not hosts"},
	{"another organization", "https://fabrikam.api.crm.dynamics.com/", "the same service, another tenant"},
	{"another region", "https://contoso.api.crm4.dynamics.com/", "the same name, another organization"},
	{"one hyphen", "https://contoso-s.api.crm.dynamics.com/", "looks like the alternate"},
	{"three hyphens", "https://contoso---s.api.crm.dynamics.com/", "looks like the alternate"},
	{"the alternate of the alternate", "https://contoso--s--s.api.crm.dynamics.com/", "the rule is applied once"},
	{"user info", "https://contoso.api.crm.dynamics.com@contoso.example/", "what is before the at sign is no host"},
	{"user info with a port", "https://contoso.api.crm.dynamics.com:443@contoso.example/", "nor is a port"},
	{"escaped at sign in user info", "https://contoso.api.crm.dynamics.com%40x@contoso.example/", "nor is an escape"},
	{"Cyrillic letter", "https://c\u043entoso.api.crm.dynamics.com/", "a homograph"},
	{"Cyrillic letter, encoded", "https://xn--cntoso-3nf.api.crm.dynamics.com/", "a homograph as it is dialed"},
	{"full-width full stop", "https://contoso.api.crm.dynamics.com\uff0econtoso.example/", "IDNA makes it a dot"},
	{"ideographic full stop", orgURL + "\u3002contoso.example/", "IDNA makes it a dot"},
	{"soft hyphen", "https://con\u00adtoso.api.crm.dynamics.com.contoso.example/", "IDNA drops it"},
	{"other port", orgURL + ":8443/", "another port is another service"},
	{"other port of the alternate", alternateURL + ":8443/", "another port is another service"},
	{"in the clear", "http://contoso.api.crm.dynamics.com/", "a downgrade shows the token to the network"},
	{"sign-in page", "https://login.microsoftonline.com/common/oauth2/authorize", "the most common redirect of all"},
}

// Config.Authorize is called only for hosts of the pair, wherever redirects, absolute links
// and Host headers lead.
func TestAuthorizeIsForThePairOnly(t *testing.T) {
	t.Parallel()
	for _, active := range []failover.Endpoint{failover.Primary, failover.Alternate} {
		for _, tt := range elsewhere {
			t.Run(fmt.Sprintf("%v/%s", active, tt.name), func(t *testing.T) {
				t.Parallel()
				require.NotEmpty(t, tt.why)
				network := newHostileNetwork(t)
				client, transport, err := failover.Wrap(nil, orgURL, &failover.Config{Base: network, Logger: quietLog,
					Authorize: func(r *http.Request) error { r.Header.Set("Authorization", "Bearer "+secret+"token"); return nil }})
				require.NoError(t, err)
				defer transport.Close()
				transport.Pin(active)

				wander(client, tt.url, nil)
				assert.Empty(t, network.strangers(), tt.why)
				assert.NotEmpty(t, network.seen, "the pair itself is sent credentials")
			})
		}
	}
}

// Credentials of a request go nowhere that net/http would not take them without a Transport.
// (It takes them to other ports, and to subdomains.) Borrowing them for probes does not change
// that.
func TestHeadersOfTheCallerGoNoFurtherThanWithoutATransport(t *testing.T) {
	t.Parallel()
	header := http.Header{"Authorization": {"Bearer " + secret + "token"}, "Cookie": {"session=" + secret + "cookie"}}
	for _, tt := range elsewhere {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bare := newHostileNetwork(t)
			wander(&http.Client{Transport: bare}, tt.url, header)
			for _, active := range []failover.Endpoint{failover.Primary, failover.Alternate} {
				network := newHostileNetwork(t)
				client, transport, err := failover.Wrap(nil, orgURL, &failover.Config{Base: network, Logger: quietLog})
				require.NoError(t, err)
				transport.Pin(active)
				wander(client, tt.url, header)
				require.NoError(t, transport.Switch(t.Context(), active, "makes a probe"))
				transport.Close()
				assert.Subset(t, bare.strangers(), network.strangers(), "%v: %s", active, tt.why)
			}
		})
	}
}

// wander sends a request that is redirected to an address, and one to the address itself, as a
// link in an answer would.
func wander(client *http.Client, to string, header http.Header) {
	for _, u := range []string{orgURL + "/to?url=" + url.QueryEscape(to), to} {
		req, err := http.NewRequest(http.MethodGet, u, nil)
		if err != nil {
			continue // net/http rejects the address as well
		}
		if strings.HasPrefix(u, orgURL+"/to") && header != nil {
			req.Header = header.Clone()
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
		}
	}
}

// The URL decides where a request goes; headers that name a host do not.
func TestHeadersDoNotRoute(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, url string
		why       string
		set       func(*http.Request)
	}{
		{"X-Forwarded-Host", orgURL, "it is for servers", func(r *http.Request) { r.Header.Set("X-Forwarded-Host", "contoso.example") }},
		{"Forwarded", orgURL, "it is for servers", func(r *http.Request) { r.Header.Set("Forwarded", "host=contoso.example;proto=http") }},
		{"Host of a stranger", orgURL, "TLS is with the host of the URL", func(r *http.Request) { r.Host = "contoso.example" }},
		{"Host of the pair", "https://contoso.example", "a stranger does not become the pair", func(r *http.Request) { r.Host = "contoso.api.crm.dynamics.com" }},
		{"X-Forwarded-Host of the pair", "https://contoso.example", "nor so", func(r *http.Request) { r.Header.Set("X-Forwarded-Host", "contoso.api.crm.dynamics.com") }},
		{"at sign in URL.Host", orgURL, "a URL need not come from a parser", func(r *http.Request) { r.URL.Host = "contoso.api.crm.dynamics.com@contoso.example" }},
		{"port and at sign in URL.Host", orgURL, "a URL need not come from a parser", func(r *http.Request) { r.URL.Host = "contoso.api.crm.dynamics.com:443@contoso.example:443" }},
		{"slash in URL.Host", orgURL, "a URL need not come from a parser", func(r *http.Request) { r.URL.Host = "contoso.example/contoso.api.crm.dynamics.com" }},
		{"opaque URL", orgURL, "Opaque goes out in place of the host", func(r *http.Request) { r.URL.Opaque = "//contoso.example/collect" }},
	}
	for _, tt := range tests {
		for _, active := range []failover.Endpoint{failover.Primary, failover.Alternate} {
			t.Run(fmt.Sprintf("%s/%v", tt.name, active), func(t *testing.T) {
				t.Parallel()
				network := newHostileNetwork(t)
				transport, err := failover.New(orgURL, &failover.Config{Base: network, Logger: quietLog,
					Authorize: func(r *http.Request) error { r.Header.Set("Authorization", secret+"token"); return nil }})
				require.NoError(t, err)
				defer transport.Close()
				transport.Pin(active)
				req, err := http.NewRequest(http.MethodGet, tt.url+whoAmI, nil)
				require.NoError(t, err)
				tt.set(req)
				if resp, err := transport.RoundTrip(req); err == nil {
					resp.Body.Close()
				}
				assert.Empty(t, network.strangers(), tt.why)
			})
		}
	}
}

// A probe carries the credentials of a recent request, or those of Authorize. It takes them
// only to the pair, and follows neither redirects nor imports to strangers.
func TestProbesKeepToThePair(t *testing.T) {
	t.Parallel()
	strays := func(_ context.Context, client *http.Client, endpoint *url.URL) error {
		for _, u := range []string{endpoint.String() + "/ask", "https://contoso.example/ask", "http://" + endpoint.Host + "/ask"} {
			if resp, err := client.Get(u); err == nil {
				resp.Body.Close()
			}
		}
		return nil
	}
	probes := map[string]failover.Probe{"web API": failover.ProbeWebAPI, "path": failover.ProbePath("/data"), "WSDL": failover.ProbeWSDL, "one that strays": strays}
	for name, probe := range probes {
		for _, borrowed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/borrowed %v", name, borrowed), func(t *testing.T) {
				t.Parallel()
				network := newHostileNetwork(t)
				var probed atomic.Int32
				network.handler = func(w http.ResponseWriter, r *http.Request) {
					switch {
					case r.URL.Path == accounts:
						w.WriteHeader(http.StatusServiceUnavailable)
					case r.URL.RawQuery == "wsdl":
						probed.Add(1)
						io.WriteString(w, `<w:definitions xmlns:w="http://schemas.xmlsoap.org/wsdl/"><w:import location="https://contoso.example/policy"/>`+
							`<w:import location="https://contoso.api.crm.dynamics.com@contoso.example/policy"/></w:definitions>`)
					default:
						probed.Add(1)
						http.Redirect(w, r, "https://contoso.example/", http.StatusTemporaryRedirect)
					}
				}
				cfg := &failover.Config{Base: network, Probe: probe, Logger: quietLog, FailureThreshold: 1}
				if !borrowed {
					cfg.Authorize = func(r *http.Request) error { r.Header.Set("Authorization", secret+"token"); return nil }
				}
				client, transport, err := failover.Wrap(nil, orgURL, cfg)
				require.NoError(t, err)
				req, err := http.NewRequest(http.MethodGet, orgURL+accounts, nil)
				require.NoError(t, err)
				if borrowed {
					req.Header.Set("Authorization", secret+"token")
				}
				resp, err := client.Do(req)
				require.NoError(t, err)
				resp.Body.Close()
				transport.Close()
				assert.NotZero(t, probed.Load())
				assert.Empty(t, network.strangers())
				assert.Equal(t, failover.Primary, transport.Status().Active)
			})
		}
	}
}

// observer collects every text that a Transport gives away.
type observer struct {
	mu    sync.Mutex
	texts []string
}

func (o *observer) Write(b []byte) (int, error) { o.add(string(b)); return len(b), nil }

func (o *observer) add(texts ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.texts = append(o.texts, texts...)
}

// see records a value in every form that it can have in a log.
func (o *observer) see(values ...any) {
	for _, v := range values {
		o.add(fmt.Sprint(v), fmt.Sprintf("%+v", v))
		if encoded, err := json.Marshal(v); err == nil {
			o.add(string(encoded))
		}
	}
}

// seeError records an error, and every error of ours within it.
func (o *observer) seeError(err error) {
	if err == nil {
		return
	}
	o.see(err)
	var whole *failover.Error
	if errors.As(err, &whole) {
		o.see(whole, *whole)
		for _, f := range whole.Attempts {
			o.see(f)
		}
	}
}

// leakyError returns an error as net/http words it: with the address.
func leakyError(place string, err error) error {
	return &url.Error{Op: "Post", URL: "https://contoso:" + secret + place + "-password@contoso.example/?sig=" + secret + place + "-query", Err: err}
}

// Secrets are planted wherever the caller, the organization and the program's own functions
// can put them, and looked for in every text that comes out.
func TestNoTextShowsASecret(t *testing.T) {
	t.Parallel()
	page := func(status int, header ...string) func(*http.Request) (*http.Response, error) {
		header = append(header, "Content-Type", "application/json", "Set-Cookie", secret+"set-cookie", "X-Contoso", secret+"header",
			"WWW-Authenticate", `Bearer realm="`+secret+`challenge"`, "OData-EntityId", orgURL+accounts+"(11111111-2222-3333-4444-555555555555)?sig="+secret+"entity")
		return answer(status, `{"value":"`+secret+`answer","error":{"code":"0x80040203","message":"`+secret+`message","innererror":{"stacktrace":"`+secret+`stack"}}}`, header...)
	}
	tests := []struct {
		name, why string
		answer    func(*http.Request) (*http.Response, error)
		probe     func(*http.Request) (*http.Response, error)
		change    func(*failover.Config)
	}{
		{"refused", "the error of a dial, and a switch", refuse(leakyError("dial", errDial)), onlyAlternateServes, nil},
		{"in doubt", "the error of a write, and the ledger", refuse(leakyError("read", errReset)), onlyPrimaryServes, nil},
		{"down", "the faults of probes", refuse(leakyError("dial", errDial)), refuse(leakyError("probe", errDial)), nil},
		{"fenced", "a code decides, the rest of the body is nobody's", answer(503, `{"error":{"code":"0x8004B065","message":"`+secret+`message"}}`), onlyAlternateServes, nil},
		{"fault", "messages quote record data", page(400), onlyPrimaryServes, nil},
		{"unauthorized", "so do challenges", page(401), page(401), nil},
		{"throttled", "and pages", page(429, "Retry-After", "1"), onlyPrimaryServes, nil},
		{"unavailable", "three faults, both probes say the like", page(503), page(503), nil},
		{"healthy", "an answer that goes into the ledger", page(201), onlyAlternateServes, nil},
		{"proxy", "proxies have passwords", refuse(fmt.Errorf("proxyconnect tcp http://contoso:%sproxy@proxy.contoso.example:8080: %w", secret, errDial)), onlyAlternateServes, nil},
		{"Authorize", "token services put secrets into addresses", page(200), onlyPrimaryServes, func(c *failover.Config) {
			c.Authorize = func(*http.Request) error {
				return leakyError("authorize", errors.New("Bearer "+secret+"token refused"))
			}
		}},
		{"Probe", "a program's own probe returns what net/http says", refuse(errDial), nil, func(c *failover.Config) {
			c.Probe = func(context.Context, *http.Client, *url.URL) error { return leakyError("own-probe", errReset) }
		}},
		{"ConfirmSwitch", "it asks a web hook with a signature in its address", refuse(errDial), onlyAlternateServes, func(c *failover.Config) {
			c.ConfirmSwitch = func(context.Context, failover.Switch) error { return leakyError("confirm", errReset) }
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.NotEmpty(t, tt.why)
			synctest.Test(t, func(t *testing.T) {
				o := new(observer)
				cfg := failover.Config{
					Base: &script{answers: answers(tt.answer), probe: tt.probe}, RetryThrottled: time.Minute,
					Logger:  slog.New(slog.NewJSONHandler(o, &slog.HandlerOptions{Level: slog.LevelDebug})),
					OnEvent: func(e failover.Event) { o.see(e, e.Fault, e.Loss); o.seeError(e.Err) },
				}
				if tt.change != nil {
					tt.change(&cfg)
				}
				client, transport, err := failover.Wrap(nil, orgURL, &cfg)
				require.NoError(t, err)
				for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodGet, http.MethodPost} {
					o.seeError(send(t, transport, method))
				}
				for _, e := range []failover.Endpoint{failover.Alternate, failover.Primary} {
					o.seeError(transport.Switch(t.Context(), e, "drill, with https://ops:"+secret+"reason@contoso.example/?token="+secret+"reason"))
				}
				synctest.Wait()
				status := transport.Status()
				o.see(status, &status)
				if status.Loss != nil {
					v, err := status.Loss.Verify(t.Context(), client)
					o.see(status.Loss, v)
					o.add(fmt.Sprint(errors.As(err, new(*failover.Error))))
				}
				for _, h := range []http.Handler{transport.StatusHandler(), transport.ReadyHandler(), transport.ControlHandler()} {
					for _, accept := range []string{"application/json", "text/html"} {
						r := httptest.NewRequest(http.MethodGet, "/", nil)
						r.Header.Set("Accept", accept)
						w := httptest.NewRecorder()
						h.ServeHTTP(w, r)
						o.add(w.Body.String())
					}
				}
				transport.Close()
				o.check(t)
			})
		})
	}
}

// send sends a request full of secrets, and returns its error or fault.
func send(t *testing.T, transport *failover.Transport, method string) error {
	u := "https://contoso:" + secret + "password@contoso.api.crm.dynamics.com" + accounts + "?$filter=" + secret + "query#" + secret + "fragment"
	req, err := http.NewRequest(method, u, strings.NewReader(secret+"body"))
	require.NoError(t, err)
	for _, key := range []string{"Authorization", "Cookie", "Proxy-Authorization", "MSCRMCallerID", "X-Contoso"} {
		req.Header.Set(key, secret+"request-header")
	}
	resp, err := transport.RoundTrip(req)
	if err == nil {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	return err
}

// serviceMessage is the one field that is documented to quote the service. It is in the JSON
// of a fault, and in no text.
var serviceMessage = regexp.MustCompile(`"Message":"` + secret + `message"`)

func (o *observer) check(t *testing.T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	assert.NotEmpty(t, o.texts)
	for _, text := range o.texts {
		text = serviceMessage.ReplaceAllString(text, "")
		if found := secrets.FindAllString(text, -1); found != nil {
			assert.Fail(t, "a secret was shown", "%v in %.2000s", slices.Compact(found), text)
		}
	}
}
