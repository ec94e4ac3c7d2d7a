package message

import "net/http"

// Hosts maps the addresses of an organization to the endpoint that a message goes to.
type Hosts interface {
	Other() string // host name of the endpoint that it does not go to
	MapURL(s string) (mapped string, ok bool)
	MapHost(authority string) (mapped string, ok bool)
}

// nobody has no addresses.
type nobody struct{}

func (nobody) Other() string                   { return "\x00." }
func (nobody) MapURL(s string) (string, bool)  { return s, false }
func (nobody) MapHost(s string) (string, bool) { return s, false }

func valueOf(h http.Header, canonical string) string {
	if values := h[canonical]; len(values) > 0 {
		return values[0]
	}
	return ""
}

func isReadMethod(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}
