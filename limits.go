package failover

import (
	"errors"
	"net"
	"strings"
	"syscall"
)

// machineLimits are the errors of a machine that has no more to give. The numbers
// are those of Windows sockets.
var machineLimits = [...]syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM,
	10024 /* WSAEMFILE */, 10049 /* WSAEADDRNOTAVAIL */, 10055, /* WSAENOBUFS */
}

// machineLimit reports whether err says that this machine has run out of something:
// files, ports, buffers.
func machineLimit(err error) bool {
	var dns *net.DNSError
	isDNS := errors.As(err, &dns)
	for _, limit := range machineLimits {
		if errors.Is(err, limit) || isDNS && strings.HasSuffix(dns.Err, limit.Error()) { // which is all that a DNSError keeps of it
			return true
		}
	}
	return false
}
