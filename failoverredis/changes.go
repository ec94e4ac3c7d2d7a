package failoverredis

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

// Changes implements [failover.Shared]. All watchers of the Store share one connection. The
// Store opens it for the first watcher, closes it after the last, and reconnects when it
// breaks; it then notifies all watchers, which may have missed a change. After Close,
// Changes returns nil.
func (s *Store) Changes(ctx context.Context, organization string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || ctx.Err() != nil {
		return nil
	}
	if s.watchers[organization] == nil {
		s.watchers[organization] = make(map[chan struct{}]bool)
	}
	c := make(chan struct{}, 1)
	s.watchers[organization][c] = true
	if s.unlisten == nil {
		listening, cancel := context.WithCancel(s.ctx)
		s.unlisten = cancel
		s.wg.Go(func() { s.listen(listening) })
	}
	context.AfterFunc(ctx, func() { s.unwatch(organization, c) })
	return c
}

// unwatch removes a watcher, and with the last one the subscription.
func (s *Store) unwatch(organization string, c chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers[organization], c)
	if len(s.watchers[organization]) == 0 {
		delete(s.watchers, organization)
	}
	if len(s.watchers) == 0 {
		s.unlisten()
		s.unlisten = nil
	}
}

// tell notifies the watchers of an organization.
func (s *Store) tell(organization string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.watchers[organization] {
		select {
		case c <- struct{}{}:
		default: // a notification is pending already
		}
	}
}

// tellAll notifies all watchers.
func (s *Store) tellAll() {
	s.mu.Lock()
	organizations := make([]string, 0, len(s.watchers))
	for o := range s.watchers {
		organizations = append(organizations, o)
	}
	s.mu.Unlock()
	for _, o := range organizations {
		s.tell(o)
	}
}

const (
	// firstPause is the time before the first reconnect; it doubles up to maxPause, and is
	// jittered so that the members of a fleet do not reconnect at the same moment.
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
	// quiet is how long the server may be silent before the Store pings it, and after that
	// before it gives up the connection.
	quiet = 3 * time.Second
)

// listen subscribes until ctx ends.
func (s *Store) listen(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		if s.subscription(ctx) {
			pause = firstPause
		}
		if c, ok := s.client.(interface{ ReloadState(context.Context) }); ok && ctx.Err() == nil {
			c.ReloadState(ctx) // a cluster may have replaced the node
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, maxPause)
	}
}

// subscription subscribes over one connection until that breaks, and reports whether the
// server ever answered.
func (s *Store) subscription(ctx context.Context) (answered bool) {
	ps := s.client.Subscribe(ctx, s.channel())
	defer ps.Close()
	defer context.AfterFunc(ctx, func() { ps.Close() })() // which ends a read
	pinged := false
	for {
		message, err := ps.ReceiveTimeout(ctx, quiet)
		var failure net.Error
		switch {
		case err == nil:
			answered, pinged = true, false
		case !pinged && ctx.Err() == nil && errors.As(err, &failure) && failure.Timeout():
			if ps.Ping(ctx) != nil {
				return answered
			}
			pinged = true
			continue
		default:
			return answered
		}
		switch m := message.(type) {
		case *redis.Subscription: // perhaps a new one: notifications may have been lost
			s.tellAll()
		case *redis.Message:
			s.tell(m.Payload)
		}
	}
}
