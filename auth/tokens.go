// Package auth authorizes the requests of a failover.Transport with tokens of
// Microsoft Entra ID, so that a failover does not depend on the sign-in
// service: by the time the alternate endpoint is needed, the token for it has
// long been there.
//
//	credential, err := azidentity.NewDefaultAzureCredential(nil)
//	...
//	tokens, err := auth.New(auth.Config{
//		Organization: "https://contoso.crm4.dynamics.com",
//		Source:       auth.FromCredential(credential),
//	})
//	...
//	defer tokens.Close()
//	cfg := tokens.Configure(failover.Config{})
//	client, transport, err := failover.Wrap(nil, "https://contoso.crm4.dynamics.com", &cfg)
//
// # Audiences
//
// A token is made for one audience. Microsoft documents
// "<environment-url>/.default" as the scope of an application
// (https://learn.microsoft.com/power-apps/developer/data-platform/authenticate-oauth)
// and says nowhere which one the alternate endpoint wants: the page on disaster
// recovery gives it an address of its own and does not mention tokens. So:
//
//   - Each endpoint gets a token for its own address, without the label api.
//   - An endpoint that refuses it and names the organization's other address,
//     in the resource_id of its Bearer challenge, gets a token for that from
//     then on. This is where Microsoft's own client takes the audience from.
//   - If no token for an endpoint's audience can be had, because the sign-in
//     service does not know it or is not there, the one for the other
//     endpoint is sent instead: both belong to the same organization.
//   - [Config.Audiences] settles the question for those who know better.
//
// What a challenge says is followed only if it names one of the two endpoints,
// and its authorization_uri never: a host that answers for the organization,
// rightly or not, cannot make a program ask for a token that is good elsewhere,
// nor ask for it elsewhere.
package auth

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/d365failover/failover"
)

// Config says for what and from where [New] gets tokens.
type Config struct {
	// Organization is the URL of the organization, as [failover.New] is given it.
	Organization string
	// Alternate is the URL of the alternate endpoint, as in [failover.Config].
	// Empty: derived, or none where no rule leads to one. [failover.NoAlternate]:
	// none.
	Alternate string
	// Source of the tokens: [FromCredential], [FromCredentials], [FromOAuth2].
	Source Source
	// Audiences of the tokens by endpoint ([failover.Primary] and
	// [failover.Alternate]), such as "https://contoso.crm4.dynamics.com". One
	// that is set is final. Empty: the address of the endpoint without the label
	// api, until the endpoint asks for the organization's other address.
	Audiences [2]string
	// Timeout of one request for a token. Zero: 30 s.
	Timeout time.Duration
}

const (
	// leeway before its end within which a token is not used any more.
	leeway = 10 * time.Second
	// firstPause follows the first failure to get a token; later ones are twice
	// as long each, up to longestPause.
	firstPause   = time.Second
	longestPause = 15 * time.Second
	// patience is how long a request waits for a token if the one for the other
	// endpoint could be sent instead. A probe has 5 s for everything.
	patience = 2 * time.Second
	// refusedPause is how old a token has to be to be renewed for being refused.
	refusedPause = 30 * time.Second
)

// Tokens holds the tokens for both endpoints of an organization, from New until
// Close, and renews each when half of what it had left to live is over: were the
// sign-in service to go away now, every token would be good for that long. It is
// safe for concurrent use; all goroutines share one token per audience and one
// request for it. No lock is held while a token is asked for.
type Tokens struct {
	pair    pair
	final   [2]bool // the audience is not to be changed
	source  Source
	timeout time.Duration

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // capacity 1: the schedule has changed

	mu        sync.Mutex // guards what follows
	audiences [2]string  // by endpoint
	kept      map[string]*kept
}

// kept is the token for an audience. Guarded by Tokens.mu.
type kept struct {
	token    azcore.AccessToken
	got      time.Time
	next     time.Time     // when it is to be asked for again
	flight   chan struct{} // closed when the request under way ends; nil if none is
	failures int           // in a row
	err      error         // of the last request
}

func (k *kept) valid() bool { return time.Until(k.token.ExpiresOn) > leeway }

