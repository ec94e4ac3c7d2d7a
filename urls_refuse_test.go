package failover

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/message"
)

type oneAddressRow struct {
	urlRow
	orgURL, alternate string
	want, probe       string
}

var oneAddressRows = []oneAddressRow{
	{urlRow{"Finance and Operations", "these organizations have no other address"}, "https://contoso.operations.dynamics.com", "", "https://contoso.operations.dynamics.com", "/data"},
	{urlRow{"Finance and Operations sandbox", "one label more"}, "https://contoso.sandbox.operations.uae.dynamics.com/?cmp=usmf", "", "https://contoso.sandbox.operations.uae.dynamics.com", "/data"},
	{urlRow{"Finance and Operations, a user in the query", "behind a host of Microsoft's an @ is no password"}, "https://contoso.operations.dynamics.com/?user=a@b", "", "https://contoso.operations.dynamics.com", "/data"},
	{urlRow{"NoAlternate", "a Dataverse host that has no other"}, "https://contoso.crm.dynamics.com", NoAlternate, "https://contoso.crm.dynamics.com", "/api/data/v9.2/WhoAmI"},
	{urlRow{"NoAlternate with the mark", "the URL is the primary as it stands"}, "https://contoso--s.crm.dynamics.com", NoAlternate, "https://contoso--s.crm.dynamics.com", "/api/data/v9.2/WhoAmI"},
	{urlRow{"NoAlternate elsewhere", "says what is the case anyway"}, "https://crm.contoso.example", NoAlternate, "https://crm.contoso.example", "/api/data/v9.1/WhoAmI"},
	{urlRow{"suffix continued", "a stranger's host is the caller's affair, but gets no --s"}, "https://contoso.crm.dynamics.com.evil.example", "", "https://contoso.crm.dynamics.com.evil.example", "/api/data/v9.1/WhoAmI"},
	{urlRow{"suffix inside a label", "labels are compared whole"}, "https://contoso.evilcrm.dynamics.com", "", "https://contoso.evilcrm.dynamics.com", "/api/data/v9.1/WhoAmI"},
	{urlRow{"two labels", "an organization of Dataverse has one label"}, "https://a.contoso.crm.dynamics.com", "", "https://a.contoso.crm.dynamics.com", "/api/data/v9.1/WhoAmI"},
	{urlRow{"unknown region", "the table is the proof that the rule holds"}, "https://contoso.crm99.dynamics.com", "", "https://contoso.crm99.dynamics.com", "/api/data/v9.1/WhoAmI"},
	{urlRow{"api form of a test ring", "that ring is known in one form"}, "https://contoso.api.crm10.dynamics.com", "", "https://contoso.api.crm10.dynamics.com", "/api/data/v9.1/WhoAmI"},
	{urlRow{"IPv4", "an address has no alternate name"}, "https://192.0.2.1", "", "https://192.0.2.1", "/api/data/v9.1/WhoAmI"},
	{urlRow{"IPv6", "an address has no alternate name"}, "https://[2001:db8::1]:443", "", "https://[2001:db8::1]", "/api/data/v9.1/WhoAmI"},
	{urlRow{"localhost", "this machine has no alternate name"}, "http://localhost:8080", "", "http://localhost:8080", "/api/data/v9.1/WhoAmI"},

	{urlRow{"on premises", "the path names the organization"}, "https://crm.contoso.example/Contoso", "", "https://crm.contoso.example", "/Contoso/api/data/v9.1/WhoAmI"},
	{urlRow{"on premises, page", "the page follows"}, "https://crm.contoso.example:5555/Contoso/main.aspx?etc=1#x", "", "https://crm.contoso.example:5555", "/Contoso/api/data/v9.1/WhoAmI"},
	{urlRow{"on premises, Web API", "with the version that the server has"}, "https://crm_01/Contoso_2/API/data/v9.0/accounts", "", "https://crm_01", "/Contoso_2/api/data/v9.0/WhoAmI"},
	{urlRow{"on premises, SOAP", "the older service says nothing about the version"}, "https://crm.contoso.example/Contoso/XRMServices/2011/Organization.svc", "", "https://crm.contoso.example", "/Contoso/api/data/v9.1/WhoAmI"},
	{urlRow{"facing the Internet", "the host names the organization"}, "https://contoso.crm.contoso.example/", "", "https://contoso.crm.contoso.example", "/api/data/v9.1/WhoAmI"},
	{urlRow{"facing the Internet, Web API", "a service is no organization"}, "https://contoso.crm.contoso.example/api/data/v8.2/", "", "https://contoso.crm.contoso.example", "/api/data/v8.2/WhoAmI"},
	{urlRow{"facing the Internet, SOAP", "a service is no organization"}, "https://contoso.crm.contoso.example/XRMServices/2011/Organization.svc", "", "https://contoso.crm.contoso.example", "/api/data/v9.1/WhoAmI"},
	{urlRow{"facing the Internet, page", "a page is no organization"}, "https://contoso.crm.contoso.example/main.aspx", "", "https://contoso.crm.contoso.example", "/api/data/v9.1/WhoAmI"},
	{urlRow{"a path that climbs", "no name of an organization"}, "https://crm.contoso.example/../x", "", "https://crm.contoso.example", "/api/data/v9.1/WhoAmI"},
	{urlRow{"a version of another kind", "not repeated"}, "https://crm.contoso.example/Contoso/api/data/v9.2.x%0d/", "", "https://crm.contoso.example", "/Contoso/api/data/v9.1/WhoAmI"},
	{urlRow{"path of a Dataverse host", "an online organization is named by its host"}, "https://contoso.crm.dynamics.com/Contoso/api/data/v9.0", NoAlternate, "https://contoso.crm.dynamics.com", "/api/data/v9.2/WhoAmI"},
}

