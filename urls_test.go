package failover

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// urlRow is what every row of a table must have.
type urlRow struct{ name, reason string }

// requireURLRows fails unless every row has a unique name and a reason.
func requireURLRows[T any](t *testing.T, rows []T, row func(T) urlRow) {
	t.Helper()
	seen := make(map[string]bool)
	for i, r := range rows {
		r := row(r)
		require.NotEmpty(t, r.name, "row %d has no name", i)
		require.NotEmpty(t, r.reason, "row %q has no reason", r.name)
		require.False(t, seen[r.name], "two rows are named %q", r.name)
		seen[r.name] = true
	}
}

func mustOrg(t testing.TB, orgURL, alternate string) *Org {
	t.Helper()
	o, err := newOrg(orgURL, alternate, true)
	require.NoError(t, err)
	return &o
}

type pairRow struct {
	urlRow
	orgURL, alternate string
	allowHTTP         bool
	wantPrimary       string
	wantAlternate     string
}

var longestLabel = strings.Repeat("a", 60)

var orgPairs = []pairRow{
	{urlRow: urlRow{"plain form", "the name a browser shows"},
		orgURL: "https://contoso.crm4.dynamics.com", wantPrimary: "https://contoso.crm4.dynamics.com", wantAlternate: "https://contoso--s.crm4.dynamics.com"},
	{urlRow: urlRow{"api form", "the example of the disaster recovery page"},
		orgURL: "https://contoso.api.crm.dynamics.com", wantPrimary: "https://contoso.api.crm.dynamics.com", wantAlternate: "https://contoso--s.api.crm.dynamics.com"},
	{urlRow: urlRow{"alternate given", "either URL of the pair will do"},
		orgURL: "https://contoso--s.crm4.dynamics.com", wantPrimary: "https://contoso.crm4.dynamics.com", wantAlternate: "https://contoso--s.crm4.dynamics.com"},
	{urlRow: urlRow{"alternate given in api form", "the form is kept in both directions"},
		orgURL: "https://contoso--s.api.crm.dynamics.com/", wantPrimary: "https://contoso.api.crm.dynamics.com", wantAlternate: "https://contoso--s.api.crm.dynamics.com"},
	{urlRow: urlRow{"upper case", "hosts, schemes and the mark are compared without case"},
		orgURL: "HTTPS://Contoso--S.API.CRM.Dynamics.COM", wantPrimary: "https://contoso.api.crm.dynamics.com", wantAlternate: "https://contoso--s.api.crm.dynamics.com"},
	{urlRow: urlRow{"service root", "only the origin counts"},
		orgURL: "https://contoso.crm.dynamics.com/api/data/v9.2/?a=b@c#d", wantPrimary: "https://contoso.crm.dynamics.com", wantAlternate: "https://contoso--s.crm.dynamics.com"},
	{urlRow: urlRow{"query at once", "the authority ends at a question mark too"},
		orgURL: "https://contoso.crm.dynamics.com?x", wantPrimary: "https://contoso.crm.dynamics.com", wantAlternate: "https://contoso--s.crm.dynamics.com"},
	{urlRow: urlRow{"default port", "443 names the same origin as no port"},
		orgURL: "https://contoso.crm.dynamics.com:0443", wantPrimary: "https://contoso.crm.dynamics.com", wantAlternate: "https://contoso--s.crm.dynamics.com"},
	{urlRow: urlRow{"empty port", "RFC 3986 allows a colon without a port"},
		orgURL: "https://contoso.crm.dynamics.com:/", wantPrimary: "https://contoso.crm.dynamics.com", wantAlternate: "https://contoso--s.crm.dynamics.com"},
	{urlRow: urlRow{"other port", "a simulator under the real name; both have it"},
		orgURL: "https://contoso.crm.dynamics.com:8443", wantPrimary: "https://contoso.crm.dynamics.com:8443", wantAlternate: "https://contoso--s.crm.dynamics.com:8443"},
	{urlRow: urlRow{"trailing dot", "the absolute form of the same name"},
		orgURL: "https://contoso.crm.dynamics.com./", wantPrimary: "https://contoso.crm.dynamics.com", wantAlternate: "https://contoso--s.crm.dynamics.com"},
	{urlRow: urlRow{"longestLabel name", "60 octets and the mark make the 63 of a label"},
		orgURL: "https://" + longestLabel + ".crm.dynamics.com", wantPrimary: "https://" + longestLabel + ".crm.dynamics.com", wantAlternate: "https://" + longestLabel + "--s.crm.dynamics.com"},
	{urlRow: urlRow{"inner hyphens", "only the end of the name is the mark"},
		orgURL: "https://con--s-toso.crm.dynamics.com", wantPrimary: "https://con--s-toso.crm.dynamics.com", wantAlternate: "https://con--s-toso--s.crm.dynamics.com"},
	{urlRow: urlRow{"reserved word inside", "reserved names are whole labels"},
		orgURL: "https://disco1.crm.dynamics.com", wantPrimary: "https://disco1.crm.dynamics.com", wantAlternate: "https://disco1--s.crm.dynamics.com"},
	{urlRow: urlRow{"plain http allowed", "AllowHTTP says so"}, allowHTTP: true,
		orgURL: "http://contoso.crm.dynamics.com:80", wantPrimary: "http://contoso.crm.dynamics.com", wantAlternate: "http://contoso--s.crm.dynamics.com"},

	{urlRow: urlRow{"explicit Finance and Operations", "no rule, so the caller names it"},
		orgURL: "https://contoso.operations.dynamics.com/data", alternate: "https://contoso-dr.operations.eu.dynamics.com/data",
		wantPrimary: "https://contoso.operations.dynamics.com", wantAlternate: "https://contoso-dr.operations.eu.dynamics.com"},
	{urlRow: urlRow{"explicit on-premises", "names of Windows machines have underscores"},
		orgURL: "https://CRM_01:5555/Contoso", alternate: "https://crm_02:5555/Contoso",
		wantPrimary: "https://crm_01:5555", wantAlternate: "https://crm_02:5555"},
	{urlRow: urlRow{"explicit keeps the mark", "an organization really named so"},
		orgURL: "https://contoso--s.crm.dynamics.com", alternate: "https://contoso--s--s.crm.dynamics.com",
		wantPrimary: "https://contoso--s.crm.dynamics.com", wantAlternate: "https://contoso--s--s.crm.dynamics.com"},
	{urlRow: urlRow{"explicit loopback", "tests need no AllowHTTP"},
		orgURL: "http://127.0.0.1:8080", alternate: "http://127.0.0.1:8081",
		wantPrimary: "http://127.0.0.1:8080", wantAlternate: "http://127.0.0.1:8081"},
	{urlRow: urlRow{"explicit IPv6", "brackets stay, case does not"},
		orgURL: "https://[2001:DB8::1]", alternate: "http://[::1]:80",
		wantPrimary: "https://[2001:db8::1]", wantAlternate: "http://[::1]"},
	{urlRow: urlRow{"explicit mapped IPv4", "is loopback too"},
		orgURL: "http://[::ffff:127.0.0.1]", alternate: "http://[::1]",
		wantPrimary: "http://[::ffff:127.0.0.1]", wantAlternate: "http://[::1]"},
	{urlRow: urlRow{"explicit localhost", "and the names below it (RFC 6761)"},
		orgURL: "http://localhost", alternate: "http://alternate.localhost",
		wantPrimary: "http://localhost", wantAlternate: "http://alternate.localhost"},
	{urlRow: urlRow{"explicit punycode", "an on-premises domain may be internationalized"},
		orgURL: "https://crm.xn--bcher-kva.example", alternate: "https://dr.xn--bcher-kva.example",
		wantPrimary: "https://crm.xn--bcher-kva.example", wantAlternate: "https://dr.xn--bcher-kva.example"},
	{urlRow: urlRow{"explicit deep name", "with an alternate given, any host will do"},
		orgURL: "https://a.b.crm.dynamics.com", alternate: "https://a-dr.b.crm.dynamics.com",
		wantPrimary: "https://a.b.crm.dynamics.com", wantAlternate: "https://a-dr.b.crm.dynamics.com"},
}

