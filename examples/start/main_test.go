package main

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// issuer is a credential that issues tokens for any host.
type issuer struct{ org *failovertest.Org }

func (i issuer) GetToken(_ context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	scope, err := url.Parse(options.Scopes[0])
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return azcore.AccessToken{Token: i.org.Token(scope.Host), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// The program of the README survives an outage of an organization whose endpoints
// accept no token but their own.
func TestEachEndpointGetsATokenOfItsOwn(t *testing.T) {
	t.Parallel()
	const organization = "https://contoso.crm4.dynamics.com"
	org := failovertest.Start(&failovertest.Config{Host: "contoso.crm4.dynamics.com"})
	defer org.Close()
	org.Primary().AcceptAudiences("contoso.crm4.dynamics.com")
	org.Alternate().AcceptAudiences("contoso--s.crm4.dynamics.com")
	client, transport, err := connect(org.Client(), organization, issuer{org})
	require.NoError(t, err)
	defer transport.Close()

	for _, active := range []failover.Endpoint{failover.Primary, failover.Alternate} {
		resp, err := client.Get(organization + "/api/data/v9.2/WhoAmI")
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, http.StatusOK, resp.StatusCode)
		assert.Equal(t, active, transport.Status().Active)
		org.Disaster(failovertest.Refuse())
	}
}
