package failover

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/rule"
)

// brokenBody delivers text and then fails.
type brokenBody struct {
	text io.Reader
	err  error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if n, err := b.text.Read(p); err == nil {
		return n, nil
	}
	return 0, b.err
}

func (b *brokenBody) Close() error { return nil }

func TestProbeWSDL(t *testing.T) {
	t.Parallel()
	errReset := errors.New("connection reset")
	ok := func(body string) func() (*http.Response, error) {
		return func() (*http.Response, error) { return replyWith(200, body, "Content-Type", "text/xml"), nil }
	}
	tests := []struct {
		name   string
		reason string
		answer func() (*http.Response, error)
		want   rule.Outcome
		fenced rule.Outcome // after a fence of the endpoint
	}{
		{name: "enabled", reason: "the endpoint says so", answer: ok(wsdl(policyOf("true", "true"))), want: rule.Passed, fenced: rule.Passed},
		{name: "not enabled", reason: "the endpoint says so", answer: ok(wsdl(policyOf("true", "false"))), want: rule.Failed, fenced: rule.Failed},
		{name: "no policy", reason: "it answers; but it did when it was fenced, too", answer: ok(wsdl("")), want: rule.Passed, fenced: rule.Inconclusive},
		{name: "no WSDL", reason: "something answers", answer: ok("ok"), want: rule.Inconclusive, fenced: rule.Inconclusive},
		{
			name: "throttled", reason: "the organization is there; but nothing says that it is enabled",
			answer: func() (*http.Response, error) { return replyWith(429, "", "Retry-After", "1"), nil }, want: rule.Passed, fenced: rule.Inconclusive,
		},
		{
			name: "forbidden", reason: "it proves neither",
			answer: func() (*http.Response, error) { return replyWith(403, ""), nil }, want: rule.Inconclusive, fenced: rule.Inconclusive,
		},
		{
			name: "not found", reason: "it proves neither",
			answer: func() (*http.Response, error) { return replyWith(404, ""), nil }, want: rule.Inconclusive, fenced: rule.Inconclusive,
		},
		{
			name: "no content", reason: "it proves neither",
			answer: func() (*http.Response, error) { return replyWith(204, ""), nil }, want: rule.Inconclusive, fenced: rule.Inconclusive,
		},
		{
			name: "outage", reason: "a front end says that nobody is behind it",
			answer: func() (*http.Response, error) { return replyWith(503, ""), nil }, want: rule.Failed, fenced: rule.Failed,
		},
		{
			name: "outage page", reason: "a 200 in HTML is no answer of the service",
			answer: func() (*http.Response, error) {
				return replyWith(200, "<html><title>Sorry</title></html>", "Content-Type", "text/html"), nil
			}, want: rule.Failed, fenced: rule.Failed,
		},
		{
			name: "no answer", reason: "nobody is there",
			answer: func() (*http.Response, error) { return nil, errReset }, want: rule.Failed, fenced: rule.Failed,
		},
		{
			name: "broken off", reason: "the connection failed in the middle of the document",
			answer: func() (*http.Response, error) {
				resp := replyWith(200, "", "Content-Type", "text/xml")
				resp.Body, resp.ContentLength = &brokenBody{strings.NewReader(wsdl("")[:200]), errReset}, -1
				return resp, nil
			}, want: rule.Failed, fenced: rule.Failed,
		},
		{
			name: "broken off after the policy", reason: "what was needed had come",
			answer: func() (*http.Response, error) {
				resp := replyWith(200, "", "Content-Type", "text/xml")
				resp.Body, resp.ContentLength = &brokenBody{strings.NewReader(wsdl(policyOf("true", "true"))), errReset}, -1
				return resp, nil
			}, want: rule.Passed, fenced: rule.Passed,
		},
	}
	names := make(map[string]bool)
	for _, tt := range tests {
		require.NotEmpty(t, tt.reason, tt.name)
		require.False(t, names[tt.name], "name %q is used twice", tt.name)
		names[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			side := &readSide{answer: func(int, *http.Request) (*http.Response, error) { return tt.answer() }}
			var probe Probe = ProbeWSDL
			got, _ := (&probed{err: probe(t.Context(), &http.Client{Transport: side}, contoso(t))}).outcome()
			assert.Equal(t, tt.want, got, tt.reason)

			ctx := context.WithValue(t.Context(), probeTermsKey{}, &probeTerms{fenced: true})
			got, _ = (&probed{err: probe(ctx, &http.Client{Transport: side}, contoso(t))}).outcome()
			assert.Equal(t, tt.fenced, got, "fenced: "+tt.reason)
		})
	}
}

func TestProbeWSDLKeepsTheErrorOfAuthorize(t *testing.T) {
	t.Parallel()
	refused := &Fault{Class: ClassAuth, Delivery: NotSent, Err: errors.New("no token")}
	side := &readSide{answer: func(int, *http.Request) (*http.Response, error) { return nil, refused }}
	err := ProbeWSDL(t.Context(), &http.Client{Transport: side}, contoso(t))
	assert.Same(t, refused, err)
}

// However slowly a server delivers the document, the probe ends in time.
func TestProbeWSDLEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		side := &readSide{answer: func(int, *http.Request) (*http.Response, error) {
			r, w := io.Pipe()
			context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) }) // as net/http does
			go func() {
				text := strings.TrimSuffix(wsdl(""), "</wsdl:definitions>")
				for {
					if _, err := io.WriteString(w, text); err != nil {
						return
					}
					text = "<a/>"
					time.Sleep(time.Second)
				}
			}()
			resp := replyWith(200, "", "Content-Type", "text/xml")
			resp.Body, resp.ContentLength = r, -1
			return resp, nil
		}}
		start := time.Now()
		err := ProbeWSDL(ctx, &http.Client{Transport: side}, contoso(t))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 5*time.Second, time.Since(start))
		time.Sleep(time.Second) // for the server to notice
		synctest.Wait()
	})
}
