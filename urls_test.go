package failover

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// urlRow is what every row of a table has to have.
type urlRow struct{ name, reason string }

// requireURLRows fails unless every row has a name of its own and a reason.
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

type refusalRow struct {
	urlRow
	orgURL, alternate string
	allowHTTP         bool
	want              []string // parts of the error
}

var orgRefusals = []refusalRow{
	{urlRow: urlRow{"empty", "a setting that was not set"}, want: []string{"organization URL is empty"}},
	{urlRow: urlRow{"no scheme", "the error says what to write"}, orgURL: "Contoso.crm.dynamics.com/",
		want: []string{"no scheme: write https://contoso.crm.dynamics.com"}},
	{urlRow: urlRow{"no scheme, stranger", "text of unknown kind is not repeated"}, orgURL: "eyJ0eXAi.crm.example",
		want: []string{"organization URL does not begin with https://"}},
	{urlRow: urlRow{"scheme only", "no slashes, no authority"}, orgURL: "https:contoso.crm.dynamics.com", want: []string{"does not begin with https://"}},
	{urlRow: urlRow{"scheme-relative", "nothing says how to speak to it"}, orgURL: "//contoso.crm.dynamics.com", want: []string{"does not begin with https://"}},
	{urlRow: urlRow{"other scheme", "only http is spoken"}, orgURL: "ftp://contoso.crm.dynamics.com", allowHTTP: true, want: []string{"does not begin with https://"}},
	{urlRow: urlRow{"leading blank", "blanks are not trimmed silently"}, orgURL: " https://contoso.crm.dynamics.com", want: []string{"does not begin with https://"}},
	{urlRow: urlRow{"trailing newline", "a file read without trimming"}, orgURL: "https://contoso.crm.dynamics.com\n", want: []string{"characters other than"}},
	{urlRow: urlRow{"plain http", "credentials in the clear"}, orgURL: "http://contoso.crm.dynamics.com",
		want: []string{"organization URL (contoso.crm.dynamics.com) is not https", "Config.AllowHTTP"}},
	{urlRow: urlRow{"plain http alternate", "each URL is judged by itself"}, orgURL: "https://crm.contoso.example", alternate: "http://dr.contoso.example",
		want: []string{"alternate URL (dr.contoso.example) is not https"}},
	{urlRow: urlRow{"no host", "nothing between the slashes"}, orgURL: "https:///api/data", want: []string{"has no host"}},
	{urlRow: urlRow{"port only", "a port is no host"}, orgURL: "https://:443", want: []string{"has no host"}},
	{urlRow: urlRow{"dot only", "the root of DNS is no host"}, orgURL: "https://./", want: []string{"has no host"}},
	{urlRow: urlRow{"user", "user information"}, orgURL: "https://user@contoso.crm.dynamics.com", want: []string{"contains user information"}},
	{urlRow: urlRow{"empty user", "an @ is user information even when empty"}, orgURL: "https://@contoso.crm.dynamics.com", want: []string{"contains user information"}},
	{urlRow: urlRow{"user before stranger", "the organization is the user name here"}, orgURL: "https://contoso.crm.dynamics.com@evil.example", want: []string{"contains user information"}},
	{urlRow: urlRow{"backslash and stranger", "browsers take the backslash for a slash, others do not"}, orgURL: `https://contoso.crm.dynamics.com\@evil.example`, want: []string{"contains user information"}},
	{urlRow: urlRow{"backslash", "no part of a host"}, orgURL: `https://contoso.crm.dynamics.com\api`, want: []string{"characters other than"}},
	{urlRow: urlRow{"escape in host", "a host is not escaped"}, orgURL: "https://contoso%2ecrm.dynamics.com", want: []string{"characters other than"}},
	{urlRow: urlRow{"suffix continued", "the suffix must be the end"}, orgURL: "https://contoso.crm.dynamics.com.evil.example",
		want: []string{"(contoso.crm.dynamics.com.evil.example) is not the host of a known Dataverse organization", "Config.Alternate"}},
	{urlRow: urlRow{"suffix inside a label", "labels are compared whole"}, orgURL: "https://contoso.evilcrm.dynamics.com", want: []string{"not the host of a known"}},
	{urlRow: urlRow{"two labels", "an organization has one label"}, orgURL: "https://a.contoso.crm.dynamics.com", want: []string{"not the host of a known"}},
	{urlRow: urlRow{"region only", "no organization"}, orgURL: "https://crm.dynamics.com", want: []string{"not the host of a known"}},
	{urlRow: urlRow{"api without organization", "the label of the form is no organization"}, orgURL: "https://api.crm.dynamics.com", want: []string{"not an organization"}},
	{urlRow: urlRow{"api twice", "nor is it with the form"}, orgURL: "https://api.api.crm.dynamics.com", want: []string{"not an organization"}},
	{urlRow: urlRow{"unknown region", "the table is the proof that the rule holds"}, orgURL: "https://contoso.crm99.dynamics.com", want: []string{"not the host of a known"}},
	{urlRow: urlRow{"api form of a test ring", "that ring is known in one form"}, orgURL: "https://contoso.api.crm10.dynamics.com", want: []string{"not the host of a known"}},
	{urlRow: urlRow{"Finance and Operations", "no rule is documented there"}, orgURL: "https://contoso.sandbox.operations.dynamics.com",
		want: []string{"a host of Finance and Operations", "no documented rule", "credentials", "Config.Alternate"}},
	{urlRow: urlRow{"on-premises", "no rule there either"}, orgURL: "https://crm.contoso.example/Contoso", want: []string{"no documented rule", "Config.Alternate"}},
	{urlRow: urlRow{"IPv4", "an address has no alternate name"}, orgURL: "https://192.0.2.1", want: []string{"(192.0.2.1) is an IP address", "Config.Alternate"}},
	{urlRow: urlRow{"IPv6", "an address has no alternate name"}, orgURL: "https://[2001:db8::1]:443", want: []string{"([2001:db8::1]) is an IP address"}},
	{urlRow: urlRow{"localhost", "this machine has no alternate name"}, orgURL: "http://localhost:8080", want: []string{"(localhost) is a name of this machine"}},
	{urlRow: urlRow{"IPv6 open", "the bracket is missing"}, orgURL: "https://[::1", alternate: "https://crm.contoso.example", want: []string{"bad IPv6 address"}},
	{urlRow: urlRow{"IPv6 zone", "a zone means something on one machine only"}, orgURL: "https://[fe80::1%25eth0]", alternate: "https://crm.contoso.example", want: []string{"bad IPv6 address"}},
	{urlRow: urlRow{"IPv6 bare", "without brackets the colons mean ports"}, orgURL: "https://2001:db8::1", alternate: "https://crm.contoso.example", want: []string{"bad port"}},
	{urlRow: urlRow{"label too long", "RFC 1035"}, orgURL: "https://" + strings.Repeat("a", 64) + ".crm.dynamics.com", want: []string{"label over 63 octets"}},
	{urlRow: urlRow{"no room for the mark", "the alternate's label would be too long"}, orgURL: "https://a" + longestLabel + ".crm.dynamics.com", want: []string{"over 60 octets"}},
	{urlRow: urlRow{"name too long", "RFC 1035"}, orgURL: "https://" + strings.Repeat("a.", 127) + "a", alternate: "https://b", want: []string{"253 octets"}},
	{urlRow: urlRow{"mark twice", "primary and alternate of what?"}, orgURL: "https://contoso--s--s.crm.dynamics.com", want: []string{"--s twice", "Config.Alternate"}},
	{urlRow: urlRow{"mark only", "nothing is left of the organization"}, orgURL: "https://--s.crm.dynamics.com", want: []string{"hyphen"}},
	{urlRow: urlRow{"hyphen before the mark", "what is left is no name"}, orgURL: "https://contoso---s.crm.dynamics.com", want: []string{"hyphen"}},
	{urlRow: urlRow{"trailing hyphen", "no host name (RFC 952)"}, orgURL: "https://contoso-.crm.dynamics.com", want: []string{"hyphen"}},
	{urlRow: urlRow{"empty label", "two dots"}, orgURL: "https://contoso..dynamics.com", want: []string{"empty label"}},
	{urlRow: urlRow{"empty organization", "a dot first"}, orgURL: "https://.crm.dynamics.com", want: []string{"empty label"}},
	{urlRow: urlRow{"two trailing dots", "one is tolerated"}, orgURL: "https://contoso.crm.dynamics.com..", want: []string{"empty label"}},
	{urlRow: urlRow{"underscore", "not in the name of an organization"}, orgURL: "https://con_toso.crm.dynamics.com", want: []string{"organization name with characters"}},
	{urlRow: urlRow{"umlaut", "no ASCII"}, orgURL: "https://cöntoso.crm.dynamics.com", want: []string{"characters other than"}},
	{urlRow: urlRow{"look-alike", "U+017F folds to an s, in Unicode only"}, orgURL: "https://contoso.crm.dynamicſ.com", want: []string{"characters other than"}},
	{urlRow: urlRow{"punycode organization", "the mark would change what it decodes to"}, orgURL: "https://xn--cntoso-wxa.crm.dynamics.com", want: []string{"organization name with characters"}},
	{urlRow: urlRow{"port zero", "nobody listens there"}, orgURL: "https://contoso.crm.dynamics.com:0", want: []string{"(contoso.crm.dynamics.com) has a bad port"}},
	{urlRow: urlRow{"port too large", "16 bits"}, orgURL: "https://contoso.crm.dynamics.com:65536", want: []string{"bad port"}},
	{urlRow: urlRow{"port a word", "digits only"}, orgURL: "https://contoso.crm.dynamics.com:https", want: []string{"bad port"}},
	{urlRow: urlRow{"port signed", "digits only"}, orgURL: "https://contoso.crm.dynamics.com:+443", want: []string{"bad port"}},
	{urlRow: urlRow{"alternate is the primary", "there is nowhere to go"}, orgURL: "https://crm.contoso.example", alternate: "https://CRM.contoso.example:443/x",
		want: []string{"alternate URL (crm.contoso.example) is the same endpoint"}},
	{urlRow: urlRow{"alternate is the other form", "two names of one endpoint"}, orgURL: "https://contoso.crm.dynamics.com", alternate: "https://contoso.api.crm.dynamics.com",
		want: []string{"alternate URL (contoso.api.crm.dynamics.com) is the same endpoint"}},
	{urlRow: urlRow{"alternate on one port in http", "one port has one server"}, orgURL: "https://localhost:8080", alternate: "http://localhost:8080",
		want: []string{"is the same endpoint"}},
	{urlRow: urlRow{"alternate reserved", "a service of Microsoft is no alternate"}, orgURL: "https://contoso.crm.dynamics.com", alternate: "https://disco.crm.dynamics.com",
		want: []string{"alternate URL names a service"}},
	{urlRow: urlRow{"alternate with user", "the error says which URL is bad"}, orgURL: "https://contoso.crm.dynamics.com", alternate: "https://u:p@contoso--s.crm.dynamics.com",
		want: []string{"alternate URL contains user information"}},
	{urlRow: urlRow{"both bad", "both are reported at once"}, orgURL: "https://u@h", alternate: "https://h:0",
		want: []string{"failover: organization URL contains user information", "failover: alternate URL (h) has a bad port"}},
}

