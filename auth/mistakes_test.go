package auth_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/auth"
	"github.com/d365failover/failover/auth/authtest"
	"github.com/d365failover/failover/failovertest"
)

// Every test here makes one mistake in the order of wrapping, and its name says what happens
// then. docs/authorization.md lists the mistakes.

// roundTripper is an http.RoundTripper made of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// wrap returns a client through a Transport.
func wrap(t *testing.T, org *failovertest.Org, cfg failover.Config) (*http.Client, *failover.Transport) {
	cfg.Logger = quiet
	if cfg.Base == nil {
		cfg.Base = org.Transport()
	}
	client, transport, err := failover.Wrap(nil, org.URL(), &cfg)
	require.NoError(t, err)
	t.Cleanup(func() { transport.Close() })
	return client, transport
}

// oneAudience returns an oauth2 source of tokens for the primary only.
func (w world) oneAudience(t *testing.T) oauth2.TokenSource {
	grant := w.service.OAuth2()
	grant.Scopes = []string{primary + "/.default"}
	return grant.TokenSource(context.WithValue(t.Context(), oauth2.HTTPClient, w.service.Client()))
}

// create creates an account without an id of its own, so that a second request
// would create a second one.
func create(client *http.Client) (*http.Response, error) {
	resp, err := client.Post(orgURL+"/api/data/v9.2/accounts", "application/json", strings.NewReader(`{"name":"Invoice 11"}`))
	if err == nil {
		resp.Body.Close()
	}
	return resp, err
}

// created counts the accounts that create has made.
func created(d *failovertest.Datacenter) int {
	n := 0
	for _, row := range d.Rows("accounts") {
		if row["name"] == "Invoice 11" {
			n++
		}
	}
	return n
}

func TestOAuth2OutsideHasOneAudienceAndIsRefusedAtTheAlternate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	authtest.Demand(w.org.Alternate(), alternate)
	_, transport := wrap(t, w.org, failover.Config{})
	client := &http.Client{Transport: &oauth2.Transport{Source: w.oneAudience(t), Base: transport}}
	assert.Equal(t, 200, status(t, client, orgURL+accounts))
	w.org.Disaster(failovertest.Refuse())
	for range 3 {
		_, err := client.Get(orgURL + accounts)
		assert.ErrorIs(t, err, syscall.ECONNREFUSED, "as without an alternate")
	}
	assert.Equal(t, failover.Primary, transport.Status().Active, "the alternate was on trial, and refused the token")
}

func TestOAuth2AsBaseHasOneAudienceAndIsRefusedAtTheAlternate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	authtest.Demand(w.org.Alternate(), alternate)
	client, _ := wrap(t, w.org, failover.Config{Base: &oauth2.Transport{Source: w.oneAudience(t), Base: w.org.Transport()}})
	w.org.Disaster(failovertest.Refuse())
	_, err := client.Get(orgURL + accounts)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED, "as without an alternate")
}

func TestOAuth2OutsideDoesWhereBothEndpointsTakeTheSameAudience(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	authtest.Demand(w.org.Alternate(), primary)
	_, transport := wrap(t, w.org, failover.Config{})
	client := &http.Client{Transport: &oauth2.Transport{Source: w.oneAudience(t), Base: transport}}
	w.org.Disaster(failovertest.Refuse())
	assert.Equal(t, 200, status(t, client, orgURL+accounts))
	for _, d := range w.org.Alternate().Deliveries() {
		assert.Equal(t, primary, d.Audience, "%s: probes borrow the token of the request", d.Path)
	}
}

func TestOAuth2AsBaseSendsTheTokenToStrangers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var audience string
	stranger := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		audience = authtest.Audience(r.Header)
	}))
	defer stranger.Close()
	// The same client follows a link in an answer, for example to a file store.
	wrong, _ := wrap(t, w.org, failover.Config{Base: &oauth2.Transport{Source: w.oneAudience(t), Base: stranger.Client().Transport}})
	assert.Equal(t, 200, status(t, wrong, stranger.URL))
	assert.Equal(t, primary, audience)

	tokens := newTokens(t, auth.Config{Source: w.sources()["oauth2"]})
	right, _ := wrap(t, w.org, failover.Config{Base: stranger.Client().Transport, Authorize: tokens.Authorize})
	assert.Equal(t, 200, status(t, right, stranger.URL))
	assert.Empty(t, audience)
}

// slowSource is an oauth2.TokenSource of a sign-in service that takes a minute.
type slowSource struct{}

func (slowSource) Token() (*oauth2.Token, error) {
	time.Sleep(time.Minute) // in a bubble
	return &oauth2.Token{AccessToken: "late"}, nil
}

