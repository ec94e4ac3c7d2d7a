package failover

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// member returns a member of a fleet without the goroutine that keeps it in step.
func member(t *testing.T, cfg Config) *Transport {
	cfg.ProbeInterval, cfg.Logger = -1, slog.New(slog.DiscardHandler)
	transport := newTestTransport(t, acknowledging, cfg)
	transport.fleet = &fleet{wake: make(chan struct{}, 1), status: FleetStatus{Member: "contoso"}}
	return transport
}

// What a record asks for, in every situation.
func TestWhatARecordAsksFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := member(t, Config{})
		f := transport.fleet
		flags := []bool{false, true}
		clock := time.Now()
		for _, known := range []Record{{}, {Version: 3, Generation: 0}, {Version: 3, Generation: 5}} {
			for _, generation := range []uint64{0, 4, 5, 6} {
				for _, version := range []uint64{0, 4} {
					for n := range 64 {
						away, untold, insisted := flags[n&1], flags[n>>1&1], flags[n>>2&1]
						pinned, closed, fenced := flags[n>>3&1], flags[n>>4&1], flags[n>>5&1]
						rec := Record{Version: version, Generation: generation, Since: clock}
						if away {
							rec.Active = Alternate
						}
						st := *transport.state.Load()
						st.pinned, st.closed = pinned, closed
						transport.state.Store(&st)
						f.known, f.untold, f.insisted, f.alone = known, untold, insisted, true
						transport.endpoints[rec.Active].fenced = fenced

						forgotten := known.Version != 0 && version == 0 || generation < known.Generation
						newer := generation > known.Generation
						_, next := transport.nextStep(rec, clock)
						switch {
						case closed:
							require.Equal(t, rest, next)
						case !away && !forgotten:
							require.Equal(t, rest, next, "in step")
							require.Equal(t, rec, f.known)
							require.False(t, f.untold || f.insisted || f.alone, "the fleet knows")
						case forgotten && !untold && !insisted:
							require.Equal(t, restore, next)
						case pinned:
							require.Equal(t, rest, next)
						case insisted || untold && !newer:
							require.Equal(t, tell, next)
						default:
							require.Equal(t, follow, next)
							require.Equal(t, fenced && !newer, transport.endpoints[rec.Active].fenced, "one of the fleet has seen more")
						}
						if next != rest {
							require.Equal(t, known, f.known)
							require.Equal(t, []bool{untold, insisted, true}, []bool{f.untold, f.insisted, f.alone})
						}
					}
				}
			}
		}
		open := *transport.state.Load()
		open.closed = false
		transport.state.Store(&open)
	})
}

// A store is lost at its first error, in reading or writing. It is found when calls of the
// kind that failed have succeeded for 15 s, each within half a second.
func TestWhenAStoreIsLostAndFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []Event
		transport := member(t, Config{OnEvent: func(e Event) { told = append(told, e) }})
		refused := errors.New("connection refused")
		kinds := func() (kinds []EventKind) {
			synctest.Wait()
			for _, e := range told {
				kinds = append(kinds, e.Kind)
			}
			told = nil
			return kinds
		}
		use := func(note func(time.Time, error), after, takes time.Duration, err error) {
			time.Sleep(after)
			began := time.Now()
			time.Sleep(takes)
			note(began, err)
		}
		lost := func() bool {
			transport.mu.Lock()
			defer transport.mu.Unlock()
			return transport.fleet.status.Err != nil
		}
		const half, good = fleetTimeout / 2, foundAfter
		for _, way := range []struct{ bad, other func(time.Time, error) }{
			{transport.noteRead, transport.noteWrite}, {transport.noteWrite, transport.noteRead},
		} {
			use(way.other, 0, 0, nil)
			use(way.bad, 0, 2*fleetTimeout, nil)
			assert.Empty(t, kinds(), "slow is not lost")
			use(way.bad, 0, 0, refused)
			require.Equal(t, []EventKind{EventFleetLost}, kinds())
			assert.Len(t, transport.fleet.wake, 1, "it is looked at soon")
			<-transport.fleet.wake
			use(way.other, 0, 0, nil)
			use(way.other, 2*good, 0, nil)
			assert.True(t, lost(), "one of both works")
			use(way.bad, 0, 0, refused)
			assert.Empty(t, transport.fleet.wake)

			use(way.bad, 0, half+1, nil) // too slow: the 15 s do not start
			use(way.bad, 2*good, half, nil)
			assert.True(t, lost(), "from here on")
			use(way.other, good-1, 0, nil)
			assert.True(t, lost(), "not yet")
			use(way.bad, 0, half+1, nil)
			use(way.bad, good, 0, nil)
			assert.True(t, lost(), "it was slow, and the time began anew")
			use(way.other, good-half, half, nil)
			assert.False(t, lost())
			assert.Equal(t, []EventKind{EventFleetFound}, kinds())

			for n, want := range []time.Duration{2 * good, 4 * good, 8 * good, 8 * good} { // doubles up to two minutes
				if n == 0 {
					use(way.bad, time.Hour, 0, refused)
				}
				use(way.bad, 0, 0, nil)
				use(way.bad, time.Second, 0, refused)
				use(way.bad, time.Second, 0, refused) // no success in between
				use(way.bad, time.Second, 0, nil)
				if n == 3 {
					use(way.bad, want-1, 0, nil)
					assert.True(t, lost(), "%d", n)
					use(way.bad, 1, 0, nil)
					assert.False(t, lost(), "%d", n)
				} else {
					use(way.bad, want-1, 0, nil)
					assert.True(t, lost(), "%d", n)
					use(way.bad, 0, half+1, nil) // too slow, or the store would be found
					use(way.bad, 0, 0, refused)
				}
			}
			assert.Equal(t, []EventKind{EventFleetLost, EventFleetFound}, kinds())
		}
		transport.mu.Lock()
		assert.NoError(t, transport.fleet.failing())
		transport.mu.Unlock()
		transport.cancel()
		transport.noteRead(time.Now(), context.Canceled)
		assert.False(t, lost(), "the end of the Transport proves nothing")
		assert.NoError(t, transport.fleet.readErr)
	})
}

