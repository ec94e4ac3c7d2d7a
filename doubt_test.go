package failover_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

var plain503 = answer(503, "<h1>Service Unavailable</h1>", "Content-Type", "text/html")

func coded(status int, code string) func(*http.Request) (*http.Response, error) {
	return answer(status, `{"error":{"code":"`+code+`","message":"Contoso"}}`, "Content-Type", "application/json")
}

// A later answer ends the doubt about an earlier attempt only if it says what became of that
// attempt.
func TestALaterAnswerEndsADoubtOnlyIfItSaysWhatBecameOfThat(t *testing.T) {
	t.Parallel()
	type response = func(*http.Request) (*http.Response, error)
	create := []string{"If-None-Match", "*"}
	update := []string{"If-Match", `W/"7"`}
	for _, test := range []struct {
		name    string
		method  string
		header  []string
		answers []response
		doubt   bool
		why     string
	}{
		{"acknowledged", "PUT", nil, answers(refuse(errReset), answer(204, "")), false, "the repeat was carried out"},
		{"gone", "DELETE", nil, answers(refuse(errReset), coded(404, "0x80040217")), false, "there is nothing left to delete"},
		{"condition", "PATCH", update, answers(refuse(errReset), coded(412, "0x80060882")), false, "it was carried out, or will not be"},
		{"not there", "PATCH", update, answers(refuse(errReset), coded(404, "0x80040217")), false, "there is nothing to update"},
		{"exists", "PATCH", create, answers(refuse(errReset), coded(412, "0x80060892")), false, "the record is there"},
		{"404 of a front end", "DELETE", nil, answers(refuse(errReset), answer(404, "<h1>Not Found</h1>", "Content-Type", "text/html")), true, "it knows no records"},
		{"404 to a PUT", "PUT", nil, answers(refuse(errReset), coded(404, "0x80040217")), true, "PUT creates"},
		{"412 without a condition", "DELETE", nil, answers(refuse(errReset), coded(412, "0x80060882")), true, "nothing explains it"},
		{"401", "DELETE", nil, answers(refuse(errReset), answer(401, "")), true, "about the token of the repeat"},
		{"403", "DELETE", nil, answers(refuse(errReset), answer(403, "")), true, "about the caller"},
		{"407", "DELETE", nil, answers(refuse(errReset), answer(407, "")), true, "of a proxy"},
		{"429", "DELETE", nil, answers(refuse(errReset), answer(429, "")), true, "the first may still run"},
		{"lock", "DELETE", nil, answers(refuse(errReset), coded(429, "0x80071151")), true, "held by the first"},
		{"503", "DELETE", nil, answers(plain503, refuse(errDial)), true, "the refused ones say nothing of it"},
		{"redirect", "DELETE", nil, answers(refuse(errReset), answer(307, "", "Location", "/elsewhere")), true, "it was sent on"},
		{"validation", "PUT", nil, answers(refuse(errReset), coded(400, "0x80040203")), true, "the first may have met another state"},
		{"refused, then acknowledged", "POST", nil, answers(refuse(errDial), answer(204, "")), false, "nothing was sent"},
		{"unexplained", "POST", nil, answers(answer(500, "")), true, "somebody broke down over it"},
		{"bad gateway", "POST", nil, answers(answer(502, "")), true, "its answer was lost"},
		{"bad request", "POST", nil, answers(coded(400, "0x80040203")), false, "an answer"},
		{"fence", "POST", nil, answers(fence), false, "it says so"},
		{"read", "GET", nil, answers(plain503), false, "no write"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var events []failover.Event
				base := &script{answers: test.answers, probe: onlyPrimaryServes}
				transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler), MaxAttempts: 3, FailureThreshold: 10,
					OnEvent: func(e failover.Event) {
						if e.Kind == failover.EventOutcomeUnknown {
							events = append(events, e)
						}
					}})
				require.NoError(t, err)
				req, err := http.NewRequestWithContext(failover.WithLabel(t.Context(), "order 7"), test.method, orgURL+accounts+"(00000000-0000-4000-8000-000000000001)?secret=1", nil)
				require.NoError(t, err)
				for i := 0; i+1 < len(test.header); i += 2 {
					req.Header.Set(test.header[i], test.header[i+1])
				}
				resp, err := transport.RoundTrip(req)
				fault, inDoubt := failover.InDoubt(resp, err)
				assert.Equal(t, test.doubt, inDoubt, test.why)
				synctest.Wait()
				if inDoubt {
					assert.Equal(t, failover.Unknown, fault.Delivery)
					require.Len(t, events, 1)
					require.NotNil(t, events[0].Write)
					assert.Equal(t, test.method, events[0].Write.Method)
					assert.Equal(t, "order 7", events[0].Write.Label)
					assert.Equal(t, accounts+"(00000000-0000-4000-8000-000000000001)", events[0].Write.Path)
				} else {
					assert.Empty(t, events)
				}
				explained := slices.Contains([]string{"gone", "condition", "not there", "exists"}, test.name) // perhaps by the first attempt
				assert.Equal(t, inDoubt || explained, len(transport.WritesSince(time.Time{}).Unknown) == 1, "what a switch may lose is in the books")
				require.NoError(t, transport.Switch(t.Context(), failover.Primary, "stays"))
				transport.Close()
			})
		})
	}
}

