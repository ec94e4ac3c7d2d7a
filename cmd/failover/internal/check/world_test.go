package check

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/cmd/failover/internal/network"
	"github.com/d365failover/failover/failovertest"
)

// world is an organization as a machine sees it: a simulated one, with a name
// server that knows its names.
type world struct {
	t    *testing.T
	org  *failovertest.Org
	zone *zone
	options
}

// newWorld returns a world without problems.
func newWorld(t *testing.T) *world {
	t.Helper()
	org := failovertest.Start(nil)
	w := &world{t: t, org: org, zone: newZone(t)}
	for _, host := range []string{org.Primary().Host(), org.Alternate().Host()} {
		w.zone.set(host, "192.0.2.10")
	}
	w.network = &network.Network{NameServers: []string{w.zone.addr}, Lookup: w.zone.lookup, Hosts: t.TempDir() + "/hosts"}
	w.serve(org)
	w.now, w.timeout, w.probe = time.Now, time.Minute, time.Minute
	w.say = func(string) {}
	w.primary, w.alternate = mustParse(t, org.URL()), mustParse(t, org.AlternateURL())
	return w
}

// serve puts an organization into the world.
func (w *world) serve(org *failovertest.Org) {
	w.t.Cleanup(org.Close)
	w.org = org
	base := org.Transport()
	w.network.Dial, w.network.Roots = base.DialContext, base.TLSClientConfig.RootCAs
	w.source = func(_ context.Context, audience string) (string, error) {
		return org.Token(strings.TrimPrefix(audience, "https://")), nil
	}
}

func mustParse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	require.NoError(t, err)
	return u
}

// check runs the check and returns the report with its printed form.
func (w *world) check() (*Report, string) {
	w.t.Helper()
	report := run(w.t.Context(), w.options)
	var out bytes.Buffer
	report.print(&out)
	for line := range strings.Lines(out.String()) {
		require.LessOrEqual(w.t, len([]rune(strings.TrimRight(line, "\n"))), 80, "fits 80 columns: %q", line)
	}
	encoded, err := json.Marshal(report)
	require.NoError(w.t, err)
	for _, host := range []string{w.primary.Host, w.org.Primary().Host()} {
		require.NotContains(w.t, out.String()+string(encoded), w.org.Token(host), "no token is shown")
	}
	return report, out.String()
}

// zone is a name server on the loopback interface.
type zone struct {
	addr string

	mu   sync.Mutex
	data map[string]string // host: address
	ttl  uint32
}

func newZone(t *testing.T) *zone {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	z := &zone{addr: conn.LocalAddr().String(), data: make(map[string]string), ttl: 60}
	server := &dns.Server{PacketConn: conn, Handler: z}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ActivateAndServe()
	}()
	t.Cleanup(func() {
		_ = server.Shutdown()
		conn.Close()
		<-done
	})
	return z
}

func (z *zone) set(host, address string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.data[host] = address; address == "" {
		delete(z.data, host)
	}
}

// ServeDNS answers with an alias, as the names of organizations have, and the
// address behind it.
func (z *zone) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	z.mu.Lock()
	address, ttl := z.data[strings.TrimSuffix(question.Question[0].Name, ".")], z.ttl
	z.mu.Unlock()
	answer := new(dns.Msg).SetReply(question)
	switch {
	case address == "":
		answer.Rcode = dns.RcodeNameError
	case question.Question[0].Qtype == dns.TypeA:
		const alias = "eur-front.contoso.example."
		answer.Answer = []dns.RR{
			&dns.CNAME{Hdr: dns.RR_Header{Name: question.Question[0].Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: ttl}, Target: alias},
			&dns.A{Hdr: dns.RR_Header{Name: alias, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: net.ParseIP(address)},
		}
	}
	_ = w.WriteMsg(answer)
}

// lookup is a resolver that asks the zone.
func (z *zone) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", z.addr)
	}}
	return r.LookupNetIP(ctx, "ip4", host+".")
}

// token returns an unsigned token in the form of Entra ID's.
func token(audience string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(`{"aud":"`+audience+`"}`)) + "." + encode([]byte("signature"))
}

// http1 puts a front end in front of the organization's endpoints that speaks only HTTP/1.1, like a
// device that inspects TLS.
func (w *world) http1() {
	w.t.Helper()
	base := w.org.Transport()
	front := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "https", r.In.Host, r.In.Host
		},
		Transport: base,
	})
	authority, certificate := newAuthority(w.t, w.primary.Hostname(), w.alternate.Hostname())
	front.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	front.StartTLS()
	w.t.Cleanup(front.Close)
	w.network.Roots = authority
	w.network.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, front.Listener.Addr().String())
	}
}

// proxy makes the machine use a proxy that answers CONNECT with a status, and
// carries what it does not refuse.
func (w *world) proxy(status func(host string) int) {
	w.t.Helper()
	dial := w.network.Dial
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.Host)
		if s := status(host); s != http.StatusOK {
			rw.WriteHeader(s)
			return
		}
		there, err := dial(r.Context(), "tcp", r.Host)
		if err != nil {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		defer there.Close()
		rw.WriteHeader(http.StatusOK)
		here, buffered, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer here.Close()
		var wg sync.WaitGroup
		wg.Go(func() { buffered.WriteTo(there); there.Close() })
		buffer := make([]byte, 32<<10)
		for {
			n, err := there.Read(buffer)
			if _, failed := here.Write(buffer[:n]); err != nil || failed != nil {
				break
			}
		}
		here.Close()
		wg.Wait()
	}))
	w.t.Cleanup(server.Close)
	address := mustParse(w.t, server.URL)
	address.User = url.UserPassword("clerk", "hunter2")
	w.network.Proxy = http.ProxyURL(address)
	w.network.Dial = nil
	w.network.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return nil, &net.DNSError{Err: "no such host", IsNotFound: true} // the proxy knows the names
	}
}

type dialer = func(context.Context, string, string) (net.Conn, error)

// dialBy dials by host.
func dialBy(hosts map[string]dialer) dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(addr)
		return hosts[host](ctx, network, addr)
	}
}
