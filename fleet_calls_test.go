package failover_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// observedStore records what is requested of a store, and when.
type observedStore struct {
	failover.Shared
	mu     sync.Mutex
	loads  []time.Time
	claims []observedClaim
}

type observedClaim struct {
	failover.Claim
	at time.Time
}

func (o *observedStore) Load(ctx context.Context, organization string) (failover.Record, time.Time, error) {
	o.mu.Lock()
	o.loads = append(o.loads, time.Now())
	o.mu.Unlock()
	return o.Shared.Load(ctx, organization)
}

func (o *observedStore) Claim(ctx context.Context, organization string, c failover.Claim) (failover.Holders, error) {
	o.mu.Lock()
	o.claims = append(o.claims, observedClaim{c, time.Now()})
	o.mu.Unlock()
	return o.Shared.Claim(ctx, organization, c)
}

// clear forgets the requests so far.
func (o *observedStore) clear() {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.loads, o.claims = nil, nil
}

// about returns the claims on topics with a prefix.
func (o *observedStore) about(topic string) (found []observedClaim) {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.claims {
		if strings.HasPrefix(c.Topic, topic) {
			found = append(found, c)
		}
	}
	return found
}

// gaps returns the seconds between loads.
func (o *observedStore) gaps() (gaps []float64) {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, at := range o.loads[1:] {
		gaps = append(gaps, at.Sub(o.loads[i]).Seconds())
	}
	return gaps
}

// observed runs a story of a fleet with an observed store.
func observed(t *testing.T, n int, cfg failover.Config, plot func(*fleetStory, *observedStore)) {
	t.Helper()
	tellOfAFleet(t, 0, cfg, func(s *fleetStory) {
		o := &observedStore{Shared: s.store}
		s.cfg.Shared = o
		for range n {
			s.start()
		}
		plot(s, o)
	})
}

// requireBetween checks that times in seconds are within promised limits. The last row of
// limits applies to all further times.
func requireBetween(t require.TestingT, got []float64, want ...[2]float64) {
	require.GreaterOrEqual(t, len(got), len(want))
	for i, g := range got {
		w := want[min(i, len(want)-1)]
		require.True(t, w[0] <= g && g <= w[1], "%d: %v s, not in %v: %v", i, g, w, got)
	}
}

// The record is read once a minute; at intervals that grow from a second while something is
// unsettled; and about every two seconds while the store is lost. All intervals are jittered
// by a fifth.
func TestHowOftenTheRecordIsRead(t *testing.T) {
	t.Parallel()
	jittered := func(all ...float64) (rows [][2]float64) {
		for _, s := range all {
			rows = append(rows, [2]float64{s * 0.79, s*1.21 + 0.05})
		}
		return rows
	}
	t.Run("in step", func(t *testing.T) {
		observed(t, 1, failover.Config{}, func(s *fleetStory, o *observedStore) {
			time.Sleep(time.Hour)
			requireBetween(s, o.gaps(), jittered(60)...)
		})
	})
	// A follower waits for up to 0.8 s before it probes, which is added.
	growing := [][2]float64{{0.8, 2.01}, {1.6, 3.21}, {3.2, 5.61}, {6.4, 10.41}, {12.8, 20.01}, {25.6, 39.21}, {48, 72.81}}
	for name, word := range map[string]bool{"apart": true, "apart without word of it": false} {
		t.Run(name, func(t *testing.T) {
			tellOfAFleet(t, 0, failover.Config{}, func(s *fleetStory) {
				o := &observedStore{Shared: s.store}
				if s.cfg.Shared = o; !word {
					o.Shared = silentStore{s.store}
				}
				s.start()
				s.org.Alternate().Fail(failovertest.Refuse())
				for generation := range uint64(2) { // the second time, the intervals start again from the shortest
					time.Sleep(5 * time.Minute)
					o.clear()
					s.poison(failover.Record{Active: failover.Alternate, Generation: 2*generation + 1})
					time.Sleep(10 * time.Minute)
					requireBetween(s, o.gaps(), growing...)
					s.poison(failover.Record{Active: failover.Primary, Generation: 2*generation + 2})
				}
			})
		})
	}
	t.Run("lost", func(t *testing.T) {
		observed(t, 1, failover.Config{}, func(s *fleetStory, o *observedStore) {
			time.Sleep(time.Minute)
			s.store.Fail(errors.New("connection refused"))
			time.Sleep(2 * time.Minute)
			o.clear()
			time.Sleep(10 * time.Minute)
			requireBetween(s, o.gaps(), [2]float64{2, 2.5})
		})
	})
}

// silentStore reports no changes.
type silentStore struct{ failover.Shared }

func (silentStore) Changes(context.Context, string) <-chan struct{} { return nil }

// A process that has seen an endpoint fail is a witness for the next minute, however often its
// claim is renewed. The claim names the process.
func TestAWitnessCountsForAMinute(t *testing.T) {
	observed(t, 1, failover.Config{}, func(s *fleetStory, o *observedStore) {
		s.org.Primary().Fail(failovertest.Refuse())
		s.org.Alternate().Serve()
		time.Sleep(10 * time.Minute)
		start := time.Now()
		require.Equal(s, 200, s.fleet[0].get())
		time.Sleep(10 * time.Minute)
		claims := o.about("outage of the ")
		require.GreaterOrEqual(s, len(claims), 2, "it is renewed while the list is of interest")
		for _, c := range claims {
			assert.Equal(s, "outage of the primary", c.Topic)
			assert.Equal(s, "process A", c.Member)
			assert.Zero(s, c.Places)
			assert.Positive(s, c.TTL)
			assert.WithinDuration(s, start.Add(time.Minute), c.at.Add(c.TTL), time.Millisecond)
		}
		assert.Empty(s, s.fleet[0].Status().Fleet.Witnesses)
	})
}

