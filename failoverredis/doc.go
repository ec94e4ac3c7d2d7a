// Package failoverredis keeps in Redis what a fleet of processes knows of an
// organization, so that they fail over as one; see
// [github.com/d365failover/failover.Config.Shared]:
//
//	client := redis.NewClient(&redis.Options{Addr: "redis.contoso.com:6380", TLSConfig: &tls.Config{}})
//	defer client.Close()
//	shared := failoverredis.New(client, nil)
//	defer shared.Close()
//	transport, err := failover.New("https://contoso.api.crm.dynamics.com", &failover.Config{Shared: shared})
//
// It takes any client of go-redis: for one server, for Sentinel, for a cluster.
// With a [redis.Ring] the changes are not told, so that Transports follow when
// they next load the record. The server is Redis 5 or later, or one that has the
// same commands and Lua scripts, as the Redis services of clouds do; the tests
// run on Redis 7.
//
// # What is stored
//
// The name of an organization is in braces, so that all of its keys are in one
// slot of a cluster. Every call is one script with one key, or two for a claim.
//
//	failover:{contoso.api.crm.dynamics.com}:record        hash: the record
//	failover:{contoso.api.crm.dynamics.com}:claims:TOPIC  sorted set: until when who claims a topic
//	failover:{contoso.api.crm.dynamics.com}:places:TOPIC  sorted set: in which order
//	failover:changes                                      channel: names of organizations
//
// A record is made for people with redis-cli:
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
// The id tells the swap that wrote it from all others: a client that has lost
// the answer repeats the script, and has to learn that it succeeded before.
//
// The record does not expire: which endpoint an organization is at does not
// stop being true. To make a fleet forget it, delete the key. Keys of claims
// expire with their last claim. With a maxmemory-policy of noeviction or
// volatile-* Redis does not drop records. If one is lost all the same, to
// eviction, a restart without persistence, or a replica that took over and had
// not got it, the Transports that agreed with it write it anew when they next look.
//
// # Permissions
//
// A user with these rights will do:
//
//	ACL SETUSER failover on >... resetkeys ~failover:* resetchannels &failover:* -@all
//	  +evalsha +eval +hmget +hset +hstrlen +zadd +zcount +zrange +zrangebyscore +zrem +zrevrange +zscore
//	  +del +pexpire +time +publish +subscribe +ping +hello
//
// Without the right to publish, changes are not told. All times are those of
// the server that has the key.
package failoverredis
