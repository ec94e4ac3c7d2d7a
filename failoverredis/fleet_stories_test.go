package failoverredis_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/internal/machine"
)

// These stories have three processes with many Transports each, whose clocks disagree, a
// redis-server, and an organization behind real TLS sockets. With -v they print the figures in
// docs/fleets.md.

var full = flag.Bool("full", false, "measure for minutes instead of seconds, with 200 Transports")

// One Transport has traffic when the primary fails. All others switch within moments, without a
// fault, and the record has one switch. A new process starts at the alternate. If the process
// that probes the primary dies, another one takes over and makes the fail-back.
func TestFleetFollowsThereAndBack(t *testing.T) {
	t.Parallel()
	f := startFleet(t, sizes())
	t.Logf("requests before: %v", f.answered(f.get(3)))

	scripts, stopwatch := f.scripts(), machine.Stopwatch()
	f.org.Disaster(failovertest.Refuse())
	one := f.do(f.processes[0], order{Get: 1, Times: 1})
	t.Logf("the request that met the outage: %v", f.answered(one.Results))
	all := f.allAt(failover.Alternate)
	t.Logf("following: %v, with %d scripts", following(all), f.scripts()-scripts)
	_, withheld := stopwatch()
	assert.Less(t, following(all).at(1), 5*time.Second+withheld)
	for i, s := range all {
		assert.Equal(t, i == 0, s.Faults > 0, "only the first has met the outage, number %d has %d faults", i, s.Faults)
	}
	r := f.record()
	assert.EqualValues(t, 1, r.Generation, "one switch for all")
	assert.Equal(t, all[0].Member, r.By)
	assert.WithinDuration(t, all[0].Since, r.Since, time.Second+withheld, "by Redis's clock, whatever the process's is")
	t.Logf("requests after: %v", f.answered(f.get(3)))

	var late *process
	machine.Try(func() bool { // New does not wait for a store that stalls
		if late != nil {
			late.kill()
			f.forget(late)
		}
		late = f.start(20)
		return !slices.ContainsFunc(late.last.Status, func(s status) bool { return s.Active != failover.Alternate })
	})
	for _, s := range late.last.Status {
		assert.Equal(t, failover.Alternate, s.Active, "%+v", s)
	}
	f.answered(f.get(1, late))
	for _, s := range late.last.Status {
		assert.Zero(t, s.Faults, "the first call is at the right side")
	}

	holder := f.leaseHolder()
	holder.kill()
	f.forget(holder)
	f.org.Primary().Heal()
	f.org.FailBack()
	t.Logf("coming home: %v", following(f.allAt(failover.Primary)))
	r = f.record()
	assert.EqualValues(t, 2, r.Generation)
	assert.NotEqual(t, holder.last.Status[0].Member, r.By)
	f.answered(f.get(1))
}

// leaseHolder returns the process whose turn it is to probe for the fail-back.
func (f *fleet) leaseHolder() (holder *process) {
	f.Helper()
	eventually(f, patience, func() error {
		claims, err := f.admin.ZRange(f.Context(), "failover:{"+organization+"}:places:fail-back", 0, -1).Result()
		if err != nil || len(claims) != 1 {
			return fmt.Errorf("%d claims, %v", len(claims), err)
		}
		for _, p := range f.processes {
			if strings.HasPrefix(claims[0], p.last.Status[0].Member) {
				holder = p
				return nil
			}
		}
		return fmt.Errorf("nobody is %q", claims)
	})
	return holder
}

// Redis dies. Requests do not notice, and in an outage every Transport decides on its own. When
// Redis is back, without its data, they are a fleet again.
func TestFleetSurvivesRedis(t *testing.T) {
	t.Parallel()
	f := startFleet(t, sizes())
	before := f.answered(f.get(3))
	f.redis.kill()
	t.Logf("requests with Redis %v, without %v", before, f.answered(f.get(3)))

	f.org.Disaster(failovertest.Refuse())
	t.Logf("requests that met the outage: %v", f.answered(f.get(1)))
	for i, s := range f.status() {
		require.Equal(t, failover.Alternate, s.Active, "number %d is on its own", i)
	}
	start := time.Now()
	f.redis.start(f)
	f.eventually("part of the fleet again", found, func(s status) bool { return s.StoreErr == "" && !s.Apart })
	t.Logf("a fleet again after %v", time.Since(start).Round(time.Millisecond))
	r := f.record()
	assert.Equal(t, failover.Alternate, r.Active, "the record is written anew")

	f.org.Primary().Heal()
	f.org.FailBack()
	f.allAt(failover.Primary)
	assert.Greater(t, f.record().Generation, r.Generation)
	f.answered(f.get(1))
}

