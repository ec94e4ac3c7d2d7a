package message

import (
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/ascii"
)

const (
	rewritePrimary   = "contoso.crm4.dynamics.com"
	rewriteAlternate = "contoso--s.crm4.dynamics.com"

	typeJSON  = "application/json; charset=utf-8; odata.metadata=minimal"
	typeSOAP  = `application/soap+xml; charset=utf-8; action="http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/Execute"`
	typeBatch = `multipart/mixed; boundary="batch_1"`
	batchPath = "/api/data/v9.2/$batch"
)

func contentType(s string) http.Header { return http.Header{"Content-Type": {s}} }

// A side is the endpoint that messages are rewritten for. It maps the names of the pair as the
// organization does: with and without the label api, in any case, with a final dot, and with
// no port or that of https.
type side struct{ alternate bool }

func (s side) String() string {
	if s.alternate {
		return "alternate"
	}
	return "primary"
}

func (s side) other() side { return side{!s.alternate} }

var toPrimary, toAlternate = side{}, side{alternate: true}

func (s side) Other() string {
	if s.alternate {
		return rewritePrimary
	}
	return rewriteAlternate
}

func (s side) MapURL(u string) (string, bool) {
	scheme, authority, _ := strings.Cut(u, "://")
	if host, ok := s.MapHost(authority); ok && strings.EqualFold(scheme, "https") {
		return "https://" + host, true
	}
	return u, false
}

func (s side) MapHost(authority string) (string, bool) {
	name := strings.TrimSuffix(strings.TrimSuffix(ascii.Lower(authority), "443"), ":")
	label, domain, _ := strings.Cut(strings.TrimSuffix(name, "."), ".")
	if domain != "crm4.dynamics.com" && domain != "api.crm4.dynamics.com" {
		return authority, false
	}
	switch {
	case s.alternate && label == "contoso":
		return "contoso--s." + domain, true
	case !s.alternate && label == "contoso--s":
		return "contoso." + domain, true
	}
	return authority, false
}

// rewriteFor rewrites a body for one side, as the headers describe it.
func rewriteFor(to side, h http.Header, urlPath string, body []byte) ([]byte, bool) {
	return Rewrite(to, h.Get("Content-Type"), h.Get("Content-Encoding"), urlPath, body)
}

// A rewriteCase is a body in which {M} is a host that must be mapped, and {K} the same host
// where it must stay. Every case runs in both directions.
type rewriteCase struct {
	name string
	why  string
	body string
	// Zero values: the kind of the table, no Content-Encoding, batchPath.
	contentType string
	encoding    string
	path        string
}

// render returns the body with both kinds of hosts filled in.
func (c rewriteCase) render(moving, kept string) string {
	return strings.NewReplacer("{M}", moving, "{K}", kept).Replace(c.body)
}

func (c rewriteCase) header(kind string) http.Header {
	h := contentType(kind)
	if c.contentType != "" {
		h.Set("Content-Type", c.contentType)
	}
	if c.encoding != "" {
		h.Set("Content-Encoding", c.encoding)
	}
	return h
}

func (c rewriteCase) urlPath() string {
	if c.path != "" {
		return c.path
	}
	return batchPath
}

// runRewriteCases checks what holds for every case: the places marked {M} change and no others
// do; the input is left alone; a second pass changes nothing; the way back restores the
// original.
func runRewriteCases(t *testing.T, kind string, cases []rewriteCase) {
	names := map[string]bool{}
	for _, c := range cases {
		require.NotEmpty(t, c.why, "case %q needs a reason", c.name)
		require.False(t, names[c.name], "case %q is there twice", c.name)
		names[c.name] = true
		for _, to := range []side{toPrimary, toAlternate} {
			from, host := rewritePrimary, rewriteAlternate
			if to == toPrimary {
				from, host = host, from
			}
			t.Run(c.name+"/"+to.String(), func(t *testing.T) {
				t.Parallel()
				in, want := c.render(from, from), c.render(host, from)
				body := []byte(in)
				got, changed := rewriteFor(to, c.header(kind), c.urlPath(), body)
				assert.Equal(t, want, string(got), c.why)
				assert.Equal(t, in != want, changed, c.why)
				assert.Equal(t, in, string(body), "the caller's bytes")
				again, changed := rewriteFor(to, c.header(kind), c.urlPath(), got)
				assert.False(t, changed, "second pass")
				assert.Equal(t, want, string(again), "second pass")
				if !strings.Contains(c.body, "{K}") {
					back, _ := rewriteFor(to.other(), c.header(kind), c.urlPath(), got)
					assert.Equal(t, in, string(back), "there and back")
				}
			})
		}
	}
}

