package failover

import "syscall"

// machineLimits is the error of a machine that has no file descriptors left.
var machineLimits = [...]error{syscall.EMFILE}
