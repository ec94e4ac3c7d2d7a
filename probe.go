package failover

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/d365failover/failover/internal/rule"
)

// A Probe finds out whether an endpoint serves the organization. It returns nil if the
// endpoint does (the endpoint passes). A *[Fault] of a class that does not count, such as a
// 403 or 404, is inconclusive: the traffic neither switches to such an endpoint nor, for that
// reason, away from it. Any other error means that the endpoint does not serve.
//
// The client authorizes requests to the endpoint, and only those, as [Config.Authorize] does.
// It opens a new connection for each request, and does not follow redirects. The context
// ends after [Config.ProbeTimeout]. Probes run concurrently, even at one endpoint. A panic
// is inconclusive.
type Probe func(ctx context.Context, client *http.Client, endpoint *url.URL) error

// ProbeWebAPI is a [Probe] that calls WhoAmI of the Web API (GET /api/data/v9.2/WhoAmI). The
// endpoint passes if the answer names the organization ([Config.OrganizationID], if set). It
// also passes, on weak evidence, if it asks for a bearer token (401) or throttles the request:
// that is enough to stay at an endpoint, or to end an outage. The traffic switches to such an
// endpoint only if the active one has failed its probe, and only provisionally (see
// [Status.Provisional]). Once an endpoint has answered with a fence, only an answer that
// names the organization passes, because gateways ask for tokens, and throttle, before they
// look up the organization.
func ProbeWebAPI(ctx context.Context, client *http.Client, endpoint *url.URL) error {
	return probePath(ctx, client, endpoint, "/api/data/v9.2/WhoAmI", namesOrganization)
}

// ProbePath returns a [Probe] that makes the check of [ProbeWebAPI] with another path, such as
// "/data". Any healthy answer with status 200 passes.
func ProbePath(path string) Probe {
	return func(ctx context.Context, client *http.Client, endpoint *url.URL) error {
		return probePath(ctx, client, endpoint, path, func(context.Context, []byte) error { return nil })
	}
}

// defaultProbe returns the probe for an organization without a configured one.
func defaultProbe(org *Org) Probe {
	path := org.probePath()
	if !strings.HasSuffix(path, "/WhoAmI") {
		return ProbePath(path)
	}
	return func(ctx context.Context, client *http.Client, endpoint *url.URL) error {
		return probePath(ctx, client, endpoint, path, namesOrganization)
	}
}

// errNoAlternate says that the organization has one address.
var errNoAlternate = errors.New("failover: the organization has no alternate endpoint")

// probeTerms are passed to the probes of this package in the context.
type probeTerms struct {
	// fenced: the endpoint has answered with a fence; only an authorized answer takes that
	// back.
	fenced         bool
	organizationID string       // the id to be found; "": any
	found          func(string) // called with the id that was found
	weak           atomic.Bool  // passed only by a 401 or 429
	address        atomic.Pointer[net.Addr]
}

type probeTermsKey struct{}

// maxProbeBody is how much of a probe's answer is read.
const maxProbeBody = 64 << 10

func probePath(ctx context.Context, client *http.Client, endpoint *url.URL, path string, check func(context.Context, []byte) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.JoinPath(path).String(), nil)
	if err != nil {
		return fmt.Errorf("failover: probe of %s: bad path", endpoint.Host)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	req.Header.Set("OData-MaxVersion", "4.0")
	resp, err := client.Do(req)
	if f := (*Fault)(nil); errors.As(err, &f) {
		return f // an error of Authorize
	}
	if err != nil {
		return Classify(nil, err)
	}
	defer resp.Body.Close()
	f := Classify(resp, nil)
	var body []byte
	if f == nil {
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxProbeBody))
	}
	switch {
	case f != nil && (f.Class == ClassThrottled || f.Status == http.StatusUnauthorized && asksForBearer(resp.Header)):
		return passWeakly(ctx, f)
	case f != nil:
		return f
	case err != nil:
		return Classify(nil, err)
	case resp.StatusCode != http.StatusOK:
		return &Fault{Class: ClassApplication, Delivery: Answered, Status: resp.StatusCode}
	}
	return check(ctx, body)
}

// passWeakly returns the result of a probe that only found something that answers: f says how.
// That suffices unless the endpoint has answered with a fence.
func passWeakly(ctx context.Context, f *Fault) error {
	terms, _ := ctx.Value(probeTermsKey{}).(*probeTerms)
	if terms != nil && terms.fenced {
		return f
	}
	if terms != nil {
		terms.weak.Store(true)
	}
	return nil
}

