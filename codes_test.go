package failover

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
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
		{"8004B065", 0, false},    // a word: nobody sends hexadecimal without 0x
		{"0x", 0, false},
		{"0x0", 0, false},
		{"0", 0, false},
		{"429", 0, false},
		{"", 0, false},
		{"-2147483649", 0, false},
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

// TestCodes checks what the rules rely on for every code of the table.
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
		{"Sql Number: ", ClassTransient, Unknown},
		{"İİ Sql Number: 208", ClassApplication, Answered}, // longer in lower case
		{"1205", ClassTransient, Unknown},
	}
	for _, tt := range tests {
		class, delivery := sqlFault(tt.message)
		assert.Equal(t, tt.class.String(), class.String(), tt.message)
		assert.Equal(t, tt.delivery.String(), delivery.String(), tt.message)
	}
}
