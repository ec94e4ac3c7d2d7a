package failover

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestHowAProcessIsNamed(t *testing.T) {
	t.Parallel()
	assert.Regexp(t, fmt.Sprintf("^contoso-7/%d/[A-Z2-7]{6}$", os.Getpid()), processName("contoso-7", nil))
	assert.Regexp(t, fmt.Sprintf("^unknown host/%d/", os.Getpid()), processName("", os.ErrNotExist))
	long := processName(strings.Repeat("x", 5000), nil)
	assert.LessOrEqual(t, len(long), 200, "of 256 bytes that a claim has")
	assert.GreaterOrEqual(t, len(long), 128, "which is longer than names of hosts are")
	assert.NotEqual(t, processName("contoso-7", nil), processName("contoso-7", nil))
}

// Generations wrap around at the largest number. 0 means none, and is older than any.
func TestWhichGenerationIsOlder(t *testing.T) {
	t.Parallel()
	const most = math.MaxUint64
	for _, row := range []struct {
		a, b uint64
		want bool
	}{
		{0, 0, false}, {0, 1, true}, {1, 0, false}, {0, most, true}, {most, 0, false}, {0, 1 << 63, true}, {1 << 63, 0, false},
		{1, 1, false}, {1, 2, true}, {2, 1, false}, {most, most, false}, {most, 1, true}, {1, most, false}, {most - 1, most, true}, {most, most - 1, false},
		{1, 1 << 63, true}, {1 << 63, 1, false}, {1<<63 + 2, 1, true}, {1, 1<<63 + 2, false}, {5, 1<<63 + 4, true}, {1<<63 + 4, 5, false},
	} {
		assert.Equal(t, row.want, older(row.a, row.b), "%d, %d", row.a, row.b)
	}
	for n, want := range map[uint64]uint64{0: 1, 1: 2, most - 1: most, most: 1} {
		assert.Equal(t, want, after(n))
		assert.True(t, older(n, after(n)), "%d", n)
	}
}

// Times in a record are converted by age, so the store's clock need not be right. Nothing may
// lie in the future: a switch in the future counts as made now, and earlier switches that are
// more than a minute ahead are dropped.
func TestTheTimesOfARecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, skew := range []time.Duration{0, 3 * time.Hour, -3 * time.Hour} {
			now := time.Now()
			clock := now.Add(skew)
			ago := func(d time.Duration) time.Time { return now.Add(-d) }
			for _, row := range []struct{ at, want time.Duration }{ // how long ago
				{time.Hour, time.Hour}, {1, 1}, {0, 0}, {-1, 0}, {-time.Hour, 0},
			} {
				rec := Record{Generation: 7, Since: clock.Add(-row.at)}
				assert.True(t, ago(row.want).Equal(rec.in(clock).Since), "%v", row)
				if row.at >= 0 {
					assert.Equal(t, rec.Since.UTC(), rec.in(clock).out(clock).Since)
				}
			}
			rec := Record{Generation: 7, Since: clock, Earlier: []time.Time{
				clock.Add(time.Minute + 1), clock.Add(time.Minute), clock.Add(-time.Second), clock.Add(-time.Hour)}}
			here := rec.in(clock)
			assert.Equal(t, []time.Time{ago(time.Hour), ago(time.Second), ago(0)}, here.Earlier, "oldest first")
			assert.Equal(t, []time.Time{ago(time.Hour), ago(time.Second), ago(0), ago(0)}, here.switches())
			assert.Len(t, rec.Earlier, 4, "the record is not changed")
			there := here.out(clock)
			assert.Equal(t, []time.Time{clock.Add(-time.Hour).UTC(), clock.Add(-time.Second).UTC(), clock.UTC()}, there.Earlier)
			assert.Equal(t, ago(time.Hour), here.Earlier[0], "nor is this one")
		}
		assert.Nil(t, Record{Since: time.Now(), Earlier: []time.Time{time.Now()}}.switches(), "there was none")
	})
}

// The fleet contradicts itself if its generation changes four times within a minute. A step of
// more than one between two looks counts as more than one change, because nobody knows what
// happened in between.
func TestWhenTheRecordIsDisputed(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		steps []uint64 // of the generation
		gap   time.Duration
		want  bool
	}{
		"three changes":             {[]uint64{1, 1, 1}, time.Second, false},
		"four":                      {[]uint64{1, 1, 1, 1}, time.Second, true},
		"other changes":             {[]uint64{1, 1, 1, 0, 0, 0}, time.Second, false},
		"more":                      {[]uint64{1, 1, 1, 1, 1, 1}, time.Second, true},
		"two and one missed":        {[]uint64{1, 1, 2}, time.Second, true},
		"one, and many missed":      {[]uint64{1, 9}, time.Second, false},
		"two with many missed":      {[]uint64{9, 9}, time.Second, true},
		"four in a minute":          {[]uint64{1, 1, 1, 1}, 15 * time.Second, true},
		"four in more":              {[]uint64{1, 1, 1, 1}, 20 * time.Second, false},
		"five, of which four count": {[]uint64{1, 1, 1, 1, 1}, 15 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				transport := &Transport{fleet: new(fleet)}
				see := func(generation uint64) {
					transport.mu.Lock()
					defer transport.mu.Unlock()
					transport.fleet.see(Record{Generation: generation})
				}
				generation := uint64(7)
				see(generation) // the first look sees no change
				assert.False(t, transport.disputed())
				for i, step := range row.steps {
					if i > 0 {
						time.Sleep(row.gap)
					}
					generation += step
					see(generation)
				}
				assert.Equal(t, row.want, transport.disputed())
				assert.LessOrEqual(t, len(transport.fleet.changes), maxChanges)
				assert.Equal(t, generation, transport.fleet.status.Record.Generation)
				assert.Equal(t, time.Now(), transport.fleet.status.Loaded)
				time.Sleep(time.Minute)
				assert.False(t, transport.disputed())
			})
		})
	}
}
