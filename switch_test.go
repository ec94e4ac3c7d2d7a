package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/rule"
)

func TestWhatKindOfEvidenceAFaultIs(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		f    Fault
		want rule.Kind
	}{
		"fence":                   {Fault{Definitive: true, Status: 503}, rule.Fenced},
		"fence without an answer": {Fault{Definitive: true, Err: context.DeadlineExceeded}, rule.Fenced},
		"no answer in time":       {Fault{Err: context.DeadlineExceeded}, rule.TimedOut},
		"an answer, cut off":      {Fault{Status: 500, Err: context.DeadlineExceeded}, rule.TimedOut},
		"no connection":           {Fault{Err: io.EOF}, rule.Unreachable},
		"an answer":               {Fault{Status: 500}, rule.Answered},
		"a gateway's time-out":    {Fault{Status: 504}, rule.Answered},
	} {
		assert.Equal(t, row.want, evidenceOf(&row.f), name)
	}
}

func TestHowAProbeIsRead(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		p                 probed
		want              rule.Outcome
		class             Class
		reached, timedOut bool
	}{
		"passed":                      {probed{}, rule.Passed, 0, true, false},
		"passed weakly":               {probed{weak: true}, rule.PassedWeakly, 0, true, false},
		"refused":                     {probed{err: io.EOF}, rule.Failed, ClassUnavailable, false, false},
		"timed out":                   {probed{err: fmt.Errorf("x: %w", context.DeadlineExceeded)}, rule.Failed, ClassTransient, false, true},
		"timed out, in its own words": {probed{err: errAbandoned}, rule.Failed, ClassUnavailable, false, true},
		"fault that counts":           {probed{err: fmt.Errorf("x: %w", &Fault{Class: ClassTransient, Status: 503})}, rule.Failed, ClassTransient, false, false},
		"answer of a gateway":         {probed{err: &Fault{Class: ClassTransient, Status: 504}}, rule.Failed, ClassTransient, false, false},
		"fault without an answer":     {probed{err: &Fault{Class: ClassTransient, Err: context.DeadlineExceeded}}, rule.Failed, ClassTransient, false, true},
		"inconclusive answer":         {probed{err: &Fault{Class: ClassApplication, Status: 404}}, rule.Inconclusive, ClassApplication, true, false},
		"trouble of this machine":     {probed{err: &Fault{Class: ClassLocal, Err: io.EOF}}, rule.Inconclusive, ClassLocal, false, false},
		"no fault":                    {probed{err: fmt.Errorf("x: %w", (*textless)(nil))}, rule.Failed, ClassUnavailable, false, false},
	} {
		outcome, f := row.p.outcome()
		assert.Equal(t, row.want, outcome, name)
		assert.Equal(t, outcome == rule.Failed || outcome == rule.Inconclusive, f != nil, name)
		if f != nil {
			assert.Equal(t, row.class, f.Class, name)
		}
		assert.Equal(t, row.reached, row.p.reached(), name)
		assert.Equal(t, row.timedOut, row.p.timedOut(), name)
	}
}

// A reason does not claim that an endpoint answers its probe unless it does.
func TestWhyTheTrafficStays(t *testing.T) {
	t.Parallel()
	for want, found := range map[string]findings{
		"the alternate answers its probe": {},
		"the alternate answers requests":  {slow: true, faults: [2]*Fault{Alternate: {Class: ClassTransient}}},
		"the probe of the alternate is inconclusive: auth, request answered: status 403": {
			faults: [2]*Fault{Alternate: {Class: ClassAuth, Delivery: Answered, Status: 403}}},
		"the probe of the alternate is inconclusive: local, request not sent: too many open files": {
			faults: [2]*Fault{Alternate: {Class: ClassLocal, Delivery: NotSent, Err: errors.New("too many open files")}}},
	} {
		assert.Equal(t, want, found.whyStay(Alternate))
	}
}

// textless is an error that claims to be a fault but is not.
type textless struct{}

