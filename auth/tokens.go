// Package auth authorizes the requests of a [failover.Transport] with tokens of Microsoft
// Entra ID. It keeps a token for each endpoint ready, so that a failover does not depend on
// the sign-in service.
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
// A token is issued for one audience. Microsoft documents "<environment-url>/.default" as
// the scope of an application
// (https://learn.microsoft.com/power-apps/developer/data-platform/authenticate-oauth), but
// does not document which audience the alternate endpoint accepts. Therefore:
//
//   - Each endpoint gets a token for its own address, without the label api.
//   - If an endpoint rejects that token and asks for the organization's other address, in
//     the resource_id of its Bearer challenge, it gets tokens for that address from then
//     on. Microsoft's own client also takes the audience from the challenge.
//   - If there is no token for an endpoint's audience, because the sign-in service does not
//     know the audience or cannot be reached, the token for the other endpoint is sent
//     instead: both belong to the same organization.
//   - [Config.Audiences] overrides the first two.
//
// A challenge is accepted only if it names one of the two endpoints, and its
// authorization_uri is never used. A host that answers for the organization, rightfully or
// not, can therefore not make a program request a token that is valid elsewhere, or request
// it elsewhere.
package auth

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/d365failover/failover"
)

// Config configures [New].
type Config struct {
	// Organization is the URL of the organization, as given to [failover.New].
	Organization string
	// Alternate is the URL of the alternate endpoint, as in [failover.Config]. Empty:
	// derived from Organization if that names a Dataverse organization, or else none.
	// [failover.NoAlternate]: none.
	Alternate string
	// Source returns the tokens; see [FromCredential], [FromCredentials] and [FromOAuth2].
	Source Source
	// Audiences are the audiences of the tokens by endpoint ([failover.Primary] and
	// [failover.Alternate]), such as "https://contoso.crm4.dynamics.com". An audience that
	// is set never changes. Empty: the address of the endpoint without the label api, until
	// the endpoint asks for the organization's other address.
	Audiences [2]string
	// Timeout bounds one request for a token. Zero or negative: 30 s.
	Timeout time.Duration
}

const (
	// leeway is how long before it expires a token is no longer used.
	leeway = 10 * time.Second
	// firstPause follows the first failure to get a token. It doubles with every further
	// failure, up to longestPause.
	firstPause   = time.Second
	longestPause = 15 * time.Second
	// patience is how long a request waits for a token if the one for the other
	// endpoint could be sent instead. A probe has 5 s for everything.
	patience = 2 * time.Second
	// hangsAfter is how long after its context has ended the Source counts as hanging.
	hangsAfter = time.Second
	// refusedPause is how old a token must be to be renewed because an endpoint rejected it.
	refusedPause = 30 * time.Second
)

// Tokens keeps tokens for both endpoints of an organization. It renews each after half of
// the lifetime that the token had left when it arrived, jittered by 10%, or earlier if the
// sign-in service says so; as much time then remains to get the next one. It is safe for
// concurrent use; all goroutines share one token per audience and one request for it.
type Tokens struct {
	pair    pair
	final   [2]bool // by endpoint: the audience never changes
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
	next     time.Time     // when to request it again
	flight   chan struct{} // closed when the request under way ends; nil if there is none
	failures int           // in a row
	calling  atomic.Bool   // the Source has not returned
	err      error         // of the last request
}

func (k *kept) valid() bool { return time.Until(k.token.ExpiresOn) > leeway }

// New returns Tokens and starts requesting the first ones. Call Close when done.
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
	t.renewDue() // not in the goroutine, so that the first call of Authorize finds the requests under way
	t.wg.Go(t.keep)
	return t, nil
}

// Close stops the renewal, cancels the requests for tokens that are under way, and waits
// for them, but not for a Source that ignores its context. Authorize continues to use the
// tokens that Tokens has until they expire. Close always returns nil. Closing again does
// nothing.
func (t *Tokens) Close() error {
	t.mu.Lock()
	t.cancel()
	t.mu.Unlock()
	t.wg.Wait()
	return nil
}

