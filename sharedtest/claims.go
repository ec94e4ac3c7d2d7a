package sharedtest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/d365failover/failover"
)

const (
	topic = "lease 7"
	// long is the TTL of claims that do not expire during a test, and short that of claims
	// that do.
	long  = 4 * time.Minute
	short = 300 * time.Millisecond
)

// claim makes a claim on the topic of the subtest's organization.
func (s *store) claim(h failover.Shared, member string, ttl time.Duration) failover.Holders {
	s.Helper()
	return s.contend(h, failover.Claim{Topic: topic, Member: member, TTL: ttl})
}

// contend makes any claim.
func (s *store) contend(h failover.Shared, c failover.Claim) failover.Holders {
	s.Helper()
	holders, err := h.Claim(s.Context(), s.organization, c)
	if err != nil {
		s.Fatalf("Claim(%+v): %v", c, err)
	}
	return holders
}

// are reports whether the holders are those in want, of which a store names the first.
func are(got failover.Holders, want ...string) bool {
	return got.Count == len(want) && slices.Equal(got.Names, want[:min(len(want), failover.MaxHolders)])
}

// claims makes a claim and checks the holders after it.
func (s *store) claims(h failover.Shared, member string, ttl time.Duration, want ...string) {
	s.Helper()
	if got := s.claim(h, member, ttl); !are(got, want...) {
		s.Fatalf("Claim(%q, %v) = %+v, want %q", member, ttl, got, want)
	}
}

// The member with the oldest claim probes for the fail-back, and every member knows who is
// next. A quorum counts the claims.
func claimOrder(s *store) {
	h, other := s.handle(), s.handle()
	s.claims(h, "c", long, "c")
	s.claims(other, "a", long, "c", "a")
	s.claims(h, "b", long, "c", "a", "b")
}

// The oldest claim stays the oldest while its member renews it, so that the turn to probe does
// not go round the fleet.
func claimRenewal(s *store) {
	h, other := s.handle(), s.handle()
	s.claims(h, "a", long, "a")
	s.claims(other, "b", long, "a", "b")
	s.claims(h, "c", long, "a", "b", "c")
	for _, member := range []string{"a", "b", "a", "c"} {
		s.claims(other, member, long, "a", "b", "c")
	}
}

// The claim of a process that has died expires, and the next one becomes the oldest. If the
// process returns, its claim is the newest.
func claimExpiry(s *store) {
	h, other := s.handle(), s.handle()
	s.claims(h, "a", short, "a")
	s.claim(other, "b", long)
	s.eventually("a's claim expires", func() bool {
		return are(s.claim(other, "b", long), "b")
	})
	s.claims(h, "a", long, "b", "a")
}

// A claim lasts for the TTL of its last renewal, which may end earlier or later than before.
func claimLasts(s *store) {
	h := s.handle()
	start := time.Now()
	s.claim(h, "a", short)
	s.claim(h, "longer", short)
	s.claim(h, "longer", long)
	s.claim(h, "shorter", long)
	s.eventually("a's claim expires", func() bool { return !slices.Contains(s.claim(h, "observer", long).Names, "a") })
	// A tenth is for clocks that are being adjusted.
	if took := time.Since(start); took < short*9/10 {
		s.Errorf("a claim for %v was gone after %v", short, took)
	}
	s.claims(h, "shorter", short, "longer", "shorter", "observer")
	s.eventually("the shorter claim expires", func() bool {
		return are(s.claim(h, "observer", long), "longer", "observer")
	})
}

// A Transport that is closed withdraws its claims, so that another takes over at once.
// Withdrawing a claim that does not exist changes nothing, and returns the holders.
func claimWithdrawal(s *store) {
	h, other := s.handle(), s.handle()
	s.claims(h, "nobody", 0)
	s.claim(h, "a", long)
	s.claim(h, "b", long)
	s.claims(other, "nobody", 0, "a", "b")
	s.claims(other, "a", 0, "b")
	s.claims(h, "a", long, "b", "a")
	s.claims(h, "b", -time.Second, "a")
	s.claims(h, "a", -1)
}

// Each generation has a topic of its own, and so has each endpoint that was seen to fail: the
// claims of different topics, and of different organizations, are independent.
func claimsApart(s *store) {
	h := s.handle()
	second := newOrganization()
	type place struct{ organization, topic string }
	places := []place{
		{s.organization, "lease 7"}, {s.organization, "lease"}, {s.organization, "lease 77"}, {s.organization, "LEASE 7"},
		{s.organization, "lease:7"}, {s.organization, ""}, {s.organization, strings.Repeat("t", 256)},
		{s.organization, unusualTexts[3]}, {s.organization + ":8443", "lease 7"}, {second, "lease 7"},
	}
	claim := func(p place, member string, ttl time.Duration, want ...string) {
		got, err := h.Claim(s.Context(), p.organization, failover.Claim{Topic: p.topic, Member: member, TTL: ttl})
		if err != nil || !are(got, want...) {
			s.Fatalf("Claim(%q, %q, %q, %v) = %+v, %v, want %q", p.organization, p.topic, member, ttl, got, err, want)
		}
	}
	for i, p := range places {
		claim(p, fmt.Sprint(i), long, fmt.Sprint(i))
	}
	claim(places[0], "0", 0)
	for i, p := range places[1:] {
		claim(p, "nobody", 0, fmt.Sprint(i+1))
	}
}

