package message

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
)

// Safe reports whether a request changes nothing by what its line and its header
// say: its method reads (RFC 9110, section 9.2.1), no header replaces the method,
// and the resource is not one that a GET takes something away from. Every read of
// the program passes here, so Safe allocates nothing, and looks for headers in
// their canonical form only: [Reads] looks closely before a request is repeated.
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

// Reads reports whether a request changes nothing at the organization: it is
// [Safe], whatever spelling its headers were set in, or its body is a SOAP message
// or a $batch that only reads. What any server could take for a write, if it reads
// less strictly than its standard asks, is none. So in doubt, Reads says no. body is all of the request's body, as it is
// sent; it is not parsed before a glance shows that it may read.
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

// Overridden reports whether a header may replace the method of the request, as it
// does for servers that allow for proxies which know GET and POST only. The name
// is compared as servers do, whatever spelling the header was set in.
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

// Target returns what a request to u asks for: u itself, or what stands in its Opaque part,
// which goes out in place of path and query.
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

// takes reports whether a GET takes something away: the next message of a queue
// (Finance and Operations, /api/connector/dequeue). The word anywhere in the path
// will do.
//
// Source: https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/data-entities/recurring-integrations
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

// Only returns the one value of a header, whose name is given in lower case, in
// whatever spelling it was set. It returns false if there are several: servers
// choose differently.
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

// plainKind tells how to read the body of a request for certain: its one
// Content-Type says so, in UTF-8, and nothing is compressed.
func plainKind(h http.Header) (k kind, params map[string]string) {
	contentType, _ := Only(h, "content-type") // "", if there are several
	encoding, plain := Only(h, "content-encoding")
	if !plain {
		return kindOther, nil
	}
	return parseKind(contentType, encoding)
}
