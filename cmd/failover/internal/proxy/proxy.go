// Package proxy is the subcommand proxy: a local HTTP proxy that carries
// programs in any language through a failover of their organization.
package proxy

import (
	"context"
	"fmt"
	"io"
)

// Main runs the proxy until ctx ends and returns the exit status.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fmt.Fprintln(stderr, "failover proxy: not built into this version")
	return 2
}
