package message

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
)

// Safe reports whether a request changes nothing, judging by its method (RFC 9110, section
// 9.2.1), URL and header: no header overrides the method, and a GET of the resource takes
// nothing away. It is called for every read, so it allocates nothing and finds headers only in
// their canonical form: [Reads] is stricter, before a request is repeated.
func Safe(method string, u *url.URL, h http.Header) bool {
	if !isReadMethod(method) || takes(u) {
		return false
	}
	for _, name := range canonicalOverrides {
		if _, found := h[name]; found {
			return false
		}
	}
	return true
}

// Reads reports whether a request changes nothing at the organization: it is [Safe], in whatever
// spelling its headers were set, or its body is a SOAP message or a $batch that only reads. When
// in doubt, Reads returns false: a lenient server must not be able to take a read for a write.
// body is the whole body as it is sent; it is parsed only if a quick search finds that it may
// read.
func Reads(method string, u *url.URL, h http.Header, body []byte) bool {
	if isReadMethod(method) {
		return !takes(u) && !Overridden(h)
	}
	if method != http.MethodPost || ascii.HasPrefixFold(valueOf(h, "Content-Type"), "application/json") {
		return false // nearly always
	}
	if Overridden(h) {
		return false
	}
	if path.Base(Target(u).Path) == "$batch" {
		return batchReads(h, body)
	}
	return soapReads(h, body)
}

// isReadMethod reports whether requests with the method change nothing.
func isReadMethod(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// Overridden reports whether a header may override the method of the request. Some servers allow
// that for the sake of proxies that only know GET and POST. Like servers, it ignores the
// spelling of header names.
func Overridden(h http.Header) bool {
	for name := range h {
		switch len(name) {
		case len("x-http-method"), len("x-method-override"), len("x-http-method-override"):
			for _, override := range overrides {
				if ascii.EqualFold(override, name) {
					return true
				}
			}
		}
	}
	return false
}

var (
	overrides          = [...]string{"x-http-method", "x-http-method-override", "x-method-override"}
	canonicalOverrides = [...]string{"X-Http-Method", "X-Http-Method-Override", "X-Method-Override"}
)

// Target returns the URL that a request to u asks for: u itself, or its Opaque part, which is
// sent in place of path and query.
func Target(u *url.URL) *url.URL {
	if u.Opaque == "" {
		return u
	}
	target, err := url.Parse(u.Opaque)
	if err != nil {
		return &url.URL{Path: u.Opaque}
	}
	return target
}

// takes reports whether a GET takes something away, namely the next message of a queue (Finance
// and Operations, /api/connector/dequeue): whether that word occurs in the path.
//
// Source:
// https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/data-entities/recurring-integrations
func takes(u *url.URL) bool {
	if u.Opaque != "" {
		target, err := url.PathUnescape(u.Opaque)
		return err != nil || hasFold(target, "dequeue")
	}
	if strings.IndexByte(u.Path, 'q') < 0 && strings.IndexByte(u.Path, 'Q') < 0 {
		return false // nearly always
	}
	return hasFold(u.Path, "dequeue")
}

// hasFold reports whether word, in lower case, occurs in s in any case.
func hasFold(s, word string) bool {
	for i := range len(s) {
		if ascii.HasPrefixFold(s[i:], word) {
			return true
		}
	}
	return false
}

// Only returns the value of a header, in whatever spelling it was set; name is in lower case. It
// returns false if there are several values, of which servers choose different ones.
func Only(h http.Header, name string) (value string, ok bool) {
	found := false
	for key, values := range h {
		if !ascii.EqualFold(name, key) {
			continue
		}
		for _, v := range values {
			if found {
				return "", false
			}
			value, found = v, true
		}
	}
	return value, true
}

// plainKind returns how to read the body of a request, if that is certain: there is one
// Content-Type, the body is in UTF-8, and it is not compressed.
func plainKind(h http.Header) (k kind, params map[string]string) {
	contentType, _ := Only(h, "content-type") // "", if there are several
	encoding, plain := Only(h, "content-encoding")
	if !plain {
		return kindOther, nil
	}
	return parseKind(contentType, encoding)
}
