package http

// WrapTransport, if set, returns what requests go through instead of t.
var WrapTransport func(t *Transport) RoundTripper

// Through returns what requests to rt go through.
func Through(rt RoundTripper) RoundTripper {
	if t, ok := rt.(*Transport); ok && t != nil && WrapTransport != nil {
		return WrapTransport(t)
	}
	return rt
}
