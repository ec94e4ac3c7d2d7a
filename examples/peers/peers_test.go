package peers

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/go-resty/resty/v2"
	"github.com/hashicorp/go-retryablehttp"
	kiota "github.com/microsoft/kiota-abstractions-go"
	kiotaauth "github.com/microsoft/kiota-abstractions-go/authentication"
	kiotahttp "github.com/microsoft/kiota-http-go"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/d365failover/failover"
)

// request is one that all clients can make.
type request struct {
	method, url string
	header      http.Header
	body        string
}

// answer is what a client's caller gets.
type answer struct {
	status int
	body   []byte
}

// send makes a request with a client. An error is one that its caller would see.
type send func(ctx context.Context, r request) (answer, error)

// peer is a client, wired as docs/clients.md says.
type peer struct {
	name string
	// over returns the client over one that goes through a Transport.
	over func(t *testing.T, client *http.Client) send
	// base, if not nil, is what the client puts below the Transport.
	base func(http.RoundTripper) http.RoundTripper
}

var peers = []peer{
	{name: "net/http", over: overHTTP},
	{name: "azcore without its retries", over: azcorePipeline(policy.RetryOptions{MaxRetries: -1})},
	{name: "azcore with retries of what is not in doubt", over: azcorePipeline(policy.RetryOptions{RetryDelay: time.Millisecond, ShouldRetry: mayRetry})},
	{name: "resty", over: restyWith(func(*resty.Client) {})},
	{name: "resty with retries of what is not in doubt", over: restyWith(func(c *resty.Client) {
		c.SetRetryCount(3).SetRetryWaitTime(time.Millisecond).AddRetryCondition(func(r *resty.Response, err error) bool {
			return mayRetry(r.RawResponse, err)
		})
	})},
	{name: "retryablehttp", over: retryable(inDoubtIsFinal)},
	{name: "retryablehttp as http.Client", over: func(t *testing.T, client *http.Client) send {
		return overHTTP(t, retryableClient(client, inDoubtIsFinal).StandardClient())
	}},
	{name: "otelhttp outside", over: func(t *testing.T, client *http.Client) send {
		traced := *client
		traced.Transport = otelhttp.NewTransport(client.Transport)
		return overHTTP(t, &traced)
	}},
	{name: "otelhttp inside", over: overHTTP, base: func(base http.RoundTripper) http.RoundTripper {
		return otelhttp.NewTransport(base)
	}},
	{name: "kiota", over: kiotaOver},
}

// mayRetry reports whether a client that knows only HTTP may send a request with this outcome again:
// not if it is a write that may have been carried out. The Transport has already repeated what it
// may.
func mayRetry(resp *http.Response, err error) bool {
	if _, inDoubt := failover.InDoubt(resp, err); inDoubt {
		return false
	}
	return err != nil || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500
}

func overHTTP(_ *testing.T, client *http.Client) send {
	return func(ctx context.Context, r request) (answer, error) {
		req, err := http.NewRequestWithContext(ctx, r.method, r.url, strings.NewReader(r.body))
		if err != nil {
			return answer{}, err
		}
		req.Header = r.header
		return read(client.Do(req))
	}
}

// read reads an answer to its end.
func read(resp *http.Response, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, body}, err
}

// azcorePipeline returns a pipeline of azcore with these retries.
func azcorePipeline(retry policy.RetryOptions, perRetry ...policy.Policy) func(*testing.T, *http.Client) send {
	return func(_ *testing.T, client *http.Client) send {
		pipeline := runtime.NewPipeline("example", "v0", runtime.PipelineOptions{PerRetry: perRetry},
			&policy.ClientOptions{Transport: client, Retry: retry})
		return func(ctx context.Context, r request) (answer, error) {
			req, err := runtime.NewRequest(ctx, r.method, r.url)
			if err != nil {
				return answer{}, err
			}
			for name, values := range r.header {
				req.Raw().Header[name] = values
			}
			if r.body != "" {
				err = req.SetBody(streaming.NopCloser(strings.NewReader(r.body)), "application/json")
				if err != nil {
					return answer{}, err
				}
			}
			return read(pipeline.Do(req))
		}
	}
}

// restyWith returns a client of resty with some settings.
func restyWith(set func(*resty.Client)) func(*testing.T, *http.Client) send {
	return func(_ *testing.T, client *http.Client) send {
		c := resty.NewWithClient(client).SetLogger(silent{})
		set(c)
		return func(ctx context.Context, r request) (answer, error) {
			req := c.R().SetContext(ctx).SetHeaderMultiValues(r.header)
			if r.body != "" {
				req.SetBody(r.body)
			}
			resp, err := req.Execute(r.method, r.url)
			if err != nil {
				return answer{}, err
			}
			return answer{resp.StatusCode(), resp.Body()}, nil
		}
	}
}

type silent struct{}

func (silent) Errorf(string, ...any) {}
func (silent) Warnf(string, ...any)  {}
func (silent) Debugf(string, ...any) {}

// inDoubtIsFinal makes retryablehttp repeat nothing that is in doubt, and return the last answer
// unchanged.
func inDoubtIsFinal(c *retryablehttp.Client) {
	c.CheckRetry = func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		return mayRetry(resp, err), nil
	}
	c.ErrorHandler = retryablehttp.PassthroughErrorHandler
}

func retryableClient(client *http.Client, set func(*retryablehttp.Client)) *retryablehttp.Client {
	c := retryablehttp.NewClient()
	c.HTTPClient, c.Logger, c.RetryWaitMin, c.RetryWaitMax = client, nil, time.Millisecond, time.Millisecond
	set(c)
	return c
}

func retryable(set func(*retryablehttp.Client)) func(*testing.T, *http.Client) send {
	return func(_ *testing.T, client *http.Client) send {
		c := retryableClient(client, set)
		return func(ctx context.Context, r request) (answer, error) {
			req, err := retryablehttp.NewRequestWithContext(ctx, r.method, r.url, []byte(r.body))
			if err != nil {
				return answer{}, err
			}
			req.Header = r.header
			return read(c.Do(req))
		}
	}
}

// kiotaOver returns the client that Microsoft's generated OData clients in Go use, including that of
// Graph.
func kiotaOver(t *testing.T, client *http.Client) send {
	adapter, err := kiotahttp.NewNetHttpRequestAdapterWithParseNodeFactoryAndSerializationWriterFactoryAndHttpClient(
		&kiotaauth.AnonymousAuthenticationProvider{}, nil, nil, client)
	require.NoError(t, err)
	methods := map[string]kiota.HttpMethod{http.MethodGet: kiota.GET, http.MethodPost: kiota.POST, http.MethodPatch: kiota.PATCH}
	return func(ctx context.Context, r request) (answer, error) {
		target, err := url.Parse(r.url)
		if err != nil {
			return answer{}, err
		}
		info := kiota.NewRequestInformation()
		info.Method = methods[r.method]
		info.SetUri(*target)
		for name, values := range r.header {
			info.Headers.Add(name, values[0], values[1:]...)
		}
		if r.body != "" {
			info.SetStreamContentAndContentType([]byte(r.body), "application/json")
		}
		body, err := adapter.SendPrimitive(ctx, info, "[]byte", nil)
		var failure *kiota.ApiError
		switch {
		case errors.As(err, &failure):
			return answer{status: failure.ResponseStatusCode}, nil
		case err != nil:
			return answer{}, err
		case body == nil:
			return answer{status: http.StatusNoContent}, nil
		}
		return answer{http.StatusOK, bytes.Clone(body.([]byte))}, nil
	}
}
