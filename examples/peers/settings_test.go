package peers

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/go-resty/resty/v2"
	"github.com/hashicorp/go-retryablehttp"
	kiotahttp "github.com/microsoft/kiota-http-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/auth"
	"github.com/d365failover/failover/auth/authtest"
	"github.com/d365failover/failover/failovertest"
)

// repeaters are clients with their default retries.
var repeaters = []struct {
	name string
	over func(*testing.T, *http.Client) send
	// what makes them repeat a POST
	lostAnswer, busy bool
	instead          string // the peer that does it right
}{
	{"azcore as it comes", azcorePipeline(policy.RetryOptions{RetryDelay: time.Millisecond}), true, true,
		"azcore without its retries"},
	{"resty with SetRetryCount", restyWith(func(c *resty.Client) { c.SetRetryCount(1).SetRetryWaitTime(time.Millisecond) }), true, false,
		"resty with retries of what is not in doubt"},
	{"retryablehttp as it comes", retryable(func(*retryablehttp.Client) {}), true, true,
		"retryablehttp"},
	{"kiota's RetryHandler", func(t *testing.T, client *http.Client) send {
		return kiotaOver(t, &http.Client{Transport: kiotahttp.NewCustomTransportWithParentTransport(client.Transport, kiotahttp.NewRetryHandler())})
	}, false, true,
		"kiota"},
}

// post creates an account without an id of its own, in the middle of trouble,
// and returns the status of the answer, how many requests for it arrived, and how
// many were carried out.
func (w *world) post(t *testing.T, f failovertest.Failure) (status, arrived, applied int, err error) {
	w.org.Primary().Heal()
	w.org.Primary().FailNext(1, f)
	got, err := w.send(t.Context(), request{http.MethodPost, w.org.URL() + "/api/data/v9.2/accounts",
		http.Header{"Content-Type": {"application/json"}, "X-Test-Id": {"invoice"}}, `{"name":"Invoice 11"}`})
	for _, d := range w.org.Primary().Deliveries() {
		if d.ID == "invoice" {
			arrived++
		}
		if d.Applied {
			applied++
		}
	}
	return got.status, arrived, applied, err
}

// busy is a 503 of a front end, which says nothing about the request. It has no Retry-After, to keep
// the test short.
var busy = failovertest.Status(http.StatusServiceUnavailable, http.Header{"Retry-After": {"0"}}, "")

func TestRetriesAsTheyComeRepeatAWriteInDoubt(t *testing.T) {
	t.Parallel()
	for _, r := range repeaters {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			twice := map[bool]int{false: 1, true: 2}
			w := newWorld(t, peer{over: r.over})
			_, _, applied, _ := w.post(t, failovertest.Reset(failovertest.AfterApply))
			assert.Equal(t, twice[r.lostAnswer], applied, "the answer was lost, the write was carried out")
			w = newWorld(t, peer{over: r.over})
			_, arrived, _, _ := w.post(t, busy)
			assert.Equal(t, twice[r.busy], arrived, "503")
		})
	}
}

func TestSetRightNoClientRepeatsAWriteInDoubt(t *testing.T) {
	t.Parallel()
	for _, r := range repeaters {
		assert.True(t, slices.ContainsFunc(peers, func(p peer) bool { return p.name == r.instead }), r.instead)
	}
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, p)
			_, _, applied, err := w.post(t, failovertest.Reset(failovertest.AfterApply))
			assert.ErrorIs(t, err, failover.ErrOutcomeUnknown, "the caller is told")
			assert.Equal(t, 1, applied)
			w = newWorld(t, p)
			status, arrived, _, err := w.post(t, busy)
			assert.NoError(t, err)
			assert.Equal(t, http.StatusServiceUnavailable, status, "the answer as it came")
			assert.Equal(t, 1, arrived)
		})
	}
}

func TestRetryablehttpAsItComesDropsTheLastAnswer(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"as it comes": 0, "with PassthroughErrorHandler": 503} {
		w := newWorld(t, peer{over: retryable(func(c *retryablehttp.Client) {
			c.RetryMax = 1
			if status != 0 {
				c.ErrorHandler = retryablehttp.PassthroughErrorHandler
			}
		})})
		w.org.Primary().Fail(busy) // all requests except probes, so the traffic stays
		w.org.Primary().FailWhen(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/WhoAmI") }, failovertest.Failure{})
		got, err := w.send(t.Context(), request{http.MethodGet, w.org.URL() + "/api/data/v9.2/accounts", http.Header{}, ""})
		assert.Equal(t, status, got.status, name)
		assert.Equal(t, status == 0, err != nil, "%s: %v", name, err)
	}
}

