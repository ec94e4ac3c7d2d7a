package signin

import (
	"context"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
)

// cache caches tokens, because some credentials run a program for each. It renews a token
// after half of its life, but uses it until it expires if that fails, so that an outage of
// the sign-in service does not look like one of the organization.
type cache struct {
	get func(ctx context.Context, audience string) (azcore.AccessToken, error)

	mu   sync.Mutex
	kept map[string]*kept // by audience
}

// kept is a token. Guarded by cache.mu.
type kept struct {
	token  azcore.AccessToken
	renew  time.Time
	flight chan struct{} // closed when the request under way ends; nil if none is
	err    error         // of the last request
}

// again is the pause after a failure to renew a token that is still valid.
const again = 30 * time.Second

// leeway is how long before it expires a token is no longer used.
const leeway = 10 * time.Second

// token is a [Source].
func (c *cache) token(ctx context.Context, audience string) (string, error) {
	c.mu.Lock()
	k := c.kept[audience]
	if k == nil {
		k = new(kept)
		c.kept[audience] = k
	}
	valid := time.Until(k.token.ExpiresOn) > leeway
	flight := k.flight
	switch {
	case valid && (flight != nil || time.Now().Before(k.renew)):
		defer c.mu.Unlock()
		return k.token.Token, nil
	case flight != nil:
		c.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return k.result()
	}
	k.flight = make(chan struct{})
	c.mu.Unlock()
	token, err := c.get(ctx, audience)
	c.mu.Lock()
	defer c.mu.Unlock()
	close(k.flight)
	k.flight, k.err = nil, err
	now := time.Now()
	if err != nil {
		k.renew = now.Add(again)
	} else {
		k.token, k.renew = token, now.Add(token.ExpiresOn.Sub(now)/2)
	}
	return k.result()
}

func (k *kept) result() (string, error) {
	if time.Until(k.token.ExpiresOn) > leeway {
		return k.token.Token, nil
	}
	return "", k.err
}
