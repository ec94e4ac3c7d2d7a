package model_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// Promises that random schedules cannot tell from chance.

// do reads the accounts and returns the result.
func (d *drill) do(ctx context.Context) (*http.Response, error) {
	d.mu.Lock()
	d.callers[""] = &caller{ctx: ctx}
	d.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, orgURL+accounts, nil)
	require.NoError(d, err)
	return d.transport.RoundTrip(req)
}

// count returns the number of requests that have arrived.
func (d *drill) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.arrivals)
}

// goDown makes both sides refuse, and calls until the Transport is down.
func (d *drill) goDown() {
	d.Helper()
	d.behave(failover.Primary, refusing, refusing)
	d.behave(failover.Alternate, refusing, refusing)
	for range 3 {
		d.get(time.Minute)
	}
	require.True(d, d.transport.Status().Down)
}

var notFound = &conduct{name: "404 of the service", reaches: true, probe: unclear,
	answer: answering(404, asJSON, `{"error":{"code":"0x80040217","message":"No such account."}}`, "Req_id", "1")}

func TestAFenceMakesTheCurrentQuestionDefinite(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]*conduct{"a fence": fencing, "another fault": outage} {
		t.Run(name, func(t *testing.T) {
			run(t, failover.Config{MaxAttempts: -1, FailureThreshold: 2}, func(d *drill) {
				thoughtful := &conduct{name: "asks for a token after a while", probe: weak, answer: func(req *http.Request) (*http.Response, error) {
					if err := await(req, 2*time.Second); err != nil {
						return nil, err
					}
					return tokenless.answer(req)
				}}
				d.behave(failover.Primary, outage, thoughtful)
				d.behave(failover.Alternate, sound, thoughtfully(sound))
				d.get(time.Minute)
				d.get(time.Minute)
				d.behave(failover.Primary, last, thoughtful)
				d.get(time.Minute)
				time.Sleep(4 * time.Second)
				assert.Equal(d, last == fencing, d.transport.Status().Active == failover.Alternate)
			})
		})
	}
}

func TestAnAnswerOfTheServiceEndsARowOfFaults(t *testing.T) {
	t.Parallel()
	for between, tripped := range map[*conduct]int32{notFound: 0, outage: 1} {
		t.Run(between.name, func(t *testing.T) {
			run(t, failover.Config{MaxAttempts: -1}, func(d *drill) {
				for _, c := range []*conduct{outage, outage, between, outage} {
					d.behave(failover.Primary, c, slow)
					d.get(time.Minute)
				}
				synctest.Wait()
				assert.Equal(d, tripped, d.tripped.Load())
			})
		})
	}
}

func TestAnAnswerOfTheServiceIsASuccess(t *testing.T) {
	run(t, failover.Config{}, func(d *drill) {
		time.Sleep(time.Minute)
		d.behave(failover.Primary, notFound, sound)
		require.Equal(d, 404, d.get(time.Minute))
		assert.WithinDuration(d, time.Now(), d.transport.Status().Primary.LastSuccess, time.Millisecond)
	})
}

// A probe that could not be authorized says nothing in favour of the endpoint.
func TestAProbeKeepsTheErrorOfAuthorize(t *testing.T) {
	t.Parallel()
	for name, probe := range map[string]failover.Probe{"ProbeWebAPI": failover.ProbeWebAPI, "ProbePath": failover.ProbePath("/data")} {
		t.Run(name, func(t *testing.T) {
			noToken := errors.New("contoso has no token")
			run(t, failover.Config{Probe: probe, Authorize: func(*http.Request) error { return noToken }}, func(d *drill) {
				assert.ErrorIs(d, d.transport.Switch(d.Context(), failover.Alternate, "drill"), noToken)
				assert.Zero(d, d.begun)
			})
		})
	}
}

func TestASwitchToTheActiveEndpointEndsDown(t *testing.T) {
	run(t, failover.Config{}, func(d *drill) {
		d.goDown()
		require.Error(d, d.transport.Switch(d.Context(), failover.Primary, "drill"))
		d.behave(failover.Primary, sound, sound)
		require.NoError(d, d.transport.Switch(d.Context(), failover.Primary, "drill"))
		status := d.transport.Status()
		assert.False(d, status.Down)
		assert.Zero(d, status.Generation)
		synctest.Wait()
		assert.EqualValues(d, 1, d.up.Load())
	})
}

