package proxy

import (
	"net/http"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
)

// connectionSchemes are the authentication schemes that authenticate a connection, not a
// request (RFC 4559, section 6). The server takes later requests on that connection for the
// same user's, but the proxy sends the requests of all callers over the same connections.
var connectionSchemes = []string{"ntlm", "negotiate", "kerberos", "nego2", "credssp"}

func isConnectionScheme(name string) bool {
	for _, scheme := range connectionSchemes {
		if ascii.EqualFold(scheme, name) {
			return true
		}
	}
	return false
}

// bindsConnection reports whether the credentials of a request would authenticate the
// connection to the organization.
func bindsConnection(h http.Header) bool {
	for _, value := range h["Authorization"] {
		for _, element := range append(elements(value), value) {
			if word, _ := firstToken(element); isConnectionScheme(word) {
				return true
			}
		}
	}
	return false
}

// dropConnectionChallenges removes the challenges for such credentials from a response, so that
// no caller answers them. It reports whether it removed all challenges that there were.
func dropConnectionChallenges(h http.Header) (none bool) {
	values := h["Www-Authenticate"]
	var kept []string
	dropped := false
	for _, value := range values {
		rest, some := withoutConnectionChallenges(value)
		dropped = dropped || some
		if rest != "" {
			kept = append(kept, rest)
		}
	}
	if !dropped {
		return false
	}
	h.Del("Www-Authenticate")
	if len(kept) > 0 {
		h["Www-Authenticate"] = kept
	}
	return len(kept) == 0
}

// withoutConnectionChallenges returns the challenges of one field line that may stay, unchanged
// if all may. In a list of challenges, an element that is not a parameter begins the next one
// (RFC 9110, section 11.6.1).
func withoutConnectionChallenges(value string) (rest string, dropped bool) {
	var kept []string
	drop := false
	for _, element := range elements(value) {
		if word, rest := firstToken(element); word != "" && !strings.HasPrefix(rest, "=") {
			drop = isConnectionScheme(word)
		}
		if drop {
			dropped = true
		} else if element != "" {
			kept = append(kept, element)
		}
	}
	if !dropped {
		return value, false
	}
	return strings.Join(kept, ", "), true
}

// firstToken returns the first token in s (RFC 9110, section 5.6.2) and the rest. It skips other
// characters around the token, which some recipients take for white space.
func firstToken(s string) (token, rest string) {
	s = strings.TrimLeftFunc(s, isNoTokenChar)
	end := strings.IndexFunc(s, isNoTokenChar)
	if end < 0 {
		return s, ""
	}
	return s[:end], strings.TrimLeft(s[end:], " \t")
}

func isNoTokenChar(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
}

// elements splits a list at its commas, except those in quoted strings. A quote that is not
// closed does not start a quoted string.
func elements(list string) []string {
	var parts []string
	start, quoted := 0, false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			parts = append(parts, strings.Trim(list[start:i], " \t"))
			start = i + 1
		}
	}
	if !quoted {
		return append(parts, strings.Trim(list[start:], " \t"))
	}
	for part := range strings.SplitSeq(list[start:], ",") {
		parts = append(parts, strings.Trim(part, " \t"))
	}
	return parts
}
