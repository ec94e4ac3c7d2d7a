package failover

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// labels returns the labels of writes.
func labels(writes []Write) []string {
	var s []string
	for _, w := range writes {
		s = append(s, w.Label)
	}
	return s
}

// newBooks returns books with room for that many writes.
func newBooks(size int) *books {
	b := new(books)
	org := Org{Primary: &url.URL{Scheme: "https", Host: "contoso.api.crm.dynamics.com"}}
	b.open(&Config{LedgerSize: size, RPO: 5 * time.Second}, &org, time.Now())
	return b
}

// ended returns a write that was made in the first epoch.
func ended(at Endpoint, outcome Outcome, when time.Time, label string) *endedWrite {
	return &endedWrite{Write: Write{Time: when, Label: label, Endpoint: at, Outcome: outcome}}
}

func TestLedgerReport(t *testing.T) {
	t.Parallel()
	lastSuccess := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const rpo = 5 * time.Second
	type entry struct {
		after   time.Duration // lastSuccess
		at      Endpoint
		outcome Outcome
		label   string
	}
	tests := []struct {
		name      string
		reason    string
		size      int
		entries   []entry
		from      Endpoint
		atRisk    []string
		unknown   []string
		truncated bool
		maxRun    time.Duration
	}{
		{name: "nothing", reason: "no write, no risk", size: 4},
		{
			name: "window", reason: "it reaches back from the last success by the RPO, inclusive", size: 8,
			entries: []entry{{after: -rpo - 1, label: "old"}, {after: -rpo, label: "edge"}, {after: 0, label: "last"}, {after: time.Minute, label: "later"}},
			atRisk:  []string{"edge", "last", "later"},
		},
		{
			name: "doubtful writes", reason: "they may be carried out for 10 minutes after they were given up on", size: 8,
			entries: []entry{
				{after: -rpo - 10*time.Minute - 1, outcome: OutcomeUnknown, label: "noise"}, {after: -rpo - 10*time.Minute, outcome: OutcomeUnknown, label: "edge"},
				{after: 150 * time.Second, outcome: OutcomeUnknown, label: "black hole"},
			},
			unknown: []string{"edge", "black hole"},
		},
		{
			name: "doubtful writes of Finance and Operations", reason: "a call may run for any length of time", size: 8, maxRun: never,
			entries: []entry{{after: -1000 * time.Hour, outcome: OutcomeUnknown, label: "long ago"}, {after: -rpo - 1, label: "safe"}},
			unknown: []string{"long ago"},
		},
		{
			name: "half-done batch", reason: "what it had done is acknowledged", size: 8,
			entries: []entry{{outcome: OutcomePartial, label: "batch"}, {after: -rpo - 1, outcome: OutcomePartial, label: "old"}},
			atRisk:  []string{"batch"},
		},
		{
			name: "the other endpoint", reason: "only writes of the endpoint that is left count", size: 8, from: Alternate,
			entries: []entry{{label: "primary"}, {at: Alternate, label: "alternate"}, {outcome: OutcomeUnknown, label: "primary"}},
			atRisk:  []string{"alternate"},
		},
		{
			name: "order", reason: "concurrent writers record out of order; the report is sorted", size: 8,
			entries: []entry{{after: 3, label: "3"}, {after: 1, label: "1"}, {after: 2, label: "2"}},
			atRisk:  []string{"1", "2", "3"},
		},
		{
			name: "overflow within the window", reason: "a write that belongs here was dropped", size: 2,
			entries: []entry{{after: 1, label: "1"}, {after: 2, label: "2"}, {after: 3, label: "3"}},
			atRisk:  []string{"2", "3"}, truncated: true,
		},
		{
			name: "overflow before the window", reason: "what was dropped is safe, so the report is complete", size: 2,
			entries: []entry{{after: -rpo - 1, label: "old"}, {after: 2, label: "2"}, {after: 3, label: "3"}},
			atRisk:  []string{"2", "3"},
		},
		{
			name: "overflow of the other endpoint", reason: "its writes are no part of this report", size: 2,
			entries: []entry{{at: Alternate, label: "alternate"}, {after: 2, label: "2"}, {after: 3, label: "3"}},
			atRisk:  []string{"2", "3"},
		},
		{
			name: "overflow of a doubtful write", reason: "its window is wider", size: 1,
			entries: []entry{{after: -time.Minute, outcome: OutcomeUnknown, label: "doubtful"}, {after: 1, label: "1"}},
			atRisk:  []string{"1"}, truncated: true,
		},
		{
			name: "latest drop counts", reason: "drops out of order must not hide one within the window", size: 1,
			entries: []entry{{after: 1, label: "1"}, {after: -time.Hour, label: "old"}, {after: 2, label: "2"}},
			atRisk:  []string{"2"}, truncated: true,
		},
	}
	names := make(map[string]bool)
	for _, tt := range tests {
		require.NotEmpty(t, tt.reason, tt.name)
		require.False(t, names[tt.name], "name %q is used twice", tt.name)
		names[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBooks(tt.size)
			b.rpo, b.maxRun = rpo, cmp.Or(tt.maxRun, maxRun)
			for _, e := range tt.entries {
				b.record(ended(e.at, e.outcome, lastSuccess.Add(e.after), e.label))
			}
			r := b.report(tt.from, tt.from.other(), 1, lastSuccess, "")
			assert.Equal(t, tt.atRisk, labels(r.AtRisk), tt.reason)
			assert.Equal(t, tt.unknown, labels(r.Unknown), tt.reason)
			assert.Equal(t, tt.truncated, r.Truncated, tt.reason)
			assert.Equal(t, tt.from, r.From)
			assert.Equal(t, lastSuccess, r.LastSuccess)
			assert.Equal(t, rpo, r.RPO)
		})
	}
}

