// Package answer says what the body of a response claims about its fault, before
// anybody judges it. It is a pure function of the first bytes.
package answer

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"html"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/d365failover/failover/internal/ascii"
	"github.com/d365failover/failover/internal/redact"
)

// Bounds on hostile documents. Real faults are about ten levels deep.
const (
	MaxMessage = 256 // bytes of a message
	maxWord    = 64
	maxPeek    = 64 << 10
	maxDepth   = 32
	maxTokens  = 20000
	maxText    = 4 << 10
)

// An answer is what the body of a response says about its fault, before anybody
// judges it. Of what is said twice the first counts.
type Answer struct {
	Code       string   // of an OData error, SOAP fault detail or CRM 4 error
	Subcode    xml.Name // of a SOAP fault, or its code if it has none
	Exception  string   // .NET type, as Finance and Operations name it
	Retriable  string   // ExceptionRetriable: "true", "false" or ""
	Token      string   // the error of a token service (RFC 6749, section 5.2)
	Message    string
	Page       string // title and headings of an HTML page, in lower case
	html       bool
	Batch      bool // one part of a batch: parts before it were carried out
	RetryAfter time.Duration
}

// Read says what raw, the beginning of a body, claims. decoded: it is
// decompressed already.
func Read(raw []byte, contentType, encoding string, decoded bool) Answer {
	var a Answer
	if len(raw) == 0 {
		return a
	}
	contentType = ascii.Lower(contentType)
	a.html = IsHTML(contentType)
	a.Batch = strings.HasPrefix(contentType, "multipart/")
	if !decoded {
		raw = decompressed(raw, encoding)
	}
	text := utf8Text(raw)
	if a.Batch {
		text = lastPart(text)
	}
	text = bytes.TrimSpace(plain(text))
	switch {
	case len(text) == 0:
	case text[0] == '{':
		a.readJSON(text)
	case text[0] == '<':
		a.readXML(text)
		if a.Code == "" && a.Subcode.Local == "" {
			a.readHTML(text)
		}
	case a.html || strings.HasPrefix(contentType, "text/plain"):
		a.Message = string(text[:min(len(text), maxText)])
		if a.html { // IIS labels one line of plain text so
			a.Page = ascii.Lower(redact.Line(a.Message, MaxMessage))
		}
	}
	return a
}

// lastPart returns the JSON of the last part of a batch answer that has any. A
// batch ends with the part that failed.
func lastPart(raw []byte) []byte {
	i := bytes.LastIndex(raw, []byte("\n{"))
	if i < 0 {
		return nil
	}
	return raw[i+1:]
}

// first sets *s unless it is set.
func first(s *string, value string) {
	if *s == "" {
		*s = strings.TrimSpace(value)
	}
}

