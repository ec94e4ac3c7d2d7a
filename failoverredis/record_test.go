package failoverredis

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// Whatever is in Redis is an error or a record, and a record does not change when it is written
// back.
func FuzzParseRecord(f *testing.F) {
	written, err := formatRecord(failover.Record{
		Active: failover.Alternate, Generation: 1 << 62, Since: time.Unix(1743303599, 123456789),
		Earlier: []time.Time{time.Unix(1743303000, 0)}, Reason: "reason", By: "web-1/4711/K5RVQD", Version: math.MaxUint64, Questions: 4, Recoveries: 3, Risen: 2, Frozen: "hands off",
	})
	require.NoError(f, err)
	f.Add(written[0], written[1], written[2], written[3], written[4], written[5], written[6], written[10])
	f.Add("0", "primary", "0001-01-01T00:00:00Z", "", "", "", "1", "")
	f.Add("18446744073709551616", "both", "1743303599", "x", "\x00", "\xff", "1", "")
	f.Add("01", "Primary", "2025-03-30T02:59:59+25:00", " ", "", "", "1", "")
	f.Fuzz(func(t *testing.T, generation, active, since, earlier, reason, by, number, frozen string) {
		r, err := parseRecord(fields{generation, active, since, earlier, reason, by, number, number, number, number, frozen})
		if err != nil {
			assert.Zero(t, r)
			return
		}
		again, err := formatRecord(r)
		if err != nil {
			return // too long, or a time whose year in UTC does not have four digits
		}
		same, err := parseRecord(again)
		require.NoError(t, err)
		assert.Equal(t, r.Generation, same.Generation)
		assert.Equal(t, r.Active, same.Active)
		assert.True(t, r.Since.Equal(same.Since))
		require.Len(t, same.Earlier, len(r.Earlier))
		for i, at := range r.Earlier {
			assert.True(t, at.Equal(same.Earlier[i]))
		}
		assert.Equal(t, r.Reason, same.Reason)
		assert.Equal(t, r.By, same.By)
		assert.Equal(t, []uint64{r.Version, r.Questions, r.Recoveries, r.Risen}, []uint64{same.Version, same.Questions, same.Recoveries, same.Risen})
		assert.Equal(t, r.Frozen, same.Frozen)
	})
}

// An answer that no script returns is an error, not a panic.
func TestUnexpectedReplies(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]any{
		"nothing":        nil,
		"a number":       int64(1),
		"too short":      []any{"1", "2"},
		"no time":        []any{"x", "0", int64(0), []any{}},
		"no fields":      []any{"1", "0", int64(0), nil},
		"too few fields": []any{"1", "0", int64(0), []any{"1"}},
		"numbers":        []any{"1", "0", "many", []any{int64(1), nil, nil, "x", nil, nil}},
	} {
		r, _, err := parseLoaded(reply)
		assert.Error(t, err, name)
		assert.Zero(t, r, name)
	}
}
