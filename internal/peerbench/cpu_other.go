//go:build !unix

package main

import "time"

// cpuTime returns the elapsed time, because the CPU time is not available.
func cpuTime() time.Duration { return elapsed() }