// InDoubt recognizes what a client returns, whatever the client has wrapped around the body.
func TestInDoubtOfWhatAClientReturns(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "Service Unavailable"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			w.Write([]byte(body))
		}))
		defer server.Close()
		for _, timeout := range []time.Duration{0, time.Minute} {
			client, transport, err := failover.Wrap(&http.Client{Timeout: timeout}, server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			defer transport.Close()
			resp, err := client.Post(server.URL+accounts, "application/json", strings.NewReader("{}"))
			require.NoError(t, err)
			resp.Body.Close()
			assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
			fault, inDoubt := failover.InDoubt(resp, err)
			require.True(t, inDoubt)
			assert.Equal(t, http.StatusServiceUnavailable, fault.Status)

			resp, err = client.Get(server.URL + accounts)
			require.NoError(t, err)
			resp.Body.Close()
			_, inDoubt = failover.InDoubt(resp, err)
			assert.False(t, inDoubt)
		}
	}
}

// A client that times out keeps only the text of an error.
func TestInDoubtOfAClientThatTimesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, _ := inSilence(t)
		client.Timeout = time.Second
		resp, err := client.Post("http://127.0.0.1"+accounts, "application/json", strings.NewReader("{}"))
		require.Error(t, err)
		_, inDoubt := failover.InDoubt(resp, err)
		assert.True(t, inDoubt)
		resp, err = client.Get("http://127.0.0.1/failover:%20outcome%20of%20the%20write%20is%20unknown:%20")
		require.Error(t, err)
		_, inDoubt = failover.InDoubt(resp, err)
		assert.False(t, inDoubt)
	})
}

func TestInDoubtOfOtherThings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		resp  *http.Response
		err   error
		doubt bool
	}{
		{nil, nil, false},
		{new(http.Response), nil, false},
		{nil, errReset, false},
		{nil, fmt.Errorf("the order: %w", failover.ErrOutcomeUnknown), true},
	} {
		fault, inDoubt := failover.InDoubt(test.resp, test.err)
		assert.Equal(t, test.doubt, inDoubt)
		assert.Equal(t, test.doubt, fault != nil)
	}
}

// timeout is the error of a client that has timed out.
type timeout string

func (t timeout) Error() string { return string(t) }
func (timeout) Timeout() bool   { return true }

