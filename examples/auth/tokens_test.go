package auth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/examples/auth"
	"github.com/d365failover/failover/examples/internal/signin"
	"github.com/d365failover/failover/failovertest"
)

const (
	orgURL    = "https://contoso.api.crm.dynamics.com"
	primary   = "https://contoso.crm.dynamics.com"
	alternate = "https://contoso--s.crm.dynamics.com"
	accounts  = "/api/data/v9.2/accounts?$top=1"
)

// world is an organization with a sign-in service, over real sockets.
type world struct {
	org     *failovertest.Org
	service *signin.Service
}

func newWorld(t *testing.T) world {
	org := failovertest.Start(nil)
	t.Cleanup(org.Close)
	service := signin.Start(org)
	t.Cleanup(service.Close)
	return world{org, service}
}

// sources of tokens that the service issues.
func (w world) sources() map[string]auth.Source {
	return map[string]auth.Source{
		"azidentity": auth.FromCredentials(w.service.Credential),
		"oauth2":     auth.FromOAuth2(w.service.OAuth2(), w.service.Client()),
	}
}

// client returns a client of the organization that is authorized by tokens.
func (w world) client(t *testing.T, tokens *auth.Tokens, cfg failover.Config) (*http.Client, *failover.Transport) {
	cfg.Base, cfg.Logger = w.org.Transport(), quiet
	cfg = tokens.Configure(cfg)
	client, transport, err := failover.Wrap(nil, w.org.URL(), &cfg)
	require.NoError(t, err)
	t.Cleanup(func() { transport.Close() })
	return client, transport
}

func newTokens(t *testing.T, cfg auth.Config) *auth.Tokens {
	if cfg.Organization == "" {
		cfg.Organization = orgURL
	}
	tokens, err := auth.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { tokens.Close() })
	return tokens
}

// status makes a request and returns the status of the answer.
func status(t *testing.T, client *http.Client, target string) int {
	resp, err := client.Get(target)
	require.NoError(t, err)
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

// get returns a request for an address, of which nothing is sent.
func get(ctx context.Context, target string) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		panic(err)
	}
	return req
}

func TestEachEndpointGetsATokenForItself(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"azidentity", "oauth2"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			signin.Demand(w.org.Primary(), primary)
			signin.Demand(w.org.Alternate(), alternate)
			tokens := newTokens(t, auth.Config{Source: w.sources()[name]})
			client, transport := w.client(t, tokens, failover.Config{})
			assert.Equal(t, 200, status(t, client, orgURL+accounts))
			w.org.FailOver()
			assert.Equal(t, 200, status(t, client, orgURL+accounts))
			assert.Equal(t, failover.Alternate, transport.Status().Active)
			assert.ElementsMatch(t, []string{primary + "/.default", alternate + "/.default"}, w.service.Asked(),
				"one request for each, however many calls and probes")
		})
	}
}

func TestTheSignInServiceMayBeGoneOnTheDay(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"azidentity", "oauth2"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tokens := newTokens(t, auth.Config{Source: w.sources()[name]})
			require.NoError(t, tokens.Warm(t.Context()))
			client, _ := w.client(t, tokens, failover.Config{})
			signin.Demand(w.org.Alternate(), alternate)
			w.service.Close()
			w.org.Disaster(failovertest.Refuse())
			assert.Equal(t, 200, status(t, client, orgURL+accounts))
			assert.Len(t, w.service.Asked(), 2)
		})
	}
}