func (*textless) Error() string { return "contoso" }
func (*textless) As(target any) bool {
	f, ok := target.(**Fault)
	if ok {
		*f = nil
	}
	return ok
}

func TestWhatSpeaksForAMoveBehindTheName(t *testing.T) {
	t.Parallel()
	const seen = " (192.0.2.1 before, 192.0.2.9 now)"
	for kinds, want := range map[rule.Kind][2]string{ // without another address, and with one
		rule.Fenced:                   {"it has said that it does not serve", "it has said that it does not serve" + seen},
		rule.Fenced | rule.TimedOut:   {"it has said that it does not serve", "it has said that it does not serve" + seen},
		rule.TimedOut | rule.Answered: {"requests to it got no answer", "its name resolves to other addresses" + seen},
		rule.Slow:                     {"", "its name resolves to other addresses" + seen},
		rule.Unreachable:              {"", "its name resolves to other addresses" + seen},
		rule.Answered:                 {"", "its name resolves to other addresses" + seen},
	} {
		for i, addresses := range []string{"", seen} {
			assert.Equal(t, want[i], new(Transport).suspectMoveLocked(rule.Evidence{Kinds: kinds}, findings{addresses: addresses}))
		}
	}
}

// A refused switch is reported if its fault was worth reporting. The report names the endpoint
// that would have become active.
func TestRefusalsAreReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, alternate := range []string{"", NoAlternate} {
			for _, loud := range []bool{false, true} {
				var told []Event
				transport := newTestTransport(t, acknowledging, Config{Alternate: alternate, OnEvent: func(e Event) { told = append(told, e) }})
				f := &Fault{Status: 503}
				transport.mu.Lock()
				transport.refusedLocked(&question{st: transport.state.Load(), loud: loud, fault: f}, "because")
				transport.mu.Unlock()
				synctest.Wait()
				if !loud {
					assert.Empty(t, told)
					continue
				}
				require.Len(t, told, 1)
				to := Alternate
				if alternate != "" {
					to = Primary
				}
				assert.Equal(t, Event{Kind: EventSwitchRefused, To: to, Reason: "because", Fault: f, Time: told[0].Time}, told[0])
			}
		}
	})
}

func TestTheLatchSaysWhatItCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1})
		st := transport.state.Load()
		var moves []time.Time
		for n := range maxSwitches {
			assert.NoError(t, transport.maySwitch(st, damping))
			assert.Equal(t, fmt.Sprintf("the %v says that it does not serve", Alternate), transport.tripReason(&Fault{Endpoint: Alternate, Definitive: true}))
			moves = append(moves, time.Now())
			transport.mu.Lock()
			transport.rememberLocked(moves)
			transport.mu.Unlock()
			assert.Len(t, moves, n+1)
		}
		assert.Equal(t, "3 faults in a row", transport.tripReason(&Fault{}))
		assert.EqualError(t, transport.maySwitch(st, damping), "latched after 4 switches within an hour")
		assert.EqualError(t, transport.maySwitch(st, fenceDamping), "latched after 4 switches within a minute")
		assert.NoError(t, transport.maySwitch(st, 0))
		time.Sleep(time.Minute)
		assert.NoError(t, transport.maySwitch(st, fenceDamping))
		time.Sleep(59*time.Minute - 1)
		assert.Error(t, transport.maySwitch(st, damping))
		time.Sleep(time.Nanosecond)
		assert.NoError(t, transport.maySwitch(st, damping))
		assert.Equal(t, errOvertaken, transport.maySwitch(&state{epoch: 7}, damping))
	})
}