func TestOneAddress(t *testing.T) {
	t.Parallel()
	requireURLRows(t, oneAddressRows, func(r oneAddressRow) urlRow { return r.urlRow })
	for _, tt := range oneAddressRows {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o, err := newOrg(tt.orgURL, tt.alternate, false)
			require.NoError(t, err, tt.reason)
			assert.Equal(t, tt.want, o.Primary.String(), tt.reason)
			assert.Nil(t, o.Alternate, tt.reason)
			assert.Equal(t, tt.probe, o.probePath(), tt.reason)
			variant, at, ok := o.match(o.Primary)
			assert.True(t, ok && variant == 0 && at == Primary)
			assertNoAlternate(t, &o)

			transport, err := New(tt.orgURL, &Config{Alternate: tt.alternate})
			require.NoError(t, err)
			defer transport.Close()
			assert.Empty(t, transport.Status().Alternate.URL)
			assert.Equal(t, errNoAlternate, transport.Switch(t.Context(), Alternate, "test"))
			transport.Pin(Alternate)
			assert.False(t, transport.Status().Pinned, "there is nothing to pin")
			if tt.alternate == "" {
				parsed, err := ParseOrg(tt.orgURL)
				require.NoError(t, err)
				assert.Equal(t, o, parsed)
				_, err = AlternateURL(tt.orgURL)
				assert.ErrorContains(t, err, "no documented rule")
			}
		})
	}
}

