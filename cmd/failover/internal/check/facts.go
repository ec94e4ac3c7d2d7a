package check

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/cmd/failover/internal/network"
	"github.com/d365failover/failover/cmd/failover/internal/signin"
)

// Facts are the results of the steps of a survey of one endpoint. Steps that were not reached
// are nil. In JSON, durations are in seconds.
type Facts struct {
	Endpoint string         `json:"endpoint"` // "primary" or "alternate"
	URL      string         `json:"url"`
	Name     *NameFacts     `json:"name,omitempty"`
	Proxy    *ProxyFacts    `json:"proxy,omitempty"`
	TCP      *TCPFacts      `json:"tcp,omitempty"`
	TLS      *TLSFacts      `json:"tls,omitempty"`
	HTTP     *HTTPFacts     `json:"http,omitempty"`
	Audience *AudienceFacts `json:"audience,omitempty"`
	WhoAmI   *WhoAmIFacts   `json:"whoAmI,omitempty"`
	Clock    *ClockFacts    `json:"clock,omitempty"`
	Policy   *PolicyFacts   `json:"failoverPolicy,omitempty"`
}

// NameFacts are about the name of the host.
type NameFacts struct {
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Aliases   []string     `json:"aliases,omitempty"`
	// TTL is nil if no name server could be asked.
	TTL *float64 `json:"ttlSeconds,omitempty"`
	// Pinned: the hosts file of this machine fixes the address.
	Pinned   bool   `json:"pinned,omitempty"`
	NotFound bool   `json:"notFound,omitempty"`
	Error    string `json:"error,omitempty"`
}

// ProxyFacts are about the proxy for requests to the endpoint.
type ProxyFacts struct {
	URL    string `json:"url"`              // without user information
	Status int    `json:"status,omitempty"` // of its answer to CONNECT
	Error  string `json:"error,omitempty"`
}

