package failover

// This file compares text without regard to the case of its ASCII letters.
// strings.EqualFold would also take U+017F for an s and U+212A for a k, and so
// other hosts for ours.

// equalFold reports whether s is equal to t, which is in lower case.
func equalFold(t, s string) bool { return len(s) == len(t) && hasPrefixFold(s, t) }

// hasPrefixFold reports whether s begins with prefix, which is in lower case.
func hasPrefixFold[T string | []byte](s T, prefix string) bool {
	if len(s) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if lowerByte(s[i]) != prefix[i] {
			return false
		}
	}
	return true
}

// lower returns s with its ASCII letters in lower case. It keeps every offset.
func lower(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] = lowerByte(b[i])
	}
	return string(b)
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}