func TestAnEndpointThatWantsTheOtherAudienceGetsIt(t *testing.T) {
	t.Parallel()
	for _, probed := range []bool{true, false} {
		t.Run(fmt.Sprint("learned by a probe: ", probed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tokens := newTokens(t, auth.Config{Source: auth.FromCredentials(w.service.Credential)})
			if probed {
				client, _ := w.client(t, tokens, failover.Config{})
				signin.Demand(w.org.Alternate(), primary)
				w.org.Disaster(failovertest.Refuse())
				assert.Equal(t, 200, status(t, client, orgURL+accounts), "the very first call")
				assert.Equal(t, primary, tokens.State(failover.Alternate).Audience)
				var answers []int
				for _, d := range w.org.Alternate().Deliveries() {
					answers = append(answers, d.Status)
				}
				assert.Equal(t, []int{401, 200, 200}, answers, "a probe, the probe again, the call")
				return
			}
			client, _ := w.client(t, tokens, failover.Config{})
			signin.Demand(w.org.Primary(), orgURL)
			assert.Equal(t, 401, status(t, client, orgURL+accounts))
			assert.Equal(t, 200, status(t, client, orgURL+accounts))
			assert.Equal(t, orgURL, tokens.State(failover.Primary).Audience)
		})
	}
}

func TestAFinalAudienceStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tokens := newTokens(t, auth.Config{Source: auth.FromCredentials(w.service.Credential), Audiences: [2]string{failover.Primary: primary}})
	client, _ := w.client(t, tokens, failover.Config{})
	signin.Demand(w.org.Primary(), orgURL)
	for range 3 {
		assert.Equal(t, 401, status(t, client, orgURL+accounts))
	}
	assert.Equal(t, primary, tokens.State(failover.Primary).Audience)
}

func TestAnAudienceThatTheSignInServiceDoesNotKnowIsReplacedByTheOtherEndpoints(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.service.Refuse(alternate + "/.default")
	tokens := newTokens(t, auth.Config{Source: auth.FromCredentials(w.service.Credential)})
	require.NoError(t, tokens.Warm(t.Context()))
	client, transport := w.client(t, tokens, failover.Config{})
	w.org.Disaster(failovertest.Refuse())
	assert.Equal(t, 200, status(t, client, orgURL+accounts))
	assert.Equal(t, failover.Alternate, transport.Status().Active)
	assert.EqualError(t, tokens.State(failover.Alternate).Err,
		"auth: no token for https://contoso--s.crm.dynamics.com: the sign-in service answered 400 invalid_resource")
}

func TestAChallengeCannotChooseAnAudience(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, resource, reason string }{
		{"another organization", "https://fabrikam.crm.dynamics.com/", "its token would be sent to whoever names it"},
		{"a look-alike", "https://contoso-s.crm.dynamics.com/", "one hyphen short of the alternate"},
		{"another region", "https://contoso.crm4.dynamics.com/", "the same name is somebody else there"},
		{"another service", "https://graph.microsoft.com/", "a token for mail and files"},
		{"the whole of Dataverse", "00000007-0000-0000-c000-000000000000", "good for every organization of the tenant"},
		{"a subdomain", "https://contoso.crm.dynamics.com.fabrikam.net/", "ends in a stranger's domain"},
		{"user info", "https://contoso.crm.dynamics.com@fabrikam.net/", "the host comes after the at sign"},
		{"a port", "https://contoso.crm.dynamics.com:8443/", "another listener"},
		{"plain http", "http://contoso.crm.dynamics.com/", "another scheme"},
		{"a path", "https://contoso.crm.dynamics.com/x", "would be a scope of another form"},
		{"two scopes", "https://contoso.crm.dynamics.com/.default https://graph.microsoft.com/", "would ask for both"},
		{"nothing", "", "no resource at all"},
	}
	seen := make(map[string]bool)
	for _, test := range tests {
		require.False(t, seen[test.name], test.name)
		require.NotEmpty(t, test.reason)
		seen[test.name] = true
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			evil := signin.Start(w.org) // is asked for nothing
			defer evil.Close()
			tokens := newTokens(t, auth.Config{Source: auth.FromCredentials(w.service.Credential)})
			client, _ := w.client(t, tokens, failover.Config{})
			w.org.Primary().Fail(failovertest.Status(http.StatusUnauthorized, http.Header{"WWW-Authenticate": {
				"Bearer authorization_uri=" + evil.OAuth2().TokenURL + ", resource_id=" + test.resource}}, ""))
			for range 3 {
				assert.Equal(t, 401, status(t, client, orgURL+accounts))
			}
			require.NoError(t, tokens.Close())
			assert.Equal(t, primary, tokens.State(failover.Primary).Audience)
			assert.Subset(t, []string{primary + "/.default", alternate + "/.default"}, w.service.Asked(), test.reason)
			assert.Empty(t, evil.Asked())
		})
	}
}

