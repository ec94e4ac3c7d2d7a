package failoverredis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/d365failover/failover"
)

// Config adjusts a [Store]. The zero value of every field is its default.
type Config struct {
	// Prefix of all keys and of the channel. Fleets that are not to know of each
	// other have different ones. Empty: "failover:".
	Prefix string
}

// A Store is a [failover.Shared] in Redis, for any number of Transports and
// organizations. It is safe for concurrent use.
//
// A call returns when its context ends, whatever the client's options are. What
// the client has begun may then go on in the background for as long as the
// client's own timeouts allow; set ContextTimeoutEnabled in its options to have
// it end too. No more than 64 calls are under way at a time; more wait.
//
// Errors name the key, and quote neither records nor the client's credentials.
type Store struct {
	client redis.UniversalClient
	prefix string

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	slots  chan struct{}  // a place for every call under way
	wg     sync.WaitGroup // every goroutine; added to under mu unless closed

	mu       sync.Mutex // guards what follows; never held over I/O
	closed   bool
	watchers map[string]map[chan struct{}]bool // by organization
	unlisten context.CancelFunc                // ends the subscription, nil if there is none
}

var _ failover.Shared = (*Store)(nil)

// errClosed is what calls return after Close.
var errClosed = errors.New("failoverredis: store is closed")

const (
	maxCalls = 64
	// maxRecord is the size of a record in bytes. Real ones have a few hundred.
	maxRecord = 64 << 10
	// maxText is the size of a member and of a topic.
	maxText = 256
	// maxClaims is the number of claims on a topic.
	maxClaims = 10_000
)

// New returns a Store that uses the client. A nil cfg means the defaults; it is
// copied. Nothing is sent before the first call, and there is no goroutine
// without a call or a watcher. The client stays the caller's: close it after
// the Store.
func New(client redis.UniversalClient, cfg *Config) *Store {
	s := &Store{
		client: client, prefix: "failover:",
		slots: make(chan struct{}, maxCalls), watchers: make(map[string]map[chan struct{}]bool),
	}
	if cfg != nil && cfg.Prefix != "" {
		s.prefix = cfg.Prefix
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Close ends all calls and the subscription, waits for every goroutine of the
// Store, which takes no longer than the client's own timeouts, and always
// returns nil. Later calls return an error. It does not close the client.
// Closing again is harmless.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	return nil
}

// start runs f in a goroutine of the Store, unless that is closed.
func (s *Store) start(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Go(f)
	}
	return !s.closed
}

func (s *Store) recordKey(organization string) string {
	return s.prefix + "{" + organization + "}:record"
}

func (s *Store) claimsKey(organization, topic string) string {
	return s.prefix + "{" + organization + "}:claims:" + topic
}

func (s *Store) channel() string { return s.prefix + "changes" }

