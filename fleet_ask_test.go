package failover

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process that has seen an outage asks the others only if that takes a quorum, and if there
// is anybody to ask.
func TestWhenAQuorumIsThere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("connection refused")
		for name, row := range map[string]struct {
			quorum, seen int
			err, failing error
			claims       int
			alone        bool
			want         string
		}{
			"one is enough":               {quorum: 1, claims: 0},
			"one, without the store":      {quorum: 1, failing: refused},
			"two are there":               {quorum: 2, seen: 2, claims: 1},
			"three are there":             {quorum: 2, seen: 3, claims: 1},
			"one is there":                {quorum: 2, seen: 1, claims: 12, want: "seen by 1 of the 2 processes required"},
			"the store fails":             {quorum: 2, err: refused, claims: 1, alone: true},
			"the store has failed before": {quorum: 2, failing: refused, claims: 0, alone: true},
		} {
			s := &scripted{holds: Holders{Count: row.seen}, err: row.err}
			transport := s.member(t, Config{})
			f := transport.fleet
			f.readErr = row.failing
			f.askAfter = time.Now()
			start := time.Now()
			alone, err := transport.reportFailure(Alternate, row.quorum)
			assert.Equal(t, row.alone, alone, name)
			if row.want == "" {
				assert.NoError(t, err, name)
				assert.Zero(t, time.Since(start), name)
			} else {
				assert.EqualError(t, err, row.want, name)
				assert.Equal(t, askWait, time.Since(start), name)
				assert.True(t, f.askAfter.After(start.Add(3*time.Second)), "the others are left alone for a while")
				s.claims = nil
				_, err = transport.reportFailure(Alternate, row.quorum)
				assert.EqualError(t, err, row.want, name)
				assert.Len(t, s.claims, 1, "nobody is asked, or waited for")
				s.claims = make([]Claim, 12)
			}
			assert.Len(t, s.claims, row.claims, name)
			assert.Equal(t, Alternate, f.status.Failed)
			assert.WithinRange(t, f.witnessed, start.Add(time.Minute), time.Now().Add(time.Minute))
			assert.Len(t, f.wake, 1, "the list of witnesses is to be read")
			if row.claims == 1 && row.err == nil {
				assert.Equal(t, Claim{Topic: "outage of the alternate", Member: "contoso", TTL: time.Minute}, s.claims[0])
				assert.Zero(t, f.askAfter, "the next question is another one")
			}
		}
		alone := newTestTransport(t, acknowledging, Config{})
		is, err := alone.reportFailure(Primary, 5)
		assert.False(t, is)
		assert.NoError(t, err)
		alone.announceRecovery()
	})
}

// After a quorum was found, the intervals between questions start again from the shortest.
func TestTheIntervalsBetweenQuestionsStartAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := new(scripted)
		transport := s.member(t, Config{})
		f := transport.fleet
		for range 2 {
			for want := firstPace; want <= 40*time.Second; want *= 2 {
				f.askAfter = time.Now()
				require.True(t, transport.askOthers())
				pause := time.Until(f.askAfter)
				assert.InDelta(t, want, pause, float64(want)*0.21)
				time.Sleep(pause - 1)
				require.False(t, transport.askOthers())
			}
			s.holds.Count = 2
			_, err := transport.testify(Primary, 2)
			require.NoError(t, err)
		}
		asked := uint64(8)
		assert.Equal(t, Record{Version: asked, Questions: asked}, s.record, "one question each")
		assert.Equal(t, [2]uint64{asked, 0}, f.asked, "which this one does not answer itself")
		transport.announceRecovery()
		assert.EqualValues(t, 1, s.record.Recoveries)
		last := s.claims[len(s.claims)-1]
		assert.Equal(t, Claim{Topic: "recovery", Member: "contoso#1", TTL: 5 * time.Second, Places: 1}, last)
		s.holds.Names = []string{"contoso#2"} // it has just asked
		f.askAfter = time.Now()
		assert.True(t, transport.askOthers(), "its answers are worth waiting for")
		transport.announceRecovery()
		assert.Equal(t, Record{Version: 9, Questions: asked, Recoveries: 1}, s.record)
		f.askAfter, f.readErr = time.Now(), errors.New("connection refused")
		assert.False(t, transport.askOthers())
	})
}

