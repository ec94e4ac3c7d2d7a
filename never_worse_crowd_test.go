package failover_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// pairBase is a pair of endpoints as a Base that counts requests.
type pairBase struct {
	primary, alternate             atomic.Pointer[func(*http.Request) (*http.Response, error)] // including probes
	probes, atPrimary, atAlternate atomic.Int32
}

func newPairBase() *pairBase {
	p := new(pairBase)
	p.set(serves, fence)
	return p
}

func (p *pairBase) set(primary, alternate func(*http.Request) (*http.Response, error)) {
	p.primary.Store(&primary)
	p.alternate.Store(&alternate)
}

func (p *pairBase) RoundTrip(req *http.Request) (*http.Response, error) {
	side, count := &p.primary, &p.atPrimary
	if strings.HasPrefix(req.URL.Host, "contoso--s.") {
		side, count = &p.alternate, &p.atAlternate
	}
	if strings.HasSuffix(req.URL.Path, "/WhoAmI") {
		count = &p.probes
	}
	count.Add(1)
	time.Sleep(20 * time.Millisecond)
	return (*side.Load())(req)
}

func silence(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// reader returns a function that reads with a token, and reports whether it got a healthy
// answer.
func reader(t *testing.T, rt http.RoundTripper, path string) func(token string, patience time.Duration) bool {
	return func(token string, patience time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, orgURL+path, nil)
		assert.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := rt.RoundTrip(req)
		return err == nil && resp.StatusCode == 200
	}
}

func TestTenThousandReadersInSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		base := newPairBase()
		transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: quiet})
		require.NoError(t, err)
		defer transport.Close()
		read := reader(t, transport, accounts)
		require.True(t, read("contoso", time.Minute))
		time.Sleep(time.Minute)
		base.set(silence, serves)
		const callers = 10_000
		var good atomic.Int32
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				if read("contoso", 17*time.Second) {
					good.Add(1)
				}
			})
		}
		all.Wait()
		assert.GreaterOrEqual(t, good.Load(), int32(callers*98/100))
		assert.LessOrEqual(t, base.atAlternate.Load(), int32(callers))
		assert.LessOrEqual(t, base.probes.Load(), int32(4))
		assert.EqualValues(t, 1, transport.Status().Generation)
	})
}

// While Down, every new token is a reason to probe, but many new tokens cause no storm of
// probes.
func TestManyTokensWhileDownAreNoStormOfProbes(t *testing.T) {
	for name, cfg := range map[string]failover.Config{"fails open": {}, "fails fast": {FailFast: true}, "waits": {WaitForUp: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				base := newPairBase()
				cfg.Base, cfg.Logger = base, quiet
				transport, err := failover.New(orgURL, &cfg)
				require.NoError(t, err)
				defer transport.Close()
				read := reader(t, transport, accounts)
				base.set(answer(503, ""), answer(401, "", "WWW-Authenticate", "Bearer"))
				for range 3 {
					read("contoso", time.Second)
				}
				require.True(t, transport.Status().Down)
				base.probes.Store(0)
				var all sync.WaitGroup
				for i := range 5_000 {
					all.Go(func() { read(fmt.Sprint("user-", i), time.Second) })
					time.Sleep(2 * time.Millisecond)
				}
				all.Wait()
				assert.LessOrEqual(t, base.probes.Load(), int32(100), "in some ten seconds, of two endpoints: four a second of each")
			})
		})
	}
}

// One mistake of many callers must not hide a real outage: here a query that always fails
// while the endpoint passes its probes.
func TestAPoisonousQueryDoesNotHideAnOutage(t *testing.T) {
	for name, test := range map[string]struct {
		outage func(*http.Request) (*http.Response, error)
		within time.Duration
	}{
		"of the same kind":    {answer(503, ""), 6 * time.Second},
		"of another kind":     {refuse(errDial), time.Second},
		"said by the service": {fence, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				base := newPairBase()
				transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: quiet})
				require.NoError(t, err)
				defer transport.Close()
				base.set(func(req *http.Request) (*http.Response, error) {
					if strings.HasSuffix(req.URL.Path, "/poison") {
						return answer(503, "")(req)
					}
					return serves(req)
				}, fence)
				ctx, stop := context.WithCancel(t.Context())
				poison := reader(t, transport, "/api/data/v9.2/poison")
				var callers sync.WaitGroup
				for range 10 {
					callers.Go(func() {
						for ctx.Err() == nil {
							poison("contoso", time.Minute)
							time.Sleep(100 * time.Millisecond)
						}
					})
				}
				time.Sleep(10 * time.Minute)
				require.Equal(t, failover.Primary, transport.Status().Active)
				base.set(test.outage, serves)
				begun := time.Now()
				for transport.Status().Active == failover.Primary && time.Since(begun) < time.Minute {
					time.Sleep(10 * time.Millisecond)
				}
				assert.Less(t, time.Since(begun), test.within)
				stop()
				callers.Wait()
			})
		})
	}
}

// Authorize treats probes as it does requests: a nil pointer returned as an error is none, and
// a panic is contained and named.
func TestAuthorizeOfProbesMayDoWhatItLikes(t *testing.T) {
	var nothing *failover.Fault
	for name, test := range map[string]struct {
		authorize func(*http.Request) error
		passes    bool
		logged    string
	}{
		"typed nil": {func(*http.Request) error { return nothing }, true, ""},
		"panics":    {func(*http.Request) error { panic("canary") }, false, "function=Config.Authorize"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				base := newPairBase()
				base.set(refuse(errDial), serves)
				transport, err := failover.New(orgURL, &failover.Config{Base: base, Authorize: test.authorize, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				require.NoError(t, err)
				err = transport.Switch(t.Context(), failover.Alternate, "by hand")
				assert.Equal(t, test.passes, err == nil, "%v", err)
				transport.Close()
				assert.Contains(t, log.String(), test.logged)
			})
		})
	}
}

// A ConfirmSwitch that returns a nil pointer as an error has agreed; one that returns an error
// without a text has not.
func TestConfirmSwitchMayReturnWhatItLikes(t *testing.T) {
	var nothing *failover.Fault
	for name, test := range map[string]struct {
		err   error
		moves bool
	}{"typed nil": {nothing, true}, "no text": {textless{}, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				base := newPairBase()
				base.set(refuse(errDial), serves)
				transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: quiet,
					ConfirmSwitch: func(context.Context, failover.Switch) error { return test.err }})
				require.NoError(t, err)
				defer transport.Close()
				assert.Equal(t, test.moves, reader(t, transport, accounts)("contoso", time.Minute))
			})
		})
	}
}

type textless struct{}

func (textless) Error() string { panic("canary") }
