package console

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestFlagsAndOperandsInAnyOrder(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args     []string
		operands []string
		reason   string
	}{
		{[]string{"alternate", "-reason", "drill"}, []string{"alternate"}, "drill"},
		{[]string{"-reason=drill", "alternate"}, []string{"alternate"}, "drill"},
		{[]string{"a", "-reason", "x", "b"}, []string{"a", "b"}, "x"},
		{[]string{"a", "--", "-reason", "x"}, []string{"a", "-reason", "x"}, ""},
		{[]string{"--", "-x"}, []string{"-x"}, ""},
		{nil, nil, ""},
	} {
		c := NewCommand("switch", "", "", &bytes.Buffer{}, &bytes.Buffer{})
		reason := c.String("reason", "", "")
		operands, _, ok := c.Parse(tt.args)
		assert.True(t, ok)
		assert.Equal(t, tt.operands, operands, "%q", tt.args)
		assert.Equal(t, tt.reason, *reason)
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("word ", 60) + strings.Repeat("x", 200)
	for line := range strings.Lines(Wrap(long, "    ")) {
		assert.True(t, strings.HasPrefix(line, "    "))
		assert.LessOrEqual(t, len(strings.TrimRight(line, "\n")), Width)
	}
	assert.Equal(t, "✓ red? alert?", Cell("✓ ", "red\x1b alert\u202e", 78))
	assert.Equal(t, "✓ one\n  two\n  three", Cell("✓ ", "one\ntwo three", 8))
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0 ms", time.Microsecond: "under 1 ms", 840 * time.Millisecond: "840 ms", 7200 * time.Millisecond: "7.2 s",
		192 * time.Second: "3 min 12 s", 125 * time.Minute: "2 h 5 min", -2 * time.Second: "-2.0 s",
		59*time.Minute + 59700*time.Millisecond: "1 h 0 min", 59800 * time.Millisecond: "1 min 0 s",
	} {
		assert.Equal(t, want, Duration(d))
	}
	assert.Equal(t, "1 write", Plural(1, "write"))
	assert.Equal(t, "0 writes", Plural(0, "write"))
}
