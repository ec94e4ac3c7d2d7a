package failover

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/ascii"
)

type matchRow struct {
	urlRow
	url     url.URL
	variant int
	at      Endpoint
	ok      bool
}

var matchRows = []matchRow{
	{urlRow{"primary", "the common case"}, url.URL{Scheme: "https", Host: "contoso.crm4.dynamics.com"}, 0, Primary, true},
	{urlRow{"alternate", "a link stored during a failover"}, url.URL{Scheme: "https", Host: "contoso--s.crm4.dynamics.com"}, 0, Alternate, true},
	{urlRow{"primary, other form", "the same organization"}, url.URL{Scheme: "https", Host: "contoso.api.crm4.dynamics.com"}, 1, Primary, true},
	{urlRow{"alternate, other form", "the same organization"}, url.URL{Scheme: "https", Host: "contoso--s.api.crm4.dynamics.com"}, 1, Alternate, true},
	{urlRow{"upper case", "hosts have no case"}, url.URL{Scheme: "https", Host: "CONTOSO--S.CRM4.DYNAMICS.COM"}, 0, Alternate, true},
	{urlRow{"default port", "the same origin"}, url.URL{Scheme: "https", Host: "contoso.crm4.dynamics.com:443"}, 0, Primary, true},
	{urlRow{"empty port", "the same origin"}, url.URL{Scheme: "https", Host: "contoso.crm4.dynamics.com:"}, 0, Primary, true},
	{urlRow{"trailing dot", "the absolute form of the name"}, url.URL{Scheme: "https", Host: "contoso.crm4.dynamics.com."}, 0, Primary, true},
	{urlRow{"trailing dot and port", "both at once"}, url.URL{Scheme: "https", Host: "Contoso.crm4.dynamics.com.:443"}, 0, Primary, true},
	{urlRow{"opaque path", "a path that must not be normalized"}, url.URL{Scheme: "https", Host: "contoso.crm4.dynamics.com", Opaque: "/api/data%2F"}, 0, Primary, true},
	{urlRow{"opaque address", "the request line would name a host of its own"}, url.URL{Scheme: "https", Host: "contoso.crm4.dynamics.com", Opaque: "https://contoso.crm4.dynamics.com/api"}, 0, Primary, false},
	{urlRow{"opaque host", "the request line would name a host of its own"}, url.URL{Scheme: "https", Host: "contoso.crm4.dynamics.com", Opaque: "//contoso.crm4.dynamics.com/"}, 0, Primary, false},
	{urlRow{"two trailing dots", "no host"}, url.URL{Scheme: "https", Host: "contoso.crm4.dynamics.com.."}, 0, Primary, false},
	{urlRow{"other port", "another server"}, url.URL{Scheme: "https", Host: "contoso.crm4.dynamics.com:8443"}, 0, Primary, false},
	{urlRow{"port of http", "another server"}, url.URL{Scheme: "https", Host: "contoso.crm4.dynamics.com:80"}, 0, Primary, false},
	{urlRow{"plain http", "another origin"}, url.URL{Scheme: "http", Host: "contoso.crm4.dynamics.com"}, 0, Primary, false},
	{urlRow{"http with the port of https", "another origin"}, url.URL{Scheme: "http", Host: "contoso.crm4.dynamics.com:443"}, 0, Primary, false},
	{urlRow{"upper-case scheme", "net/http refuses it, and shall"}, url.URL{Scheme: "HTTPS", Host: "contoso.crm4.dynamics.com"}, 0, Primary, false},
	{urlRow{"no scheme", "net/http refuses it, and shall"}, url.URL{Host: "contoso.crm4.dynamics.com"}, 0, Primary, false},
	{urlRow{"no host", "nothing to compare"}, url.URL{Scheme: "https", Path: "/"}, 0, Primary, false},
	{urlRow{"other organization", "the common case of a foreign host"}, url.URL{Scheme: "https", Host: "fabrikam.crm4.dynamics.com"}, 0, Primary, false},
	{urlRow{"other region", "another organization"}, url.URL{Scheme: "https", Host: "contoso.crm.dynamics.com"}, 0, Primary, false},
	{urlRow{"suffix continued", "a stranger's host"}, url.URL{Scheme: "https", Host: "contoso.crm4.dynamics.com.evil.example"}, 0, Primary, false},
	{urlRow{"prefix", "a stranger's host"}, url.URL{Scheme: "https", Host: "evil-contoso.crm4.dynamics.com"}, 0, Primary, false},
	{urlRow{"long s", "U+017F folds to an s, in Unicode only"}, url.URL{Scheme: "https", Host: "contoso--ſ.crm4.dynamics.com"}, 0, Primary, false},
	{urlRow{"fullwidth dot", "U+FF0E is a dot, in IDNA only"}, url.URL{Scheme: "https", Host: "contoso．crm4.dynamics.com"}, 0, Primary, false},
	{urlRow{"user in host", "net/url keeps them apart"}, url.URL{Scheme: "https", Host: "user@contoso.crm4.dynamics.com"}, 0, Primary, false},
	{urlRow{"brackets", "not an IPv6 address"}, url.URL{Scheme: "https", Host: "[contoso.crm4.dynamics.com]"}, 0, Primary, false},
}