// A scripted store does as a test says.
type scripted struct {
	Shared
	record Record
	err    error
	swaps  []bool // results of the next swaps; true after that
	tried  int
	claims []Claim
	holds  Holders
	times  []time.Duration // the timeouts of the contexts
	ctxs   []context.Context
}

func (s *scripted) see(ctx context.Context) {
	until, _ := ctx.Deadline()
	s.times, s.ctxs = append(s.times, time.Until(until)), append(s.ctxs, ctx)
}

func (s *scripted) Load(ctx context.Context, _ string) (Record, time.Time, error) {
	s.see(ctx)
	return s.record, time.Now(), s.err
}

func (s *scripted) CompareAndSwap(ctx context.Context, _ string, version uint64, next Record) (bool, error) {
	s.see(ctx)
	if s.tried++; s.err != nil || version != s.record.Version || s.tried <= len(s.swaps) && !s.swaps[s.tried-1] {
		return false, s.err
	}
	s.record = next
	return true, nil
}

func (s *scripted) Claim(ctx context.Context, _ string, c Claim) (Holders, error) {
	s.see(ctx)
	s.claims = append(s.claims, c)
	return s.holds, s.err
}

// member returns a member whose store is s.
func (s *scripted) member(t *testing.T, cfg Config) *Transport {
	transport := member(t, cfg)
	transport.fleet.store, transport.fleet.claimant, transport.fleet.member = s, "contoso#1", "contoso"
	transport.fleet.pace = intervals(firstPace, lastPace, 2)
	return transport
}

// A change that collides with others is tried again, up to three times.
func TestHowOftenAChangeIsTried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for busy := range 5 {
			s := &scripted{record: Record{Version: 8}, swaps: make([]bool, busy)}
			transport := s.member(t, Config{})
			done := transport.amend(func(r *Record) bool { r.Questions++; return true })
			assert.Equal(t, busy < 3, done, "%d", busy)
			assert.Equal(t, min(busy+1, 3), s.tried)
			if done {
				assert.Equal(t, Record{Version: 9, Questions: 1}, s.record)
				assert.Equal(t, s.record, transport.fleet.status.Record, "it is known here")
			} else {
				assert.Equal(t, Record{Version: 8}, s.record)
			}
			for i, d := range s.times {
				assert.Equal(t, time.Second, d, "each use of the store is bounded")
				assert.Error(t, s.ctxs[i].Err(), "and releases its context at the end")
			}
		}
		s := &scripted{record: Record{Version: 8}}
		assert.False(t, s.member(t, Config{}).amend(func(*Record) bool { return false }), "there is nothing to change")
		assert.Zero(t, s.tried)
		s.err = errors.New("connection refused")
		transport := s.member(t, Config{})
		assert.False(t, transport.amend(func(*Record) bool { return true }))
		assert.Zero(t, s.tried)
		assert.Equal(t, s.err, transport.fleet.readErr)
		assert.False(t, transport.swap(s.record, Record{}))
		assert.Equal(t, s.err, transport.fleet.writeErr, "in writing, too")
	})
}

