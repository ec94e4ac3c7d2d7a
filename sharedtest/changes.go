package sharedtest

import (
	"context"
	"time"

	"github.com/d365failover/failover"
)

// watch returns the channel of changes of an organization. It skips the test if the store has
// no notifications.
func (s *store) watch(ctx context.Context, h failover.Shared, organization string) <-chan struct{} {
	s.Helper()
	c := h.Changes(ctx, organization)
	if c == nil {
		s.Skip("the store has no notifications")
	}
	return c
}

// swapUntil swaps the record, repeatedly because notifications may be lost, until it has
// received one from each channel.
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
				s.Fatalf("%d swaps within %v, but a watcher was not notified", version, patience)
			}
		}
	}
}

// drain empties a channel.
func drain(c <-chan struct{}) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

// With notifications, a fleet follows a switch within moments rather than when each Transport
// next polls the record. Every change causes one, not only the first.
func changesTold(s *store) {
	h, other := s.handle(), s.handle()
	c := s.watch(s.Context(), h, s.organization)
	for range 3 {
		s.swapUntil(other, s.organization, c)
		drain(c)
	}
	s.swapUntil(h, s.organization, c) // also a change by the same handle
}

// A Transport that reads slowly, or not at all, blocks nobody. When it reads, it gets at
// least one value, however many changes there were.
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

// Several Transports of a process may share one handle, and all of them must follow.
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

// A Transport that is closed stops watching. The store drops that watcher, does not close its
// channel, which would look like a change, and keeps notifying the others. Watching can start
// again.
func watchingEnds(s *store) {
	h, other := s.handle(), s.handle()
	stays := s.watch(s.Context(), h, s.organization)
	for range 3 {
		ctx, cancel := context.WithCancel(s.Context())
		c := s.watch(ctx, h, s.organization)
		s.swapUntil(other, s.organization, c)
		cancel()
		<-time.After(pollInterval) // the store may drop the watcher now
		drainOpen(s, c)
		drain(stays)
		s.swapUntil(other, s.organization, stays)
	}
	lone := s.handle()
	for range 2 { // also when no watcher is left
		ctx, cancel := context.WithCancel(s.Context())
		s.swapUntil(other, s.organization, s.watch(ctx, lone, s.organization))
		cancel()
		<-time.After(pollInterval)
	}
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	drainOpen(s, h.Changes(ctx, s.organization))
}

// drainOpen empties a channel, and fails the test if it is closed.
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
