//go:build unix

package main

import (
	"syscall"
	"time"
)

// cpuTime returns the time that this process has had of all cores. It leaves out
// what the machine does for others meanwhile.
func cpuTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
