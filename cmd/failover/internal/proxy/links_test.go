package proxy

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// requireReasons requires that every row of a table has a name of its own and a
// reason to be there.
func requireReasons[T any](t *testing.T, rows []T, of func(T) (name, why string)) {
	t.Helper()
	seen := make(map[string]bool)
	for _, row := range rows {
		name, why := of(row)
		require.NotEmpty(t, name)
		require.NotEmpty(t, why, name)
		require.False(t, seen[name], "two rows %q", name)
		seen[name] = true
	}
}

const proxyOrigin = "http://127.0.0.1:8365"

// toProxy maps what a Dataverse organization calls itself.
func toProxy(t testing.TB) mapping {
	t.Helper()
	return organizationAt(t, "https://contoso.api.crm4.dynamics.com", "").links(proxyOrigin)
}

func organizationAt(t testing.TB, orgURL, alternate string) organization {
	t.Helper()
	transport, err := failover.New(orgURL, &failover.Config{Alternate: alternate})
	require.NoError(t, err)
	t.Cleanup(func() { transport.Close() })
	org, err := newOrganization(transport)
	require.NoError(t, err)
	return org
}

func TestMappingURLs(t *testing.T) {
	t.Parallel()
	type row struct{ name, why, in, want string }
	rows := []row{
		{"primary", "the usual link", "https://contoso.api.crm4.dynamics.com/api/data/v9.2/accounts?x=1#f", proxyOrigin + "/api/data/v9.2/accounts?x=1#f"},
		{"alternate", "answers of the alternate name it", "https://contoso--s.api.crm4.dynamics.com/a", proxyOrigin + "/a"},
		{"without api", "Dataverse has two names for one organization", "https://contoso.crm4.dynamics.com/a", proxyOrigin + "/a"},
		{"alternate without api", "the same there", "https://contoso--s.crm4.dynamics.com/a", proxyOrigin + "/a"},
		{"origin alone", "nothing has to follow", "https://contoso.crm4.dynamics.com", proxyOrigin},
		{"query without a path", "RFC 3986 allows it", "https://contoso.crm4.dynamics.com?a", proxyOrigin + "?a"},
		{"upper case", "host names have no case", "HTTPS://Contoso.CRM4.dynamics.com/A", proxyOrigin + "/A"},
		{"default port", "the same origin", "https://contoso.crm4.dynamics.com:443/a", proxyOrigin + "/a"},
		{"trailing dot", "the same host", "https://contoso.crm4.dynamics.com./a", proxyOrigin + "/a"},
		{"other port", "another origin", "https://contoso.crm4.dynamics.com:8443/a", ""},
		{"other scheme", "another origin", "http://contoso.crm4.dynamics.com/a", ""},
		{"other organization", "not ours", "https://fabrikam.crm4.dynamics.com/a", ""},
		{"longer name", "a stranger's", "https://contoso.crm4.dynamics.com.example.com/a", ""},
		{"user information", "the host comes after it", "https://contoso.crm4.dynamics.com@example.com/a", ""},
		{"our user at our host", "not written by the service", "https://x@contoso.crm4.dynamics.com/a", ""},
		{"Kelvin sign", "not the letter K", "https://contoso.crm4.dynamics.com\u212a/a", ""},
		{"relative", "names no host", "/api/data/v9.2/accounts", ""},
		{"scheme-relative", "nobody writes it", "//contoso.crm4.dynamics.com/a", ""},
		{"text before it", "only the beginning counts", "see https://contoso.crm4.dynamics.com/a", ""},
		{"empty", "no URL", "", ""},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	m := toProxy(t)
	for _, r := range rows {
		got, ok := m.url(r.in)
		assert.Equal(t, r.want != "", ok, r.name)
		if r.want == "" {
			assert.Equal(t, r.in, got, r.name)
		} else {
			assert.Equal(t, r.want, got, r.name)
		}
	}
}

func TestOrganizationsOutsideDataverseHaveTheNamesGiven(t *testing.T) {
	t.Parallel()
	org := organizationAt(t, "https://contoso.operations.dynamics.com", "https://contoso-dr.operations.dynamics.com")
	assert.Equal(t, []string{"https://contoso.operations.dynamics.com", "https://contoso-dr.operations.dynamics.com"}, org.origins)
	org = organizationAt(t, "https://[::1]:8443", "https://localhost:9443")
	assert.Equal(t, []string{"https://[::1]:8443", "https://localhost:9443"}, org.origins)
}

func TestLinkHeadersAreMapped(t *testing.T) {
	t.Parallel()
	const link = "https://contoso.api.crm4.dynamics.com/api/data/v9.2/accounts(1)"
	h := http.Header{
		"Location": {link}, "Odata-Entityid": {link, "https://example.com/a"}, "X-Other": {link},
	}
	toProxy(t).headers(h)
	assert.Equal(t, http.Header{
		"Location":       {proxyOrigin + "/api/data/v9.2/accounts(1)"},
		"Odata-Entityid": {proxyOrigin + "/api/data/v9.2/accounts(1)", "https://example.com/a"},
		"X-Other":        {link},
	}, h)
}

func TestOnlyTheIDParameterOfAQueryIsMapped(t *testing.T) {
	t.Parallel()
	m := front{}.links("127.0.0.1:8365", "https://contoso.crm4.dynamics.com")
	const record = "https%3A%2F%2Fcontoso.crm4.dynamics.com%2Fapi%2Fdata%2Fv9.2%2Faccounts%281%29"
	type row struct{ name, why, in, want string }
	rows := []row{
		{"encoded", "as most clients do", "$id=http%3A%2F%2F127.0.0.1%3A8365%2Fapi%2Fdata%2Fv9.2%2Faccounts%281%29", "$id=" + record},
		{"plain", "as Microsoft's examples do", "a=1&$id=http://127.0.0.1:8365/api/data/v9.2/accounts(1)&b;c", "a=1&$id=" + record + "&b;c"},
		{"encoded name", "the same parameter", "%24id=http://localhost:8365/api/data/v9.2/accounts(1)", "%24id=" + record},
		{"relative", "names no host", "$id=accounts(1)", "$id=accounts(1)"},
		{"other parameter", "may be data", "$filter=url eq 'http://127.0.0.1:8365/'&xid=http://127.0.0.1:8365/", "$filter=url eq 'http://127.0.0.1:8365/'&xid=http://127.0.0.1:8365/"},
		{"malformed", "the organization may judge it", "$id=http://127.0.0.1:8365/%zz", "$id=http://127.0.0.1:8365/%zz"},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		assert.Equal(t, r.want, m.query(r.in), r.name)
	}
}

func TestFrontNames(t *testing.T) {
	t.Parallel()
	public, err := url.Parse("https://Dynamics.corp.example")
	require.NoError(t, err)
	type row struct{ name, why, host, want string }
	rows := []row{
		{"address", "of the machine itself", "127.0.0.1:8365", "http://127.0.0.1:8365"},
		{"localhost", "of the machine itself", "LocalHost:8365", "http://localhost:8365"},
		{"IPv6", "of the machine itself", "[::1]:8365", "http://[::1]:8365"},
		{"IPv6 without a port", "port 80", "[::1]", "http://[::1]"},
		{"network address", "no name that could be rebound", "10.1.2.3:80", "http://10.1.2.3"},
		{"another port", "a container's port may be mapped", "127.0.0.1:9000", "http://127.0.0.1:9000"},
		{"public", "the name given", "dynamics.corp.example", "https://Dynamics.corp.example"},
		{"public with a port", "another origin", "dynamics.corp.example:8365", ""},
		{"name of a web page", "DNS rebinding", "attacker.example:8365", ""},
		{"organization", "callers that think this is a forward proxy", "contoso.crm4.dynamics.com", ""},
		{"begins like localhost", "somebody's name", "localhost.attacker.example", ""},
		{"empty", "HTTP/1.0 without Host", "", ""},
		{"port that is none", "malformed", "127.0.0.1:http", ""},
		{"port too large", "malformed", "127.0.0.1:99999", ""},
		{"path in it", "malformed", "127.0.0.1/evil", ""},
		{"user in it", "malformed", "x@127.0.0.1", ""},
		{"zone", "of no use outside this machine", "[fe80::1%25eth0]:80", ""},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	for _, r := range rows {
		got, ok := front{public}.origin(r.host)
		assert.Equal(t, r.want != "", ok, r.name)
		assert.Equal(t, r.want, got, r.name)
	}
}

func TestLinksToTheProxyHaveAllItsNames(t *testing.T) {
	t.Parallel()
	public := &url.URL{Scheme: "https", Host: "dynamics.corp.example"}
	m := front{public}.links("10.1.2.3:8365", "https://contoso.crm4.dynamics.com")
	for _, own := range []string{"http://10.1.2.3:8365", "http://localhost:8365", "http://127.0.0.1:8365", "http://[::1]:8365", "https://dynamics.corp.example"} {
		got, ok := m.url(own + "/a")
		assert.True(t, ok, own)
		assert.Equal(t, "https://contoso.crm4.dynamics.com/a", got, own)
	}
	_, ok := m.url("http://127.0.0.1:8366/a")
	assert.False(t, ok, "another program's port")
	host, ok := m.host("localhost:8365")
	assert.True(t, ok)
	assert.Equal(t, "contoso.crm4.dynamics.com", host)
}