var rewriteJSONCases = []rewriteCase{
	{name: "bind", why: "a lookup set by URL",
		body: `{"name":"A","parentaccountid@odata.bind":"https://{M}/api/data/v9.2/accounts(1)"}`},
	{name: "bind to a list", why: "a collection-valued navigation property binds an array",
		body: `{"members@odata.bind" : [ "https://{M}/api/data/v9.2/contacts(1)" ,"contacts(2)", "https://{M}/x" ]}`},
	{name: "id of a reference", why: "the body of POST …/$ref",
		body: `{"@odata.id":"https://{M}/api/data/v9.2/contacts(1)"}`},
	{name: "4.01 forms", why: "OData 4.01 lets the prefix go",
		body: `{"a@bind":"https://{M}/api","@id":"https://{M}/api","c@bind":["https://{M}/1"]}`},
	{name: "4.01 forms in a value", why: "the caller's own JSON, JSON-LD for one, has these names too",
		body: `{"x":{"@id":"https://{K}/api","a@bind":"https://{K}/api","@odata.id":"https://{M}/"},"y":[{"@id":"https://{K}/","z":[[{"@id":"https://{K}/"}]]}]}`},
	{name: "4.01 forms in a list", why: "the outermost value is no entity",
		body: `[{"@id":"https://{K}/api","a@bind":"https://{K}/api"}]`},
	{name: "deep insert", why: "annotations count at every level, also in arrays of objects",
		body: `{"tasks":[{"owner@odata.bind":"https://{M}/api"},[{"x":[{"@odata.id":"https://{M}/api"}]}]]}`},
	{name: "value without a path", why: "the authority may end with the string",
		body: `{"@odata.id":"https://{M}"}`},
	{name: "query behind the authority", why: "the authority may end with ? or #",
		body: `{"@odata.id":"https://{M}?x=https://{K}/","x@odata.bind":"https://{M}#y"}`},
	{name: "escaped slashes", why: "PHP and .NET escape slashes; the escapes stay",
		body: `{"x@odata.bind":"https:\/\/{M}\/api\/data"}`},
	{name: "one escaped slash", why: "each may be escaped, or not", body: `{"x@odata.bind":["https:\//{M}/","https:/\/{M}/"]}`},
	{name: "after a list or an object", why: "names go on", body: `{"a":[],"x@odata.bind":"https://{M}/","b":{},"y@odata.bind":"https://{M}/"}`},
	{name: "escaped name", why: "a name is what it decodes to",
		body: `{"x@odata\u002ebind":"https://{M}/api"}`},
	{name: "duplicate names", why: "the parser on the other side chooses, so all move",
		body: `{"x@odata.bind":"https://{M}/1","x@odata.bind":"https://{M}/2"}`},
	{name: "layout", why: "white space, number forms, escapes and order survive",
		body: "{\r\n\t\"a\" : 1e999, \"b\":-0.0,\"u\":\"\\u00e9\\/\",\n \"x@odata.bind\"\n:\t\"https://{M}/\\u00e9\" }\n"},
	{name: "invalid UTF-8 elsewhere", why: "bytes that we do not replace are not ours to repair",
		body: "{\"a\":\"\xff\",\"x@odata.bind\":\"https://{M}/\xfe\"}"},
	{name: "vendor type", why: "structured suffix +json", contentType: "application/vnd.contoso+json",
		body: `{"@odata.id":"https://{M}/api"}`},
	{name: "identity encoding", why: "identity is no encoding", encoding: "identity",
		body: `{"@odata.id":"https://{M}/api"}`},

	{name: "column values", why: "data is data, even when it is a URL of the organization",
		body: `{"websiteurl":"https://{K}/main.aspx","description":"see https://{K}/","@odata.id":"https://{M}/api"}`},
	{name: "envelope in a note", why: "a note may contain anything",
		body: `{"notetext":"<s:Envelope><s:Header><a:To>https://{K}/</a:To></s:Header></s:Envelope>"}`},
	{name: "annotation in a string", why: "JSON in a string is a column value",
		body: `{"json":"{\"x@odata.bind\":\"https://{K}/api\"}","y":"@odata.id"}`},
	{name: "annotation as a value", why: "a value that looks like a name does not make the next one a link",
		body: `["@odata.id","https://{K}/api",{"a":"@odata.id","b":"https://{K}/api"}]`},
	{name: "objects below an annotation", why: "what is inside an object has names of its own",
		body: `{"x@odata.bind":{"a":"https://{K}/"},"y@odata.bind":[["https://{K}/"],{"b":"https://{K}/"}]}`},
	{name: "after a bind", why: "the next member is no link",
		body: `{"x@odata.bind":[],"a":"https://{K}/","y@odata.bind":null,"b":["https://{K}/"]}`},
	{name: "not at the start", why: "only the URL's own authority is an address",
		body: `{"@odata.id":"https://example.com/?u=https://{K}/","x@odata.bind":" https://{K}/"}`},
	{name: "other annotations", why: "only id and bind address an entity",
		body: `{"@odata.type":"https://{K}/","x@odata.navigationLink":"https://{K}/","@odata.ids":"https://{K}/"}`},
	{name: "other organization", why: "a longer name, another suffix and user info are someone else's",
		body: `{"@odata.id":"https://x{K}/","a@odata.bind":["https://{K}.example.com/","https://u@{K}/","https://{K}:8443/","https://{K}\\@example.com/"]}`},
	{name: "other scheme", why: "http is not the organization's", body: `{"@odata.id":"http://{K}/api"}`},
	{name: "other marks", why: "no URL", body: `{"@odata.id":"https//:{K}/","x@odata.bind":["https%3A%2F%2F{K}/","https:\/\u002f{K}/"]}`},
	{name: "no scheme", why: "only absolute URLs name a host", body: `{"@odata.id":"//{K}/api","x@odata.bind":"{K}/api"}`},
	{name: "cut short", why: "a body that does not parse goes out as it came", body: `{"@odata.id":"https://{K}/api"`},
	{name: "trailing garbage", why: "a body that does not parse goes out as it came", body: `{"@odata.id":"https://{K}/api"} x`},
	{name: "two values", why: "JSON lines are not a payload of the organization", body: "{\"@odata.id\":\"https://{K}/\"}\n{}"},
	{name: "byte order mark", why: "not JSON (RFC 8259, section 8.1)", body: "\ufeff{\"@odata.id\":\"https://{K}/\"}"},
	{name: "compressed", why: "what the bytes mean is hidden", encoding: "gzip", body: `{"@odata.id":"https://{K}/"}`},
	{name: "other charset", why: "bytes above 0x7F may be anything", contentType: "application/json; charset=shift_jis",
		body: `{"@odata.id":"https://{K}/"}`},
	{name: "other type", why: "an upload is data", contentType: "application/octet-stream", body: `{"@odata.id":"https://{K}/"}`},
	{name: "malformed type", why: "no guess at what it may be", contentType: "application/json; charset", body: `{"@odata.id":"https://{K}/"}`},
}

