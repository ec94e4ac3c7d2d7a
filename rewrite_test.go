package failover

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	rewritePrimary   = "contoso.crm4.dynamics.com"
	rewriteAlternate = "contoso--s.crm4.dynamics.com"

	typeJSON  = "application/json; charset=utf-8; odata.metadata=minimal"
	typeSOAP  = `application/soap+xml; charset=utf-8; action="http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/Execute"`
	typeBatch = `multipart/mixed; boundary="batch_1"`
	batchPath = "/api/data/v9.2/$batch"
)

func rewriteOrg(t testing.TB) *Org {
	t.Helper()
	org, err := ParseOrg("https://" + rewritePrimary)
	require.NoError(t, err)
	return &org
}

func contentType(s string) http.Header { return http.Header{"Content-Type": {s}} }

// A rewriteCase is a body in which {M} is a host that has to move and {K} the
// same host where it has to stay. Every case is run in both directions.
type rewriteCase struct {
	name string
	why  string
	body string
	// Zero values: the kind of the table, no Content-Encoding, batchPath.
	contentType string
	encoding    string
	path        string
}

// render returns the body with its two kinds of hosts filled in.
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

// runRewriteCases checks what holds for every case: the places marked {M}, and
// no others, change; the input is left alone; a second pass changes nothing; the
// way back gives the first body.
func runRewriteCases(t *testing.T, kind string, cases []rewriteCase) {
	org := rewriteOrg(t)
	names := map[string]bool{}
	for _, c := range cases {
		require.NotEmpty(t, c.why, "case %q needs a reason", c.name)
		require.False(t, names[c.name], "case %q is there twice", c.name)
		names[c.name] = true
		for _, to := range []Endpoint{Primary, Alternate} {
			from, host := rewritePrimary, rewriteAlternate
			if to == Primary {
				from, host = host, from
			}
			t.Run(c.name+"/"+to.String(), func(t *testing.T) {
				t.Parallel()
				in, want := c.render(from, from), c.render(host, from)
				body := []byte(in)
				got, changed := org.rewriteBody(c.header(kind), c.urlPath(), body, to)
				assert.Equal(t, want, string(got), c.why)
				assert.Equal(t, in != want, changed, c.why)
				assert.Equal(t, in, string(body), "the caller's bytes")
				again, changed := org.rewriteBody(c.header(kind), c.urlPath(), got, to)
				assert.False(t, changed, "second pass")
				assert.Equal(t, want, string(again), "second pass")
				if !strings.Contains(c.body, "{K}") {
					back, _ := org.rewriteBody(c.header(kind), c.urlPath(), got, to.other())
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
		body: `{"a@bind":"https://{M}/api","b":{"@id":"https://{M}/api"}}`},
	{name: "deep insert", why: "annotations count at every level, also in arrays of objects",
		body: `{"tasks":[{"owner@odata.bind":"https://{M}/api"},[{"x":[{"@odata.id":"https://{M}/api"}]}]]}`},
	{name: "value without a path", why: "the authority may end with the string",
		body: `{"@odata.id":"https://{M}"}`},
	{name: "query behind the authority", why: "the authority may end with ? or #",
		body: `{"@odata.id":"https://{M}?x=https://{K}/","x@odata.bind":"https://{M}#y"}`},
	{name: "escaped slashes", why: "PHP and .NET escape slashes; the escapes stay",
		body: `{"x@odata.bind":"https:\/\/{M}\/api\/data"}`},
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

// envelopeOf returns a SOAP 1.2 envelope with the given header and body blocks.
func envelopeOf(header, body string) string {
	return `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/2005/08/addressing"` +
		` xmlns:u="urn:util" xmlns:o="urn:sec" xmlns:d="http://www.w3.org/2000/09/xmldsig#" xmlns:e="http://www.w3.org/2001/04/xmlenc#">` +
		`<s:Header>` + header + `</s:Header><s:Body>` + body + `</s:Body></s:Envelope>`
}

// signedOf returns a security header with one signature of the given references.
func signedOf(references string) string {
	return `<o:Security><d:Signature><d:SignedInfo>` + references + `</d:SignedInfo></d:Signature></o:Security>`
}

var rewriteSOAPCases = []rewriteCase{
	{name: "SOAP 1.2", why: "WCF compares wsa:To with its address",
		body: envelopeOf(`<a:Action>x</a:Action><a:To s:mustUnderstand="1">https://{M}/XRMServices/2011/Organization.svc</a:To>`, `<x/>`)},
	{name: "SOAP 1.1", why: "the older envelope and addressing, prefixes are the sender's", contentType: "text/xml; charset=utf-8",
		body: `<?xml version="1.0" encoding="utf-8"?>` + "\r\n" + `<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Header>` +
			`<To xmlns="http://schemas.xmlsoap.org/ws/2004/08/addressing">https://{M}/a&amp;b</To></Header><Body/></Envelope>`},
	{name: "white space", why: "xs:anyURI collapses it; it stays", body: envelopeOf("<a:To>\n\t https://{M}/x \r\n</a:To>", "")},
	{name: "white space behind the authority", why: "it is not part of the URL", body: envelopeOf("<a:To> https://{M}\n</a:To>", "")},
	{name: "byte order mark", why: ".NET writers send one", body: "\ufeff" + envelopeOf("<a:To>https://{M}/</a:To>", "")},
	{name: "comments", why: "outside of To they do not matter", body: "<!-- a --><?b?>" + envelopeOf("<!-- c --><a:To>https://{M}/</a:To>", "<![CDATA[<]]>") + "\n<?b {K}?><!-- -->"},
	{name: "timestamp signed", why: "the usual token: the signature covers another Id",
		body: envelopeOf(`<a:To u:Id="_1">https://{M}/</a:To>`+signedOf(`<d:Reference URI="#_0"/>`), "")},
	{name: "signed token", why: "the assertion's own signature does not cover To, encrypted parts beside it neither",
		body: envelopeOf(`<o:Security><e:EncryptedData/><o:Assertion ID="a"><d:Signature><d:Reference URI="#a"/></d:Signature></o:Assertion></o:Security><a:To>https://{M}/</a:To>`, "")},
	{name: "key reference", why: "a token reference is not a signature's reference",
		body: envelopeOf(`<a:To u:Id="_1">https://{M}/</a:To>`+signedOf(`<d:Reference URI="#_0"/>`)+`<o:Reference URI="#_1"/>`, "")},

	{name: "To signed", why: "a changed message would be refused",
		body: envelopeOf(`<a:To u:Id="_1">https://{K}/</a:To>`+signedOf(`<d:Reference URI="#_0"/><d:Reference URI="#_1"/>`), "")},
	{name: "header signed", why: "To is in it",
		body: strings.Replace(envelopeOf(`<a:To>https://{K}/</a:To>`+signedOf(`<d:Reference URI="#h"/>`), ""), "<s:Header>", `<s:Header u:Id="h">`, 1)},
	{name: "envelope signed", why: "To is in it",
		body: strings.Replace(envelopeOf(`<a:To>https://{K}/</a:To>`+signedOf(`<d:Reference URI="#v"/>`), ""), "<s:Envelope ", `<s:Envelope u:Id="v" `, 1)},
	{name: "document signed", why: "an empty URI is the whole document", body: envelopeOf(signedOf(`<d:Reference URI=""/>`)+`<a:To>https://{K}/</a:To>`, "")},
	{name: "no URI", why: "the application knows what is signed, we do not", body: envelopeOf(signedOf(`<d:Reference/>`)+`<a:To>https://{K}/</a:To>`, "")},
	{name: "XPointer", why: "may point at anything", body: envelopeOf(signedOf(`<d:Reference URI="#xpointer(/)"/>`)+`<a:To>https://{K}/</a:To>`, "")},
	{name: "empty pointer", why: "not an Id", body: envelopeOf(signedOf(`<d:Reference URI="#"/>`)+`<a:To>https://{K}/</a:To>`, "")},
	{name: "no references", why: "a signature of nothing known", body: envelopeOf(signedOf("")+`<a:To>https://{K}/</a:To>`, "")},
	{name: "second signature without references", why: "each has to be understood",
		body: envelopeOf(signedOf("")+signedOf(`<d:Reference URI="#_0"/>`)+`<a:To>https://{K}/</a:To>`, "")},
	{name: "encrypted signature", why: "it may cover To", body: envelopeOf(`<o:Security><e:EncryptedData/></o:Security><a:To>https://{K}/</a:To>`, "")},
	{name: "To in the body", why: "a column of that name, or a payload", body: envelopeOf(`<x><a:To>https://{K}/</a:To></x>`,
		`<a:To>https://{K}/</a:To><s:Header><a:To>https://{K}/</a:To></s:Header>`+envelopeOf(`<a:To>https://{K}/</a:To>`, ""))},
	{name: "other headers", why: "only To is compared", body: envelopeOf(`<a:ReplyTo><a:Address>https://{K}/</a:Address></a:ReplyTo><To>https://{K}/</To><u:To>https://{K}/</u:To>`, "")},
	{name: "other envelope", why: "a namespace, not a prefix, says what it is",
		body: strings.Replace(envelopeOf(`<a:To>https://{K}/</a:To>`, ""), "2003/05", "2001/12", 1)},
	{name: "other XML", why: "an Atom entry is data", contentType: "application/xml", body: `<entry><id>https://{K}/</id></entry>`},
	{name: "comment in To", why: "the authority is in one piece", body: envelopeOf(`<a:To>https://{M}/<!-- -->{K}</a:To>`, "")},
	{name: "broken text", why: "the URL goes on behind the comment", body: envelopeOf(`<a:To>https://{K}<!-- -->.example.com</a:To>`, "")},
	{name: "character data section", why: "nobody writes it; left alone", body: envelopeOf(`<a:To><![CDATA[https://{K}/]]></a:To>`, "")},
	{name: "child in To", why: "not an address", body: envelopeOf(`<a:To><x>https://{K}/</x></a:To>`, "")},
	{name: "no address", why: "the anonymous address and an empty one have no host", body: envelopeOf(`<a:To>http://www.w3.org/2005/08/addressing/anonymous</a:To><a:To/>`, "<x>{K}</x>")},
	{name: "document type", why: "entities could mean anything", body: `<!DOCTYPE x [<!ENTITY h "{K}">]>` + envelopeOf(`<a:To>https://{K}/</a:To>`, "")},
	{name: "unknown entity", why: "does not parse", body: envelopeOf(`<a:To>https://{K}/&x;</a:To>`, "")},
	{name: "two roots", why: "does not parse", body: envelopeOf(`<a:To>https://{K}/</a:To>`, "") + envelopeOf("", "")},
	{name: "text around", why: "does not parse", body: "x" + envelopeOf(`<a:To>https://{K}/</a:To>`, "")},
	{name: "cut short", why: "does not parse", body: strings.TrimSuffix(envelopeOf(`<a:To>https://{K}/</a:To>`, ""), "</s:Envelope>")},
	{name: "too deep", why: "the decoder's memory is bounded", body: envelopeOf(`<a:To>https://{K}/</a:To>`, strings.Repeat("<x>", 2000)+strings.Repeat("</x>", 2000))},
	{name: "declared UTF-16", why: "the bytes are not what they say", body: `<?xml version="1.0" encoding="utf-16"?>` + envelopeOf(`<a:To>https://{K}/</a:To>`, "")},
	{name: "UTF-16", why: "bodies of two-byte characters are left alone", body: strings.Join(strings.Split(envelopeOf(`<a:To>https://`+rewritePrimary+`/</a:To>`, ""), ""), "\x00")},
}

func TestRewriteSOAP(t *testing.T) {
	t.Parallel()
	runRewriteCases(t, typeSOAP, rewriteSOAPCases)
}

// crlf gives s the line ends of the wire.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

var rewriteBatchCases = []rewriteCase{
	{name: "absolute URL", why: "the first of the three forms of a request line; header order and case stay",
		body: crlf("--batch_1\nCONTENT-type: application/http\nContent-Transfer-Encoding: binary\n\n" +
			"GET https://{M}/api/data/v9.2/accounts?$filter=websiteurl%20eq%20'https://{K}/' HTTP/1.1\nAccept: application/json\nIf-Match: W/\"{K}\"\n\n--batch_1--\n")},
	{name: "absolute path and Host", why: "the second form",
		body: crlf("--batch_1\nContent-Type: application/http\nContent-ID: 1\n\nGET /api/data/v9.2/accounts HTTP/1.1\nhOST:  {M} \nX-From: {K}\n\n--batch_1--")},
	{name: "relative path", why: "the third form names no host",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET accounts?$search={K} HTTP/1.1\n\n--batch_1--")},
	{name: "change set", why: "writes are one level deeper, with bodies of their own",
		body: crlf("preamble {K}\n--batch_1\nContent-Type: multipart/mixed;\n boundary=set_1\n\n--set_1 \t\nContent-Type: application/http; msgtype=request\nContent-ID: 1\n\n" +
			"POST https://{M}/api/data/v9.2/tasks HTTP/1.1\nContent-Type: application/json;type=entry\n\n" +
			"{\"description\":\"https://{K}/\",\"x@odata.bind\":\"https://{M}/api/data/v9.2/accounts(1)\"}\n" +
			"--set_1\nContent-Type: application/http\n\nPATCH $1 HTTP/1.1\nContent-Type: application/json\n\n{\"y@odata.bind\":\"https://{M}/a\"}\n\n--set_1--\n\n" +
			"--batch_1\nContent-Type: application/http\n\nGET https://{M}/api HTTP/1.1\n--batch_1--\nepilogue https://{K}/")},
	{name: "bare line feeds", why: "hand-written batches; their line ends stay",
		body: "--batch_1\nContent-Type: application/http\n\nPOST https://{M}/api HTTP/1.1\nHost: {M}\nContent-Type: application/json\n\n{\"@odata.id\":\"https://{M}/\"}\n--batch_1--\n"},
	{name: "blank line before the request", why: "readers skip it (RFC 9112, section 2.2)",
		body: crlf("--batch_1\nContent-Type: application/http\n\n\n\nGET https://{M}/api HTTP/1.1\n\n\n--batch_1--\n")},
	{name: "no version", why: "the target ends with the line", body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{M}/api\n\n--batch_1--\n")},
	{name: "disassociate", why: "the entity is named in the query",
		body: crlf("--batch_1\nContent-Type: application/http\n\nDELETE accounts(1)/x/$ref?$id=https://{M}/api/contacts(2) HTTP/1.1\n\n--batch_1--\n")},
	{name: "delimiter-like text", why: "a delimiter is a whole line",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST https://{M}/api HTTP/1.1\nContent-Type: application/json\n\n" +
			"{\"a\":\"--batch_1--\",\n \"--batch_1\":0, \"x@odata.bind\":\"https://{M}/\"\n}\n--batch_1--\n")},
	{name: "longer delimiter", why: "another boundary may begin like ours",
		body: crlf("--batch_1\nContent-Type: multipart/mixed; boundary=batch_12\n\n--batch_12\nContent-Type: application/http\n\nGET https://{M}/ HTTP/1.1\n\n--batch_12--\n--batch_1--\n")},
	{name: "unchanged length", why: "a part without a change keeps its length as written",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST https://{M}/ HTTP/1.1\nContent-Length: 003\n\na\n--batch_1--\n")},
	{name: "unreadable JSON in one part", why: "the organization refuses that part, the others are served",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST https://{M}/api HTTP/1.1\nContent-Type: application/json\n\n{\"@odata.id\":\"https://{K}/\"\n" +
			"--batch_1\nContent-Type: application/http\n\nGET https://{M}/api HTTP/1.1\n\n--batch_1--\n")},
	{name: "encoded part", why: "a compressed, base64 or unknown part is data",
		body: crlf("--batch_1\nContent-Type: application/http\nContent-Transfer-Encoding: base64\n\nGET https://{K}/api HTTP/1.1\n\n" +
			"--batch_1\nContent-Type: text/plain\n\nGET https://{K}/api HTTP/1.1\n\n" +
			"--batch_1\nContent-Type: application/http\n\nPOST https://{M}/api HTTP/1.1\nContent-Type: application/json\nContent-Encoding: gzip\n\n{\"@odata.id\":\"https://{K}/\"}\n\n--batch_1--\n")},
	{name: "multipart within a request", why: "a batch cannot be sent within a batch: its body is data",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST https://{M}/api/data/v9.2/$batch HTTP/1.1\nContent-Type: multipart/mixed; boundary=x\n\n" +
			"--x\nContent-Type: application/http\n\nGET https://{K}/api HTTP/1.1\n\n--x--\n--batch_1--\n")},
	{name: "third level", why: "change sets do not nest",
		body: crlf("--batch_1\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: multipart/mixed; boundary=y\n\n--y\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--y--\n--x--\n--batch_1--\n")},
	{name: "SOAP in a part", why: "only the Web API has batches",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST https://{M}/ HTTP/1.1\nContent-Type: text/xml\n\n" + envelopeOf("<a:To>https://{K}/</a:To>", "") + "\n--batch_1--\n")},

	{name: "no final boundary", why: "cut short: does not parse", body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/api HTTP/1.1\n\n")},
	{name: "no final boundary of the change set", why: "cut short: does not parse",
		body: crlf("--batch_1\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "only a final boundary", why: "no parts: does not parse", body: "https://{K}/\n--batch_1--\n"},
	{name: "no boundary", why: "cannot be parsed", contentType: "multipart/mixed", body: crlf("--\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n----\n")},
	{name: "other boundary", why: "cannot be parsed", contentType: "multipart/mixed; boundary=other",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "other multipart", why: "form data is data", contentType: `multipart/form-data; boundary="batch_1"`,
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "other path", why: "multipart sent elsewhere is an upload", path: "/api/data/v9.2/accounts",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "header without a colon", why: "does not parse", body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\nHost {K}\n\n--batch_1--\n")},
	{name: "space in a header name", why: "servers read it differently (RFC 9112, section 5.1)",
		body: crlf("--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\nContent-Length : 1\n\n--batch_1--\n")},
	{name: "folded first header", why: "nothing to fold into: does not parse", body: crlf("--batch_1\n Content-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "no request line", why: "does not parse", body: crlf("--batch_1\nContent-Type: application/http\n\n--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "method of other characters", why: "a request line must not become a delimiter", contentType: `multipart/mixed; boundary="x https://` + rewriteAlternate + `/"`,
		body: crlf("--x https://" + rewriteAlternate + "/\nContent-Type: application/http\n\n--x https://{K}/\n\n--x https://" + rewriteAlternate + "/--\n")},
	{name: "tab in the request line", why: "does not parse", body: crlf("--batch_1\nContent-Type: application/http\n\nGET\thttps://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "no method", why: "does not parse", body: crlf("--batch_1\nContent-Type: application/http\n\n https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "folded host", why: "no name of the pair", body: crlf("--batch_1\nContent-Type: application/http\n\nGET / HTTP/1.1\nHost: {K}\n {K}\n\n--batch_1--\n")},
	{name: "length beyond the part", why: "a server that trusts it sees other parts than we do",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST x HTTP/1.1\nContent-Type: text/plain\nContent-Length: 100\n\na\n" +
			"--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "length beyond the delimiter's line end", why: "the line end is the most that is counted by mistake",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST x HTTP/1.1\nContent-Type: text/plain\nContent-Length: 4\n\na\n" +
			"--batch_1\nContent-Type: application/http\n\nGET https://{K}/ HTTP/1.1\n\n--batch_1--\n")},
	{name: "length before the link", why: "the server would read half of the body",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST x HTTP/1.1\nContent-Type: application/json\nContent-Length: 9\n\n{\"@odata.id\":\"https://{K}/\"}\n--batch_1--\n")},
	{name: "length that is no number", why: "does not parse",
		body: crlf("--batch_1\nContent-Type: application/http\n\nPOST x HTTP/1.1\nContent-Type: application/json\nContent-Length: +40\n\n{\"@odata.id\":\"https://{K}/\"}\n--batch_1--\n")},
}

func TestRewriteBatch(t *testing.T) {
	t.Parallel()
	runRewriteCases(t, typeBatch, rewriteBatchCases)
}

func TestRewriteBatchCorrectsContentLength(t *testing.T) {
	t.Parallel()
	org := rewriteOrg(t)
	// lengthBatch has a length in every place there can be one.
	lengthBatch := func(host string, trailing int) string {
		body := `{"x@odata.bind":["https://` + host + `/a","https://` + host + `/b"]}`
		request := crlf(fmt.Sprintf("POST https://%s/tasks HTTP/1.1\nContent-Type: application/json\ncontent-LENGTH: %d\nHost: %s\n\n%s", host, len(body)+trailing, host, body))
		other := crlf("POST tasks HTTP/1.1\nContent-Length: 2\nContent-Type: application/json\n\n{}")
		set := crlf("--s\nContent-Type: application/http\nContent-Length: "+fmt.Sprint(len(request)+trailing)+"\n\n") + request +
			crlf("\n--s\nContent-Type: application/http\n\n") + other + crlf("\n--s--")
		return crlf(fmt.Sprintf("--batch_1\nContent-Length:%d\nContent-Type: multipart/mixed; boundary=s\n\n", len(set)+trailing)) +
			set + crlf("\n--batch_1--\n")
	}
	for _, trailing := range []int{0, 2} { // with the line end before the delimiter or without it
		in, want := lengthBatch(rewritePrimary, trailing), lengthBatch(rewriteAlternate, trailing)
		got, changed := org.rewriteBody(contentType(typeBatch), batchPath, []byte(in), Alternate)
		assert.True(t, changed)
		assert.Equal(t, want, string(got))
		back, _ := org.rewriteBody(contentType(typeBatch), batchPath, got, Primary)
		assert.Equal(t, in, string(back))
	}
}

func TestRewriteNames(t *testing.T) {
	t.Parallel()
	org := rewriteOrg(t)
	for _, c := range []struct{ name, why, in, want string }{
		{"upper case", "host names have no case", "https://CONTOSO.CRM4.Dynamics.com/API", "https://contoso--s.crm4.dynamics.com/API"},
		{"api variant", "each variant moves to its own", "https://contoso.api.crm4.dynamics.com/", "https://contoso--s.api.crm4.dynamics.com/"},
		{"already there", "nothing to do", "https://contoso--s.crm4.dynamics.com/?https://contoso.crm4.dynamics.com", "https://contoso--s.crm4.dynamics.com/?https://contoso.crm4.dynamics.com"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			in, want := `{"@odata.id":"`+c.in+`"}`, `{"@odata.id":"`+c.want+`"}`
			got, changed := org.rewriteBody(contentType(typeJSON), "/", []byte(in), Alternate)
			assert.Equal(t, strings.ToLower(want), strings.ToLower(string(got)), c.why)
			assert.Equal(t, in != want, changed, c.why)
			assert.True(t, strings.HasSuffix(string(got), want[len(want)-6:]), "path bytes stay")
		})
	}
}

func TestRewriteQuery(t *testing.T) {
	t.Parallel()
	org := rewriteOrg(t)
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
		{"user info", "someone else's", "$id=https://{K}%40example.com/&$id=https://u@{K}/"},
		{"empty", "nothing there", ""},
	} {
		require.False(t, names[c.name], c.name)
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			row := rewriteCase{body: c.query}
			for _, to := range []Endpoint{Primary, Alternate} {
				from, host := rewritePrimary, rewriteAlternate
				if to == Primary {
					from, host = host, from
				}
				in, want := row.render(from, from), row.render(host, from)
				got, changed := org.rewriteQuery(in, to)
				assert.Equal(t, want, got, c.why)
				assert.Equal(t, in != want, changed, c.why)
				again, changed := org.rewriteQuery(got, to)
				assert.False(t, changed, "second pass")
				assert.Equal(t, got, again, "second pass")
			}
		})
	}
}

func TestMentions(t *testing.T) {
	t.Parallel()
	pair := func(primary, alternate string) *Org {
		org, err := newOrg("https://"+primary, "https://"+alternate, false)
		require.NoError(t, err)
		return &org
	}
	org := pair(rewritePrimary, rewriteAlternate)
	api := pair("contoso.api.crm4.dynamics.com", "contoso--s.api.crm4.dynamics.com")
	local := pair("localhost:8443", "[::1]:8443")
	elsewhere := pair("crm.contoso.com", "crm.contoso.net")
	for _, c := range []struct {
		name, why string
		org       *Org
		body      string
		of        Endpoint
		want      bool
	}{
		{"alternate", "plain", org, "x https://contoso--s.crm4.dynamics.com/", Alternate, true},
		{"primary", "plain", org, "https://contoso.crm4.dynamics.com/", Primary, true},
		{"whole body", "no bytes around", org, "contoso--s.crm4.dynamics.com", Alternate, true},
		{"upper case", "host names have no case", org, "CONTOSO--S.CRM4.DYNAMICS.COM", Alternate, true},
		{"with api", "the other variant of the name", org, "contoso--s.api.crm4.dynamics.com", Alternate, true},
		{"without api", "the other variant of the name", api, "contoso.crm4.dynamics.com", Primary, true},
		{"dashes before", "anchors overlap", org, "----contoso----contoso--s.crm4.dynamics.com", Alternate, true},
		{"other side", "the primary's name is not the alternate's", org, "contoso.crm4.dynamics.com", Alternate, false},
		{"other side back", "nor the other way round", org, "contoso--s.crm4.dynamics.com", Primary, false},
		{"other region", "another organization", org, "contoso--s.crm5.dynamics.com contoso--s.crm4.dynamics.co", Alternate, false},
		{"cut", "ends within the name", org, "contoso--s.crm4.dynamics.c", Alternate, false},
		{"cut at the start", "begins within the name", org, "--s.crm4.dynamics.com", Alternate, false},
		{"cut behind the label", "nothing follows", org, "contoso--s.", Alternate, false},
		{"not letters", "0x20 folds letters only", org, "contoso--s.crm\x14.dynamics.com", Alternate, false},
		{"empty", "nothing there", org, "", Alternate, false},
		{"localhost", "a name without a dot", local, "http://LocalHost:8443", Primary, true},
		{"no localhost", "a name without a dot", local, "http://localhos", Primary, false},
		{"IPv6", "a name without a dot", local, "http://[::1]:8443", Alternate, true},
		{"explicit", "any pair", elsewhere, "https://crm.contoso.net/", Alternate, true},
		{"not explicit", "any pair", elsewhere, "https://crm.contoso.com/", Alternate, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, c.org.mentions([]byte(c.body), c.of), c.why)
		})
	}
}

func TestMentionsAllocatesNothing(t *testing.T) { // counts allocations, so not parallel
	body := mentionsBody(1 << 10)
	digits := &Org{Primary: &url.URL{Host: strings.Repeat("7", 63) + ".crm4.dynamics.com"}}
	for _, org := range []*Org{rewriteOrg(t), digits} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { org.mentions(body, Primary) }))
	}
}

// TestRewriteHostileBodies: time and memory stay linear in the body. It would
// take minutes, or gigabytes, if they did not.
func TestRewriteHostileBodies(t *testing.T) {
	t.Parallel()
	org := rewriteOrg(t)
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
		"lengths":  {typeBatch, "--batch_1\n" + strings.Repeat("Content-Length: 1\n", n/16) + "\n" + link + "\n--batch_1--\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _ := org.rewriteBody(contentType(c.kind), batchPath, []byte(c.body), Alternate)
			assert.InDelta(t, len(c.body), len(got), 8)
		})
	}
}