// ConfirmSwitch has thirty seconds. Running out of time, returning an error, or panicking
// refuses the switch.
func TestHowASwitchIsConfirmed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var answer func(context.Context) error
		var got Switch
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, ConfirmSwitch: func(ctx context.Context, s Switch) error {
			got = s
			return answer(ctx)
		}})
		f := &Fault{Status: 503}
		m := switchover{to: Alternate, reason: "because", fault: f}
		lastRefusal := errors.New("contoso closes its books")
		for name, row := range map[string]struct {
			answer func(context.Context) error
			want   error
			takes  time.Duration
		}{
			"agrees":        {func(context.Context) error { return nil }, nil, 0},
			"nil pointer":   {func(context.Context) error { var none *textless; return none }, nil, 0},
			"objects":       {func(context.Context) error { return lastRefusal }, lastRefusal, 0},
			"objects late":  {func(context.Context) error { time.Sleep(29 * time.Second); return lastRefusal }, lastRefusal, 29 * time.Second},
			"takes forever": {func(ctx context.Context) error { <-ctx.Done(); return lastRefusal }, nil, 30 * time.Second},
			"panics":        {func(context.Context) error { panic("contoso") }, errPanicked, 0},
			"panics later":  {func(context.Context) error { return panicking{} }, errPanicked, 0},
		} {
			answer = row.answer
			start := time.Now()
			err := transport.confirm(t.Context(), Primary, m)
			synctest.Wait()
			if name == "takes forever" {
				assert.Error(t, err)
			} else {
				assert.Equal(t, row.want, err, name)
			}
			assert.Equal(t, row.takes, time.Since(start), name)
			assert.Equal(t, []any{Primary, Alternate, "because", f}, []any{got.From, got.To, got.Reason, got.Fault})
		}
		answer = func(ctx context.Context) error { time.Sleep(time.Minute); return nil } // ignores its context
		start := time.Now()
		assert.ErrorIs(t, transport.confirm(t.Context(), Primary, m), context.DeadlineExceeded)
		assert.Equal(t, 30*time.Second, time.Since(start))
		transport.Close()
		assert.Equal(t, time.Minute, time.Since(start), "Close waits for it")
		assert.Equal(t, ErrClosed, transport.confirm(t.Context(), Primary, m))
		assert.False(t, transport.spawn(func() { panic("closed") }))
		assert.NoError(t, newTestTransport(t, acknowledging, Config{}).confirm(t.Context(), Primary, m), "nobody is asked")
	})
}

// panicking is an error whose text panics.
type panicking struct{}

func (panicking) Error() string { panic("contoso") }

// probers is a scripted Probe, by endpoint.
type probers struct {
	mu     sync.Mutex
	ends   [2]error
	takes  [2]time.Duration
	begun  [2]int
	denied [2]int // ended by their contexts
}

func (p *probers) probe(ctx context.Context, _ *http.Client, endpoint *url.URL) error {
	e := Primary
	if strings.Contains(endpoint.Host, "--s.") {
		e = Alternate
	}
	p.mu.Lock()
	p.begun[e]++
	end, takes := p.ends[e], p.takes[e]
	p.mu.Unlock()
	select {
	case <-time.After(takes):
		return end
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		p.denied[e]++
		return ctx.Err()
	}
}