// A process that asks the others for a quorum looks for answers every 150 ms, for 1.5 s. It
// asks again after 5 s, and then at growing intervals of up to a minute.
func TestHowAQuorumIsAskedFor(t *testing.T) {
	observed(t, 2, failover.Config{Quorum: 2}, func(s *fleetStory, o *observedStore) {
		s.org.Alternate().Serve()
		alone, other := s.fleet[0], s.fleet[1]
		alone.cut[failover.Primary].Store(true)
		var waits, looks, answered []float64
		var asked []time.Time
		for begin := time.Now(); time.Since(begin) < 4*time.Minute; time.Sleep(400 * time.Millisecond) {
			o.clear()
			questions, probes, start := s.record().Questions, other.probes(failover.Primary), time.Now()
			require.Zero(s, alone.get())
			took := time.Since(start)
			claims := o.about("outage of the primary")
			if s.record().Questions == questions {
				assert.LessOrEqual(s, took, 750*time.Millisecond, "the pauses between attempts, and nobody is waited for")
				continue
			}
			asked = append(asked, start)
			waits = append(waits, took.Seconds())
			looks = append(looks, float64(len(claims)))
			for _, c := range o.about("question") {
				assert.Equal(s, failover.Claim{Topic: "question", Member: c.Member, TTL: 5 * time.Second, Places: 1}, c.Claim)
				assert.Contains(s, c.Member, alone.Status().Fleet.Member)
			}
			time.Sleep(time.Second)
			answered = append(answered, float64(other.probes(failover.Primary)-probes))
		}
		requireBetween(s, waits, [2]float64{1.5, 2.3})
		requireBetween(s, looks, [2]float64{11, 14})
		requireBetween(s, answered, [2]float64{1, 1})
		var gaps []float64
		for i, at := range asked[1:] {
			gaps = append(gaps, at.Sub(asked[i]).Seconds())
		}
		requireBetween(s, gaps, [][2]float64{{4, 11}, {8, 17}, {16, 29}, {32, 53}, {48, 78}}...)
	})
}

// A turn at probing lasts one and a half intervals, but no longer than a claim may; while
// down, it lasts a second.
func TestHowLongATurnLasts(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		cfg   failover.Config
		topic string
		want  time.Duration
	}{
		"as is":           {failover.Config{}, "fail-back", 15 * time.Second},
		"seldom":          {failover.Config{ProbeInterval: 10 * time.Minute}, "fail-back", 225 * time.Second},
		"manual failback": {failover.Config{ManualFailback: true}, "probes of those who stay", 15 * time.Second},
		"down":            {failover.Config{}, "probes while down", time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			observed(t, 1, row.cfg, func(s *fleetStory, o *observedStore) {
				if name == "down" {
					s.org.Primary().Fail(failovertest.Refuse())
				} else {
					s.org.FailOver()
				}
				s.fleet[0].get()
				time.Sleep(30 * time.Minute)
				claims := append(append(o.about("fail-back"), o.about("probes")...), o.about("writing")...)
				require.NotEmpty(s, claims)
				member := claims[0].Member
				assert.Contains(s, member, s.fleet[0].Status().Fleet.Member+"#")
				for _, c := range claims {
					require.Equal(s, failover.Claim{Topic: row.topic, Member: member, TTL: row.want, Places: 1}, c.Claim)
				}
				o.clear()
				s.fleet[0].Close()
				claims = append(o.about("fail-back"), o.about("probes")...)
				require.Len(s, claims, 1)
				assert.Equal(s, failover.Claim{Topic: row.topic, Member: member}, claims[0].Claim, "it is given up with Close")
			})
		})
	}
}

// A process does not answer questions from before its start.
func TestANewcomerAnswersNoOldQuestions(t *testing.T) {
	tellOfAFleet(t, 0, failover.Config{}, func(s *fleetStory) {
		s.poison(failover.Record{Generation: 1, Since: time.Now(), Questions: 7, Recoveries: 3})
		s.start()
		time.Sleep(2 * time.Second)
		assert.Zero(s, s.probes(failover.Primary))
	})
}

// Before it follows, a process reads the record again if that has changed: the fleet may be
// elsewhere by then.
func TestAFollowerLooksAgainBeforeItMoves(t *testing.T) {
	tellOfAFleet(t, 10, failover.Config{}, func(s *fleetStory) {
		s.org.Alternate().Serve()
		swap := func(rec failover.Record) {
			rec.Version = s.record().Version + 1
			swapped, err := s.store.CompareAndSwap(s.Context(), "contoso.api.crm.dynamics.com", rec.Version-1, rec)
			require.NoError(s, err)
			require.True(s, swapped)
		}
		swap(failover.Record{Active: failover.Alternate, Generation: 1, Since: time.Now()})
		synctest.Wait() // all are about to follow
		swap(failover.Record{Active: failover.Primary, Generation: 2, Since: time.Now()})
		s.allAt(failover.Primary)
		for _, p := range s.fleet {
			_, moved := p.last(failover.EventSwitched)
			assert.Zero(s, moved, p.name)
		}
	})
}
