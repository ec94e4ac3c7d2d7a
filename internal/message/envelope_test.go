package message

import (
	"encoding/xml"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

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
	{name: "headers behind To", why: "the address ends with its element", body: envelopeOf("<a:To>https://{M}</a:To><x>y</x>", "")},
	{name: "other instructions", why: "only the declaration names an encoding", body: `<?b encoding="utf-16"?>` + envelopeOf("<a:To>https://{M}/</a:To>", "")},
	{name: "reference with other attributes", why: "the URI says what is signed", body: envelopeOf(`<a:To u:Id="_1">https://{M}/</a:To>`+signedOf(`<d:Reference Id="_1" URI="#_0" Type="x"/>`), "")},
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
	{name: "file", why: "may be anything", body: envelopeOf(signedOf(`<d:Reference URI="_0"/>`)+`<a:To>https://{K}/</a:To>`, "")},
	{name: "second signature", why: "the first is not understood", body: envelopeOf(signedOf(`<d:Reference/>`)+signedOf(`<d:Reference URI="#_0"/>`)+`<a:To>https://{K}/</a:To>`, "")},
	{name: "XPointer", why: "may point at anything", body: envelopeOf(signedOf(`<d:Reference URI="#xpointer(/)"/>`)+`<a:To>https://{K}/</a:To>`, "")},
	{name: "empty pointer", why: "not an Id", body: envelopeOf(signedOf(`<d:Reference URI="#"/>`)+`<a:To>https://{K}/</a:To>`, "")},
	{name: "no references", why: "a signature of nothing known", body: envelopeOf(signedOf("")+`<a:To>https://{K}/</a:To>`, "")},
	{name: "second signature without references", why: "each has to be understood",
		body: envelopeOf(signedOf("")+signedOf(`<d:Reference URI="#_0"/>`)+`<a:To>https://{K}/</a:To>`, "")},
	{name: "encrypted signature", why: "it may cover To", body: envelopeOf(`<o:Security><e:EncryptedData/></o:Security><a:To>https://{K}/</a:To>`, "")},
	{name: "To in the body", why: "a column of that name, or a payload", body: envelopeOf(`<x><a:To>https://{K}/</a:To></x>`,
		`<a:To>https://{K}/</a:To><s:Header><a:To>https://{K}/</a:To></s:Header>`+envelopeOf(`<a:To>https://{K}/</a:To>`, ""))},
	{name: "other headers", why: "only To is compared", body: envelopeOf(`<a:ReplyTo><a:Address>https://{K}/</a:Address></a:ReplyTo><To>https://{K}/</To><u:To>https://{K}/</u:To>`, "")},
	{name: "escaped slashes", why: "no escape in XML", body: envelopeOf(`<a:To>https:\/\/{K}/</a:To>`, "")},
	{name: "other root", why: "not an envelope", body: strings.ReplaceAll(envelopeOf(`<a:To>https://{K}/</a:To>`, ""), "s:Envelope", "s:Letter")},
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

func TestWhichDeclarationsAreOfUTF8(t *testing.T) {
	t.Parallel()
	for inst, want := range map[string]bool{
		``: true, `version="1.0"`: true, `version="1.0" encoding="utf-8"`: true, `encoding='UTF-8' standalone='yes'`: true, "encoding\t=\r\n\"Utf-8\"": true,
		`encoding="utf-8`: false, `encoding="utf-8'`: false, `encoding="utf-7"`: false, `encoding="utf-16"`: false, `encoding="utf8"`: false, `encoding=`: false, `encoding=""`: false, `encoding`: false,
	} {
		assert.Equal(t, want, isUTF8(xml.ProcInst{Target: "xml", Inst: []byte(inst)}), inst)
	}
}
