package redact

import (
	"strings"
	"unicode"

	"github.com/d365failover/failover/internal/ascii"
)

// Max is how much of a text is looked at, in bytes.
const Max = 2048

// Text returns s without anything that looks like a secret. When in doubt, it redacts. A very long s is
// cut after a word. Redacted are
//
//   - user info of addresses, and their queries and fragments;
//   - what follows the name of an authorization scheme, however it is separated;
//   - values of names such as client_secret, access_token, password and sig, and
//     of the headers Authorization and Cookie;
//   - the content of XML elements with such names;
//   - JSON Web Tokens, and private keys in PEM.
func Text(s string) string {
	t := text{s: s}
	if len(s) > Max {
		// A cut word could be a password without its at sign.
		t.s, t.cut = s[:strings.LastIndexFunc(s[:Max], isWordEnd)+1], true
	}
	var b strings.Builder
	for i := 0; i < len(t.s); {
		n, shown := t.secretAt(i)
		if n == 0 {
			n, shown = 1, t.s[i:i+1]
		}
		b.WriteString(shown)
		i += n
	}
	return b.String()
}

func isWordEnd(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("\"<>`", r)
}

// text is what is being redacted.
type text struct {
	s   string
	cut bool // s has no end
}

// secretAt returns the length of a secret, or of the words that lead to one, at i, and the text
// to show instead. The length is 0 if there is none.
func (t *text) secretAt(i int) (n int, shown string) {
	switch c := t.s[i]; {
	case strings.HasPrefix(t.s[i:], "eyJ"): // {" in Base64
		return span(t.s[i:], isTokenByte), hidden
	case strings.HasPrefix(t.s[i:], "-----BEGIN "):
		return t.pem(i)
	case c == '<':
		return t.element(i)
	case strings.HasPrefix(t.s[i:], "//"):
		return t.address(i)
	case c == '?' || c == '#':
		return t.query(i), ""
	case c == ':' || c == '=' || c == '%':
		return t.assignment(i)
	}
	return t.scheme(i)
}

// pem hides a private key in PEM (RFC 7468) that begins at i.
func (t *text) pem(i int) (int, string) {
	label, rest, _ := strings.Cut(t.s[i+len("-----BEGIN "):], "-----")
	if !strings.HasSuffix(label, "PRIVATE KEY") {
		return 0, ""
	}
	key, _, _ := strings.Cut(rest, "-----END ")
	n := len(t.s) - i - len(rest)
	return n + len(key), t.s[i:i+n] + hidden
}

// element hides the content of the XML element that begins at i if its name is that of a
// secret.
func (t *text) element(i int) (int, string) {
	start := i + 1
	end := start + span(t.s[start:], func(c byte) bool { return isNameByte(c) || c == ':' })
	if end == start { // an end tag, or no element
		return 0, ""
	}
	tag, content, found := strings.Cut(t.s[i:], ">")
	name := nameOf(t.s[start:end])
	if !found || strings.HasSuffix(tag, "/") || !endsIn(name, secretNames[:]) && !endsIn(name, guardedNames[:]) {
		return 0, ""
	}
	content, _, _ = strings.Cut(content, "</")
	n := len(tag) + 1
	return n + len(content), t.s[i:i+n] + hidden
}

// nameOf returns a name in lower case, without punctuation.
func nameOf(s string) string {
	return strings.NewReplacer("-", "", "_", "", ".", "").Replace(ascii.Lower(s))
}

// address removes the user info from the address whose two slashes are at i. If there are both
// an at sign and a query, either may be part of the other, so it keeps nothing.
func (t *text) address(i int) (int, string) {
	line := t.s[i+2:]
	line = line[:lineLen(line)]
	part, _, _ := strings.Cut(line, ": ") // where errors are joined
	at := strings.LastIndexByte(part, '@')
	if !strings.Contains(part[:max(at, 0)], ":") { // no password, which could contain spaces
		at = strings.LastIndexByte(line[:wordLen(line)], '@')
	}
	switch {
	case at >= 0:
		end := at + 1 + wordLen(line[at+1:])
		if q := strings.IndexAny(line[:end], "?#"); q >= 0 {
			return 2 + max(end, q+queryLen(line[q:])), "//" + hidden
		}
	case t.cut && len(line) == len(t.s)-i-2 && strings.Contains(part, ":"):
		return 2 + len(line), "//" + hidden // the at sign may have been cut off
	}
	return 2 + at + 1, "//"
}

// query returns the length of the query or fragment that begins at i, or 0 if there is none, as
// after a question mark that ends a sentence.
func (t *text) query(i int) int {
	line := t.s[i:]
	before := t.s[strings.LastIndexFunc(t.s[:i], isWordEnd)+1 : i]
	switch name := 1 + span(line[1:], isNameByte); {
	case strings.HasPrefix(line[name:], "="), strings.Contains(before, "//"):
		return queryLen(line)
	case strings.Contains(before, "/") && wordLen(line) > 1:
		return wordLen(line)
	}
	return 0
}

// queryLen returns the length of the query at the start of s. It may contain spaces, and ends
// with the line or where errors are joined.
func queryLen(s string) int {
	s, _, _ = strings.Cut(s[:lineLen(s)], ": ")
	return len(s)
}