func TestRewriteJSON(t *testing.T) {
	t.Parallel()
	runRewriteCases(t, typeJSON, rewriteJSONCases)
}

func TestRewriteNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, why, in, want string }{
		{"upper case", "host names have no case", "https://CONTOSO.CRM4.Dynamics.com/API", "https://contoso--s.crm4.dynamics.com/API"},
		{"api variant", "each variant moves to its own", "https://contoso.api.crm4.dynamics.com/", "https://contoso--s.api.crm4.dynamics.com/"},
		{"already there", "nothing to do", "https://contoso--s.crm4.dynamics.com/?https://contoso.crm4.dynamics.com", "https://contoso--s.crm4.dynamics.com/?https://contoso.crm4.dynamics.com"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			in, want := `{"@odata.id":"`+c.in+`"}`, `{"@odata.id":"`+c.want+`"}`
			got, changed := rewriteFor(toAlternate, contentType(typeJSON), "/", []byte(in))
			assert.Equal(t, strings.ToLower(want), strings.ToLower(string(got)), c.why)
			assert.Equal(t, in != want, changed, c.why)
			assert.True(t, strings.HasSuffix(string(got), want[len(want)-6:]), "path bytes stay")
		})
	}
}

func TestRewriteQuery(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, c := range []struct{ name, why, query string }{
		{"encoded", "as the guide writes it", "$id=https%3A%2F%2F{M}%2Fapi%2Fdata%2Fv9.2%2Fcontacts(1)"},
		{"plain", "colon and slash may stand in a query", "$id=https://{M}/api/data/v9.2/contacts(1)"},
		{"lower-case escapes", "escapes are kept as written", "%24id=https%3a%2f%2f{M}%2fapi&x=%2f"},
		{"between others", "only this parameter", "a=https://{K}/&$id=https://{M}&b=$id=https://{K}/"},
		{"host only", "nothing behind it", "$id=https%3A%2F%2F{M}"},
		{"relative", "names no host", "$id=contacts(1)&x={K}"},
		{"other parameter", "data", "id=https://{K}/&$ID=https://{K}/&a$id=https://{K}/&$filter=x"},
		{"not at the start", "data", "$id=%20https://{K}/"},
		{"longer name", "another host", "$id=https://{K}.example.com/&$id=https%3A%2F%2F{K}%2eexample.com"},
		{"broken escape", "no URL", "$id=https%3A%2F%2"},
		{"broken escapes", "no URL", "$id=https%&$id=https%3&$id=https%3G%2F%2F{K}&$id=https%3A%2F%2F{K}%&$id=https%3A%2F%2F{K}%2"},
		{"digits behind an escape", "no URL", "$id=https%3A4142%2F%2F{K}/"},
		{"JSON escapes", "none in a query", `$id=https:\/\/{K}/`},
		{"nothing between", "parameters may be empty", "&$id=https://{M}/&&$id=https://{M}&"},
		{"user info", "someone else's", "$id=https://{K}%40example.com/&$id=https://u@{K}/"},
		{"empty", "nothing there", ""},
	} {
		require.False(t, names[c.name], c.name)
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			row := rewriteCase{body: c.query}
			for _, to := range []side{toPrimary, toAlternate} {
				from, host := rewritePrimary, rewriteAlternate
				if to == toPrimary {
					from, host = host, from
				}
				in, want := row.render(from, from), row.render(host, from)
				got, changed := RewriteQuery(to, in)
				assert.Equal(t, want, got, c.why)
				assert.Equal(t, in != want, changed, c.why)
				again, changed := RewriteQuery(to, got)
				assert.False(t, changed, "second pass")
				assert.Equal(t, got, again, "second pass")
			}
		})
	}
}