func TestMatch(t *testing.T) {
	t.Parallel()
	requireURLRows(t, matchRows, func(r matchRow) urlRow { return r.urlRow })
	o := mustOrg(t, "https://contoso.crm4.dynamics.com", "")
	for _, tt := range matchRows {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			variant, at, ok := o.match(&tt.url)
			assert.Equal(t, tt.ok, ok, tt.reason)
			assert.Equal(t, tt.variant, variant, tt.reason)
			assert.Equal(t, tt.at, at, tt.reason)
		})
	}
}

func TestMatchTellsPortsApart(t *testing.T) {
	t.Parallel()
	o := mustOrg(t, "http://127.0.0.1:8080", "http://[::1]:8080")
	for _, tt := range []struct {
		host string
		at   Endpoint
		ok   bool
	}{
		{"127.0.0.1:8080", Primary, true},
		{"[::1]:8080", Alternate, true},
		{"127.0.0.1", Primary, false},
		{"127.0.0.1:08080", Primary, false},
		{"[::1]", Primary, false},
		{"[::1]8080", Primary, false},
		{"[::1]x:8080", Primary, false},
		{"::1:8080", Primary, false},
		{"[::1:8080", Primary, false},
	} {
		_, at, ok := o.match(&url.URL{Scheme: "http", Host: tt.host})
		assert.Equal(t, tt.ok, ok, tt.host)
		assert.Equal(t, tt.at, at, tt.host)
	}
	scheme, host := o.origin(0, Alternate)
	assert.Equal(t, "http://[::1]:8080", scheme+"://"+host)
}

// Not parallel: testing.AllocsPerRun counts the allocations of the process.
func TestMatchAllocatesNothing(t *testing.T) {
	o := mustOrg(t, "https://contoso.crm4.dynamics.com", "")
	for _, tt := range matchRows {
		n := testing.AllocsPerRun(100, func() {
			variant, at, _ := o.match(&tt.url)
			o.origin(variant, at.other())
		})
		assert.Zero(t, n, tt.name)
	}
}

func TestMapHost(t *testing.T) {
	t.Parallel()
	o := mustOrg(t, "https://contoso.crm4.dynamics.com", "")
	tests := []mapRow{
		{urlRow{"primary", "the common case"}, "contoso.crm4.dynamics.com", Alternate, "contoso--s.crm4.dynamics.com"},
		{urlRow{"alternate", "the way back"}, "contoso--s.api.crm4.dynamics.com", Primary, "contoso.api.crm4.dynamics.com"},
		{urlRow{"default port", "the same server"}, "contoso.crm4.dynamics.com:443", Alternate, "contoso--s.crm4.dynamics.com"},
		{urlRow{"upper case and dot", "the same server"}, "Contoso.crm4.dynamics.com.", Alternate, "contoso--s.crm4.dynamics.com"},
		{urlRow{"already there", "nothing to do"}, "contoso.crm4.dynamics.com", Primary, ""},
		{urlRow{"already there, upper case", "not even to tidy up"}, "CONTOSO.crm4.dynamics.com", Primary, ""},
		{urlRow{"other port", "another server"}, "contoso.crm4.dynamics.com:80", Alternate, ""},
		{urlRow{"stranger", "not of the pair"}, "contoso.crm4.dynamics.com.evil.example", Alternate, ""},
		{urlRow{"user", "not an authority of a Host header"}, "u@contoso.crm4.dynamics.com", Alternate, ""},
		{urlRow{"URL", "not an authority"}, "https://contoso.crm4.dynamics.com", Alternate, ""},
		{urlRow{"blank", "headers are trimmed before"}, " contoso.crm4.dynamics.com", Alternate, ""},
		{urlRow{"empty", "nothing"}, "", Alternate, ""},
	}
	runMap(t, tests, o.mapHost)

	plain := mustOrg(t, "http://crm.contoso.example:80", "http://dr.contoso.example:8080")
	mapped, ok := plain.mapHost("CRM.contoso.example", Alternate)
	assert.True(t, ok, "the port of the pair's own scheme may be left out")
	assert.Equal(t, "dr.contoso.example:8080", mapped)
	_, ok = plain.mapHost("crm.contoso.example:443", Alternate)
	assert.False(t, ok, "443 is not the port of http")
}

