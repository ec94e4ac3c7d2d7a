package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/PuerkitoBio/rehttp"
	"github.com/d365failover/failover"
	"github.com/elastic/elastic-transport-go/v8/elastictransport"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/sony/gobreaker/v2"
	"resty.dev/v3"
)

// A peer is a library over base, in the best configuration for the work.
type peer struct {
	name string
	make func(base http.RoundTripper, primary, alternate string) sender
}

// healthyPeers are configured for an outage that does not happen. The first is the floor.
var healthyPeers = []peer{
	{"bare RoundTripper", func(base http.RoundTripper, _, _ string) sender { return over(base) }},
	{"one atomic load and store, by hand", byHand},
	{"gobreaker Execute", executing},
	{"gobreaker two-step", twoStep},
	{"**failover**", ours},
	{"rehttp", retryingRehttp},
	{"elastic-transport, 2 nodes", elastic},
	{"go-retryablehttp", retryable},
	{"failsafe-go breaker", failsafeBreaker},
	{"failsafe-go retry and breaker", failsafeBoth},
	{"(floor) http.Client", throughClient},
	{"(floor) http.Client, new request", throughClientAnew},
	{"resty, 2 hosts", restyBalanced},
	{"azcore", azcorePipeline},
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the peer rejects its settings
	}
	return v
}

func ours(base http.RoundTripper, primary, alternate string) sender {
	return over(newTransport(base, primary, alternate))
}

// newTransport returns a Transport with the defaults, except for a silent log, no pauses, and
// probes that send a single request.
func newTransport(base http.RoundTripper, primary, alternate string) *failover.Transport {
	return must(failover.New(primary, &failover.Config{
		Base: base, Alternate: alternate, RetryBackoff: -1, ProbeInterval: -1,
		Logger: slog.New(slog.DiscardHandler), Probe: probe,
	}))
}

func probe(ctx context.Context, client *http.Client, endpoint *url.URL) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.String(), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return failover.Classify(resp, nil)
	}
	return nil
}

// byHand is a lower bound rather than a peer: nothing that handles failures can do less.
func byHand(base http.RoundTripper, _, _ string) sender {
	var failures atomic.Int64
	return func(c *call) (*http.Response, error) {
		if failures.Load() >= 3 {
			return nil, gobreaker.ErrOpenState
		}
		resp, err := base.RoundTrip(c.req)
		if err != nil {
			failures.Add(1)
		} else if failures.Load() > 0 {
			failures.Store(0)
		}
		return resp, err
	}
}

func executing(base http.RoundTripper, _, _ string) sender {
	cb := gobreaker.NewCircuitBreaker[*http.Response](gobreaker.Settings{})
	return func(c *call) (*http.Response, error) {
		return cb.Execute(func() (*http.Response, error) { return base.RoundTrip(c.req) })
	}
}

func twoStep(base http.RoundTripper, _, _ string) sender {
	cb := gobreaker.NewTwoStepCircuitBreaker[*http.Response](gobreaker.Settings{})
	return func(c *call) (*http.Response, error) {
		done, err := cb.Allow()
		if err != nil {
			return nil, err
		}
		resp, err := base.RoundTrip(c.req)
		done(err)
		return resp, err
	}
}

func failsafeBreaker(base http.RoundTripper, _, _ string) sender {
	return over(failsafehttp.NewRoundTripper(base, failsafeCircuit()))
}

func failsafeBoth(base http.RoundTripper, _, _ string) sender {
	return over(failsafehttp.NewRoundTripper(base, failsafehttp.NewRetryPolicyBuilder().Build(), failsafeCircuit()))
}

func failsafeCircuit() circuitbreaker.CircuitBreaker[*http.Response] {
	return circuitbreaker.NewBuilder[*http.Response]().WithFailureThreshold(3).WithDelay(time.Hour).Build()
}