// undo names the primary wherever the alternate is named, leaves out what a host
// may end in (a dot, no port, the standard one), and blanks part lengths: what is left of
// a rewritten body is what was left of the first.
func undo(b []byte) string {
	s := strings.ToLower(string(b))
	s = strings.ReplaceAll(s, "contoso--s.", "contoso.")
	s = regexp.MustCompile(`(contoso(\.api)?\.crm4\.dynamics\.com)\.?(:443|:)?`).ReplaceAllString(s, "$1")
	return regexp.MustCompile(`(?m)^(content-length:[ \t]*)[0-9]+`).ReplaceAllString(s, "$1")
}

// fuzzRewrite adds the seeds of the table and checks, for any body, that only
// hosts change, that a second pass changes nothing, and what check says.
func fuzzRewrite(f *testing.F, kind string, cases []rewriteCase, check func(t *testing.T, in, out []byte)) {
	org := rewriteOrg(f)
	for _, c := range cases {
		f.Add([]byte(c.render(rewritePrimary, rewritePrimary)), true)
		f.Add([]byte(c.render(rewriteAlternate, rewriteAlternate)), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, toAlternate bool) {
		to := Primary
		if toAlternate {
			to = Alternate
		}
		in := bytes.Clone(body)
		out, changed := org.rewriteBody(contentType(kind), batchPath, body, to)
		require.Equal(t, in, body, "the caller's bytes")
		require.Equal(t, !bytes.Equal(in, out), changed)
		if !changed {
			return
		}
		require.Equal(t, undo(in), undo(out), "something else than a host")
		check(t, in, out)
		again, changed := org.rewriteBody(contentType(kind), batchPath, out, to)
		require.False(t, changed, "second pass: %q", again)
	})
}