// lineLen returns the length of what may be one address at the start of s, up to a quotation
// mark or a control character.
func lineLen(s string) int {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f || s[i] == '`' || s[i] == '"' && (i == 0 || s[i-1] != '\\') {
			return i
		}
	}
	return len(s)
}

// schemes are authorization schemes, in lower case, and net/url's words for a password that
// contains a slash.
var schemes = [...]string{"bearer", "basic", "negotiate", "ntlm", "digest", "sharedaccesssignature", "sharedkey", "invalid port"}

// scheme hides the word after the name of an authorization scheme at i.
func (t *text) scheme(i int) (int, string) {
	escaped := i >= 3 && t.s[i-3] == '%'
	if i > 0 && isLetter(t.s[i-1]) && !escaped {
		return 0, "" // within a word
	}
	for _, scheme := range schemes {
		if !ascii.HasPrefixFold(t.s[i:], scheme) {
			continue
		}
		n := i + len(scheme)
		from := n
		for {
			size := separatorLen(t.s[n:])
			if ascii.HasPrefixFold(t.s[n:], "token") {
				size = len("token") // Bearer token: x
			}
			if size == 0 {
				break
			}
			n += size
		}
		value := span(t.s[n:], func(c byte) bool { return c > ' ' && c != '"' && c != ']' })
		if n == from || value == 0 {
			return 0, ""
		}
		return n + value - i, t.s[i:n] + hidden
	}
	return 0, ""
}

// separatorLen returns the length of the separator before credentials at the start of s: spaces
// or punctuation, plain or escaped as in a query.
func separatorLen(s string) int {
	switch {
	case len(s) >= 3 && s[0] == '%' && isHex(s[1]) && isHex(s[2]):
		return 3
	case s != "" && (s[0] <= ' ' || strings.IndexByte(",:=+[('\"\\", s[0]) >= 0):
		return 1
	}
	return 0
}

// Suffixes of the names of secrets, in lower case and without punctuation: those whose value is
// always hidden; those that are also words of error texts, whose value is hidden only after "="
// or in quotation marks; and headers, whose values contain spaces.
var (
	secretNames  = [...]string{"secret", "password", "passwd", "pwd", "passphrase", "accesstoken", "refreshtoken", "idtoken", "clientassertion", "apikey", "accesskey", "accountkey", "subscriptionkey", "functionskey", "samlresponse", "privatekey", "devicecode", "authorizationcode", "codeverifier"}
	guardedNames = [...]string{"token", "assertion", "sig", "signature", "credential", "credentials"}
	headerNames  = [...]string{"authorization", "cookie"}
)

// assignment hides the value after a colon or an equals sign at i if the name before it is that
// of a secret.
func (t *text) assignment(i int) (int, string) {
	size, equals := 1, t.s[i] == '='
	if t.s[i] == '%' {
		if !ascii.HasPrefixFold(t.s[i:], "%3a") && !ascii.HasPrefixFold(t.s[i:], "%3d") {
			return 0, ""
		}
		size, equals = 3, t.s[i+2]|0x20 == 'd'
	}
	before := strings.TrimRight(t.s[:i], " \t\"'\\")
	quoted := strings.ContainsAny(t.s[len(before):i], "\"'")
	before = strings.TrimSuffix(before, "%22")
	start := len(before)
	for start > 0 && isNameByte(before[start-1]) {
		start--
	}
	name := nameOf(before[start:])
	header := endsIn(name, headerNames[:])
	if !header && !endsIn(name, secretNames[:]) && !((equals || quoted) && endsIn(name, guardedNames[:])) {
		return 0, ""
	}
	n := i + size
	n += span(t.s[n:], func(c byte) bool { return c == ' ' || c == '\t' || c == '\\' || c == '=' || c == ':' })
	value := valueLen(t.s[n:], header)
	if value == 0 {
		return 0, ""
	}
	return n + value - i, t.s[i:n] + hidden
}

// valueLen returns the length of the value at the start of s, up to its closing quotation mark
// or bracket if it has one.
func valueLen(s string, header bool) int {
	if s == "" {
		return 0
	}
	if closing, ok := map[byte]byte{'"': '"', '\'': '\'', '[': ']', '{': '}'}[s[0]]; ok {
		if end := strings.IndexByte(s[1:], closing); end >= 0 {
			return end + 2
		}
		return len(s)
	}
	return span(s, func(c byte) bool {
		if header {
			return c != '\r' && c != '\n'
		}
		return c > ' ' && c != '"' && c != '&'
	})
}

func endsIn(name string, ends []string) bool {
	for _, end := range ends {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

// span returns the number of bytes at the start of s that are in a set.
func span(s string, in func(byte) bool) int {
	for i := range len(s) {
		if !in(s[i]) {
			return i
		}
	}
	return len(s)
}

// wordLen returns the length of the word at the start of s.
func wordLen(s string) int {
	if end := strings.IndexFunc(s, isWordEnd); end >= 0 {
		return end
	}
	return len(s)
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func isHex(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }

// isNameByte reports whether c may occur in the name of a parameter.
func isNameByte(c byte) bool {
	return isLetter(c) || c >= '0' && c <= '9' || strings.IndexByte("_-.$", c) >= 0
}

// isTokenByte reports whether c may occur in a token, which may be escaped as in a query.
func isTokenByte(c byte) bool {
	return isLetter(c) || c >= '0' && c <= '9' || strings.IndexByte("_-.=+/~%", c) >= 0
}