// assertNoAlternate asserts that nothing, the empty host above all, is taken for the endpoint
// that an organization with one address lacks.
func assertNoAlternate(t *testing.T, o *Org) {
	t.Helper()
	for _, u := range []*url.URL{{}, {Path: "/"}, {Scheme: o.Primary.Scheme}, {Scheme: o.Primary.Scheme, Host: ":443"}, {Host: o.Primary.Host}} {
		_, _, ok := o.match(u)
		assert.False(t, ok, "%q", u)
	}
	body := []byte(`{"@odata.id":"` + o.Primary.String() + `/x","a@odata.bind":"https:///x","b@odata.bind":"://","c@odata.bind":""}`)
	for _, to := range []Endpoint{Primary, Alternate} {
		for _, s := range []string{"", ".", ":", ":443", "x.example"} {
			_, ok := o.mapHost(s, to)
			assert.False(t, ok, "%q", s)
			_, ok = o.mapURL("https://"+s+"/", to)
			assert.False(t, ok, "%q", s)
			_, ok = o.mapURL(s, to)
			assert.False(t, ok, "%q", s)
		}
		h := http.Header{"Location": {"", "/", "https:///", o.Primary.String() + "/x"}}
		before := h.Clone()
		o.mapLinks(h, Primary)
		assert.Equal(t, before, h)
	}
	for _, kind := range []string{"application/json", "text/xml", "multipart/mixed; boundary=b"} {
		_, changed := o.rewriteBody(http.Header{"Content-Type": {kind}}, "/api/data/v9.2/$batch", body, Primary)
		assert.False(t, changed)
	}
	_, changed := o.rewriteQuery("$id=https:///x&$id="+url.QueryEscape(o.Primary.String()), Primary)
	assert.False(t, changed)
	assert.False(t, message.Mentions(body, ""), "an empty host matches every body")
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
	{urlRow: urlRow{"a word", "that of a scheme as well"}, orgURL: "https", want: []string{"does not begin with https://"}},
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
	{urlRow: urlRow{"password with a slash", "the host is the beginning of a password"}, orgURL: "https://user/x@crm.contoso.example", want: []string{"organization URL contains an @ behind a host"}},
	{urlRow: urlRow{"backslash", "no part of a host"}, orgURL: `https://contoso.crm.dynamics.com\api`, want: []string{"characters other than"}},
	{urlRow: urlRow{"escape in host", "a host is not escaped"}, orgURL: "https://contoso%2ecrm.dynamics.com", want: []string{"characters other than"}},
	{urlRow: urlRow{"region only", "no organization"}, orgURL: "https://crm.dynamics.com", want: []string{"its label is missing"}},
	{urlRow: urlRow{"region only, explicit", "nor is it one with an alternate"}, orgURL: "https://crm.dynamics.com", alternate: "https://dr.contoso.example", want: []string{"its label is missing"}},
	{urlRow: urlRow{"suffix only", "no environment"}, orgURL: "https://operations.eu.dynamics.com", want: []string{"its label is missing"}},
	{urlRow: urlRow{"scale group", "Microsoft's own host, which serves many organizations"}, orgURL: "https://by2--namcrmlivesg741.crm.dynamics.com/", want: []string{"scale group"}},
	{urlRow: urlRow{"scale group, upper case", "hosts have no case"}, orgURL: "https://DB3--EURCRMLIVESG641.API.CRM4.dynamics.com/", want: []string{"scale group"}},
	{urlRow: urlRow{"scale group with the mark", "it has no alternate"}, orgURL: "https://by2--namcrmlivesg741--s.crm.dynamics.com/", want: []string{"scale group"}},
	{urlRow: urlRow{"scale group as the alternate", "nor is it one"}, orgURL: "https://contoso.crm.dynamics.com", alternate: "https://by2--namcrmlivesg741.crm.dynamics.com/", want: []string{"alternate URL names a scale group"}},
	{urlRow: urlRow{"scale group with one address", "nor an organization of its own"}, orgURL: "https://by2--namcrmlivesg741.crm.dynamics.com/", alternate: NoAlternate, want: []string{"scale group"}},
	{urlRow: urlRow{"NoAlternate misspelt", "any other word is a URL"}, orgURL: "https://contoso.crm.dynamics.com", alternate: "None", want: []string{"alternate URL does not begin with https://"}},
	{urlRow: urlRow{"api without organization", "the label of the form is no organization"}, orgURL: "https://api.crm.dynamics.com", want: []string{"not an organization"}},
	{urlRow: urlRow{"api twice", "nor is it with the form"}, orgURL: "https://api.api.crm.dynamics.com", want: []string{"not an organization"}},
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
				_, alternateErr := AlternateURL(tt.orgURL)
				assert.EqualError(t, alternateErr, err.Error())
			}
		})
	}
}

