package failover

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// asking is a store that asks a new question whenever it is read, and never stops to notify.
type asking struct {
	questions atomic.Uint64
	changes   chan struct{}
}

func (s *asking) Load(context.Context, string) (Record, time.Time, error) {
	n := s.questions.Add(1)
	return Record{Version: n, Generation: 1, Questions: n, Recoveries: n}, time.Now(), nil
}

func (s *asking) CompareAndSwap(context.Context, string, uint64, Record) (bool, error) {
	return true, nil
}
func (s *asking) Changes(context.Context, string) <-chan struct{} { return s.changes }
func (s *asking) Claim(context.Context, string, Claim) (Holders, error) {
	return Holders{}, nil
}

// Whatever a store asks, its members do not probe more often than a fleet that asks itself.
func TestAStoreThatAsksAllTheTimeIsAnsweredNowAndThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var probes atomic.Int64
		store := &asking{changes: make(chan struct{}, 1)}
		transport := newTestTransport(t, acknowledging, Config{Shared: store, Probe: func(context.Context, *http.Client, *url.URL) error {
			probes.Add(1)
			return nil
		}})
		for range 60 * 20 {
			select {
			case store.changes <- struct{}{}:
			default:
			}
			time.Sleep(50 * time.Millisecond)
		}
		assert.Greater(t, store.questions.Load(), uint64(1000))
		assert.LessOrEqual(t, probes.Load(), int64(time.Minute/(firstPace/2)))
		assert.GreaterOrEqual(t, probes.Load(), int64(time.Minute/firstPace))
		transport.Close()
	})
}

// echoing is a store that notifies when it is read.
type echoing struct{ asking }

func (s *echoing) Load(ctx context.Context, organization string) (Record, time.Time, error) {
	select {
	case s.changes <- struct{}{}:
	default:
	}
	s.questions.Add(1)
	return Record{}, time.Now(), nil
}

func (s *echoing) CompareAndSwap(context.Context, string, uint64, Record) (bool, error) {
	return false, nil
}

// Nor do they read it all the time.
func TestAStoreThatNotifiesWhenItIsReadIsReadNowAndThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &echoing{asking{changes: make(chan struct{}, 1)}}
		transport := newTestTransport(t, acknowledging, Config{Shared: store, Probe: func(context.Context, *http.Client, *url.URL) error { return nil }})
		time.Sleep(time.Minute)
		assert.LessOrEqual(t, store.questions.Load(), uint64(time.Minute/changePause)+2)

		store.questions.Store(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		assert.ErrorIs(t, transport.Freeze(ctx, "maintenance"), context.DeadlineExceeded, "others always come first")
		assert.LessOrEqual(t, store.questions.Load(), uint64((1+3)*time.Minute/changePause)+4)
		transport.Close()
	})
}
