package failover

import (
	"context"
	"time"
)

// Shared is where the Transports of many processes, a fleet, keep what they know
// of an organization, so that they move as one; see [Config.Shared]. The package
// failoverredis has one for Redis, and the package sharedtest the tests that
// every implementation has to pass.
//
// A store is advice. No request waits for it, but for a quorum; every call has a deadline, and
// while calls fail each Transport goes its own way, as without it. What is read
// from it is believed only as far as the endpoints bear it out.
//
// The methods are called concurrently. Organization is the primary's host, in
// lower case and in one of its forms, with the port if it is not the scheme's
// own: "contoso.api.crm.dynamics.com".
type Shared interface {
	// Load returns the record of an organization, the zero Record if there is
	// none, and the time by the store's clock, which is what the times of a
	// record are measured by.
	Load(ctx context.Context, organization string) (Record, time.Time, error)

	// CompareAndSwap puts next in the place of the record if that is of the
	// given generation, 0 if there is none, and reports whether it did.
	CompareAndSwap(ctx context.Context, organization string, generation uint64, next Record) (bool, error)

	// Changes returns a channel that receives a value soon after anybody has
	// swapped the record. Values may be merged, missed or without cause: the
	// Transport loads the record from time to time all the same. The channel may
	// be nil, and is not used after ctx has ended, when the store lets go of
	// whatever serves it. It is not closed.
	Changes(ctx context.Context, organization string) <-chan struct{}

	// Claim enters a member among those who claim a topic, or renews its claim,
	// for ttl by the store's clock, and returns all whose claims last, the
	// longest-standing first. A renewed claim keeps its place, an expired one
	// has lost it. A ttl of zero or less withdraws the claim. Member and topic
	// are up to 256 bytes of text.
	Claim(ctx context.Context, organization, topic, member string, ttl time.Duration) ([]string, error)
}

// Record is what a fleet knows of an organization. A store keeps its times to the
// nanosecond and its texts as they are, which is UTF-8. They hold no credentials.
type Record struct {
	// Active is the endpoint that the traffic went to with the last switch.
	Active Endpoint
	// Generation is one more with every switch of the fleet. It is counted
	// apart from [Status.Generation]. 0: there is no record.
	Generation uint64
	// Since is when the switch was made, and Earlier are the times of those
	// within an hour before it, oldest first, which dwell and latch go by. All
	// are by the store's clock.
	Since   time.Time
	Earlier []time.Time
	// Reason of the switch, and By whom: host name, process id and a random rest.
	Reason, By string
}

// FleetStatus is what a [Transport] knows of its fleet.
type FleetStatus struct {
	// Member is what this process is called in records and claims.
	Member string
	// Record is the one that was read last, and Loaded when that was.
	Record Record
	Loaded time.Time
	// Err of the last use of the store, nil if it succeeded.
	Err error
	// Apart: the fleet's endpoint is not the one that is active here, because
	// it does not pass its probe, the Transport is pinned, ConfirmSwitch
	// objects, or the store cannot be told.
	Apart bool
	// Witnesses are the members that have seen the endpoint Failed fail within
	// the last minute, this one included; none if this one has not. A single
	// one is alone with it: look at its network first.
	Failed    Endpoint
	Witnesses []string
}