// Authorize sets the Authorization header of req to a token for the endpoint that req is
// addressed to. It is meant for [failover.Config.Authorize], which is called for every
// attempt and probe once the host is final. It waits for the sign-in service only if there
// is no valid token for the endpoint, for up to two seconds if there is one for the other
// endpoint, and not at all shortly after a failure. For a host outside the organization it
// returns an error and sets nothing. Any other error is an [*Error] or that of the request's
// context.
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

// Warm waits for the tokens for both endpoints, but for the second no longer than two
// seconds. It returns an error only if it gets neither. Call it when the program starts, to
// learn of a missing login then rather than later.
func (t *Tokens) Warm(ctx context.Context) error {
	_, primary := t.token(ctx, failover.Primary)
	_, alternate := t.token(ctx, failover.Alternate)
	if primary != nil && alternate != nil {
		return primary
	}
	return nil
}

// State describes the token for an endpoint.
type State struct {
	// Audience is the audience of the token.
	Audience string
	// Expires is when the token expires, zero if there has been none for the audience.
	Expires time.Time
	// Err is why the last request for a token failed, nil if it succeeded.
	Err error
}

// State returns the state of the token for an endpoint. Alert on an Err of the alternate
// that persists: a failover would have no token for it.
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
	case own.err == nil && t.ctx.Err() != nil:
		return "", &Error{Audience: audience, err: errClosed}
	case own.err == nil: // the token for the other endpoint has expired while it was waited for
		return "", &Error{Audience: audience, err: errLate}
	}
	return "", own.err
}

// ask requests a token unless a request is under way or has just failed, or Tokens is
// closed. It returns a channel that is closed when the request has ended, nil if there is
// none. The caller holds t.mu.
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
		token, err := t.call(ctx, k, audience+"/.default")
		if err == nil && (token.Token == "" || time.Until(token.ExpiresOn) <= leeway) {
			err = errNoToken
		}
		t.land(k, token, err, audience)
	})
	return k.flight
}

// call calls the Source. If that ignores its context, call does not wait for it, nor calls it again
// before it has returned.
func (t *Tokens) call(ctx context.Context, k *kept, scope string) (token azcore.AccessToken, err error) {
	if k.calling.Swap(true) {
		return token, errHangs
	}
	var result azcore.AccessToken
	failure, returned := errPanicked, make(chan struct{}) // or it calls runtime.Goexit
	go func() {
		defer close(returned)
		defer k.calling.Store(false)
		defer func() { _ = recover() }()
		result, failure = t.source(ctx, scope)
	}()
	select {
	case <-returned:
		return result, failure
	case <-ctx.Done():
	}
	select {
	case <-returned:
		return result, failure
	case <-time.After(hangsAfter):
		return token, errHangs
	}
}

// land ends a request for a token with its result.
func (t *Tokens) land(k *kept, token azcore.AccessToken, err error, audience string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k.take(token, err, audience)
	close(k.flight)
	k.flight = nil
	t.hurry()
}

// take stores the result of a request. The caller holds Tokens.mu.
func (k *kept) take(token azcore.AccessToken, err error, audience string) {
	now := time.Now()
	if err != nil {
		k.err = &Error{Audience: audience, err: err}
		k.next = now.Add(jittered(min(firstPause<<min(k.failures, 8), longestPause)))
		k.failures++
		return
	}
	k.token, k.got, k.err, k.failures = token, now, nil, 0
	// A source with a cache returns the same token again, with less of its life left.
	wait := jittered(time.Until(token.ExpiresOn) / 2)
	if early := token.RefreshOn.Sub(now); early > 0 {
		wait = min(wait, early)
	}
	k.next = now.Add(max(wait, firstPause))
}

// jittered returns d, longer or shorter by up to 10%, so that the processes of a fleet do
// not all ask at the same time.
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

// renewDue requests the tokens that are due and returns the time until the next one is.
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

// hurry makes keep look at the schedule again.
func (t *Tokens) hurry() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}
