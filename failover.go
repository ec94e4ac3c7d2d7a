// Package failover carries Go services through failovers of Microsoft Dynamics 365
// organizations: Dataverse, Finance and Operations, and on premises.
//
// Most failovers keep the organization's address: Microsoft, or an administrator through
// self-service disaster recovery, moves what is behind it, while open connections keep
// leading to the old place. The older kind of failover moves the organization to a second
// address, with "--s" added to the organization's name:
//
//	https://contoso.api.crm.dynamics.com
//	https://contoso--s.api.crm.dynamics.com
//
// Nothing announces either kind; callers simply start to see faults. A [Transport] is an
// [http.RoundTripper] that recognizes those faults (OData, SOAP, Finance and Operations, the
// error pages of front ends in between). When they add up to an outage, it probes the
// organization over new connections, sends the traffic to the endpoint that serves it, and
// returns to the primary once that serves again. [Wrap] puts one around an existing client:
//
//	client, transport, err := failover.Wrap(http.DefaultClient, "https://contoso.api.crm.dynamics.com", nil)
//	if err != nil {
//		return err
//	}
//	defer transport.Close()
//	resp, err := client.Get("https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts")
//
// Two promises rank above all others. A program is never worse off with a Transport than
// without one: what the package does not understand passes through unchanged. And no write
// is sent twice without proof that the first attempt was not carried out, unless repeating
// it is harmless.
//
// # Glossary
//
//   - Endpoint: one of the addresses of an organization, the [Primary] or the [Alternate]. All
//     traffic goes to the active one, because the copies would diverge if both were written.
//   - Switch: making the other endpoint active. A switch to the alternate is a failover, one
//     to the primary a fail-back. The generation counts switches.
//   - Fault: what an attempt got instead of a healthy answer ([Fault]). Faults of
//     [ClassTransient] and [ClassUnavailable] count towards the endpoint's circuit breaker.
//   - Fence: a fault by which an endpoint itself says that it does not serve the organization,
//     such as code 0x8004B065. One is enough to trip the circuit breaker.
//   - Probe: a request of the package's own that finds out whether an endpoint serves.
//   - Down: no endpoint passes its probe.
//   - Renewal: requests go over new connections only, because the organization may have been
//     moved behind its address.
//   - Provisional: a switch on weak evidence, undone unless the new endpoint serves requests.
//   - Latched: switched too often, so further switches wait for a person ([Status.Latched]).
//   - In doubt: a write that was sent and may or may not have been carried out
//     ([ErrOutcomeUnknown], [InDoubt]).
//   - At risk: a write that was acknowledged shortly before an outage, so that the copy that
//     serves now may lack it. The ledger keeps recent writes; a [LossReport] lists these.
//   - Fleet: the processes that share one store ([Shared]) and switch together. A witness is
//     one that has seen the active endpoint fail; a quorum is how many it takes to switch.
package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/d365failover/failover/internal/rule"
)

