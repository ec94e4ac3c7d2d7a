package failover

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// The answers of name servers rotate, are capped, and flicker between old and new for a
// while. Therefore what a name leads to is remembered for addressMemory, and an address
// is another one than before for addressNews, or until a judgement.
const (
	addressMemory = time.Hour
	addressNews   = time.Minute
	maxAddresses  = 16
)

// addresses are those that connections to an endpoint have led to lately.
type addresses struct {
	mu   sync.Mutex
	seen []seenAddress // the latest last
}

type seenAddress struct {
	host        string
	first, last time.Time
	known       bool // a judgement has passed since
}

// see takes note of the address that a connection leads to. If all connections before
// addressNews have led elsewhere, it says so: what is behind the name may have moved. The
// text is what was seen, such as " (192.0.2.1 before, 192.0.2.9 now)".
func (a *addresses) see(address net.Addr, now time.Time) string {
	if address == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(address.String())
	if err != nil {
		host = address.String()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = slices.DeleteFunc(a.seen, func(s seenAddress) bool { return now.Sub(s.last) >= addressMemory && s.host == host })
	this := seenAddress{host: host, first: now, known: len(a.seen) == 0}
	if i := slices.IndexFunc(a.seen, func(s seenAddress) bool { return s.host == host }); i >= 0 {
		this = a.seen[i]
		a.seen = slices.Delete(a.seen, i, i+1)
	}
	this.last = now
	a.seen = append(a.seen, this)
	a.seen = a.seen[max(0, len(a.seen)-maxAddresses):]
	return a.newsLocked(now)
}

// news says again what the last call of see did, if it still is news.
func (a *addresses) news(now time.Time) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.newsLocked(now)
}

func (a *addresses) newsLocked(now time.Time) string {
	isNews := func(s seenAddress) bool { return !s.known && now.Sub(s.first) < addressNews }
	n := len(a.seen) - 1
	if n < 0 || !isNews(a.seen[n]) {
		return ""
	}
	for _, s := range slices.Backward(a.seen[:n]) {
		if !isNews(s) {
			return fmt.Sprintf(" (%s before, %s now)", s.host, a.seen[n].host)
		}
	}
	return ""
}

// settle takes note of a judgement: what was seen is no news any more.
func (a *addresses) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.seen {
		a.seen[i].known = true
	}
}
