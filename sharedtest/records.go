package sharedtest

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/d365failover/failover"
)

// An organization that was never switched has no record. That is not an error: every fleet
// starts that way.
func noRecord(s *store) {
	s.holds(s.handle(), s.organization, failover.Record{})
}

// By CompareAndSwap, a fleet agrees on a switch. It compares only the version; 0 means that
// there is no record, not that any version matches.
func swapsVersion(s *store) {
	h, other := s.handle(), s.handle()
	s.swap(h, s.organization, 1, record(2), false)
	s.holds(other, s.organization, failover.Record{})

	first, second := record(1), record(2)
	s.swap(h, s.organization, 0, first, true)
	s.holds(other, s.organization, first)
	s.swap(other, s.organization, 0, record(1), false)
	s.swap(other, s.organization, 2, record(3), false)
	s.swap(other, s.organization, 1, second, true)
	s.holds(h, s.organization, second)
	s.swap(h, s.organization, 1, record(2), false)
}

// The loser of a race loads the winner's record, which must hold nothing of the loser's.
func lostSwap(s *store) {
	h := s.handle()
	won := record(7)
	won.Earlier = []time.Time{won.Since.Add(-time.Minute)}
	s.swap(h, s.organization, 0, won, true)
	lost := failover.Record{Active: failover.Primary, Version: 8, Since: won.Since.Add(time.Hour), Reason: "lost", By: "loser 1"}
	for _, version := range []uint64{0, 6, 8} {
		s.swap(h, s.organization, version, lost, false)
		s.holds(h, s.organization, won)
	}
}

// A record is loaded as it was stored: times to the nanosecond, texts to the last character.
// No field keeps the value of an earlier record.
func everyField(s *store) {
	h, other := s.handle(), s.handle()
	since := time.Date(2025, 3, 30, 2, 59, 59, 123456789, time.FixedZone("UTC-3:30", -12600))
	many := make([]time.Time, 200)
	for i := range many {
		many[i] = since.Add(time.Duration(i) * 17999999999)
	}
	records := []failover.Record{
		{Active: failover.Alternate, Generation: 9, Since: since, Earlier: []time.Time{since.Add(-time.Hour), since.Add(-1)}, Reason: "r", By: "b", Questions: 7, Recoveries: 5, Risen: 3, Frozen: "f"},
		{},
		{Active: failover.Alternate, Since: time.Now(), Earlier: many},
		{Active: failover.Primary, Since: time.Unix(0, 1).UTC()},
		{Since: since, Reason: strings.Repeat("long ", 800), By: strings.Repeat("h", 253) + " 4194304"},
	}
	for _, text := range unusualTexts {
		records = append(records, failover.Record{Since: since, Reason: text, By: text, Frozen: text})
	}
	for i, r := range records {
		r.Version = uint64(i + 1)
		s.swap(h, s.organization, uint64(i), r, true)
		s.holds(other, s.organization, r)
	}
}

// unusualTexts are valid UTF-8 that stores and their languages treat specially.
var unusualTexts = []string{
	" leading and trailing ",
	"quotes \" ' ` and \\ backslash \\n",
	"lines\nand\r\nreturns\tand tabs",
	"{\"version\":9} {contoso} [1] <b>&amp;</b> %s %00 $1 ${x} :;|,",
	"'; DROP TABLE records; --",
	"Zürich 東京 \u202eRTL\u202c e\u0301 🏢",
	"0",
	"null",
	"-1e309",
}

// If the caller changes its record after the swap, or one that it has loaded, the stored
// record does not change.
func copies(s *store) {
	h := s.handle()
	next := record(1)
	next.Earlier = []time.Time{next.Since.Add(-2 * time.Minute), next.Since.Add(-time.Minute)}
	want := next
	want.Earlier = append([]time.Time(nil), next.Earlier...)
	s.swap(h, s.organization, 0, next, true)
	next.Earlier[0] = time.Time{}
	s.holds(h, s.organization, want)
	s.load(h, s.organization).Earlier[1] = time.Time{}
	s.holds(h, s.organization, want)
}

// Versions are 64-bit integers. A conversion to floating point loses digits above 1<<53, and
// makes different versions equal.
func everyDigit(s *store) {
	h := s.handle()
	present := uint64(0)
	for _, g := range []uint64{1<<31 + 1, 1<<32 + 1, 1<<53 - 1, 1 << 53, 1<<53 + 1, 1<<53 + 2, 1<<62 - 1, 1 << 62, 1 << 63, math.MaxUint64 - 1} {
		r := record(g)
		r.Generation, r.Questions, r.Recoveries = g, g, g
		s.swap(h, s.organization, present, r, true)
		s.holds(h, s.organization, r)
		s.swap(h, s.organization, g-1, record(g+1), false)
		s.swap(h, s.organization, g+1, record(g+2), false)
		present = g
	}
}

