package signin

import (
	"context"
	"encoding/base64"
	"errors"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// credential counts what it is asked for.
type credential struct {
	mu    sync.Mutex
	calls int
	fail  bool
}

func (c *credential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	time.Sleep(time.Second) // in the bubble: as a program that is run for each token
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	if c.fail {
		return azcore.AccessToken{}, errors.New("secret answer")
	}
	return azcore.AccessToken{Token: o.Scopes[0] + " " + strconv.Itoa(c.calls), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

func (c *credential) set(fail bool) (calls int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = fail
	return c.calls
}

func TestKeepsTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := new(credential)
		source := fromCredential(c)
		const audience = "https://contoso.crm4.dynamics.com"
		var wg sync.WaitGroup
		for range 10 { // one request for all
			wg.Go(func() {
				token, err := source(t.Context(), audience)
				assert.NoError(t, err)
				assert.Equal(t, audience+"/.default 1", token)
			})
		}
		wg.Wait()
		assert.Equal(t, 1, c.set(false))

		time.Sleep(31 * time.Minute) // half used up
		token, err := source(t.Context(), audience)
		require.NoError(t, err)
		assert.Equal(t, audience+"/.default 2", token)

		c.set(true) // the sign-in service is gone
		time.Sleep(50 * time.Minute)
		token, err = source(t.Context(), audience)
		require.NoError(t, err, "what is held is good to its end")
		assert.Equal(t, audience+"/.default 2", token)
		time.Sleep(11 * time.Minute)
		_, err = source(t.Context(), audience)
		require.Error(t, err)
		assert.NotContains(t, err.Error(), "secret")
	})
}

func TestReadsTokens(t *testing.T) {
	t.Parallel()
	encode := base64.RawURLEncoding.EncodeToString
	assert.Equal(t, "https://contoso.crm4.dynamics.com", Audience("x."+encode([]byte(`{"aud":"https://contoso.crm4.dynamics.com/"}`))+".y"))
	for _, token := range []string{"", "opaque", "a.b", "a.!.c", "a." + encode([]byte("no JSON")) + ".c", "a." + encode([]byte(`{"aud":[1]}`)) + ".c"} {
		assert.Empty(t, Audience(token), "%q", token)
	}
}

func TestExpiredTokenIsNotSent(t *testing.T) {
	encode := base64.RawURLEncoding.EncodeToString
	t.Setenv(TokenVariable, "Bearer x."+encode([]byte(`{"exp":1000}`))+".y") // which is why this test is not parallel
	source, err := New("token", "contoso.crm4.dynamics.com")
	require.NoError(t, err)
	_, err = source(t.Context(), "")
	assert.ErrorContains(t, err, "has expired")
}

func TestAudiences(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"https://contoso.api.crm4.dynamics.com":        "https://contoso.crm4.dynamics.com",
		"https://contoso.crm4.dynamics.com":            "https://contoso.crm4.dynamics.com",
		"https://contoso.operations.dynamics.com":      "https://contoso.operations.dynamics.com",
		"https://api.contoso.example":                  "https://api.contoso.example",
		"https://contoso.api.example.com":              "https://contoso.api.example.com",
		"https://contoso--s.api.crm9.dynamics.com":     "https://contoso--s.crm9.dynamics.com",
		"https://contoso.api.crm.microsoftdynamics.us": "https://contoso.crm.microsoftdynamics.us",
	} {
		u, err := url.Parse(address)
		require.NoError(t, err)
		assert.Equal(t, want, AudienceOf(u), address)
	}
	assert.Equal(t, "https://contoso.crm4.dynamics.com", Asked([]string{"Negotiate",
		"Bearer authorization_uri=https://login.example/, resource_id=https://contoso.crm4.dynamics.com/"}))
	assert.Equal(t, "https://contoso.crm4.dynamics.com", Asked([]string{`bearer Resource_Id="https://contoso.crm4.dynamics.com"`}))
	assert.Empty(t, Asked([]string{"Basic realm=x", "Bearer"}))
}
