package proxy

import (
	"bytes"
	"encoding/xml"
	"slices"
	"strings"
)

// maxHeader is how much of a SOAP message is held back until the end of its header.
const maxHeader = 64 << 10

// maxAddresses is how many wsa:To a header may have. One is valid.
const maxAddresses = 4

// soapTo is the filter for a SOAP message: it maps the address in the wsa:To header, which WCF
// compares with its own. It changes nothing else, and nothing in a header with signed or
// encrypted parts, in a message whose header is longer than maxHeader, or in XML that is not
// SOAP.
type soapTo struct {
	links mapping
	held  []byte
	done  bool
}

func (s *soapTo) next(dst, p []byte) []byte {
	if s.done {
		return append(dst, p...)
	}
	n := min(len(p), maxHeader-len(s.held))
	s.held = append(s.held, p[:n]...)
	if len(s.held) < maxHeader {
		return dst
	}
	return append(s.end(dst), p[n:]...)
}

func (s *soapTo) end(dst []byte) []byte {
	if s.done {
		return dst
	}
	head := s.held
	s.held, s.done = nil, true
	for _, to := range slices.Backward(soapAddresses(head)) {
		text := strings.TrimSpace(string(head[to[0]:to[1]]))
		if mapped, ok := s.links.url(text); ok {
			at := to[0] + bytes.Index(head[to[0]:to[1]], []byte(text))
			head = slices.Replace(head, at, at+len(text), []byte(mapped)...)
		}
	}
	return append(dst, head...)
}

// soapAddresses returns the positions of the contents of wsa:To in the header at the beginning
// of an envelope, or none if the header must not be changed.
func soapAddresses(head []byte) (places [][2]int) {
	dec := xml.NewDecoder(bytes.NewReader(head))
	for depth, header := 0, false; ; {
		token, err := dec.RawToken()
		if err != nil {
			return nil // not XML, or the header does not end here
		}
		switch t := token.(type) {
		case xml.StartElement:
			depth++
			switch name := t.Name.Local; {
			case depth == 1 && name != "Envelope", depth == 2 && name == "Body":
				return nil
			case depth == 2:
				header = name == "Header"
			case header && (name == "Signature" || name == "EncryptedData" || name == "EncryptedHeader"):
				return nil
			case header && depth == 3 && name == "To":
				start := int(dec.InputOffset())
				if len(places) == maxAddresses {
					return nil
				}
				if end := bytes.IndexByte(head[start:], '<'); end >= 0 {
					places = append(places, [2]int{start, start + end})
				}
			}
		case xml.EndElement:
			if depth--; header && depth == 1 {
				return places
			}
		case xml.Directive:
			return nil
		}
	}
}

// plainLinks is the filter for the description of a service (WSDL, XML Schema): it maps every URL
// of the organization, because a description holds no data.
type plainLinks struct {
	links mapping
	held  []byte // possibly the beginning of an origin
	most  int    // length of the longest origin
}

func newPlainLinks(m mapping) *plainLinks {
	p := &plainLinks{links: m}
	for from := range m {
		p.most = max(p.most, len(from)+1)
	}
	return p
}

func (f *plainLinks) next(dst, p []byte) []byte {
	text := append(f.held, p...)
	rest := text
	for len(rest) >= f.most {
		var n int
		dst, n = f.step(dst, rest)
		rest = rest[n:]
	}
	f.held = append(f.held[:0], rest...)
	return dst
}

func (f *plainLinks) end(dst []byte) []byte {
	for rest := f.held; len(rest) > 0; {
		var n int
		dst, n = f.step(dst, rest)
		rest = rest[n:]
	}
	return dst
}

// step filters the beginning of text, which is an origin or cannot be one, appends the result,
// and returns how much of text that is.
func (f *plainLinks) step(dst, text []byte) ([]byte, int) {
	if !bytes.HasPrefix(text, []byte("http")) { // the fast path
		return f.skip(dst, text)
	}
	for from, to := range f.links {
		if rest, ok := bytes.CutPrefix(text, []byte(from)); ok && (len(rest) == 0 || bytes.IndexByte([]byte("/?#\"'<"), rest[0]) >= 0) {
			return append(dst, to...), len(from)
		}
	}
	return f.skip(dst, text)
}

// skip appends what is before the next possible origin.
func (f *plainLinks) skip(dst, text []byte) ([]byte, int) {
	n := bytes.IndexByte(text[1:], 'h') + 1 // as in http
	if n == 0 {
		n = len(text)
	}
	return append(dst, text[:n]...), n
}