// Config adjusts a [Transport]. The zero value of every field is its default; a
// negative number turns the feature off. [New] copies the Config, which may be reused
// and changed afterwards.
//
// Its functions are called concurrently unless the field says otherwise. A panic in one
// counts as its failure and is logged; requests continue.
type Config struct {
	// Base sends the requests, and probes are derived from it. It should be an
	// *http.Transport, and must neither repeat requests by itself nor set their GetBody,
	// with which net/http does. A renewal replaces an *http.Transport by a new clone of it;
	// of any other Base it can only close the idle connections: see Instrument.
	//
	// Nil: a clone of the transport of the client given to Wrap, or else of
	// [http.DefaultTransport], with HTTP/2 health checks (pings) enabled; requests to
	// other hosts go over that transport itself. If it is not an *http.Transport, it is used
	// as it is. [Transport.Close] closes the idle connections of
	// clones, and leaves a Base that you have set alone.
	Base http.RoundTripper

	// ProbeBase sends the probes. It should open a new connection for each. Nil: a clone of
	// Base that does so, outside the connection limits of Base. If Base is not an
	// *http.Transport, Base itself sends them and is asked to close the connection after
	// each; a probe that got an old connection is repeated up to seven times.
	ProbeBase http.RoundTripper

	// Instrument wraps the *http.Transport that sends the requests, for tracing or signing,
	// and may return it as it is. Unlike a Base that is wrapped already, it lets the
	// Transport renew its connections. (When a connection breaks before a write is sent, an
	// unread body proves that behind any wrapper; a write without a body, or whose body the
	// wrapper reads first, may then be in doubt.) New calls Instrument, and so does each
	// renewal. Probes do not go through the wrapper. Nil, or if Base is not an
	// *http.Transport: nothing is wrapped.
	Instrument func(http.RoundTripper) http.RoundTripper

	// Alternate is the URL of the alternate endpoint. Empty: derived from the
	// organization's URL if that names a Dataverse organization. Any other organization
	// (Finance and Operations, on premises) then has one address and never switches; all else
	// works as with two. [NoAlternate]: the organization has one address, whatever its host.
	Alternate string

	// AllowHTTP permits http URLs for hosts other than loopback ones.
	AllowHTTP bool

	// Authorize, if set, authorizes every attempt and every probe. It gets a copy of the
	// request with its final host, may change the headers, and may block until the request's
	// context ends. It should use a token for the request's host. An error ends the call
	// before anything is sent. Nil: requests keep the credentials that they come with, and
	// probes borrow the Authorization header of a recent request to the organization.
	Authorize func(*http.Request) error

	// OrganizationID is the id that an endpoint must return to pass [ProbeWebAPI]. It keeps
	// traffic away from a host that answers for another organization. Empty: the id that
	// the primary last returned.
	OrganizationID string

	// Classify classifies the attempts in place of the package's [Classify], which it may call.
	// It must leave the response's body readable from the start. The package's own probes,
	// [DiscoverPolicy] and [LossReport.Verify] always use [Classify]. Nil: [Classify].
	Classify func(*http.Response, error) *Fault

	// FailureThreshold is how many faults that count, in a row, trip the circuit breaker of
	// an endpoint, after which both endpoints are probed. A fence trips it at once. A fault
	// that a passed probe has shown to concern one kind of request does not count for
	// 10 minutes. Zero: 3. Negative: only fences trip it.
	FailureThreshold int

	// MaxAttempts is how many attempts one call may make. It must exceed FailureThreshold
	// for the very first caller of an outage to be answered by the other endpoint. Zero: 4.
	// Negative: 1, nothing is ever sent again.
	MaxAttempts int

	// RetryBackoff is the first pause before a request is sent again to the same endpoint;
	// later ones grow by half, and all are jittered by half. A request answered with a
	// Retry-After is not repeated at the same endpoint before its time. Retries against
	// the same endpoint are limited to 10% of requests, with a burst of ten; sending a
	// request again after a switch is not limited. Zero: 100 ms. Negative: no pause.
	RetryBackoff time.Duration

	// AttemptTimeout is a hard limit on the wait for the response headers of one attempt,
	// which includes the time that a streamed body takes. It cuts off calls that would have
	// succeeded, and a write among them is then in doubt.
	// It is not needed to leave an endpoint that has gone silent: see SuspectAfter. Zero or
	// negative: no limit.
	AttemptTimeout time.Duration

	// SuspectAfter is how long an attempt waits for its response headers before the
	// Transport probes the endpoints, and again at growing intervals while attempts wait.
	// This cuts off no call. If the endpoint fails its probe and the other one passes, the
	// traffic switches: reads that wait are sent to the other endpoint; writes keep waiting,
	// and are listed in the loss report. A read that was sent within a fifth of
	// SuspectAfter after the last answer is not resent, and waits as it would without a
	// Transport. If the endpoint passes, connections are renewed; a read without a body that
	// has waited 15 times SuspectAfter is also sent over a new connection, and the first
	// answer wins. Zero: 10 s. Negative: a wait causes no probe.
	SuspectAfter time.Duration

	// RetryThrottled is the longest Retry-After of a throttled request (429) that a call
	// waits for; it never waits for 5 minutes or more. Zero or negative: none, the caller
	// gets the 429.
	RetryThrottled time.Duration

	// Replay reports whether a request is safe to repeat although the outcome of an attempt
	// is unknown, for requests that the Transport would not repeat by itself (see
	// [Transport.RoundTrip]). It must not change the request or read its body. Nil: none is.
	// See [WithReplay] for a single call.
	Replay func(*http.Request) bool

	// MaxBody is how many bytes of a request body are buffered in memory so that the request
	// can be sent again and links in it can be mapped. A longer body is streamed, as is one
	// with trailers, one that has not ended after a minute, or one of which nothing new has
	// come for two seconds: its writer may be waiting for the response. A streamed body can
	// be sent again only through GetBody. A buffered body may be retained until the response
	// has been read. Zero: 1 MiB. Negative: none is buffered.
	MaxBody int64

	// Probe decides whether an endpoint serves the organization. Nil: [ProbeWebAPI], or
	// [ProbePath]("/data") for Finance and Operations. On premises, ProbeWebAPI's path is
	// below the organization's, which the URL given to New names:
	// /Contoso/api/data/v9.1/WhoAmI.
	Probe Probe

	// ProbeInterval is the time between two probes of the primary while the alternate is
	// active. It grows by half after each failed probe and is jittered by 20%. Zero: 10 s.
	// Negative: the primary is not probed, and the traffic returns by [Transport.Switch], or
	// if the alternate fails (see ManualFailback).
	ProbeInterval time.Duration

	// MaxProbeInterval is what ProbeInterval grows to; a fleet probes once in one and a half
	// ProbeIntervals regardless. Zero: 60 s, or ProbeInterval if that is longer. Negative:
	// it does not grow.
	MaxProbeInterval time.Duration

	// ProbeTimeout bounds one probe. Zero: 5 s. Negative: only Close ends a probe.
	ProbeTimeout time.Duration

	// Rise is how many probes of the primary in a row must pass before a fail-back. Zero: 3.
	// Negative: 1.
	Rise int

	// MinDwell is the shortest time at the alternate before a fail-back. It doubles with every
	// further switch within an hour, up to an hour. It ends early if the alternate fails.
	// Zero: 5 min. Negative: none.
	MinDwell time.Duration

	// ManualFailback leaves the fail-back to people: [Transport.Switch]. The primary is still
	// probed. If the alternate fails (with a fence, or its breaker trips and it fails its
	// probe) and the primary passes, the traffic still returns.
	ManualFailback bool

	// ConfirmSwitch, if set, is called before every automatic switch, with the evidence and
	// the writes at risk, except when a provisional switch is undone. An error refuses the
	// switch; further faults lead to another call. Callers that wait for the switch wait for
	// ConfirmSwitch; after 30 s without an answer the switch is refused. It must return once
	// its context ends: Close waits for it. Nil: switches need no confirmation.
	ConfirmSwitch func(context.Context, Switch) error

	// FailFast makes requests fail at once with [ErrUnavailable] while the Transport is down,
	// for programs that would rather queue. False: each is still sent once, to the active
	// endpoint, because some may be served. The first that is ends the outage.
	FailFast bool

	// WaitForUp makes requests that arrive while the Transport is down wait for the end of
	// the outage or of their contexts: for batch jobs. So does a request that was under way
	// when the outage began, if it may be sent again and attempts are left. WaitForUp takes
	// precedence over FailFast.
	WaitForUp bool

	// RPO is the recovery point objective: how far the copy that takes over may lag behind.
	// Writes that an endpoint acknowledged within RPO before its last success are at risk:
	// see [LossReport]. The emergency response of self-service disaster recovery can lose up
	// to 15 minutes; rather than set a longer RPO, call [Transport.WritesSince] with the time
	// of the last sync. Zero: 5 s. Negative: none. Source:
	// https://learn.microsoft.com/power-platform/admin/business-continuity-disaster-recovery
	RPO time.Duration

	// LedgerSize is how many of the latest writes are kept in memory for loss reports, at
	// about 350 bytes each, allocated as writes are made. Zero: 4096. Negative: none, and
	// loss reports are empty.
	LedgerSize int

	// Shared is the store of a fleet. When one process switches, the others follow within a
	// second, each after a passed probe of its own. One at a time probes for the fail-back,
	// or while all are down. Rise, MinDwell and the latch count for the fleet as a whole.
	// New waits up to two seconds (for the store, a probe, and ConfirmSwitch) to start at
	// the fleet's endpoint. No request waits for Shared, except for the quorum of a switch,
	// and while the store fails, the Transport decides on its own. Close does not close
	// Shared. Nil: there is no fleet.
	Shared Shared

	// Quorum is how many processes of the fleet must have seen the active endpoint fail,
	// within a minute, before the first of them switches to the alternate. The others are
	// asked to probe the endpoint. A fence and a switch by hand need no quorum. A process
	// that cannot reach Shared switches on its own, but the fleet does not follow before
	// there is a quorum; if the fleet's endpoint serves the process again, it returns.
	// Zero: 1. Negative: 1.
	Quorum int

	// OnFault, if set, is called for every failed attempt, on the caller's goroutine and with
	// the caller's context, once it is decided whether another attempt follows and before
	// that is made. It is called concurrently, and the call waits for it. It is not called
	// for a response body that breaks off after the response was returned.
	OnFault func(context.Context, Attempt)

	// OnEvent, if set, is called for every event, in order, one at a time, off the request path.
	// It may call the Transport, except for Close, which waits for it. While it blocks, at least
	// 1,024 events are queued. When there are more, the oldest event of the most frequent kind
	// is dropped, which the log and [Status.EventsDropped] report. With Shared, the first event
	// may come before New has returned.
	OnEvent func(Event)

	// OnWrite, if set, is called for every write once it has ended, for a program that keeps
	// a longer journal than the ledger: writes that were acknowledged, in whole or in part,
	// and those in doubt. It is called in order, one at a time, off the request path. It may
	// call the Transport, except for Close, which waits for it. While it blocks, at least 4,096
	// writes are queued; further ones are dropped, which the log and [Status.WritesDropped]
	// report. Writes that end after Close are not reported.
	OnWrite func(Write)

	// Runbook is the address of the runbook to which [Transport.StatusHandler] and
	// [Transport.ControlHandler] link: an absolute http or https URL, without a fragment, of
	// a copy of docs/operations.md. Empty: that file in the repository of this module.
	Runbook string

	// Logger gets one line for every change of state, and one for each write that a loss
	// report lists, up to a hundred for a report. Nil: [slog.Default].
	Logger *slog.Logger
}

