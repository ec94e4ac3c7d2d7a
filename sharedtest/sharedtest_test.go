package sharedtest_test

import (
	"testing"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/sharedtest"
)

// All handles are the same Memory.
func TestMemory(t *testing.T) {
	t.Parallel()
	common := new(sharedtest.Memory)
	sharedtest.Run(t, func(*testing.T) failover.Shared { return common })
}
