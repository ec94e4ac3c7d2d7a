package failover

import (
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCodeNumber(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in   string
		want uint32
		ok   bool
	}{
		{"0x8004B065", 0x8004B065, true},
		{"0X8004b065", 0x8004B065, true},
		{" -2147176347\n", 0x8004B065, true},
		{"-0002147176347", 0x8004B065, true},
		{"2147790949", 0x8004B065, true},
		{"0xFFFFFFFF8004B065", 0x8004B065, true}, // sign-extended
		{"0x0000000000000000000000008004B065", 0x8004B065, true},
		{"0x18004B065", 0, false}, // another number, not a longer form
		{"8004B065", 0, false},    // a word: hexadecimal numbers always come with 0x
		{"0x", 0, false},
		{"0x0", 0, false},
		{"0", 0, false},
		{"429", 0, false},
		{"", 0, false},
		{"-2147483649", 0, false},
		{"-6442143643", 0, false}, // whose last 32 bits would be a code
		{"-4294967297", 0, false},
		{"-2147483648", 0x80000000, true},
		{"-1", 0, false}, // no HRESULT
		{"-32603", 0, false},
		{"0x7FFFFFFF", 0, false},
		{"0x80FFFFFF", 0x80FFFFFF, true},
		{"0x81000000", 0, false},
		{"6442450944", 0, false},
		{"0x1FFFFFFFFFFFFFFFF", 0, false},
		{"4294967296", 0, false},
		{"0x8004_B065", 0, false},
		{"0x-8004B065", 0, false},
		{"99999999999999999999999", 0, false},
	}
	for _, tt := range tests {
		n, ok := codeNumber(tt.in)
		assert.Equal(t, tt.ok, ok, "%q", tt.in)
		if ok {
			assert.Equal(t, tt.want, n, "%q", tt.in)
		}
	}
}

// The rules rely on these properties of every code in the table.
func TestCodes(t *testing.T) {
	t.Parallel()
	names := make(map[string]uint32)
	for n, c := range codes {
		hex := formatCode(n)
		assert.NotEmpty(t, c.name, hex)
		assert.Zero(t, names[c.name], "%s: name of another code", hex)
		names[c.name] = n
		assert.False(t, fromPlugin(n), "%s: plug-in codes are judged before the table", hex)
		assert.NotEqual(t, NotSent, c.delivery, "%s: an answer was sent for", hex)
		assert.NotEqual(t, ClassApplication, c.class, "%s: that is what unlisted codes are", hex)
		assert.Less(t, c.class, ClassCanceled, "%s: an answer is no trouble of ours", hex)
		if definitive(n) {
			assert.Equal(t, code{c.name, ClassUnavailable, Refused}, c, hex)
		} else if c.delivery == Refused {
			assert.Equal(t, ClassThrottled, c.class, "%s: only fences and limits are decided before the request runs", hex)
		}
		assert.Equal(t, c.class == ClassThrottled && c.delivery == Refused, (&Fault{Code: hex}).limited(), hex)
		got, ok := codeNumber(hex)
		assert.True(t, ok)
		assert.Equal(t, n, got)
		got, ok = codeNumber(strconv.Itoa(int(int32(n))))
		assert.True(t, ok)
		assert.Equal(t, n, got)
	}
}

func TestSQLFault(t *testing.T) {
	t.Parallel()
	tests := []struct {
		message  string
		class    Class
		delivery Delivery
	}{
		{"Sql Number: 1205", ClassTransient, Answered},
		{"sql number:1205.", ClassTransient, Answered},
		{"Sql Number: 40197, state 4", ClassTransient, Unknown},
		{"Sql Number: -2", ClassTransient, Unknown},
		{"Sql Number: 156", ClassApplication, Answered},
		{"'Sql Number: 1205' in a value. Sql Number: 2627", ClassApplication, Answered},
		{"Sql Number: -3", ClassApplication, Answered},
		{"Sql Number: ", ClassTransient, Unknown},
		{"Sql Number: 99999999999999999999", ClassTransient, Unknown},
		{"İİ Sql Number: 208", ClassApplication, Answered}, // longer in lower case
		{"1205", ClassTransient, Unknown},
	}
	for _, tt := range tests {
		class, delivery := sqlFault(tt.message)
		assert.Equal(t, tt.class.String(), class.String(), tt.message)
		assert.Equal(t, tt.delivery.String(), delivery.String(), tt.message)
	}
}

// Every code matches testdata/codes.tsv, which names its source, and none is missing. Among
// other things, a throttling code that became Refused would let a write be sent twice.
func TestCodesAreAsInTheirSources(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		data, err := os.ReadFile("testdata/codes.tsv")
		require.NoError(t, err)
		seen := make(map[uint32]bool)
		for line := range strings.Lines(string(data)) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			row := strings.Split(strings.TrimSpace(line), "\t")
			require.Len(t, row, 5, line)
			n, ok := codeNumber(row[0])
			require.True(t, ok, line)
			require.False(t, seen[n], "%s occurs twice", row[0])
			seen[n] = true
			delivery, fence := strings.CutSuffix(row[3], "*")
			c := codes[n]
			assert.Equal(t, row[1:4], []string{c.name, c.class.String(), c.delivery.String() + strings.Repeat("*", strings.Count(row[3], "*"))}, row[0])
			assert.Equal(t, fence, definitive(n), row[0])
			assert.Regexp(t, "^(table|live): .", row[4])

			if n == codeGenericSQL {
				continue // depends on its message: see TestSQLFault
			}
			resp := (&answerRow{status: 500, header: typed(jsonType)}).response(io.NopCloser(strings.NewReader(odata(row[0], "x"))))
			f := Classify(resp, nil)
			assert.Equal(t, []string{row[2], delivery}, []string{f.Class.String(), f.Delivery.String()}, row[0])
			assert.Equal(t, fence, f.Definitive, row[0])
		}
		assert.Len(t, seen, len(codes), "a code without a source")
	})
}

// Codes at both ends of the plug-in range, for which plug-ins choose the status.
func TestPluginCodes(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint32]bool{
		0x80048D01: false, 0x80048D02: true, 0x80048D0A: true, 0x80048D11: true, 0x80048D12: false,
		0x80040265: true, 0x80040224: true, 0x80040225: false,
	} {
		assert.Equal(t, want, fromPlugin(n), formatCode(n))
	}
}
