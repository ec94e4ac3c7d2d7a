// Package failover keeps a Go service talking to a Dynamics 365 organization
// while Microsoft fails that organization over to its disaster-recovery
// datacenter, and brings the traffic home afterwards.
//
// Microsoft gives an organization two addresses: its own, and an alternate one
// with "--s" added to the organization's name:
//
//	https://contoso.api.crm.dynamics.com
//	https://contoso--s.api.crm.dynamics.com
//
// Nobody is told when the organization moves from one to the other; callers
// just begin to see faults. A [Transport] is an [http.RoundTripper] that reads
// those faults (OData, SOAP, Finance and Operations, the pages of the front
// ends in between), asks both endpoints when they add up to an outage, sends
// the traffic to the endpoint that serves, and returns to the primary once that
// serves again. Wrap puts one around an existing client:
//
//	client, transport, err := failover.Wrap(http.DefaultClient, "https://contoso.api.crm.dynamics.com", nil)
//	if err != nil {
//		return err
//	}
//	defer transport.Close()
//	resp, err := client.Get("https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts")
//
// Two promises rank above all else. A program is never worse off with a
// Transport than without it: what the library does not understand goes through
// as it is. And a write is never sent twice without proof that the first one
// was not carried out; when the outcome of a write cannot be known, the error
// says so ([ErrOutcomeUnknown]).
//
// All traffic of an organization goes to one endpoint at a time. The alternate
// is a copy that lags a few seconds behind; to write to both would split it.
package failover

