package message

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
)

// maxBatchDepth is the deepest multipart read: a change set within a batch.
const maxBatchDepth = 2

// batch finds the addresses of the organization in the multipart body [start, end) of a $batch
// (OData 4.01 Protocol, section 11.7). It returns false if the body is malformed, because a
// server may then see other parts.
func (r *rewriter) batch(start, end int, boundary string, depth int) bool {
	if boundary == "" {
		return false
	}
	delimiter := "--" + boundary
	part := 0 // start of the current part, 0 in the preamble
	for pos := start; pos < end; {
		next := r.lineEnd(pos, end)
		line := bytes.TrimRight(r.body[pos:next], " \t\r\n")
		last := string(line) == delimiter+"--"
		if last || string(line) == delimiter {
			// The line end before a delimiter belongs to it (RFC 2046, section 5.1.1).
			if part > 0 && !r.part(part, max(part, r.beforeLineEnd(pos)), depth) {
				return false
			}
			if last {
				return true
			}
			part = next
		}
		pos = next
	}
	return false
}

// part finds the edits of one part of a batch or change set, headers included.
func (r *rewriter) part(start, end, depth int) bool {
	fields, content, ok := r.fields(start, end)
	switch strings.ToLower(r.field(fields, "content-transfer-encoding")) {
	case "", "binary", "8bit", "7bit":
	default:
		return ok
	}
	mark := len(r.edits)
	kind, boundary := contentKind(r.field(fields, "content-type"), "")
	switch {
	case kind == kindHTTP:
		ok = r.request(content, end)
	case kind == kindMultipart && depth < maxBatchDepth:
		ok = r.batch(content, end, boundary, depth+1)
	}
	return ok && r.fixLength(fields, mark, content, end)
}

// request finds the edits of the HTTP request [start, end): its request line,
// Host and, if it is JSON, body.
func (r *rewriter) request(start, end int) bool {
	for start < end && (r.body[start] == '\r' || r.body[start] == '\n') {
		start++ // RFC 9112, section 2.2
	}
	next := r.lineEnd(start, end)
	if !r.requestLine(start, max(start, r.beforeLineEnd(next))) {
		return false
	}
	fields, content, ok := r.fields(next, end)
	if !ok {
		return false
	}
	for _, f := range fields {
		if f.is("host") {
			host, _ := r.org.MapHost(string(r.body[f.start:f.end]))
			r.replace(f.start, f.end, host)
		}
	}
	mark := len(r.edits)
	if k, _ := contentKind(r.field(fields, "content-type"), r.field(fields, "content-encoding")); k == kindJSON {
		r.json(content, end)
	}
	return r.fixLength(fields, mark, content, end)
}

// requestLine maps an absolute request target, and an entity URL in $id.
func (r *rewriter) requestLine(start, end int) bool {
	line := r.body[start:end]
	method := letters(line)
	if method == 0 || method == len(line) || line[method] != ' ' {
		return false
	}
	target, _, _ := bytes.Cut(line[method+1:], []byte(" "))
	start += method + 1
	end = start + len(target)
	r.link(start, end, verbatim)
	if n := bytes.IndexByte(target, '?'); n >= 0 {
		r.query(start+n+1, end)
	}
	return true
}

// headerField is a header field of a part; [start, end) is its value.
type headerField struct {
	name []byte
	span
}

// is compares the name with one in lower case.
func (f headerField) is(name string) bool {
	return ascii.EqualFold(name, f.name)
}

// maxFields is how many fields the header of a part or request may have. Each takes
// more memory than the three bytes that it can be written in.
const maxFields = 256

// fields reads the header fields from start to the empty line, or to end, because the line end
// of the empty line may belong to the delimiter. content is the offset after them.
func (r *rewriter) fields(start, end int) (fields []headerField, content int, ok bool) {
	for {
		next := r.lineEnd(start, end)
		line := r.body[start:max(start, r.beforeLineEnd(next))]
		if len(line) == 0 {
			return fields, next, true
		}
		trimmed := bytes.TrimRight(line, " \t")
		if line[0] == ' ' || line[0] == '\t' { // continues the previous field
			if len(fields) == 0 {
				return nil, end, false
			}
			fields[len(fields)-1].end = start + len(trimmed)
		} else {
			name, value, found := bytes.Cut(line, []byte(":"))
			if !found || len(name) == 0 || bytes.ContainsAny(name, " \t") || len(fields) == maxFields {
				return nil, end, false
			}
			from := start + len(line) - len(bytes.TrimLeft(value, " \t"))
			fields = append(fields, headerField{name, span{from, max(from, start+len(trimmed))}})
		}
		start = next
	}
}

// field returns the value of the first field of that name, in lower case, or "".
func (r *rewriter) field(fields []headerField, name string) string {
	for _, f := range fields {
		if f.is(name) {
			return string(r.body[f.start:f.end])
		}
	}
	return ""
}

// fixLength corrects each Content-Length for the edits since mark, which are in the content
// [start, end). It returns false if a length exceeds the content or ends before an edit, because
// a server that relies on it reads other parts.
func (r *rewriter) fixLength(fields []headerField, mark, start, end int) bool {
	delta, last := 0, start
	for _, e := range r.edits[mark:] {
		delta += len(e.with) - (e.end - e.start)
		last = max(last, e.end)
	}
	for _, f := range fields {
		if !f.is("content-length") {
			continue
		}
		n, err := strconv.ParseUint(string(r.body[f.start:f.end]), 10, 31)
		// Some clients count the line end before the delimiter; others omit blank lines.
		if err != nil || start+int(n) < last || start+int(n) > end+len("\r\n") {
			return false
		}
		if delta != 0 {
			r.replace(f.start, f.end, strconv.Itoa(int(n)+delta))
		}
	}
	return true
}

// lineEnd returns the offset after the line at pos, at most end.
func (r *rewriter) lineEnd(pos, end int) int {
	if n := bytes.IndexByte(r.body[pos:end], '\n'); n >= 0 {
		return pos + n + 1
	}
	return end
}

// beforeLineEnd returns the offset of the line end (CRLF or LF) before pos, or pos if there is
// none.
func (r *rewriter) beforeLineEnd(pos int) int {
	line, ended := bytes.CutSuffix(r.body[:pos], []byte("\n"))
	if ended {
		line = bytes.TrimSuffix(line, []byte("\r"))
	}
	return len(line)
}
