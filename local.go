package failover

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// This file tells troubles of this machine and mistakes of the caller from faults
// of an endpoint.

// machineLimits are the errors of a machine that has no more to give. The numbers
// are those of Windows sockets.
var machineLimits = [...]syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM,
	10024 /* WSAEMFILE */, 10049 /* WSAEADDRNOTAVAIL */, 10055, /* WSAENOBUFS */
}

// machineLimit reports whether err says that this machine has run out of something:
// files, ports, buffers.
func machineLimit(err error) bool {
	var dns *net.DNSError
	isDNS := errors.As(err, &dns)
	for _, limit := range machineLimits {
		if errors.Is(err, limit) || isDNS && strings.HasSuffix(dns.Err, limit.Error()) { // which is all that a DNSError keeps of it
			return true
		}
	}
	return false
}

// sendable reports whether net/http can send the request at all, over HTTP/2 or
// HTTP/1.1.
func sendable(req *http.Request, http2 bool) bool {
	if !isToken(req.Method) && req.Method != "" || req.URL.Host == "" || req.Header == nil || !validHeader(req.Header) || !validHeader(req.Trailer) {
		return false
	}
	if http2 && aboutConnection(req.Header) {
		return false
	}
	bare := req.WithContext(context.Background()) // its trace is not to be told of this
	switch bare.Body = nil; {
	case bodyless(req):
	case req.ContentLength > 0:
		bare.ContentLength = 0
	default:
		bare.Body, bare.ContentLength = hollow{}, -1
	}
	return bare.Write(io.Discard) == nil // which looks at host, path, length and trailer
}

// aboutConnection reports whether a request has header fields about the connection
// that net/http does not send over HTTP/2 (RFC 9113, section 8.2.2).
func aboutConnection(h http.Header) bool {
	connection, transfer := strings.ToLower(valueOf(h, "Connection")), valueOf(h, "Transfer-Encoding")
	return valueOf(h, "Upgrade") != "" || transfer != "" && transfer != "chunked" ||
		connection != "" && connection != "close" && connection != "keep-alive"
}

func validHeader(h http.Header) bool {
	for name, values := range h {
		if !isToken(name) {
			return false
		}
		for _, value := range values {
			if !validHeaderValue(value) {
				return false
			}
		}
	}
	return true
}

// validHeaderValue reports whether net/http sends a header field of that value
// (RFC 9110, section 5.5).
func validHeaderValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isToken reports whether s can be a method or the name of a header field
// (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