// New returns Tokens and begins to get them. Call Close when done.
func New(cfg Config) (*Tokens, error) {
	if cfg.Source == nil {
		return nil, errors.New("auth: no Source")
	}
	p, err := newPair(cfg.Organization, cfg.Alternate)
	if err != nil {
		return nil, err
	}
	t := &Tokens{pair: p, source: cfg.Source, timeout: cfg.Timeout, wake: make(chan struct{}, 1), kept: make(map[string]*kept)}
	if t.timeout <= 0 {
		t.timeout = 30 * time.Second
	}
	for e := range t.audiences {
		t.audiences[e] = p.audience(failover.Endpoint(e))
		if cfg.Audiences[e] != "" {
			t.audiences[e], t.final[e] = cfg.Audiences[e], true
		}
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.renewDue() // not in the goroutine: the first request is to find it under way
	t.wg.Go(t.keep)
	return t, nil
}

// Close ends the renewal and waits for requests for tokens that are under way,
// whose contexts end. Tokens that are there go on being used until they expire.
// It always returns nil; closing again is harmless.
func (t *Tokens) Close() error {
	t.mu.Lock()
	t.cancel()
	t.mu.Unlock()
	t.wg.Wait()
	return nil
}

// Authorize puts a token for the endpoint that req is addressed to into its
// Authorization header. It is meant for [failover.Config.Authorize], which calls
// it for every attempt and probe when the host is final. It waits for the
// sign-in service only if there is no token, within the request's context, and
// not again right after a failure. A host that is not the organization's gets no
// token but an error. Errors are of type [*Error], or the context's.
func (t *Tokens) Authorize(req *http.Request) error {
	e, ok := t.pair.endpoint(req.URL)
	if !ok {
		return errors.New("auth: no token for a host outside the organization")
	}
	token, err := t.token(req.Context(), e)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return nil
}

// Warm waits until the tokens for both endpoints have been asked for. It returns
// an error if there is none, or that of ctx. It is meant for the start of a
// program, where a missing login is better told than later.
func (t *Tokens) Warm(ctx context.Context) error {
	_, primary := t.token(ctx, failover.Primary)
	_, alternate := t.token(ctx, failover.Alternate)
	if primary != nil && alternate != nil {
		return primary
	}
	return nil
}

// State is what Tokens has for an endpoint.
type State struct {
	Audience string
	// Expires is when the token does, zero if there is none for the audience.
	Expires time.Time
	// Err is why the last request for one failed, nil if it did not.
	Err error
}

// State returns what there is for an endpoint. An Err that stays at the
// alternate is worth an alert: it may not have a token on the day.
func (t *Tokens) State(e failover.Endpoint) State {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.keptFor(e)
	return State{Audience: t.audiences[e], Expires: k.token.ExpiresOn, Err: k.err}
}

// keptFor returns the entry for an endpoint's audience. The caller holds t.mu.
func (t *Tokens) keptFor(e failover.Endpoint) *kept {
	audience := t.audiences[e]
	if t.kept[audience] == nil {
		t.kept[audience] = new(kept)
	}
	return t.kept[audience]
}

// token returns a token to send to an endpoint.
func (t *Tokens) token(ctx context.Context, e failover.Endpoint) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own, other := t.keptFor(e), t.keptFor(e^1)
	audience := t.audiences[e]
	if !own.valid() {
		var enough <-chan time.Time
		if other.valid() {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			enough = timer.C
		}
		if flight := t.ask(audience, own); flight != nil {
			t.mu.Unlock()
			select {
			case <-flight:
			case <-enough:
			case <-ctx.Done():
			}
			t.mu.Lock()
		}
	}
	switch {
	case own.valid():
		return own.token.Token, nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case other.valid():
		return other.token.Token, nil
	case own.err == nil:
		return "", &Error{Audience: audience, err: errClosed}
	}
	return "", own.err
}

// ask requests a token unless that is under way, has just failed, or Tokens is
// closed. It returns a channel that is closed when the request has ended, nil if
// there is none. The caller holds t.mu.
func (t *Tokens) ask(audience string, k *kept) <-chan struct{} {
	if k.flight != nil {
		return k.flight
	}
	if t.ctx.Err() != nil || k.err != nil && time.Now().Before(k.next) {
		return nil
	}
	k.flight = make(chan struct{})
	// Not the caller's context: others wait for the same token.
	t.wg.Go(func() {
		ctx, cancel := context.WithTimeout(t.ctx, t.timeout)
		defer cancel()
		token, err := t.source(ctx, audience+"/.default")
		if err == nil && (token.Token == "" || time.Until(token.ExpiresOn) <= leeway) {
			err = errNoToken
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		k.take(token, err, audience)
		close(k.flight)
		k.flight = nil
		t.hurry()
	})
	return k.flight
}

// take keeps what a request has brought. The caller holds Tokens.mu.
func (k *kept) take(token azcore.AccessToken, err error, audience string) {
	now := time.Now()
	if err != nil {
		k.err = &Error{Audience: audience, err: err}
		k.next = now.Add(jittered(min(firstPause<<min(k.failures, 8), longestPause)))
		k.failures++
		return
	}
	k.token, k.got, k.err, k.failures = token, now, nil, 0
	// A source that keeps tokens itself gives the same one again, for less and
	// less time each.
	k.next = now.Add(max(jittered(time.Until(token.ExpiresOn)/2), firstPause))
	if !token.RefreshOn.IsZero() && token.RefreshOn.After(now) && token.RefreshOn.Before(k.next) {
		k.next = token.RefreshOn
	}
}

// jittered returns d, longer or shorter by up to a tenth, so that the processes
// of a fleet do not all ask at the same time.
func jittered(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// keep renews the tokens until Close.
func (t *Tokens) keep() {
	for {
		timer := time.NewTimer(t.renewDue())
		select {
		case <-timer.C:
		case <-t.wake:
		case <-t.ctx.Done():
		}
		timer.Stop()
		if t.ctx.Err() != nil {
			return
		}
	}
}

// renewDue asks for the tokens that are due and returns the time until the next.
func (t *Tokens) renewDue() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := time.Hour
	for e, audience := range t.audiences {
		k := t.keptFor(failover.Endpoint(e))
		if time.Until(k.next) <= 0 {
			t.ask(audience, k)
		}
		if k.flight == nil {
			wait = min(wait, max(time.Until(k.next), 0))
		}
	}
	return wait
}

// hurry makes keep look again.
func (t *Tokens) hurry() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}
