package failover

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// credentials are Authorization headers that probes borrow from requests where
// Config.Authorize does not give them any. Headers come from callers, who may be wrong
// or hostile: one that an endpoint has rejected is not tried there again, and one of a
// request that was answered in good health goes before any other.
type credentials struct {
	// proven is the header of the last request that was answered in good health, as
	// long as there is no need for another one. Requests that are answered read it.
	proven atomic.Pointer[provenCredential]

	mu   sync.Mutex
	kept []credential // the best first, at most maxCredentials
}

type provenCredential struct {
	header string
	until  time.Time // that of another request is as good
}

// credential is a header and what is known of it.
type credential struct {
	header   string
	proven   bool    // a request that carried it was answered in good health
	rejected [2]bool // by endpoint: 401
	useless  [2]bool // 403, which says nothing about the endpoint
}

const (
	// maxCredentials bounds what is kept, the rejected ones included, so that nobody
	// has them tried again by turns.
	maxCredentials = 8
	// maxCredential bounds the length of each.
	maxCredential = 32 << 10
	// provenFor is for how long no other proven header is looked at.
	provenFor = 5 * time.Second
)

// borrowable returns the Authorization header of a request, "" if probes cannot do
// anything with it: it cannot be sent, or belongs to one connection (RFC 4559, section
// 6) or request (RFC 7616).
func borrowable(h http.Header) string {
	values := h["Authorization"]
	if len(values) != 1 || len(values[0]) > maxCredential || !validHeaderValue(values[0]) {
		return ""
	}
	scheme, _, _ := strings.Cut(strings.TrimLeft(values[0], " \t"), " ")
	for _, bound := range [...]string{"NTLM", "Negotiate", "Kerberos", "Digest"} {
		if strings.EqualFold(scheme, bound) {
			return ""
		}
	}
	return values[0]
}

// offer keeps the header of a request. Proven: the request was answered in good health.
// It reports whether the header was not known before.
func (c *credentials) offer(h http.Header, proven bool) (isNew bool) {
	if proven {
		if p := c.proven.Load(); p != nil && (p.header == valueOf(h, "Authorization") || time.Now().Before(p.until)) {
			return false
		}
	}
	header := borrowable(h)
	if header == "" {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if proven {
		c.proven.Store(&provenCredential{header, time.Now().Add(provenFor)})
	}
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
	best, rank := "", 0
	for _, k := range c.kept {
		r := 1
		if k.proven {
			r += 2
		}
		if !k.useless[at] {
			r++
		}
		if r > rank && !k.rejected[at] {
			best, rank = k.header, r
		}
	}
	return best
}

// answered takes note of what an endpoint has said to a header.
func (c *credentials) answered(at Endpoint, header string, status int) {
	if status != http.StatusUnauthorized && status != http.StatusForbidden {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.kept, func(k credential) bool { return k.header == header })
	if i < 0 {
		return
	}
	if status == http.StatusForbidden {
		c.kept[i].useless[at] = true
	} else {
		c.kept[i].rejected[at] = true
	}
	c.proven.Store(nil) // another one may be of use
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
