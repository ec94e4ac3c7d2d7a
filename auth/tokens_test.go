package auth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/auth"
	"github.com/d365failover/failover/auth/authtest"
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
	service *authtest.Service
}

func newWorld(t *testing.T) world {
	org := failovertest.Start(nil)
	t.Cleanup(org.Close)
	service := authtest.Start(org)
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

// get returns a request for an address. It is never sent.
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
			authtest.Demand(w.org.Primary(), primary)
			authtest.Demand(w.org.Alternate(), alternate)
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
			authtest.Demand(w.org.Alternate(), alternate)
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
				authtest.Demand(w.org.Alternate(), primary)
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
			authtest.Demand(w.org.Primary(), orgURL)
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
	authtest.Demand(w.org.Primary(), orgURL)
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
			evil := authtest.Start(w.org) // gets no requests
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
		"scale group":          {Organization: "https://by2--namcrmlivesg741.crm.dynamics.com", Source: source},
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

func TestAnOrganizationWithOneAddressHasOneAudience(t *testing.T) {
	t.Parallel()
	for _, cfg := range []auth.Config{
		{Organization: "https://contoso.operations.dynamics.com"},
		{Organization: "https://contoso.operations.dynamics.com", Alternate: failover.NoAlternate},
	} {
		cfg.Source = func(context.Context, string) (azcore.AccessToken, error) {
			return azcore.AccessToken{}, errors.New("none")
		}
		tokens, err := auth.New(cfg)
		require.NoError(t, err)
		t.Cleanup(func() { tokens.Close() })
		for _, e := range []failover.Endpoint{failover.Primary, failover.Alternate} {
			assert.Equal(t, "https://contoso.operations.dynamics.com", tokens.State(e).Audience)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://contoso.crm.dynamics.com", nil)
		require.NoError(t, err)
		assert.ErrorContains(t, tokens.Authorize(req), "outside the organization")
	}
}

func TestFinanceAndOperationsHasAnAudienceForEachHost(t *testing.T) {
	t.Parallel()
	org := failovertest.Start(&failovertest.Config{Host: "contoso.operations.dynamics.com", AlternateHost: "contoso-dr.operations.dynamics.com"})
	t.Cleanup(org.Close)
	service := authtest.Start(org)
	t.Cleanup(service.Close)
	authtest.Demand(org.Primary(), org.URL())
	authtest.Demand(org.Alternate(), org.AlternateURL())
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
