package proxy

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/d365failover/failover"
)

func TestCommandsHaveAnAddressOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.send(t, http.MethodGet, s.root()+"WhoAmI", "") // brings the token that probes need
	control := "http://" + s.servers.control.addr.String()
	for _, elsewhere := range []string{s.url + "/pin", "http://" + s.servers.admin.addr.String() + "/-/failover/pin", "http://" + s.servers.admin.addr.String() + "/pin"} {
		r := s.send(t, http.MethodPost, elsewhere, `{"endpoint":"primary","reason":"drill"}`, asJSON)
		assert.GreaterOrEqual(t, r.StatusCode, 400, elsewhere)
	}
	assert.False(t, s.transport.Status().Pinned)

	type row struct {
		name, why, host string
		headers         []string
		status          int
	}
	rows := []row{
		{"another site", "a page in a browser on this machine", "", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"another origin", "an older browser", "", []string{"Origin: https://evil.example"}, 403},
		{"another name", "DNS rebinding", "evil.example", nil, 421},
		{"a program", "on this machine", "", nil, 200},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		target := control
		if r.host != "" {
			target = "http://" + r.host
			s.caller.Transport = toAddress{s.servers.control.addr.String()}
		}
		got := s.send(t, http.MethodPost, target+"/pin", `{"endpoint":"primary","reason":"drill"}`, append(r.headers, asJSON, "Accept: application/json")...)
		assert.Equal(t, r.status, got.StatusCode, "%s: %s", r.name, got.body)
		assert.Equal(t, r.status == 200, s.transport.Status().Pinned, r.name)
		if r.host != "" {
			s.caller.Transport = http.DefaultTransport
		}
	}
	got := s.send(t, http.MethodPost, control+"/unpin", `{"reason":"drill"}`, asJSON, "Accept: application/json")
	assert.Equal(t, 200, got.StatusCode, got.body)
	s.org.FailOver()
	got = s.send(t, http.MethodPost, control+"/switch", `{"to":"alternate","reason":"drill"}`, asJSON, "Accept: application/json")
	assert.Equal(t, 200, got.StatusCode, got.body)
	assert.Equal(t, failover.Alternate, s.transport.Status().Active)
}

// toAddress sends requests to an address whatever their host.
type toAddress struct{ addr string }

func (a toAddress) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Host, req.URL.Host = req.URL.Host, a.addr
	return http.DefaultTransport.RoundTrip(req)
}