func TestNewOrgAccepts(t *testing.T) {
	t.Parallel()
	requireURLRows(t, orgPairs, func(r pairRow) urlRow { return r.urlRow })
	for _, tt := range orgPairs {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o, err := newOrg(tt.orgURL, tt.alternate, tt.allowHTTP)
			require.NoError(t, err, tt.reason)
			assert.Equal(t, tt.wantPrimary, o.Primary.String(), tt.reason)
			assert.Equal(t, tt.wantAlternate, o.Alternate.String(), tt.reason)
			assert.Empty(t, o.Primary.Path+o.Alternate.Path)

			for at, u := range []*url.URL{Primary: o.Primary, Alternate: o.Alternate} {
				variant, got, ok := o.match(u)
				assert.True(t, ok && variant == 0 && got == Endpoint(at), "own URL %s: %d, %v, %v", u, variant, got, ok)
				scheme, host := o.origin(0, Endpoint(at))
				assert.Equal(t, u.Scheme+"://"+u.Host, scheme+"://"+host)
			}
			if tt.alternate != "" || tt.allowHTTP {
				return
			}
			for _, s := range []string{tt.orgURL, o.Primary.String(), o.Alternate.String()} {
				alternate, err := AlternateURL(s)
				require.NoError(t, err)
				assert.Equal(t, tt.wantAlternate, alternate, "AlternateURL(%q)", s)
				again, err := ParseOrg(s)
				require.NoError(t, err)
				assert.Equal(t, o, again, "ParseOrg(%q)", s)
			}
		})
	}
}