// readJSON reads the error of OData (v2, v3, v4), of ASP.NET and API Management,
// and of token services, as far as the text goes.
func (a *Answer) readJSON(text []byte) {
	type level struct {
		object, keyed bool
		key           string
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var levels []level
	for {
		tok, err := dec.Token()
		if err != nil {
			return
		}
		if delim, ok := tok.(json.Delim); ok {
			switch delim {
			case '{', '[':
				levels = append(levels, level{object: delim == '{'})
			default:
				levels = levels[:len(levels)-1]
				if len(levels) > 0 {
					levels[len(levels)-1].keyed = false
				}
			}
			if len(levels) == 0 || len(levels) > maxDepth {
				return
			}
			continue
		}
		top := &levels[len(levels)-1] // the text begins with a brace
		if top.object && !top.keyed {
			top.key, top.keyed = tok.(string), true
			continue
		}
		top.keyed = false
		if len(levels) > 3 {
			continue
		}
		path := levels[0].key
		for _, l := range levels[1:] {
			path += "/" + l.key
		}
		switch v := tok.(type) {
		case string:
			a.setJSON(path, v)
		case json.Number:
			if int(dec.InputOffset()) < len(text) { // else its end may be missing
				a.setJSON(path, v.String())
			}
		}
	}
}

// setJSON takes up the value at path.
func (a *Answer) setJSON(path, value string) {
	switch strings.TrimPrefix(path, "odata.") {
	case "error/code":
		first(&a.Code, value)
	case "error/message", "error/message/value", "error_description", "Message", "message", "ExceptionMessage":
		first(&a.Message, value)
	case "error/innererror/type", "ExceptionType":
		first(&a.Exception, value)
	case "error":
		if isTokenError(value) {
			first(&a.Token, value)
		}
	}
}

// isTokenError reports whether s has the form of the errors of token services
// ("invalid_grant"): other services put a sentence in the same place.
func isTokenError(s string) bool {
	return Word(s) == s && s != "" && s == ascii.Lower(s)
}

// prefixOf returns the short prefix that the paths below use for a namespace of
// fault documents. Both versions of SOAP share one.
func prefixOf(space string) (prefix string, known bool) {
	switch space {
	case "http://schemas.xmlsoap.org/soap/envelope/", "http://www.w3.org/2003/05/soap-envelope":
		return "s:", true
	case nsAddressing, nsAddressing2004:
		return "a:", true
	case "http://schemas.microsoft.com/ado/2007/08/dataservices/metadata", "http://docs.oasis-open.org/odata/ns/metadata":
		return "m:", true
	case "http://schemas.datacontract.org/2004/07/System.Collections.Generic":
		return "c:", true
	case "":
		return "", true
	}
	return "x:", strings.HasPrefix(space, "http://schemas.microsoft.com/xrm/")
}

const (
	nsAddressing     = "http://www.w3.org/2005/08/addressing"
	nsAddressing2004 = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
)

const (
	soapFault   = "s:Envelope/s:Body/s:Fault"
	soap11      = soapFault + "/detail"
	soap12      = soapFault + "/s:Detail"
	errorDetail = "/x:ErrorDetails/x:KeyValuePairOfstringanyType"
)

// An xmlLevel is one open element.
type xmlLevel struct {
	path     string
	prefixes map[string]string // declared here
	text     strings.Builder
}

// readXML reads a SOAP fault or an OData error as far as the text goes. Only
// elements at their exact place count, so neither inner faults nor faults quoted
// in column values are taken for the answer. encoding/xml never expands entities
// of a document type, so there is nothing to blow up.
func (a *Answer) readXML(text []byte) {
	dec := xml.NewDecoder(bytes.NewReader(text))
	dec.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil } // it is UTF-8 by now
	var levels []*xmlLevel
	var key string // of the ErrorDetails entry being read
	for range maxTokens {
		tok, err := dec.Token()
		if err != nil {
			return
		}
		switch t := tok.(type) {
		case xml.StartElement:
			if len(levels) == maxDepth {
				return
			}
			levels = append(levels, openLevel(levels, t))
			if len(levels) == 1 && levels[0].path != "s:Envelope" && levels[0].path != "m:error" {
				return
			}
		case xml.CharData:
			if n := len(levels); n > 0 && levels[n-1].text.Len() < maxText {
				levels[n-1].text.Write(t[:min(len(t), maxText)])
			}
		case xml.EndElement:
			a.setXML(levels, &key)
			levels = levels[:len(levels)-1]
		}
	}
}

// openLevel returns the level of element t below levels.
func openLevel(levels []*xmlLevel, t xml.StartElement) *xmlLevel {
	l := new(xmlLevel)
	prefix, known := prefixOf(t.Name.Space)
	switch {
	case !known || len(t.Name.Local) > maxWord:
		// No path below it is of interest: leave it empty.
	case len(levels) == 0:
		l.path = prefix + t.Name.Local
	case levels[len(levels)-1].path != "":
		l.path = levels[len(levels)-1].path + "/" + prefix + t.Name.Local
	}
	for _, attr := range t.Attr {
		prefix := attr.Name.Local
		switch {
		case attr.Name.Space == "xmlns":
		case attr.Name.Space == "" && prefix == "xmlns":
			prefix = ""
		default:
			continue
		}
		if l.prefixes == nil {
			l.prefixes = make(map[string]string)
		}
		l.prefixes[prefix] = attr.Value
	}
	return l
}

// setXML takes up the element that ends.
func (a *Answer) setXML(levels []*xmlLevel, key *string) {
	last := levels[len(levels)-1]
	value := strings.TrimSpace(last.text.String())
	switch path := last.path; path {
	case soapFault + "/faultcode", soapFault + "/s:Code/s:Value":
		if a.Subcode.Local == "" {
			a.Subcode = qname(levels, value)
		}
	case soapFault + "/s:Code/s:Subcode/s:Value":
		a.Subcode = qname(levels, value)
	case soapFault + "/faultstring", soapFault + "/s:Reason/s:Text", "m:error/m:message":
		first(&a.Message, value)
	case soap11 + "/error/code", "m:error/m:code":
		first(&a.Code, value)
	case soap11 + "/error/description":
		a.Message = value // CRM 4: the fault string is "Server was unable to process request."
	case "m:error/m:innererror/m:type":
		first(&a.Exception, value)
	case soap11 + "/a:RetryAfter", soap12 + "/a:RetryAfter":
		a.RetryAfter = milliseconds(value)
	default:
		if rest, ok := organizationFault(path); ok {
			a.setOrganizationFault(rest, value, key)
		}
	}
}

// organizationFault returns what follows the outermost fault of the organization
// (or discovery) service in path.
func organizationFault(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, soap11+"/x:")
	if !ok {
		rest, ok = strings.CutPrefix(path, soap12+"/x:")
	}
	if !ok {
		return "", false
	}
	for _, name := range []string{"OrganizationServiceFault", "DiscoveryServiceFault", "DeploymentServiceFault"} {
		if rest, ok := strings.CutPrefix(rest, name+"/"); ok {
			return "/" + rest, true
		}
	}
	return "", false
}

