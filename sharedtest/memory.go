// Package sharedtest helps to test implementations and users of [failover.Shared]: it has the
// tests that every implementation must pass ([Run]), and a store in memory ([Memory]).
package sharedtest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/d365failover/failover"
)

// Memory is a [failover.Shared] for the Transports of one process. The zero value is empty
// and ready to use. It can simulate a store that fails, and works in the bubbles of
// testing/synctest. It is safe for concurrent use.
type Memory struct {
	mu            sync.Mutex // guards what follows
	skew          time.Duration
	failure       error
	calls         int
	organizations map[string]*organization
}

type organization struct {
	record  failover.Record
	claims  map[string][]claim // by topic, oldest first
	changes map[chan struct{}]bool
}

type claim struct {
	member string
	until  time.Time
}

var _ failover.Shared = (*Memory)(nil)

// Fail makes every Load, CompareAndSwap and Claim fail with err, or succeed again if err is
// nil.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failure = err
}

// Skew sets how far the clock of the store is ahead of that of the process; it may be
// negative.
func (m *Memory) Skew(by time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.skew = by
}

// Calls returns how many calls of Load, CompareAndSwap and Claim have reached the store,
// including those that Fail made fail.
func (m *Memory) Calls() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

// enter begins a call. Unless it returns an error, it leaves mu locked.
func (m *Memory) enter(ctx context.Context, name string) (*organization, time.Time, error) {
	if err := ctx.Err(); err != nil {
		return nil, time.Time{}, err
	}
	m.mu.Lock()
	m.calls++
	if m.failure != nil {
		defer m.mu.Unlock()
		return nil, time.Time{}, m.failure
	}
	return m.organization(name), time.Now().Add(m.skew), nil
}

// organization returns the entry of an organization. The caller holds mu.
func (m *Memory) organization(name string) *organization {
	o := m.organizations[name]
	if o == nil {
		o = &organization{claims: make(map[string][]claim), changes: make(map[chan struct{}]bool)}
		if m.organizations == nil {
			m.organizations = make(map[string]*organization)
		}
		m.organizations[name] = o
	}
	return o
}

// Load implements [failover.Shared].
func (m *Memory) Load(ctx context.Context, organization string) (failover.Record, time.Time, error) {
	o, now, err := m.enter(ctx, organization)
	if err != nil {
		return failover.Record{}, now, err
	}
	defer m.mu.Unlock()
	return copied(o.record), now, nil
}

// CompareAndSwap implements [failover.Shared].
func (m *Memory) CompareAndSwap(ctx context.Context, organization string, version uint64, next failover.Record) (bool, error) {
	o, _, err := m.enter(ctx, organization)
	if err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	if o.record.Version != version {
		return false, nil
	}
	o.record = copied(next)
	for c := range o.changes {
		select {
		case c <- struct{}{}:
		default:
		}
	}
	return true, nil
}

func copied(r failover.Record) failover.Record {
	r.Earlier = slices.Clone(r.Earlier)
	return r
}

// Changes implements [failover.Shared].
func (m *Memory) Changes(ctx context.Context, organization string) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := make(chan struct{}, 1)
	o := m.organization(organization)
	o.changes[c] = true
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(o.changes, c)
	})
	return c
}

// Claim implements [failover.Shared].
func (m *Memory) Claim(ctx context.Context, organization string, c failover.Claim) (failover.Holders, error) {
	o, now, err := m.enter(ctx, organization)
	if err != nil {
		return failover.Holders{}, err
	}
	defer m.mu.Unlock()
	latest := now.Add(failover.MaxClaim)
	claims := slices.DeleteFunc(o.claims[c.Topic], func(old claim) bool {
		return !now.Before(old.until) || old.until.After(latest) || old.member == c.Member && c.TTL <= 0
	})
	until := now.Add(min(c.TTL, failover.MaxClaim))
	if at := slices.IndexFunc(claims, func(old claim) bool { return old.member == c.Member }); at >= 0 {
		claims[at].until = until
	} else if c.TTL > 0 && (c.Places <= 0 || len(claims) < c.Places) {
		claims = append(claims, claim{c.Member, until})
	}
	o.claims[c.Topic] = claims
	holders := failover.Holders{Count: len(claims), Names: make([]string, min(len(claims), failover.MaxHolders))}
	for i := range holders.Names {
		holders.Names[i] = claims[i].member
	}
	return holders, nil
}