// twoFormRegions are the Dataverse regions with both forms, listed independently of the table
// under test.
const twoFormRegions = "crm.dynamics.com crm2.dynamics.com crm3.dynamics.com crm4.dynamics.com crm5.dynamics.com " +
	"crm6.dynamics.com crm7.dynamics.com crm8.dynamics.com crm9.dynamics.com crm11.dynamics.com " +
	"crm12.dynamics.com crm14.dynamics.com crm15.dynamics.com crm16.dynamics.com crm17.dynamics.com " +
	"crm19.dynamics.com crm20.dynamics.com crm21.dynamics.com crm22.dynamics.com crm.dynamics.cn " +
	"crm.microsoftdynamics.us crm.appsplatform.us crm.microsoftdynamics.de"

// oneFormRegions are known only in the plain form.
const oneFormRegions = "crm10.dynamics.com crm.dynamics-int.com"

func TestEveryRegionInEveryForm(t *testing.T) {
	t.Parallel()
	both, plain := strings.Fields(twoFormRegions), strings.Fields(oneFormRegions)
	assert.Len(t, dataverseRegions, len(both)+len(plain), "a region is missing here or in the table")
	for _, region := range both {
		for _, forms := range [][2]string{{".", ".api."}, {".api.", "."}} {
			for _, mark := range []string{"", "--s"} {
				o, err := ParseOrg("https://contoso" + mark + forms[0] + region)
				require.NoError(t, err)
				assert.True(t, isDataverse(o.origins[0][Primary].name))
				assert.False(t, isFinOps(o.origins[0][Primary].name))
				for variant, form := range forms {
					assertPair(t, &o, variant, "contoso"+form+region, "contoso--s"+form+region)
				}
			}
		}
	}
	for _, region := range plain {
		o, err := ParseOrg("https://contoso." + region)
		require.NoError(t, err)
		assert.True(t, isDataverse(o.origins[0][Primary].name))
		assertPair(t, &o, 0, "contoso."+region, "contoso--s."+region)
		_, _, ok := o.match(&url.URL{Scheme: "https", Host: "contoso.api." + region})
		assert.False(t, ok, region)
	}
}

// assertPair asserts that the hosts are the given variant of o.
func assertPair(t *testing.T, o *Org, variant int, primary, alternate string) {
	t.Helper()
	hosts := [2]string{Primary: primary, Alternate: alternate}
	for at, host := range hosts {
		at := Endpoint(at)
		v, e, ok := o.match(&url.URL{Scheme: "https", Host: host, Path: "/"})
		assert.True(t, ok && v == variant && e == at, "match(%s): %d, %v, %v", host, v, e, ok)
		_, h := o.origin(variant, at)
		assert.Equal(t, host, h)
		mapped, ok := o.mapHost(host, at.other())
		assert.True(t, ok)
		assert.Equal(t, hosts[at.other()], mapped)
		mapped, ok = o.mapHost(host, at)
		assert.False(t, ok, "already there")
		assert.Equal(t, host, mapped)
	}
}