// Redis hangs, with all connections open. No request waits for it.
func TestFleetSurvivesHangingRedis(t *testing.T) {
	t.Parallel()
	f := startFleet(t, sizes())
	stopwatch := machine.Stopwatch()
	before := f.answered(f.get(3))
	f.redis.pause(t)
	hanging := f.answered(f.get(3))
	f.org.Disaster(failovertest.Refuse())
	var first times
	for _, p := range f.processes {
		first = append(first, f.answered(f.do(p, order{Get: 1, Times: 1}).Results)...)
	}
	outage := f.answered(f.get(1)) // all at once, so the speed of the machine decides
	after := f.answered(f.get(3))
	t.Logf("requests with Redis %v, while it hangs %v, that met the outage %v and %v, and after it %v",
		before, hanging, first.sorted(), outage, after)
	_, withheld := stopwatch()
	for _, took := range []times{hanging, first, after} {
		// If Redis delayed requests, it would delay all; the machine delays some.
		assert.Less(t, took.at(0.5), before.at(0.5)+900*time.Millisecond+withheld, "a use of the store would end after 1 s")
	}
	f.redis.resume(t)
	f.eventually("part of the fleet again", found, func(s status) bool { return s.StoreErr == "" && !s.Apart })
	assert.Equal(t, failover.Alternate, f.record().Active)
}

// A process that cannot reach the alternate does not follow the fleet, and does not prevent its
// switch. A process that cannot reach Redis switches on its own. Both are in step again when their
// network is restored.
func TestFleetSurvivesSplits(t *testing.T) {
	t.Parallel()
	f := startFleet(t, sizes())
	whole, noAlternate, noRedis := f.processes[0], f.processes[1], f.processes[2]
	noAlternate.paths[f.org.Alternate().Host()].cut()
	noRedis.paths["redis"].cut()
	f.org.Disaster(failovertest.Refuse())
	f.answered(f.do(whole, order{Get: 1, Times: 1}).Results)
	eventually(t, patience, func() error {
		for i, s := range f.do(whole, order{}).Status {
			if s.Active != failover.Alternate {
				return fmt.Errorf("number %d of the first process is at the %v", i, s.Active)
			}
		}
		for i, s := range f.do(noAlternate, order{}).Status {
			if !s.Apart || s.Active != failover.Primary {
				return fmt.Errorf("number %d of the second process: %+v", i, s)
			}
		}
		return nil
	})
	f.answered(f.get(1, noRedis))
	for i, s := range noRedis.last.Status {
		assert.Equal(t, failover.Alternate, s.Active, "number %d of the third process", i)
	}
	assert.EqualValues(t, 1, f.record().Generation, "nobody has moved the fleet back")

	noAlternate.paths[f.org.Alternate().Host()].mend()
	noRedis.paths["redis"].mend()
	start := time.Now()
	f.eventually("in step", found, func(s status) bool {
		return s.Active == failover.Alternate && !s.Apart && s.StoreErr == ""
	})
	t.Logf("in step %v after the network is whole", time.Since(start).Round(time.Millisecond))
	f.answered(f.get(1))
	assert.EqualValues(t, 1, f.record().Generation)
}

// A forged record, whether invalid or false, neither causes nor prevents a switch.
func TestFleetSurvivesPoison(t *testing.T) {
	t.Parallel()
	f := startFleet(t, sizes())
	poison := func(fields ...any) {
		require.NoError(t, f.admin.HSet(t.Context(), recordKey, fields...).Err())
		require.NoError(t, f.admin.Publish(t.Context(), "failover:changes", organization).Err())
	}
	poison("version", 7, "generation", uint64(math.MaxUint64), "active", "alternate", "since", "2999-01-01T00:00:00Z", "earlier", "",
		"reason", "a lie", "by", "nobody", "questions", 0, "recoveries", 0, "risen", 0, "frozen", "")
	// The alternate itself says that it does not serve, so the record is corrected.
	require.Eventually(t, func() bool {
		rec := f.record()
		return rec.Active == failover.Primary && rec.Generation == 1 // after the greatest
	}, patience, 10*time.Millisecond)
	f.eventually("in step again", patience, func(s status) bool { return !s.Apart && s.Active == failover.Primary })
	f.answered(f.get(1))

	poison("generation", "garbage", "reason", strings.Repeat("x", 1<<20))
	f.eventually("on its own", patience, func(s status) bool { return s.StoreErr != "" })
	f.org.Disaster(failovertest.Refuse())
	f.answered(f.get(1))
	for i, s := range f.status() {
		assert.Equal(t, failover.Alternate, s.Active, "number %d", i)
	}

	require.NoError(t, f.admin.Del(context.Background(), recordKey).Err())
	poison("nothing", "of interest") // and a notification of it
	f.admin.HDel(t.Context(), recordKey, "nothing")
	f.eventually("in step", found, func(s status) bool { return s.StoreErr == "" && !s.Apart })
	assert.Equal(t, failover.Alternate, f.record().Active)
}

