// Package redact makes untrusted texts fit for a log line: bounded, in one line, and without
// secrets.
package redact

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// hidden replaces a secret.
const hidden = "[redacted]"

// URL returns scheme, host and path of u: nothing that may hold a secret.
func URL(u *url.URL) string {
	if u == nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// Error returns the text of err, redacted like [Text]. Addresses that a [url.Error] anywhere in
// err quotes are redacted as a whole, because net/http and net/url quote them unchanged; those
// of the outermost ones are omitted.
func Error(err error) string {
	for {
		wrapped, ok := err.(*url.Error)
		if !ok || wrapped.Err == nil {
			break
		}
		if wrapped.Op == "parse" {
			return "invalid address" // the reason may quote a part of the user info
		}
		err = wrapped.Err
	}
	quoted := urlErrors(err, nil)
	slices.SortFunc(quoted, func(a, b *url.Error) int { return len(b.URL) - len(a.URL) }) // longest first, because one may be a prefix of another
	var pairs []string
	for _, one := range quoted {
		if one.Op == "parse" {
			pairs = append(pairs, one.Error(), "invalid address")
		}
		shown := hidden
		if u, err := url.Parse(one.URL); err == nil && u.Host != "" {
			shown = URL(u)
		}
		pairs = append(pairs, strconv.Quote(one.URL), strconv.Quote(shown), one.URL, shown)
	}
	return Text(strings.NewReplacer(pairs...).Replace(err.Error()))
}

// urlErrors appends the URL errors in the tree of err to found.
func urlErrors(err error, found []*url.Error) []*url.Error {
	if one, ok := err.(*url.Error); ok && one.URL != "" {
		found = append(found, one)
	}
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		found = urlErrors(wrapper.Unwrap(), found)
	case interface{ Unwrap() []error }:
		for _, one := range wrapper.Unwrap() {
			found = urlErrors(one, found)
		}
	}
	return found
}

// isOneLine reports whether s is not empty, and consists of visible ASCII with single spaces
// between words, as nearly all texts do.
func isOneLine(s string) bool {
	blank := true
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == ' ' && blank {
			return false
		}
		blank = s[i] == ' '
	}
	return !blank
}

// Line returns s as one line of at most limit bytes of valid UTF-8. A run of spaces, control and
// invisible formatting characters becomes one space.
func Line(s string, limit int) string {
	if len(s) <= limit && isOneLine(s) {
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
