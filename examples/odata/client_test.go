package main

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// withClient runs a test with a client of a simulated organization, in a synctest bubble.
func withClient(t *testing.T, test func(t *testing.T, org *failovertest.Org, client *Client)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		hc, transport, err := failover.Wrap(nil, org.URL(), &failover.Config{Base: org.Transport(), Authorize: org.Authorize})
		require.NoError(t, err)
		defer transport.Close()
		test(t, org, &Client{HTTP: hc, Root: org.URL() + "/api/data/v9.2/"})
	})
}

// requests counts the requests with a method that reached a datacenter, except probes.
func requests(d *failovertest.Datacenter, method string) int {
	n := 0
	for _, r := range d.Deliveries() {
		if r.Method == method && !strings.HasSuffix(r.Path, "/WhoAmI") {
			n++
		}
	}
	return n
}

func TestAccountsFollowsNextLinks(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		seen := make(map[string]bool)
		for account, err := range client.Accounts(t.Context(), 10) {
			require.NoError(t, err)
			seen[account.ID] = true
		}
		assert.Len(t, seen, 25)
		assert.Equal(t, 3, requests(org.Primary(), http.MethodGet))
	})
}

func TestAccountsReadsNoPageThatIsNotWanted(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		n := 0
		for _, err := range client.Accounts(t.Context(), 10) {
			require.NoError(t, err)
			if n++; n == 12 {
				break
			}
		}
		assert.Equal(t, 2, requests(org.Primary(), http.MethodGet))
	})
}

func TestAListSurvivesAFailoverAndAFailBackHalfWay(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		seen := make(map[string]bool)
		for account, err := range client.Accounts(t.Context(), 5) {
			require.NoError(t, err)
			seen[account.ID] = true
			switch len(seen) {
			case 6:
				org.Disaster(failovertest.Refuse())
			case 16:
				org.Primary().Heal()
				org.FailBack()
			}
		}
		assert.Len(t, seen, 25)
		assert.NotZero(t, requests(org.Alternate(), http.MethodGet), "pages from the alternate")
	})
}

func TestAnErrorEndsTheList(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.Query().Has("$skiptoken") },
			failovertest.Status(http.StatusBadRequest, nil, `{"error":{"code":"0x80060888","message":"no"}}`))
		n, failures := 0, 0
		for _, err := range client.Accounts(t.Context(), 10) {
			if err != nil {
				failures++
				assert.EqualError(t, err, "status 400 0x80060888 no")
			} else {
				n++
			}
		}
		assert.Equal(t, 10, n)
		assert.Equal(t, 1, failures)
	})
}

func TestUpdateReadsAgainWhenSomebodyElseHasWritten(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		id, calls := failovertest.SeedID(3), 0
		err := client.Update(t.Context(), id, func(a *Account) {
			if calls++; calls == 1 {
				require.NoError(t, client.Update(t.Context(), id, func(a *Account) { a.Description = "theirs" }))
			}
			a.Name = "ours, after " + a.Description
		})
		require.NoError(t, err)
		assert.Equal(t, 2, calls)
		account, err := client.Account(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, "ours, after theirs", account.Name)
		assert.Equal(t, "theirs", account.Description)
	})
}

func TestUpdateGivesUpWhenItNeverComesFirst(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		org.Primary().FailWhen(func(r *http.Request) bool { return r.Method == http.MethodPatch },
			failovertest.Status(http.StatusPreconditionFailed, nil, ""))
		err := client.Update(t.Context(), failovertest.SeedID(1), func(*Account) {})
		assert.True(t, isStatus(err, http.StatusPreconditionFailed), "%v", err)
		assert.Equal(t, maxTries, requests(org.Primary(), http.MethodPatch))
	})
}

func TestThrottledRequestsWaitAsLongAsAsked(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		org.Primary().FailNext(2, failovertest.Throttle(7*time.Second))
		start := time.Now()
		require.NoError(t, client.Create(t.Context(), Account{ID: NewID(), Name: "Contoso"}))
		assert.Equal(t, 14*time.Second, time.Since(start))
		assert.Equal(t, 3, requests(org.Primary(), http.MethodPost))
		assert.Empty(t, org.Alternate().Deliveries(), "throttling is no reason to switch")
	})
}

func TestThrottlingWithoutEndIsAnError(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		org.Primary().Fail(failovertest.Throttle(time.Second))
		_, err := client.Account(t.Context(), failovertest.SeedID(1))
		assert.True(t, isStatus(err, http.StatusTooManyRequests), "%v", err)
		assert.Equal(t, maxTries, requests(org.Primary(), http.MethodGet))
	})
}

func TestTheWaitForThrottlingEndsWithTheContext(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		org.Primary().Fail(failovertest.Throttle(time.Minute))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		_, err := client.Account(ctx, failovertest.SeedID(1))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 5*time.Second, time.Since(start))
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tests := map[string]struct {
			value string
			want  time.Duration
		}{
			"seconds":            {"12", 12 * time.Second},
			"absent":             {"", time.Second},
			"not a number":       {"soon", time.Second},
			"negative":           {"-3", time.Second},
			"a date":             {time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat), 20 * time.Second},
			"a date in the past": {time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), time.Second},
		}
		for name, test := range tests {
			got := retryAfter(http.Header{"Retry-After": {test.value}})
			assert.Equal(t, test.want, got, name)
		}
	})
}

func TestACreateWhoseAnswerIsLostMakesOneAccount(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
		id := NewID()
		require.NoError(t, client.Create(t.Context(), Account{ID: id, Name: "Contoso"}))
		assert.Equal(t, 2, requests(org.Primary(), http.MethodPost))
		assert.Len(t, org.Primary().Rows("accounts"), 26)
		_, ok := org.Primary().Lookup("accounts", id)
		assert.True(t, ok)
	})
}

func TestAReadWhoseAnswerBreaksOffIsRepeated(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		org.Primary().FailNext(1, failovertest.Truncate(20))
		account, err := client.Account(t.Context(), failovertest.SeedID(4))
		require.NoError(t, err)
		assert.Equal(t, "Account 04", account.Name)
	})
}

func TestDeleteOfWhatIsNotThereIsNoError(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		require.NoError(t, client.Delete(t.Context(), failovertest.SeedID(1)))
		require.NoError(t, client.Delete(t.Context(), failovertest.SeedID(1)))
		assert.Len(t, org.Primary().Rows("accounts"), 24)
	})
}

func TestErrorsDoNotQuoteQueries(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		org.Primary().Fail(failovertest.Refuse())
		_, err := client.Account(t.Context(), failovertest.SeedID(1))
		require.ErrorIs(t, err, failover.ErrUnavailable)
		assert.NotContains(t, err.Error(), "select")
	})
}

func TestOnCallNamesTheHostThatAnswered(t *testing.T) {
	withClient(t, func(t *testing.T, org *failovertest.Org, client *Client) {
		var hosts []string
		client.OnCall = func(c Call) { hosts = append(hosts, c.Host) }
		for range 2 {
			_, err := client.Account(t.Context(), failovertest.SeedID(1))
			require.NoError(t, err)
			org.Disaster(failovertest.Refuse())
		}
		assert.Equal(t, []string{org.Primary().Host(), org.Alternate().Host()}, hosts)
	})
}