func TestLedgerReportWithoutSuccess(t *testing.T) {
	t.Parallel()
	b := newBooks(4)
	b.rpo = 0
	b.record(ended(Primary, OutcomeUnknown, time.Now(), "first"))
	r := b.report(Primary, Alternate, 1, time.Time{}, "")
	assert.Equal(t, []string{"first"}, labels(r.Unknown), "an endpoint that never succeeded has no safe writes")
	assert.Empty(t, r.AtRisk)
	assert.Zero(t, r.RPO)
	assert.False(t, r.Truncated)
}

func TestBooksWithoutALedger(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, size := range []int{0, -1} {
		b := newBooks(size)
		require.Nil(t, b.ledger)
		assert.False(t, b.keeps())
		assert.False(t, b.record(ended(Primary, OutcomeAcknowledged, now, "")))
		for _, r := range []*LossReport{b.report(Primary, Alternate, 1, now, ""), b.since(now, Primary)} {
			assert.True(t, r.Truncated, "of nothing that is kept nothing is known")
			assert.Empty(t, r.AtRisk)
			assert.Empty(t, r.Unknown)
		}
	}
}

// A write in doubt may still be carried out for as long as its product lets a call run.
func TestHowLongAWriteMayRun(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]time.Duration{"contoso.crm.dynamics.com": 10 * time.Minute, "contoso.operations.dynamics.com": never, "crm.contoso.example": 10 * time.Minute} {
		var b books
		b.open(&Config{LedgerSize: 1}, mustOrg(t, "https://"+host, NoAlternate), time.Now())
		assert.Equal(t, want, b.maxRun, host)
		assert.True(t, b.keeps())
	}
}

