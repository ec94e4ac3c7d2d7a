package auth

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/internal/ascii"
)

// pair holds the hosts of an organization.
type pair struct {
	origins [2]*url.URL // by endpoint; no alternate for an organization with one address
	// dataverse: each endpoint has two names, which differ in the label api.
	dataverse bool
}

// newPair returns the pair for the arguments of failover.New.
func newPair(organization, alternate string) (pair, error) {
	org, err := failover.ParseOrg(organization)
	p := pair{dataverse: err == nil && org.Alternate != nil}
	if alternate == "" {
		p.origins = [2]*url.URL{org.Primary, org.Alternate}
		return p, err
	}
	for e, s := range []string{organization, alternate} {
		if s == failover.NoAlternate {
			continue
		}
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" {
			return pair{}, errors.New("auth: an endpoint is not an https URL of a host") // s may hold a password
		}
		p.origins[e] = u
	}
	return p, nil
}

// endpoint returns the endpoint that u is addressed to.
func (p *pair) endpoint(u *url.URL) (failover.Endpoint, bool) {
	for e, origin := range p.origins {
		if origin != nil && u.Scheme == origin.Scheme && p.name(u) == p.name(origin) {
			return failover.Endpoint(e), true
		}
	}
	return 0, false
}

// audience returns the address of an endpoint as the audience of a token, or that of the
// primary if there is no alternate.
func (p *pair) audience(e failover.Endpoint) string {
	if p.origins[e] == nil {
		e = failover.Primary
	}
	return p.origins[e].Scheme + "://" + p.name(p.origins[e])
}

// name returns the host and port of u without the label api.
func (p *pair) name(u *url.URL) string {
	host := hostOf(u)
	if !p.dataverse {
		return host
	}
	org, domain, _ := strings.Cut(host, ".")
	if rest, ok := strings.CutPrefix(domain, "api."); ok {
		return org + "." + rest
	}
	return host
}

// hostOf returns the host and port of u in a canonical form: ASCII letters in lower case, no
// trailing dot, and no port if it is that of https. It does not fold letters that are not
// ASCII, such as the Kelvin sign: they belong to another host.
func hostOf(u *url.URL) string {
	host := strings.TrimSuffix(ascii.Lower(u.Hostname()), ".")
	if port := u.Port(); port != "" && port != "443" {
		return net.JoinHostPort(host, port)
	}
	return host
}

// resource returns the audience that a challenge asks for, and whether it is an address of
// the pair, with or without the label api.
func (p *pair) resource(h http.Header) (string, bool) {
	u, err := url.Parse(resourceID(h))
	if err != nil {
		return "", false
	}
	_, ok := p.endpoint(u)
	return u.Scheme + "://" + hostOf(u), ok
}

// resourceID returns the resource_id of a Bearer challenge, "" if there is none. Dataverse
// omits the quotes that RFC 9110 requires.
func resourceID(h http.Header) string {
	for _, challenge := range h.Values("WWW-Authenticate") {
		scheme, params, _ := strings.Cut(strings.TrimSpace(challenge), " ")
		if !ascii.EqualFold("bearer", scheme) {
			continue
		}
		for param := range strings.SplitSeq(params, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
			if ascii.EqualFold("resource_id", name) {
				return strings.Trim(value, `"`)
			}
		}
	}
	return ""
}

// Configure returns cfg with Authorize set, and with Probe and Classify wrapped so that
// Tokens sees when an endpoint rejects a token: it then adopts the audience that the endpoint
// asks for, or renews the token, at most every 30 s. The Alternate of cfg must be that of
// [Config].
//
// Configure does not wrap Base: only directly over an [http.Transport] can a
// [failover.Transport] prove that a request was not sent.
func (t *Tokens) Configure(cfg failover.Config) failover.Config {
	cfg.Authorize = t.Authorize
	probe, classify := cfg.Probe, cfg.Classify
	if classify == nil {
		classify = failover.Classify
	}
	cfg.Classify = func(resp *http.Response, err error) *failover.Fault {
		if resp != nil {
			t.learn(resp)
		}
		return classify(resp, err)
	}
	if probe == nil {
		probe = failover.ProbeWebAPI
		if strings.HasSuffix(ascii.Lower(t.pair.origins[failover.Primary].Hostname()), ".operations.dynamics.com") {
			probe = failover.ProbePath("/data")
		}
	}
	cfg.Probe = func(ctx context.Context, client *http.Client, endpoint *url.URL) error {
		watched := *client
		watch := &watch{Tokens: t, base: client.Transport}
		watched.Transport = watch
		err := probe(ctx, &watched, endpoint)
		if watch.learned { // the answer to a wrong token is weak evidence
			return probe(ctx, client, endpoint)
		}
		return err
	}
	return cfg
}

// watch lets Tokens see the answers to a probe.
type watch struct {
	*Tokens
	base    http.RoundTripper
	learned bool // another audience, so that probing again makes sense
}

func (w *watch) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.base.RoundTrip(req)
	if err == nil && w.learn(resp) {
		w.learned = true
	}
	return resp, err
}

// learn inspects a response. If an endpoint has rejected a token and asks for another
// audience, learn adopts that audience for the endpoint and reports true. If the endpoint
// rejected a token for the right audience, which may have been revoked, learn schedules its
// renewal.
func (t *Tokens) learn(resp *http.Response) bool {
	if resp.StatusCode != http.StatusUnauthorized || resp.Request == nil {
		return false
	}
	e, ok := t.pair.endpoint(resp.Request.URL)
	if !ok {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.hurry()
	if audience, ok := t.pair.resource(resp.Header); ok && audience != t.audiences[e] && !t.final[e] {
		t.audiences[e] = audience
		return true
	}
	k := t.keptFor(e)
	soon := k.got.Add(refusedPause)
	if k.err == nil && soon.Before(k.next) && resp.Request.Header.Get("Authorization") == "Bearer "+k.token.Token {
		k.next = soon
	}
	return false
}