func TestTheContextOfAnAttemptIsReleased(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"closed":   answering(200, asJSON, organization),
		"empty":    answering(204, asJSON, ""),
		"upgraded": answering(http.StatusSwitchingProtocols, "", ""),
		"a fault":  answering(503, "", ""),
		"an error": refusing.answer,
		"panic":    func(*http.Request) (*http.Response, error) { panic("contoso") },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, failover.Config{AttemptTimeout: time.Minute, MaxAttempts: -1}, func(d *drill) {
				var sent context.Context
				d.behave(failover.Primary, &conduct{name: name, answer: func(req *http.Request) (*http.Response, error) {
					sent = req.Context()
					return answer(req)
				}}, sound)
				func() {
					defer func() { recover() }()
					if resp, err := d.do(d.Context()); err == nil {
						resp.Body.Close()
					}
				}()
				require.NotNil(d, sent)
				assert.Error(d, sent.Err())
			})
		})
	}
}

func TestNegativeFieldsOfConfig(t *testing.T) {
	t.Parallel()
	t.Run("ProbeTimeout: for ever", func(t *testing.T) {
		run(t, failover.Config{ProbeTimeout: -1}, func(d *drill) {
			d.behave(failover.Alternate, sound, &conduct{name: "an hour", probe: good, answer: slowly(time.Hour, 0)})
			assert.NoError(d, d.transport.Switch(d.Context(), failover.Alternate, "drill"))
		})
	})
	t.Run("Rise: once", func(t *testing.T) {
		run(t, failover.Config{Rise: -1, MinDwell: -1}, func(d *drill) {
			d.behave(failover.Primary, refusing, refusing)
			require.Equal(d, 200, d.get(time.Minute))
			d.behave(failover.Primary, sound, sound)
			time.Sleep(20 * time.Second)
			assert.Equal(d, failover.Primary, d.transport.Status().Active)
		})
	})
	t.Run("SuspectAfter: nobody asks", func(t *testing.T) {
		run(t, failover.Config{SuspectAfter: -1}, func(d *drill) {
			d.behave(failover.Primary, blackHole, blackHole)
			d.get(time.Hour)
			d.mu.Lock()
			defer d.mu.Unlock()
			for _, p := range d.probes[failover.Primary] {
				assert.GreaterOrEqual(d, time.Since(p.started), time.Duration(0))
				assert.WithinDuration(d, time.Now(), p.started, 10*time.Second, "asked before the deadline")
			}
		})
	})
	t.Run("LedgerSize and RPO: none", func(t *testing.T) {
		run(t, failover.Config{LedgerSize: -1, RPO: -1}, func(d *drill) {
			require.NoError(d, d.transport.Switch(d.Context(), failover.Alternate, "drill"))
			loss := d.transport.Status().Loss
			require.NotNil(d, loss)
			assert.Zero(d, loss.RPO)
			assert.Empty(d, loss.AtRisk)
		})
	})
}

// While down, calls fail with the faults that the latest probes found.
func TestTheFaultsOfDownAreRefreshed(t *testing.T) {
	run(t, failover.Config{FailFast: true}, func(d *drill) {
		d.goDown()
		d.behave(failover.Primary, fencing, fencing)
		time.Sleep(15 * time.Second)
		_, err := d.do(d.Context())
		require.ErrorIs(d, err, failover.ErrUnavailable)
		assert.ErrorContains(d, err, "0x8004B065")
	})
}

func TestTheLatchIsReportedOnce(t *testing.T) {
	var latched, refused atomic.Int32
	run(t, failover.Config{MinDwell: -1, Rise: -1, Logger: nil}, func(d *drill) {
		d.told = func(e failover.Event) {
			switch e.Kind {
			case failover.EventLatched:
				latched.Add(1)
			case failover.EventSwitchRefused:
				refused.Add(1)
			}
		}
		for range 30 {
			active := d.transport.Status().Active
			d.behave(active, refusing, refusing)
			d.behave(active^1, sound, sound)
			d.get(time.Minute)
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		assert.EqualValues(d, 1, latched.Load())
		assert.Positive(d, refused.Load())
	})
}

// An outage that goes unreported, because there were others just before, is reported if it
// lasts, even if an endpoint passes its probe and ConfirmSwitch objects.
func TestADownThatLastsIsReported(t *testing.T) {
	var downs atomic.Int32
	veto := func(context.Context, failover.Switch) error { return errors.New("contoso closes its books") }
	run(t, failover.Config{ConfirmSwitch: veto}, func(d *drill) {
		d.told = func(e failover.Event) {
			if e.Kind == failover.EventDown {
				downs.Add(1)
			}
		}
		for range 4 {
			d.behave(failover.Primary, sound, sound)
			time.Sleep(20 * time.Second)
			require.False(d, d.transport.Status().Down)
			d.goDown()
		}
		synctest.Wait()
		require.EqualValues(d, 3, downs.Load())
		d.behave(failover.Alternate, sound, sound)
		time.Sleep(time.Minute)
		require.True(d, d.transport.Status().Down)
		assert.EqualValues(d, 4, downs.Load())
	})
}

// Instrument may register what it builds, so it is called only when there is a Transport to
// wrap.
func TestInstrumentIsAskedForPoolsThatAreUsed(t *testing.T) {
	var asked atomic.Int32
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport, err := failover.New(orgURL, &failover.Config{
			Instrument: func(rt http.RoundTripper) http.RoundTripper { asked.Add(1); return rt },
			Base:       &http.Transport{DialContext: dialRefused},
			Logger:     slog.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		defer transport.Close()
		for range 5 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, orgURL+accounts, nil)
			require.NoError(t, err)
			transport.RoundTrip(req)
			time.Sleep(time.Minute)
		}
		require.True(t, transport.Status().Down)
		assert.EqualValues(t, 1, asked.Load())
	})
}

