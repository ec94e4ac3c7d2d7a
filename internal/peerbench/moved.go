package main

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/PuerkitoBio/rehttp"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/fallback"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/sony/gobreaker/v2"
)

// movedPeers reach the alternate while the primary refuses connections. All except elastic,
// resty and failover know only one host; for those, the rewrite is done by hand, as cheaply as
// possible. The first is the floor: the primary is up.
var movedPeers = []peer{
	healthyPeers[0],
	{"a flag and a rewrite, by hand", flagged},
	{"gobreaker, rewrite and replay, by hand", broken},
	{"**failover**", ours},
	{"elastic-transport, 2 nodes", elastic},
	{"rehttp, RetryFn", rehttpMoving},
	{"failsafe-go fallback and breaker", failsafeFallback},
	{"go-retryablehttp, PrepareRetry", retryableMoving},
	{"resty, 2 hosts and retry", restyBalanced},
	{"azcore, policy for each try", azcoreMoving},
}

// moved returns a copy of req for the host, with two allocations.
func moved(req *http.Request, host string) *http.Request {
	out := new(http.Request)
	*out = *req
	u := *req.URL
	u.Host, out.URL, out.Host = host, &u, ""
	return out
}

func hostOf(origin string) string { return origin[len("https://"):] }

func flagged(base http.RoundTripper, _, alternate string) sender {
	var dead atomic.Bool
	host := hostOf(alternate)
	return func(c *call) (*http.Response, error) {
		if !dead.Load() {
			if resp, err := base.RoundTrip(c.req); err == nil {
				return resp, nil
			}
			dead.Store(true)
		}
		return base.RoundTrip(moved(c.req, host))
	}
}

func broken(base http.RoundTripper, _, alternate string) sender {
	cb := gobreaker.NewCircuitBreaker[*http.Response](gobreaker.Settings{Timeout: time.Hour})
	host := hostOf(alternate)
	return func(c *call) (*http.Response, error) {
		resp, err := cb.Execute(func() (*http.Response, error) { return base.RoundTrip(c.req) })
		if err == nil {
			return resp, nil
		}
		return base.RoundTrip(moved(c.req, host))
	}
}

func failsafeFallback(base http.RoundTripper, _, alternate string) sender {
	cb := failsafeCircuit()
	host := hostOf(alternate)
	return func(c *call) (*http.Response, error) {
		other := fallback.NewWithFunc(func(failsafe.Execution[*http.Response]) (*http.Response, error) {
			return base.RoundTrip(moved(c.req, host))
		})
		return failsafe.With[*http.Response](other, cb).Get(func() (*http.Response, error) { return base.RoundTrip(c.req) })
	}
}

func retryableMoving(base http.RoundTripper, _, alternate string) sender {
	client := newRetryable(base)
	host := hostOf(alternate)
	client.PrepareRetry = func(req *http.Request) error {
		u := *req.URL
		u.Host, req.URL, req.Host = host, &u, ""
		return nil
	}
	return over(&retryablehttp.RoundTripper{Client: client})
}

func rehttpMoving(base http.RoundTripper, _, alternate string) sender {
	host := hostOf(alternate)
	return over(rehttp.NewTransport(base, func(a rehttp.Attempt) bool {
		if a.Error == nil || a.Index > 0 {
			return false
		}
		u := *a.Request.URL
		u.Host, a.Request.URL = host, &u
		return true
	}, rehttp.ConstDelay(0)))
}

func azcoreMoving(base http.RoundTripper, _, alternate string) sender {
	return azcoreWith(base, []policy.Policy{alternating(hostOf(alternate))})
}

// alternating is the host that retries go to.
type alternating string

// tries counts the attempts of one operation.
type tries struct{ n *int }

func (host alternating) Do(req *policy.Request) (*http.Response, error) {
	var t tries
	if !req.OperationValue(&t) {
		t.n = new(int)
		req.SetOperationValue(t)
	}
	if *t.n++; *t.n > 1 {
		req.Raw().URL.Host, req.Raw().Host = string(host), ""
	}
	return req.Next()
}