// An organization may take 3 KiB while idle, and 12 KiB once it has written. This is the share
// of the books.
func TestBooksAreSmall(t *testing.T) {
	t.Parallel()
	b := newBooks(4096)
	assert.Empty(t, b.report(Primary, Alternate, 1, time.Now(), "").AtRisk)
	assert.Nil(t, b.ledger.ring.Load(), "neither idleness nor a report makes the ring")
	assert.Less(t, unsafe.Sizeof(*b)+unsafe.Sizeof(*b.ledger), uintptr(256))
	b.record(ended(Primary, OutcomeAcknowledged, time.Now(), ""))
	r := b.ledger.ring.Load()
	slots := func() (n int) {
		for i := range r.chunks {
			if c := r.chunks[i].Load(); c != nil {
				n += len(*c)
			}
		}
		return n
	}
	assert.LessOrEqual(t, unsafe.Sizeof(*r)+uintptr(len(r.chunks))*8+uintptr(slots())*unsafe.Sizeof(slot{}), uintptr(3<<10), "after a write")
	for n := 1; n < 5000; n++ {
		b.record(ended(Primary, OutcomeAcknowledged, time.Now(), ""))
		if most := max(firstSlots, 2*n); slots() > most {
			t.Fatalf("%d slots for %d writes", slots(), n+1)
		}
	}
	assert.Equal(t, 4096, slots())
}

// The ledger keeps as many writes as configured, whatever the number.
func TestTheLedgerKeepsAsManyAsConfigured(t *testing.T) {
	t.Parallel()
	for size := 1; size < 70; size++ {
		b, now := newBooks(size), time.Now()
		for n := range 2*size + 1 {
			b.record(ended(Primary, OutcomeAcknowledged, now.Add(time.Duration(n)), ""))
		}
		kept := b.since(now, Primary).AtRisk
		require.Len(t, kept, size)
		require.Equal(t, now.Add(time.Duration(size+1)), kept[0].Time, "the latest of them")
	}
}

// Not parallel: testing.AllocsPerRun counts the allocations of every goroutine.
func TestAWriteAllocatesNothingInTheBooks(t *testing.T) {
	b := newBooks(16)
	req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
	require.NoError(t, err)
	resp := &http.Response{StatusCode: 204, Header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com"+accountA, "REQ_ID", recordB)}
	var u underway
	write := func(label string) func() {
		return func() {
			u = underway{req: req}
			b.begin(&u)
			b.end(&u)
			w := describe(req, resp, time.Now(), "", label)
			w.underway = &u
			b.record(&w)
		}
	}
	brief, long := write("label"), write(strings.Repeat("x", 256))
	for range 16 {
		long() // makes the ring, and room for long texts
	}
	assert.Zero(t, testing.AllocsPerRun(100, brief))
	assert.Zero(t, testing.AllocsPerRun(100, long))
}

func TestASlotHoldsOneWriteAfterAnother(t *testing.T) {
	t.Parallel()
	b := newBooks(1)
	for _, label := range []string{"brief", strings.Repeat("long", 64), "again", ""} {
		b.record(ended(Primary, OutcomeAcknowledged, time.Now(), label))
		assert.Equal(t, []string{label}, labels(b.since(time.Time{}, Primary).AtRisk))
	}
	for length, brief := range map[int]bool{0: true, 239: true, 240: true, 241: false, 1024: false} {
		var e ledgerEntry
		label := strings.Repeat("x", length)
		e.pack(ended(Primary, OutcomeAcknowledged, time.Now(), label))
		assert.Equal(t, label, e.write().Label)
		assert.Equal(t, brief, e.long == nil, "%d bytes: most texts take no memory of their own", length)
	}
}

// An entry that was dropped is known to have been dropped at once, to whoever dropped it.
func TestWhatOverflowTakesOutIsNotForgotten(t *testing.T) {
	t.Parallel()
	l := &ledger{size: 1}
	began := time.Now()
	r := l.makeRing(began)
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for i := range 5000 {
				at := began.Add(time.Duration(4*i + n))
				if r.drop(&ledgerEntry{time: at}); !l.hasDropped(Primary, false, at) {
					t.Error("forgotten")
					return
				}
			}
		})
	}
	wg.Wait()
	assert.False(t, l.hasDropped(Primary, false, began.Add(20_000)))
	assert.False(t, l.hasDropped(Primary, true, began) || l.hasDropped(Alternate, false, began))
}

