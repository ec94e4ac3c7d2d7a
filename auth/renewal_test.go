package auth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
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

// source is a source of tokens for bubbles, without sockets.
type source struct {
	life  time.Duration
	delay time.Duration
	keeps time.Duration // returns the same token until so long before it expires
	fresh time.Duration // names this time for the renewal of tokens

	mu    sync.Mutex
	fails error
	asked []time.Time
	made  map[string]azcore.AccessToken
}

func (s *source) get(ctx context.Context, scope string) (azcore.AccessToken, error) {
	select {
	case <-time.After(s.delay):
	case <-ctx.Done():
		return azcore.AccessToken{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, time.Now())
	if s.fails != nil {
		return azcore.AccessToken{}, s.fails
	}
	if old := s.made[scope]; s.keeps > 0 && time.Until(old.ExpiresOn) > s.keeps {
		return old, nil
	}
	if s.made == nil {
		s.made = make(map[string]azcore.AccessToken)
	}
	s.made[scope] = azcore.AccessToken{Token: fmt.Sprint(scope, " ", len(s.asked)), ExpiresOn: time.Now().Add(s.life)}
	if s.fresh > 0 {
		token := s.made[scope]
		token.RefreshOn = time.Now().Add(s.fresh)
		s.made[scope] = token
	}
	return s.made[scope], nil
}

func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = err
}

func (s *source) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// bubble runs a test with Tokens of a source in a synctest bubble.
func bubble(t *testing.T, s *source, test func(t *testing.T, tokens *auth.Tokens)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tokens, err := auth.New(auth.Config{Organization: orgURL, Source: s.get})
		require.NoError(t, err)
		defer tokens.Close()
		test(t, tokens)
	})
}

func TestAllGoroutinesShareOneRequestForAToken(t *testing.T) {
	s := &source{life: time.Hour, delay: time.Second}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		var wg sync.WaitGroup
		var failed atomic.Int32
		for range 64 {
			wg.Go(func() {
				if tokens.Authorize(get(t.Context(), primary)) != nil || tokens.Authorize(get(t.Context(), alternate)) != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		assert.Zero(t, failed.Load())
		assert.Equal(t, 2, s.count())
	})
}

func TestTheContextOfTheRequestEndsTheWaitAndNobodyElses(t *testing.T) {
	s := &source{life: time.Hour, delay: 10 * time.Second}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		assert.ErrorIs(t, tokens.Authorize(get(ctx, primary)), context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(start))
		assert.NoError(t, tokens.Authorize(get(t.Context(), primary)))
		assert.Equal(t, 10*time.Second, time.Since(start), "the same request, not a second one")
	})
}

func TestNobodyWaitsForATokenThatIsRenewed(t *testing.T) {
	s := &source{life: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		synctest.Wait()
		s.delay = 20 * time.Second // the sign-in service becomes slow
		for start := time.Now(); time.Since(start) < 3*time.Hour; time.Sleep(time.Second) {
			before := time.Now()
			require.NoError(t, tokens.Authorize(get(t.Context(), alternate)))
			require.Zero(t, time.Since(before))
		}
		assert.Greater(t, s.count(), 6)
	})
}

func TestTokensAlwaysHaveHalfOfTheirLifeLeft(t *testing.T) {
	s := &source{life: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		least := time.Hour
		for range 24 * 60 {
			time.Sleep(time.Minute)
			for e := range failover.Endpoint(2) {
				least = min(least, time.Until(tokens.State(e).Expires))
			}
		}
		assert.Greater(t, least, 26*time.Minute, "half, less the jitter and the minute between two looks")
		assert.Less(t, s.count(), 2*24*3, "no more often than needed")
	})
}

func TestASourceThatKeepsTokensIsAskedInTime(t *testing.T) {
	s := &source{life: time.Hour, keeps: 5 * time.Minute} // as azidentity does
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		for range 24 * 60 {
			time.Sleep(time.Minute)
			require.Greater(t, time.Until(tokens.State(failover.Alternate).Expires), time.Minute)
		}
		assert.Less(t, s.count(), 2*24*8)
	})
}

