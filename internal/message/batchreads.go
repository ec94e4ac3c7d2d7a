package message

import (
	"bytes"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
)

// batchReads reports whether the body of a $batch contains only requests that read.
//
// Servers read batches leniently: ODataLib takes a lone CR for a line end, finds a delimiter in
// the middle of a line, and lets any white space follow it. Therefore a batch must pass two
// checks: nothing in it, anywhere, looks like a write, and all of it can be read in one way
// only.
func batchReads(h http.Header, body []byte) bool {
	if looksLikeWrite(body) {
		return false // nearly always
	}
	kind, params := plainKind(h)
	boundary := params["boundary"]
	if kind != kindMultipart || !isPlainBoundary(boundary) {
		return false
	}
	return readsBatch(body, "--"+boundary)
}

// isPlainBoundary reports whether every reader finds the same boundary (RFC 2046, section 5.1.1,
// without spaces).
func isPlainBoundary(s string) bool {
	return s != "" && len(s) <= 70 && strings.Trim(ascii.Lower(s), "abcdefghijklmnopqrstuvwxyz0123456789'()+_,-./:=?") == ""
}

// looksLikeWrite reports whether body contains a word that some reader could take for the method
// of a write, for a header that overrides the method, or for a GET that takes something away; or
// a character on which readers disagree: a control character, a lone CR, an escaped letter.
func looksLikeWrite(body []byte) bool {
	var before byte // the previous byte; initially 0, which ends a word
	for i, c := range body {
		switch {
		case c < ' ' && c != '\t' && c != '\n' && c != '\r', c == 0x7f:
			return true
		case c == '\r':
			if i+1 == len(body) || body[i+1] != '\n' {
				return true
			}
		case c == '%':
			var escaped [1]byte // stays 0 if these are not digits
			hex.Decode(escaped[:], body[i+1:min(i+3, len(body))])
			if isLetter(escaped[0]) {
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

// beginsWrite reports whether the first word of s is the method of a write in OData v2 to v4, in
// any case.
func beginsWrite(s []byte) bool {
	for _, method := range [...]string{"post", "patch", "put", "delete", "merge"} {
		if ascii.HasPrefixFold(s, method) {
			return len(s) == len(method) || s[len(method)] <= ' ' || s[len(method)] >= 0x80
		}
	}
	return false
}

// readsBatch reports whether body is a batch of only GET, HEAD and OPTIONS requests without
// bodies. Change sets are for writes.
func readsBatch(body []byte, delimiter string) bool {
	l := lines{rest: body, delimiter: delimiter}
	for l.next() == blankLine { // before the first part
	}
	for more := true; more; more = l.kind != lastLine {
		if l.kind != delimiterLine || !l.partReads() {
			return false
		}
	}
	for l.next() == blankLine { // after the last part
	}
	return l.kind == noLine
}

// partReads reports whether the next part reads. l is then at the line after the part, which is
// a delimiter unless the part has a body.
func (l *lines) partReads() bool {
	types, encodings := 0, 0
	l.header(func(name, value string) bool {
		switch name {
		case "content-type":
			types++
			kind, params := parseKind(value, "")
			return kind == kindHTTP && (len(params) == 0 || len(params) == 1 && ascii.EqualFold("request", params["msgtype"]))
		case "content-transfer-encoding":
			encodings++
			return slices.Contains([]string{"binary", "8bit", "7bit"}, ascii.Lower(value))
		}
		return name == "content-id"
	})
	if l.kind != blankLine || types != 1 || encodings > 1 {
		return false
	}
	for l.next() == blankLine { // RFC 9112, section 2.2
	}
	if l.kind != textLine || !l.requestReads() {
		return false
	}
	l.header(func(name, value string) bool {
		return name != "transfer-encoding" && (name != "content-length" || value == "0")
	})
	for l.kind == blankLine { // no body
		l.next()
	}
	return true
}

// header reads the lines of a header, up to the first line that is none or that pass rejects. It
// passes names in lower case.
func (l *lines) header(pass func(name, value string) bool) {
	for l.next() == textLine {
		if name, value, ok := l.field(); !ok || !pass(ascii.Lower(name), value) {
			return
		}
	}
}

// requestReads reports whether line is the request line of a request that reads. The target may
// contain spaces, because hand-written filters do.
func (l *lines) requestReads() bool {
	method, target, _ := bytes.Cut(l.line, []byte(" "))
	switch string(method) {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return len(target) > 0 && target[0] != ' '
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
	oddLine // contains the delimiter, but not every reader takes it for one
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

// field splits a header line. It returns false if readers could disagree on it: it has no colon,
// continues another line, its name is no token, or its value has non-ASCII characters, some of
// which are white space or line ends.
func (l *lines) field() (name, value string, ok bool) {
	before, after, found := bytes.Cut(l.line, []byte(":"))
	if !found || len(before) == 0 {
		return "", "", false
	}
	for _, c := range before {
		if !isLetter(c) && strings.IndexByte("0123456789-_.", c) < 0 {
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
