package ascii

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestFoldsLettersOfASCIIOnly(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, lower, s string
		equal          bool
	}{
		{"the same", "contoso", "contoso", true},
		{"upper case", "contoso", "CONTOSO", true},
		{"mixed case", "crm4.dynamics.com", "Crm4.Dynamics.COM", true},
		{"empty", "", "", true},
		{"shorter", "contoso", "contos", false},
		{"longer", "contoso", "contosos", false},
		{"other letter", "contoso", "contosa", false},
		{"long s", "contoso", "contoſo", false},       // U+017F folds to an s in Unicode
		{"Kelvin sign", "kim", "\u212aim", false},     // U+212A folds to a k in Unicode
		{"not letters", "[{", "{[", false},            // 0x20 apart
		{"control for a dot", "a.b", "a\x0eb", false}, // 0x20 apart
		{"upper-case letter for at", "@", "`", false}, // 0x20 apart
		{"umlaut of Latin-1", "\xe4", "\xc4", false},  // 0x20 apart
		{"invalid UTF-8 is bytes", "\xff", "\xff", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, row.equal, EqualFold(row.lower, row.s))
			assert.Equal(t, row.equal, EqualFold(row.lower, []byte(row.s)))
			begins := row.equal || row.name == "longer"
			assert.Equal(t, begins, HasPrefixFold(row.s, row.lower))
			assert.Equal(t, begins, HasPrefixFold([]byte(row.s+"x"), row.lower))
		})
	}
}

func TestLowerKeepsEveryOffset(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for c := range 256 {
		all.WriteByte(byte(c))
	}
	lower := Lower(all.String())
	assert.Len(t, lower, 256)
	for c := range 256 {
		want := byte(c)
		if c >= 'A' && c <= 'Z' {
			want += 'a' - 'A'
		}
		assert.Equal(t, want, lower[c])
		assert.Equal(t, want, LowerByte(byte(c)))
	}
}

func FuzzEqualFold(f *testing.F) {
	f.Add("contoso", "CONTOSO")
	f.Add("contoso", "contoſo")
	f.Fuzz(func(t *testing.T, a, b string) {
		a = Lower(a)
		assert.Equal(t, a == Lower(b), EqualFold(a, b))
		assert.Equal(t, strings.HasPrefix(Lower(b), a), HasPrefixFold(b, a))
	})
}