func TestAnOAuth2TokenSourceIgnoresTheDeadlineOfTheRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		_, transport := wrap(t, org, failover.Config{})
		defer transport.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := (&oauth2.Transport{Source: slowSource{}, Base: transport}).RoundTrip(get(ctx, orgURL+accounts))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Minute, time.Since(start))

		tokens, err := auth.New(auth.Config{Organization: orgURL, Source: (&source{life: time.Hour, delay: time.Minute}).get})
		require.NoError(t, err)
		defer tokens.Close()
		right, done := wrap(t, org, failover.Config{Authorize: tokens.Authorize})
		defer done.Close()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		_, err = right.Do(get(ctx, orgURL+accounts))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(start))
	})
}

func TestATokenSourceWithoutAWarmTokenNeedsTheSignInServiceOnTheDay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	credential, err := w.service.Credential()
	require.NoError(t, err)
	ask := auth.FromCredential(credential)
	client, _ := wrap(t, w.org, failover.Config{Authorize: func(req *http.Request) error { // requests a token only when it needs one
		token, err := ask(req.Context(), "https://"+strings.Replace(req.URL.Host, ".api.", ".", 1)+"/.default")
		req.Header.Set("Authorization", "Bearer "+token.Token)
		return err
	}})
	assert.Equal(t, 200, status(t, client, orgURL+accounts))
	w.service.Close()
	w.org.Disaster(failovertest.Refuse())
	_, err = client.Get(orgURL + accounts)
	assert.ErrorIs(t, err, failover.ErrUnavailable, "the alternate's probe could not be authorized, so nothing moved")
}

// retrying sends a request up to three times, after any error, like many retry libraries do by
// default. They buffer the body for that.
func retrying(base http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (resp *http.Response, err error) {
		var body []byte
		if req.Body != nil {
			if body, err = io.ReadAll(req.Body); err != nil {
				return nil, err
			}
			req.Body.Close()
		}
		for range 3 {
			again := req.Clone(req.Context())
			if req.Body != nil {
				again.Body = io.NopCloser(bytes.NewReader(body))
			}
			if resp, err = base.RoundTrip(again); err == nil {
				break
			}
		}
		return resp, err
	})
}

func TestARetryInsideBaseRepeatsWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client, _ := wrap(t, w.org, failover.Config{Base: retrying(w.org.Transport()), Authorize: w.org.Authorize})
	w.org.Primary().FailWhen(onceFor(http.MethodPost), failovertest.Reset(failovertest.AfterApply))
	_, err := create(client)
	assert.NoError(t, err)
	assert.Equal(t, 2, created(w.org.Primary()), "the Transport never got to see the lost answer")
}

func TestARetryOutsideThatDoesNotKnowErrOutcomeUnknownRepeatsWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, transport := wrap(t, w.org, failover.Config{Authorize: w.org.Authorize})
	w.org.Primary().FailWhen(onceFor(http.MethodPost), failovertest.Reset(failovertest.AfterApply))
	_, err := create(&http.Client{Transport: retrying(transport)})
	assert.NoError(t, err)
	assert.Equal(t, 2, created(w.org.Primary()))
}

func TestWithoutAnyRetryAWriteInDoubtIsAnErrorThatSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client, _ := wrap(t, w.org, failover.Config{Authorize: w.org.Authorize})
	w.org.Primary().FailWhen(onceFor(http.MethodPost), failovertest.Reset(failovertest.AfterApply))
	_, err := create(client)
	assert.ErrorIs(t, err, failover.ErrOutcomeUnknown)
	assert.Equal(t, 1, created(w.org.Primary()))
}

// onceFor matches the first request with a method.
func onceFor(method string) func(*http.Request) bool {
	var once sync.Once
	return func(r *http.Request) (first bool) {
		if r.Method == method {
			once.Do(func() { first = true })
		}
		return first
	}
}

func TestAClientTimeoutShorterThanASwitchFailsCallsThatWouldHaveBeenAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, timeout := range []time.Duration{9 * time.Second, 2 * time.Minute} {
			org := failovertest.StartInMemory(nil)
			client, transport := wrap(t, org, failover.Config{Authorize: org.Authorize, AttemptTimeout: 10 * time.Second})
			org.Disaster(failovertest.BlackHole())
			client.Timeout = timeout
			resp, err := client.Get(orgURL + accounts)
			if timeout < 10*time.Second { // less than one attempt
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			} else if assert.NoError(t, err) { // three attempts and a probe
				assert.Equal(t, 200, resp.StatusCode)
				resp.Body.Close()
			}
			transport.Close()
			org.Close()
		}
	})
}

func TestARoundTripperInsideThatChangesTheHostUndoesTheSwitch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	base := w.org.Transport()
	client, transport := wrap(t, w.org, failover.Config{Authorize: w.org.Authorize, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
		req = req.Clone(req.Context())
		req.URL.Host, req.Host = strings.TrimPrefix(orgURL, "https://"), ""
		return base.RoundTrip(req)
	})})
	w.org.Disaster(failovertest.Refuse())
	_, err := client.Get(orgURL + accounts)
	assert.ErrorIs(t, err, failover.ErrUnavailable)
	assert.Equal(t, failover.Primary, transport.Status().Active)
	assert.Empty(t, w.org.Alternate().Deliveries(), "even the probe of the alternate went to the primary")
}

