package failoverredis_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestMain fails the run if a goroutine of a Store outlives the tests. A child process of a fleet
// runs no tests.
func TestMain(m *testing.M) {
	redis.SetLogger(quietLog{}) // servers go away here
	if config, ok := os.LookupEnv(childEnv); ok {
		os.Exit(runChild(config))
	}
	code := m.Run()
	if leaked := leakedGoroutines(time.Minute); code == 0 && leaked != "" {
		fmt.Fprintln(os.Stderr, "goroutines outlive their Store:\n"+leaked)
		code = 1
	}
	os.Exit(code)
}

// quietLog drops the messages of go-redis about servers that go away.
type quietLog struct{}

func (quietLog) Printf(context.Context, string, ...any) {}

// leakedGoroutines returns the stacks of goroutines that do not end in time.
func leakedGoroutines(patience time.Duration) string {
	buf := make([]byte, 4<<20)
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		var leaked []string
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "failoverredis.(*Store)") {
				leaked = append(leaked, stack)
			}
		}
		if len(leaked) == 0 || time.Now().After(deadline) {
			return strings.Join(leaked, "\n\n")
		}
	}
}
