package failover

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func at(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 443} }

func TestAnAddressIsNewsUntilItIsKnown(t *testing.T) {
	t.Parallel()
	const a, b, c = "192.0.2.1", "192.0.2.2", "2001:db8::3"
	now := time.Date(2026, 7, 2, 12, 0, 0, 0, time.UTC)
	var s addresses
	assert.Empty(t, s.see(nil, now), "of a connection that has none")
	assert.Empty(t, s.see(at(a), now), "the first")
	assert.Empty(t, s.see(at(a), now.Add(time.Second)))
	assert.Equal(t, " (192.0.2.1 before, 192.0.2.2 now)", s.see(at(b), now.Add(2*time.Second)))
	assert.Equal(t, " (192.0.2.1 before, 192.0.2.2 now)", s.see(at(b), now.Add(3*time.Second)), "nobody has judged yet")
	assert.Equal(t, " (192.0.2.1 before, 192.0.2.2 now)", s.news(now.Add(3*time.Second)))
	assert.Empty(t, s.see(at(a), now.Add(4*time.Second)), "the name flickers")
	assert.Empty(t, s.news(now.Add(4*time.Second)))
	s.settle()
	assert.Empty(t, s.see(at(b), now.Add(5*time.Second)), "a judgement has told it")
	assert.Equal(t, " (192.0.2.2 before, 2001:db8::3 now)", s.see(at(c), now.Add(6*time.Second)))
	assert.Empty(t, s.see(at(c), now.Add(6*time.Second+addressNews)), "in good health for so long, it belongs")
	later := now.Add(2 * addressMemory)
	assert.Empty(t, s.see(at(c), later.Add(-addressMemory)))
	assert.Equal(t, " (2001:db8::3 before, 192.0.2.1 now)", s.see(at(a), later), "nobody remembers it")
}

// Rotating answers of a name server are reported once, not with each probe.
func TestARotatingNameIsReportedOnce(t *testing.T) {
	t.Parallel()
	var s addresses
	now, told := time.Now(), 0
	for i := range 1000 {
		now = now.Add(10 * time.Second)
		if s.see(at([]string{"192.0.2.1", "192.0.2.2"}[i%2]), now) != "" {
			told++
			s.settle()
		}
	}
	assert.Equal(t, 1, told)
}

// A load balancer may have more addresses than are remembered. Later, a single new one is news again.
func TestTheAddressesOfALoadBalancerAreNoNewsForLong(t *testing.T) {
	t.Parallel()
	for _, balancer := range []int{4, maxAddresses, maxAddresses + 1, 1000} {
		var s addresses
		now, told := time.Now(), 0
		see := func(i int) {
			if s.see(&net.TCPAddr{IP: net.IPv4(192, 0, byte(i>>8), byte(i))}, now) != "" {
				told++
				s.settle()
			}
		}
		for i := range 2000 {
			now = now.Add(10 * time.Second)
			see(i % balancer)
		}
		assert.Equal(t, min(balancer, maxAddresses)-1, told, balancer)
		now = s.seen[0].last.Add(addressMemory)
		see(2000)
		assert.Equal(t, min(balancer, maxAddresses), told, balancer)
	}
}

func TestAddressesAreBounded(t *testing.T) {
	t.Parallel()
	var s addresses
	for i := range 1000 {
		s.see(&net.TCPAddr{IP: net.IPv4(192, 0, byte(i>>8), byte(i))}, time.Now())
	}
	assert.Len(t, s.seen, maxAddresses)
}

// path is an address without its port.
type path string

func (path) Network() string  { return "unix" }
func (p path) String() string { return string(p) }

func TestWhatIsRememberedOfAddresses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var s addresses
	assert.Empty(t, s.news(now))
	s.see(path("/a"), now)
	assert.Equal(t, " (/a before, /b now)", s.see(path("/b"), now))
	assert.Equal(t, " (/a before, /c now)", s.see(path("/c"), now.Add(addressNews-1)), "what is news itself was not there before")
	assert.Empty(t, s.see(path("/b"), now.Add(addressNews)), "it has been there for a minute")
	for i := range 30 {
		s.see(path([]string{"/a", "/b", "/c"}[i%3]), now.Add(addressNews))
	}
	assert.Len(t, s.seen, 3)

	for after, want := range map[time.Duration]string{
		addressMemory - 1: "",
		addressMemory:     " (/b before, /a now)",
	} {
		var s addresses
		s.see(path("/a"), now)
		s.see(path("/b"), now)
		s.settle()
		assert.Equal(t, want, s.see(path("/a"), now.Add(after)))
	}
}
