package failover

import (
	"context"
	"net/http"
	"time"

	"github.com/d365failover/failover/internal/rule"
)

// This file follows redirects from one endpoint of the organization to the other.
// Every request goes to the active endpoint, whatever host it names; one that
// follows such a redirect has to go where the redirect leads, or it would be
// redirected again without end.

// redirection is where a redirect leads that does not lead to the active endpoint.
// It is kept in the context of the Request of the redirect response.
type redirection struct {
	t  *Transport
	to Endpoint
}

type redirectionKey struct{}

// redirection returns the redirection that req follows, nil if it follows none.
// [http.Client] and everything that repeats a request by cloning it keep the
// redirect response in Request.Response.
func (t *Transport) redirection(req *http.Request) *redirection {
	if req.Response == nil || req.Response.Request == nil {
		return nil
	}
	r, _ := req.Response.Request.Context().Value(redirectionKey{}).(*redirection)
	if r == nil || r.t != t { // of another organization
		return nil
	}
	return r
}

// aim returns the state under which a request that follows the redirection is
// sent: st, but that the endpoint it leads to is the active one.
func (r *redirection) aim(st *state) *state {
	if r == nil || r.to == st.active {
		return st
	}
	aimed := *st
	aimed.active = r.to
	return &aimed
}

// redirects marks a redirect to an endpoint that is not the active one, so that
// the request which follows it goes there, and asks both endpoints: the service
// itself sends the traffic away.
func (c *call) redirects(resp *http.Response) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return
	}
	location, err := c.out.URL.Parse(resp.Header.Get("Location"))
	if err != nil {
		return
	}
	_, to, ok := c.t.org.match(location)
	now := c.t.state.Load()
	if !ok || to == now.active && to == c.st.active {
		return
	}
	resp.Request = c.req.WithContext(context.WithValue(c.req.Context(), redirectionKey{}, &redirection{c.t, to}))
	if to == now.active || c.st.active != now.active {
		return // it leads to where the traffic is, or does not come from there
	}
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	if c.t.rule.Epoch == c.st.epoch && !c.t.rule.Closed {
		c.t.seeLocked(rule.Evidence{Kinds: rule.Fenced, Decides: true}, &Fault{Class: ClassUnavailable, Definitive: true,
			Delivery: Answered, Endpoint: c.st.active, Status: resp.StatusCode, Message: "redirects to the " + to.String()}, time.Now())
	}
}
