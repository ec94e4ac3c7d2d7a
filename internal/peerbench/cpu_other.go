//go:build !unix

package main

import "time"

// cpuTime returns the elapsed time, where no other is to be had.
func cpuTime() time.Duration { return elapsed() }