func TestNewOrgRefuses(t *testing.T) {
	t.Parallel()
	rows := slices.Clone(orgRefusals)
	for _, label := range []string{"globaldisco", "disco", "dev", "port", "home", "admin", "Admin", "disco--s"} {
		for _, form := range []string{".crm.dynamics.com", ".api.crm4.dynamics.com"} {
			rows = append(rows, refusalRow{urlRow: urlRow{"reserved " + label + form, "a service, not an organization"},
				orgURL: "https://" + label + form, want: []string{"names a service of Microsoft"}})
		}
	}
	requireURLRows(t, rows, func(r refusalRow) urlRow { return r.urlRow })
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o, err := newOrg(tt.orgURL, tt.alternate, tt.allowHTTP)
			require.Error(t, err, tt.reason)
			assert.Equal(t, Org{}, o)
			assert.True(t, strings.HasPrefix(err.Error(), "failover: "), err)
			for _, want := range tt.want {
				assert.ErrorContains(t, err, want, tt.reason)
			}
			if tt.alternate == "" && !tt.allowHTTP {
				_, err := AlternateURL(tt.orgURL)
				assert.Error(t, err)
			}
		})
	}
}

// urlCanary stands for a secret. It would pass for a host name.
const urlCanary = "hunter2canary"

// leakyURLs are URLs with a canary where a secret may be.
var leakyURLs = []string{
	"https://" + urlCanary + "@contoso.example",
	"https://user:" + urlCanary + "@contoso.crm.dynamics.com:0/",
	"https://user:" + urlCanary + "/x@contoso.crm.dynamics.com",
	"https://" + urlCanary + "/x@contoso.crm.dynamics.com",
	"https://" + urlCanary + "?x@contoso.crm.dynamics.com",
	"https://" + urlCanary + "#x:y@contoso.crm.dynamics.com",
	"https://user:x/" + urlCanary + "@contoso.crm.dynamics.com",
	"https://user:%" + urlCanary + "@contoso.example",
	"https://user:" + urlCanary + "\x7f@contoso.example",
	"https://contoso.example:" + urlCanary,
	"https://[" + urlCanary,
	"https://" + urlCanary + "\n",
	"https://contoso.example/?code=" + urlCanary,
	"https://contoso.example/#access_token=" + urlCanary,
	"https://contoso.example/" + urlCanary,
	"https://contoso.crm.dynamics.com:x?code=" + urlCanary,
	urlCanary,
	"user:" + urlCanary + "@contoso.crm.dynamics.com",
	"user:" + urlCanary + "://contoso.crm.dynamics.com",
	urlCanary + "://contoso.crm.dynamics.com",
	"contoso.crm.dynamics.com?" + urlCanary,
	"http://user:" + urlCanary + "@contoso.crm.dynamics.com",
	"http://contoso.crm.dynamics.com/?" + urlCanary,
}

func TestErrorsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	for _, s := range leakyURLs {
		_, err := ParseOrg(s)
		if assert.Error(t, err, s) {
			assert.NotContains(t, err.Error(), urlCanary, "ParseOrg(%q)", s)
		}
		_, err = newOrg("https://crm.contoso.example", s, false)
		if err != nil { // some are good alternates
			assert.NotContains(t, err.Error(), urlCanary, "alternate %q", s)
		}
		_, err = newOrg(s, s, true)
		if assert.Error(t, err, s) {
			assert.NotContains(t, err.Error(), urlCanary, "both %q", s)
		}
	}
}

// twoFormRegions are the regions of Dataverse with both forms, kept apart from the table under test.
const twoFormRegions = "crm.dynamics.com crm2.dynamics.com crm3.dynamics.com crm4.dynamics.com crm5.dynamics.com " +
	"crm6.dynamics.com crm7.dynamics.com crm8.dynamics.com crm9.dynamics.com crm11.dynamics.com " +
	"crm12.dynamics.com crm14.dynamics.com crm15.dynamics.com crm16.dynamics.com crm17.dynamics.com " +
	"crm19.dynamics.com crm20.dynamics.com crm21.dynamics.com crm22.dynamics.com crm.dynamics.cn " +
	"crm.microsoftdynamics.us crm.appsplatform.us crm.microsoftdynamics.de"