// Freeze keeps trying until its write is the first, or fails.
func TestFreezeIsPersistent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{swaps: make([]bool, 10)}
		transport := s.member(t, Config{})
		require.NoError(t, transport.Freeze(t.Context(), ""))
		assert.Equal(t, Record{Version: 1, Frozen: "by hand"}, s.record)
		assert.EqualError(t, transport.frozen(switchover{}), "the fleet is frozen: by hand")
		assert.NoError(t, transport.frozen(switchover{follows: true}))
		require.NoError(t, transport.Unfreeze(t.Context()))
		assert.Equal(t, Record{Version: 2}, s.record)
		assert.NoError(t, transport.frozen(switchover{}))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		assert.ErrorIs(t, transport.Freeze(ctx, "drill"), context.Canceled)
		s.err = errors.New("connection refused")
		assert.EqualError(t, transport.Freeze(t.Context(), "drill"), "failover: the fleet's store: connection refused")
		transport.cancel()
		assert.ErrorIs(t, transport.Freeze(t.Context(), "drill"), ErrClosed)
		alone := newTestTransport(t, acknowledging, Config{})
		assert.ErrorIs(t, alone.Freeze(t.Context(), "drill"), errors.ErrUnsupported)
		assert.NoError(t, alone.frozen(switchover{}))
	})
}

// A turn belongs to this Transport if it is the first holder, or if nobody can tell.
func TestWhoseTurnItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, row := range map[string]struct {
			names []string
			err   error
			want  bool
		}{
			"its own":        {[]string{"contoso#1", "contoso#2"}, nil, true},
			"another's":      {[]string{"contoso#2", "contoso#1"}, nil, false},
			"nobody's":       {nil, nil, true},
			"not to be told": {[]string{"contoso#2"}, errors.New("connection refused"), true},
		} {
			s := &scripted{holds: Holders{Count: len(row.names), Names: row.names}, err: row.err}
			transport := s.member(t, Config{})
			assert.Equal(t, row.want, transport.turn("topic", time.Hour), name)
			assert.Equal(t, []Claim{{Topic: "topic", Member: "contoso#1", TTL: MaxClaim, Places: 1}}, s.claims)
			assert.Equal(t, []time.Duration{time.Second}, s.times)
			assert.Error(t, s.ctxs[0].Err())
			assert.Equal(t, row.err, transport.fleet.writeErr)

			s.claims = nil
			transport.tryWriting()
			if row.err == nil {
				assert.Empty(t, s.claims, "there is no need to try")
			} else {
				assert.Equal(t, []Claim{{Topic: "writing", Member: "contoso", TTL: time.Second}}, s.claims)
			}
		}
		long := &scripted{holds: Holders{Count: 40}}
		for range 40 {
			long.holds.Names = append(long.holds.Names, strings.Repeat("x", 5000)+"\n")
		}
		holders, err := long.member(t, Config{}).claim(t.Context(), Claim{})
		require.NoError(t, err)
		assert.Equal(t, 40, holders.Count)
		require.Len(t, holders.Names, MaxHolders, "of a store that names more than it is to")
		assert.LessOrEqual(t, len(holders.Names[0]), maxErrorText+3)
		assert.NotContains(t, holders.Names[0], "\n")
	})
}

func TestWhoProbesWithoutATurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		others := Holders{Count: 1, Names: []string{"contoso#2"}}
		for name, row := range map[string]struct {
			st    state
			fails bool
			want  bool
		}{
			"away":                    {state{active: Alternate}, false, false},
			"down":                    {state{down: true}, false, false},
			"pinned":                  {state{pinned: true}, false, true},
			"on trial":                {state{active: Alternate, provisional: true}, false, true},
			"away, without its store": {state{active: Alternate}, true, true},
		} {
			s := &scripted{holds: others}
			transport := s.member(t, Config{})
			transport.fleet.holds = "what it held before"
			if row.fails {
				transport.fleet.readErr = errors.New("connection refused")
			}
			assert.Equal(t, row.want, transport.mayProbe(&row.st), name)
			assert.Equal(t, !row.want, len(s.claims) > 0, name)
			if !row.want {
				assert.Empty(t, transport.fleet.holds)
				s.holds.Names = []string{"contoso#1"}
				assert.True(t, transport.mayProbe(&row.st))
				assert.Equal(t, s.claims[0].Topic, transport.fleet.holds)
				transport.giveUpTurn()
				transport.giveUpTurn()
				assert.Equal(t, Claim{Topic: s.claims[0].Topic, Member: "contoso#1"}, s.claims[len(s.claims)-1])
				assert.Len(t, s.claims, 3, "given up once")
				last := len(s.ctxs) - 1
				assert.Equal(t, fleetTimeout, s.times[last])
				assert.Error(t, s.ctxs[last].Err(), "nothing is left behind")
				transport.fleet.holds, transport.fleet.readErr = "turn", errors.New("connection refused")
				transport.giveUpTurn()
				assert.Len(t, s.claims, 3, "the store is not waited for")
			}
			transport.fleet.holds = ""
		}
		alone := newTestTransport(t, acknowledging, Config{})
		assert.True(t, alone.mayProbe(&state{active: Alternate}))
		alone.giveUpTurn()
	})
}

