package sharedtest

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/d365failover/failover"
)

// Run checks that a store obeys the rules of [failover.Shared], in one subtest for each. In
// the source, the comment on a rule says why a fleet needs it.
//
// open returns a new handle on the store, which stands for another process, and closes it
// with t.Cleanup. All handles for the same t must share one store; those for different
// subtests may. The store need not be empty. Run uses only organizations with random names,
// and leaves their records behind.
//
// Run returns when all subtests have ended. It takes a few seconds, because claims must
// expire in real time.
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

	{"watchers are notified of changes by others", changesTold},
	{"notifications may be left unread", changesUnread},
	{"every watcher is notified", everyWatcher},
	{"watching ends with its context", watchingEnds},

	{"claims are listed oldest first", claimOrder},
	{"a renewed claim keeps its position", claimRenewal},
	{"an expired claim loses its position", claimExpiry},
	{"a claim lasts for its TTL", claimLasts},
	{"a claim can be withdrawn", claimWithdrawal},
	{"topics and organizations have claims of their own", claimsApart},
	{"members are any text", claimTexts},
	{"new claims are refused when all places are taken", claimPlaces},
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

// newOrganization returns the host of an organization that has no record yet.
func newOrganization() string {
	return "contoso-" + strings.ToLower(rand.Text()) + ".api.crm.dynamics.com"
}

// patience is how long anything may take. Stores are rarely that slow, but machines that run
// tests are.
var patience = 10 * time.Second

// pollInterval is the time between two calls of a condition.
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

// equal reports whether two records mean the same: times are compared as instants, and a nil
// Earlier equals an empty one.
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
