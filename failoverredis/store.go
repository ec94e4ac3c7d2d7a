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
	// Prefix is the prefix of all keys and of the channel. Give each fleet of an
	// organization its own. Empty: "failover:".
	Prefix string
}

// A Store is a [failover.Shared] in Redis, for any number of Transports and
// organizations. It is safe for concurrent use.
//
// A call returns when its context ends, whatever the client's options are. The client may
// then continue in the background until its own timeouts pass; set ContextTimeoutEnabled in
// its options to end that, too. At most 64 calls run at a time; further ones wait.
//
// Errors name the key, and quote neither records nor the client's credentials.
type Store struct {
	client redis.UniversalClient
	prefix string

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	slots  chan struct{}  // one for each call under way
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
	// maxText is the size of a member and of a topic in bytes.
	maxText = 256
)

// New returns a Store that uses the client. It copies cfg; nil means the defaults. The Store
// sends nothing before the first call, and has goroutines only while there are calls or
// watchers. The caller owns the client and closes it after the Store.
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

// Close ends all calls and the subscription, waits for every goroutine of the Store, which
// takes at most as long as the client's own timeouts, and always returns nil. Later calls
// return an error. Close does not close the client. Closing again does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	return nil
}

// start runs f in a goroutine of the Store and reports true, unless the Store is closed.
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

func (s *Store) claimsKeys(organization, topic string) (ends, places string) {
	fleet := s.prefix + "{" + organization + "}:"
	return fleet + "claims:" + topic, fleet + "places:" + topic
}

func (s *Store) channel() string { return s.prefix + "changes" }

// run runs a script and returns its reply. It returns when ctx ends, although the client
// may wait longer for the reply, in a goroutine of the Store.
func (s *Store) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (any, error) {
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
		reply, err = script.Run(ctx, s.client, keys, args...).Result()
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

// loadScript returns the time, the size of the record, and, unless that exceeds the limit
// ARGV[1], the fields that the other ARGV name.
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
	reply, err := s.run(ctx, loadScript, []string{key}, args...)
	if err != nil {
		return failover.Record{}, time.Time{}, fmt.Errorf("failoverredis: load %s: %w", key, err)
	}
	r, now, err := parseLoaded(reply)
	if err != nil {
		return failover.Record{}, time.Time{}, fmt.Errorf("failoverredis: load %s: %w", key, err)
	}
	return r, now, nil
}

// swapScript compares versions as texts, because Lua's numbers lose digits above 2^53. It
// overwrites every field instead of deleting the key first, because a server that is out of
// memory deletes but does not write. It ignores an error of PUBLISH, which a user may lack
// the permission for.
var swapScript = redis.NewScript(`
local present = redis.call('HMGET', KEYS[1], 'version', 'id')
if present[2] == ARGV[2] then return 1 end
if (present[1] or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'id', ARGV[2], unpack(ARGV, 5))
redis.pcall('PUBLISH', ARGV[3], ARGV[4])
return 1`)

// CompareAndSwap implements [failover.Shared].
func (s *Store) CompareAndSwap(ctx context.Context, organization string, version uint64, next failover.Record) (bool, error) {
	key := s.recordKey(organization)
	fields, err := formatRecord(next)
	if err != nil {
		return false, fmt.Errorf("failoverredis: swap %s: %w", key, err)
	}
	args := []any{strconv.FormatUint(version, 10), rand.Text(), s.channel(), organization}
	for i, name := range fieldNames {
		args = append(args, name, fields[i])
	}
	reply, err := s.run(ctx, swapScript, []string{key}, args...)
	if err != nil {
		return false, fmt.Errorf("failoverredis: swap %s: %w", key, err)
	}
	return reply == int64(1), nil
}

// claimScript keeps the claims on a topic in two sorted sets: by the time at which they
// expire, in microseconds, and by their order. It removes expired and invalid claims, a few
// at a time, and returns the number of claims and the names of the oldest. Its cost grows
// only with the logarithm of that number. Before version 5, Redis refuses to write after
// TIME.
var claimScript = redis.NewScript(`
local ends, places = KEYS[1], KEYS[2]
local member, ttl, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local longest, most, size, few = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), 50
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local function text(n) return string.format('%.0f', n) end
local function lasts(till)
	till = tonumber(till or 0)
	return till > now and till <= now + longest
end
local function remove(name)
	redis.call('ZREM', ends, name)
	redis.call('ZREM', places, name)
end
local function count() return redis.call('ZCOUNT', ends, '(' .. text(now), text(now + longest)) end

for _, name in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', text(now), 'LIMIT', 0, few)) do remove(name) end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', ends, '(' .. text(now + longest), '+inf', 'LIMIT', 0, few)) do remove(name) end
if ttl <= 0 then
	remove(member)
elseif lasts(redis.call('ZSCORE', ends, member)) then
	redis.call('ZADD', ends, text(now + ttl), member)
elseif room <= 0 or count() < room then
	local last = redis.call('ZREVRANGE', places, 0, 0, 'WITHSCORES')
	local place = now
	if last[1] and redis.call('ZSCORE', ends, last[1]) then place = math.max(place, tonumber(last[2]) + 1) end
	redis.call('ZADD', places, text(place), member)
	redis.call('ZADD', ends, text(now + ttl), member)
end

local names = {}
for _, name in ipairs(redis.call('ZRANGE', places, 0, most + few)) do
	local till = redis.call('ZSCORE', ends, name)
	if #name > size or not till then
		remove(name)
	elseif lasts(till) then
		names[#names + 1] = name
		if #names == most then break end
	end
end
local last = redis.call('ZREVRANGE', ends, 0, 0, 'WITHSCORES')
if last[2] then
	local left = text(math.max(1, math.ceil((tonumber(last[2]) - now) / 1000)))
	redis.call('PEXPIRE', ends, left)
	redis.call('PEXPIRE', places, left)
else
	redis.call('DEL', places)
end
return {count(), names}`)

// Claim implements [failover.Shared].
func (s *Store) Claim(ctx context.Context, organization string, c failover.Claim) (failover.Holders, error) {
	ends, places := s.claimsKeys(organization, c.Topic)
	if len(c.Topic) > maxText || len(c.Member) > maxText {
		return failover.Holders{}, fmt.Errorf("failoverredis: claim: a member of %d bytes, a topic of %d; the limit is %d", len(c.Member), len(c.Topic), maxText)
	}
	micros := max(min(c.TTL, failover.MaxClaim), 0).Microseconds()
	if c.TTL > 0 {
		micros = max(micros, 1)
	}
	reply, err := s.run(ctx, claimScript, []string{ends, places},
		c.Member, micros, c.Places, failover.MaxClaim.Microseconds(), failover.MaxHolders, maxText)
	if err != nil {
		return failover.Holders{}, fmt.Errorf("failoverredis: claim %s: %w", ends, err)
	}
	list, _ := reply.([]any)
	if len(list) != 2 {
		return failover.Holders{}, fmt.Errorf("failoverredis: claim %s: unexpected reply", ends)
	}
	count, _ := list[0].(int64)
	names, _ := list[1].([]any)
	holders := failover.Holders{Count: int(count), Names: make([]string, len(names))}
	for i, name := range names {
		holders.Names[i], _ = name.(string)
	}
	return holders, nil
}