func TestAudiencesDoNotDependOnHowTheOrganizationIsNamed(t *testing.T) {
	t.Parallel()
	for _, organization := range []string{
		"https://contoso.crm4.dynamics.com",
		"https://contoso.api.crm4.dynamics.com/main.aspx",
		"https://contoso--s.api.crm4.dynamics.com",
	} {
		tokens := newTokens(t, auth.Config{Organization: organization, Source: (&source{life: time.Hour}).get})
		assert.Equal(t, "https://contoso.crm4.dynamics.com", tokens.State(failover.Primary).Audience, organization)
		assert.Equal(t, "https://contoso--s.crm4.dynamics.com", tokens.State(failover.Alternate).Audience, organization)
	}
}

func TestStrangersGetNoToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tokens := newTokens(t, auth.Config{Source: auth.FromCredentials(w.service.Credential)})
	for _, target := range []string{
		"https://fabrikam.crm.dynamics.com/", "https://contoso.crm4.dynamics.com/", "http://contoso.crm.dynamics.com/",
		"https://contoso.crm.dynamics.com:444/", "https://contoso.crm.dynamics.com.fabrikam.net/", "https://contoso.other.crm.dynamics.com/",
	} {
		req := get(t.Context(), target)
		assert.Error(t, tokens.Authorize(req), target)
		assert.Empty(t, req.Header, target)
	}
	for _, target := range []string{orgURL, primary + ":443", alternate, "https://CONTOSO--S.api.crm.dynamics.com./"} {
		assert.NoError(t, tokens.Authorize(get(t.Context(), target)), target)
	}
}

// source is a source of tokens for bubbles, without sockets.
type source struct {
	life  time.Duration
	delay time.Duration
	keeps time.Duration // gives the same token until so long before its end
	fresh time.Duration // says that tokens are to be renewed after so long

	mu    sync.Mutex
	fails error
	asked []time.Time
	made  map[string]azcore.AccessToken
}

func (s *source) get(ctx context.Context, scope string) (azcore.AccessToken, error) {
	select {
	case <-time.After(s.delay):
	case <-ctx.Done():
		return azcore.AccessToken{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, time.Now())
	if s.fails != nil {
		return azcore.AccessToken{}, s.fails
	}
	if old := s.made[scope]; s.keeps > 0 && time.Until(old.ExpiresOn) > s.keeps {
		return old, nil
	}
	if s.made == nil {
		s.made = make(map[string]azcore.AccessToken)
	}
	s.made[scope] = azcore.AccessToken{Token: fmt.Sprint(scope, " ", len(s.asked)), ExpiresOn: time.Now().Add(s.life)}
	if s.fresh > 0 {
		token := s.made[scope]
		token.RefreshOn = time.Now().Add(s.fresh)
		s.made[scope] = token
	}
	return s.made[scope], nil
}

func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = err
}

func (s *source) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// bubble runs a test with Tokens of a source in a bubble of its own time.
func bubble(t *testing.T, s *source, test func(t *testing.T, tokens *auth.Tokens)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tokens, err := auth.New(auth.Config{Organization: orgURL, Source: s.get})
		require.NoError(t, err)
		defer tokens.Close()
		test(t, tokens)
	})
}

