package proxy

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
)

const (
	// maxLine is the longest line of a part's header that is parsed. Requests in a batch
	// may have URLs of 64 KiB.
	maxLine = 128 << 10
	// maxDelimiter is the longest line that can be a delimiter: a boundary of 70 characters
	// (RFC 2046, section 5.1.1), hyphens and white space.
	maxDelimiter = 256
	// maxBoundary is the longest boundary. RFC 2046 has 70 characters.
	maxBoundary = maxDelimiter - len("----\r\n")
	// maxBatchDepth is the deepest multipart that is parsed: a change set within a batch.
	maxBatchDepth = 2
)

// batch is the filter for a $batch or its answer (OData Protocol 4.01, section 11.7). In the
// requests and responses within, it maps request lines, Host and link headers, and JSON bodies.
//
// It removes the Content-Length headers of parts. They are optional, because the boundary ends a
// part, and the length of a part is unknown until its links are mapped. It also removes
// Failover-Outcome headers, which are the proxy's own. It does not change what is not a batch.
type batch struct {
	links      mapping
	ofCall     bool     // it is the body of a request
	delimiters []string // "--" and boundary of the open multiparts, outermost first
	place      place
	line       []byte      // the current one, as far as it is held back
	ended      bool        // line is a complete header line, which the next one may continue
	passing    bool        // the rest of the current line passes unchanged
	header     http.Header // of the current part, as far as it describes the body
	json       *jsonLinks  // of the current body, nil if it is not JSON
}

// place is the position of a line in a batch.
type place uint8

const (
	outside     place = iota // parts: before the first and after the last
	partHeader               // of the part itself
	startLine                // of the request or response in it
	innerHeader              // of the same
	content                  // of the same, or of another part
	passed                   // the batch is over, or it is not a batch
)

func newBatch(m mapping, boundary string) *batch {
	b := &batch{links: m, delimiters: []string{"--" + boundary}, header: make(http.Header)}
	if boundary == "" || len(boundary) > maxBoundary {
		b.place = passed
	}
	return b
}

func (b *batch) next(dst, p []byte) []byte {
	for len(p) > 0 && b.place != passed {
		if b.ended {
			b.ended = false
			if p[0] != ' ' && p[0] != '\t' {
				dst = b.whole(dst)
				b.line = b.line[:0]
				continue
			}
		}
		n := bytes.IndexByte(p, '\n') + 1
		ended := n > 0
		if !ended {
			n = len(p)
		}
		if b.passing {
			dst = b.pass(dst, p[:n])
			b.passing = !ended
		} else {
			b.line = append(b.line, p[:n]...)
			dst = b.held(dst, ended)
		}
		p = p[n:]
	}
	return append(dst, p...)
}

func (b *batch) end(dst []byte) []byte {
	if b.place == passed {
		return dst
	}
	if len(b.line) > 0 {
		dst = b.whole(dst) // the last delimiter may lack its line end
		b.line = b.line[:0]
	}
	return b.endBody(dst)
}

// held handles the line that is held back, or its beginning.
func (b *batch) held(dst []byte, ended bool) []byte {
	body := b.place == outside || b.place == content
	switch {
	case len(b.line) > 0 && body && (b.line[0] != '-' || len(b.line) > maxDelimiter):
		dst = b.pass(dst, b.line)
		b.passing = !ended
	case len(b.line) > maxLine:
		b.place = passed
		dst = append(dst, b.line...)
	case ended && b.mayContinue():
		b.ended = true
		return dst
	case ended:
		dst = b.whole(dst)
	default:
		return dst
	}
	b.line = b.line[:0]
	return dst
}

// mayContinue reports whether the complete line that is held back is a header line that the next
// line may continue (RFC 9112, section 5.2), rather than the empty line after a header or a
// delimiter.
func (b *batch) mayContinue() bool {
	return (b.place == partHeader || b.place == innerHeader) && b.line[0] != '-' && len(bytes.TrimSpace(b.line)) > 0
}

// pass appends a piece of a body.
func (b *batch) pass(dst, p []byte) []byte {
	if b.place == content && b.json != nil {
		return b.json.next(dst, p)
	}
	return append(dst, p...)
}