// A member that is asked probes its active endpoint once, within half a second, and is a
// witness if the probe fails. It testifies only about what it found itself, and only while it
// is still there.
func TestHowAMemberAnswers(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		serves, down, closed bool
		ask                  func(*Record)
		then                 func(*Transport)
		probes               int
		demanded, witness    bool
	}{
		"serves":                        {serves: true, ask: func(r *Record) { r.Questions++ }, probes: 1},
		"fails":                         {ask: func(r *Record) { r.Questions++ }, probes: 1, witness: true},
		"nothing is asked":              {ask: func(*Record) {}},
		"somewhere else it serves":      {ask: func(r *Record) { r.Recoveries++ }},
		"somewhere else, while down":    {down: true, ask: func(r *Record) { r.Recoveries++ }, demanded: true},
		"asked while down":              {down: true, ask: func(r *Record) { r.Questions++ }, demanded: true},
		"closed":                        {closed: true, ask: func(r *Record) { r.Questions++ }},
		"a judgement since":             {ask: func(r *Record) { r.Questions++ }, then: func(f *Transport) { f.rule.Epoch++ }},
		"a healthy answer in the while": {ask: func(r *Record) { r.Questions++ }, then: func(f *Transport) { f.endpoints[0].lastWhole = time.Hour }, probes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var probed []time.Time
				s := &scripted{record: Record{Version: 1, Questions: 5, Recoveries: 6}}
				transport := s.member(t, Config{Probe: func(_ context.Context, _ *http.Client, endpoint *url.URL) error {
					mu.Lock()
					defer mu.Unlock()
					assert.Equal(t, "contoso.api.crm.dynamics.com", endpoint.Host)
					if probed = append(probed, time.Now()); row.serves {
						return nil
					}
					return errors.New("no route to host")
				}})
				f := transport.fleet
				f.asked = [2]uint64{5, 6}
				transport.wake = make(chan struct{}, 1)
				st := *transport.state.Load()
				st.down, st.closed = row.down, row.closed
				transport.state.Store(&st)
				transport.rule.Down = row.down
				start, rec := time.Now(), s.record
				row.ask(&rec)
				for range 3 { // repeated questions while it probes, and after it has answered
					transport.answer(rec)
					assert.Equal(t, [2]uint64{rec.Questions, rec.Recoveries}, f.asked)
				}
				rec.Questions++
				if row.probes > 0 {
					transport.answer(rec)
				}
				if row.then != nil {
					transport.mu.Lock()
					row.then(transport)
					transport.mu.Unlock()
				}
				transport.wg.Wait()
				assert.LessOrEqual(t, time.Since(start), askSpread)
				assert.Len(t, probed, row.probes)
				assert.Equal(t, row.demanded, transport.demanded)
				assert.Equal(t, row.demanded, len(transport.wake) == 1)
				assert.Equal(t, row.witness, !f.witnessed.IsZero())
				assert.False(t, f.answering)
				if name == "serves" { // a new question is answered with a new probe, at the pace of a fleet
					time.Sleep(firstPace / 2)
					rec.Questions++
					transport.answer(rec)
					transport.wg.Wait()
					assert.Len(t, probed, 2)
					assert.NotEqual(t, probed[0].Sub(start), time.Duration(0), "not all at once")
				}
				transport.rule.Down = false
				st.down, st.closed = false, false
			})
		})
	}
}

// Who is about to look is not sent to look again, and who is closed meanwhile has seen nothing.
func TestOneLookAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := new(scripted).member(t, Config{})
		transport.wake = make(chan struct{}, 9)
		st := *transport.state.Load()
		st.down, transport.rule.Down = true, true
		transport.state.Store(&st)
		woken := 0
		go func() {
			for range transport.wake {
				woken++
			}
		}()
		for n := range uint64(9) {
			transport.answer(Record{Recoveries: n + 1})
		}
		transport.wg.Wait()
		synctest.Wait()
		assert.Equal(t, 1, woken)
		transport.Close()
		close(transport.wake)

		transport = new(scripted).member(t, Config{Probe: func(ctx context.Context, _ *http.Client, _ *url.URL) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		transport.answer(Record{Questions: 1})
		time.Sleep(askSpread)
		transport.Close()
		assert.Zero(t, transport.fleet.witnessed)
		assert.Empty(t, transport.fleet.wake)
	})
}

// A process keeps the list of witnesses as long as it is a witness itself.
func TestTheListOfWitnesses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{holds: Holders{Count: 12, Names: []string{"contoso", "contoso-2"}}}
		transport := s.member(t, Config{})
		f := transport.fleet
		assert.True(t, transport.renewWitness(), "it has seen nothing")
		assert.Empty(t, s.claims)
		_, err := transport.reportFailure(Alternate, 1)
		require.NoError(t, err)
		time.Sleep(time.Minute - time.Second)
		assert.False(t, transport.renewWitness())
		assert.Equal(t, []Claim{{Topic: "outage of the alternate", Member: "contoso", TTL: time.Second}}, s.claims)
		assert.Equal(t, []string{"contoso", "contoso-2"}, f.status.Witnesses)
		assert.Equal(t, 12, f.status.WitnessCount)
		time.Sleep(time.Second)
		assert.True(t, transport.renewWitness(), "a minute has passed")
		assert.Len(t, s.claims, 1, "TTL 0 would withdraw it")
		assert.Empty(t, f.status.Witnesses)
		assert.Zero(t, f.status.WitnessCount)
	})
}

