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
// The store is advisory: no request waits for it unless [Config.Quorum] is set. Every call
// has a deadline, and while calls fail each Transport decides on its own. What is read
// from the store is acted on only as far as the endpoints confirm it.
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
	// given version, 0 if there is none, and reports whether it did.
	CompareAndSwap(ctx context.Context, organization string, version uint64, next Record) (bool, error)

	// Changes returns a channel that receives a value soon after anybody has
	// swapped the record. Values may be merged, missed or without cause: the
	// Transport loads the record from time to time all the same. The channel may
	// be nil, and is not used after ctx has ended, when the store lets go of
	// whatever serves it. It is not closed.
	Changes(ctx context.Context, organization string) <-chan struct{}

	// Claim enters a member among the holders of a topic if there is a place,
	// renews its claim, or withdraws it, and returns the holders as they are then.
	// What it costs does not depend on how many there are.
	Claim(ctx context.Context, organization string, c Claim) (Holders, error)
}

// Claim is a claim on a topic. See [Shared].
type Claim struct {
	// Topic and Member are up to 256 bytes of text.
	Topic, Member string
	// TTL is how long the claim lasts by the store's clock, [MaxClaim] at the most.
	// Zero or less withdraws it.
	TTL time.Duration
	// Places is how many holders a topic has room for: a claim that is new is not
	// entered while there are so many. A renewed one is. 0: any number.
	Places int
}

// MaxClaim is the longest that a claim lasts. A store drops one that is to last for
// longer by its clock, which it has from a clock that was ahead.
const MaxClaim = 5 * time.Minute

// MaxHolders is how many holders of a topic a store names.
const MaxHolders = 8

// Holders are those whose claims on a topic last.
type Holders struct {
	// Count of all.
	Count int
	// Names of the longest-standing ones, in that order, [MaxHolders] at the most,
	// each of up to 256 bytes. A renewed claim keeps its place, an expired one has
	// lost it.
	Names []string
}

// Record is what a fleet knows of an organization. A store keeps its times to the
// nanosecond and its texts as they are, which is UTF-8. They hold no credentials.
type Record struct {
	// Version is another with every swap, and what a swap goes by. 0: there is no
	// record.
	Version uint64

	// Active is the endpoint that the traffic went to with the last switch.
	Active Endpoint
	// Generation is one more with every switch of the fleet, and with nothing else:
	// a record that a store had lost is restored under the one it had. After the
	// greatest comes 1; of two generations the newer one is less than half of them
	// all ahead. It is counted apart from [Status.Generation]. 0: there was no switch.
	Generation uint64
	// Since is when the switch was made, and Earlier are the times of those
	// within an hour before it, oldest first, which dwell and latch go by. All
	// are by the store's clock.
	Since   time.Time
	Earlier []time.Time
	// Reason of the switch, and By whom: host name, process id and a random rest.
	Reason, By string

	// Questions is another whenever a member has asked the others to look at their
	// active endpoint for themselves, and Recoveries whenever one that was down has
	// found that it serves again.
	Questions, Recoveries uint64
	// Risen is how many probes of the primary have passed in a row since the switch,
	// whoever has made them.
	Risen uint64
	// Frozen says why no member is to move by itself, "" if nobody has said so. See
	// [Transport.Freeze].
	Frozen string
}

// FleetStatus is what a [Transport] knows of its fleet.
type FleetStatus struct {
	// Member is what this process is called in records and claims.
	Member string
	// Record is the one that was read last, and Loaded when that was.
	Record Record
	Loaded time.Time
	// Err is why the store counts as lost, nil if it does not: an error of it, which
	// goes away once the store has answered well for 15 seconds, or up to two minutes
	// if it has failed in between.
	Err error
	// Apart: the fleet's endpoint is not the one that is active here, because
	// it does not pass its probe, the Transport is pinned, ConfirmSwitch
	// objects, it has moved without the quorum that it takes, or the store cannot be told.
	Apart bool
	// Witnesses are members that have seen the endpoint Failed fail within
	// the last minute, this one included, the first [MaxHolders] of WitnessCount; none
	// if this one has not. A single one is alone with it: look at its network first.
	Failed       Endpoint
	Witnesses    []string
	WitnessCount int
}
