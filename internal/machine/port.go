package machine

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

var givenPorts sync.Map // by FreePort

// FreePort returns a port of an IP address on which nothing listens. It is outside the range from
// which systems assign ports, and this process is not given it again, so that nobody else gets it
// before the test's server listens, or while that is down. It panics if it finds none.
func FreePort(address string) string {
	for range 100 {
		port := strconv.Itoa(10000 + rand.IntN(20000))
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		if ln, err := net.Listen("tcp", net.JoinHostPort(address, port)); err == nil {
			ln.Close()
			return port
		}
	}
	panic("no free port")
}
