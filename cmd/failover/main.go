// Command failover checks whether a failover of a Dynamics 365 organization would work from
// this machine, measures failovers, and controls processes that use package failover.
// "failover -h" lists its subcommands.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/d365failover/failover/cmd/failover/internal/check"
	"github.com/d365failover/failover/cmd/failover/internal/dr"
	"github.com/d365failover/failover/cmd/failover/internal/drill"
	"github.com/d365failover/failover/cmd/failover/internal/proxy"
	"github.com/d365failover/failover/cmd/failover/internal/remote"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// A command is a subcommand. Its main returns the exit status, and returns
// soon after ctx ends.
type command struct {
	name, does string
	main       func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

// commands are in the order of the help text.
var commands = []command{
	{"check", "would a failover work from this machine?", check.Main},
	{"drill", "measure a failover while it happens: RTO and RPO", drill.Main},
	{"dr", "show Microsoft's disaster recovery status of an environment", dr.Main},
	{"status", "show the status of a running process", remote.Status},
	{"switch", "switch the traffic of a running process", remote.Switch},
	{"pin", "keep the traffic of a running process at an endpoint", remote.Pin},
	{"unpin", "allow automatic switches of a running process again", remote.Unpin},
	{"freeze", "disable automatic switches in a whole fleet", remote.Freeze},
	{"unfreeze", "enable automatic switches in the fleet again", remote.Unfreeze},
	{"verify", "look up the writes that a switch put at risk", remote.Verify},
	{"proxy", "run a reverse proxy for programs that are not written in Go", proxy.Main},
}

// run is main with its environment as parameters. It returns the exit status: that of the
// subcommand, or 2 for a mistake on the command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		usage(stderr)
		return 2
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		if len(args) > 1 { // failover help drill
			return run(ctx, []string{args[1], "-h"}, stdout, stderr)
		}
		usage(stdout)
		return 0
	}
	for _, c := range commands {
		if c.name == args[0] {
			return c.main(ctx, args[1:], stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "failover: there is no command %q. \"failover -h\" lists them.\n", args[0])
	return 2
}

func usage(w io.Writer) {
	fmt.Fprint(w, "Usage: failover COMMAND [flags] ...\n\nCommands:\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-9s %s\n", c.name, c.does)
	}
	fmt.Fprint(w, "\n\"failover COMMAND -h\" has the details.\n")
}
