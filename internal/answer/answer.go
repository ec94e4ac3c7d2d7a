// Package answer reads what the body of a response says about its fault, without classifying it.
// It is a pure function of the first bytes.
package answer

import (
	"bytes"
	"encoding/xml"
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
	maxPacked  = 16 << 10 // bytes to decompress: every 40 of them can make flate allocate 32 KiB
	maxDepth   = 32
	maxText    = 4 << 10
)

// An answer is what the body of a response says about its fault. If it says something twice, the
// first counts.
type Answer struct {
	Code       string   // of an OData error, SOAP fault detail or CRM 4 error
	PassedOn   string   // the organization's code, quoted by a gateway
	Subcode    xml.Name // of a SOAP fault, or its code if it has none
	Detail     xml.Name // the element in the detail of a SOAP fault, unless prefixOf knows it
	Exception  string   // .NET type of an exception, from Finance and Operations
	Token      string   // the error of a token service (RFC 6749, section 5.2)
	Described  bool     // Token has a description, like those of Microsoft's service
	Running    bool     // the source is a plug-in or another step of the operation
	Message    string
	Page       string // title and headings of an HTML page, in lower case
	Batch      bool   // from a part of a batch: the parts before it were carried out
	RetryAfter time.Duration

	subcode bool // Subcode is a subcode
}

// Read reads raw, the beginning of a body. Decoded: raw is decompressed already.
func Read(raw []byte, contentType, encoding string, decoded bool) Answer {
	var a Answer
	if len(raw) == 0 {
		return a
	}
	html := IsHTML(contentType)
	a.Batch = ascii.HasPrefixFold(contentType, "multipart/")
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
	case html || ascii.HasPrefixFold(contentType, "text/plain"):
		a.Message = string(text[:min(len(text), maxText)])
		if html { // IIS also sends a line of plain text with this type
			a.Page = ascii.Lower(redact.Line(a.Message, MaxMessage))
		}
	}
	return a
}

// lastPart returns the JSON of the last part with any in a batch answer, which ends with the
// part that failed.
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

// IsHTML reports whether contentType is that of an HTML page.
func IsHTML(contentType string) bool {
	const application = "application/"
	return ascii.HasPrefixFold(contentType, "text/html") ||
		len(contentType) > len(application) && ascii.LowerByte(contentType[len(application)]) == 'x' && // unlike JSON
			ascii.HasPrefixFold(contentType, application+"xhtml")
}

// Word returns s if it is a plain word that may be a fault's code, and "" otherwise.
func Word(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxWord || strings.Trim(s, "0x") == "" { // "0", "0x0": no code
		return ""
	}
	for i := range len(s) {
		c := s[i]
		if c|0x20 >= 'a' && c|0x20 <= 'z' || strings.IndexByte("0123456789_.-:", c) >= 0 {
			continue
		}
		return ""
	}
	return s
}
