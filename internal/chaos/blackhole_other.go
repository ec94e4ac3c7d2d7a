//go:build !linux

package chaos

import "errors"

// A blackHole is a TCP address that does not answer. Filling a backlog makes
// one on Linux only.
type blackHole struct{}

func newBlackHole() (*blackHole, error) { return nil, errors.ErrUnsupported }

func (*blackHole) addr() string { return "" }

func (*blackHole) close() {}