// A Transport is an [http.RoundTripper] that sends the requests of one organization to
// whichever of its endpoints serves it. Requests to other hosts pass through Base
// unchanged. It is safe for concurrent use.
//
// While the organization is healthy and no request waits for an answer, a Transport has
// neither goroutine nor timer, unless it is part of a fleet ([Config.Shared]).
type Transport struct {
	org  Org
	cfg  Config
	base http.RoundTripper // from which pools are made
	// owned: base is a clone of cfg.Base that belongs to the Transport. Requests to other
	// hosts go over cfg.Base itself: a clone lacks the protocols that a program has
	// registered.
	owned bool
	// What is known about the connections of Base, and about the protocol of each endpoint.
	connections connections
	protocols   [2]protocol
	// started is when New was called. Times of successes are durations since then.
	started time.Time

	state       atomic.Pointer[state] // stored under mu, loaded by every attempt
	endpoints   [2]endpoint
	budget      budget
	credentials credentials // for probes
	books       books
	events      *queue[Event] // guarded by mu, nil before the first one
	writes      *queue[Write] // nil without Config.OnWrite
	fleet       *fleet        // nil without Config.Shared

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the Transport

	mu       sync.Mutex // guards what follows; never held over I/O or callbacks
	rule     rule.Rule
	question *question                   // the last one, or nil
	found    *findings                   // of the question, while the rule keeps them
	growth   *backoff.ExponentialBackOff // of the time that questions are held, see holdLocked
	left     *pool                       // that unlock retires, or nil
	outage   *outage                     // nil unless down
	downs    []time.Time                 // when the last outages began
	timeDown time.Duration               // of outages that are over
	// organizationID that probes must find: Config.OrganizationID, or the one that the
	// primary named last.
	organizationID    string
	watching          bool          // the watch goroutine runs
	leftProvisionally *pool         // its reads are abandoned once a provisional switch is confirmed, or nil
	lastRefusal       string        // the last reported reason against a switch of the watch
	demanded          bool          // the endpoints should be probed now
	wake              chan struct{} // capacity 1: wakes the watch goroutine; nil before the first one
	recent            []Event       // the last events, except probes
	verifying         *verifying    // the Verify of a ControlHandler under way, or nil
}

