package main

import (
	"context"
	"os/exec"
	"time"
)

// command returns a command that ends with ctx, along with everything that it has started.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	group(cmd)
	return cmd
}
