package answer

import (
	"encoding/xml"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestWord(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"ServiceUnavailable": "ServiceUnavailable", " invalid_grant ": "invalid_grant", "A-b.c:1": "A-b.c:1",
		"": "", "0": "", "0x0": "", "0x00000000": "", "two words": "", "tab\tbed": "", "ünicode": "", "quote\"": "",
		"a234567890123456789012345678901234567890123456789012345678901234":  "a234567890123456789012345678901234567890123456789012345678901234",
		"a2345678901234567890123456789012345678901234567890123456789012345": "",
	} {
		assert.Equal(t, want, Word(in), "%q", in)
	}
}

// fault returns a SOAP 1.1 fault with the given content.
func fault(inner string) string {
	return `<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><e:Fault>` + inner + `</e:Fault></e:Body></e:Envelope>`
}

func TestXMLIsStrictAboutPlaces(t *testing.T) {
	t.Parallel()
	var a Answer
	a.readXML([]byte(fault(`<faultcode xmlns:w="urn:one"><!-- c --> w:Busy </faultcode><faultstring>x</faultstring>`)))
	assert.Equal(t, "urn:one", a.Subcode.Space)
	assert.Equal(t, "Busy", a.Subcode.Local)
	a = Answer{}
	a.readXML([]byte(`<a>` + fault(`<faultcode>e:Client</faultcode><faultstring>x</faultstring>`) + `</a>`))
	assert.Empty(t, a, "an envelope in another document is quoted, not sent")
}

func TestXMLTakesTheFirstOfWhatIsSaidTwice(t *testing.T) {
	t.Parallel()
	var a Answer
	a.readXML([]byte(fault(`<faultcode xmlns:w="urn:one">w:A</faultcode><faultcode xmlns:w="urn:two">w:B</faultcode>` +
		`<faultstring>one</faultstring><faultstring>two</faultstring><detail><A xmlns="urn:one"/><B xmlns="urn:two"/></detail>`)))
	assert.Equal(t, xml.Name{Space: "urn:one", Local: "A"}, a.Subcode)
	assert.Equal(t, "one", a.Message)
	assert.Equal(t, xml.Name{Space: "urn:one", Local: "A"}, a.Detail)
}

func TestXMLTextIsThatOfTheElementAlone(t *testing.T) {
	t.Parallel()
	var a Answer
	a.readXML([]byte(fault(`<faultstring>one <b>two</b><![CDATA[three]]></faultstring>`)))
	assert.Equal(t, "one three", a.Message)
}

func TestJSONIsStrictAboutPlaces(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"in an array":         `{"error":[{"code":"0x8004B065"}]}`,
		"in an array's array": `{"error":{"code":["0x8004B065"]}}`,
		"in an inner error":   `{"error":{"innererror":{"code":"0x8004B065"}}}`,
		"in another member":   `{"errors":{"code":"0x8004B065"}}`,
		"in a value":          `{"error":{"message":"{\"error\":{\"code\":\"0x8004B065\"}}"}}`,
		"below the place":     `{"error":{"code":{"value":"0x8004B065"}}}`,
		"a step too high":     `{"code":"0x8004B065"}`,
		"another case":        `{"Error":{"Code":"0x8004B065"}}`,
	} {
		var a Answer
		a.readJSON([]byte(text))
		assert.Empty(t, a.Code, name)
	}
}

func TestJSONGoesOnAfterWhatIsPassedOver(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"literals":        `{"a":true,"b":null,"c":false,"error":{"x":null,"code":"c1"}}`,
		"arrays":          `{"a":[1,[2,{"error":{"code":"no"}}],"x"],"error":{"y":[{}],"code":"c1"}}`,
		"objects":         `{"a":{"error":{"code":"no"}},"error":{"details":{"code":"no"},"code":"c1"}}`,
		"numbers":         `{"a":1e9,"error":{"n":-0.5,"code":"c1"}}`,
		"an empty object": `{"a":{},"error":{"b":{},"code":"c1"}}`,
		"OData v3":        `{"odata.error":{"code":"c1"}}`,
	} {
		var a Answer
		a.readJSON([]byte(text))
		assert.Equal(t, "c1", a.Code, name)
	}
}

// UTF-16 is recognized by its bytes, with or without a byte order mark.
func TestTextInUTF16(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"\xfe\xff\x00a\x00b": "ab", "\x00a\x00b": "ab", "\xff\xfea\x00b\x00": "ab", "a\x00b\x00": "ab",
		"\xef\xbb\xbfab": "ab", "ab": "ab", "a": "a", "": "", "\x00a": "a", "a\x00": "a", "\xfe\xff": "", "\xff\xfe": "", "a\xffbc": "a\xffbc", "a\xfebc": "a\xfebc", "\x00\x00ab": "\x00\x00ab", "\xfea": "\xfea", "\xffa": "\xffa", "ab\x00": "ab\x00",
	} {
		assert.Equal(t, want, string(utf8Text([]byte(in))), "%q", in)
	}
}

func TestPlainText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"ab ~": "ab ~", "a\x00\x1f\x7fb": "a   b", "a\xffb": "a\ufffdb", "a\ufffeb\uffff": "a\ufffdb\ufffd", "é\ufffd": "é\ufffd", "\U00010000": "\U00010000",
	} {
		assert.Equal(t, want, string(plain([]byte(in))), "%q", in)
	}
}

// The beginning of plain text in place of an answer is the message.
func TestOfPlainTextTheBeginningIsRead(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]int{10: 10, maxText: maxText, maxText + 1: maxText, 4 * maxText: maxText} {
		a := Read([]byte(strings.Repeat("x", n)), "text/plain", "", false)
		assert.Len(t, a.Message, want)
	}
}

func TestWhatIsHTML(t *testing.T) {
	t.Parallel()
	for contentType, want := range map[string]bool{
		"text/html": true, "text/html; charset=utf-8": true, "TEXT/HTML": true, "application/xhtml+xml": true, "Application/XHTML+xml; charset=utf-8": true,
		"application/json": false, "application/xml": false, "application/": false, "text/plain": false, "": false, "html": false,
	} {
		assert.Equal(t, want, IsHTML(contentType), contentType)
	}
}
