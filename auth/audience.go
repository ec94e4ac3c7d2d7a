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

// pair knows the hosts of an organization.
type pair struct {
	origins [2]*url.URL // by endpoint; no alternate for an organization with one address
	// dataverse: each endpoint has two names, which differ by the label api.
	dataverse bool
}

// newPair returns the pair for what failover.New is given.
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

// audience returns the address of an endpoint as the audience of a token, that of
// the primary if there is no alternate.
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

// hostOf returns the host and port of u in one form: ASCII in lower case, without
// a trailing dot and the port of https. Letters that Unicode folds to ASCII ones,
// such as the Kelvin sign, belong to another host.
func hostOf(u *url.URL) string {
	host := strings.TrimSuffix(ascii.Lower(u.Hostname()), ".")
	if port := u.Port(); port != "" && port != "443" {
		return net.JoinHostPort(host, port)
	}
	return host
}

// resource returns the audience that a challenge asks for, if it is one of the
// pair's addresses in either form.
func (p *pair) resource(h http.Header) (string, bool) {
	u, err := url.Parse(resourceID(h))
	if err != nil {
		return "", false
	}
	_, ok := p.endpoint(u)
	return u.Scheme + "://" + hostOf(u), ok
}

// resourceID returns the resource_id of a Bearer challenge, "" if there is
// none. Dataverse does not put it in quotes, as RFC 9110 would have it.
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

// Configure returns cfg with Authorize set, and with a Probe and a Classify that
// do what they did and let Tokens see refused requests. The Alternate of cfg has
// to be that of [Config].
//
// Base is left alone: only over an [http.Transport] itself can a
// [failover.Transport] tell for certain that a request was not sent.
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
		if watch.learned { // an answer to the wrong token is weak evidence
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
	learned bool // something that makes it worth asking again
}

func (w *watch) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.base.RoundTrip(req)
	if err == nil && w.learn(resp) {
		w.learned = true
	}
	return resp, err
}

// learn looks at an answer. If an endpoint has refused a token and asks for
// another audience, that one is the endpoint's from now on, and learn reports
// true. A token that was refused although it is for the right audience, because
// it was revoked perhaps, is renewed.
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
