package sharedtest

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/d365failover/failover"
)

// Run checks that a store keeps the rules of [failover.Shared], one subtest for
// each. The comment on a rule says what a fleet needs it for.
//
// Open returns a new handle on the store, which stands for another process. All
// handles opened for the same t have to be on one store; those of different
// subtests may be. Open closes what it opens with t.Cleanup. The store need not
// be empty, and what Run leaves there is under organizations that it makes up.
//
// Run returns when all subtests have ended. It takes a few seconds, for claims
// have to expire in real time.
func Run(t *testing.T, open func(t *testing.T) failover.Shared) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			r.check(&store{T: t, open: open, organization: newOrganization()})
		})
	}
}

var rules = []struct {
	name  string
	check func(*store)
}{
	{"no record is the zero Record", noRecord},
	{"swaps only the given version", swapsVersion},
	{"a lost swap changes nothing", lostSwap},
	{"every field of a record comes back", everyField},
	{"a record is copied", copies},
	{"versions and generations keep every digit", everyDigit},
	{"one of many swaps wins", oneWins},
	{"organizations have records of their own", recordsApart},
	{"the clock goes forward", clock},

	{"changes by others are told", changesTold},
	{"changes may be left unread", changesUnread},
	{"every watcher is told", everyWatcher},
	{"watching ends with its context", watchingEnds},

	{"claims are listed the longest-standing first", claimOrder},
	{"a renewed claim keeps its place", claimRenewal},
	{"an expired claim has lost its place", claimExpiry},
	{"a claim lasts for its ttl", claimLasts},
	{"a claim can be withdrawn", claimWithdrawal},
	{"topics and organizations have claims of their own", claimsApart},
	{"members are any text", claimTexts},
	{"a topic has so many places", claimPlaces},
	{"few holders are named, all are counted", claimNames},
	{"concurrent claims have one order", claimsConcurrent},
	{"concurrent claims fill the places", claimsContend},

	{"a call ends with its context", ended},
}

// store is the store under test, within one subtest.
type store struct {
	*testing.T
	open         func(t *testing.T) failover.Shared
	organization string
}

// handle opens another handle on the store.
func (s *store) handle() failover.Shared {
	s.Helper()
	h := s.open(s.T)
	if h == nil {
		s.Fatal("open returned nil")
	}
	return h
}

// newOrganization returns the host of an organization that nobody has used.
func newOrganization() string {
	return "contoso-" + strings.ToLower(rand.Text()) + ".api.crm.dynamics.com"
}

// patience is how long anything may take. Stores are rarely that slow, but
// machines that run tests are.
var patience = 10 * time.Second

// pollInterval is the time between two looks at something that is waited for.
const pollInterval = 20 * time.Millisecond

// eventually calls done until it reports true, and fails the test if that takes
// longer than patience.
func (s *store) eventually(what string, done func() bool) {
	s.Helper()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			s.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (s *store) load(h failover.Shared, organization string) failover.Record {
	s.Helper()
	r, _, err := h.Load(s.Context(), organization)
	if err != nil {
		s.Fatalf("Load(%q): %v", organization, err)
	}
	return r
}

// swap checks what CompareAndSwap reports.
func (s *store) swap(h failover.Shared, organization string, version uint64, next failover.Record, want bool) {
	s.Helper()
	got, err := h.CompareAndSwap(s.Context(), organization, version, next)
	if err != nil {
		s.Fatalf("CompareAndSwap(%q, %d, %+v): %v", organization, version, next, err)
	}
	if got != want {
		s.Fatalf("CompareAndSwap(%q, %d, %+v) = %t, want %t", organization, version, next, got, want)
	}
}

// holds checks that the record of an organization is want.
func (s *store) holds(h failover.Shared, organization string, want failover.Record) {
	s.Helper()
	if got := s.load(h, organization); !equal(got, want) {
		s.Fatalf("the record of %q is\n%+v, want\n%+v", organization, got, want)
	}
}

// equal compares records as those who use them do: times are instants, and no
// earlier switches are none, whether the slice is nil or empty.
func equal(a, b failover.Record) bool {
	if len(a.Earlier) != len(b.Earlier) {
		return false
	}
	for i := range a.Earlier {
		if !a.Earlier[i].Equal(b.Earlier[i]) {
			return false
		}
	}
	return a.Active == b.Active && a.Generation == b.Generation && a.Since.Equal(b.Since) &&
		a.Reason == b.Reason && a.By == b.By &&
		a.Version == b.Version && a.Questions == b.Questions && a.Recoveries == b.Recoveries && a.Risen == b.Risen && a.Frozen == b.Frozen
}

// record returns a plain record of the given version.
func record(version uint64) failover.Record {
	return failover.Record{
		Version:    version,
		Active:     failover.Endpoint(version % 2),
		Generation: version / 2, // not every swap is a switch
		Since:      time.Now(),
		Reason:     "the primary does not serve",
		By:         "web-1 4711",
	}
}
