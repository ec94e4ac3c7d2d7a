// Command odata shows package failover at work: a small OData client reads and
// writes accounts of a Dataverse organization while the organization's region
// fails and recovers.
//
//	go run ./examples/odata
//
// needs nothing but Go. The organization is simulated on this machine by
// package failovertest, with real TLS. With
//
//	go run ./examples/odata -org https://contoso.crm4.dynamics.com
//
// the same client talks to a real one, with the credentials that the Azure SDK
// finds (az login, environment variables, a managed identity). It only reads
// unless -write is given.
//
// The exit status is 1 if a call failed, 2 if the flags are wrong.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for anything
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without its surroundings. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("odata", flag.ContinueOnError)
	flags.SetOutput(stderr)
	orgURL := flags.String("org", "", "`URL` of a real organization (default: a simulated one)")
	write := flags.Bool("write", false, "create, update and delete accounts of the real organization, too")
	duration := flags.Duration("duration", 0, "how long to work (default 15s simulated, 1m real)")
	workers := flags.Int("n", 4, "`workers` at the same time")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() > 0 || *workers < 1 || *duration < 0 {
		fmt.Fprintln(stderr, "odata: -n and -duration must be positive, and there are no arguments besides flags")
		return 2
	}
	if *orgURL != "" {
		return runReal(ctx, *orgURL, *write, cmp.Or(*duration, time.Minute), *workers, stdout, stderr)
	}
	org := failovertest.Start(&failovertest.Config{Lag: lag})
	defer org.Close()
	return runSimulated(ctx, org, cmp.Or(*duration, 15*time.Second), *workers, stdout, stderr)
}

// runSimulated works against a simulated organization that is failed over and
// back meanwhile.
func runSimulated(ctx context.Context, org *failovertest.Org, duration time.Duration, workers int, stdout, stderr io.Writer) int {
	fmt.Fprintf(stdout, "A simulated organization on this machine loses its region, and gets it back. %v.\n", duration)
	return session{
		orgURL: org.URL(),
		config: failover.Config{
			Base:      org.Transport(), // dials the simulator, trusts its certificates
			Authorize: org.Authorize,
			// An outage takes hours, this one seconds. The defaults, 10 s and
			// 5 min, are the right ones outside of a demonstration.
			ProbeInterval: 500 * time.Millisecond,
			MinDwell:      2 * time.Second,
		},
		simulation: &simulation{org: org},
		traffic:    &traffic{write: true, workers: workers, pace: 400 * time.Millisecond},
		duration:   duration,
		period:     500 * time.Millisecond,
	}.run(ctx, stdout, stderr)
}

// runReal works against a real organization.
func runReal(ctx context.Context, orgURL string, write bool, duration time.Duration, workers int, stdout, stderr io.Writer) int {
	authorize, err := azureTokens(ctx, orgURL)
	if err != nil {
		fmt.Fprintln(stderr, "odata:", err)
		return 1
	}
	doing := "only read"
	if write {
		doing = fmt.Sprintf("read, and written under the name %q", accountName)
	}
	fmt.Fprintf(stdout, "Accounts are %s. %v, Ctrl-C ends it sooner.\n", doing, duration)
	return session{
		orgURL: orgURL,
		config: failover.Config{
			Authorize: authorize,
			// Gets calls out of a datacenter that swallows requests while they
			// still have time for the other one.
			AttemptTimeout: 15 * time.Second,
		},
		traffic:  &traffic{write: write, workers: workers, pace: 2 * time.Second},
		duration: duration,
		period:   2 * time.Second,
	}.run(ctx, stdout, stderr)
}

// azureTokens returns a Config.Authorize with tokens of Microsoft Entra ID.
//
// The audience is the organization's own address without the api label, for
// both endpoints: they are one organization, whose identity does not change
// when Microsoft moves it.
func azureTokens(ctx context.Context, orgURL string) (func(*http.Request) error, error) {
	org, err := failover.ParseOrg(orgURL)
	if err != nil {
		return nil, err
	}
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, err
	}
	audience := "https://" + strings.Replace(org.Primary.Host, ".api.", ".", 1)
	options := policy.TokenRequestOptions{Scopes: []string{audience + "/.default"}}
	// Once before the start, so that a missing login is told as such.
	if _, err := credential.GetToken(ctx, options); err != nil {
		return nil, err
	}
	return func(req *http.Request) error {
		token, err := credential.GetToken(req.Context(), options) // cached and renewed by the credential
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token.Token)
		return nil
	}, nil
}
