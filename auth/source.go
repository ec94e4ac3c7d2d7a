package auth

import (
	"context"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// A Source gets a token for a scope, such as
// "https://contoso.crm4.dynamics.com/.default". It is called by one goroutine
// per scope at a time, and must return once the context ends. The sign-in
// service is the source's own matter: nothing that an endpoint answers changes
// it.
type Source func(ctx context.Context, scope string) (azcore.AccessToken, error)

// FromCredential returns the tokens of a credential of azidentity or of any
// other [azcore.TokenCredential]. For a cloud other than the public one the
// credential has to be made with that cloud's configuration.
//
// Most credentials keep tokens themselves, and return a token they have until
// five minutes before its end, or until the time that the sign-in service has
// named for that. It may be as old as that when the sign-in service goes away;
// see [FromCredentials].
func FromCredential(credential azcore.TokenCredential) Source {
	return func(ctx context.Context, scope string) (azcore.AccessToken, error) {
		return credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{scope}})
	}
}

// FromCredentials is [FromCredential] with a new credential for every request,
// so that every renewal brings a new token and half of its life, half an hour
// at the least with Entra's usual lifetimes, is left at any time. It is right
// for client secrets, certificates and workload identities, which azidentity
// makes without asking anybody. A managed identity has its tokens kept for it by
// the machine and gains nothing.
func FromCredentials(newCredential func() (azcore.TokenCredential, error)) Source {
	return func(ctx context.Context, scope string) (azcore.AccessToken, error) {
		credential, err := newCredential()
		if err != nil {
			return azcore.AccessToken{}, err
		}
		return credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{scope}})
	}
}

// FromOAuth2 returns tokens of the client credentials grant of
// golang.org/x/oauth2. The Scopes of cfg are not used. A nil client means
// [http.DefaultClient]. Unlike an [oauth2.TokenSource], which has one scope and
// no context, it has one per request.
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