func TestARoundTripperOutsideThatChangesTheHostLeavesTheTransportWithNothingToDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, transport := wrap(t, w.org, failover.Config{Authorize: w.org.Authorize})
	client := &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
		req = req.Clone(req.Context())
		req.URL.Host = "contoso.crm.dynamics.com:8443" // a gateway, say
		return transport.RoundTrip(req)
	})}
	w.org.Disaster(failovertest.Refuse())
	_, err := client.Get(orgURL + accounts)
	require.Error(t, err)
	var fault *failover.Fault
	assert.False(t, errors.As(err, &fault), "the request was a stranger's and went through untouched")
	assert.Equal(t, failover.Primary, transport.Status().Active)
}

// cache is a cache for answers to GET that never expires.
func cache(base http.RoundTripper) http.RoundTripper {
	var answers sync.Map
	type answer struct {
		resp http.Response
		body []byte
	}
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if kept, ok := answers.Load(req.URL.String()); ok && req.Method == http.MethodGet {
			resp := kept.(answer).resp
			resp.Request, resp.Body = req, io.NopCloser(bytes.NewReader(kept.(answer).body))
			return &resp, nil
		}
		resp, err := base.RoundTrip(req)
		if err != nil || resp.StatusCode != 200 || req.Method != http.MethodGet {
			return resp, err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		answers.Store(req.URL.String(), answer{*resp, body})
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	})
}

func TestACacheInsideBaseAnswersTheProbesOfADeadEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client, transport := wrap(t, w.org, failover.Config{Authorize: w.org.Authorize, Base: cache(w.org.Transport())})
	assert.Equal(t, 200, status(t, client, orgURL+"/api/data/v9.2/WhoAmI")) // as programs do when they start
	w.org.Disaster(failovertest.Refuse())
	_, err := client.Get(orgURL + accounts)
	assert.Error(t, err)
	assert.Equal(t, failover.Primary, transport.Status().Active, "its probe was answered, by the cache")
}

func TestACacheOutsideIsFreeOfThatButKeepsWhatTheFailoverHasLost(t *testing.T) {
	t.Parallel()
	org := failovertest.Start(&failovertest.Config{Lag: time.Hour})
	t.Cleanup(org.Close)
	_, transport := wrap(t, org, failover.Config{Authorize: org.Authorize})
	client := &http.Client{Transport: cache(transport)}
	resp, err := create(client)
	require.NoError(t, err)
	record := resp.Header.Get("OData-EntityId")
	assert.Equal(t, 200, status(t, client, record))
	org.Disaster(failovertest.Refuse())
	assert.Equal(t, 200, status(t, client, orgURL+accounts))
	assert.Equal(t, failover.Alternate, transport.Status().Active)
	assert.Equal(t, 200, status(t, client, record), "from the cache")
	assert.Equal(t, 404, status(t, &http.Client{Transport: transport}, record), "the record is lost")
}

func TestARetryOutsideAfterErrUnavailableIsHarmlessForAllButTheWaiting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, transport := wrap(t, w.org, failover.Config{Authorize: w.org.Authorize})
	w.org.Primary().Fail(failovertest.Refuse())
	tries := 0
	_, err := (&http.Client{Transport: retrying(roundTripper(func(req *http.Request) (*http.Response, error) {
		tries++
		return transport.RoundTrip(req)
	}))}).Get(orgURL + accounts)
	assert.ErrorIs(t, err, failover.ErrUnavailable)
	assert.Equal(t, 3, tries)
	assert.LessOrEqual(t, w.org.Primary().Dials(), 8, "the calls after the first are sent once each: three attempts, two more, and probes")
}

// TestThePageNamesWhatIsTested keeps docs/authorization.md and the tests in step.
func TestThePageNamesWhatIsTested(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/authorization.md")
	require.NoError(t, err)
	mistakes, err := os.ReadFile("mistakes_test.go")
	require.NoError(t, err)
	all := string(mistakes)
	for _, file := range []string{"tokens_test.go", "renewal_test.go"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		all += string(text)
	}
	for _, name := range regexp.MustCompile(`\bTest\w+`).FindAllString(string(page), -1) {
		assert.Contains(t, all, "func "+name+"(", "named without a test")
	}
	for _, match := range regexp.MustCompile(`func (Test\w+)`).FindAllStringSubmatch(string(mistakes), -1) {
		if match[1] != t.Name() {
			assert.Contains(t, string(page), "`"+match[1]+"`", "a mistake that the page does not name")
		}
	}
}
