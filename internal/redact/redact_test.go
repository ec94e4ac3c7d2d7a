package redact

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// canary is planted where secrets are; it must never come out.
const canary = "s3cr3t"

func TestErrorTextKeepsWhatIsHarmless(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"dial tcp 192.0.2.1:443: connect: connection refused",
		"lookup contoso--s.api.crm.dynamics.com: no such host",
		"get https://contoso.com/api/data/v9.2/accounts failed",
		"what happened? nothing",
	} {
		assert.Equal(t, s, Text(s))
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://user:" + canary + "@contoso.com:8443/a%2Fb/c?x=" + canary + "#" + canary: "https://contoso.com:8443/a%2Fb/c",
		"https://contoso.com": "https://contoso.com",
		"mailto:" + canary:    "mailto:",
	} {
		u, err := url.Parse(in)
		require.NoError(t, err)
		assert.Equal(t, want, URL(u))
	}
	assert.Empty(t, URL(nil))
}

func TestLine(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want string }{
		{"blanks at the ends", "  a b ", "a b"},
		{"line ends and tabs", "a\r\n\tb\u2028c\u0085d", "a b c d"},
		{"invisible characters", "a\u200b\u202eb", "a b"},
		{"cut at a rune", "ab" + strings.Repeat("é", 9), "ab" + strings.Repeat("é", 4)},
		{"invalid utf-8", "a\xffb", "a\ufffdb"},
		{"only blanks", " \n ", ""},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, Line(tt.in, 11), tt.name)
	}
}
