package failover_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestMain fails the run if a goroutine of a Transport outlives the tests. Within bubbles,
// testing/synctest checks that itself.
//
// Unless -parallel says otherwise, two tests share a processor: those over sockets mostly wait.
func TestMain(m *testing.M) {
	flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	flag.Parse()
	code := m.Run()
	if leaked := leakedGoroutines(time.Minute); code == 0 && leaked != "" {
		fmt.Fprintln(os.Stderr, "goroutines outlive their Transport:\n"+leaked)
		code = 1
	}
	os.Exit(code)
}

// ours matches the stack of every goroutine that a Transport starts.
var ours = regexp.MustCompile(`failover\.\(\*(Transport|call|payload|readAhead)\)`)

// leakedGoroutines returns the stacks of goroutines that do not end in time.
func leakedGoroutines(patience time.Duration) string {
	buf := make([]byte, 4<<20)
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		var leaked []string
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if ours.MatchString(stack) {
				leaked = append(leaked, stack)
			}
		}
		if len(leaked) == 0 || time.Now().After(deadline) {
			return strings.Join(leaked, "\n\n")
		}
	}
}