func TestABearerTokenPolicyOutsideHasOneAudience(t *testing.T) {
	t.Parallel()
	org := failovertest.Start(nil)
	defer org.Close()
	service := authtest.Start(org)
	defer service.Close()
	credential, err := service.Credential()
	require.NoError(t, err)
	bearer := runtime.NewBearerTokenPolicy(credential, []string{"https://contoso.crm.dynamics.com/.default"}, nil)
	tokens, err := auth.New(auth.Config{Organization: org.URL(), Source: auth.FromCredential(credential)})
	require.NoError(t, err)
	defer tokens.Close()
	authtest.Demand(org.Alternate(), "https://contoso--s.crm.dynamics.com")
	org.Disaster(failovertest.Refuse())
	for _, test := range []struct {
		name      string
		authorize func(*http.Request) error
		answered  bool
	}{
		{"the policy alone", nil, false}, // the alternate refuses the token, so the traffic goes back to the primary, which is gone
		{"Authorize, which has the last word", tokens.Authorize, true},
	} {
		client, transport, err := failover.Wrap(org.Client(), org.URL(),
			&failover.Config{Authorize: test.authorize, Logger: slog.New(slog.DiscardHandler), RetryBackoff: time.Millisecond})
		require.NoError(t, err)
		got, err := azcorePipeline(policy.RetryOptions{MaxRetries: -1}, bearer)(t, client)(
			t.Context(), request{http.MethodGet, org.URL() + "/api/data/v9.2/accounts", http.Header{}, ""})
		if test.answered {
			assert.NoError(t, err, test.name)
			assert.Equal(t, http.StatusOK, got.status, test.name)
		} else {
			assert.ErrorIs(t, err, syscall.ECONNREFUSED, test.name)
		}
		assert.NoError(t, transport.Close())
	}
}

// spans runs a read through an outage and returns what a tracer saw: for each
// span the host and, if it failed, the word "failed".
func spans(t *testing.T, wire func(...otelhttp.Option) peer) []string {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	t.Cleanup(func() { assert.NoError(t, provider.Shutdown(context.WithoutCancel(t.Context()))) })
	w := newWorld(t, wire(otelhttp.WithTracerProvider(provider)))
	w.org.Disaster(failovertest.Refuse())
	got, err := w.send(t.Context(), request{http.MethodGet, w.org.URL() + "/api/data/v9.2/accounts", http.Header{}, ""})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, got.status)
	var seen []string
	for _, span := range recorder.Ended() {
		host, failed := "", ""
		for _, attribute := range span.Attributes() {
			switch attribute.Key {
			case "server.address":
				host = attribute.Value.AsString()
			case "error.type":
				failed = " failed"
			}
		}
		seen = append(seen, strings.TrimSuffix(host, ".api.crm.dynamics.com")+failed)
	}
	return seen
}

func TestOtelhttpOutsideSeesTheCallWithTheAddressThatTheCallerUsed(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []string{"contoso"}, spans(t, func(o ...otelhttp.Option) peer {
		return peer{over: func(t *testing.T, client *http.Client) send {
			return overHTTP(t, &http.Client{Transport: otelhttp.NewTransport(client.Transport, o...)})
		}}
	}))
}

func TestOtelhttpInsideSeesEveryAttemptAndProbe(t *testing.T) {
	t.Parallel()
	assert.ElementsMatch(t, []string{
		"contoso failed", "contoso failed", "contoso failed", // the attempts that trip the breaker
		"contoso failed", "contoso--s", // the probes of both
		"contoso--s", // the attempt that is answered
	}, spans(t, func(o ...otelhttp.Option) peer {
		return peer{over: overHTTP, base: func(base http.RoundTripper) http.RoundTripper { return otelhttp.NewTransport(base, o...) }}
	}))
}

// TestTheTableNamesWhatIsTested keeps docs/clients.md and the tests in step.
func TestTheTableNamesWhatIsTested(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/clients.md")
	require.NoError(t, err)
	for _, p := range peers {
		assert.Contains(t, string(page), "`"+p.name+"`", "a client without a row")
	}
	for _, r := range repeaters {
		assert.Contains(t, string(page), "`"+r.name+"`", "a client without a row")
	}
	var source []byte
	for _, file := range []string{"outage_test.go", "settings_test.go"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		source = append(source, text...)
	}
	for _, name := range regexp.MustCompile(`\bTest\w+`).FindAllString(string(page), -1) {
		assert.Contains(t, string(source), "func "+name+"(", "a row without a test")
	}
}