// Both endpoints are probed at the same time, and only until there is a verdict.
func TestBothAreProbedUntilThereIsAVerdict(t *testing.T) {
	t.Parallel()
	refused, unclear := errors.New("no route to host"), &Fault{Class: ClassApplication, Status: 404}
	for name, row := range map[string]struct {
		active, other       error
		activeIn, otherIn   time.Duration
		definite            bool
		takes               time.Duration
		foundActive, foundO rule.Outcome
	}{
		"the active one passes first":  {nil, nil, 1, 3, false, 1, rule.Passed, rule.Pending},
		"the other one passes first":   {nil, nil, 3, 1, false, 3, rule.Passed, rule.Passed},
		"and is all that counts":       {nil, nil, 3, 1, true, 1, rule.Pending, rule.Passed},
		"both, if one is fenced":       {nil, nil, 1, 3, true, 3, rule.Passed, rule.Passed},
		"the active one fails first":   {refused, nil, 1, 3, false, 3, rule.Failed, rule.Passed},
		"both fail":                    {refused, refused, 3, 1, false, 3, rule.Failed, rule.Failed},
		"the active one is unclear":    {unclear, nil, 2, 3, false, 2, rule.Inconclusive, rule.Pending},
		"the other one is, in the end": {refused, unclear, 1, 2, false, 2, rule.Failed, rule.Inconclusive},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &probers{ends: [2]error{row.active, row.other}, takes: [2]time.Duration{row.activeIn * time.Second, row.otherIn * time.Second}}
				transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Probe: p.probe})
				start := time.Now()
				found := transport.probeBoth(t.Context(), Primary, start, func() bool { return row.definite })
				assert.Equal(t, row.takes*time.Second, time.Since(start))
				assert.Equal(t, row.foundActive, found.Active)
				assert.Equal(t, row.foundO, found.Other)
				synctest.Wait()
				assert.Equal(t, [2]int{1, 1}, p.begun)
				ended := 0
				if found.Active == rule.Pending || found.Other == rule.Pending {
					ended = 1
				}
				assert.Equal(t, ended, p.denied[0]+p.denied[1], "nobody waits for it any more")
				for e, err := range []error{row.active, row.other} {
					outcome := []rule.Outcome{found.Active, found.Other}[e]
					assert.Equal(t, err != nil && outcome != rule.Pending, found.faults[e] != nil)
				}
				assert.False(t, found.Alive || found.slow || found.NewAddress)
			})
		})
	}
}

// An endpoint that answers requests is not dead, even if it does not answer its probe.
func TestAnEndpointThatAnswersRequestsIsNotDead(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		after time.Duration // the age of a healthy answer when the probes began
		err   error
		news  bool // its name now resolves to another address
		slow  bool
	}{
		{time.Second, context.DeadlineExceeded, true, true}, {time.Second, context.DeadlineExceeded, false, true},
		{0, context.DeadlineExceeded, true, false}, {time.Second, errors.New("no route to host"), true, false},
		{time.Second, &Fault{Class: ClassLocal, Err: context.DeadlineExceeded}, true, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &probers{ends: [2]error{row.err, errors.New("no route to host")}, takes: [2]time.Duration{2 * time.Second, time.Second}}
			transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Probe: p.probe})
			time.Sleep(time.Minute)
			start := time.Now()
			e := &transport.endpoints[Primary]
			e.lastWhole = start.Add(row.after).Sub(transport.started)
			e.addresses.see(at("192.0.2.1"), start)
			if row.news {
				e.addresses.see(at("192.0.2.2"), start)
			}
			found := transport.probeBoth(t.Context(), Primary, start.Add(-time.Second), func() bool { return false })
			assert.Equal(t, row.slow, found.slow)
			var f *Fault
			assert.Equal(t, row.slow || errors.As(row.err, &f), found.Active == rule.Inconclusive)
			if row.slow && row.news {
				assert.Equal(t, " (192.0.2.1 before, 192.0.2.2 now)", found.addresses)
			}
			assert.Equal(t, []bool{row.slow && row.news, row.slow && row.news}, []bool{found.Reached, found.NewAddress})
			assert.True(t, found.Alive)
			assert.True(t, transport.succeededSince(Primary, start.Add(row.after-1)))
			assert.False(t, transport.succeededSince(Primary, start.Add(row.after)))
			assert.False(t, transport.succeededSince(Alternate, start))
		})
	}
}

// With one address there is nothing to compare. A closed Transport finds nothing.
func TestProbesOfOneAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &probers{takes: [2]time.Duration{time.Second, time.Second}}
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Probe: p.probe, Alternate: NoAlternate})
		found := transport.probeBoth(t.Context(), Primary, time.Now(), func() bool { return false })
		assert.Equal(t, []rule.Outcome{rule.Passed, rule.Failed}, []rule.Outcome{found.Active, found.Other})
		assert.Equal(t, [2]int{1, 0}, p.begun)
		var over atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			found := transport.probeBoth(ctx, Primary, time.Now(), func() bool { return false })
			assert.Equal(t, rule.Pending, found.Active)
			over.Store(true)
		}()
		synctest.Wait()
		cancel()
		synctest.Wait()
		assert.True(t, over.Load())
	})
}
