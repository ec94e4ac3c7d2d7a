package message

import "net/http"

// Hosts maps the addresses of an organization to the endpoint of a message. It returns anything
// but an address of the other endpoint as it is, with false.
type Hosts interface {
	Other() string // host name of the other endpoint
	MapURL(s string) (mapped string, ok bool)
	MapHost(authority string) (mapped string, ok bool)
}

func valueOf(h http.Header, canonical string) string {
	if values := h[canonical]; len(values) > 0 {
		return values[0]
	}
	return ""
}