// The hosts that an endpoint may have.
func TestNamesOfHosts(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("a", 61)
	for name, want := range map[string]string{
		"contoso": "", "crm_01": "", "192.0.2.1": "", "[::1]": "", "[2001:db8::1]": "", longest: "", longest[62:]: "",
		longest + "a": "more than 253 octets", longest[:63] + "a": "label over 63 octets", "[::1": "bad IPv6", "[::1]x": "bad IPv6", "[192.0.2.1]": "bad IPv6", "[contoso]": "bad IPv6",
		"[fe80::1%eth0]": "bad IPv6", "[]": "bad IPv6", "a..b": "empty label", "-a": "hyphen", "a-": "hyphen", "a b": "characters other", "A": "characters other",
		"crm.dynamics.com": "label is missing", "operations.dynamics.com": "label is missing",
	} {
		err := checkName(name)
		if want == "" {
			assert.NoError(t, err, name)
		} else {
			assert.ErrorContains(t, err, want, name)
		}
	}
	for label, want := range map[string]bool{
		"by2--namcrmlivesg741": true, "db3--eurcrmlivesg641": true, "--namcrmlivesg741": false, "by-2--namcrmlivesg741": false, "by2--namcrmlivesg": false,
		"by2--namlivesg741": false, "by2--namcrmlive741": false, "by2namcrmlivesg741": false, "contoso": false, "contoso--s": false, "": false,
	} {
		assert.Equal(t, want, isScaleGroup(label), label)
	}
	for name, want := range map[string]bool{
		"localhost": true, "a.localhost": true, "127.0.0.1": true, "127.9.9.9": true, "[::1]": true, "[::ffff:127.0.0.1]": true,
		"192.0.2.1": false, "[2001:db8::1]": false, "0.0.0.0": false, "localhost.contoso.example": false, "xlocalhost": false,
	} {
		assert.Equal(t, want, origin{name: name}.loopback(), name)
	}
	for address, want := range map[string][3]string{
		"HTTPS://a/b?c#d": {"https", "a", "/b?c#d"}, "HTTP://a?c": {"http", "a", "?c"}, "https://a#d": {"https", "a", "#d"}, "http://": {"http", "", ""}, "https": {}, "ftp://a": {}, "//a": {}, "": {},
	} {
		scheme, authority, rest, ok := splitURL(address)
		assert.Equal(t, want, [3]string{scheme, authority, rest}, address)
		assert.Equal(t, want[0] != "", ok, address)
	}
}

// What the path of an on-premises server names.
func TestServicePaths(t *testing.T) {
	t.Parallel()
	for path, want := range map[string][2]string{
		"": {}, "/": {}, "/Contoso": {"/Contoso"}, "/Contoso/": {"/Contoso"}, "/Contoso#x": {"/Contoso"}, "/Contoso?x": {"/Contoso"}, "/Contoso#x?y/z": {"/Contoso"},
		"/Contoso/api/data/v9.0": {"/Contoso", "v9.0"}, "/Contoso/api/data/": {"/Contoso"}, "/Contoso/api/data": {"/Contoso"}, "/api/data/v8.2": {"", "v8.2"}, "/api/data": {},
		"/Contoso/x/data/v9.0": {"/Contoso"}, "/Contoso/api/x/v9.0": {"/Contoso"}, "/Contoso/api/data/v9.0.1": {"/Contoso", "v9.0.1"}, "/Contoso/api/data/v9.0.12": {"/Contoso"},
		"/Contoso/api/data/9.0": {"/Contoso"}, "/Contoso/api/data/v": {"/Contoso"}, "/Contoso/api/data/v9x": {"/Contoso"}, "/Contoso/api/data/v9.0x": {"/Contoso"},
		"/_static/x": {}, "/_Common": {}, "/C_1-x": {"/C_1-x"}, "/1a": {"/1a"}, "/a.b": {}, "/XRMServices/2011": {}, "/mscrmservices": {}, "/WebResources/x": {},
	} {
		root, version := servicePath("https://crm.contoso.example" + path)
		assert.Equal(t, want, [2]string{root, version}, path)
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
		if err != nil { // some are valid addresses
			assert.NotContains(t, err.Error(), urlCanary, "ParseOrg(%q)", s)
		}
		if strings.Contains(s, "@") {
			assert.Error(t, err, "%q: what stands before the @ may be a password", s)
		}
		_, err = newOrg("https://crm.contoso.example", s, false)
		if err != nil { // some are valid alternates
			assert.NotContains(t, err.Error(), urlCanary, "alternate %q", s)
		}
		_, err = newOrg(s, s, true)
		if assert.Error(t, err, s) {
			assert.NotContains(t, err.Error(), urlCanary, "both %q", s)
		}
	}
}