import (
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

// Config adjusts a [Transport]. The zero value of every field is its default;
// a negative number switches the thing off. New copies the Config; it may be
// reused and changed afterwards.
type Config struct {
	// Base sends the attempts, and is what probes are derived from. It should be an
	// *http.Transport, and should not repeat requests by itself. Once an endpoint was
	// judged (it is moved to or returned to, or passes its probe after requests to it
	// have failed), requests go over new connections only, because a failover may
	// have moved what is behind the address: of an *http.Transport, the Transport uses
	// a clone of its own from then on. Of any other Base it can only close the idle
	// connections (see Instrument). Nil: a clone of what the client given to Wrap, or
	// [http.DefaultTransport], is now, which checks its HTTP/2 connections with pings;
	// if that is no *http.Transport, it is used as it is. [Transport.Close] closes the
	// idle connections of clones.
	Base http.RoundTripper

	// ProbeBase sends the probes. It should make a new connection for each. Nil: Base,
	// or a clone of it that does so, outside the limits of the traffic's pool; a Base
	// that is no *http.Transport is asked to close the connection after each probe,
	// and a probe that got an old one is repeated, a few times.
	ProbeBase http.RoundTripper

	// Instrument wraps the *http.Transport that requests are sent over, for tracing or
	// signing: a wrapper that is made so does not keep the Transport from renewing its
	// connections. It is called by New and for each renewal, one call at a time or
	// several, and is not used for probes. Nil, or where Base is no *http.Transport:
	// nothing is wrapped.
	Instrument func(http.RoundTripper) http.RoundTripper

	// Alternate is the URL of the alternate endpoint. Empty: derived from the
	// organization's URL, if that is the host of a Dataverse organization;
	// any other organization (Finance and Operations, on premises) then has one
	// address, and the Transport never switches. [NoAlternate]: it has one
	// address, whatever its host.
	Alternate string

	// AllowHTTP permits http URLs for hosts other than loopback ones.
	AllowHTTP bool

	// Authorize, if set, authorizes every attempt and every probe. It gets a
	// copy of the request whose host is final and whose headers may be changed;
	// it may take its time within the request's context and is called
	// concurrently. An error ends the call without anything being sent.
	// Nil: requests keep the credentials they come with, and probes borrow the
	// Authorization header of a recent request.
	Authorize func(*http.Request) error

	// OrganizationID is the id that [ProbeWebAPI] must find at an endpoint
	// before that passes. It keeps traffic from a host that answers for another
	// organization. Empty: the id that the primary named first.
	OrganizationID string

	// Classify judges the attempts in place of the package's [Classify], which it
	// may call. It must leave the response's body readable from the start, and
	// is called concurrently. The probes of this package, [DiscoverPolicy] and
	// [LossReport.Verify] go by [Classify] all the same.
	Classify func(*http.Response, error) *Fault

	// FailureThreshold is how many counted faults in a row make the circuit
	// breaker of an endpoint trip. A definitive fault trips it at once, and so
	// does one that asks to be left alone (Retry-After). Zero: 3. Negative: only
	// these two do.
	FailureThreshold int

	// MaxAttempts bounds the attempts of one call, the first included. For the
	// very first caller of an outage to be answered by the other endpoint it has
	// to be more than FailureThreshold. Zero: 4. Negative: 1, nothing is ever sent again.
	MaxAttempts int

	// RetryBackoff is the first pause before a request is repeated at the same
	// endpoint; later ones grow, all are jittered. Such repeats are bounded to
	// one for ten requests, ten at once; the replay after a switch is not. Zero: 100 ms. Negative: none.
	RetryBackoff time.Duration

	// AttemptTimeout is a hard limit on the wait for the response headers of one
	// attempt. A call that takes longer is cut off, and a write among them is in doubt.
	// To get out of a black hole it takes no limit, see SuspectAfter. Zero or negative: none.
	AttemptTimeout time.Duration

	// SuspectAfter is how long an attempt waits for its response headers before the
	// Transport asks the endpoint whether it still serves: over a new connection, and
	// at growing intervals while attempts wait. No call is cut off by that. If the
	// endpoint fails its probe and the other passes, the traffic moves; reads that wait
	// are then answered by the other endpoint, writes go on waiting, and are listed in
	// the loss report. Reads that were sent within a second or two of the last answer
	// wait on as well, as without a Transport. If the endpoint passes its probe, a read
	// without a body that has waited for 15 times as long over its old connection is made
	// over a new one as well, and the first answer wins. Zero: 10 s. Negative: nobody asks.
	SuspectAfter time.Duration

	// RetryThrottled is the longest Retry-After of a throttled request (429)
	// that is waited for inside a call; 5 minutes or more never are. Zero or
	// negative: none, the caller gets the 429.
	RetryThrottled time.Duration

	// Replay names more requests that are safe to repeat although the outcome
	// of an attempt is unknown. Nil: none. See [WithReplay] for a single call.
	Replay func(*http.Request) bool

	// MaxBody is how many bytes of a request body are held so that it can be
	// sent again and have its links mapped. A longer body goes out as it is, and
	// is obtained again by GetBody, or streamed, once; so does one without GetBody
	// that has not ended after a minute. What is held may stay in memory until the
	// answer was read. Zero: 1 MiB. Negative: none are held.
	MaxBody int64

	// Probe decides whether an endpoint serves the organization.
	// Nil: [ProbeWebAPI], or [ProbePath]("/data") for Finance and Operations. On
	// premises the check of ProbeWebAPI is made below the organization's path, as
	// the URL given to New names it: /Contoso/api/data/v9.1/WhoAmI.
	Probe Probe

	// ProbeInterval is the time between two fail-back probes of the primary
	// while the alternate is active. It grows by half after each failed probe
	// and is jittered by a fifth. Zero: 10 s. Negative: no fail-back probes; the
	// way back is [Transport.Switch], or an alternate that fails, see
	// ManualFailback.
	ProbeInterval time.Duration

	// MaxProbeInterval is what ProbeInterval grows to. Zero: 60 s, or
	// ProbeInterval if that is longer. Negative: it does not grow.
	MaxProbeInterval time.Duration

	// ProbeTimeout bounds one probe. Zero: 5 s. Negative: nothing but Close.
	ProbeTimeout time.Duration

	// Rise is how many fail-back probes in a row must pass before traffic
	// returns to the primary. Zero: 3. Negative: 1.
	Rise int

	// MinDwell is how long the alternate stays active at the least before a
	// fail-back. It doubles with every further switch within an hour, up to an
	// hour. An alternate that fails overrides it. Zero: 5 min. Negative: none.
	MinDwell time.Duration

	// ManualFailback leaves the way back to people: [Transport.Switch]. The
	// primary is probed all the same. An alternate that fails (its own fence, or
	// a breaker that trips and a probe that does not pass) while the primary
	// passes still sends the traffic back, for there is nothing to stay for.
	ManualFailback bool

	// ConfirmSwitch, if set, is asked before every automatic switch, with the
	// evidence. An error refuses the switch: the traffic stays, and the question
	// comes up again when the evidence does. Callers that wait for the switch
	// wait for the answer, which has to come within 30 s; no answer refuses.
	// It must return once its context ends: Close waits for it. A fail-back and
	// an outage may ask at the same time.
	ConfirmSwitch func(context.Context, Switch) error

	// FailFast fails requests at once with [ErrUnavailable] while neither endpoint
	// passes its probe, for programs that would rather queue. Otherwise they still go to
	// the active endpoint, once each, and come back as they come: some may be served,
	// and the first that is ends the outage.
	FailFast bool

	// WaitForUp has requests wait, for as long as their context lives, while neither
	// endpoint passes its probe: for batch jobs. It goes before FailFast.
	WaitForUp bool

	// RPO is the recovery point objective: how far the copy that takes over may lag
	// behind. Writes acknowledged within it before the last success of an endpoint
	// whose outage ends, or that is left, are at risk: see [LossReport]. The emergency
	// response of self-service disaster recovery can lose up to 15 minutes; rather than
	// a longer RPO, use [Transport.WritesSince] with the time of the last sync.
	// Zero: 5 s. Negative: none. Source:
	// https://learn.microsoft.com/power-platform/admin/business-continuity-disaster-recovery
	RPO time.Duration

	// LedgerSize is how many of the latest writes are kept in memory for loss
	// reports, some 350 bytes each as they come. Zero: 4096. Negative: none.
	LedgerSize int

	// Shared is where the processes of a fleet keep what they know together.
	// A switch of one is then followed by all others, each after a passed probe
	// of its own; one of them at a time probes for the fail-back; and dwell and
	// latch count the switches of all. New waits up to a second, for a probe and
	// for ConfirmSwitch, to start out where the fleet is. No request waits for
	// Shared (unless Quorum asks for more than one process, and then only those
	// that wait for a switch), and without an answer from it the Transport is on
	// its own. Close does not close it. Nil: there is no fleet.
	Shared Shared

	// Quorum is how many processes of the fleet must have seen the active
	// endpoint fail, within a minute, before the first of them switches to the
	// alternate. A fence and a switch by hand need none; nor does a process that
	// Shared does not answer. Only requests find out that an endpoint fails:
	// processes without traffic are no witnesses. Zero: 1. Negative: 1.
	Quorum int

	// OnFault, if set, is told of every attempt that met a fault, by the
	// goroutine of the call and with the caller's context: as soon as it is known
	// whether another attempt follows, and before that is made. It is called
	// concurrently, and the call waits for it. It is not told of an answer that
	// breaks off after it was returned.
	OnFault func(context.Context, Attempt)

	// OnEvent is told of every event, in order, one at a time, away from the
	// request path. It may call the Transport, except for Close, which waits
	// for it. While it blocks, up to 1,024 events are kept for it. With Shared,
	// the first may come before New has returned.
	OnEvent func(Event)

	// OnWrite, if set, is called with every write once it has ended, for a program
	// that keeps a longer journal than the ledger: writes that were acknowledged, in
	// whole or in part, and those whose outcome is unknown. It is called in order, one
	// write at a time, off the request path. It may call the Transport, except for
	// Close, which waits for it. While it blocks, up to 4,096 writes wait; further ones
	// are dropped, which the log and [Status.WritesDropped] report. Writes that end
	// after Close are not handed over.
	OnWrite func(Write)

	// Runbook is the address of the runbook that [Transport.StatusHandler] and
	// [Transport.ControlHandler] refer to, without a fragment: an absolute http or
	// https URL of a copy of docs/operations.md, whose headings are the fragments.
	// Empty: that file in the repository of this module.
	Runbook string

	// Logger gets one line for every state change, and one for each write that a loss
	// report lists, up to a hundred for one report. Nil: [slog.Default].
	Logger *slog.Logger
}

// A Transport is an [http.RoundTripper] that sends the requests of one
// organization to whichever of its endpoints serves it. Requests to other hosts
// pass through Base untouched. It is safe for concurrent use.
//
// While the organization is healthy a Transport has no goroutine and no timer,
// unless it is part of a fleet ([Config.Shared]): then it has one of each.
type Transport struct {
	org  Org
	cfg  Config
	base http.RoundTripper // what pools are made of
	// owned: base is a clone that belongs to the Transport.
	owned bool
	// What is known about the connections of Base, and of each endpoint.
	connections connections
	protocols   [2]protocol
	// started is when New was called. Times of successes are kept as since then.
	started time.Time

	state       atomic.Pointer[state] // stored under mu, loaded by every attempt
	endpoints   [2]endpoint
	budget      budget
	credentials credentials // for probes
	books       books
	journal     journal
	fleet       *fleet // nil without Config.Shared

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the Transport

	mu       sync.Mutex // guards what follows; never held over I/O or callbacks
	rule     rule.Rule
	question *question                   // the last one, or nil
	found    findings                    // what it has found, if the rule keeps that
	growth   *backoff.ExponentialBackOff // of the time for which nothing is asked again
	outage   *outage                     // nil unless down
	downs    []time.Time                 // when the last outages began
	timeDown time.Duration               // of outages that are over
	// organizationID that probes must find: Config.OrganizationID, or the one
	// that the primary named first.
	organizationID string
	watching       bool          // the watch goroutine runs
	objection      string        // to the way back, told last
	demanded       bool          // a caller wants the endpoints probed now
	rounds         chan struct{} // closed at the end of each round of probes
	wake           chan struct{} // capacity 1: the watch goroutine should look again
	events         eventQueue
	verifying      *verifying // the Verify of a ControlHandler under way, or nil
}

var _ http.RoundTripper = (*Transport)(nil)

// New returns a Transport for the organization at orgURL: the address of either
// endpoint, with or without a path, which is ignored. A nil cfg means defaults.
// The error names everything that is wrong at once and quotes no credentials.
//
// The Transport starts out at the primary; if the organization is failed over
// at that moment, the first requests find out. Call Close when done with it.
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
	t := &Transport{org: org, cfg: c, base: c.Base, started: time.Now(), wake: make(chan struct{}, 1), rounds: make(chan struct{}), organizationID: c.OrganizationID}
	if t.base == nil {
		t.base, t.owned = defaultBase(current)
	}
	t.knowBase()
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.budget.fill()
	t.books.open(&t.cfg, &t.org, t.started)
	for i := range t.endpoints {
		t.endpoints[i].breaker = newBreaker(c.FailureThreshold, c.Rise, c.ProbeInterval)
	}
	t.rule = newRule(&t.cfg, &t.org, t.started)
	t.growth = intervals(holdInterval, maxHold, 2)
	t.state.Store(&state{since: t.started, changed: make(chan struct{}), pool: t.firstPool()})
	if c.Shared != nil {
		t.join()
	}
	return t, nil
}

