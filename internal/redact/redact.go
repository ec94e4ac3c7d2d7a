// Package redact makes texts of strangers fit for a log line: bounded, in one
// line, and without the secrets that addresses may carry.
package redact

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Max is how much of a text is looked at, in bytes.
const Max = 2048

// URL returns scheme, host and path of u: nothing that may hold a secret.
func URL(u *url.URL) string {
	if u == nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// Error returns the text of err without the secrets that addresses in it
// may carry. net/http and net/url quote whole URLs in their errors.
func Error(err error) string {
	for {
		wrapped, ok := err.(*url.Error)
		if !ok || wrapped.Err == nil {
			break
		}
		err = wrapped.Err
	}
	return Text(err.Error())
}

// Text redacts every word of s that looks like an address or follows the
// name of an authorization scheme. It rather takes too much than too little. Of a
// very long s it looks at the whole words of the beginning.
func Text(s string) string {
	if len(s) > Max {
		// A word cut in two could be a password without its at sign.
		s = s[:strings.LastIndexFunc(s[:Max], isWordEnd)+1]
	}
	var b strings.Builder
	secret := false
	for len(s) > 0 {
		n := strings.IndexFunc(s, isWordEnd)
		if n < 0 {
			n = len(s)
		}
		if word := s[:n]; word != "" {
			if secret {
				word = "[redacted]"
			}
			secret = strings.EqualFold(word, "bearer") || strings.EqualFold(word, "basic")
			b.WriteString(redactWord(word))
		}
		if s = s[n:]; s != "" {
			_, size := utf8.DecodeRuneInString(s)
			b.WriteString(s[:size])
			s = s[size:]
		}
	}
	return b.String()
}

func isWordEnd(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("\"<>`", r)
}

// redactWord takes user info, query and fragment out of an address. Where both
// an at sign and a query occur nobody can tell which hides the other, so only
// the scheme is kept.
func redactWord(word string) string {
	scheme, rest, ok := strings.Cut(word, "://")
	if !ok {
		if i := strings.IndexAny(word, "?#"); i >= 0 && strings.Contains(word, "/") {
			return word[:i]
		}
		return word
	}
	at, query := strings.LastIndexByte(rest, '@'), strings.IndexAny(rest, "?#")
	switch {
	case at >= 0 && query >= 0:
		rest = "[redacted]"
	case at >= 0:
		rest = rest[at+1:]
	case query >= 0:
		rest = rest[:query]
	}
	return scheme + "://" + rest
}

// isPlain reports whether s is visible ASCII without blanks, as ids are.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Line returns s as one line of at most limit bytes of valid UTF-8: runs of
// blanks, control and invisible formatting characters become one blank.
func Line(s string, limit int) string {
	if len(s) <= limit && isPlain(s) {
		return s
	}
	var b strings.Builder
	blank := false
	for _, r := range s {
		if unicode.IsSpace(r) || unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			blank = b.Len() > 0
			continue
		}
		size := utf8.RuneLen(r)
		if blank {
			size++
		}
		if b.Len()+size > limit {
			break
		}
		if blank {
			b.WriteByte(' ')
			blank = false
		}
		b.WriteRune(r)
	}
	return b.String()
}
