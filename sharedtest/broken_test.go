package sharedtest_test

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/sharedtest"
)

// broken is a Memory with a mistake.
type broken struct {
	*sharedtest.Memory
	load    func(ctx context.Context, organization string) (failover.Record, time.Time, error)
	swap    func(ctx context.Context, organization string, version uint64, next failover.Record) (bool, error)
	changes func(ctx context.Context, organization string) <-chan struct{}
	claim   func(ctx context.Context, organization string, c failover.Claim) (failover.Holders, error)
}

func (b *broken) Load(ctx context.Context, organization string) (failover.Record, time.Time, error) {
	if b.load != nil {
		return b.load(ctx, organization)
	}
	return b.Memory.Load(ctx, organization)
}

func (b *broken) CompareAndSwap(ctx context.Context, organization string, version uint64, next failover.Record) (bool, error) {
	if b.swap != nil {
		return b.swap(ctx, organization, version, next)
	}
	return b.Memory.CompareAndSwap(ctx, organization, version, next)
}

func (b *broken) Changes(ctx context.Context, organization string) <-chan struct{} {
	if b.changes != nil {
		return b.changes(ctx, organization)
	}
	return b.Memory.Changes(ctx, organization)
}

func (b *broken) Claim(ctx context.Context, organization string, c failover.Claim) (failover.Holders, error) {
	if b.claim != nil {
		return b.claim(ctx, organization, c)
	}
	return b.Memory.Claim(ctx, organization, c)
}

// current returns the record as it is.
func (b *broken) current(organization string) failover.Record {
	r, _, _ := b.Memory.Load(context.Background(), organization)
	return r
}