func FuzzRewriteJSON(f *testing.F) {
	fuzzRewrite(f, typeJSON, rewriteJSONCases, func(t *testing.T, in, out []byte) {
		var a, b any
		for text, v := range map[*any][]byte{&a: in, &b: out} {
			dec := json.NewDecoder(bytes.NewReader(v))
			dec.UseNumber()
			require.NoError(t, dec.Decode(text))
		}
		equalBesidesLinks(t, a, b, false)
	})
}

// equalBesidesLinks compares two payloads; strings may differ where link is set,
// which is in the values of annotations.
func equalBesidesLinks(t *testing.T, a, b any, link bool) {
	switch a := a.(type) {
	case map[string]any:
		require.IsType(t, a, b)
		require.Len(t, b, len(a))
		for name, v := range a {
			link := regexp.MustCompile(`^@(odata\.)?id$|@(odata\.)?bind$`).MatchString(name)
			equalBesidesLinks(t, v, b.(map[string]any)[name], link)
		}
	case []any:
		require.IsType(t, a, b)
		require.Len(t, b, len(a))
		for i, v := range a {
			_, object := v.(string)
			equalBesidesLinks(t, v, b.([]any)[i], link && object)
		}
	default:
		if !link {
			require.Equal(t, a, b)
		}
	}
}

