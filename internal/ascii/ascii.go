// Package ascii compares text without regard to the case of ASCII letters. (strings.EqualFold
// also equates U+017F with s and U+212A with k, and would so confuse hosts.)
package ascii

// EqualFold reports whether s is equal to t, which is in lower case.
func EqualFold[T string | []byte](t string, s T) bool {
	return len(s) == len(t) && HasPrefixFold(s, t)
}

// HasPrefixFold reports whether s begins with prefix, which is in lower case.
func HasPrefixFold[T string | []byte](s T, prefix string) bool {
	if len(s) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if LowerByte(s[i]) != prefix[i] {
			return false
		}
	}
	return true
}

// Lower returns s with its ASCII letters in lower case. It keeps every offset.
func Lower(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] = LowerByte(b[i])
	}
	return string(b)
}

func LowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}
