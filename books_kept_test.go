package failover

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The report of a switch is to be seen in the morning, however many short outages follow.
func TestABrownOutPushesNoReportOfASwitchOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if broken.Load() {
				return nil, errors.New("no route to host")
			}
			return acknowledging(req)
		})
		probe := func(context.Context, *http.Client, *url.URL) error {
			if broken.Load() {
				return errors.New("no route to host")
			}
			return nil
		}
		for name, busy := range map[string]bool{"idle": false, "busy": true} {
			transport := newTestTransport(t, base, Config{Probe: probe, MinDwell: 24 * time.Hour, FailureThreshold: 1, RetryBackoff: -1})
			post(t, transport, "/api/data/v9.2/accounts", "invoice 9", "", "")
			require.NoError(t, transport.Switch(t.Context(), Alternate, "drill"))
			for range 2 * maxReports {
				if busy {
					post(t, transport, "/api/data/v9.2/accounts", "later", "", "")
				}
				broken.Store(true)
				post(t, transport, "/api/data/v9.2/accounts", "cut off", "", "")
				synctest.Wait()
				require.True(t, transport.Status().Down, name)
				broken.Store(false)
				time.Sleep(time.Minute)
				require.False(t, transport.Status().Down, name)
			}
			s := transport.Status()
			require.Len(t, s.Losses, maxReports, name)
			assert.True(t, s.Losses[0].Moved(), name)
			assert.Equal(t, []string{"invoice 9"}, labels(s.Losses[0].AtRisk), name)
			assert.Same(t, s.Losses[maxReports-1], s.Loss, "the newest is there, in order")
			for i := range s.Losses[1:] {
				assert.False(t, s.Losses[i+1].Time.Before(s.Losses[i].Time), name)
			}
			transport.Close()
		}
	})
}

// Reports without writes go before those with some.
func TestWhichReportIsForgotten(t *testing.T) {
	t.Parallel()
	b := newBooks(16)
	b.record(ended(Primary, OutcomeAcknowledged, time.Now(), "at risk"))
	b.report(Primary, Primary, 1, time.Now(), "with a write")
	for epoch := range uint64(3 * maxReports) {
		b.report(Alternate, Alternate, epoch+2, time.Now(), fmt.Sprint(epoch+2))
	}
	list := b.reports()
	require.Len(t, list, maxReports)
	assert.Equal(t, "with a write", list[0].Reason)
	for i, r := range list[1:] {
		assert.Equal(t, fmt.Sprint(2*maxReports+3+i), r.Reason, "of the others the newest")
	}
}

// A write that hangs for days is not what keeps every report of that time.
func TestAWriteUnderWayKeepsNoForgottenReport(t *testing.T) {
	t.Parallel()
	b := newBooks(16)
	req, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
	require.NoError(t, err)
	u := underway{req: req}
	b.begin(&u)
	for epoch := range uint64(10 * maxReports) {
		b.report(Primary, Primary, epoch+1, time.Now(), "")
	}
	assert.Len(t, u.listed, maxReports)
	b.end(&u)
	for _, r := range b.reports() {
		assert.Empty(t, r.Unknown)
	}
}

func TestGuardsAreBounded(t *testing.T) {
	t.Parallel()
	b := newBooks(8)
	b.guarded = make(map[string]guard, maxGuards)
	for i := range maxGuards {
		b.guarded[strconv.Itoa(i)] = guard{epoch: 1 + uint64(i%2)}
	}
	assert.Len(t, b.guarded, maxGuards)
	w := created(accountB, 0).addressed()
	b.guardLocked(&w, 1)
	assert.Len(t, b.guarded, maxGuards+1, "those of one report go together")
	b.guardLocked(&w, 3)
	assert.Len(t, b.guarded, maxGuards/2+1)
	assert.EqualValues(t, 3, b.guarded[recordKey(accountB)].epoch)
}
