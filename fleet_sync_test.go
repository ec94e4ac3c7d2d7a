package failover

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// turning is a scripted store that calls a function before each call.
type turning struct {
	*scripted
	loads, claimed  int
	onLoad, onClaim func(n int)
	changes         chan struct{}
}

func (s *turning) Load(ctx context.Context, organization string) (Record, time.Time, error) {
	if s.loads++; s.onLoad != nil {
		s.onLoad(s.loads)
	}
	if s.loads > 1000 { // in a loop, which is to end
		<-ctx.Done()
	}
	return s.scripted.Load(ctx, organization)
}

func (s *turning) Claim(ctx context.Context, organization string, c Claim) (Holders, error) {
	if s.claimed++; s.onClaim != nil {
		s.onClaim(s.claimed)
	}
	return s.scripted.Claim(ctx, organization, c)
}

func (s *turning) Changes(context.Context, string) <-chan struct{} { return s.changes }

// member returns a member whose store is s.
func (s *turning) member(t *testing.T, cfg Config) *Transport {
	transport := s.scripted.member(t, cfg)
	transport.fleet.store, transport.fleet.changed = s, s.changes
	return transport
}

// Who asks for a quorum waits until it is there, or the store fails, but no longer.
func TestAQuorumIsNotWaitedForLongerThanItTakes(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		then  func(*turning)
		alone bool
	}{
		"it is there":     {then: func(s *turning) { s.holds.Count = 2 }},
		"the store fails": {then: func(s *turning) { s.err = errors.New("connection refused") }, alone: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &turning{scripted: &scripted{holds: Holders{Count: 1}}}
				s.onClaim = func(n int) {
					if n == 3 { // after the first, and the one for the turn to ask
						row.then(s)
					}
				}
				start := time.Now()
				alone, err := s.member(t, Config{}).reportFailure(Primary, 2)
				require.NoError(t, err)
				assert.Equal(t, row.alone, alone)
				assert.Equal(t, askPoll, time.Since(start))
			})
		})
	}
}

// A record of the place where the Transport is brings back no switch that a hand has had forgotten.
func TestWhatIsForgottenByHandStaysForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := new(scripted).member(t, Config{})
		rec := Record{Version: 1, Generation: 5, Since: time.Now(), Earlier: []time.Time{time.Now()}}
		_, next := transport.nextStep(rec, time.Now())
		assert.Equal(t, rest, next)
		assert.Len(t, transport.rule.Switches(), 2)
		require.NoError(t, transport.Switch(t.Context(), Primary, "by hand"))
		require.Empty(t, transport.rule.Switches())
		transport.nextStep(rec, time.Now())
		assert.Empty(t, transport.rule.Switches())
	})
}

// What is lost is restored unless somebody else is first; then it is looked at again.
func TestARestoredRecordMayComeSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{swaps: []bool{false}}
		transport := s.member(t, Config{})
		transport.fleet.known = Record{Version: 3, Generation: 5, Since: time.Now()}
		assert.False(t, transport.sync(false))
		assert.Zero(t, s.record)
		assert.True(t, transport.sync(false))
		assert.EqualValues(t, 5, s.record.Generation)
	})
}

// A witness keeps an eye on the others.
func TestAWitnessIsNotAtRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{record: Record{Version: 1, Generation: 1, Since: time.Now()}}
		transport := s.member(t, Config{})
		assert.True(t, transport.sync(false))
		_, err := transport.reportFailure(Primary, 1)
		require.NoError(t, err)
		assert.False(t, transport.sync(false))
		time.Sleep(witnessTime)
		assert.True(t, transport.sync(false))
	})
}

