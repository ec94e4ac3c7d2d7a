//go:build unix

package failoverredis_test

import (
	"os"
	"syscall"
)

// The signals that stop a process and let it go on.
var (
	stop os.Signal = syscall.SIGSTOP
	cont os.Signal = syscall.SIGCONT
)
