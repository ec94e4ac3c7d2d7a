package sharedtest

import (
	"context"
	"time"

	"github.com/d365failover/failover"
)

// watch returns the channel of changes of an organization. The rules about
// changes do not apply to a store that has none.
func (s *store) watch(ctx context.Context, h failover.Shared, organization string) <-chan struct{} {
	s.Helper()
	c := h.Changes(ctx, organization)
	if c == nil {
		s.Skip("the store does not tell of changes")
	}
	return c
}

// swapUntil swaps the record, again and again because a change may be missed,
// until all the channels have told of one.
func (s *store) swapUntil(h failover.Shared, organization string, told ...<-chan struct{}) {
	s.Helper()
	version := s.load(h, organization).Version
	deadline := time.Now().Add(patience)
	for _, c := range told {
		for received := false; !received; {
			s.swap(h, organization, version, record(version+1), true)
			version++
			select {
			case _, open := <-c:
				if !open {
					s.Fatal("the channel is closed")
				}
				received = true
			case <-time.After(10 * pollInterval):
			}
			if time.Now().After(deadline) {
				s.Fatalf("%d swaps within %v, and a watcher was not told", version, patience)
			}
		}
	}
}

// drain takes what a channel holds.
func drain(c <-chan struct{}) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

// A fleet that hears of a switch follows within moments, instead of when each
// Transport comes to load the record. It is told of every change, not only of
// the first.
func changesTold(s *store) {
	h, other := s.handle(), s.handle()
	c := s.watch(s.Context(), h, s.organization)
	for range 3 {
		s.swapUntil(other, s.organization, c)
		drain(c)
	}
	s.swapUntil(h, s.organization, c) // and of one's own
}

// A Transport that is slow to read, or reads no more, holds nobody up. When it
// comes to read, it is told that something has changed, however often.
func changesUnread(s *store) {
	h, other := s.handle(), s.handle()
	c := s.watch(s.Context(), h, s.organization)
	s.swapUntil(other, s.organization, c)
	const swaps = 300
	version := s.load(h, s.organization).Version
	start := time.Now()
	for range uint64(swaps) {
		s.swap(other, s.organization, version, record(version+1), true)
		version++
	}
	if took := time.Since(start); took > patience {
		s.Errorf("%d swaps took %v", swaps, took)
	}
	s.eventually("a value after many changes", func() bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	})
	s.swapUntil(other, s.organization, c)
}

// Several Transports of a process have one handle, and all of them follow.
func everyWatcher(s *store) {
	h, other := s.handle(), s.handle()
	second := newOrganization()
	var first []<-chan struct{}
	for range 5 {
		first = append(first, s.watch(s.Context(), h, s.organization))
	}
	elsewhere := s.watch(s.Context(), h, second)
	first = append(first, s.watch(s.Context(), other, s.organization))
	s.swapUntil(s.handle(), s.organization, first...)
	drain(elsewhere)
	s.swapUntil(other, second, elsewhere)
}

// A Transport that is closed stops watching. The store lets go of that watcher,
// does not close the channel, which would look like a change, and serves the
// others as before; and watching can begin anew.
func watchingEnds(s *store) {
	h, other := s.handle(), s.handle()
	stays := s.watch(s.Context(), h, s.organization)
	for range 3 {
		ctx, cancel := context.WithCancel(s.Context())
		c := s.watch(ctx, h, s.organization)
		s.swapUntil(other, s.organization, c)
		cancel()
		<-time.After(pollInterval) // the store may let go now
		drainOpen(s, c)
		drain(stays)
		s.swapUntil(other, s.organization, stays)
	}
	lone := s.handle()
	for range 2 { // and when nobody is left
		ctx, cancel := context.WithCancel(s.Context())
		s.swapUntil(other, s.organization, s.watch(ctx, lone, s.organization))
		cancel()
		<-time.After(pollInterval)
	}
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	drainOpen(s, h.Changes(ctx, s.organization))
}

// drainOpen takes what a channel holds and fails if it is closed.
func drainOpen(s *store, c <-chan struct{}) {
	s.Helper()
	for {
		select {
		case _, open := <-c:
			if !open {
				s.Fatal("the channel was closed when its context ended")
			}
		default:
			return
		}
	}
}