func TestAllGoroutinesShareOneRequestForAToken(t *testing.T) {
	s := &source{life: time.Hour, delay: time.Second}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		var wg sync.WaitGroup
		var failed atomic.Int32
		for range 64 {
			wg.Go(func() {
				if tokens.Authorize(get(t.Context(), primary)) != nil || tokens.Authorize(get(t.Context(), alternate)) != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		assert.Zero(t, failed.Load())
		assert.Equal(t, 2, s.count())
	})
}

func TestTheContextOfTheRequestEndsTheWaitAndNobodyElses(t *testing.T) {
	s := &source{life: time.Hour, delay: 10 * time.Second}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		assert.ErrorIs(t, tokens.Authorize(get(ctx, primary)), context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(start))
		assert.NoError(t, tokens.Authorize(get(t.Context(), primary)))
		assert.Equal(t, 10*time.Second, time.Since(start), "the same request, not a second one")
	})
}

func TestNobodyWaitsForATokenThatIsRenewed(t *testing.T) {
	s := &source{life: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		synctest.Wait()
		s.delay = 20 * time.Second // the sign-in service becomes slow
		for start := time.Now(); time.Since(start) < 3*time.Hour; time.Sleep(time.Second) {
			before := time.Now()
			require.NoError(t, tokens.Authorize(get(t.Context(), alternate)))
			require.Zero(t, time.Since(before))
		}
		assert.Greater(t, s.count(), 6)
	})
}

func TestTokensAlwaysHaveHalfOfTheirLifeLeft(t *testing.T) {
	s := &source{life: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		least := time.Hour
		for range 24 * 60 {
			time.Sleep(time.Minute)
			for e := range failover.Endpoint(2) {
				least = min(least, time.Until(tokens.State(e).Expires))
			}
		}
		assert.Greater(t, least, 26*time.Minute, "half, less the jitter and the minute between two looks")
		assert.Less(t, s.count(), 2*24*3, "no more often than needed")
	})
}

func TestASourceThatKeepsTokensIsAskedInTime(t *testing.T) {
	s := &source{life: time.Hour, keeps: 5 * time.Minute} // as azidentity does
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		for range 24 * 60 {
			time.Sleep(time.Minute)
			require.Greater(t, time.Until(tokens.State(failover.Alternate).Expires), time.Minute)
		}
		assert.Less(t, s.count(), 2*24*8)
	})
}

func TestTheSignInServiceMayAskForAnEarlierRenewal(t *testing.T) {
	s := &source{life: 24 * time.Hour, fresh: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		time.Sleep(6*time.Hour + time.Minute)
		assert.Equal(t, 2+2*6, s.count())
	})
}

func TestAnOutageOfTheSignInServiceIsOutlivedByWarmTokens(t *testing.T) {
	s := &source{life: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		time.Sleep(27 * time.Minute)
		s.fail(errors.New("unreachable"))
		time.Sleep(27 * time.Minute)
		assert.NoError(t, tokens.Authorize(get(t.Context(), alternate)))
		time.Sleep(30 * time.Minute)
		start := time.Now()
		assert.EqualError(t, tokens.Authorize(get(t.Context(), alternate)), "auth: no token for https://contoso--s.crm.dynamics.com: unreachable")
		assert.Zero(t, time.Since(start), "no request waits for what has just failed")
		s.fail(nil)
		time.Sleep(20 * time.Second)
		assert.NoError(t, tokens.Authorize(get(t.Context(), alternate)), "back by itself")
	})
}

func TestFailuresArePaused(t *testing.T) {
	s := &source{life: time.Hour, fails: errors.New("unreachable")}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		for range 600 {
			assert.Error(t, tokens.Authorize(get(t.Context(), primary)))
			time.Sleep(time.Second)
		}
		assert.Less(t, s.count(), 2*600/10)
		assert.Greater(t, s.count(), 2*600/20)
	})
}

