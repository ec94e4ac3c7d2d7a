package failoverredis

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

// Changes implements [failover.Shared]. All watchers of the Store share one
// connection, which is opened for the first and closed after the last, and
// opened again by itself when it breaks; whatever may have changed meanwhile is
// told then. After Close there is no channel.
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

// tell tells the watchers of an organization.
func (s *Store) tell(organization string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.watchers[organization] {
		select {
		case c <- struct{}{}:
		default: // a value is there already
		}
	}
}

// tellAll tells all watchers.
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
	// firstPause before connecting again; it doubles up to maxPause, and is
	// jittered so that a fleet does not return to a server at one moment.
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
	// quiet is how long the server may say nothing before it is pinged, and then
	// before the connection is given up.
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
			c.ReloadState(ctx) // of a cluster: the node may have been replaced
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, maxPause)
	}
}

// subscription is one connection's life. It reports whether the server has
// answered at all.
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
		case *redis.Subscription: // anew, perhaps: what was told in between is lost
			s.tellAll()
		case *redis.Message:
			s.tell(m.Payload)
		}
	}
}