// The error decides. Its text counts only where no address and no other error can contain it.
func TestInDoubtByTheTextOfAnError(t *testing.T) {
	t.Parallel()
	const unknown = ": outcome of the write is unknown: "
	for err, want := range map[error]bool{
		&url.Error{Err: timeout("failover: POST https://contoso.crm.dynamics.com" + unknown + "context deadline exceeded")}: true,
		&url.Error{Err: timeout("POST https://contoso.crm.dynamics.com" + unknown + "context deadline exceeded")}:           false,
		&url.Error{Err: timeout("failover: context deadline exceeded")}:                                                     false,
		&url.Error{Err: errors.New("failover: POST https://contoso.crm.dynamics.com" + unknown + "EOF")}:                    false,
		timeout("failover: POST https://contoso.crm.dynamics.com" + unknown + "context deadline exceeded"):                  false,
	} {
		fault, inDoubt := failover.InDoubt(nil, err)
		assert.Equal(t, want, inDoubt, err)
		if want {
			assert.Equal(t, failover.ClassTransient, fault.Class)
			assert.Equal(t, err, fault.Err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		base := &script{probe: onlyPrimaryServes, answers: answers(answer(502, ""))}
		transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		req, err := http.NewRequest(http.MethodPost, orgURL+accounts, nil)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		_, inDoubt := failover.InDoubt(resp, nil)
		assert.True(t, inDoubt)
		_, inDoubt = failover.InDoubt(resp, errReset)
		assert.False(t, inDoubt, "http.Client goes by the error, too")
	})
}

// Each attempt in doubt is listed at the endpoint where it was made.
func TestEveryAttemptInDoubtIsListedWhereItWasMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		base := &script{probe: onlyAlternateServes, answers: answers(refuse(errReset), refuse(errReset), refuse(errReset), plain503, refuse(errDial))}
		transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		req, err := http.NewRequest(http.MethodDelete, orgURL+accounts+"(00000000-0000-4000-8000-000000000001)", nil)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		fault, inDoubt := failover.InDoubt(resp, err)
		require.True(t, inDoubt)
		assert.Equal(t, failover.Alternate, fault.Endpoint)
		left := transport.Status().Loss
		require.NotNil(t, left)
		assert.Equal(t, failover.Primary, left.From)
		assert.Len(t, left.Unknown, 1, "three attempts at the primary")
		base.probe = onlyPrimaryServes
		require.NoError(t, transport.Switch(t.Context(), failover.Primary, "by hand"))
		left = transport.Status().Loss
		assert.Equal(t, failover.Alternate, left.From)
		require.Len(t, left.Unknown, 1, "one at the alternate")
		assert.Equal(t, 503, left.Unknown[0].Status)
	})
}

func TestTheLogNamesTheWriteInDoubt(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	transport, err := failover.New(orgURL, &failover.Config{Base: &script{answers: answers(refuse(errReset)), probe: onlyPrimaryServes}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(failover.WithLabel(t.Context(), "order 7"), http.MethodPost, orgURL+accounts+"?token=canary", nil)
	require.NoError(t, err)
	_, err = transport.RoundTrip(req)
	require.ErrorIs(t, err, failover.ErrOutcomeUnknown)
	transport.Close() // waits for the log
	assert.Contains(t, log.String(), `label="order 7"`)
	assert.Contains(t, log.String(), "path="+accounts)
	assert.NotContains(t, log.String(), "canary")
}

// A bulk request may be half done when an answer says that it was refused.
func TestABulkRequestIsNotRepeatedOnTheWordOfAFence(t *testing.T) {
	t.Parallel()
	executeMultiple := soap12("Execute", `<request i:type="c:OrganizationRequest"><x:RequestName>ExecuteMultiple</x:RequestName></request>`)
	for _, test := range []struct {
		name, path, contentType, body string
		sent                          int
	}{
		{"create", accounts, "application/json", "{}", 2},
		{"CreateMultiple", accounts + "/Microsoft.Dynamics.CRM.CreateMultiple", "application/json", "{}", 1},
		{"UpsertMultiple", accounts + "/UpsertMultiple", "application/json", "{}", 1},
		{"ExecuteMultiple", soapService, "application/soap+xml; charset=utf-8", executeMultiple, 1},
		{"SOAP create", soapService, "application/soap+xml; charset=utf-8", soapCreate, 2},
		{"batch", "/api/data/v9.2/$batch", "multipart/mixed; boundary=b", "--b--", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				base := &script{probe: onlyAlternateServes, answers: answers(fence, answer(204, ""))}
				transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				defer transport.Close()
				req, err := http.NewRequest(http.MethodPost, orgURL+test.path, strings.NewReader(test.body))
				require.NoError(t, err)
				req.Header.Set("Content-Type", test.contentType)
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				_, inDoubt := failover.InDoubt(resp, err)
				assert.Equal(t, test.sent == 1, inDoubt)
				assert.Len(t, base.sent, test.sent)
			})
		})
	}
}

