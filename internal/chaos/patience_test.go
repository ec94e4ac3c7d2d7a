package chaos

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/d365failover/failover/internal/machine"
)

// complaints collects what is wrong with a result.
type complaints []string

func (c *complaints) Errorf(format string, args ...any) {
	*c = append(*c, fmt.Sprintf(format, args...))
}

// patiently runs an experiment and checks its result. If something is wrong while the machine is
// too busy for the experiment's timeouts, or has stalled, it runs again, with timeouts that are
// longer by a factor. A fault stays whatever the timeouts are. What no timeout can excuse, such as
// a write that is carried out twice, run reports itself.
func patiently[R any](t *testing.T, run func(slower time.Duration) R, check func(assert.TestingT, R)) R {
	t.Helper()
	const tries, slowest = 8, 8
	slower := time.Duration(1)
	for try := 1; ; try++ {
		stopwatch, stalls := machine.Stopwatch(), machine.Stalls()
		r := run(slower)
		var wrong complaints
		check(&wrong, r)
		if len(wrong) == 0 {
			return r
		}
		taken, withheld := stopwatch()
		if busy := withheld > taken/4 || stalls < machine.Stalls(); !busy || try == tries {
			t.Errorf("after %v, of which the machine has withheld %v:\n%s", taken, withheld, strings.Join(wrong, "\n"))
			return r
		}
		t.Logf("again, because the machine has withheld %v of %v: %q", withheld, taken, wrong)
		slower = min(2*slower, slowest)
	}
}