func FuzzRewriteSOAP(f *testing.F) {
	fuzzRewrite(f, typeSOAP, rewriteSOAPCases, func(t *testing.T, in, out []byte) {
		a, b := xml.NewDecoder(bytes.NewReader(in)), xml.NewDecoder(bytes.NewReader(out))
		var names []string
		for {
			x, err := a.Token()
			y, err2 := b.Token()
			require.Equal(t, err == nil, err2 == nil)
			if err != nil {
				return
			}
			switch x := x.(type) {
			case xml.StartElement:
				names = append(names, x.Name.Local)
			case xml.EndElement:
				names = names[:len(names)-1]
			}
			if _, text := x.(xml.CharData); !text || !reflect.DeepEqual(names, []string{"Envelope", "Header", "To"}) {
				require.Equal(t, x, y)
			}
		}
	})
}

func FuzzRewriteBatch(f *testing.F) {
	fuzzRewrite(f, typeBatch, rewriteBatchCases, func(t *testing.T, in, out []byte) {
		for _, eol := range []string{"\r", "\n"} {
			require.Equal(t, strings.Count(string(in), eol), strings.Count(string(out), eol), "line ends")
		}
	})
}

// rewriteRow is an ordinary record, without a host.
const rewriteRow = `{"name":"Contoso, Ltd.","accountid":"6f1d2c3b-0000-4a5b-8c7d-001122334455","primarycontactid@odata.bind":"contacts(1)","creditlimit":1500.50},`

// mentionsBody returns n bytes of records.
func mentionsBody(n int) []byte {
	return []byte(strings.Repeat(rewriteRow, n/len(rewriteRow)+1)[:n])
}

func BenchmarkMentions(b *testing.B) {
	org := rewriteOrg(b)
	for _, size := range []int{1 << 10, 1 << 20} {
		for _, of := range []Endpoint{Primary, Alternate} {
			b.Run(fmt.Sprintf("%s/%dKiB", of, size>>10), func(b *testing.B) {
				body := mentionsBody(size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if org.mentions(body, of) {
						b.Fatal("no such host")
					}
				}
			})
		}
	}
}

func BenchmarkRewriteBody(b *testing.B) {
	org := rewriteOrg(b)
	header := contentType(typeJSON)
	body := []byte(`{"a":[` + strings.Repeat(rewriteRow, 6) + `{}],"x@odata.bind":"https://` + rewritePrimary + `/api/data/v9.2/accounts(1)"}`)
	require.True(b, json.Valid(body))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, changed := org.rewriteBody(header, "/api/data/v9.2/contacts", body, Alternate); !changed {
			b.Fatal("not rewritten")
		}
	}
}