// endBody ends the body of a part.
func (b *batch) endBody(dst []byte) []byte {
	if b.json != nil {
		dst = b.json.end(dst)
		b.json = nil
	}
	return dst
}

// whole handles a complete line.
func (b *batch) whole(dst []byte) []byte {
	text := strings.TrimRight(string(b.line), " \t\r\n")
	if strings.HasPrefix(text, "--") && b.delimiter(text) {
		dst = b.endBody(dst)
		return append(dst, b.line...)
	}
	switch b.place {
	case partHeader, innerHeader:
		return b.headerLine(dst, text)
	case startLine:
		if text != "" {
			b.place = innerHeader
			clear(b.header)
			return b.requestLine(dst)
		}
	}
	return b.pass(dst, b.line)
}

// delimiter reports whether a line is a delimiter, and moves to the place that it begins. The
// delimiter of an outer multipart ends the inner ones.
func (b *batch) delimiter(text string) bool {
	name, last := strings.CutSuffix(text, "--")
	i := slices.Index(b.delimiters, text)
	if i >= 0 {
		last = false
	} else if i = slices.Index(b.delimiters, name); i < 0 {
		return false
	}
	b.delimiters, b.place = b.delimiters[:i+1], partHeader
	clear(b.header)
	if last {
		b.delimiters, b.place = b.delimiters[:i], outside
		if i == 0 {
			b.place = passed
		}
	}
	return true
}

// requestLine appends a request line with its target mapped, or a status line.
func (b *batch) requestLine(dst []byte) []byte {
	method, rest, ok := strings.Cut(string(b.line), " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || strings.Contains(method, "/") {
		return append(dst, b.line...)
	}
	target, _ = b.links.url(target)
	if before, query, ok := strings.Cut(target, "?"); ok {
		target = before + "?" + b.links.query(query)
	}
	return append(dst, method+" "+target+" "+version...)
}

// headerLine appends a line of a header, or the empty line after it.
func (b *batch) headerLine(dst []byte, text string) []byte {
	if text == "" {
		b.body()
		return append(dst, b.line...)
	}
	name, value, _ := strings.Cut(text, ":")
	trimmed := unfolded(value)
	mapped, ok := trimmed, false
	switch key := http.CanonicalHeaderKey(strings.TrimRight(name, " \t")); {
	case key == "Content-Length" || key == outcomeHeader:
		return dst
	case key == "Content-Type" || key == "Content-Encoding":
		if b.header[key] == nil { // the first one wins
			b.header.Set(key, trimmed)
		}
	case b.place == innerHeader && key == "Host":
		mapped, ok = b.links.host(trimmed)
	case b.place == innerHeader && slices.Contains(linkHeaders[:], key):
		mapped, ok = b.links.url(trimmed)
	}
	if !ok {
		return append(dst, b.line...)
	}
	dst = append(append(append(dst, name...), ": "...), mapped...)
	return append(dst, b.line[len(text):]...) // the end of the line
}

// unfolded joins the continued lines of a header value.
func unfolded(value string) string {
	if strings.IndexByte(value, '\n') < 0 {
		return strings.TrimLeft(value, " \t")
	}
	var b strings.Builder
	for line := range strings.SplitSeq(value, "\n") {
		if line = strings.Trim(line, " \t\r"); line != "" {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(line)
		}
	}
	return b.String()
}

// body moves from a header to the body after it.
func (b *batch) body() {
	inner := b.place == innerHeader
	b.place = content
	media, params := mediaType(b.header)
	switch {
	case inner:
		if media, _ = contentType(b.header); isJSON(media) {
			b.json = newJSONLinks(b.links)
			b.json.ofCall = b.ofCall
		}
	case media == "application/http":
		b.place = startLine
	case media == "multipart/mixed" && params["boundary"] != "" && len(params["boundary"]) <= maxBoundary && len(b.delimiters) < maxBatchDepth:
		b.delimiters = append(b.delimiters, "--"+params["boundary"])
		b.place = outside
	}
}
