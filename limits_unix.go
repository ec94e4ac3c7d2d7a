//go:build !windows && !plan9

package failover

import "syscall"

// machineLimits are the errors of a machine that has no file descriptors, ports,
// buffers or memory left.
var machineLimits = [...]error{
	syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM,
}