// run runs a script and returns its reply. It does not outlast ctx: the client
// may wait for an answer for longer, in a goroutine of its own.
func (s *Store) run(ctx context.Context, script *redis.Script, key string, args ...any) (any, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(errClosed) })()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var reply any
	var err error
	done := make(chan struct{})
	if !s.start(func() {
		defer func() { <-s.slots }()
		defer close(done)
		reply, err = script.Run(ctx, s.client, []string{key}, args...).Result()
	}) {
		<-s.slots
		return nil, errClosed
	}
	select {
	case <-done:
		return reply, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// loadScript returns the time, the size of the record, and its fields (ARGV
// from the second on) unless the size is above the limit.
var loadScript = redis.NewScript(`
local size, fields = 0, {}
for i = 2, #ARGV do size = size + redis.call('HSTRLEN', KEYS[1], ARGV[i]) end
if size <= tonumber(ARGV[1]) then fields = redis.call('HMGET', KEYS[1], unpack(ARGV, 2)) end
local now = redis.call('TIME')
return {now[1], now[2], size, fields}`)

// Load implements [failover.Shared].
func (s *Store) Load(ctx context.Context, organization string) (failover.Record, time.Time, error) {
	key := s.recordKey(organization)
	args := []any{maxRecord}
	for _, name := range fieldNames {
		args = append(args, name)
	}
	reply, err := s.run(ctx, loadScript, key, args...)
	if err != nil {
		return failover.Record{}, time.Time{}, fmt.Errorf("failoverredis: load %s: %w", key, err)
	}
	r, now, err := parseLoaded(reply)
	if err != nil {
		return failover.Record{}, time.Time{}, fmt.Errorf("failoverredis: load %s: %w", key, err)
	}
	return r, now, nil
}

// swapScript compares generations as texts: Lua's numbers lose digits from 2^53
// on. It overwrites every field, and deletes nothing before, because a server
// that is out of memory deletes but does not write. A user who may not publish
// may swap all the same.
var swapScript = redis.NewScript(`
local present = redis.call('HMGET', KEYS[1], 'generation', 'id')
if present[2] == ARGV[2] then return 1 end
if (present[1] or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'id', ARGV[2], unpack(ARGV, 5))
redis.pcall('PUBLISH', ARGV[3], ARGV[4])
return 1`)

// CompareAndSwap implements [failover.Shared].
func (s *Store) CompareAndSwap(ctx context.Context, organization string, generation uint64, next failover.Record) (bool, error) {
	key := s.recordKey(organization)
	fields, err := formatRecord(next)
	if err != nil {
		return false, fmt.Errorf("failoverredis: swap %s: %w", key, err)
	}
	args := []any{strconv.FormatUint(generation, 10), rand.Text(), s.channel(), organization}
	for i, name := range fieldNames {
		args = append(args, name, fields[i])
	}
	reply, err := s.run(ctx, swapScript, key, args...)
	if err != nil {
		return false, fmt.Errorf("failoverredis: swap %s: %w", key, err)
	}
	return reply == int64(1), nil
}

// claimScript keeps the claims on a topic as fields of a hash, whose values are
// a number that grows with every new claim and the time in microseconds at which
// the claim ends. Claims that have ended, and what is no claim, are removed. It
// returns the members in their order, or the number of claims if those are too
// many. Before version 5, Redis refuses to write after TIME.
var claimScript = redis.NewScript(`
local count = redis.call('HLEN', KEYS[1])
if count > tonumber(ARGV[3]) then return count end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local ttl = tonumber(ARGV[2])

local claims, places, last = {}, {}, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
	local place, till = string.match(all[i + 1], '^(%d+) (%d+)$')
	if place and tonumber(till) > now and not (all[i] == ARGV[1] and ttl <= 0) then
		claims[#claims + 1] = {all[i], tonumber(place), tonumber(till)}
		places[all[i]] = #claims
		last = math.max(last, tonumber(place))
	else
		redis.call('HDEL', KEYS[1], all[i])
	end
end
if ttl > 0 then
	local mine = claims[places[ARGV[1]]] or {ARGV[1], last + 1}
	if not mine[3] then claims[#claims + 1] = mine end
	mine[3] = now + ttl
	redis.call('HSET', KEYS[1], mine[1], string.format('%.0f %.0f', mine[2], mine[3]))
end

table.sort(claims, function(a, b) return a[2] < b[2] end)
local members, till = {}, now
for i, claim in ipairs(claims) do
	members[i] = claim[1]
	till = math.max(till, claim[3])
end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil((till - now) / 1000)))
return members`)

// Claim implements [failover.Shared]. A topic has up to 10,000 claims.
func (s *Store) Claim(ctx context.Context, organization, topic, member string, ttl time.Duration) ([]string, error) {
	key := s.claimsKey(organization, topic)
	if len(topic) > maxText || len(member) > maxText {
		return nil, fmt.Errorf("failoverredis: claim of %d bytes on a topic of %d: more than %d", len(member), len(topic), maxText)
	}
	micros := max(ttl, 0).Microseconds()
	if ttl > 0 {
		micros = max(micros, 1)
	}
	reply, err := s.run(ctx, claimScript, key, member, micros, maxClaims)
	if err != nil {
		return nil, fmt.Errorf("failoverredis: claim %s: %w", key, err)
	}
	list, ok := reply.([]any)
	if !ok {
		return nil, fmt.Errorf("failoverredis: claim %s: it has more than %d claims", key, maxClaims)
	}
	members := make([]string, len(list))
	for i, m := range list {
		members[i], _ = m.(string)
	}
	return members, nil
}