// Wrap returns a copy of client whose requests go through a new Transport over
// the client's own transport ([Config.Base] is used instead if it is set), and
// that Transport. A nil client means [http.DefaultClient]. The client itself is
// left alone.
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
	if c.Probe == nil {
		c.Probe = defaultProbe(org)
	}
	if u, err := url.Parse(c.Runbook); c.Runbook != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
		return errors.New("failover: Runbook is no absolute http or https URL") // which may hold a secret
	}
	if c.MaxProbeInterval < c.ProbeInterval && c.ProbeInterval != never {
		return fmt.Errorf("failover: MaxProbeInterval %v is shorter than ProbeInterval %v", c.MaxProbeInterval, c.ProbeInterval)
	}
	return nil
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
// OnWrite have ended, and always returns nil. If the store of a fleet
// hangs, that takes up to a second more. Round trips under way, and what reads
// their bodies ahead, are not waited for: they finish their current attempt;
// later ones return [ErrClosed]. It does not close a Base that the caller has
// given. Closing again is harmless.
func (t *Transport) Close() error {
	t.mu.Lock()
	if !t.rule.Closed {
		t.rule.Close()
		if t.outage != nil {
			t.endOutageLocked(time.Now())
		}
		t.publishLocked(nil)
		t.cancel()
	}
	t.mu.Unlock()
	t.journal.close()
	t.wg.Wait()
	t.yieldFailback()
	t.closeConnections()
	return nil
}
