package failover

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// addressMemory is how long an address behind a name is remembered. The answers of
	// name servers rotate, are capped, and flicker between old and new for a while.
	addressMemory = time.Hour
	maxAddresses  = 16
)

// addresses are those that new connections to an endpoint have led to lately.
type addresses struct {
	mu   sync.Mutex
	seen []seenAddress // the latest last
}

type seenAddress struct {
	host string
	at   time.Time
}

// see takes note of the address that a new connection leads to. If all connections of
// addressMemory have led elsewhere, it says so: what is behind the name may have moved.
// The text is what was seen, such as " (192.0.2.1 before, 192.0.2.9 now)".
func (a *addresses) see(address net.Addr, now time.Time) (moved string) {
	if address == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(address.String())
	if err != nil {
		host = address.String()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.seen); n > 0 && a.seen[n-1].host != host {
		moved = fmt.Sprintf(" (%s before, %s now)", a.seen[n-1].host, host)
	}
	a.seen = slices.DeleteFunc(a.seen, func(s seenAddress) bool {
		known := s.host == host && now.Sub(s.at) < addressMemory
		if known {
			moved = ""
		}
		return s.host == host
	})
	a.seen = append(a.seen, seenAddress{host, now})
	a.seen = a.seen[max(0, len(a.seen)-maxAddresses):]
	return moved
}