// A bridge maps one address to an address with another scheme, as test servers have.
type bridge struct{}

func (bridge) Other() string { return rewritePrimary }

func (bridge) MapURL(u string) (string, bool) {
	if u == "https://"+rewritePrimary {
		return "http://[::1]:8080", true
	}
	return u, false
}

func (bridge) MapHost(authority string) (string, bool) {
	if authority == rewritePrimary {
		return "[::1]:8080", true
	}
	return authority, false
}

// The new scheme is written, and an escaped authority is escaped again.
func TestRewriteToAnotherScheme(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"$id=https://" + rewritePrimary + "/a(1)":         "$id=http://[::1]:8080/a(1)",
		"$id=https%3A%2F%2F" + rewritePrimary + "%2Fa(1)": "$id=http%3A%2F%2F%5B%3A%3A1%5D%3A8080%2Fa(1)",
	} {
		got, changed := RewriteQuery(bridge{}, in)
		assert.Equal(t, want, got)
		assert.True(t, changed)
	}
	got, _ := Rewrite(bridge{}, "application/json", "", "/", []byte(`{"@odata.id":"https:\/\/`+rewritePrimary+`\/a"}`))
	assert.Equal(t, `{"@odata.id":"http:\/\/[::1]:8080\/a"}`, string(got))
}

func TestKindsOfContent(t *testing.T) {
	t.Parallel()
	for contentType, want := range map[string]kind{
		"": kindOther, "application/json": kindJSON, "application/json; charset=utf-8": kindJSON, "APPLICATION/JSON;charset=UTF-8": kindJSON, "application/problem+json": kindJSON,
		"application/http": kindHTTP, "application/http; msgtype=request": kindHTTP, "application/soap+xml": kindXML, "text/xml; charset=utf8": kindXML, "application/xml; charset=us-ascii": kindXML,
		"multipart/mixed; boundary=b": kindMultipart, "multipart/form-data; boundary=b": kindOther, "text/xml; charset=utf-16": kindOther, "text/plain": kindOther, "application/json; charset": kindOther, "json": kindOther,
	} {
		got, _ := parseKind(contentType, "")
		assert.Equal(t, want, got, contentType)
		got, _ = parseKind(contentType, " Identity ")
		assert.Equal(t, want, got, contentType)
		got, _ = parseKind(contentType, "br")
		assert.Equal(t, kindOther, got, contentType)
	}
}