func elastic(base http.RoundTripper, primary, alternate string) sender {
	client := must(elastictransport.NewClient(
		elastictransport.WithURLs(must(url.Parse(primary)), must(url.Parse(alternate))), elastictransport.WithTransport(base)))
	return func(c *call) (*http.Response, error) { return client.Perform(c.req) }
}

func newRetryable(base http.RoundTripper) *retryablehttp.Client {
	client := retryablehttp.NewClient()
	client.HTTPClient = &http.Client{Transport: base}
	client.Logger = nil
	client.RetryMax, client.RetryWaitMin, client.RetryWaitMax = 3, 0, 0
	return client
}

func retryable(base http.RoundTripper, _, _ string) sender {
	return over(&retryablehttp.RoundTripper{Client: newRetryable(base)})
}

func retryingRehttp(base http.RoundTripper, _, _ string) sender {
	return over(rehttp.NewTransport(base,
		rehttp.RetryAll(rehttp.RetryMaxRetries(3), rehttp.RetryAny(rehttp.RetryStatuses(503), rehttp.RetryTemporaryErr())),
		rehttp.ConstDelay(0)))
}

func throughClient(base http.RoundTripper, _, _ string) sender {
	client := &http.Client{Transport: base}
	return func(c *call) (*http.Response, error) { return client.Do(c.req) }
}

func throughClientAnew(base http.RoundTripper, _, _ string) sender {
	client := &http.Client{Transport: base}
	return func(c *call) (*http.Response, error) {
		var body io.Reader
		if c.body != nil {
			body = bytes.NewReader(c.body)
		}
		req, err := http.NewRequest(c.req.Method, c.url.String(), body)
		if err != nil {
			return nil, err
		}
		for key, values := range c.req.Header {
			req.Header[key] = values
		}
		return client.Do(req)
	}
}

func restyBalanced(base http.RoundTripper, primary, alternate string) sender {
	client := resty.New().SetTransport(base).SetLoadBalancer(must(resty.NewRoundRobin(primary, alternate))).
		SetRetryCount(3).SetRetryDelayStrategy(resty.RetryConstantDelayStrategy(0)).
		AddRetryConditions(func(_ *resty.Response, err error) bool { return err != nil }).
		SetResponseDoNotParse(true)
	return func(c *call) (*http.Response, error) {
		req := client.R()
		for key, values := range c.req.Header {
			req.Header[key] = values
		}
		if c.body != nil {
			req.SetBody(c.body)
		}
		req.Method = c.req.Method
		req.URL = c.url.RequestURI()
		resp, err := req.Send()
		if err != nil {
			return nil, err
		}
		return resp.RawResponse, nil
	}
}

func azcorePipeline(base http.RoundTripper, _, _ string) sender {
	return azcoreWith(base, nil)
}

func azcoreWith(base http.RoundTripper, perRetry []policy.Policy) sender {
	pipeline := runtime.NewPipeline("contoso", "v1.0.0", runtime.PipelineOptions{}, &policy.ClientOptions{
		Transport: transporter{base}, PerRetryPolicies: perRetry,
		Retry: policy.RetryOptions{RetryDelay: 1, MaxRetryDelay: 1},
	})
	return func(c *call) (*http.Response, error) {
		req, err := runtime.NewRequest(context.Background(), c.req.Method, c.url.String())
		if err != nil {
			return nil, err
		}
		for key, values := range c.req.Header {
			req.Raw().Header[key] = values
		}
		if c.body != nil {
			if err := req.SetBody(seekNopCloser{bytes.NewReader(c.body)}, "application/json; charset=utf-8"); err != nil {
				return nil, err
			}
		}
		return pipeline.Do(req)
	}
}

// transporter is a round tripper with the interface of azcore.
type transporter struct{ rt http.RoundTripper }

func (t transporter) Do(req *http.Request) (*http.Response, error) { return t.rt.RoundTrip(req) }

type seekNopCloser struct{ io.ReadSeeker }

func (seekNopCloser) Close() error { return nil }
