package answer

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/d365failover/failover/internal/ascii"
)

// decompressed returns raw, decompressed as far as possible. It also recognizes gzip by its
// magic number, because some gateways drop the header.
func decompressed(raw []byte, encoding string) []byte {
	var r io.Reader
	var err error
	packed := bytes.NewReader(raw[:min(len(raw), maxPacked)])
	switch {
	case bytes.HasPrefix(raw, []byte{0x1f, 0x8b}):
		r, err = gzip.NewReader(packed)
	case strings.EqualFold(strings.TrimSpace(encoding), "deflate"):
		// RFC 9110, section 8.4.1.2, means zlib; some servers send bare deflate.
		if r, err = zlib.NewReader(packed); err != nil {
			packed.Seek(0, io.SeekStart)
			r, err = flate.NewReader(packed), nil
		}
	default:
		switch ascii.Lower(strings.TrimSpace(encoding)) {
		case "", "identity", "gzip", "x-gzip":
			return raw
		}
		return nil // unknown encoding
	}
	if err != nil {
		return nil
	}
	// An error means that the beginning ends here, or damage. In either case, use what came
	// before it.
	text, _ := io.ReadAll(io.LimitReader(r, maxPeek))
	return text
}

// utf8Text converts UTF-16 to UTF-8 and drops a byte order mark. It judges by the bytes, since
// all faults begin with an ASCII character, and not by the declaration: UTF-8 text often
// declares UTF-16.
func utf8Text(b []byte) []byte {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	if len(b) < 2 {
		return b
	}
	high := 0 // index of the high byte of each unit
	switch {
	case b[0] == 0xfe && b[1] == 0xff || b[0] == 0 && b[1] != 0:
	case b[0] == 0xff && b[1] == 0xfe || b[0] != 0 && b[1] == 0:
		high = 1
	default:
		return b
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = uint16(b[2*i+high])<<8 | uint16(b[2*i+1-high])
	}
	return []byte(strings.TrimPrefix(string(utf16.Decode(units)), "\ufeff"))
}

// plain returns b with control characters replaced by spaces, and bytes that are not UTF-8
// (Latin-1, or a character that was cut) by U+FFFD, so that the decoders of JSON and XML do not
// stop at either.
func plain(b []byte) []byte {
	if isPlain(b) {
		return b
	}
	return bytes.Map(func(r rune) rune {
		switch {
		case unicode.IsControl(r):
			return ' '
		case r == 0xfffe || r == 0xffff:
			return '\ufffd'
		}
		return r
	}, b)
}

// isPlain reports whether plain would change nothing.
func isPlain(b []byte) bool {
	for i := range len(b) {
		if b[i] < ' ' || b[i] > '~' {
			return false
		}
	}
	return true
}
