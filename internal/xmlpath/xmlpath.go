// Package xmlpath reads the tokens of XML documents along with their paths.
package xmlpath

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
)

// ErrDepth is the error of a [Reader] whose document nests elements deeper than maxDepth.
var ErrDepth = errors.New("XML is nested too deeply")

// A Reader reads the tokens of a document in order, and keeps the names of the open elements.
// Time and memory are linear in the input: it never expands entities of a document type, and
// keeps no text.
type Reader struct {
	decoder  *xml.Decoder
	path     []xml.Name
	maxDepth int
	ended    bool // the last element of path has ended
	prefixes []binding
}

// A binding is a namespace declaration.
type binding struct {
	depth         int // of the element that made it
	prefix, space string
}

// NewReader returns a Reader of a document in UTF-8, whatever encoding it
// declares. At most maxDepth elements may be open at a time.
func NewReader(r io.Reader, maxDepth int) *Reader {
	d := xml.NewDecoder(r)
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	return &Reader{decoder: d, maxDepth: maxDepth}
}

// Next returns the next token, with the namespaces of its names resolved. The
// bytes of a token are valid until the next call. Next returns [io.EOF] at the
// end, and otherwise an error of [xml.Decoder.Token] or ErrDepth.
func (r *Reader) Next() (xml.Token, error) {
	if r.ended {
		r.ended = false
		for n := len(r.prefixes); n > 0 && r.prefixes[n-1].depth == len(r.path); n-- {
			r.prefixes = r.prefixes[:n-1]
		}
		r.path = r.path[:len(r.path)-1]
	}
	token, err := r.decoder.Token()
	switch t := token.(type) {
	case xml.StartElement:
		if len(r.path) == r.maxDepth {
			return nil, ErrDepth
		}
		r.path = append(r.path, t.Name)
		for _, a := range t.Attr {
			switch {
			case a.Name.Space == "xmlns":
				r.prefixes = append(r.prefixes, binding{len(r.path), a.Name.Local, a.Value})
			case a.Name.Space == "" && a.Name.Local == "xmlns":
				r.prefixes = append(r.prefixes, binding{len(r.path), "", a.Value})
			}
		}
	case xml.EndElement:
		r.ended = true
	}
	return token, err
}

// Path returns the names of the open elements, outermost first. An element is in
// the path from its start to its end, both included. The path is valid until the
// next call of Next.
func (r *Reader) Path() []xml.Name { return r.path }

// Resolve returns the name that s, a QName in a text or an attribute, means here. A prefix that
// is not declared has no namespace. Its time is proportional to the declarations in scope.
func (r *Reader) Resolve(s string) xml.Name {
	prefix, local, ok := strings.Cut(strings.TrimSpace(s), ":")
	if !ok {
		prefix, local = "", prefix
	}
	for i := len(r.prefixes) - 1; i >= 0; i-- {
		if r.prefixes[i].prefix == prefix {
			return xml.Name{Space: r.prefixes[i].space, Local: local}
		}
	}
	return xml.Name{Local: local}
}

// Offset returns the number of bytes read so far, which is the end of the last token and the
// start of the next.
func (r *Reader) Offset() int64 { return r.decoder.InputOffset() }