func TestTheOtherEndpointsTokenStandsInWithoutALongWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tokens, err := auth.New(auth.Config{Organization: orgURL, Source: func(ctx context.Context, scope string) (azcore.AccessToken, error) {
			if strings.HasPrefix(scope, alternate) {
				<-ctx.Done() // hangs
				return azcore.AccessToken{}, ctx.Err()
			}
			return azcore.AccessToken{Token: "own", ExpiresOn: time.Now().Add(time.Hour)}, nil
		}})
		require.NoError(t, err)
		defer tokens.Close()
		require.NoError(t, tokens.Authorize(get(t.Context(), primary)))
		start := time.Now()
		req := get(t.Context(), alternate)
		require.NoError(t, tokens.Authorize(req))
		assert.Equal(t, "Bearer own", req.Header.Get("Authorization"))
		assert.Equal(t, 2*time.Second, time.Since(start), "less than a probe has")
	})
}

func TestARefusedTokenIsRenewedButNotInAStorm(t *testing.T) {
	s := &source{life: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		cfg := tokens.Configure(failover.Config{})
		require.NoError(t, tokens.Warm(t.Context()))
		synctest.Wait()
		for range 600 {
			req := get(t.Context(), primary)
			require.NoError(t, tokens.Authorize(req))
			cfg.Classify(&http.Response{StatusCode: 401, Request: req, Body: http.NoBody}, nil)
			time.Sleep(time.Second)
		}
		assert.InDelta(t, 2+600/30, s.count(), 3, "one in half a minute")
	})
}

func TestAfterCloseTokensAreUsedButNotRenewed(t *testing.T) {
	s := &source{life: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		require.NoError(t, tokens.Close())
		require.NoError(t, tokens.Close())
		assert.NoError(t, tokens.Authorize(get(t.Context(), primary)))
		time.Sleep(time.Hour)
		assert.EqualError(t, tokens.Authorize(get(t.Context(), primary)), "auth: no token for https://contoso.crm.dynamics.com: closed")
		assert.Equal(t, 2, s.count())
	})
}

func TestCloseEndsARequestUnderWay(t *testing.T) {
	s := &source{life: time.Hour, delay: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		start := time.Now()
		require.NoError(t, tokens.Close())
		assert.Zero(t, time.Since(start))
		assert.ErrorIs(t, tokens.Authorize(get(t.Context(), primary)), context.Canceled)
	})
}

func TestACredentialKeepsTokensAndNewOnesDoNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, err := w.service.Credential()
	require.NoError(t, err)
	for range 2 {
		_, err = auth.FromCredential(one)(t.Context(), primary+"/.default")
		require.NoError(t, err)
	}
	assert.Len(t, w.service.Asked(), 1, "kept by the credential")
	for range 2 {
		_, err = auth.FromCredentials(w.service.Credential)(t.Context(), primary+"/.default")
		require.NoError(t, err)
	}
	assert.Len(t, w.service.Asked(), 3)
	_, err = auth.FromCredentials(func() (azcore.TokenCredential, error) { return nil, errors.New("no such file") })(t.Context(), primary)
	assert.EqualError(t, err, "no such file")
}

func TestErrorsHoldNothingOfAnAnswerButItsCode(t *testing.T) {
	t.Parallel()
	const token = "eyJhbGciOiJub25lIn0.e30."
	leaky := func(code string) error {
		return &oauth2.RetrieveError{Response: &http.Response{StatusCode: 500}, Body: []byte(`{"access_token":"` + token + `"}`), ErrorCode: code}
	}
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"an answer with a token in it", leaky(""), "the sign-in service answered 500"},
		{"a code", leaky("temporarily_unavailable"), "the sign-in service answered 500 temporarily_unavailable"},
		{"a token for a code", leaky(token), "the sign-in service answered 500"},
		{"a URL with a query", &url.Error{Op: "Get", URL: "https://login.example/?assertion=" + token, Err: io.EOF}, "EOF"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			tokens := newTokens(t, auth.Config{Source: func(context.Context, string) (azcore.AccessToken, error) {
				return azcore.AccessToken{}, test.err
			}})
			err := tokens.Authorize(get(t.Context(), primary))
			assert.EqualError(t, err, "auth: no token for https://contoso.crm.dynamics.com: "+test.want)
			assert.NotContains(t, fmt.Sprintf("%+v %s", err, tokens.Warm(t.Context())), token)
			assert.ErrorIs(t, err, test.err)
		})
	}
	w := newWorld(t)
	w.service.Refuse(primary + "/.default")
	w.service.Refuse(alternate + "/.default")
	for name, source := range w.sources() {
		tokens := newTokens(t, auth.Config{Source: source})
		assert.EqualError(t, tokens.Warm(t.Context()),
			"auth: no token for https://contoso.crm.dynamics.com: the sign-in service answered 400 invalid_resource", name)
	}
}