// TCPFacts are about the connection, to the proxy if there is one.
type TCPFacts struct {
	Address string  `json:"address,omitempty"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

// TLSFacts are about the handshake and the certificates.
type TLSFacts struct {
	Version  string        `json:"version,omitempty"`
	Seconds  float64       `json:"seconds"`
	Chain    []Certificate `json:"chain,omitempty"`
	DaysLeft int           `json:"daysLeft"`
	Error    string        `json:"error,omitempty"`
}

// Certificate is a certificate of a chain.
type Certificate struct {
	Subject  string    `json:"subject"`
	Issuer   string    `json:"issuer"`
	Names    []string  `json:"names,omitempty"`
	NotAfter time.Time `json:"notAfter"`
}

// HTTPFacts are about requests and answers.
type HTTPFacts struct {
	Version string `json:"version,omitempty"` // "HTTP/2.0"
	// RoundTrips are the times of requests over an open connection, in seconds.
	RoundTrips []float64 `json:"roundTripSeconds,omitempty"`
	Error      string    `json:"error,omitempty"`
}

// AudienceFacts compare the audience that the endpoint asks for with that of the token that it
// got.
type AudienceFacts struct {
	Asked string `json:"asked,omitempty"`
	// Token is the audience that the token names, or else the one that was requested.
	Token string `json:"token,omitempty"`
	// Instead is the audience of another token, which the endpoint accepted after it had
	// rejected that one.
	Instead string `json:"instead,omitempty"`
	// Error is why there is no token for the endpoint's own address.
	Error string `json:"error,omitempty"`
}

// WhoAmIFacts are about the answer to an authorized request.
type WhoAmIFacts struct {
	Status         int    `json:"status,omitempty"`
	OrganizationID string `json:"organizationId,omitempty"`
	// Fenced: the endpoint says that it does not serve the organization now.
	Fenced bool   `json:"fenced,omitempty"`
	Class  string `json:"class,omitempty"` // of the fault
	Error  string `json:"error,omitempty"`
}

// ClockFacts compare this machine's clock with the endpoint's.
type ClockFacts struct {
	// Ahead is how far this machine's clock is ahead, rounded to seconds.
	Ahead float64 `json:"aheadSeconds"`
}

// PolicyFacts are about the failover policy in the service description.
type PolicyFacts struct {
	Known             bool   `json:"known"`
	FailoverAvailable bool   `json:"failoverAvailable"`
	EndpointEnabled   bool   `json:"endpointEnabled"`
	Error             string `json:"error,omitempty"`
}

// survey collects the facts about one endpoint.
type survey struct {
	network *network.Network
	source  signin.Source
	// audiences are the addresses of the organization. Challenges that ask for other
	// audiences are ignored.
	audiences []string
	now       func() time.Time
	timeout   time.Duration // of one step
	say       func(step string)
}

// run surveys an endpoint. It ends early when ctx does.
func (s *survey) run(ctx context.Context, name string, endpoint *url.URL) *Facts {
	f := &Facts{Endpoint: name, URL: endpoint.String()}
	proxy, err := s.network.ProxyFor(endpoint)
	switch {
	case err != nil:
		f.Proxy = &ProxyFacts{Error: "the proxy setting of this machine is not a URL"}
	case proxy != nil:
		f.Proxy = &ProxyFacts{URL: (&url.URL{Scheme: proxy.Scheme, Host: proxy.Host}).String()}
	}
	s.say("name")
	f.Name = s.name(ctx, endpoint.Hostname())
	if f.Proxy == nil && f.Name.Error != "" {
		return f
	}
	transport := s.network.Transport()
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.say("connection")
	resp := s.connect(ctx, f, transport, client, endpoint)
	if resp == nil {
		return f
	}
	s.clock(f, resp)
	f.Audience = &AudienceFacts{Asked: signin.Asked(resp.Header.Values("WWW-Authenticate"))}
	s.say("sign-in")
	token := s.token(ctx, f.Audience, endpoint)
	s.say("WhoAmI")
	s.whoAmI(ctx, f, client, endpoint, token)
	s.other(ctx, f, client, endpoint, token)
	if !network.FinanceAndOperations(endpoint.Hostname()) {
		s.say("failover policy")
		f.Policy = s.policy(ctx, client, endpoint)
	}
	return f
}

func (s *survey) name(ctx context.Context, host string) *NameFacts {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	f := &NameFacts{Pinned: s.network.Pinned(host)}
	addresses, err := s.network.Addresses(ctx, host)
	if err != nil {
		var failure *net.DNSError
		f.NotFound = errors.As(err, &failure) && failure.IsNotFound
		f.Error = reason(err)
	}
	f.Addresses = addresses
	if records, ok := s.network.Records(ctx, host); ok && !f.NotFound {
		ttl := records.TTL.Seconds()
		f.Aliases, f.TTL = records.Aliases, &ttl
	}
	return f
}

// connect sends the first request, without a token, over a new connection, and records how far
// it got. It returns nil if there was no answer.
func (s *survey) connect(ctx context.Context, f *Facts, transport *http.Transport, client *http.Client, endpoint *url.URL) *http.Response {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	// A transport keeps dialing after it has given up a request, and dials again for later
	// ones. Only the connection for which the first request waited is recorded.
	var (
		mu    sync.Mutex
		over  bool
		begun time.Time // the handshake
	)
	note := func(set func()) {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			set()
		}
	}
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		start := time.Now()
		conn, err := dial(ctx, network, addr)
		tcp := &TCPFacts{Seconds: time.Since(start).Seconds()}
		if err != nil {
			tcp.Error = reason(err)
		} else {
			tcp.Address = conn.RemoteAddr().String()
		}
		note(func() { f.TCP = tcp })
		return conn, err
	}
	if f.Proxy != nil {
		transport.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
			note(func() { f.Proxy.Status = resp.StatusCode })
			return nil
		}
	}
	trace := &httptrace.ClientTrace{
		TLSHandshakeStart: func() { note(func() { begun = time.Now() }) },
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			note(func() {
				f.TLS = tlsFacts(state, err, s.now())
				f.TLS.Seconds = time.Since(begun).Seconds()
			})
		},
	}
	resp, err := get(httptrace.WithClientTrace(ctx, trace), client, endpoint, "")
	if err == nil {
		drain(resp)
	}
	mu.Lock()
	defer mu.Unlock()
	over = true
	switch {
	case err == nil:
		f.HTTP = &HTTPFacts{Version: resp.Proto}
		return resp
	case f.TCP == nil:
		f.TCP = &TCPFacts{Error: reason(err)}
	case f.TCP.Error != "", f.TLS != nil && f.TLS.Error != "": // reported there
	case f.Proxy != nil && f.TLS == nil:
		f.Proxy.Error = reason(err)
	default:
		f.HTTP = &HTTPFacts{Error: reason(err)}
	}
	return nil
}

func tlsFacts(state tls.ConnectionState, err error, now time.Time) *TLSFacts {
	f := &TLSFacts{}
	chain := state.PeerCertificates
	if err != nil {
		f.Error = reason(err)
		if unverified := (*tls.CertificateVerificationError)(nil); errors.As(err, &unverified) {
			chain = unverified.UnverifiedCertificates
		}
	} else {
		f.Version = tls.VersionName(state.Version)
		if len(state.VerifiedChains) > 0 {
			chain = state.VerifiedChains[0]
		}
	}
	for i, c := range chain {
		entry := Certificate{Subject: commonName(c.Subject.CommonName, c.Subject.Organization), NotAfter: c.NotAfter,
			Issuer: commonName(c.Issuer.CommonName, c.Issuer.Organization), Names: c.DNSNames}
		f.Chain = append(f.Chain, entry)
		if days := int(c.NotAfter.Sub(now).Hours() / 24); i == 0 || days < f.DaysLeft {
			f.DaysLeft = days
		}
	}
	return f
}

func commonName(name string, organization []string) string {
	if name == "" && len(organization) > 0 {
		return organization[0]
	}
	return name
}

// clock compares the clocks by the Date of an answer.
func (s *survey) clock(f *Facts, resp *http.Response) {
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return
	}
	// A Date is truncated to the second, so it is half a second behind on average.
	ahead := s.now().Sub(date.Add(500 * time.Millisecond)).Round(time.Second)
	f.Clock = &ClockFacts{Ahead: ahead.Seconds()}
}

// token returns a token for an endpoint, "" if there is none. If there is none for the
// endpoint's own address, it tries the organization's other address.
func (s *survey) token(ctx context.Context, f *AudienceFacts, endpoint *url.URL) string {
	if s.source == nil {
		return ""
	}
	own := signin.AudienceOf(endpoint)
	for _, audience := range append([]string{own}, s.audiences...) {
		token, err := s.source(ctx, audience)
		if err != nil {
			f.Error = cmp.Or(f.Error, reason(err))
			continue
		}
		f.Token = cmp.Or(signin.Audience(token), audience)
		return token
	}
	return ""
}

// rounds is how many authorized requests are timed.
const rounds = 3

func (s *survey) whoAmI(ctx context.Context, f *Facts, client *http.Client, endpoint *url.URL, token string) {
	f.HTTP.RoundTrips = nil
	for range rounds {
		ctx, cancel := context.WithTimeout(ctx, s.timeout)
		start := time.Now()
		resp, err := get(ctx, client, endpoint, token)
		if err != nil {
			f.WhoAmI = &WhoAmIFacts{Class: failover.Classify(nil, err).Class.String(), Error: reason(err)}
			cancel()
			return
		}
		f.HTTP.RoundTrips = append(f.HTTP.RoundTrips, time.Since(start).Seconds())
		who := &WhoAmIFacts{Status: resp.StatusCode}
		if fault := failover.Classify(resp, nil); fault != nil {
			who.Class, who.Fenced, who.Error = fault.Class.String(), fault.Definitive, fault.Error()
		}
		var body struct{ OrganizationID string }
		if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&body); err == nil && resp.StatusCode == http.StatusOK {
			who.OrganizationID = strings.ToLower(body.OrganizationID)
		}
		drain(resp)
		cancel()
		f.WhoAmI = who
	}
	slices.Sort(f.HTTP.RoundTrips)
}

// other tries a token for the audience that the endpoint asks for, if the endpoint has rejected
// the first token and the organization has that address.
func (s *survey) other(ctx context.Context, f *Facts, client *http.Client, endpoint *url.URL, token string) {
	asked := f.Audience.Asked
	if token == "" || f.WhoAmI.Status != http.StatusUnauthorized || asked == f.Audience.Token || !slices.Contains(s.audiences, asked) {
		return
	}
	second, err := s.source(ctx, asked)
	if err != nil || second == token {
		return
	}
	refused := *f.WhoAmI
	s.whoAmI(ctx, f, client, endpoint, second)
	if f.WhoAmI.Status == http.StatusUnauthorized {
		f.WhoAmI = &refused
		return
	}
	f.Audience.Instead = asked
}

func (s *survey) policy(ctx context.Context, client *http.Client, endpoint *url.URL) *PolicyFacts {
	ctx, cancel := context.WithTimeout(ctx, 2*s.timeout)
	defer cancel()
	policy, err := failover.DiscoverPolicy(ctx, client, endpoint)
	f := &PolicyFacts{Known: policy.Known, FailoverAvailable: policy.FailoverAvailable, EndpointEnabled: policy.EndpointEnabled}
	if err != nil {
		f.Error = reason(err)
	}
	return f
}

// get requests WhoAmI, or the service document of Finance and Operations.
func get(ctx context.Context, client *http.Client, endpoint *url.URL, token string) (*http.Response, error) {
	path := "/api/data/v9.2/WhoAmI"
	if network.FinanceAndOperations(endpoint.Hostname()) {
		path = "/data"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.JoinPath(path).String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return client.Do(req)
}

func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}

// reason returns the cause of an error in one line, without an address.
func reason(err error) string {
	if outer := (*url.Error)(nil); errors.As(err, &outer) {
		err = outer.Err
	}
	var (
		dns       *net.DNSError
		op        *net.OpError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		name      x509.HostnameError
		fault     *failover.Fault
	)
	switch {
	case errors.As(err, &authority):
		return "the certificate is from an authority that this machine does not trust"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the certificate has expired or is not valid yet"
	case errors.As(err, &name):
		return "the certificate is for other names"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(err, &dns):
		return "the name server does not answer"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "no answer in time"
	case errors.As(err, &op) && op.Err != nil:
		return op.Err.Error()
	case errors.As(err, &fault):
		return fault.Error()
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}