// namesOrganization checks the answer of WhoAmI.
func namesOrganization(ctx context.Context, body []byte) error {
	var who struct{ OrganizationID string }
	if err := json.Unmarshal(body, &who); err != nil || who.OrganizationID == "" {
		return &Fault{Class: ClassApplication, Delivery: Answered, Status: http.StatusOK, Message: "answer does not name an organization"}
	}
	terms, _ := ctx.Value(probeTermsKey{}).(*probeTerms)
	if terms == nil { // the caller is not a Transport
		return nil
	}
	if want := terms.organizationID; want != "" && !strings.EqualFold(strings.Trim(want, "{}"), who.OrganizationID) {
		return errOtherOrganization
	}
	if terms.found != nil {
		terms.found(who.OrganizationID)
	}
	return nil
}

var errOtherOrganization = errors.New("failover: the endpoint serves another organization")

// asksForBearer reports whether a 401 carries a Bearer challenge (RFC 6750, section 3).
func asksForBearer(h http.Header) bool {
	for _, challenge := range h.Values("WWW-Authenticate") {
		scheme, _, _ := strings.Cut(strings.TrimSpace(challenge), " ")
		if strings.EqualFold(scheme, "Bearer") {
			return true
		}
	}
	return false
}

// runProbe probes an endpoint and records the result. It returns nil if the endpoint passes.
func (t *Transport) runProbe(ctx context.Context, e Endpoint) error {
	p := t.probe(ctx, e)
	return p.err
}

// probe probes an endpoint and records the result.
func (t *Transport) probe(ctx context.Context, e Endpoint) (p probed) {
	endpoint := t.url(e)
	if endpoint == nil {
		return probed{err: errNoAlternate}
	}
	t.mu.Lock()
	terms := &probeTerms{fenced: t.endpoints[e].fenced, organizationID: t.organizationID}
	t.mu.Unlock()
	if e == Primary && t.cfg.OrganizationID == "" {
		terms.organizationID, terms.found = "", t.learn // the primary says which organization it is
	}
	parent := ctx
	if t.cfg.ProbeTimeout != never {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.cfg.ProbeTimeout)
		defer cancel()
	}
	start := time.Now()
	err := t.callProbe(context.WithValue(ctx, probeTermsKey{}, terms), e, endpoint)
	if ended := cmp.Or(parent.Err(), t.ctx.Err()); ended != nil {
		return probed{err: ended} // abandoned, so it proves nothing
	}
	if f, ok := err.(*Fault); ok {
		found := *f
		found.Endpoint, err = e, &found
	}
	p = probed{err: redacted(err), weak: err == nil && terms.weak.Load()}
	t.noteProbe(e, &p, terms, time.Since(start))
	return p
}

// callProbe calls Config.Probe. It waits no longer than the context lasts.
func (t *Transport) callProbe(ctx context.Context, e Endpoint, endpoint *url.URL) error {
	target := *endpoint
	client := &http.Client{
		Transport:     &probeTransport{t, e, endpoint},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	err := t.outsource(ctx, "Probe", func() error { return t.cfg.Probe(ctx, client, &target) })
	if err == errPanicked { // a panic of the program's own function says nothing about the endpoint
		return &Fault{Class: ClassLocal, Delivery: NotSent, Err: err}
	}
	return err
}

// noteProbe records how a probe ended.
func (t *Transport) noteProbe(e Endpoint, p *probed, terms *probeTerms, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	side := &t.endpoints[e]
	side.lastProbe = &pastProbe{time.Now(), p.err}
	if p.err == nil {
		side.fenced = false
	} else if e == Primary && t.rule.Active == rule.Alternate {
		side.trip() // whatever the probe was for, the rise starts again
	}
	if address := terms.address.Load(); address != nil && p.reached() {
		p.moved = side.addresses.see(*address, time.Now())
	}
	t.emit(Event{Kind: EventProbed, From: e, To: e, Reason: probeReason(p.err), Err: p.err, Duration: took})
}

// learn keeps the organization id that the primary named. A restored organization has a new
// one.
func (t *Transport) learn(organizationID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.organizationID = organizationID
}

func probeReason(err error) string {
	if err != nil {
		return "probe failed"
	}
	return "probe passed"
}

// probeTransport sends the requests of a probe, with credentials if they go to the probed
// endpoint.
type probeTransport struct {
	t        *Transport
	at       Endpoint
	endpoint *url.URL
}

func (p *probeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	t := p.t
	if req.URL.Scheme != p.endpoint.Scheme || req.URL.Host != p.endpoint.Host {
		return t.dialAnew(req)
	}
	ctx := req.Context()
	if terms, _ := ctx.Value(probeTermsKey{}).(*probeTerms); terms != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
			address := remoteAddr(i.Conn)
			terms.address.Store(&address)
		}})
	}
	req = req.Clone(ctx)
	var borrowed string
	if t.cfg.Authorize != nil {
		if err := t.authorize(req); err != nil {
			closeBody(req)
			return nil, &Fault{Class: ClassAuth, Delivery: NotSent, Err: fmt.Errorf("authorize: %w", err)}
		}
	} else if req.Header.Get("Authorization") == "" {
		if borrowed = t.credentials.pick(p.at); borrowed != "" {
			req.Header.Set("Authorization", borrowed)
		}
	}
	resp, err := t.dialAnew(req)
	if err == nil {
		t.credentials.answered(p.at, borrowed, resp.StatusCode)
	}
	return resp, err
}

