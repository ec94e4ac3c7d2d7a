package failover

import (
	"math"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStatesAreNamed(t *testing.T) {
	t.Parallel()
	for s, want := range map[State]string{StateClosed: "closed", StateHalfOpen: "half-open", StateOpen: "open"} {
		assert.Equal(t, want, s.String())
	}
}

// A breaker opens after a threshold of faults in a row, or one conclusive fault; is half-open
// in time for the next probe; and closes after Rise successes.
func TestBreakers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, threshold := range []int{1, 3, 7, math.MaxInt} {
			for _, rise := range []int{1, 3} {
				for interval, soonest := range map[time.Duration]time.Duration{0: 0, 1: 0, 10 * time.Second: 8 * time.Second, never: 48 * time.Second} {
					b := newBreaker(threshold, rise, interval)
					b.success()
					require.Equal(t, StateClosed, b.state())
					row := min(threshold, 20)
					for range row - 1 {
						require.False(t, b.fault(false))
					}
					b.success() // which ends the row
					for n := 1; n <= row; n++ {
						require.Equal(t, n == threshold, b.fault(false), "fault %d of %d", n, threshold)
					}
					require.True(t, b.fault(true))
					require.Equal(t, StateOpen, b.state())
					b.success() // does not count while the breaker is open
					require.Equal(t, StateOpen, b.state())
					time.Sleep(max(soonest, time.Millisecond))
					for n := range rise {
						require.Equal(t, StateHalfOpen, b.state(), "after %d of %d", n, rise)
						b.success()
					}
					require.Equal(t, StateClosed, b.state())
					b.fault(true)
					b.reset()
					require.Equal(t, StateClosed, b.state())
				}
			}
		}
		const large = 1<<(strconv.IntSize/2) + 1
		b := newBreaker(large, large, time.Second)
		assert.False(t, b.fault(false), "a large number is not a small one")
		b.fault(true)
		time.Sleep(time.Second)
		b.success()
		assert.Equal(t, StateHalfOpen, b.state())
	})
}

// A fault that a passed probe has explained does not count for ten minutes, if the same
// request meets it again.
func TestHowLongAFaultIsExplained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		subject := func(method, path, code string, status int) *Fault {
			f := &Fault{Code: code, Status: status}
			f.subject = subjectOf(&http.Request{Method: method, URL: &url.URL{Path: path}}, f)
			require.NotZero(t, f.subject)
			return f
		}
		f := subject("GET", "/a", "0x1", 500)
		others := []*Fault{subject("PUT", "/a", "0x1", 500), subject("GET", "/b", "0x1", 500), subject("GET", "/a", "0x2", 500), subject("GET", "/a", "0x1", 503), {}}
		var e endpoint
		assert.False(t, e.knows(f))
		e.explain(nil)
		e.explain(&Fault{}) // concerns no request
		assert.False(t, e.knows(&Fault{}), "nothing was explained")
		e.explain(f)
		assert.True(t, e.knows(subject("GET", "/a", "0x1", 500)))
		for _, other := range others {
			assert.False(t, e.knows(other))
		}
		time.Sleep(10*time.Minute - 1)
		assert.True(t, e.knows(f))
		time.Sleep(time.Nanosecond)
		assert.False(t, e.knows(f))
	})
}

func TestTheHealthOfAnEndpoint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		e := endpoint{breaker: newBreaker(2, 1, time.Second)}
		assert.Equal(t, EndpointStatus{Faults: map[Class]uint64{}, Recent: Recent{Faults: map[Class]int{}}}, e.status(nil, started), "nothing is known")
		e.succeeded(0)
		assert.Equal(t, started.Add(1), e.status(nil, started).LastSuccess, "0 is never")
		for range 3 {
			e.succeeded(time.Hour)
			e.succeeded(time.Hour + time.Millisecond - 1)
		}
		e.succeeded(time.Hour + time.Millisecond)
		assert.Equal(t, 3, e.status(nil, started).Recent.Succeeded, "one in a millisecond")

		assert.False(t, e.fault(&Fault{}))
		assert.True(t, e.suspect.Load(), "a success has to clear it")
		assert.False(t, e.fenced)
		e.success()
		assert.False(t, e.suspect.Load())
		assert.Zero(t, e.before)
		assert.True(t, e.fault(&Fault{Definitive: true}))
		assert.True(t, e.fenced)
		e.success()
		assert.True(t, e.suspect.Load(), "it is open")
		assert.NotZero(t, e.before)
		e.addresses.see(at("192.0.2.1"), started)
		require.NotEmpty(t, e.addresses.see(at("192.0.2.2"), started))
		e.reset()
		assert.False(t, e.suspect.Load())
		assert.Zero(t, e.before)
		assert.Empty(t, e.addresses.news(started))
		assert.Equal(t, StateClosed, e.breaker.state())
		e.trip()
		assert.True(t, e.suspect.Load())
		assert.Equal(t, StateOpen, e.breaker.state())

		for class := range ClassLocal + 3 { // including a class of the program's own
			for range class + 1 {
				e.record(&Fault{Class: class})
			}
		}
		status := e.status(nil, started)
		assert.Equal(t, ClassLocal+2, status.LastFault.Class)
		assert.Equal(t, started, status.LastFaultTime)
		for class := range ClassLocal {
			assert.EqualValues(t, class+1, status.Faults[class])
			assert.EqualValues(t, class+1, status.Recent.Faults[class])
		}
		assert.EqualValues(t, 3*(ClassLocal+2), status.Faults[ClassLocal])
		assert.Len(t, status.Faults, int(ClassLocal)+1)
	})
}
