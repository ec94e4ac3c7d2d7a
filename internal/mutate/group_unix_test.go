//go:build unix

package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Tests that are run, and what they have started, end when mutate is interrupted.
func TestNothingOutlivesAnInterrupt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script, fifo := filepath.Join(dir, "tests"), filepath.Join(dir, "fifo")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\nexec >fifo\n(echo started; sleep 10; echo alive) &\nwait\n"), 0o700))
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	ctx, interrupt := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, _, err := (&program{binary: script, dir: dir}).run(ctx, []string{"TestAny"}, time.Hour, "")
		ended <- err
	}()
	pipe, err := os.Open(fifo)
	require.NoError(t, err)
	defer pipe.Close()
	output := bufio.NewReader(pipe)
	line, err := output.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "started\n", line)
	interrupt()
	rest, err := io.ReadAll(output) // until nobody has the pipe open
	require.NoError(t, err)
	assert.Empty(t, rest)
	assert.Error(t, <-ended)
}