var _ http.RoundTripper = (*Transport)(nil)

// New returns a Transport for the organization at orgURL, the URL of either endpoint. Its
// path is ignored, except for the organization's name on premises. A nil cfg means
// defaults. The error names everything that is wrong at once, and quotes no credentials.
//
// Without a fleet the Transport starts at the primary; if the organization has failed over
// already, the first requests find out. Call [Transport.Close] when done with it.
func New(orgURL string, cfg *Config) (*Transport, error) {
	return newTransport(orgURL, cfg, nil)
}

// newTransport is New, with what a client sends its requests over, or nil.
func newTransport(orgURL string, cfg *Config, current http.RoundTripper) (*Transport, error) {
	var c Config
	if cfg != nil {
		c = *cfg
	}
	org, orgErr := newOrg(orgURL, c.Alternate, c.AllowHTTP)
	if err := errors.Join(orgErr, c.complete(&org)); err != nil {
		return nil, err
	}
	t := &Transport{org: org, cfg: c, base: c.Base, started: time.Now(), organizationID: c.OrganizationID}
	if t.base == nil {
		t.cfg.Base = cmp.Or(current, http.DefaultTransport)
		t.base, t.owned = defaultBase(t.cfg.Base)
	}
	t.knowBase()
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.budget.fill()
	if c.OnWrite != nil {
		t.writes = &queue[Write]{field: "Write", limit: maxWrites, handle: func(w Write) { t.protect("OnWrite", func() { t.cfg.OnWrite(w) }) }}
	}
	t.books.open(&t.cfg, &t.org, t.started)
	for i := range t.endpoints {
		t.endpoints[i].breaker = newBreaker(c.FailureThreshold, c.Rise, c.ProbeInterval)
	}
	t.rule = newRule(&t.cfg, &t.org, t.started)
	t.state.Store(&state{since: t.started, changed: make(chan struct{}), pool: t.firstPool()})
	if c.Shared != nil {
		t.join()
	}
	return t, nil
}

