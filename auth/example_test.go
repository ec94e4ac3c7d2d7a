package auth_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/auth"
	"github.com/d365failover/failover/auth/authtest"
	"github.com/d365failover/failover/failovertest"
)

// quiet keeps the log out of the examples' output.
var quiet = slog.New(slog.DiscardHandler)

// Tokens of azidentity for both endpoints: the sign-in service fails before the organization
// does, and the program does not notice.
func Example() {
	org := failovertest.Start(nil) // a simulated organization
	defer org.Close()
	service := authtest.Start(org) // and its sign-in service
	defer service.Close()

	tokens, err := auth.New(auth.Config{
		Organization: org.URL(),
		// A real one: azidentity.NewClientSecretCredential(tenant, client, secret, nil)
		Source: auth.FromCredentials(service.Credential),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer tokens.Close()
	if err := tokens.Warm(context.Background()); err != nil {
		log.Fatal(err)
	}
	cfg := tokens.Configure(failover.Config{Logger: quiet})
	client, transport, err := failover.Wrap(org.Client(), org.URL(), &cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()

	show := func() {
		resp, err := client.Get(org.URL() + "/api/data/v9.2/accounts?$top=1")
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		at := transport.Status().Active
		fmt.Println(resp.Status, "from the", at, "with a token for", tokens.State(at).Audience)
	}
	show()
	service.Close()
	org.Disaster(failovertest.Refuse())
	show()
	// Output:
	// 200 OK from the primary with a token for https://contoso.crm.dynamics.com
	// 200 OK from the alternate with a token for https://contoso--s.crm.dynamics.com
}

// A client with any credential of azidentity, such as that of
// azidentity.NewDefaultAzureCredential(nil).
func ExampleTokens_Configure() {
	connect := func(ctx context.Context, credential azcore.TokenCredential) error {
		tokens, err := auth.New(auth.Config{
			Organization: "https://contoso.crm4.dynamics.com",
			Source:       auth.FromCredential(credential),
		})
		if err != nil {
			return err
		}
		defer tokens.Close()
		if err := tokens.Warm(ctx); err != nil { // better to learn of a missing login now
			return err
		}
		cfg := tokens.Configure(failover.Config{})
		client, transport, err := failover.Wrap(nil, "https://contoso.crm4.dynamics.com", &cfg)
		if err != nil {
			return err
		}
		defer transport.Close()
		resp, err := client.Get("https://contoso.crm4.dynamics.com/api/data/v9.2/WhoAmI")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	if err := connect(context.Background(), noCredential{}); err != nil {
		fmt.Println("not signed in")
	}
	// Output: not signed in
}

// noCredential is the credential of a program that is not signed in.
type noCredential struct{}

func (noCredential) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{}, errors.New("not signed in")
}

// A client with golang.org/x/oauth2 instead of the Azure SDK.
func ExampleFromOAuth2() {
	org := failovertest.Start(nil)
	defer org.Close()
	service := authtest.Start(org)
	defer service.Close()

	// A real one has the TokenURL
	// https://login.microsoftonline.com/<tenant>/oauth2/v2.0/token and
	// AuthStyle: oauth2.AuthStyleInParams.
	grant := service.OAuth2()
	tokens, err := auth.New(auth.Config{
		Organization: org.URL(),
		Source:       auth.FromOAuth2(grant, service.Client()),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer tokens.Close()
	client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{
		Authorize: tokens.Authorize, // enough if the audiences are known
		Logger:    quiet,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()

	org.Disaster(failovertest.Refuse())
	resp, err := client.Get(org.URL() + "/api/data/v9.2/WhoAmI")
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.Status, "from the", transport.Status().Active)
	// Output: 200 OK from the alternate
}

// If you know which audiences the endpoints accept, set them.
func ExampleConfig_audiences() {
	org := failovertest.Start(nil)
	defer org.Close()
	service := authtest.Start(org)
	defer service.Close()

	own := "https://contoso.crm.dynamics.com"
	tokens, err := auth.New(auth.Config{
		Organization: org.URL(),
		Source:       auth.FromCredentials(service.Credential),
		Audiences:    [2]string{failover.Primary: own, failover.Alternate: own},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer tokens.Close()

	req, err := http.NewRequest(http.MethodGet, org.AlternateURL(), nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := tokens.Authorize(req); err != nil {
		log.Fatal(err)
	}
	fmt.Println(authtest.Audience(req.Header))
	fmt.Println(service.Asked())
	// Output:
	// https://contoso.crm.dynamics.com
	// [https://contoso.crm.dynamics.com/.default]
}
