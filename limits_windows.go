package failover

import "syscall"

// machineLimits are the errors of a machine that has no handles, ports, buffers or
// memory left, by the numbers of Windows Sockets and the system.
var machineLimits = [...]error{
	syscall.Errno(10024), // WSAEMFILE
	syscall.Errno(10049), // WSAEADDRNOTAVAIL
	syscall.Errno(10055), // WSAENOBUFS
	syscall.Errno(4),     // ERROR_TOO_MANY_OPEN_FILES
	syscall.Errno(8),     // ERROR_NOT_ENOUGH_MEMORY
	syscall.Errno(14),    // ERROR_OUTOFMEMORY
}