// What becomes of a record that says that the fleet is elsewhere.
func TestHowAMemberFollows(t *testing.T) {
	t.Parallel()
	fence := &Fault{Class: ClassTransient, Definitive: true}
	for name, row := range map[string]struct {
		there, here error // what the probes of the two endpoints return
		refuses     bool  // ConfirmSwitch
		disputed    bool
		overtaken   bool
		swaps       []bool
		settled     bool
		active      Endpoint
		corrected   bool
		refused     int // events
		moves       int // that are remembered
	}{
		"it serves":                              {settled: true, active: Alternate, moves: 3},
		"it does not answer":                     {there: errors.New("no route to host"), refused: 1},
		"not confirmed":                          {refuses: true, refused: 1, moves: 2},
		"overtaken":                              {overtaken: true, moves: 2},
		"it denies that it serves":               {there: fence, settled: true, corrected: true},
		"it denies it, and somebody is faster":   {there: fence, swaps: []bool{false}},
		"it denies it, and so does the other":    {there: fence, here: errors.New("no route to host"), refused: 1},
		"it denies it, and the fleet is divided": {there: fence, disputed: true, refused: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var events atomic.Int64
				hour := time.Now().Add(-30 * time.Minute)
				found := Record{Version: 7, Active: Alternate, Generation: 4, Since: time.Now(), Earlier: []time.Time{hour, hour}}
				s := &scripted{record: found, swaps: row.swaps}
				transport := s.member(t, Config{
					Probe: func(_ context.Context, _ *http.Client, endpoint *url.URL) error {
						if endpoint.Host == "contoso.api.crm.dynamics.com" {
							return row.here
						}
						return row.there
					},
					ConfirmSwitch: func(context.Context, Switch) error {
						if row.refuses {
							return errors.New("not now")
						}
						return nil
					},
					OnEvent: func(e Event) {
						if e.Kind == EventSwitchRefused {
							events.Add(1)
						}
					},
				})
				if row.disputed {
					transport.fleet.changes = []time.Time{time.Now(), time.Now(), time.Now(), time.Now()}
				}
				st := transport.state.Load()
				if row.overtaken {
					earlier := *st
					earlier.epoch--
					st = &earlier
				}
				for range 2 {
					settled := transport.followTo(t.Context(), st, found, time.Now())
					assert.Equal(t, row.settled, settled)
					if settled || row.swaps != nil {
						break
					}
				}
				synctest.Wait()
				status := transport.Status()
				assert.Equal(t, row.active, status.Active)
				assert.EqualValues(t, row.refused, events.Load(), "said once")
				assert.Len(t, transport.rule.Switches(), row.moves)
				assert.Equal(t, row.there == error(fence) && row.here == nil && !row.disputed, transport.endpoints[Alternate].fenced)
				if want := found; !row.corrected {
					assert.Equal(t, want, s.record)
				} else {
					assert.Equal(t, Primary, s.record.Active)
					assert.EqualValues(t, 5, s.record.Generation)
					assert.Equal(t, "the alternate says that it does not serve", s.record.Reason)
				}
			})
		})
	}
}

// A store that tells of changes without end keeps nobody from following.
func TestWordKeepsNobodyFromFollowing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &turning{scripted: new(scripted), changes: make(chan struct{}, 1)}
		transport := newTestTransport(t, acknowledging, Config{Shared: s, ProbeInterval: -1})
		synctest.Wait()
		s.onLoad = func(n int) {
			if n < 50 && len(s.changes) == 0 {
				s.changes <- struct{}{}
			}
		}
		s.record = Record{Version: 1, Active: Alternate, Generation: 1, Since: time.Now()}
		s.changes <- struct{}{}
		time.Sleep(changePause + followSpread + time.Millisecond)
		assert.Equal(t, Alternate, transport.Status().Active)
		transport.Close()
	})
}

// A record that cannot be read again is not followed, and not taken for one that is lost.
func TestAFollowerThatCannotLookAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &turning{scripted: &scripted{record: Record{Version: 7, Active: Alternate, Generation: 4, Since: time.Now()}}, changes: make(chan struct{}, 1)}
		s.changes <- struct{}{}
		s.onLoad = func(n int) {
			if n == 2 {
				s.err = errors.New("connection refused")
			}
		}
		transport := s.member(t, Config{})
		transport.fleet.known = Record{Version: 3, Generation: 3, Since: time.Now()}
		assert.False(t, transport.sync(false))
		assert.Equal(t, 2, s.loads)
		assert.Zero(t, s.tried)
		assert.Equal(t, Primary, transport.Status().Active)
	})
}

// A store must not close the channel of changes. If it does, the record is read as if it had none.
func TestAChannelOfChangesThatIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &turning{scripted: new(scripted), changes: make(chan struct{})}
		close(s.changes)
		transport := newTestTransport(t, acknowledging, Config{Shared: s, ProbeInterval: -1})
		time.Sleep(10 * time.Minute)
		transport.Close()
		assert.LessOrEqual(t, s.loads, 20)
	})
}