// The fleet counts passed probes of the primary, whoever made them, up to Rise. A failed one
// starts the count again.
func TestTheFleetCountsProbes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		away := Record{Version: 1, Active: Alternate, Generation: 7}
		for name, row := range map[string]struct {
			change func(*Transport, *Record)
			good   bool
			want   uint64
		}{
			"good":                   {func(_ *Transport, r *Record) { r.Risen = 1 }, true, 2},
			"the last":               {func(_ *Transport, r *Record) { r.Risen = 2 }, true, 3},
			"more":                   {func(_ *Transport, r *Record) { r.Risen = 3 }, true, 3},
			"bad":                    {func(_ *Transport, r *Record) { r.Risen = 3 }, false, 0},
			"bad again":              {func(*Transport, *Record) {}, false, 0},
			"no turn":                {func(f *Transport, r *Record) { f.fleet.holds = "" }, true, 0},
			"another turn":           {func(f *Transport, r *Record) { f.fleet.holds = downTopic }, true, 0},
			"who stays":              {func(f *Transport, r *Record) { f.cfg.ManualFailback = true }, true, 0},
			"another generation":     {func(f *Transport, r *Record) { f.fleet.known.Generation = 6 }, true, 0},
			"home":                   {func(_ *Transport, r *Record) { r.Active = Primary }, true, 0},
			"counted by another one": {func(_ *Transport, r *Record) { r.Risen = 1 }, true, 2},
			"counted by all others":  {func(_ *Transport, r *Record) { r.Risen = 3 }, true, 3},
		} {
			s := &scripted{record: away}
			transport := s.member(t, Config{})
			transport.fleet.known, transport.fleet.holds = away, failbackTopic
			row.change(transport, &s.record)
			if !strings.HasPrefix(name, "counted by") { // otherwise the record was read before
				transport.fleet.status.Record = s.record
			}
			before := s.record
			transport.countProbe(row.good)
			assert.Equal(t, row.want, s.record.Risen, name)
			assert.Equal(t, before.Risen != row.want, s.tried > 0, "written only if it changes: %s", name)
			if name == "more" || name == "bad again" {
				assert.Empty(t, s.times, "the store is not asked")
			}

			f := transport.fleet
			mine := f.holds == failbackTopic
			transport.endpoints[Primary].trip() // its own probes have not passed
			for risen := range uint64(5) {
				f.status.Record.Risen = risen
				same := f.status.Record.Generation == f.known.Generation
				assert.Equal(t, mine && same && risen >= 3, transport.primaryRisenLocked(), name)
			}
			f.holds = ""
		}
		assert.False(t, (*fleet)(nil).primaryRisen(0))
	})
}

func TestWhatTheFleetLearnsOfASwitch(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		m      switchover
		pinned bool
		told   bool
	}{
		"by the rule":  {switchover{}, false, true},
		"alone":        {switchover{alone: true}, false, true},
		"pinned":       {switchover{}, true, false},
		"on trial":     {switchover{provisional: true}, false, false},
		"back from it": {switchover{undoes: true}, false, false},
	} {
		f := &fleet{wake: make(chan struct{}, 1), reason: "before"}
		row.m.reason = "now"
		f.noteSwitch(row.m, row.pinned)
		assert.Equal(t, row.told, f.untold, name)
		assert.Equal(t, row.told, f.reason == "now", name)
		assert.Equal(t, row.told, len(f.wake) == 1, name)
		assert.Equal(t, row.m.alone, f.alone, name)
		assert.False(t, f.insisted, name)
		f.override("by hand")
		assert.True(t, f.untold && f.insisted && f.reason == "by hand" && len(f.wake) == 1)
		f.noteSwitch(switchover{follows: true, reason: "followed"}, false)
		assert.False(t, f.untold || f.insisted || f.alone, "the fleet is there already")
	}
	var none *fleet
	none.noteSwitch(switchover{}, false)
	none.override("")
	none.announce("")
	none.wakeUp()
}

// How many processes must see an endpoint fail before the traffic leaves it.
func TestTheQuorumOfAMove(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, acknowledging, Config{Quorum: 3})
	assert.Equal(t, 3, transport.quorum(Alternate, false))
	assert.Equal(t, 1, transport.quorum(Alternate, true), "it says itself that it does not serve")
	assert.Equal(t, 1, transport.quorum(Primary, false), "home")
}
