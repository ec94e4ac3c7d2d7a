package failovertest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

// outcome is what a bare client sees of a request, and whether it was carried out.
type outcome struct {
	r       reply
	err     error
	applied bool // the record is there
}

// patience is how long a client waits for a failure, as short as possible if only the client ends
// the wait.
func patience(f failovertest.Failure) time.Duration {
	switch f {
	case failovertest.BlackHole(), failovertest.Hang(), failovertest.Delay(time.Hour):
		return time.Second // in which a busy machine can still send it
	}
	return time.Minute
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// failures are the outcomes of a POST with a fresh client, for every failure.
var failures = []struct {
	name    string
	reason  string
	failure failovertest.Failure
	check   func(t *testing.T, o outcome)
}{
	{"refuse", "a closed port answers with ECONNREFUSED while dialing", failovertest.Refuse(),
		func(t *testing.T, o outcome) {
			var op *net.OpError
			require.ErrorAs(t, o.err, &op)
			assert.Equal(t, "dial", op.Op)
			assert.True(t, wasRefused(o.err), "%v", o.err)
			assert.False(t, o.applied)
		}},
	{"no such host", "a name that left DNS is told from one that cannot be looked up", failovertest.NoSuchHost(),
		func(t *testing.T, o outcome) {
			var dns *net.DNSError
			require.ErrorAs(t, o.err, &dns)
			assert.True(t, dns.IsNotFound)
			assert.False(t, o.applied)
		}},
	{"black hole", "only the caller's patience ends it", failovertest.BlackHole(),
		func(t *testing.T, o outcome) {
			assert.True(t, isTimeout(o.err), "%v", o.err)
			assert.False(t, o.applied)
		}},
	{"hang", "the request arrives and gets no answer", failovertest.Hang(),
		func(t *testing.T, o outcome) {
			assert.True(t, isTimeout(o.err), "%v", o.err)
			assert.False(t, o.applied)
		}},
	{"bad certificate", "an unknown authority fails the handshake", failovertest.BadCertificate(),
		func(t *testing.T, o outcome) {
			var verification *tls.CertificateVerificationError
			require.ErrorAs(t, o.err, &verification)
			var unknown x509.UnknownAuthorityError
			assert.ErrorAs(t, o.err, &unknown)
		}},
	{"expired certificate", "an old certificate fails the handshake", failovertest.ExpiredCertificate(),
		func(t *testing.T, o outcome) {
			var verification *tls.CertificateVerificationError
			require.ErrorAs(t, o.err, &verification)
			var invalid x509.CertificateInvalidError
			require.ErrorAs(t, o.err, &invalid)
			assert.Equal(t, x509.Expired, invalid.Reason)
		}},
	{"reset before request", "nothing was carried out", failovertest.Reset(failovertest.BeforeRequest),
		func(t *testing.T, o outcome) {
			assert.True(t, wasReset(o.err), "%v", o.err)
			assert.False(t, o.applied)
		}},
	{"reset during request", "nothing was carried out", failovertest.Reset(failovertest.DuringRequest),
		func(t *testing.T, o outcome) {
			assert.True(t, wasReset(o.err), "%v", o.err)
			assert.False(t, o.applied)
		}},
	{"reset before answer", "nothing was carried out, which the caller cannot know", failovertest.Reset(failovertest.BeforeAnswer),
		func(t *testing.T, o outcome) {
			assert.True(t, wasReset(o.err), "%v", o.err)
			assert.False(t, o.applied)
		}},
	{"reset after apply", "the unknown outcome: it was carried out", failovertest.Reset(failovertest.AfterApply),
		func(t *testing.T, o outcome) {
			assert.True(t, wasReset(o.err), "%v", o.err)
			assert.True(t, o.applied)
		}},
	{"reset mid body", "status and header arrive, the body does not", failovertest.Reset(failovertest.MidBody),
		func(t *testing.T, o outcome) {
			require.NoError(t, o.err)
			assert.Equal(t, 201, o.r.StatusCode)
			assert.Error(t, o.r.err)
			assert.NotEmpty(t, o.r.body)
			assert.True(t, o.applied)
		}},
	{"truncate", "the body ends too early", failovertest.Truncate(7),
		func(t *testing.T, o outcome) {
			require.NoError(t, o.err)
			assert.Error(t, o.r.err)
			assert.Len(t, o.r.body, 7)
			assert.True(t, o.applied)
		}},
	{"delay", "a slow answer is an answer", failovertest.Delay(20 * time.Millisecond),
		func(t *testing.T, o outcome) {
			require.NoError(t, o.err)
			assert.Equal(t, 201, o.r.StatusCode)
			assert.True(t, o.applied)
		}},
	{"delay longer than the caller waits", "carried out, and the caller never knows", failovertest.Delay(time.Hour),
		func(t *testing.T, o outcome) {
			assert.True(t, isTimeout(o.err), "%v", o.err)
			assert.True(t, o.applied)
		}},
	{"throttle", "service protection says how long to wait", failovertest.Throttle(17 * time.Second),
		func(t *testing.T, o outcome) {
			require.NoError(t, o.err)
			assert.Equal(t, 429, o.r.StatusCode)
			assert.Equal(t, "17", o.r.Header.Get("Retry-After"))
			assert.Equal(t, "0x80072322", o.r.code(t))
			assert.False(t, o.applied)
		}},
	{"status", "any answer can be given", failovertest.Status(502, http.Header{"Server": {"Contoso"}}, "oops"),
		func(t *testing.T, o outcome) {
			require.NoError(t, o.err)
			assert.Equal(t, 502, o.r.StatusCode)
			assert.Equal(t, "Contoso", o.r.Header.Get("Server"))
			assert.Equal(t, "oops", string(o.r.body))
			assert.False(t, o.applied)
		}},
	{"outage page", "Front Door answers for its origins", failovertest.OutagePage(),
		func(t *testing.T, o outcome) {
			require.NoError(t, o.err)
			assert.Equal(t, 503, o.r.StatusCode)
			assert.Equal(t, "text/html", o.r.Header.Get("Content-Type"))
			assert.Contains(t, string(o.r.body), "services aren't available")
		}},
	{"server busy", "an OData error whose code is a word", failovertest.ServerBusy(),
		func(t *testing.T, o outcome) {
			require.NoError(t, o.err)
			assert.Equal(t, 503, o.r.StatusCode)
			assert.Equal(t, "ServiceUnavailable", o.r.code(t))
		}},
	{"none", "the zero Failure lets the request through", failovertest.Failure{},
		func(t *testing.T, o outcome) {
			require.NoError(t, o.err)
			assert.Equal(t, 201, o.r.StatusCode)
			assert.True(t, o.applied)
		}},
}

// wasReset reports whether err is how a reset looks to a client. The kernel
// reports ECONNRESET once: an HTTP/2 client that learns of it while it writes
// reads an EOF.
func wasReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, wsaECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF)
}

func wasRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaECONNREFUSED)
}

// The sockets of Windows have numbers of their own.
const wsaECONNRESET, wsaECONNREFUSED = syscall.Errno(10054), syscall.Errno(10061)

func TestFailuresTableIsSound(t *testing.T) {
	t.Parallel()
	seen, words := make(map[string]bool), make(map[string]bool)
	for _, row := range failures {
		assert.NotEmpty(t, row.reason, "reason of %q", row.name)
		assert.False(t, seen[row.name], "%q occurs twice", row.name)
		seen[row.name] = true
		if word := row.failure.String(); !strings.HasPrefix(word, "status 503") { // two rows have it
			assert.False(t, words[word], "%q describes two failures", word)
			words[word] = true
		}
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	const id = "44444444-0000-0000-0000-000000000000"
	for _, row := range failures {
		attempt := func(t *testing.T, org *failovertest.Org, client *http.Client) outcome {
			client.Timeout = patience(row.failure)
			var o outcome
			o.r, o.err = send(t, org, client, "POST", org.URL()+api+"contacts",
				`{"contactid":"`+id+`","lastname":"`+strings.Repeat("x", 100)+`"}`, "Prefer: return=representation")
			_, o.applied = org.Primary().Lookup("contacts", id)
			return o
		}
		t.Run(row.name, func(t *testing.T) {
			for _, mode := range []string{"lasting", "on a connection that exists", "next only"} {
				t.Run(mode, func(t *testing.T) {
					both(t, nil, func(t *testing.T, org *failovertest.Org) {
						client := org.Client()
						if mode != "lasting" {
							must(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
						}
						if mode == "next only" {
							org.Primary().FailNext(1, row.failure)
						} else {
							org.Primary().Fail(row.failure)
						}
						row.check(t, attempt(t, org, client))
						client.Timeout = 0
						if mode != "next only" {
							org.Primary().Heal()
						}
						r := must(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
						assert.Equal(t, 200, r.StatusCode, "healed")
					})
				})
			}
		})
	}
}

func TestFailuresOverHTTP1(t *testing.T) {
	t.Parallel()
	for _, row := range failures {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			org := failovertest.Start(nil)
			defer org.Close()
			tr := org.Transport()
			tr.Protocols = new(http.Protocols)
			tr.Protocols.SetHTTP1(true)
			client := &http.Client{Transport: tr}
			must(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
			client.Timeout = patience(row.failure)
			org.Primary().Fail(row.failure)
			const id = "55555555-0000-0000-0000-000000000000"
			var o outcome
			o.r, o.err = send(t, org, client, "POST", org.URL()+api+"contacts",
				`{"contactid":"`+id+`"}`, "Prefer: return=representation")
			_, o.applied = org.Primary().Lookup("contacts", id)
			row.check(t, o)
			for _, d := range org.Primary().Deliveries() {
				assert.Equal(t, "HTTP/1.1", d.Proto)
			}
		})
	}
}

func TestBlackHoleSwallowsWhatIsUnderWayAndLetsGoWhenHealed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		client := org.Client()
		must(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
		org.Primary().Fail(failovertest.BlackHole())

		// The connection is idle and open: the request is sent, nobody reads it.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", org.URL()+api+"WhoAmI", nil)
		start := time.Now()
		_, err := client.Do(req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Minute, time.Since(start))
		assert.Len(t, org.Primary().Deliveries(), 1, "swallowed requests never arrive")

		// A dial under way goes through once the datacenter heals.
		done := make(chan error)
		go func() {
			_, err := send(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
			done <- err
		}()
		time.Sleep(10 * time.Second)
		org.Primary().Heal()
		require.NoError(t, <-done)

		// Without a deadline of its own it ends as a dialer's time limit would.
		org.Primary().FailNext(1, failovertest.BlackHole())
		start = time.Now()
		_, err = send(t, org, client, "GET", org.URL()+api+"WhoAmI", "")
		assert.True(t, isTimeout(err), "%v", err)
		assert.Equal(t, 30*time.Second, time.Since(start))
	})
}

func TestHangingRequestsEndWithClose(t *testing.T) {
	both(t, nil, func(t *testing.T, org *failovertest.Org) {
		arrived := make(chan struct{}, 2)
		when := func(method string) func(*http.Request) bool {
			return func(r *http.Request) bool {
				if r.Method == method {
					arrived <- struct{}{}
				}
				return r.Method == method
			}
		}
		org.Primary().FailWhen(when("POST"), failovertest.Hang())
		org.Primary().FailWhen(when("DELETE"), failovertest.Delay(time.Hour))
		errs := make(chan error, 2)
		client := org.Client()
		for _, method := range []string{"POST", "DELETE"} {
			go func() {
				_, err := send(t, org, client, method, org.URL()+api+"contacts", "{}")
				errs <- err
			}()
			<-arrived
		}
		org.Close()
		assert.Error(t, <-errs)
		assert.Error(t, <-errs)
	})
}

func TestFailWhenChoosesRequests(t *testing.T) {
	both(t, nil, func(t *testing.T, org *failovertest.Org) {
		client := org.Client()
		isPost := func(r *http.Request) bool { return r.Method == "POST" }
		org.Primary().FailWhen(isPost, failovertest.Status(418, nil, ""))
		org.Primary().FailNext(1, failovertest.Status(502, nil, ""))
		org.Primary().FailNext(1, failovertest.Failure{})
		for i, want := range []int{502, 204, 418, 418} {
			r := must(t, org, client, "POST", org.URL()+api+"contacts", "{}")
			assert.Equal(t, want, r.StatusCode, "request %d", i)
		}
		r := must(t, org, client, "GET", org.URL()+api+"contacts", "")
		assert.Equal(t, 200, r.StatusCode)
		assert.Len(t, r.json(t)["value"], 1)
		assert.Panics(t, func() { org.Primary().FailWhen(isPost, failovertest.Refuse()) })
	})
}

func TestDeliveries(t *testing.T) {
	both(t, nil, func(t *testing.T, org *failovertest.Org) {
		client := org.Client()
		must(t, org, client, "POST", org.URL()+api+"contacts?x=1", "{}", "X-Test-Id: one")
		org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
		_, err := send(t, org, client, "POST", org.URL()+api+"contacts", "{}")
		require.Error(t, err)
		got := org.Primary().Deliveries()
		require.Len(t, got, 2)
		assert.Equal(t, "POST", got[0].Method)
		assert.Equal(t, org.Primary().Host(), got[0].Host)
		assert.Equal(t, api+"contacts", got[0].Path)
		assert.Equal(t, "x=1", got[0].Query)
		assert.Equal(t, "one", got[0].ID)
		assert.Equal(t, org.URL(), got[0].Audience)
		assert.Equal(t, 204, got[0].Status)
		assert.True(t, got[0].Applied)
		assert.Empty(t, got[0].Header.Get("Authorization"))
		assert.Equal(t, "application/json", got[0].Header.Get("Content-Type"))
		assert.Equal(t, got[0].BodyHash, got[1].BodyHash)
		assert.Len(t, got[0].BodyHash, 64)
		assert.True(t, got[1].Applied)
		assert.Zero(t, got[1].Status)
		assert.Equal(t, "reset after apply", got[1].Failure.String())
		assert.Empty(t, org.Alternate().Deliveries())
		assert.Equal(t, 1, org.Primary().Connections())
		assert.Equal(t, 1, org.Primary().Dials())
	})
}