// The error of a call whose context ended says so, even if it ended during a pause.
func TestTheErrorAfterAPauseNamesTheEndOfTheContext(t *testing.T) {
	t.Parallel()
	enough := fmt.Errorf("enough")
	for name, start := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		},
		"deadline with a cause": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, time.Second, enough)
		},
		"canceled with a cause": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(time.Second, func() { cancel(enough) })
			return ctx, func() { cancel(nil) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				hanging := func(req *http.Request) (*http.Response, error) {
					<-req.Context().Done()
					return nil, req.Context().Err()
				}
				base := &script{probe: hanging, answers: answers(refuse(errDial))}
				transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				defer transport.Close()
				ctx, cancel := start(t.Context())
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, orgURL+accounts, nil)
				require.NoError(t, err)
				_, err = transport.RoundTrip(req)
				require.Error(t, ctx.Err(), "it has waited for a decision")
				assert.ErrorIs(t, err, ctx.Err())
				assert.ErrorIs(t, err, context.Cause(ctx))
				assert.ErrorIs(t, err, errDial)
				var failure *failover.Error
				require.ErrorAs(t, err, &failure)
				assert.Equal(t, ctx.Err() == context.DeadlineExceeded, failure.Timeout())
			})
		})
	}
}

// Callers take a refused connection, or a name without an address, for proof that nothing was
// sent, and repeat what looks temporary. The error of a write in doubt says no more of either
// than a bare client's, whatever other attempts and the probes have met.
func TestAnErrorInDoubtProvesNothing(t *testing.T) {
	t.Parallel()
	noName := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "server misbehaving", IsTemporary: true}}
	for name, test := range map[string]struct {
		probe    error
		attempts []func(*http.Request) (*http.Response, error) // of the second call
	}{
		"probe refused":          {errDial, answers(refuse(errReset))},
		"no name for the probe":  {noName, answers(refuse(errReset))},
		"probe late":             {os.ErrDeadlineExceeded, answers(refuse(errReset))},
		"attempt before refused": {nil, answers(refuse(errDial), refuse(errReset))},
		"no name before":         {nil, answers(refuse(noName), refuse(errReset))},
		"fenced before":          {nil, answers(fence, refuse(errReset))},
	} {
		synctest.Test(t, func(t *testing.T) {
			base := &script{probe: serves, answers: answers(answer(204, ""))}
			if test.probe != nil {
				base.probe, base.answers = refuse(test.probe), answers(refuse(errReset))
			}
			base.answers = append(base.answers, test.attempts...)
			transport, err := failover.New(orgURL, &failover.Config{Base: base, FailureThreshold: len(test.attempts), Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			defer transport.Close()
			client := &http.Client{Transport: transport}
			_, err = client.Post(orgURL+accounts, "application/json", strings.NewReader("{}"))
			require.Equal(t, test.probe != nil, err != nil, name)
			synctest.Wait()
			require.Equal(t, test.probe != nil, transport.Status().Down, name)
			_, err = client.Post(orgURL+accounts, "application/json", strings.NewReader("{}"))

			require.ErrorIs(t, err, failover.ErrOutcomeUnknown, name)
			require.ErrorIs(t, err, syscall.ECONNRESET, name)
			var e *failover.Error
			require.ErrorAs(t, err, &e)
			assert.Len(t, e.Attempts, 2, "%s: it is told of", name)
			assert.NotErrorIs(t, err, syscall.ECONNREFUSED, name)
			assert.NotErrorIs(t, err, os.ErrDeadlineExceeded, name)
			var dns *net.DNSError
			assert.NotErrorAs(t, err, &dns, name)
			var f *failover.Fault
			require.ErrorAs(t, err, &f)
			assert.Equal(t, failover.Unknown, f.Delivery, name)
			asBare := err.(interface {
				Timeout() bool
				Temporary() bool
			})
			assert.False(t, asBare.Timeout(), name)
			assert.False(t, asBare.Temporary(), name)
		})
	}
}

// Without an attempt, none has timed out, whatever the probes met.
func TestNoAttemptHasTimedOutThatWasNotMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		base := &script{probe: refuse(os.ErrDeadlineExceeded), answers: answers(refuse(errReset))}
		transport, err := failover.New(orgURL, &failover.Config{Base: base, FailureThreshold: 1, FailFast: true, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		for range 2 {
			_, err = (&http.Client{Transport: transport}).Post(orgURL+accounts, "application/json", strings.NewReader("{}"))
			synctest.Wait()
		}
		assert.Len(t, base.sent, 1)
		require.ErrorIs(t, err, failover.ErrUnavailable)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.False(t, err.(net.Error).Timeout())
	})
}
