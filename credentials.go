package failover

import (
	"net/http"
	"slices"
	"sync"
)

// credentials are Authorization headers that probes borrow from requests where
// Config.Authorize does not give them any. Headers come from callers, who may be wrong
// or hostile: one that an endpoint has rejected is not tried there again, and one of a
// request that was answered in good health goes before any other.
type credentials struct {
	mu   sync.Mutex
	kept []credential // the best first, at most maxCredentials
}

// credential is a header and what is known of it.
type credential struct {
	header   string
	proven   bool    // a request that carried it was answered in good health
	rejected [2]bool // by endpoint
}

// maxCredentials bounds what is kept, the rejected ones included, so that nobody has
// them tried again in rotation.
const maxCredentials = 8

// offer keeps the header of a request. Proven: the request was answered in good health.
// It reports whether the header was not known before.
func (c *credentials) offer(h http.Header, proven bool) (isNew bool) {
	header := valueOf(h, "Authorization")
	if header == "" {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.kept, func(k credential) bool { return k.header == header })
	switch {
	case i < 0:
		if len(c.kept) == maxCredentials {
			c.kept = slices.Delete(c.kept, c.worst(), c.worst()+1)
		}
		c.kept = append([]credential{{header: header, proven: proven}}, c.kept...)
		return true
	case proven && (!c.kept[i].proven || i > 0):
		k := c.kept[i]
		k.proven = true
		c.kept = slices.Insert(slices.Delete(c.kept, i, i+1), 0, k)
	}
	return false
}

// worst returns which one to do without: the oldest that is rejected, else the oldest
// that is not proven, else the oldest. mu is held.
func (c *credentials) worst() int {
	worst, rank := len(c.kept)-1, -1
	for i, k := range c.kept {
		r := 0
		switch {
		case k.rejected[Primary] && k.rejected[Alternate]:
			r = 2
		case !k.proven:
			r = 1
		}
		if r >= rank {
			worst, rank = i, r
		}
	}
	return worst
}

// pick returns the header for a probe of an endpoint, "" if there is none.
func (c *credentials) pick(at Endpoint) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	best := ""
	for _, k := range c.kept {
		switch {
		case k.rejected[at]:
		case k.proven:
			return k.header
		case best == "":
			best = k.header
		}
	}
	return best
}

// reject takes note that an endpoint has rejected a header.
func (c *credentials) reject(at Endpoint, header string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.kept {
		if c.kept[i].header == header {
			c.kept[i].rejected[at] = true
		}
	}
}

// lend offers the header of a request to the probes. While down, one that they have
// not tried yet has them try at once.
func (t *Transport) lend(h http.Header, proven bool) {
	if t.cfg.Authorize != nil || !t.credentials.offer(h, proven) {
		return
	}
	t.mu.Lock()
	if t.rule.Down {
		t.demanded = true
		t.wakeWatch()
	}
	t.mu.Unlock()
}