// oneFormRegions are known in the plain form only.
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
				assert.True(t, isDataverse(&o))
				assert.False(t, o.finOps())
				for variant, form := range forms {
					assertPair(t, &o, variant, "contoso"+form+region, "contoso--s"+form+region)
				}
			}
		}
	}
	for _, region := range plain {
		o, err := ParseOrg("https://contoso." + region)
		require.NoError(t, err)
		assert.True(t, isDataverse(&o))
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
		{urlRow{"suffix alone", "no environment"}, "https://operations.dynamics.com", false, false},
		{urlRow{"suffix inside a label", "labels are compared whole"}, "https://contoso.myoperations.dynamics.com", false, false},
		{urlRow{"suffix continued", "a stranger's host"}, "https://contoso.operations.dynamics.com.evil.example", false, false},
		{urlRow{"on-premises", "says nothing about the product"}, "https://crm.contoso.example", false, false},
	}
	requireURLRows(t, tests, func(r productRow) urlRow { return r.urlRow })
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := mustOrg(t, tt.orgURL, "https://dr.contoso.example")
			assert.Equal(t, tt.dataverse, isDataverse(o), tt.reason)
			assert.Equal(t, tt.finOps, o.finOps(), tt.reason)
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

// mapRow is a string and what it becomes at an endpoint; "" if it stays.
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
		require.True(t, isDataverse(&o))
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
	if strings.Contains(lower(orgURL+alternate), urlCanary) {
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

// checkStrangers checks that a URL belongs to o only if its host, as net/url
// reads it, is one of the pair.
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
			hosts = append(hosts, (&url.URL{Host: host}).Hostname())
		}
	}
	return slices.Contains(hosts, strings.TrimSuffix(lower(u.Hostname()), "."))
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

// requireSameRest requires that two URLs differ in scheme and authority only,
// byte by byte and, where net/url can read them, part by part.
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
		// Bytes of their own, as a parsed URL has them.
		u := &url.URL{Scheme: "https", Host: strings.Clone(host)}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				o.match(u)
			}
		})
	}
}

// isDataverse reports whether the primary is known to be a Dataverse organization
// by its name.
func isDataverse(o *Org) bool {
	_, ok := splitDataverse(o.origins[0][Primary].name)
	return ok
}