// credentials are Authorization headers that probes borrow from requests if Config.Authorize
// is not set. Callers, who may be wrong or hostile, supply them. Therefore a header that an
// endpoint has rejected is not tried there again, and that of a request with a healthy answer
// precedes all others.
type credentials struct {
	// proven is the header of the last request with a healthy answer, as long as no other is
	// needed. Requests that are answered read it.
	proven atomic.Pointer[provenCredential]

	mu   sync.Mutex
	kept []credential // the best is first; at most maxCredentials
}

type provenCredential struct {
	header string
	until  time.Time // until then no other proven header is considered
}

// A credential is a header, and what is known about it.
type credential struct {
	header   string
	proven   bool    // a request with it got a healthy answer
	rejected [2]bool // by endpoint: answered with 401
	useless  [2]bool // by endpoint: answered with 403, which says nothing about the endpoint
}

const (
	// maxCredentials bounds what is kept, rejected ones included, so that callers cannot make
	// the probes try the same ones over and over.
	maxCredentials = 8
	// maxCredential bounds the length of each.
	maxCredential = 32 << 10
	// provenFor is how long no other proven header is considered.
	provenFor = 5 * time.Second
)

// borrowable returns the Authorization header of a request, or "" if probes cannot use it: it
// cannot be sent, or belongs to one connection (RFC 4559, section 6) or one request (RFC
// 7616).
func borrowable(h http.Header) string {
	values := h["Authorization"]
	if len(values) != 1 || len(values[0]) > maxCredential || !validHeaderValue(values[0]) {
		return ""
	}
	scheme, _, _ := strings.Cut(strings.TrimLeft(values[0], " \t"), " ")
	for _, bound := range [...]string{"NTLM", "Negotiate", "Kerberos", "Digest"} {
		if strings.EqualFold(scheme, bound) {
			return ""
		}
	}
	return values[0]
}

// offer keeps the header of a request, and reports whether it is new. Proven: the request got
// a healthy answer.
func (c *credentials) offer(h http.Header, proven bool) (isNew bool) {
	if proven {
		if p := c.proven.Load(); p != nil && (p.header == valueOf(h, "Authorization") || time.Now().Before(p.until)) {
			return false
		}
	}
	header := borrowable(h)
	if header == "" {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if proven {
		c.proven.Store(&provenCredential{header, time.Now().Add(provenFor)})
	}
	i := slices.IndexFunc(c.kept, func(k credential) bool { return k.header == header })
	switch {
	case i < 0:
		if len(c.kept) == maxCredentials {
			c.kept = slices.Delete(c.kept, c.worst(), c.worst()+1)
		}
		c.kept = append([]credential{{header: header, proven: proven}}, c.kept...)
		return true
	case proven:
		k := c.kept[i]
		k.proven = true
		c.kept = slices.Insert(slices.Delete(c.kept, i, i+1), 0, k)
	}
	return false
}

// worst returns the index of the one to drop: the oldest that is rejected, else the oldest
// that is not proven, else the oldest. The caller holds mu.
func (c *credentials) worst() int {
	worst, rank := len(c.kept)-1, -1
	for i, k := range c.kept {
		r := 0
		switch {
		case k.rejected[Primary] && k.rejected[Alternate]:
			r = 2
		case !k.proven:
			r = 1
		}
		if r >= rank {
			worst, rank = i, r
		}
	}
	return worst
}

// pick returns the header for a probe of an endpoint, or "" if there is none.
func (c *credentials) pick(at Endpoint) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	best, rank := "", 0
	for _, k := range c.kept {
		r := 1
		if k.proven {
			r += 2
		}
		if !k.useless[at] {
			r++
		}
		if r > rank && !k.rejected[at] {
			best, rank = k.header, r
		}
	}
	return best
}

// answered records an endpoint's answer to a header.
func (c *credentials) answered(at Endpoint, header string, status int) {
	if status != http.StatusUnauthorized && status != http.StatusForbidden {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.kept, func(k credential) bool { return k.header == header })
	if i < 0 {
		return
	}
	if status == http.StatusForbidden {
		c.kept[i].useless[at] = true
	} else {
		c.kept[i].rejected[at] = true
	}
	c.proven.Store(nil) // another header may be of use
}

// lend offers the header of a request to the probes. While down, a header that they have not
// tried yet makes them try at once.
func (t *Transport) lend(h http.Header, proven bool) {
	if t.cfg.Authorize != nil || !t.credentials.offer(h, proven) {
		return
	}
	t.mu.Lock()
	if t.rule.Down {
		t.demanded = true
		t.wakeWatch()
	}
	t.mu.Unlock()
}