// One process of five reaches neither the primary nor Redis, and switches alone, although both
// endpoints serve. The others stay, even when it reaches Redis again.
func TestFleetDoesNotFollowOneThatMovedAlone(t *testing.T) {
	t.Parallel()
	f := startQuorum(t, 3, []int{1, 1, 1, 1, 1})
	f.org.Alternate().Serve()
	f.answered(f.get(1))
	alone := f.processes[0]
	alone.paths["redis"].cut()
	alone.paths[f.org.Primary().Host()].cut()
	eventually(t, patience, func() error {
		if s := f.do(alone, order{Get: 1, Times: 1}).Status[0]; s.Active != failover.Alternate {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	alone.paths["redis"].mend()
	for range 20 {
		f.do(alone, order{Get: 1, Times: 1})
		<-time.After(200 * time.Millisecond)
	}
	assert.Zero(t, f.record().Generation, "nothing was told")
	for i, s := range f.status() {
		assert.Equal(t, i == 0, s.Active == failover.Alternate, "number %d", i)
	}
	alone.paths[f.org.Primary().Host()].mend()
	f.allAt(failover.Primary)
}

// One process of ten has traffic, and the quorum is two: the others are asked to probe.
func TestFleetFindsAQuorumWithoutTraffic(t *testing.T) {
	t.Parallel()
	f := startQuorum(t, 2, []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1})
	stopwatch := machine.Stopwatch()
	f.org.Disaster(failovertest.Refuse())
	took := f.answered(f.do(f.processes[0], order{Get: 1, Times: 1}).Results)
	t.Logf("the request that met the outage: %v", took)
	_, withheld := stopwatch()
	assert.Less(t, took.at(1), 5*time.Second+withheld, "the others would be asked again")
	f.allAt(failover.Alternate)
	assert.EqualValues(t, 1, f.record().Generation)
}

// Redis dies with the region and comes back empty: a switch made meanwhile is not overwritten by
// an older record that others restore.
func TestFleetRestoresNoOldRecord(t *testing.T) {
	t.Parallel()
	f := startFleet(t, []int{3, 3, 4})
	f.org.Disaster(failovertest.Refuse())
	f.answered(f.get(1, f.processes[0]))
	f.allAt(failover.Alternate)
	f.org.Primary().Heal()
	f.org.FailBack()
	f.allAt(failover.Primary)
	generation := f.record().Generation

	f.redis.kill()
	f.org.Disaster(failovertest.Refuse())
	f.answered(f.do(f.processes[1], order{Get: 1, Times: 1}).Results)
	stopwatch := machine.Stopwatch()
	f.redis.start(f)
	f.allAt(failover.Alternate)
	took, withheld := stopwatch()
	t.Logf("together %v after Redis is back", took.Round(time.Millisecond))
	assert.Less(t, took, 5*time.Second+withheld)
	assert.Equal(t, generation+1, f.record().Generation)
}

// A healthy fleet is little load for Redis: one script per Transport and minute.
func TestFleetIsQuiet(t *testing.T) {
	t.Parallel()
	window := 2 * time.Second
	if *full {
		window = 3 * time.Minute
	}
	f := startFleet(t, sizes())
	f.answered(f.get(1))
	start, before := time.Now(), f.scripts()
	<-time.After(window)
	calls, took := f.scripts()-before, time.Since(start)
	clients, err := f.admin.Info(t.Context(), "clients").Result()
	require.NoError(t, err)
	t.Logf("%d scripts in %v, %.1f a second; %s", calls, took.Round(time.Second), float64(calls)/took.Seconds(), line(clients, "connected_clients"))
	assert.Less(t, float64(calls)/took.Seconds(), 10.0)
}

// The time that a fleet takes to follow, over several outages.
func TestFleetFollowsFast(t *testing.T) {
	t.Parallel()
	if !*full {
		t.Skip("is measured with -full; TestFleetFollowsThereAndBack has one outage")
	}
	for _, sizes := range [][]int{{1}, {4, 3, 3}, {17, 17, 16}, {67, 67, 66}} {
		var first, there, back times
		scripts := 0
		for range 5 { // fleets, because one latches after four switches
			f := startFleet(t, sizes)
			f.answered(f.get(1))
			before := f.scripts()
			f.org.Disaster(failovertest.Refuse())
			first = append(first, f.answered(f.do(f.processes[0], order{Get: 1, Times: 1}).Results)...)
			there = append(there, following(f.allAt(failover.Alternate))...)
			scripts += f.scripts() - before
			f.org.Primary().Heal()
			f.org.FailBack()
			back = append(back, following(f.allAt(failover.Primary))...)
			for _, p := range f.processes {
				p.kill()
			}
		}
		t.Logf("%v Transports: the request that met it %v, there %v with %d scripts, back %v", sizes, first.sorted(), there.sorted(), scripts/5, back.sorted())
	}
}
