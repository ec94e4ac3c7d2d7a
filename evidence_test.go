package failover

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// answeredBy503 is a fault that asks an early question, unless its breaker trips.
func answeredBy503() *Fault {
	return &Fault{Class: ClassTransient, Endpoint: Primary, Status: 503, Delivery: Answered}
}

// What counts is a fault of the endpoint, from after the last judgement, before Close.
func TestFaultsThatDoNotCount(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		prepare func(*Transport, *state)
		f       *Fault
		counts  bool
	}{
		"fault":              {func(*Transport, *state) {}, answeredBy503(), true},
		"of the application": {func(*Transport, *state) {}, &Fault{Class: ClassApplication, Status: 404}, false},
		"old news":           {func(_ *Transport, st *state) { st.epoch-- }, answeredBy503(), false},
		"closed":             {func(transport *Transport, _ *state) { transport.Close() }, answeredBy503(), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &probers{takes: [2]time.Duration{time.Second, time.Second}} // no verdict yet
			transport := tellAll(t, Config{ProbeInterval: -1, FailureThreshold: 1, Probe: p.probe})
			st := *transport.state.Load()
			row.prepare(transport.Transport, &st)
			q, decides := transport.count(&st, row.f, false)
			assert.Equal(t, row.counts, q != nil, name)
			assert.Equal(t, row.counts, decides, name)
			assert.Equal(t, row.counts, transport.endpoints[Primary].suspect.Load(), name)
			synctest.Wait()
			tripped := 0
			for _, e := range transport.events {
				if e.Kind == EventTripped {
					tripped++
				}
			}
			assert.Equal(t, row.counts, tripped == 1, name)
		})
	}
}

// An early question is no alarm until a fault that trips the breaker joins it. One that has
// found the traffic in its place is answered: the next fault waits for nothing.
func TestAnEarlyQuestionIsNoAlarm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &probers{takes: [2]time.Duration{time.Second, time.Second}}
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, FailureThreshold: 3, Probe: p.probe})
		st := transport.state.Load()
		q, decides := transport.count(st, answeredBy503(), false)
		require.NotNil(t, q)
		assert.False(t, decides)
		assert.False(t, q.loud)
		<-q.done
		assert.Same(t, st, transport.state.Load())
		again, decides := transport.count(st, answeredBy503(), false)
		assert.Nil(t, again)
		assert.False(t, decides)

		time.Sleep(time.Minute)
		q, _ = transport.count(st, unansweredAt(Primary), true) // the third in a row
		require.NotNil(t, q)
		assert.True(t, q.loud)
		joined, decides := transport.count(st, &Fault{Class: ClassTransient, Err: io.EOF}, false)
		assert.Same(t, q, joined)
		assert.True(t, decides)
		assert.True(t, q.loud)
	})
}

// Only an endpoint that does not pass its probe is told of as failing, and only there are
// reads given up that wait for their answer. One that passes has the fault explained.
func TestWhatIsSaidOfAnEndpointThatIsLeft(t *testing.T) {
	t.Parallel()
	refused, unclear := errors.New("no route to host"), &Fault{Class: ClassApplication, Status: 404}
	for _, row := range []struct {
		active, other  error
		fenced         bool
		moves, witness bool
	}{
		{nil, refused, false, false, false}, {unclear, refused, false, false, false}, {refused, refused, false, false, true},
		{refused, nil, false, true, true}, {refused, nil, true, true, true}, {nil, nil, true, true, true}, {unclear, nil, true, true, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &probers{ends: [2]error{row.active, row.other}, takes: [2]time.Duration{time.Second, 2 * time.Second}}
			transport := member(t, Config{ProbeInterval: -1, Probe: p.probe})
			st := transport.state.Load()
			var cause error
			st.pool.waits.list(&waitingRead{cancel: func(err error) { cause = err }})
			f := unansweredAt(Primary)
			f.Definitive, f.subject = row.fenced, 7
			q, _ := transport.count(st, f, false)
			require.NotNil(t, q)
			<-q.done
			transport.mu.Lock()
			defer transport.mu.Unlock()
			assert.Equal(t, row.moves, transport.rule.Active == 1, "%v", row)
			assert.Equal(t, row.moves && row.active == refused, cause == errAbandoned, "%v", row)
			assert.Equal(t, row.active == nil, transport.endpoints[Primary].knows(f), "%v", row)
			assert.Equal(t, row.witness, transport.fleet.witnessed.After(time.Now()), "%v", row)
			transport.fleet = nil // there is no store to tell of the rest
		})
	}
}

// lifetime is a context that knows how many others wait for its end.
type lifetime struct {
	context.Context
	n atomic.Int32
}

func (c *lifetime) Value(any) any { return nil } // so that context asks AfterFunc
func (c *lifetime) AfterFunc(f func()) (stop func() bool) {
	c.n.Add(1)
	end := context.AfterFunc(c.Context, f)
	return func() bool { c.n.Add(-1); return end() }
}

// A question leaves nothing behind when it is answered.
func TestNoContextOfAQuestionOutlivesIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &probers{takes: [2]time.Duration{time.Second, time.Second}}
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Probe: p.probe})
		life := &lifetime{Context: transport.ctx}
		transport.ctx = life
		q, _ := transport.count(transport.state.Load(), answeredBy503(), false)
		require.NotNil(t, q)
		synctest.Wait()
		assert.NotZero(t, life.n.Load())
		<-q.done
		synctest.Wait()
		assert.Zero(t, life.n.Load())
	})
}