// brokenStores have typical mistakes of stores, each with the rule that must find it.
var brokenStores = []struct {
	name  string
	rule  string
	spoil func(b *broken)
}{
	{"no record is an error", "no record is the zero Record", func(b *broken) {
		b.load = func(ctx context.Context, o string) (failover.Record, time.Time, error) {
			r, now, err := b.Memory.Load(ctx, o)
			if r.Version == 0 {
				err = cmp.Or(err, errors.New("nil"))
			}
			return r, now, err
		}
	}},
	{"version 0 is any", "swaps only the given version", func(b *broken) {
		b.swap = func(ctx context.Context, o string, g uint64, next failover.Record) (bool, error) {
			if g == 0 {
				g = b.current(o).Version
			}
			return b.Memory.CompareAndSwap(ctx, o, g, next)
		}
	}},
	{"a newer version is swapped too", "swaps only the given version", func(b *broken) {
		b.swap = func(ctx context.Context, o string, g uint64, next failover.Record) (bool, error) {
			return b.Memory.CompareAndSwap(ctx, o, min(g, b.current(o).Version), next)
		}
	}},
	{"the loser leaves its name", "a lost swap changes nothing", func(b *broken) {
		b.swap = func(ctx context.Context, o string, g uint64, next failover.Record) (bool, error) {
			swapped, err := b.Memory.CompareAndSwap(ctx, o, g, next)
			if r := b.current(o); !swapped && r.Version != 0 {
				r.By = next.By
				b.Memory.CompareAndSwap(ctx, o, r.Version, r)
			}
			return swapped, err
		}
	}},
	{"microseconds", "every field of a record comes back", spoilRecord(func(r *failover.Record) { r.Since = r.Since.Truncate(time.Microsecond) })},
	{"local time as UTC", "every field of a record comes back", spoilRecord(func(r *failover.Record) {
		_, offset := r.Since.Zone()
		r.Since = r.Since.UTC().Add(time.Duration(offset) * time.Second)
	})},
	{"one earlier switch", "every field of a record comes back", spoilRecord(func(r *failover.Record) { r.Earlier = r.Earlier[:min(1, len(r.Earlier))] })},
	{"trimmed texts", "every field of a record comes back", spoilRecord(func(r *failover.Record) { r.Reason = strings.TrimSpace(r.Reason) })},
	{"short texts", "every field of a record comes back", spoilRecord(func(r *failover.Record) { r.By = r.By[:min(255, len(r.By))] })},
	{"ASCII", "every field of a record comes back", spoilRecord(func(r *failover.Record) { r.By = strings.ToValidUTF8(strings.ReplaceAll(r.By, "ü", "?"), "") })},
	{"shared slices", "a record is copied", spoilAliasing},
	{"floating point", "versions and generations keep every digit", func(b *broken) {
		b.swap = func(ctx context.Context, o string, g uint64, next failover.Record) (bool, error) {
			if present := b.current(o).Version; float64(present) == float64(g) {
				g = present
			}
			return b.Memory.CompareAndSwap(ctx, o, g, next)
		}
	}},
	{"32 bits", "versions and generations keep every digit", spoilRecord(func(r *failover.Record) { r.Version = uint64(uint32(r.Version)) })},
	{"a lost race is a success", "one of many swaps wins", func(b *broken) {
		b.swap = func(ctx context.Context, o string, g uint64, next failover.Record) (bool, error) {
			swapped, err := b.Memory.CompareAndSwap(ctx, o, g, next)
			return swapped || b.current(o).Version == next.Version, err
		}
	}},
	{"ports are cut off", "organizations have records of their own", func(b *broken) {
		host := func(o string) string { h, _, _ := strings.Cut(o, ":"); return h }
		b.load = func(ctx context.Context, o string) (failover.Record, time.Time, error) {
			return b.Memory.Load(ctx, host(o))
		}
		b.swap = func(ctx context.Context, o string, g uint64, next failover.Record) (bool, error) {
			return b.Memory.CompareAndSwap(ctx, host(o), g, next)
		}
	}},
	{"no clock", "the clock goes forward", spoilClock(func(time.Time) time.Time { return time.Time{} })},
	{"a clock that stands", "the clock goes forward", spoilClock(func(start time.Time) time.Time { return start })},
	{"a clock that runs backwards", "the clock goes forward", spoilClock(func(start time.Time) time.Time { return start.Add(-100 * time.Since(start)) })},
	{"a clock that counts in thousandths", "the clock goes forward", spoilClock(func(start time.Time) time.Time { return start.Add(1000 * time.Since(start)) })},
	{"changes are not told", "watchers are notified of changes by others", func(b *broken) {
		b.changes = func(context.Context, string) <-chan struct{} { return make(chan struct{}) }
	}},
	{"only the first change is told", "watchers are notified of changes by others", func(b *broken) {
		b.changes = func(context.Context, string) <-chan struct{} {
			c := make(chan struct{}, 1)
			c <- struct{}{}
			return c
		}
	}},
	{"the channel is closed to tell", "watchers are notified of changes by others", func(b *broken) {
		b.changes = func(ctx context.Context, o string) <-chan struct{} {
			c := make(chan struct{})
			inner := b.Memory.Changes(ctx, o)
			go func() { <-inner; close(c) }()
			return c
		}
	}},
	{"a change nobody waits for is lost", "notifications may be left unread", func(b *broken) {
		b.changes = func(ctx context.Context, o string) <-chan struct{} {
			c, inner := make(chan struct{}), b.Memory.Changes(ctx, o)
			go func() {
				for range inner {
					select {
					case c <- struct{}{}:
					default:
					}
				}
			}()
			return c
		}
	}},
	{"one watcher for an organization", "every watcher is notified", func(b *broken) {
		var mu sync.Mutex
		watched := make(map[string]bool)
		b.changes = func(ctx context.Context, o string) <-chan struct{} {
			mu.Lock()
			defer mu.Unlock()
			if watched[o] {
				return make(chan struct{})
			}
			watched[o] = true
			return b.Memory.Changes(ctx, o)
		}
	}},
	{"the channel is closed at the end", "watching ends with its context", func(b *broken) {
		b.changes = func(ctx context.Context, o string) <-chan struct{} {
			if ctx.Err() != nil {
				c := make(chan struct{})
				close(c)
				return c
			}
			return b.Memory.Changes(ctx, o)
		}
	}},
	{"one end ends all", "watching ends with its context", func(b *broken) {
		all, cancel := context.WithCancel(context.Background())
		b.changes = func(ctx context.Context, o string) <-chan struct{} {
			context.AfterFunc(ctx, cancel)
			return b.Memory.Changes(all, o)
		}
	}},
	{"the newest claim first", "claims are listed oldest first", spoilClaims(func(members []string) { slices.Reverse(members) })},
	{"claims in the order of names", "concurrent claims have one order", spoilClaims(func(members []string) { slices.Sort(members) })},
	{"a renewal is a new claim", "a renewed claim keeps its position", func(b *broken) {
		b.claim = func(ctx context.Context, o string, c failover.Claim) (failover.Holders, error) {
			withdrawn := c
			withdrawn.TTL = 0
			b.Memory.Claim(ctx, o, withdrawn)
			return b.Memory.Claim(ctx, o, c)
		}
	}},
	{"claims for ever", "an expired claim loses its position", spoilTTL(func(ttl time.Duration) time.Duration { return min(ttl, 1) * failover.MaxClaim })},
	{"half the time", "a claim lasts for its TTL", spoilTTL(func(ttl time.Duration) time.Duration { return ttl / 2 })},
	{"renewals do not prolong", "a claim lasts for its TTL", func(b *broken) {
		b.claim = func(ctx context.Context, o string, c failover.Claim) (failover.Holders, error) {
			holders, err := b.Memory.Claim(ctx, o, failover.Claim{Topic: c.Topic, Member: "nobody"})
			if slices.Contains(holders.Names, c.Member) {
				return holders, err
			}
			return b.Memory.Claim(ctx, o, c)
		}
	}},
	{"no time is for ever", "a claim can be withdrawn", spoilTTL(func(ttl time.Duration) time.Duration {
		if ttl <= 0 {
			return time.Minute
		}
		return ttl
	})},
	{"topics regardless of case", "topics and organizations have claims of their own", func(b *broken) {
		b.claim = func(ctx context.Context, o string, c failover.Claim) (failover.Holders, error) {
			c.Topic = strings.ToLower(c.Topic)
			return b.Memory.Claim(ctx, o, c)
		}
	}},
	{"members regardless of case", "members are any text", func(b *broken) {
		b.claim = func(ctx context.Context, o string, c failover.Claim) (failover.Holders, error) {
			c.Member = strings.ToLower(c.Member)
			return b.Memory.Claim(ctx, o, c)
		}
	}},
	{"places are not counted", "new claims are refused when all places are taken", func(b *broken) {
		b.claim = func(ctx context.Context, o string, c failover.Claim) (failover.Holders, error) {
			c.Places = 0
			return b.Memory.Claim(ctx, o, c)
		}
	}},
	{"places are counted beforehand", "concurrent claims fill the places", func(b *broken) {
		b.claim = func(ctx context.Context, o string, c failover.Claim) (failover.Holders, error) {
			present, err := b.Memory.Claim(ctx, o, failover.Claim{Topic: c.Topic, Member: "nobody"})
			if err == nil && c.Places > 0 && present.Count >= c.Places && !slices.Contains(present.Names, c.Member) {
				return present, nil
			}
			<-time.After(10 * time.Millisecond)
			c.Places = 0
			return b.Memory.Claim(ctx, o, c)
		}
	}},
	{"who finds no place stands in line", "new claims are refused when all places are taken", func(b *broken) {
		b.claim = func(ctx context.Context, o string, c failover.Claim) (failover.Holders, error) {
			places := c.Places
			c.Places = 0
			holders, err := b.Memory.Claim(ctx, o, c)
			if places > 0 {
				holders.Count = min(holders.Count, places)
				holders.Names = holders.Names[:min(len(holders.Names), places)]
			}
			return holders, err
		}
	}},
	{"all holders that are named are counted", "few holders are named, all are counted", func(b *broken) {
		b.claim = func(ctx context.Context, o string, c failover.Claim) (failover.Holders, error) {
			holders, err := b.Memory.Claim(ctx, o, c)
			holders.Count = len(holders.Names)
			return holders, err
		}
	}},
	{"contexts are ignored", "a call ends with its context", func(b *broken) {
		b.load = func(ctx context.Context, o string) (failover.Record, time.Time, error) {
			return b.Memory.Load(context.WithoutCancel(ctx), o)
		}
	}},
}