// setOrganizationFault takes up an element of the fault of the organization service.
func (a *Answer) setOrganizationFault(path, value string, key *string) {
	switch path {
	case "/x:ErrorCode":
		first(&a.Code, value)
	case "/x:Message":
		a.Message = value
	case "/x:ExceptionRetriable":
		first(&a.Retriable, strings.ToLower(value))
	case errorDetail + "/c:key":
		*key = value
	case errorDetail + "/c:value":
		if strings.EqualFold(*key, "Retry-After") {
			a.RetryAfter = xsDuration(value)
		}
	}
}

// qname resolves the prefix of a qualified name by the declarations in scope.
func qname(levels []*xmlLevel, s string) xml.Name {
	prefix, local, ok := strings.Cut(s, ":")
	if !ok {
		prefix, local = "", s
	}
	for i := len(levels) - 1; i >= 0; i-- {
		if space, ok := levels[i].prefixes[prefix]; ok {
			return xml.Name{Space: space, Local: local}
		}
	}
	return xml.Name{Local: local}
}

// readHTML collects the title and the headings of a page.
func (a *Answer) readHTML(text []byte) {
	a.html = true
	s := string(text)
	folded := ascii.Lower(s)
	for _, tag := range []string{"<title", "<h1", "<h2", "<h3"} {
		heading := element(s, folded, tag)
		if heading == "" {
			continue
		}
		first(&a.Message, heading)
		a.Page += ascii.Lower(strings.ReplaceAll(heading, "\u2019", "'")) + "\n"
	}
}

// element returns the text of the first element in s that begins with tag;
// folded is s in lower case.
func element(s, folded, tag string) string {
	start := strings.Index(folded, tag)
	if start < 0 {
		return ""
	}
	open := strings.IndexByte(s[start:], '>')
	if open < 0 {
		return ""
	}
	from := start + open + 1
	to := strings.Index(folded[from:], "</"+tag[1:])
	if to < 0 {
		return "" // cut off, or no element at all
	}
	return redact.Line(html.UnescapeString(withoutTags(s[from:from+min(to, maxText)])), MaxMessage)
}

// withoutTags returns s without what stands between angle brackets.
func withoutTags(s string) string {
	var b strings.Builder
	for {
		text, rest, ok := strings.Cut(s, "<")
		b.WriteString(text)
		if !ok {
			return b.String()
		}
		if _, s, ok = strings.Cut(rest, ">"); !ok {
			return b.String()
		}
	}
}

// MaxRetryAfter caps [Fault.RetryAfter]: one mistaken header must not stop a caller
// for a day.
const MaxRetryAfter = 5 * time.Minute

// Seconds returns n Seconds between 0 and MaxRetryAfter.
func Seconds(n float64) time.Duration {
	return time.Duration(min(max(n, 0), MaxRetryAfter.Seconds()) * float64(time.Second))
}

// milliseconds reads the RetryAfter of WS-Addressing, an unsigned long.
func milliseconds(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return Seconds(float64(n) / 1000)
}

// xsDuration reads an xs:duration ("PT5M1.5S") or a .NET TimeSpan ("00:05:01").
// Years and months have no length and do not occur; they and all else that cannot
// be read are 0.
func xsDuration(s string) time.Duration {
	if strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune("0123456789.:PTDHMS", r) }) {
		return 0 // a sign, an exponent, NaN
	}
	if strings.Contains(s, ":") {
		return timeSpan(s)
	}
	date, clock, _ := strings.Cut(strings.TrimPrefix(s, "P"), "T")
	if days, ok := strings.CutSuffix(date, "D"); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil {
			return 0
		}
		return Seconds(float64(n) * 86400) // capped: the time of day adds nothing
	}
	if date != "" {
		return 0
	}
	d, err := time.ParseDuration(strings.ToLower(clock)) // the same grammar in lower case
	if err != nil {
		return 0
	}
	return min(d, MaxRetryAfter)
}

// timeSpan reads "[d.]hh:mm:ss[.fffffff]".
func timeSpan(s string) time.Duration {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return 0
	}
	var total float64
	if days, hours, ok := strings.Cut(parts[0], "."); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil {
			return 0
		}
		total, parts[0] = float64(n)*24, hours
	}
	for i, part := range parts {
		n, err := strconv.ParseFloat(part, 64)
		if err != nil || n < 0 {
			return 0
		}
		if i > 0 {
			total *= 60
		}
		total += n
	}
	return Seconds(total)
}

// IsHTML reports whether contentType is that of an HTML page.
func IsHTML(contentType string) bool {
	return ascii.HasPrefixFold(contentType, "text/html") || ascii.HasPrefixFold(contentType, "application/xhtml")
}

// Word returns s if it is a plain word fit for [Fault.Code], and "" if not.
func Word(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxWord || strings.Trim(s, "0x") == "" { // "0", "0x0": no code
		return ""
	}
	for i := range len(s) {
		c := s[i]
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("_.-:", c) >= 0 {
			continue
		}
		return ""
	}
	return s
}
