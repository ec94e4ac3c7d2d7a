package proxy

import "bytes"

const (
	// maxName is the longest name of a member that may be one of a link.
	maxName = 256
	// maxOrigin is the longest origin that is held back until it is known whose it is.
	maxOrigin = 512
	// maxDepth is the deepest nesting that is followed.
	maxDepth = 10_000
)

// jsonLinks is the filter for an OData payload (OData JSON Format 4.01): it maps the URLs in
// control information that holds links, such as "@odata.nextLink", and in bind operations. It
// never changes the values of columns.
//
// It changes only origins of URLs within strings, so the result is valid JSON if and only if the
// payload is. It does not map a link whose origin has escapes other than \/.
//
// In a request, the short names of OData 4.01 without the prefix "odata.", such as "@id", are
// control information only in the outermost object. Deeper, they may be part of a value.
type jsonLinks struct {
	links  mapping
	ofCall bool // it is the payload of a request
	in     where
	levels []level
	name   []byte // of the member, as far as it is known
	escape bool   // the byte before was a backslash
	link   link   // while in a link
}

type where uint8

const (
	between  where = iota // strings
	inName                // of a member
	inString              // that is not a link, or after the origin of a link
	inLink                // at its beginning
	astray                // nested too deep, or not JSON
)

// level is an open object or array.
type level struct {
	object bool
	name   bool // the next string is a name
	link   bool // strings are links
}

func newJSONLinks(m mapping) *jsonLinks { return &jsonLinks{links: m, levels: make([]level, 1, 16)} }

func (j *jsonLinks) next(dst, p []byte) []byte {
	for len(p) > 0 {
		n := len(p)
		switch j.in {
		case between:
			n = j.structure(p)
		case inName, inString:
			n = j.text(p)
		case inLink:
			dst, n = j.linkText(dst, p)
			p = p[n:]
			continue
		}
		dst = append(dst, p[:n]...)
		p = p[n:]
	}
	return dst
}

func (j *jsonLinks) end(dst []byte) []byte { return append(dst, j.link.raw...) }

// structure reads what is between strings, up to and including the quote of the next string, and
// returns how much of p that is.
func (j *jsonLinks) structure(p []byte) int {
	for i, c := range p {
		top := &j.levels[len(j.levels)-1]
		switch c {
		case '{':
			j.levels = append(j.levels, level{object: true, name: true})
		case '[':
			j.levels = append(j.levels, level{link: top.object && top.link})
		case '}', ']':
			j.levels = j.levels[:len(j.levels)-1]
		case ',':
			top.name = top.object
		case '"':
			j.begin(top)
			return i + 1
		}
		if len(j.levels) == 0 || len(j.levels) > maxDepth {
			j.in = astray
			return i + 1
		}
	}
	return len(p)
}

// begin begins a string.
func (j *jsonLinks) begin(top *level) {
	j.escape = false
	switch {
	case top.name:
		top.name = false
		j.in, j.name = inName, j.name[:0]
	case top.link:
		j.in, j.link = inLink, link{raw: j.link.raw[:0], plain: j.link.plain[:0]}
	default:
		j.in = inString
	}
}

// text reads a string up to its closing quote and returns how much of p that is.
func (j *jsonLinks) text(p []byte) int {
	for i := 0; i < len(p); i++ {
		if j.escape {
			j.escape = false
			continue
		}
		n := bytes.IndexAny(p[i:], `"\`)
		if n < 0 {
			j.keepName(p)
			return len(p)
		}
		i += n
		if p[i] == '\\' {
			j.escape = true
			continue
		}
		j.keepName(p[:i])
		if j.in == inName {
			j.levels[len(j.levels)-1].link = isLink(j.name, !j.ofCall || len(j.levels) == 2)
		}
		j.in = between
		return i + 1
	}
	j.keepName(p)
	return len(p)
}

// keepName keeps a piece of a member's name.
func (j *jsonLinks) keepName(p []byte) {
	if j.in == inName && len(j.name) <= maxName {
		j.name = append(j.name, p[:min(len(p), maxName+1-len(j.name))]...)
	}
}

// isLink reports whether the value of a member is a link or a list of links. short permits names
// without the prefix "odata.". Sources: OData JSON Format 4.01, sections 4.6 (control
// information, long and short form) and 8.5 (bind).
func isLink(name []byte, short bool) bool {
	at := bytes.LastIndexByte(name, '@')
	if at < 0 || len(name) > maxName {
		return false
	}
	term, long := bytes.CutPrefix(name[at+1:], []byte("odata."))
	if !long && !short {
		return false
	}
	switch string(term) {
	case "context", "nextLink", "deltaLink", "id", "editLink", "readLink",
		"navigationLink", "associationLink", "mediaReadLink", "mediaEditLink", "bind":
		return true
	}
	return false
}

// link is the beginning of a link, held back until its origin is known.
type link struct {
	raw     []byte // as received
	plain   []byte // with \/ replaced by a slash
	slashes int
}

// linkText reads the beginning of a link and appends it, mapped if its origin is in the mapping.
// It returns how much of p that is.
func (j *jsonLinks) linkText(dst, p []byte) ([]byte, int) {
	l := &j.link
	for i, c := range p {
		if j.escape && c != '/' || len(l.raw) >= maxOrigin {
			j.in = inString // text continues with the same escape
			dst = append(dst, l.raw...)
			l.raw = l.raw[:0]
			return dst, i
		}
		if c == '/' {
			l.slashes++
		}
		if c == '"' || c == '?' || c == '#' || l.slashes == 3 {
			return j.linkEnd(dst, c), i + 1
		}
		l.raw = append(l.raw, c)
		if j.escape = c == '\\'; !j.escape {
			l.plain = append(l.plain, c)
		}
	}
	return dst, len(p)
}

// linkEnd appends the origin that was held back, and the byte that ends it.
func (j *jsonLinks) linkEnd(dst []byte, end byte) []byte {
	l := &j.link
	if mapped, ok := j.links.url(string(l.plain)); ok {
		dst = append(dst, mapped...)
		if j.escape { // the slash that ends it
			dst = append(dst, '\\')
		}
	} else {
		dst = append(dst, l.raw...)
	}
	l.raw, j.escape, j.in = l.raw[:0], false, inString
	if end == '"' {
		j.in = between
	}
	return append(dst, end)
}
