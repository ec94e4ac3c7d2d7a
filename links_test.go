package failover_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

func TestStoredLinksWorkInEveryState(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		hosts := []string{
			"contoso.api.crm.dynamics.com", "contoso--s.api.crm.dynamics.com",
			"contoso.crm.dynamics.com", "contoso--s.crm.dynamics.com", "CONTOSO.api.crm.dynamics.com:443",
		}
		check := func(state string) {
			for _, host := range hosts {
				status, err := s.try(s.Context(), http.MethodGet, "https://"+host+accounts, "")
				require.NoError(s, err, "%s, %s", state, host)
				assert.Equal(s, 200, status, "%s, %s", state, host)
			}
		}
		check("at home")
		assert.Empty(s, s.org.Alternate().Deliveries())
		s.org.FailOver()
		check("failed over")
		assert.Equal(s, failover.Alternate, s.active())
		for _, r := range s.org.Alternate().Deliveries() {
			assert.Contains(s, r.Host, "contoso--s.")
		}
		s.org.FailBack()
		check("back at home")
		assert.Equal(s, failover.Primary, s.active())
	})
}

func TestPagesFollowAcrossTheFailover(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		next, seen := s.org.URL()+accounts, 0
		for page := 0; next != ""; page++ {
			if page == 1 {
				s.org.Disaster(failovertest.Refuse())
			}
			resp, err := s.client.Get(next)
			require.NoError(s, err)
			require.Equal(s, 200, resp.StatusCode)
			var list struct {
				Value []struct{ Name string }
				Next  string `json:"@odata.nextLink"`
			}
			decode(s, resp, &list)
			seen += len(list.Value)
			next = list.Next
		}
		assert.Equal(s, 25, seen)
	})
}

func TestLinksOfTheAlternateNameThePrimary(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.FailOver()
		resp, err := s.client.Post(s.org.URL()+accounts, "application/json", strings.NewReader(`{"name":"Contoso"}`))
		require.NoError(s, err)
		resp.Body.Close()
		assert.True(s, strings.HasPrefix(resp.Header.Get("OData-EntityId"), s.org.URL()+accounts+"("), resp.Header.Get("OData-EntityId"))
		assert.Equal(s, "contoso.api.crm.dynamics.com", resp.Request.URL.Host)
	})
}

func TestOtherHostsPassThroughUntouched(t *testing.T) {
	t.Parallel()
	var seen []*http.Request
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		seen = append(seen, req)
		return nil, errors.New("contoso: no route")
	})
	transport, err := failover.New("https://contoso.api.crm.dynamics.com", &failover.Config{
		Base: base, Authorize: func(*http.Request) error { panic("credentials for a stranger") },
	})
	require.NoError(t, err)
	defer transport.Close()
	for _, url := range []string{
		"https://fabrikam.api.crm.dynamics.com/", "http://contoso.api.crm.dynamics.com/", "https://contoso.api.crm.dynamics.com:8443/",
		"https://contoso.api.crm.dynamics.com.evil.example/", "https://login.microsoftonline.com/",
	} {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		require.NoError(t, err)
		_, err = transport.RoundTrip(req)
		assert.EqualError(t, err, "contoso: no route")
		assert.Same(t, req, seen[len(seen)-1], url)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
