package auth_test

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/auth"
)

// A Source is called in the background: its panic is an error of those who need the token,
// and the end of nothing else.
func TestASourceThatPanicsHasFailed(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(){"panic": func() { panic("eyJsecret") }, "exit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var broken atomic.Bool
				broken.Store(true)
				tokens, err := auth.New(auth.Config{Organization: orgURL, Source: func(context.Context, string) (azcore.AccessToken, error) {
					if broken.Load() {
						fail()
					}
					return azcore.AccessToken{Token: "contoso", ExpiresOn: time.Now().Add(time.Hour)}, nil
				}})
				require.NoError(t, err)
				defer tokens.Close()
				req, err := http.NewRequestWithContext(t.Context(), "GET", orgURL+accounts, nil)
				require.NoError(t, err)
				assert.EqualError(t, tokens.Authorize(req), "auth: no token for "+primary+": the Source panicked")
				synctest.Wait()
				assert.ErrorContains(t, tokens.State(failover.Alternate).Err, "the Source panicked")
				broken.Store(false)
				time.Sleep(time.Minute)
				assert.NoError(t, tokens.Authorize(req), "it is asked again")
			})
		})
	}
}

// Whoever waits for a token while the one for the other endpoint expires is told so.
func TestATokenThatComesTooLateIsNotToldAsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Bool // for the alternate's
		tokens, err := auth.New(auth.Config{Organization: orgURL, Source: func(ctx context.Context, scope string) (azcore.AccessToken, error) {
			if strings.HasPrefix(scope, primary) || asked.Swap(true) {
				<-ctx.Done()
				return azcore.AccessToken{}, ctx.Err()
			}
			return azcore.AccessToken{Token: "contoso", ExpiresOn: time.Now().Add(11 * time.Second)}, nil
		}})
		require.NoError(t, err)
		defer tokens.Close()
		synctest.Wait()
		req, err := http.NewRequestWithContext(t.Context(), "GET", orgURL+accounts, nil)
		require.NoError(t, err)
		assert.EqualError(t, tokens.Authorize(req), "auth: no token for "+primary+": the sign-in service has not answered yet")
	})
}

// A Source that never returns fails like any other, and is called again only when it has.
func TestASourceThatHangsHasFailed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var hangs atomic.Bool
		hangs.Store(true)
		var calls atomic.Int32
		tokens, err := auth.New(auth.Config{Organization: orgURL, Source: func(context.Context, string) (azcore.AccessToken, error) {
			calls.Add(1)
			if hangs.Load() {
				<-release
			}
			return azcore.AccessToken{Token: "contoso", ExpiresOn: time.Now().Add(time.Hour)}, nil
		}})
		require.NoError(t, err)
		req, err := http.NewRequestWithContext(t.Context(), "GET", orgURL+accounts, nil)
		require.NoError(t, err)
		const message = "auth: no token for " + primary + ": the Source does not return"
		for began := time.Now(); time.Since(began) < 10*time.Minute; time.Sleep(time.Second) {
			require.EqualError(t, tokens.Authorize(req), message)
		}
		assert.EqualValues(t, 2, calls.Load(), "for each audience")
		hangs.Store(false)
		release <- struct{}{}
		release <- struct{}{}
		time.Sleep(time.Minute)
		assert.NoError(t, tokens.Authorize(req))
		assert.EqualValues(t, 4, calls.Load())

		hangs.Store(true)
		time.Sleep(40 * time.Minute)
		assert.EqualValues(t, 6, calls.Load(), "it hangs in a renewal")
		assert.NoError(t, tokens.Authorize(req))
		began := time.Now()
		tokens.Close()
		assert.LessOrEqual(t, time.Since(began), time.Second)
		close(release)
	})
}
