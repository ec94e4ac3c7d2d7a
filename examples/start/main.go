// Command start asks a Dataverse organization who the caller is. It is the program in the
// README.
package main

import (
	"fmt"
	"log"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/d365failover/failover"
)

func main() {
	const organization = "https://contoso.crm4.dynamics.com"
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		log.Fatal(err)
	}
	client, transport, err := connect(http.DefaultClient, organization, credential)
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()

	resp, err := client.Get(organization + "/api/data/v9.2/WhoAmI")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
}

// connect returns a copy of client that survives failovers of an organization. Use it as
// before, always with the organization's own address. Close the Transport when done.
func connect(client *http.Client, organization string, credential azcore.TokenCredential) (*http.Client, *failover.Transport, error) {
	return failover.Wrap(client, organization, &failover.Config{
		Authorize: func(req *http.Request) error { // for every attempt and probe, when its host is final
			token, err := credential.GetToken(req.Context(), policy.TokenRequestOptions{
				Scopes: []string{"https://" + req.URL.Host + "/.default"},
			})
			if err != nil {
				return err
			}
			req.Header.Set("Authorization", "Bearer "+token.Token)
			return nil
		},
	})
}
