// Command odata demonstrates package failover: a small OData client reads and writes accounts of
// a Dataverse organization while the organization's region fails and recovers.
//
//	go run ./examples/odata
//
// needs only Go. Package failovertest simulates the organization on this machine, with real TLS.
// There are two disasters: one moves the organization to another region behind its own address,
// and after the other it serves at its alternate address. -one-address shows only the first.
// With
//
//	go run ./examples/odata -org https://contoso.crm4.dynamics.com
//
// the same client uses a real organization, with the credentials that the Azure SDK finds (az
// login, environment variables, a managed identity). It only reads unless -write is set.
//
// The exit status is 1 if a call failed, or if the simulation misses an account that no disaster
// has lost, and 2 if the flags are wrong.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/auth"
	"github.com/d365failover/failover/failovertest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// shortest is the shortest simulation: the first writes must reach the alternate before the
// region fails.
const shortest = 10 * time.Second

// run is main with its environment as parameters. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("odata", flag.ContinueOnError)
	flags.SetOutput(stderr)
	orgURL := flags.String("org", "", "`URL` of a real organization (default: a simulated one)")
	write := flags.Bool("write", false, "also create, update and delete accounts of the real organization")
	oneAddress := flags.Bool("one-address", false, "simulate an organization without an alternate address")
	duration := flags.Duration("duration", 0, "length of the run (default 18s simulated, 9s with -one-address, 1m real)")
	workers := flags.Int("n", 4, "number of concurrent `workers`")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if flags.NArg() > 0 || *workers < 1 || *duration < 0 || *orgURL == "" && (*write || *duration != 0 && *duration < shortest) || *orgURL != "" && *oneAddress {
		fmt.Fprintf(stderr, "odata: -n must be at least 1, a simulation takes at least %v, -write needs -org, -one-address is for the simulation, and there are no arguments besides flags\n", shortest)
		return 2
	}
	if *orgURL != "" {
		return runReal(ctx, *orgURL, *write, cmp.Or(*duration, time.Minute), *workers, stdout, stderr)
	}
	org := failovertest.Start(&failovertest.Config{Lag: lag, OneAddress: *oneAddress})
	defer org.Close()
	usual := 18 * time.Second
	if *oneAddress {
		usual /= 2
	}
	return runSimulated(ctx, org, *oneAddress, cmp.Or(*duration, usual), *workers, stdout, stderr)
}

// runSimulated uses a simulated organization, which fails over and back meanwhile.
func runSimulated(ctx context.Context, org *failovertest.Org, oneAddress bool, duration time.Duration, workers int, stdout, stderr io.Writer) int {
	fmt.Fprintf(stdout, "%d workers list, create and update accounts for %v. The organization is\n"+
		"simulated on this machine, and its region fails and recovers meanwhile.\n", workers, duration)
	alternate := ""
	if oneAddress {
		alternate = failover.NoAlternate
	}
	return session{
		orgURL: org.URL(),
		config: failover.Config{
			Alternate: alternate,
			// Work that is not urgent waits while the organization is down.
			WaitForUp: true,
			Base:      org.Transport(), // dials the simulator, trusts its certificates
			Authorize: org.Authorize,
			// A real outage takes hours, this one seconds. Outside a demonstration,
			// keep the defaults: 10 s to 60 s, 5 min, and 5 s.
			ProbeInterval:    time.Second,
			MaxProbeInterval: time.Second,
			MinDwell:         2 * time.Second,
			RPO:              2 * lag,
		},
		simulation: &simulation{org: org, oneAddress: oneAddress, lost: make(map[string]bool)},
		traffic:    &traffic{write: true, workers: workers, pace: 400 * time.Millisecond},
		duration:   duration,
		period:     500 * time.Millisecond,
	}.run(ctx, stdout, stderr)
}

// runReal uses a real organization.
func runReal(ctx context.Context, orgURL string, write bool, duration time.Duration, workers int, stdout, stderr io.Writer) int {
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		fmt.Fprintln(stderr, "odata:", err)
		return 1
	}
	tokens, err := auth.New(auth.Config{Organization: orgURL, Source: auth.FromCredential(credential)})
	if err != nil {
		fmt.Fprintln(stderr, "odata:", err)
		return 2
	}
	defer tokens.Close()
	// Before the start, so that a missing login is reported as such.
	if err := tokens.Warm(ctx); err != nil {
		fmt.Fprintln(stderr, "odata:", err)
		return 1
	}
	doing := "list accounts"
	if write {
		doing = "list, create and update accounts"
	}
	fmt.Fprintf(stdout, "%d workers %s for %v. Press Ctrl-C to stop earlier.\n", workers, doing, duration)
	return session{
		orgURL:   orgURL,
		config:   tokens.Configure(failover.Config{}),
		traffic:  &traffic{write: write, workers: workers, pace: 2 * time.Second},
		duration: duration,
		period:   2 * time.Second,
	}.run(ctx, stdout, stderr)
}
