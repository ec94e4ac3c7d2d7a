package failover

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/d365failover/failover/internal/rule"
)

// A switch is announced to the fleet at once. One that a process made alone is announced only
// when there is a quorum for it, or if a person insists, and is undone if the fleet's endpoint
// serves.
func TestWhenASwitchIsAnnouncedToTheFleet(t *testing.T) {
	t.Parallel()
	failed := errors.New("no route to host")
	for name, row := range map[string]struct {
		alone, insisted bool
		fleet           Endpoint
		probe           error // result of the primary's
		count           int   // number of witnesses
		err             error // of the store
		lost, late      bool  // the store is lost; the record changed meanwhile
		told            bool
		tried           int // number of writes
		active, record  Endpoint
	}{
		"made by a quorum":                  {told: true, tried: 1, active: Alternate, record: Alternate},
		"made by hand":                      {alone: true, insisted: true, told: true, tried: 1, active: Alternate, record: Alternate},
		"where the fleet is":                {alone: true, fleet: Alternate, told: true, tried: 1, active: Alternate, record: Alternate},
		"alone, and the primary serves":     {alone: true, count: 2, told: true, active: Primary, record: Primary},
		"alone, and one has seen it":        {alone: true, probe: failed, count: 1, tried: 1, active: Alternate, record: Primary}, // asks the others
		"alone, and two have seen it":       {alone: true, probe: failed, count: 2, told: true, tried: 1, active: Alternate, record: Alternate},
		"alone, and the store fails again":  {alone: true, probe: failed, count: 2, err: failed, active: Alternate, record: Primary},
		"alone, and the store is not found": {alone: true, probe: failed, count: 2, lost: true, active: Alternate, record: Primary},
		"made by a quorum, but too late":    {late: true, tried: 1, active: Alternate, record: Primary},
		"by a quorum at last, but too late": {alone: true, probe: failed, count: 2, late: true, tried: 1, active: Alternate, record: Primary},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &scripted{record: Record{Version: 3, Active: row.fleet}, holds: Holders{Count: row.count}}
			transport := s.member(t, Config{Quorum: 2, Probe: answersProbes(&[2]error{row.probe, nil})})
			p := transport.newPool()
			transport.mu.Lock()
			transport.switchLocked(switchover{to: Alternate, alone: row.alone}, p, func(now time.Time) bool { return transport.rule.SwitchTo(now, rule.Alternate, false) })
			transport.fleet.insisted = row.insisted
			if row.lost {
				transport.fleet.readErr = failed
			}
			transport.unlock()
			rec, st := s.record, transport.state.Load()
			s.err = row.err
			if row.late {
				s.swaps = []bool{false}
			}
			assert.Equal(t, row.told, transport.announce(st, rec, time.Now()), name)
			assert.Equal(t, row.tried, s.tried, name)
			assert.Equal(t, row.active == Alternate, transport.state.Load() == st, name)
			assert.Equal(t, row.active, transport.state.Load().active, name)
			assert.Equal(t, row.record, s.record.Active, name)
		})
	}
}

// meanwhile is a store that does something before it takes a record.
type meanwhile struct {
	*scripted
	do func()
}

func (m *meanwhile) CompareAndSwap(ctx context.Context, key string, version uint64, next Record) (bool, error) {
	m.do()
	return m.scripted.CompareAndSwap(ctx, key, version, next)
}

// A switch that is made while the one before is being told is told next. A pin is not.
func TestASwitchWhileOneIsTold(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		do   func(*Transport)
		told bool
	}{
		{func(*Transport) {}, true},
		{func(r *Transport) { r.Pin(Alternate) }, true},
		{func(r *Transport) { r.Pin(Alternate); r.Unpin() }, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &scripted{record: Record{Version: 3}}
			transport := s.member(t, Config{Probe: answersProbes(&[2]error{})})
			transport.fleet.store = &meanwhile{s, func() { row.do(transport) }}
			transport.fleet.untold = true
			assert.Equal(t, row.told, transport.publish(transport.state.Load(), s.record, time.Now()))
			assert.Equal(t, row.told, !transport.fleet.untold)
			assert.Equal(t, 1, s.tried)
		})
	}
}