// The last success is exact to a millisecond, so that a busy endpoint seldom writes to memory
// that its callers share.
func TestTheLastSuccessIsToTheMillisecond(t *testing.T) {
	t.Parallel()
	var a anchor
	started := time.Now()
	for _, row := range []struct {
		now   time.Duration
		moves bool
	}{{0, true}, {1, false}, {time.Millisecond, false}, {time.Millisecond + 1, true}, {2 * time.Millisecond, false}, {2*time.Millisecond + 1, true}, {time.Hour, true}} {
		assert.Equal(t, row.moves, a.succeeded(row.now), row.now)
		assert.WithinDuration(t, started.Add(row.now), a.time(started), time.Millisecond)
	}
}

// A report either has every write that was recorded before it, or says that it is truncated.
// It has no write twice.
func TestLedgerReportsWhileWritesGoOn(t *testing.T) {
	t.Parallel()
	const writers, writesEach, size = 4, 500, 1000
	base := time.Now()
	b := newBooks(size)
	var recorded atomic.Int64
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for i := range writesEach {
				id := n*writesEach + i
				w := ended(Primary, Outcome(i%2), base.Add(time.Duration(id)), "")
				w.Status = id
				b.record(w)
				recorded.Add(1)
			}
		})
	}
	list := func() (*LossReport, []Write) {
		r := b.draft(Primary, Alternate, base, "")
		return r, slices.Concat(r.AtRisk, r.Unknown)
	}
	for reports := 0; reports < 2000; reports++ {
		before := recorded.Load()
		r, writes := list()
		if !r.Truncated && int64(len(writes)) < before {
			t.Fatalf("%d of %d writes reported, not truncated", len(writes), before)
		}
		slices.SortFunc(writes, byTime)
		if len(slices.Compact(writes)) != len(r.AtRisk)+len(r.Unknown) {
			t.Fatal("a write was reported twice")
		}
		if before == writers*writesEach {
			break
		}
	}
	wg.Wait()
	r, writes := list()
	assert.Len(t, writes, size)
	assert.True(t, r.Truncated)
}

func BenchmarkRecord(b *testing.B) {
	l := newBooks(4096)
	w := ended(Primary, OutcomeAcknowledged, time.Now(), "label")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.record(w)
		}
	})
}

func BenchmarkEntry(b *testing.B) {
	req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
	require.NoError(b, err)
	resp := &http.Response{StatusCode: 204, Header: headerWith("OData-EntityId", "https://contoso.api.crm.dynamics.com"+accountA, "REQ_ID", recordB)}
	now := time.Now()
	var e ledgerEntry
	b.ReportAllocs()
	for b.Loop() {
		w := describe(req, resp, now, "", "label")
		e.pack(&w)
	}
}

func TestNamesOfEntitySets(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"accounts": true, "new_2projects": true, "A0z9Z": true, "_": true, "": false, "a-b": false, "a/b": false, "a:": false, "a@": false, "a[": false, "a`": false, "a{": false, "é": false,
	} {
		assert.Equal(t, want, isIdentifier(name), name)
	}
}

// A path counts as the address of a record up to the length at which paths are cut.
func TestTheAddressOfARecord(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		accountA: accountA, "https://contoso.crm.dynamics.com" + accountA: accountA, accountA + "/name": "", "accounts(" + recordA + ")": "",
		accountA + " ": "", accountA + "\x7f": "", "": "", "/": "",
	} {
		entity, id := recordAt(address)
		assert.Equal(t, want, entity, address)
		assert.Equal(t, want != "", id == recordA, address)
	}
	for length, found := range map[int]bool{maxWritePath: true, maxWritePath + 1: false} {
		path := strings.Replace(accountA, "accounts", strings.Repeat("a", length-len(accountA)+len("accounts")), 1)
		entity, _ := recordAt(path)
		assert.Equal(t, found, entity == path, "%d bytes", length)
	}
}
