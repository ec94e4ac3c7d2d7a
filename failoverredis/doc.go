// Package failoverredis stores in Redis what a fleet of processes shares about an
// organization, so that they switch together; see
// [github.com/d365failover/failover.Config.Shared]:
//
//	client := redis.NewClient(&redis.Options{Addr: "redis.contoso.com:6380", TLSConfig: &tls.Config{}})
//	defer client.Close()
//	shared := failoverredis.New(client, nil)
//	defer shared.Close()
//	transport, err := failover.New("https://contoso.api.crm.dynamics.com", &failover.Config{Shared: shared})
//
// It works with the clients of go-redis for a single server, Sentinel, and a cluster. With
// a [redis.Ring], notifications may get lost; Transports then follow when they next poll
// the record. The server must be Redis 5 or later, or compatible with its commands and Lua
// scripts, as managed Redis services are. The tests run against Redis 7.
//
// # What is stored
//
// Braces around the name of the organization keep all of its keys in one slot of a
// cluster. Every call is one script with one key, or with two for a claim.
//
//	failover:{contoso.api.crm.dynamics.com}:record        hash: the record
//	failover:{contoso.api.crm.dynamics.com}:claims:TOPIC  sorted set: when each claim on a topic expires
//	failover:{contoso.api.crm.dynamics.com}:places:TOPIC  sorted set: the order of the claims
//	failover:changes                                      channel: names of organizations
//
// A record is readable with redis-cli:
//
//	> HGETALL failover:{contoso.api.crm.dynamics.com}:record
//	generation  3
//	active      alternate
//	since       2025-03-30T02:59:59.123456789Z
//	earlier     2025-03-30T02:31:07Z 2025-03-30T02:48:12Z
//	reason      the primary does not serve, the alternate passes its probe
//	by          web-1/4711/K5RVQD
//	version     9
//	questions   2
//	recoveries  0
//	risen       1
//	frozen
//	id          M4HTZXNQ...
//
// The id identifies the swap that wrote the record: a client that has lost the reply runs
// the script again, and learns from the id that the first run succeeded.
//
// The record does not expire, because the endpoint of an organization does not change with
// time. To make a fleet forget it, delete the key. The keys of claims expire with their
// last claim. Redis does not evict records if its maxmemory-policy is noeviction or
// volatile-*. If a record is lost (evicted, not persisted across a restart, or not yet
// replicated when a replica took over), the Transports that were in step with it write it
// back when they next look.
//
// # Permissions
//
// A user needs these permissions:
//
//	ACL SETUSER failover on >... resetkeys ~failover:* resetchannels &failover:* -@all
//	  +evalsha +eval +hmget +hset +hstrlen +zadd +zcount +zrange +zrangebyscore +zrem +zrevrange +zscore
//	  +del +pexpire +time +publish +subscribe +ping +hello
//
// Without the permission to publish, nobody is notified of changes. All times are those of
// the server that has the key.
package failoverredis