func TestAnExpiredTokenIsNone(t *testing.T) {
	t.Parallel()
	for _, token := range []azcore.AccessToken{{}, {Token: "old", ExpiresOn: time.Now()}, {ExpiresOn: time.Now().Add(time.Hour)}} {
		tokens := newTokens(t, auth.Config{Source: func(context.Context, string) (azcore.AccessToken, error) { return token, nil }})
		var e *auth.Error
		require.ErrorAs(t, tokens.Authorize(get(t.Context(), primary)), &e)
		assert.Equal(t, primary, e.Audience)
	}
}

func TestNewRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	source := auth.FromCredential(nil)
	for name, cfg := range map[string]auth.Config{
		"no source":            {Organization: orgURL},
		"no organization":      {Source: source},
		"no rule":              {Organization: "https://contoso.operations.dynamics.com", Source: source},
		"plain http":           {Organization: "http://contoso.example", Alternate: "http://other.example", Source: source},
		"a password":           {Organization: "https://u:hunter2@contoso.example", Alternate: "https://other.example", Source: source},
		"an alternate no URL":  {Organization: "https://contoso.example", Alternate: "hunter2://%zz", Source: source},
		"an alternate no host": {Organization: "https://contoso.example", Alternate: "https:///hunter2", Source: source},
	} {
		tokens, err := auth.New(cfg)
		require.Error(t, err, name)
		assert.Nil(t, tokens, name)
		assert.NotContains(t, err.Error(), "hunter2", name)
	}
}

func TestFinanceAndOperationsHasAnAudienceForEachHost(t *testing.T) {
	t.Parallel()
	org := failovertest.Start(&failovertest.Config{Host: "contoso.operations.dynamics.com", AlternateHost: "contoso-dr.operations.dynamics.com"})
	t.Cleanup(org.Close)
	service := signin.Start(org)
	t.Cleanup(service.Close)
	signin.Demand(org.Primary(), org.URL())
	signin.Demand(org.Alternate(), org.AlternateURL())
	tokens := newTokens(t, auth.Config{Organization: org.URL(), Alternate: org.AlternateURL(), Source: auth.FromCredentials(service.Credential)})
	client, transport := world{org, service}.client(t, tokens, failover.Config{Alternate: org.AlternateURL()})
	assert.Equal(t, 200, status(t, client, org.URL()+"/data"))
	org.Disaster(failovertest.Refuse())
	assert.Equal(t, 200, status(t, client, org.URL()+"/data"))
	assert.Equal(t, failover.Alternate, transport.Status().Active)
}

func TestConfigureKeepsWhatIsConfigured(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tokens := newTokens(t, auth.Config{Source: auth.FromCredentials(w.service.Credential)})
	var probes, judged atomic.Int32
	client, _ := w.client(t, tokens, failover.Config{
		Probe: func(ctx context.Context, client *http.Client, endpoint *url.URL) error {
			probes.Add(1)
			return failover.ProbeWebAPI(ctx, client, endpoint)
		},
		Classify: func(resp *http.Response, err error) *failover.Fault {
			judged.Add(1)
			return failover.Classify(resp, err)
		},
	})
	w.org.Disaster(failovertest.Refuse())
	assert.Equal(t, 200, status(t, client, orgURL+accounts))
	assert.EqualValues(t, 2, probes.Load())
	assert.NotZero(t, judged.Load())
}
