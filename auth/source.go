package auth

import (
	"context"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// A Source returns a token for a scope, such as
// "https://contoso.crm4.dynamics.com/.default". It is called by one goroutine at a time for
// each scope, and must return once the context ends: if it does not, it counts as failed, and
// is not called again for that scope before it has returned. The source alone chooses the
// sign-in service; no answer of an endpoint changes it.
type Source func(ctx context.Context, scope string) (azcore.AccessToken, error)

// FromCredential returns a Source of the tokens of a credential of azidentity, or of any
// other [azcore.TokenCredential]. For a cloud other than the public one, create the
// credential with that cloud's configuration.
//
// Most credentials cache tokens, and return a cached one until five minutes before it
// expires, or until the time for renewal that the sign-in service has named. When the
// sign-in service fails, a token may therefore have only minutes left; see
// [FromCredentials].
func FromCredential(credential azcore.TokenCredential) Source {
	return func(ctx context.Context, scope string) (azcore.AccessToken, error) {
		return credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{scope}})
	}
}

// FromCredentials is [FromCredential] with a new credential for every request: every renewal
// gets a new token, so about half of a token's lifetime is left at any time (half an hour
// with Entra's usual 60 to 90 minutes). Use it for client secrets, certificates and workload
// identities, for which azidentity creates credentials without network access. A managed
// identity does not gain from it, because the machine caches its tokens.
func FromCredentials(newCredential func() (azcore.TokenCredential, error)) Source {
	return func(ctx context.Context, scope string) (azcore.AccessToken, error) {
		credential, err := newCredential()
		if err != nil {
			return azcore.AccessToken{}, err
		}
		return credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{scope}})
	}
}

// FromOAuth2 returns a Source that uses the client credentials grant of
// golang.org/x/oauth2. The Scopes of cfg are not used. A nil client means
// [http.DefaultClient]. An [oauth2.TokenSource] cannot be a Source, because it has a fixed
// scope and takes no context.
func FromOAuth2(cfg *clientcredentials.Config, client *http.Client) Source {
	return func(ctx context.Context, scope string) (azcore.AccessToken, error) {
		if client != nil {
			ctx = context.WithValue(ctx, oauth2.HTTPClient, client)
		}
		forScope := clientcredentials.Config{
			ClientID: cfg.ClientID, ClientSecret: cfg.ClientSecret, TokenURL: cfg.TokenURL,
			EndpointParams: cfg.EndpointParams, AuthStyle: cfg.AuthStyle, Scopes: []string{scope},
		}
		token, err := forScope.Token(ctx)
		if err != nil {
			return azcore.AccessToken{}, err
		}
		return azcore.AccessToken{Token: token.AccessToken, ExpiresOn: token.Expiry}, nil
	}
}