// A mapRow is a string and what it becomes at an endpoint; "" if it stays.
type mapRow struct {
	urlRow
	in   string
	to   Endpoint
	want string
}

func runMap(t *testing.T, rows []mapRow, mapTo func(string, Endpoint) (string, bool)) {
	t.Helper()
	requireURLRows(t, rows, func(r mapRow) urlRow { return r.urlRow })
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, ok := mapTo(tt.in, tt.to)
			if tt.want == "" {
				assert.False(t, ok, "%s: %q", tt.reason, got)
				assert.Equal(t, tt.in, got)
				return
			}
			assert.True(t, ok, tt.reason)
			assert.Equal(t, tt.want, got, tt.reason)
			again, ok := mapTo(got, tt.to)
			assert.False(t, ok, "a second time changed something")
			assert.Equal(t, got, again)
		})
	}
}

var mapURLRows = []mapRow{
	{urlRow{"link", "path and query are kept"}, "https://contoso.crm4.dynamics.com/api/data/v9.2/accounts?$top=1", Alternate, "https://contoso--s.crm4.dynamics.com/api/data/v9.2/accounts?$top=1"},
	{urlRow{"way back", "the form is kept"}, "https://contoso--s.api.crm4.dynamics.com/x", Primary, "https://contoso.api.crm4.dynamics.com/x"},
	{urlRow{"escapes and dots", "every byte is kept"}, "https://contoso.crm4.dynamics.com/a%2Fb/../%zz?q=%20+;&&#f?#", Alternate, "https://contoso--s.crm4.dynamics.com/a%2Fb/../%zz?q=%20+;&&#f?#"},
	{urlRow{"own host in the query", "only the authority is replaced"}, "https://contoso.crm4.dynamics.com/?u=https://contoso.crm4.dynamics.com/", Alternate, "https://contoso--s.crm4.dynamics.com/?u=https://contoso.crm4.dynamics.com/"},
	{urlRow{"alternate key", "blanks and non-ASCII letters in a name"}, "https://contoso.crm4.dynamics.com/accounts(name='A Ö@x')", Alternate, "https://contoso--s.crm4.dynamics.com/accounts(name='A Ö@x')"},
	{urlRow{"no path", "the origin alone"}, "https://contoso.crm4.dynamics.com", Alternate, "https://contoso--s.crm4.dynamics.com"},
	{urlRow{"query without path", "the authority ends there"}, "https://contoso.crm4.dynamics.com?x", Alternate, "https://contoso--s.crm4.dynamics.com?x"},
	{urlRow{"fragment without path", "the authority ends there"}, "https://contoso.crm4.dynamics.com#@evil.example", Alternate, "https://contoso--s.crm4.dynamics.com#@evil.example"},
	{urlRow{"upper case", "scheme and host have no case"}, "HTTPS://CONTOSO.CRM4.DYNAMICS.COM/A", Alternate, "https://contoso--s.crm4.dynamics.com/A"},
	{urlRow{"default port", "goes with the authority"}, "https://contoso.crm4.dynamics.com:443/", Alternate, "https://contoso--s.crm4.dynamics.com/"},
	{urlRow{"trailing dot", "the same host"}, "https://contoso.crm4.dynamics.com./", Alternate, "https://contoso--s.crm4.dynamics.com/"},
	{urlRow{"two slashes after the host", "belong to the path"}, "https://contoso.crm4.dynamics.com//evil.example/", Alternate, "https://contoso--s.crm4.dynamics.com//evil.example/"},

	{urlRow{"already there", "nothing to do"}, "https://contoso--s.crm4.dynamics.com/x", Alternate, ""},
	{urlRow{"stranger", "not of the pair"}, "https://fabrikam.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"user is the host", "the host is evil.example"}, "https://contoso.crm4.dynamics.com@evil.example/", Alternate, ""},
	{urlRow{"user and password are the host", "the host is evil.example"}, "https://contoso.crm4.dynamics.com:443@evil.example/", Alternate, ""},
	{urlRow{"user", "credentials are not carried over"}, "https://u:p@contoso.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"empty user", "still user information"}, "https://@contoso.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"suffix continued", "the host is evil.example"}, "https://contoso.crm4.dynamics.com.evil.example/", Alternate, ""},
	{urlRow{"two trailing dots", "no host"}, "https://contoso.crm4.dynamics.com../", Alternate, ""},
	{urlRow{"other port", "another server"}, "https://contoso.crm4.dynamics.com:8443/", Alternate, ""},
	{urlRow{"zeros before the port", "readers disagree on it"}, "https://contoso.crm4.dynamics.com:0443/", Alternate, ""},
	{urlRow{"two ports", "no authority"}, "https://contoso.crm4.dynamics.com:443:443/", Alternate, ""},
	{urlRow{"plain http", "another origin"}, "http://contoso.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"other scheme", "not http"}, "wss://contoso.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"long s in the scheme", "U+017F folds to an s, in Unicode only"}, "httpſ://contoso.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"long s in the host", "U+017F folds to an s, in Unicode only"}, "https://contoso.crm4.dynamicſ.com/", Alternate, ""},
	{urlRow{"backslash", "browsers take it for a slash, others do not"}, `https://contoso.crm4.dynamics.com\@evil.example/`, Alternate, ""},
	{urlRow{"backslash ends the host", "the same"}, `https://contoso.crm4.dynamics.com\x`, Alternate, ""},
	{urlRow{"backslashes for slashes", "the same"}, `https:\\contoso.crm4.dynamics.com/`, Alternate, ""},
	{urlRow{"escaped dot", "hosts are not unescaped"}, "https://contoso%2Ecrm4.dynamics.com/", Alternate, ""},
	{urlRow{"blank before", "not a URL"}, " https://contoso.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"blank after the host", "no authority"}, "https://contoso.crm4.dynamics.com /", Alternate, ""},
	{urlRow{"tab in the host", "browsers drop it, others do not"}, "https://contoso.crm4.dyna\tmics.com/", Alternate, ""},
	{urlRow{"newline in the path", "control characters are no part of a URL"}, "https://contoso.crm4.dynamics.com/\r\nX: y", Alternate, ""},
	{urlRow{"DEL in the query", "a control character too"}, "https://contoso.crm4.dynamics.com/?\x7f", Alternate, ""},
	{urlRow{"NUL after the host", "a control character too"}, "https://contoso.crm4.dynamics.com\x00.evil.example/", Alternate, ""},
	{urlRow{"zero-width space", "U+200B is dropped by some"}, "https://contoso.crm4.dynamics.com\u200b/", Alternate, ""},
	{urlRow{"scheme-relative", "not absolute"}, "//contoso.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"path", "not absolute"}, "/api/data/v9.2/", Alternate, ""},
	{urlRow{"host alone", "not absolute"}, "contoso.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"one slash", "no authority"}, "https:/contoso.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"three slashes", "an empty authority"}, "https:///contoso.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"opaque", "no authority"}, "https:contoso.crm4.dynamics.com", Alternate, ""},
	{urlRow{"nested scheme", "the scheme is not https"}, "jar:https://contoso.crm4.dynamics.com/", Alternate, ""},
	{urlRow{"IPv6", "not of the pair"}, "https://[::1]/", Alternate, ""},
	{urlRow{"name in brackets", "not an IPv6 address"}, "https://[contoso.crm4.dynamics.com]/", Alternate, ""},
	{urlRow{"empty", "nothing"}, "", Alternate, ""},
}

func TestMapURL(t *testing.T) {
	t.Parallel()
	runMap(t, mapURLRows, mustOrg(t, "https://contoso.crm4.dynamics.com", "").mapURL)
}

func TestMapURLBetweenSchemes(t *testing.T) {
	t.Parallel()
	o := mustOrg(t, "https://crm.contoso.example", "http://[::1]:8080")
	runMap(t, []mapRow{
		{urlRow{"out", "the scheme and the port go with the host"}, "https://crm.contoso.example/x", Alternate, "http://[::1]:8080/x"},
		{urlRow{"back", "and come back"}, "http://[::1]:8080/x", Primary, "https://crm.contoso.example/x"},
		{urlRow{"no port", "another server"}, "http://[::1]/x", Primary, ""},
		{urlRow{"wrong scheme", "another origin"}, "https://[::1]:8080/x", Primary, ""},
	}, o.mapURL)
}

func TestMapLinks(t *testing.T) {
	t.Parallel()
	o := mustOrg(t, "https://contoso.crm4.dynamics.com", "")
	const there, here = "https://contoso--s.crm4.dynamics.com/api/data/v9.2/accounts(1)", "https://contoso.crm4.dynamics.com/api/data/v9.2/accounts(1)"
	h := make(http.Header)
	for _, key := range []string{"Location", "OData-EntityId", "Content-Location", "Operation-Location"} {
		h.Add(key, there)
		h.Add(key, "/relative")
		h.Add(key, there)
		h.Add(key, "https://login.microsoftonline.com/?redirect_uri="+there)
	}
	others := []string{"Link", "Set-Cookie", "Www-Authenticate", "Access-Control-Allow-Origin"}
	for _, key := range others {
		h.Add(key, there)
	}
	o.mapLinks(h, Primary)
	for _, key := range []string{"Location", "OData-EntityId", "Content-Location", "Operation-Location"} {
		assert.Equal(t, []string{here, "/relative", here, "https://login.microsoftonline.com/?redirect_uri=" + there}, h.Values(key), key)
	}
	for _, key := range others {
		assert.Equal(t, []string{there}, h.Values(key), key)
	}
	assert.Len(t, h, 8)

	before := h.Clone()
	o.mapLinks(h, Primary)
	assert.Equal(t, before, h, "a second time changes nothing")
	assert.NotPanics(t, func() { o.mapLinks(nil, Primary) })
}

func FuzzParseOrg(f *testing.F) {
	for _, tt := range orgPairs {
		f.Add(tt.orgURL, tt.alternate, tt.wantAlternate)
	}
	for _, tt := range orgRefusals {
		f.Add(tt.orgURL, tt.alternate, "https://evil.example")
	}
	for _, tt := range matchRows {
		f.Add("https://contoso.crm4.dynamics.com", "", tt.url.String())
	}
	for _, s := range leakyURLs {
		f.Add(s, s, s)
	}
	f.Fuzz(func(t *testing.T, orgURL, alternate, request string) {
		checkSecrets(t, orgURL, alternate)
		if o, err := newOrg(orgURL, alternate, true); err == nil {
			checkStrangers(t, &o, request)
		}
		o, err := ParseOrg(orgURL)
		if err != nil {
			require.True(t, strings.HasPrefix(err.Error(), "failover: "), err)
			return
		}
		checkStrangers(t, &o, request)
		if o.Alternate == nil {
			require.False(t, isDataverse(o.origins[0][Primary].name), "a Dataverse host without its alternate")
			return
		}
		require.True(t, isDataverse(o.origins[0][Primary].name))
		require.Equal(t, "https", o.Primary.Scheme)
		require.Equal(t, "https", o.Alternate.Scheme)
		for at, u := range []*url.URL{Primary: o.Primary, Alternate: o.Alternate} {
			again, err := ParseOrg(u.String())
			require.NoError(t, err)
			require.Equal(t, o, again)
			there, ok := o.mapURL(u.String()+"/x?y", Endpoint(at).other())
			require.True(t, ok)
			back, ok := o.mapURL(there, Endpoint(at))
			require.True(t, ok)
			require.Equal(t, u.String()+"/x?y", back)
		}
	})
}

// checkSecrets plants canaries in the URLs and looks for them in the errors.
func checkSecrets(t *testing.T, orgURL, alternate string) {
	plant := func(s string) []string {
		with := []string{s + "?code=" + urlCanary, s + "#" + urlCanary}
		if scheme, rest, ok := strings.Cut(s, "://"); ok {
			with = append(with, scheme+"://user:"+urlCanary+"@"+rest, scheme+"://"+urlCanary+"/@"+rest)
		}
		return with
	}
	if strings.Contains(ascii.Lower(orgURL+alternate), urlCanary) {
		return
	}
	for _, s := range plant(orgURL) {
		if _, err := newOrg(s, alternate, false); err != nil {
			require.NotContains(t, err.Error(), urlCanary, "%q", s)
		}
	}
	for _, s := range plant(alternate) {
		if _, err := newOrg(orgURL, s, false); err != nil {
			require.NotContains(t, err.Error(), urlCanary, "%q", s)
		}
	}
}

// checkStrangers checks that a URL belongs to o only if its host, as net/url reads it, is one
// of the pair.
func checkStrangers(t *testing.T, o *Org, s string) {
	u, err := url.Parse(s)
	if err != nil {
		return
	}
	_, _, ok := o.match(u)
	require.Equal(t, ok, ok && ownHost(o, u), "%q matched", s)
	for _, to := range []Endpoint{Primary, Alternate} {
		if _, ok := o.mapURL(s, to); ok {
			require.True(t, ownHost(o, u) && u.User == nil, "%q was mapped", s)
		}
	}
}

func ownHost(o *Org, u *url.URL) bool {
	var hosts []string
	for variant := range 2 {
		for _, at := range []Endpoint{Primary, Alternate} {
			_, host := o.origin(variant, at)
			if host == "" {
				continue
			}
			hosts = append(hosts, (&url.URL{Host: host}).Hostname())
		}
	}
	return slices.Contains(hosts, strings.TrimSuffix(ascii.Lower(u.Hostname()), "."))
}

func FuzzMapURL(f *testing.F) {
	orgs := []*Org{
		mustOrg(f, "https://contoso.crm4.dynamics.com", ""),
		mustOrg(f, "https://crm.contoso.example", "http://[::1]:8080"),
	}
	for _, tt := range mapURLRows {
		f.Add(tt.in)
	}
	f.Add("http://[::1]:8080/x?y#z")
	f.Add("https://crm.contoso.example:443/%2F/..")
	f.Fuzz(func(t *testing.T, s string) {
		for _, o := range orgs {
			checkStrangers(t, o, s)
			for _, to := range []Endpoint{Primary, Alternate} {
				mapped, ok := o.mapURL(s, to)
				if !ok {
					require.Equal(t, s, mapped)
					continue
				}
				again, ok := o.mapURL(mapped, to)
				require.False(t, ok, "%q was mapped again", mapped)
				require.Equal(t, mapped, again)
				requireSameRest(t, s, mapped)
			}
		}
	})
}

// requireSameRest requires that two URLs differ in scheme and authority only, byte by byte
// and, where net/url can read them, part by part.
func requireSameRest(t *testing.T, s, mapped string) {
	rest := func(s string) string {
		_, s, _ = strings.Cut(s, "://")
		if i := strings.IndexAny(s, "/?#"); i >= 0 {
			return s[i:]
		}
		return ""
	}
	require.Equal(t, rest(s), rest(mapped))
	u, err := url.Parse(s)
	if err != nil {
		return
	}
	m, err := url.Parse(mapped)
	require.NoError(t, err)
	m.Scheme, m.Host = u.Scheme, u.Host
	require.Equal(t, u, m)
}

func BenchmarkMatch(b *testing.B) {
	o := mustOrg(b, "https://contoso.crm4.dynamics.com", "")
	for name, host := range map[string]string{
		"Primary":   "contoso.crm4.dynamics.com",
		"Alternate": "contoso--s.crm4.dynamics.com",
		"OtherForm": "contoso--s.api.crm4.dynamics.com",
		"UpperCase": "CONTOSO.CRM4.DYNAMICS.COM:443",
		"Foreign":   "login.microsoftonline.com",
	} {
		// A copy of the bytes, as a parsed URL has them.
		u := &url.URL{Scheme: "https", Host: strings.Clone(host)}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				o.match(u)
			}
		})
	}
}