// When many processes see the same outage, one makes the switch that the others follow: of
// all swaps of a version exactly one succeeds, and its record is stored.
func oneWins(s *store) {
	const contenders, rounds = 16, 10
	handles := []failover.Shared{s.handle(), s.handle(), s.handle(), s.handle()}
	for version := range uint64(rounds) {
		var mu sync.Mutex // guards won
		var won []failover.Record
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range contenders {
			wg.Go(func() {
				next := record(version + 1)
				next.By = fmt.Sprintf("contender %d", i)
				<-start
				swapped, err := handles[i%len(handles)].CompareAndSwap(s.Context(), s.organization, version, next)
				if err != nil {
					s.Errorf("CompareAndSwap: %v", err)
				}
				if swapped {
					mu.Lock()
					defer mu.Unlock()
					won = append(won, next)
				}
			})
		}
		close(start)
		wg.Wait()
		if len(won) != 1 {
			s.Fatalf("%d of %d swaps of version %d succeeded, want 1", len(won), contenders, version)
		}
		s.holds(handles[0], s.organization, won[0])
	}
}

// One store serves many organizations, whose hosts may differ only in the port or in a few
// letters.
func recordsApart(s *store) {
	h := s.handle()
	organizations := []string{
		s.organization, s.organization + ":8443", "x" + s.organization, s.organization + "x",
		strings.Replace(s.organization, ".api.", ".", 1), strings.Replace(s.organization, ".", "--s.", 1),
	}
	for i, o := range organizations {
		s.holds(h, o, failover.Record{})
		r := record(1)
		r.By = fmt.Sprint(i)
		s.swap(h, o, 0, r, true)
	}
	for i, o := range organizations {
		if r := s.load(h, o); r.By != fmt.Sprint(i) {
			s.Errorf("the record of %q is by %q, want %d", o, r.By, i)
		}
	}
}

// The times of a fleet are those of the store's clock, because the clocks of processes
// differ. It runs at the usual speed, is the same for all handles, and is within a day of the
// local clock.
func clock(s *store) {
	h, other := s.handle(), s.handle()
	now := func(h failover.Shared) time.Time {
		_, now, err := h.Load(s.Context(), s.organization)
		if err != nil {
			s.Fatalf("Load: %v", err)
		}
		return now
	}
	const tolerance = time.Second
	start := time.Now()
	first := now(h)
	if off := first.Sub(start).Abs(); off > 24*time.Hour {
		s.Fatalf("the store's clock is %v off", off)
	}
	last := first
	s.eventually("the clock goes on", func() bool {
		at := now(other)
		if at.Before(last.Add(-tolerance)) {
			s.Fatalf("the clock went from %v to %v", last, at)
		}
		last = at
		return at.Sub(first) >= 200*time.Millisecond
	})
	if took := time.Since(start); last.Sub(first) > took+tolerance {
		s.Fatalf("the clock went on by %v within %v", last.Sub(first), took)
	}
}

// A Transport gives every call a deadline, and decides on its own when the store does not
// answer. A call that continues after its context has ended would block Close.
func ended(s *store) {
	h := s.handle()
	canceled, cancel := context.WithCancel(s.Context())
	cancel()
	late, cancel := context.WithDeadline(s.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, ctx := range []context.Context{canceled, late} {
		for try := 1; ; try++ {
			start := time.Now()
			if _, _, err := h.Load(ctx, s.organization); err == nil {
				s.Errorf("Load: no error after %v", ctx.Err())
			}
			if swapped, err := h.CompareAndSwap(ctx, s.organization, 0, record(1)); err == nil || swapped {
				s.Errorf("CompareAndSwap = %t, %v after %v", swapped, err, ctx.Err())
			}
			if _, err := h.Claim(ctx, s.organization, failover.Claim{Topic: topic, Member: "member", TTL: time.Minute}); err == nil {
				s.Errorf("Claim: no error after %v", ctx.Err())
			}
			h.Changes(ctx, s.organization)
			took := time.Since(start)
			if took <= 2*time.Second {
				break
			}
			if try == 3 { // a machine that stalls does not stall each time
				s.Errorf("the calls took %v after %v", took, ctx.Err())
				break
			}
		}
	}
	s.holds(h, s.organization, failover.Record{})
}