type productRow struct {
	urlRow
	orgURL            string
	dataverse, finOps bool
}

func TestProducts(t *testing.T) {
	t.Parallel()
	tests := []productRow{
		{urlRow{"Dataverse", "a known region"}, "https://contoso.crm.dynamics.com", true, false},
		{urlRow{"production", "the suffix of the United States"}, "https://contoso.operations.dynamics.com", false, true},
		{urlRow{"sandbox", "one label more"}, "https://contoso.sandbox.operations.uae.dynamics.com", false, true},
		{urlRow{"government", "a cloud of its own"}, "https://contoso.operations.high.microsoftdynamics.us", false, true},
		{urlRow{"China", "a cloud of its own"}, "https://contoso.operations.dynamics.cn", false, true},
		{urlRow{"development", "cloud-hosted"}, "https://contosoaos.cloudax.dynamics.com", false, true},
		{urlRow{"one box", "a machine on the desk"}, "https://usnconeboxax1aos.cloud.onebox.dynamics.com", false, true},
		{urlRow{"sandbox, older name", "seen in public lists"}, "https://contoso.sandbox.ax.dynamics.com", false, true},
		{urlRow{"suffix inside a label", "labels are compared whole"}, "https://contoso.myoperations.dynamics.com", false, false},
		{urlRow{"suffix continued", "a stranger's host"}, "https://contoso.operations.dynamics.com.evil.example", false, false},
		{urlRow{"on-premises", "says nothing about the product"}, "https://crm.contoso.example", false, false},
	}
	requireURLRows(t, tests, func(r productRow) urlRow { return r.urlRow })
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := mustOrg(t, tt.orgURL, "https://dr.contoso.example")
			name := o.origins[0][Primary].name
			assert.Equal(t, tt.dataverse, isDataverse(name), tt.reason)
			assert.Equal(t, tt.finOps, isFinOps(name), tt.reason)
		})
	}
}

func TestExplicitAlternateForms(t *testing.T) {
	t.Parallel()
	t.Run("both forms at both", func(t *testing.T) {
		t.Parallel()
		o := mustOrg(t, "https://contoso.crm.dynamics.com", "https://contoso-dr.crm2.dynamics.com")
		assertPair(t, o, 0, "contoso.crm.dynamics.com", "contoso-dr.crm2.dynamics.com")
		assertPair(t, o, 1, "contoso.api.crm.dynamics.com", "contoso-dr.api.crm2.dynamics.com")
	})
	t.Run("crossed as configured", func(t *testing.T) {
		t.Parallel()
		o := mustOrg(t, "https://contoso.crm.dynamics.com", "https://contoso--s.api.crm.dynamics.com")
		assertPair(t, o, 0, "contoso.crm.dynamics.com", "contoso--s.api.crm.dynamics.com")
		assertPair(t, o, 1, "contoso.api.crm.dynamics.com", "contoso--s.crm.dynamics.com")
	})
	t.Run("alternate with one form", func(t *testing.T) {
		t.Parallel()
		o := mustOrg(t, "https://contoso.crm.dynamics.com", "https://dr.contoso.example:8443")
		assertPair(t, o, 0, "contoso.crm.dynamics.com", "dr.contoso.example:8443")
		mapped, ok := o.mapHost("contoso.api.crm.dynamics.com", Alternate)
		assert.True(t, ok)
		assert.Equal(t, "dr.contoso.example:8443", mapped)
		_, host := o.origin(1, Alternate)
		assert.Equal(t, "dr.contoso.example:8443", host)
	})
	t.Run("primary with one form", func(t *testing.T) {
		t.Parallel()
		o := mustOrg(t, "https://crm.contoso.example", "https://contoso--s.crm.dynamics.com")
		assertPair(t, o, 0, "crm.contoso.example", "contoso--s.crm.dynamics.com")
		mapped, ok := o.mapHost("contoso--s.api.crm.dynamics.com", Primary)
		assert.True(t, ok)
		assert.Equal(t, "crm.contoso.example", mapped)
	})
}
