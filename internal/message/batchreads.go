package message

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
)

// batchReads reports whether the body of a $batch holds nothing but requests that
// read.
//
// Servers read batches leniently: ODataLib takes a lone CR for a line end, finds a
// delimiter in the middle of a line, and lets any white space follow it. Therefore
// a batch has to pass twice: nothing in it may look like a write wherever it
// stands, and all of it has to be written so that there is one way to read it.
func batchReads(h http.Header, body []byte) bool {
	if looksLikeWrite(body) {
		return false // nearly all that are no reads
	}
	kind, params := plainKind(h)
	boundary := params["boundary"]
	if kind != kindMultipart || !isPlainBoundary(boundary) {
		return false
	}
	return readsBatch(body, "--"+boundary)
}

// isPlainBoundary reports whether every reader finds the same boundary
// (RFC 2046, section 5.1.1, without the blanks).
func isPlainBoundary(s string) bool {
	return s != "" && len(s) <= 70 && strings.Trim(ascii.Lower(s), "abcdefghijklmnopqrstuvwxyz0123456789'()+_,-./:=?") == ""
}

// looksLikeWrite reports whether there is a word in body that a reader of any
// kind could take for the method of a write, for a header that replaces the
// method, or for a GET that takes something away; or a character that lets readers
// disagree on lines and words: a control character, a lone CR, the escape of a
// letter.
func looksLikeWrite(body []byte) bool {
	before := byte('\n')
	for i, c := range body {
		switch {
		case c < ' ' && c != '\t' && c != '\n' && c != '\r', c == 0x7f:
			return true
		case c == '\r':
			if i+1 == len(body) || body[i+1] != '\n' {
				return true
			}
		case c == '%':
			if i+2 < len(body) && isHex(body[i+2]) && isLetter(unhex(body[i+1], body[i+2])) {
				return true
			}
		case isLetter(c):
			rest := body[i:]
			if ascii.HasPrefixFold(rest, "dequeue") || ascii.HasPrefixFold(rest, "x-http-method") || ascii.HasPrefixFold(rest, "x-method-override") {
				return true
			}
			if (before <= ' ' || before >= 0x80) && beginsWrite(rest) {
				return true
			}
		}
		before = c
	}
	return false
}

// beginsWrite reports whether the first word of s is the method of a write, in any
// case, as of OData v2 to v4.
func beginsWrite(s []byte) bool {
	for _, method := range [...]string{"post", "patch", "put", "delete", "merge"} {
		if ascii.HasPrefixFold(s, method) {
			return len(s) == len(method) || s[len(method)] <= ' ' || s[len(method)] >= 0x80
		}
	}
	return false
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }

// unhex returns the character of two hexadecimal digits, 0 for other than that.
func unhex(hi, lo byte) byte {
	value := func(c byte) byte {
		if c <= '9' {
			return c - '0'
		}
		return c&^0x20 - 'A' + 10
	}
	if !isHex(hi) || !isHex(lo) {
		return 0
	}
	return value(hi)<<4 | value(lo)
}

// readsBatch reports whether body is a batch of GET, HEAD and OPTIONS requests
// without bodies, and of nothing else. A change set is for writes.
func readsBatch(body []byte, delimiter string) bool {
	l := lines{rest: body, delimiter: delimiter}
	for l.next() == blankLine { // before the first part
	}
	for more := true; more; more = l.kind == delimiterLine {
		if l.kind != delimiterLine || !l.partReads() {
			return false
		}
	}
	if l.kind != lastLine {
		return false
	}
	for l.next() == blankLine { // after the last part
	}
	return l.kind == noLine
}

// partReads reads one part and the delimiter behind it.
func (l *lines) partReads() bool {
	typed, encoded := false, false
	for l.next() == textLine { // the part's own header
		name, value, ok := l.field()
		switch {
		case !ok:
			return false
		case ascii.EqualFold("content-type", name) && !typed:
			kind, params := parseKind(value, "")
			if kind != kindHTTP || len(params) > 1 || len(params) == 1 && !ascii.EqualFold("request", params["msgtype"]) {
				return false
			}
			typed = true
		case ascii.EqualFold("content-transfer-encoding", name) && !encoded:
			switch ascii.Lower(value) {
			case "binary", "8bit", "7bit":
			default:
				return false
			}
			encoded = true
		case ascii.EqualFold("content-id", name):
		default:
			return false
		}
	}
	if l.kind != blankLine || !typed {
		return false
	}
	for l.next() == blankLine { // RFC 9112, section 2.2
	}
	if l.kind != textLine || !l.requestReads() {
		return false
	}
	for l.next() == textLine { // the request's header
		name, value, ok := l.field()
		if !ok || ascii.EqualFold("transfer-encoding", name) || ascii.EqualFold("content-length", name) && value != "0" {
			return false
		}
	}
	for l.kind == blankLine { // no body
		l.next()
	}
	return l.kind == delimiterLine || l.kind == lastLine
}

// requestReads reports whether the line is that of a request that reads. Blanks
// may stand in the target: hand-written filters have them.
func (l *lines) requestReads() bool {
	method, target, ok := bytes.Cut(l.line, []byte(" "))
	switch string(method) {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return ok && len(target) > 0 && target[0] != ' '
	}
	return false
}

// lines reads a batch line by line.
type lines struct {
	rest      []byte
	delimiter string // with the two hyphens before it
	line      []byte // without its end
	kind      lineKind
}

type lineKind uint8

const (
	noLine lineKind = iota // the end
	blankLine
	textLine
	delimiterLine
	lastLine
	oddLine // has the delimiter, but is none to every reader
)

// next reads the next line and returns its kind.
func (l *lines) next() lineKind {
	if len(l.rest) == 0 {
		l.line, l.kind = nil, noLine
		return l.kind
	}
	line, rest, _ := bytes.Cut(l.rest, []byte("\n"))
	l.line, l.rest = bytes.TrimSuffix(line, []byte("\r")), rest
	switch after, found := bytes.CutPrefix(l.line, []byte(l.delimiter)); {
	case len(l.line) == 0:
		l.kind = blankLine
	case found && len(bytes.Trim(after, " \t")) == 0:
		l.kind = delimiterLine
	case found && bytes.HasPrefix(after, []byte("--")) && len(bytes.Trim(after[2:], " \t")) == 0:
		l.kind = lastLine
	case bytes.Contains(l.line, []byte(l.delimiter)):
		l.kind = oddLine
	default:
		l.kind = textLine
	}
	return l.kind
}

// field splits a header line. It returns false if readers could disagree on it: it
// has no colon, continues another line, its name is no token, or its value has
// characters beyond ASCII, of which some are white space and line ends.
func (l *lines) field() (name, value string, ok bool) {
	before, after, found := bytes.Cut(l.line, []byte(":"))
	if !found || len(before) == 0 {
		return "", "", false
	}
	for _, c := range before {
		if !isLetter(c) && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return "", "", false
		}
	}
	for _, c := range after {
		if c >= 0x80 {
			return "", "", false
		}
	}
	return string(before), string(bytes.Trim(after, " \t")), true
}