func TestTheSignInServiceMayAskForAnEarlierRenewal(t *testing.T) {
	s := &source{life: 24 * time.Hour, fresh: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		time.Sleep(6*time.Hour + time.Minute)
		assert.Equal(t, 2+2*6, s.count())
	})
}

func TestTheSignInServiceMayNotAskForOneAllTheTime(t *testing.T) {
	s := &source{life: 24 * time.Hour, fresh: time.Millisecond}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		time.Sleep(time.Minute)
		assert.LessOrEqual(t, s.count(), 2*61)
	})
}

func TestAnOutageOfTheSignInServiceIsOutlivedByWarmTokens(t *testing.T) {
	s := &source{life: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		time.Sleep(27 * time.Minute)
		s.fail(errors.New("unreachable"))
		time.Sleep(27 * time.Minute)
		assert.NoError(t, tokens.Authorize(get(t.Context(), alternate)))
		time.Sleep(30 * time.Minute)
		start := time.Now()
		assert.EqualError(t, tokens.Authorize(get(t.Context(), alternate)), "auth: no token for https://contoso--s.crm.dynamics.com: an error of type *errors.errorString")
		assert.Zero(t, time.Since(start), "no request waits for what has just failed")
		s.fail(nil)
		time.Sleep(20 * time.Second)
		assert.NoError(t, tokens.Authorize(get(t.Context(), alternate)), "back by itself")
	})
}

func TestFailuresArePaused(t *testing.T) {
	s := &source{life: time.Hour, fails: errors.New("unreachable")}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		for range 600 {
			assert.Error(t, tokens.Authorize(get(t.Context(), primary)))
			time.Sleep(time.Second)
		}
		assert.Less(t, s.count(), 2*600/10)
		assert.Greater(t, s.count(), 2*600/20)
	})
}

func TestTheOtherEndpointsTokenStandsInWithoutALongWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tokens, err := auth.New(auth.Config{Organization: orgURL, Source: func(ctx context.Context, scope string) (azcore.AccessToken, error) {
			if strings.HasPrefix(scope, alternate) {
				<-ctx.Done() // hangs
				return azcore.AccessToken{}, ctx.Err()
			}
			return azcore.AccessToken{Token: "own", ExpiresOn: time.Now().Add(time.Hour)}, nil
		}})
		require.NoError(t, err)
		defer tokens.Close()
		require.NoError(t, tokens.Authorize(get(t.Context(), primary)))
		start := time.Now()
		req := get(t.Context(), alternate)
		require.NoError(t, tokens.Authorize(req))
		assert.Equal(t, "Bearer own", req.Header.Get("Authorization"))
		assert.Equal(t, 2*time.Second, time.Since(start), "less than a probe has")
	})
}

func TestARefusedTokenIsRenewedButNotInAStorm(t *testing.T) {
	s := &source{life: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		cfg := tokens.Configure(failover.Config{})
		require.NoError(t, tokens.Warm(t.Context()))
		synctest.Wait()
		for range 600 {
			req := get(t.Context(), primary)
			require.NoError(t, tokens.Authorize(req))
			cfg.Classify(&http.Response{StatusCode: 401, Request: req, Body: http.NoBody}, nil)
			time.Sleep(time.Second)
		}
		assert.InDelta(t, 2+600/30, s.count(), 3, "one in half a minute")
	})
}

func TestAfterCloseTokensAreUsedButNotRenewed(t *testing.T) {
	s := &source{life: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		require.NoError(t, tokens.Warm(t.Context()))
		require.NoError(t, tokens.Close())
		require.NoError(t, tokens.Close())
		assert.NoError(t, tokens.Authorize(get(t.Context(), primary)))
		time.Sleep(time.Hour)
		assert.EqualError(t, tokens.Authorize(get(t.Context(), primary)), "auth: no token for https://contoso.crm.dynamics.com: closed")
		assert.Equal(t, 2, s.count())
	})
}

func TestCloseEndsARequestUnderWay(t *testing.T) {
	s := &source{life: time.Hour, delay: time.Hour}
	bubble(t, s, func(t *testing.T, tokens *auth.Tokens) {
		start := time.Now()
		require.NoError(t, tokens.Close())
		assert.Zero(t, time.Since(start))
		assert.ErrorIs(t, tokens.Authorize(get(t.Context(), primary)), context.Canceled)
	})
}