// The name of a member contains the host name and may be any text. Names that differ in one
// character are different members.
func claimTexts(s *store) {
	h := s.handle()
	members := append([]string{"web-1 4711", "WEB-1 4711", "web-1 4711 ", "web-1", strings.Repeat("m", 256)}, unusualTexts...)
	for i, member := range members {
		s.claims(h, member, long, members[:i+1]...)
		got := s.contend(h, failover.Claim{Topic: fmt.Sprint(i), Member: member, TTL: long})
		if !are(got, member) {
			s.Errorf("member %q is called %q", member, got.Names)
		}
	}
}

// A fleet may be large, and its members claim often. The oldest claims and the number of all
// are enough.
func claimNames(s *store) {
	h := s.handle()
	var members []string
	for i := range 200 {
		members = append(members, fmt.Sprintf("web-%d 1", i))
		s.claims(h, members[i], long, members...)
	}
	s.claims(h, members[0], 0, members[1:]...)
}

// One member probes for the whole fleet. Claims beyond the number of places are not queued, or
// members that have died since would get their turn.
func claimPlaces(s *store) {
	h, other := s.handle(), s.handle()
	claim := func(member string, ttl time.Duration, places int, want ...string) {
		s.Helper()
		got := s.contend(other, failover.Claim{Topic: topic, Member: member, TTL: ttl, Places: places})
		if !are(got, want...) {
			s.Fatalf("Claim(%q, %v, %d places) = %+v, want %q", member, ttl, places, got, want)
		}
	}
	claim("a", long, 1, "a")
	claim("b", long, 1, "a")
	claim("a", long, 1, "a")
	claim("b", long, 2, "a", "b")
	claim("b", long, 1, "a", "b") // renewed
	claim("c", long, 2, "a", "b")
	claim("a", 0, 1, "b")
	claim("c", short, 2, "b", "c")
	s.eventually("c's claim makes room", func() bool {
		return are(s.contend(h, failover.Claim{Topic: topic, Member: "d", TTL: long, Places: 2}), "b", "d")
	})
}

// When many members claim at once, all see one order: each gets those before it, and the last
// one gets all.
func claimsConcurrent(s *store) {
	const members = 24
	handles := []failover.Shared{s.handle(), s.handle(), s.handle()}
	lists := make([]failover.Holders, members)
	s.atOnce(handles, members, func(i int, h failover.Shared) (err error) {
		lists[i], err = h.Claim(s.Context(), s.organization, failover.Claim{Topic: topic, Member: fmt.Sprint(i), TTL: long})
		return err
	})
	final := s.claim(handles[0], "nobody", 0)
	if final.Count != members || len(final.Names) != failover.MaxHolders {
		s.Fatalf("%d members claim, and there are %+v", members, final)
	}
	counts := make(map[int]bool)
	for i, list := range lists {
		named := len(list.Names)
		if named != min(list.Count, failover.MaxHolders) || !slices.Equal(list.Names, final.Names[:named]) || counts[list.Count] {
			s.Errorf("member %d got %+v, want the beginning of %q", i, list, final.Names)
		}
		counts[list.Count] = true
	}
}

// However many members claim at once, no more hold a claim than there are places.
func claimsContend(s *store) {
	const members, places = 24, 3
	handles := []failover.Shared{s.handle(), s.handle(), s.handle()}
	var mu sync.Mutex // guards in
	in := 0
	s.atOnce(handles, members, func(i int, h failover.Shared) error {
		member := fmt.Sprint(i)
		got, err := h.Claim(s.Context(), s.organization, failover.Claim{Topic: topic, Member: member, TTL: long, Places: places})
		if slices.Contains(got.Names, member) {
			mu.Lock()
			defer mu.Unlock()
			in++
		}
		return err
	})
	if got := s.claim(handles[0], "nobody", 0); got.Count != places || in != places {
		s.Errorf("%d of %d places are taken, and %d members got one", got.Count, places, in)
	}
}

// atOnce has n goroutines do something at the same time.
func (s *store) atOnce(handles []failover.Shared, n int, do func(i int, h failover.Shared) error) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			if err := do(i, handles[i%len(handles)]); err != nil {
				s.Errorf("number %d: %v", i, err)
			}
		})
	}
	close(start)
	wg.Wait()
}
