//go:build !linux

package chaos

import "errors"

// A blackHole is a TCP address where a connection attempt neither succeeds nor fails. A full
// backlog has that effect only on Linux.
type blackHole struct{}

func newBlackHole() (*blackHole, error) { return nil, errors.ErrUnsupported }

func (*blackHole) addr() string { return "" }

func (*blackHole) close() {}