// The second try of a read that waits runs in a goroutine of the Transport, where a panic of
// Base would end the process.
func TestAPanicOfBaseInASecondTryIsLogged(t *testing.T) {
	var log bytes.Buffer
	run(t, failover.Config{}, func(d *drill) {
		var n atomic.Int32
		d.behave(failover.Primary, &conduct{name: "waits, and then panics", reaches: true, answer: func(req *http.Request) (*http.Response, error) {
			if n.Add(1) == 2 {
				panic("contoso")
			}
			return slowly(5*time.Minute, 0)(req)
		}}, sound)
		assert.Equal(d, 200, d.get(time.Hour))
		assert.EqualValues(d, 2, n.Load(), "it was not made anew")
		assert.Contains(d, log.String(), "Config.Base")
	}, slog.NewTextHandler(&log, nil))
}

func TestRecentEventsAre64(t *testing.T) {
	run(t, failover.Config{}, func(d *drill) {
		for range 40 {
			d.transport.Pin(failover.Primary)
			d.transport.Unpin()
		}
		events := d.transport.Status().Events
		require.Len(d, events, 64)
		assert.Equal(d, failover.EventUnpinned, events[63].Kind)
		events[0].Kind = failover.EventDown
		assert.NotEqual(d, failover.EventDown, d.transport.Status().Events[0].Kind, "the caller's own")
	})
}

func TestEventsAreLoggedAtTheirLevels(t *testing.T) {
	var log bytes.Buffer
	run(t, failover.Config{MinDwell: -1, Rise: -1}, func(d *drill) {
		d.behave(failover.Primary, fencing, fencing)
		require.Equal(d, 200, d.get(time.Minute))
		d.goDown()
		d.behave(failover.Primary, sound, sound)
		time.Sleep(time.Minute)
		d.transport.Pin(failover.Primary)
		d.transport.Unpin()
		synctest.Wait()
		for kind, level := range map[failover.EventKind]string{
			failover.EventTripped: "WARN", failover.EventSwitched: "WARN", failover.EventTokensSuspect: "WARN",
			failover.EventDown: "ERROR", failover.EventProbed: "DEBUG", failover.EventPinned: "INFO", failover.EventUnpinned: "INFO",
		} {
			assert.Contains(d, log.String(), fmt.Sprintf("level=%s msg=\"failover: %v\"", level, kind))
			assert.Equal(d, strings.Count(log.String(), fmt.Sprintf("level=%s msg=\"failover: %v\"", level, kind)),
				strings.Count(log.String(), fmt.Sprintf("msg=\"failover: %v\"", kind)), kind)
		}
	}, slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestTheRequestOfAProbeIsItsOwn(t *testing.T) {
	var before, after http.Header
	probe := func(ctx context.Context, client *http.Client, endpoint *url.URL) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.JoinPath(whoAmI).String(), nil)
		if err != nil {
			return err
		}
		req.Header.Set("Accept", asJSON)
		before = req.Header.Clone()
		resp, err := client.Transport.RoundTrip(req)
		if after = req.Header; err == nil {
			resp.Body.Close()
		}
		endpoint.Host = "contoso.example" // the URL is the probe's own, too
		return err
	}
	run(t, failover.Config{Probe: probe, Authorize: func(req *http.Request) error { req.Header.Set("Authorization", "Bearer x"); return nil }}, func(d *drill) {
		require.NoError(d, d.transport.Switch(d.Context(), failover.Alternate, "drill"))
		require.NoError(d, d.transport.Switch(d.Context(), failover.Primary, "drill"))
		assert.Equal(d, before, after)
	})
}