func TestCharactersOfAddresses(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		b := byte(c)
		assert.Equal(t, isASCIILetter(b), isLetter(b), "%q", b)
		assert.Equal(t, isASCIILetter(b) || b >= '0' && b <= '9' || strings.IndexByte("-.:[]_", b) >= 0, isAuthority(b), "%q", b)
	}
}

// The usual request costs nothing to recognize. A rewritten body is copied once, into no more
// memory than it needs.
func TestRewriteAllocatesLittle(t *testing.T) { // counts allocations, so not parallel
	for _, contentType := range []string{"application/json", "application/json; charset=utf-8", "application/http"} {
		assert.Zero(t, testing.AllocsPerRun(10, func() { parseKind(contentType, "") }), contentType)
	}
	assert.Zero(t, testing.AllocsPerRun(10, func() { RewriteQuery(toPrimary, "$select=name&$top=5") }))
	for _, with := range []string{"", "x", "longer"} {
		out := splice([]byte("abcd"), []edit{{span{3, 4}, with}, {span{1, 2}, with}})
		assert.Equal(t, "a"+with+"c"+with, string(out))
		assert.Equal(t, len(out), cap(out))
	}
}

// Time and memory stay linear in hostile bodies. Otherwise the test would take minutes, or
// gigabytes.
func TestRewriteHostileBodies(t *testing.T) {
	t.Parallel()
	const n = 1 << 18
	link := `"https://` + rewritePrimary + `/"`
	for name, c := range map[string]struct{ kind, body string }{
		"brackets": {typeJSON, strings.Repeat("[", n) + link},
		"binds":    {typeJSON, `{"a@odata.bind":[` + strings.Repeat(`"",`, n) + link + `]}`},
		"anchors":  {typeJSON, strings.Repeat("contoso.", n)},
		"elements": {typeSOAP, envelopeOf(link+strings.Repeat("<a>", n), "")},
		"ids":      {typeSOAP, envelopeOf(strings.Repeat(`<d:Reference URI="#a"/>`, n/16)+strings.Repeat(`<a:To b="c"/>`, n/16)+link, "")},
		"parts":    {typeBatch, link + "\n" + strings.Repeat("--batch_1\n\n", n) + "--batch_1--\n"},
		"sets":     {typeBatch, strings.Repeat("--batch_1\nContent-Type: multipart/mixed; boundary=batch_1\n\n", n/16) + link + "--batch_1--\n"},
		"fields":   {typeBatch, "--batch_1\n" + strings.Repeat("a:\n", n) + "\n" + link + "\n--batch_1--\n"},
		"lengths":  {typeBatch, "--batch_1\n" + strings.Repeat("Content-Length: 1\n", n/16) + "\n" + link + "\n--batch_1--\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _ := rewriteFor(toAlternate, contentType(c.kind), batchPath, []byte(c.body))
			assert.InDelta(t, len(c.body), len(got), 8)
		})
	}
}

// Not parallel: it measures the memory of the process. Reading a body takes no more than a
// small multiple of its length, whatever it contains.
func TestRewriteTakesMemoryInProportion(t *testing.T) {
	const n = 1 << 20
	link := `"https://` + rewritePrimary + `/"`
	for name, c := range map[string]struct{ kind, body string }{
		"header lines of a part":    {typeBatch, "--batch_1\n" + strings.Repeat("a:\n", n) + "\n" + link + "\n--batch_1--\n"},
		"header lines of a request": {typeBatch, "--batch_1\nContent-Type: application/http\n\nGET " + link + " HTTP/1.1\n" + strings.Repeat("a:\n", n) + "\n--batch_1--\n"},
		"folded lines":              {typeBatch, "--batch_1\na: b\n" + strings.Repeat(" \n", n) + "\n" + link + "\n--batch_1--\n"},
		"delimiters":                {typeBatch, link + "\n" + strings.Repeat("--batch_1\n\n", n/4) + "--batch_1--\n"},
		"brackets":                  {typeJSON, strings.Repeat("[", n) + link},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, changed := rewriteFor(toAlternate, contentType(c.kind), batchPath, []byte(c.body))
			runtime.ReadMemStats(&after)
			assert.False(t, changed)
			assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4*len(c.body)+1<<20))
		})
	}
}
