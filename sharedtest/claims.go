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
	// long is the ttl of claims that do not expire in a test, and short that of
	// those that do.
	long  = time.Hour
	short = 300 * time.Millisecond
)

// claim makes a claim on the topic of the subtest's organization.
func (s *store) claim(h failover.Shared, member string, ttl time.Duration) []string {
	s.Helper()
	members, err := h.Claim(s.Context(), s.organization, topic, member, ttl)
	if err != nil {
		s.Fatalf("Claim(%q, %v): %v", member, ttl, err)
	}
	return members
}

// claims checks who claims the topic after a claim.
func (s *store) claims(h failover.Shared, member string, ttl time.Duration, want ...string) {
	s.Helper()
	if got := s.claim(h, member, ttl); !slices.Equal(got, want) {
		s.Fatalf("Claim(%q, %v) = %q, want %q", member, ttl, got, want)
	}
}

// The longest-standing claim is the lease: its member probes for the fail-back,
// and everybody knows who comes next. Their number is what a quorum counts.
func claimOrder(s *store) {
	h, other := s.handle(), s.handle()
	s.claims(h, "c", long, "c")
	s.claims(other, "a", long, "c", "a")
	s.claims(h, "b", long, "c", "a", "b")
}

// Who holds the lease keeps it while it renews its claim, so that it does not
// go round the fleet.
func claimRenewal(s *store) {
	h, other := s.handle(), s.handle()
	s.claims(h, "a", long, "a")
	s.claims(other, "b", long, "a", "b")
	s.claims(h, "c", long, "a", "b", "c")
	for _, member := range []string{"a", "b", "a", "c"} {
		s.claims(other, member, long, "a", "b", "c")
	}
}

// A process that has died drops out, and the next one has the lease. When it is
// back it stands at the end.
func claimExpiry(s *store) {
	h, other := s.handle(), s.handle()
	s.claims(h, "a", short, "a")
	s.claim(other, "b", long)
	s.eventually("a's claim expires", func() bool {
		return slices.Equal(s.claim(other, "b", long), []string{"b"})
	})
	s.claims(h, "a", long, "b", "a")
}

// A claim lasts for as long as was asked for from the last renewal on, which
// may be longer or shorter than what was left of it.
func claimLasts(s *store) {
	h := s.handle()
	start := time.Now()
	s.claim(h, "a", short)
	s.claim(h, "longer", short)
	s.claim(h, "longer", long)
	s.claim(h, "shorter", long)
	s.eventually("a's claim expires", func() bool { return !slices.Contains(s.claim(h, "observer", long), "a") })
	// A tenth is for clocks that are being put right.
	if took := time.Since(start); took < short*9/10 {
		s.Errorf("a claim for %v was gone after %v", short, took)
	}
	s.claims(h, "shorter", short, "longer", "shorter", "observer")
	s.eventually("the shorter claim expires", func() bool {
		return slices.Equal(s.claim(h, "observer", long), []string{"longer", "observer"})
	})
}

// A Transport that is closed hands its lease on at once. To withdraw what one
// does not have changes nothing, and tells who claims.
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

// A lease is claimed anew with each generation, and what is seen of one endpoint
// is not seen of the other: topics do not touch each other. Nor do the
// organizations.
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
		got, err := h.Claim(s.Context(), p.organization, p.topic, member, ttl)
		if err != nil || !slices.Equal(got, want) {
			s.Fatalf("Claim(%q, %q, %q, %v) = %q, %v, want %q", p.organization, p.topic, member, ttl, got, err, want)
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

// A member is called what its host is called, and more. What differs in one
// character is another member.
func claimTexts(s *store) {
	h := s.handle()
	members := append([]string{"web-1 4711", "WEB-1 4711", "web-1 4711 ", "web-1", strings.Repeat("m", 256)}, unusualTexts...)
	for i, member := range members {
		s.claims(h, member, long, members[:i+1]...)
	}
	for i := len(members); i < 200; i++ { // a fleet of some size
		members = append(members, fmt.Sprintf("web-%d 1", i))
		s.claims(h, members[i], long, members...)
	}
}

// When many claim at once, all see one order: each is told of those before it,
// the last of all is told of everybody, and one alone has the lease.
func claimsConcurrent(s *store) {
	const members = 24
	handles := []failover.Shared{s.handle(), s.handle(), s.handle()}
	lists := make([][]string, members)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range members {
		wg.Go(func() {
			<-start
			var err error
			lists[i], err = handles[i%len(handles)].Claim(s.Context(), s.organization, topic, fmt.Sprint(i), long)
			if err != nil {
				s.Errorf("Claim: %v", err)
			}
		})
	}
	close(start)
	wg.Wait()
	final := s.claim(handles[0], "nobody", 0)
	if len(final) != members {
		s.Fatalf("%d members claim, and there are %q", members, final)
	}
	for i, list := range lists {
		if len(list) > members || !slices.Equal(list, final[:len(list)]) || !slices.Contains(list, fmt.Sprint(i)) {
			s.Errorf("member %d was told of %q, which is not how %q begins", i, list, final)
		}
	}
}