// Wrap returns a copy of client whose requests go through a new Transport, and that
// Transport, which the caller must close. [Config.Base] defaults to the client's own
// transport. A nil client means [http.DefaultClient]. The client itself is not changed.
func Wrap(client *http.Client, orgURL string, cfg *Config) (*http.Client, *Transport, error) {
	if client == nil {
		client = http.DefaultClient
	}
	var c Config
	if cfg != nil {
		c = *cfg
	}
	t, err := newTransport(orgURL, &c, client.Transport)
	if err != nil {
		return nil, nil, err
	}
	wrapped := *client
	wrapped.Transport = t
	return &wrapped, t, nil
}

// complete fills in the defaults and reports every field that makes no sense.
func (c *Config) complete(org *Org) error {
	if c.MaxProbeInterval == 0 {
		c.MaxProbeInterval = max(time.Minute, c.ProbeInterval)
	}
	setDefault(&c.FailureThreshold, 3, math.MaxInt32)
	setDefault(&c.MaxAttempts, 4, 1)
	setDefault(&c.RetryBackoff, 100*time.Millisecond, 0)
	setDefault(&c.MaxBody, 1<<20, 0)
	setDefault(&c.SuspectAfter, 10*time.Second, never)
	setDefault(&c.ProbeInterval, 10*time.Second, never)
	setDefault(&c.MaxProbeInterval, time.Minute, c.ProbeInterval)
	setDefault(&c.ProbeTimeout, 5*time.Second, never)
	setDefault(&c.Rise, 3, 1)
	setDefault(&c.MinDwell, 5*time.Minute, 0)
	setDefault(&c.Quorum, 1, 1)
	setDefault(&c.RPO, 5*time.Second, 0)
	setDefault(&c.LedgerSize, 4096, 0)
	c.MaxBody = min(c.MaxBody, math.MaxInt64-1) // one more is read to see the end
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = slog.New(protectedHandler{c.Logger.Handler()})
	if c.Probe == nil {
		c.Probe = defaultProbe(org)
	}
	var wrong []error
	if u, err := url.Parse(c.Runbook); c.Runbook != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
		wrong = append(wrong, errors.New("failover: Runbook is not an absolute http or https URL")) // which may hold a secret
	}
	if c.MaxProbeInterval < c.ProbeInterval && c.ProbeInterval != never {
		wrong = append(wrong, fmt.Errorf("failover: MaxProbeInterval %v is shorter than ProbeInterval %v", c.MaxProbeInterval, c.ProbeInterval))
	}
	return errors.Join(wrong...)
}

// never is a time that does not come in the life of a program.
const never = time.Duration(math.MaxInt64)

// setDefault applies the one rule of Config: zero is the default, negative off.
func setDefault[T int | int64 | time.Duration](field *T, standard, off T) {
	switch {
	case *field == 0:
		*field = standard
	case *field < 0:
		*field = off
	}
}

// Close stops all probing, waits until every goroutine of the Transport, OnEvent and
// OnWrite have returned, and always returns nil. A fleet's store that hangs delays it by up
// to a second. Close does not wait for round trips under way: each finishes its current
// attempt. Later round trips return [ErrClosed]. Close does not close a Base that was set in
// Config. Closing again does nothing.
func (t *Transport) Close() error {
	t.mu.Lock()
	first := !t.rule.Closed
	if first {
		t.rule.Close()
		if t.outage != nil {
			t.endOutageLocked(time.Now())
		}
		t.publishLocked(nil)
		t.cancel()
	}
	t.mu.Unlock()
	t.writes.close()
	t.wg.Wait()
	t.giveUpTurn()
	if first { // a pool is retired once
		t.closeConnections()
	}
	return nil
}