// spoilRecord changes records on their way into the store.
func spoilRecord(change func(*failover.Record)) func(*broken) {
	return func(b *broken) {
		b.swap = func(ctx context.Context, o string, g uint64, next failover.Record) (bool, error) {
			change(&next)
			return b.Memory.CompareAndSwap(ctx, o, g, next)
		}
	}
}

// spoilAliasing keeps the caller's own slice.
func spoilAliasing(b *broken) {
	var mu sync.Mutex
	earlier := make(map[string][]time.Time)
	b.swap = func(ctx context.Context, o string, g uint64, next failover.Record) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		earlier[o] = next.Earlier
		return b.Memory.CompareAndSwap(ctx, o, g, next)
	}
	b.load = func(ctx context.Context, o string) (failover.Record, time.Time, error) {
		r, now, err := b.Memory.Load(ctx, o)
		mu.Lock()
		defer mu.Unlock()
		r.Earlier = earlier[o]
		return r, now, err
	}
}

// spoilClock replaces the store's clock.
func spoilClock(clock func(start time.Time) time.Time) func(*broken) {
	return func(b *broken) {
		start := time.Now()
		b.load = func(ctx context.Context, o string) (failover.Record, time.Time, error) {
			r, _, err := b.Memory.Load(ctx, o)
			return r, clock(start), err
		}
	}
}