// Texts that other processes wrote are bounded, on one line, and without credentials.
func TestTheTextsOfARecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		long := "line\n" + strings.Repeat("x", 5000)
		const secret = "https://contoso.example/?token=canary"
		for _, text := range []string{long, secret} {
			s := &scripted{record: Record{Version: 4, Reason: text, By: text, Frozen: text}}
			rec, _, err := s.member(t, Config{}).load()
			require.NoError(t, err)
			for _, got := range []string{rec.Reason, rec.Frozen, rec.By} {
				assert.NotContains(t, got, "\n")
				assert.LessOrEqual(t, len(got), maxErrorText+3)
				assert.NotEmpty(t, got)
			}
			assert.NotContains(t, rec.Reason+rec.Frozen, "canary")
			transport := s.member(t, Config{})
			require.NoError(t, transport.Freeze(t.Context(), text))
			assert.NotContains(t, s.record.Frozen, "canary")
			assert.NotContains(t, s.record.Frozen, "\n")
			assert.LessOrEqual(t, len(s.record.Frozen), maxErrorText+3)
		}
		var times []time.Time
		for n := range 9 {
			times = append(times, time.Now().Add(time.Duration(n-9)*time.Minute))
			s := &scripted{record: Record{Version: 4, Earlier: times}}
			rec, _, err := s.member(t, Config{}).load()
			require.NoError(t, err)
			assert.Equal(t, times[max(0, len(times)-maxSwitches):], rec.Earlier, "the latest")
		}
		s := &scripted{record: Record{Version: 4, Active: Alternate + 1}}
		transport := s.member(t, Config{})
		rec, _, err := transport.load()
		assert.EqualError(t, err, "failover: the fleet's record is invalid")
		assert.Zero(t, rec)
		assert.Zero(t, transport.fleet.status.Loaded)
		assert.Equal(t, err, transport.fleet.readErr)
		s.err = errors.New("connection refused")
		_, _, err = transport.load()
		assert.Equal(t, s.err, err)
	})
}

// A process writes the record that it has read, changed only in what it means to change.
func TestWhatIsWrittenOfASwitch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const skew = time.Hour
		clock := func() time.Time { return time.Now().Add(skew) }
		start := time.Now()
		before := Record{Version: 7, Generation: 5, Questions: 3, Recoveries: 4, Risen: 2, Frozen: "drill", Reason: "before", By: "contoso-2"}
		for known, want := range map[uint64]uint64{0: 6, 4: 6, 5: 6, 8: 9} { // the store has lost some
			s := &scripted{record: before}
			transport := s.member(t, Config{})
			f := transport.fleet
			require.NoError(t, transport.Switch(t.Context(), Alternate, "by hand"))
			time.Sleep(time.Second)
			require.NoError(t, transport.Switch(t.Context(), Primary, "by hand"))
			time.Sleep(time.Second)
			transport.Pin(Alternate)
			f.known.Generation, f.untold, f.insisted, f.reason = known, true, true, "our reason"
			st := transport.state.Load()
			time.Sleep(time.Second)
			assert.True(t, transport.publish(st, before, clock()))
			assert.Equal(t, Record{
				Version: 8, Active: Alternate, Generation: want, Since: st.since.Add(skew).UTC(), Reason: "our reason", By: "contoso",
				Earlier: []time.Time{st.since.Add(skew - time.Second).UTC()}, Questions: 3, Recoveries: 4, Frozen: "drill",
			}, s.record, "a hand has cleared what was before")
			assert.Equal(t, want, f.known.Generation)
			assert.True(t, f.known.Since.Equal(st.since))
			assert.False(t, f.untold || f.insisted)

			transport.Unpin()
			require.NoError(t, transport.Switch(t.Context(), Primary, "by hand"))
			f.untold, f.insisted = true, true
			assert.False(t, transport.publish(st, s.record, clock()), "it has moved on")
			assert.True(t, f.untold && f.insisted)
			f.untold = false

			f.known = Record{Version: 9, Active: Primary, Generation: want, Since: start, Reason: "ours", By: "contoso", Earlier: []time.Time{start}}
			s.record = Record{Version: 2, Questions: 8, Recoveries: 9}
			assert.True(t, transport.restore(s.record, clock()))
			assert.Equal(t, Record{
				Version: 3, Active: Primary, Generation: want, Since: start.Add(skew).UTC(), Reason: "ours", By: "contoso",
				Earlier: []time.Time{start.Add(skew).UTC()}, Questions: 8, Recoveries: 9,
			}, s.record, "as it was")
			f.changes = []time.Time{time.Now(), time.Now(), time.Now(), time.Now()}
			assert.False(t, transport.restore(s.record, clock()), "disputed")
			start = time.Now()
		}
	})
}