// spoilClaims changes the list that a claim returns.
func spoilClaims(change func([]string)) func(*broken) {
	return func(b *broken) {
		b.claim = func(ctx context.Context, o string, c failover.Claim) (failover.Holders, error) {
			holders, err := b.Memory.Claim(ctx, o, c)
			change(holders.Names)
			return holders, err
		}
	}
}

// spoilTTL changes how long claims last.
func spoilTTL(change func(time.Duration) time.Duration) func(*broken) {
	return func(b *broken) {
		b.claim = func(ctx context.Context, o string, c failover.Claim) (failover.Holders, error) {
			c.TTL = change(c.TTL)
			return b.Memory.Claim(ctx, o, c)
		}
	}
}

// brokenEnv is the environment variable with the name of the store that a child process tests.
const brokenEnv = "SHAREDTEST_BROKEN"

// For every rule there is a store that breaks it, and for which the rule fails. The suite runs in a
// process of its own for each.
func TestRunFindsBrokenStores(t *testing.T) {
	t.Parallel()
	names, missing := make(map[string]bool), sharedtest.RuleNames()
	for _, b := range brokenStores {
		if names[b.name] || !slices.Contains(sharedtest.RuleNames(), b.rule) {
			t.Errorf("%q is there twice, or there is no rule %q", b.name, b.rule)
		}
		names[b.name] = true
		missing = slices.DeleteFunc(missing, func(rule string) bool { return rule == b.rule })
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			rule := strings.ReplaceAll(b.rule, " ", "_")
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestBroken$/^"+regexp.QuoteMeta(rule)+"$", "-test.timeout", "5m")
			cmd.Env = append(os.Environ(), brokenEnv+"="+b.name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestBroken/"+rule) {
				t.Errorf("the rule %q does not find it:\n%s", b.rule, out)
			}
		})
	}
	if len(missing) > 0 {
		t.Errorf("no store breaks the rules %q", missing)
	}
}

// TestBroken is what the child processes of TestRunFindsBrokenStores run.
func TestBroken(t *testing.T) {
	t.Parallel()
	name, child := os.LookupEnv(brokenEnv)
	if !child {
		t.Skip("runs in a process of TestRunFindsBrokenStores")
	}
	sharedtest.SetPatience(time.Second)
	for _, s := range brokenStores {
		if s.name == name {
			b := &broken{Memory: new(sharedtest.Memory)}
			s.spoil(b)
			sharedtest.Run(t, func(*testing.T) failover.Shared { return b })
		}
	}
}
