package failovertest

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Config says what [Start] and [StartInMemory] simulate. The zero value, and
// a nil *Config, are the defaults.
type Config struct {
	// Host is the primary endpoint's host name, without a port. Default:
	// "contoso.api.crm.dynamics.com". With the default AlternateHost the
	// organization also answers to the name without its ".api" label, or with
	// one if Host has none, as Dataverse does.
	Host string
	// AlternateHost is the alternate endpoint's host name. Default: Host with
	// "--s" added to its first label, Microsoft's rule for Dataverse. Set it
	// for pairs that have no such rule; then only these two names answer.
	AlternateHost string
	// Lag is how long a write takes to reach the other datacenter. Default:
	// none, every write is there at once.
	Lag time.Duration
	// Accounts is the number of records the entity set "accounts" starts with,
	// in both datacenters. Default: 25. Negative: none.
	Accounts int
	// PageSize is the most records a page of a list holds if the request does
	// not ask for fewer (Prefer: odata.maxpagesize). Default: 10.
	PageSize int
	// Anonymous makes the organization answer requests without a bearer token.
	Anonymous bool
	// FenceStatus is the HTTP status of the Web API's answer from a fenced
	// datacenter. Default: 503. Microsoft documents the code, 0x8004B065, for
	// the SOAP service and no status for the Web API: tell a fence by its code.
	FenceStatus int
}

// withDefaults returns a copy of cfg with the defaults filled in.
func (cfg *Config) withDefaults() Config {
	var c Config
	if cfg != nil {
		c = *cfg
	}
	if c.Host == "" {
		c.Host = "contoso.api.crm.dynamics.com"
	}
	for _, host := range []string{c.Host, c.AlternateHost} {
		if strings.ContainsAny(host, ":/@") {
			panic("failovertest: not a host name: " + host)
		}
	}
	if c.Accounts == 0 {
		c.Accounts = 25
	}
	if c.PageSize <= 0 {
		c.PageSize = 10
	}
	if c.FenceStatus == 0 {
		c.FenceStatus = http.StatusServiceUnavailable
	}
	return c
}

// hostNames returns the names the two datacenters answer to, each one's own
// name first.
func (cfg *Config) hostNames() (primary, alternate []string) {
	host := strings.ToLower(cfg.Host)
	if cfg.AlternateHost != "" {
		return []string{host}, []string{strings.ToLower(cfg.AlternateHost)}
	}
	org, domain, _ := strings.Cut(host, ".")
	other, hasAPI := strings.CutPrefix(domain, "api.")
	if !hasAPI {
		other = "api." + domain
	}
	return []string{host, org + "." + other},
		[]string{org + "--s." + domain, org + "--s." + other}
}

// An Org is a simulated organization with a primary and an alternate
// datacenter. Its methods may be called by several goroutines at once.
type Org struct {
	cfg       Config
	inMemory  bool
	primary   *Datacenter
	alternate *Datacenter
	id        string // OrganizationId
	userID    string
	unitID    string
	key       []byte // signs tokens

	closing   chan struct{} // closed by Close
	closeOnce sync.Once
	running   sync.WaitGroup // accept loops and handlers

	netMu      sync.Mutex
	closed     bool
	transports []*http.Transport

	mu      sync.Mutex // guards everything below and the datacenters' stores and fences
	active  *Datacenter
	pending []change // of active, not yet at the other datacenter, oldest first
}

// Start starts an organization with two TLS servers on the loopback
// interface, which speak HTTP/1.1 and HTTP/2. It panics if it cannot listen or
// if a host in cfg is no host name.
// A nil cfg means the defaults. The caller must call [Org.Close].
func Start(cfg *Config) *Org { return start(cfg, false) }

// StartInMemory starts an organization without sockets: the connections are
// pipes, https URLs are spoken to in plain HTTP/1.1, and the errors of a
// failing network are imitated. All waiting is on channels and timers, so it
// works in a testing/synctest bubble, with the bubble's time; the organization
// must then be started in the bubble and closed before it ends. A nil cfg means
// the defaults. The caller must call [Org.Close].
func StartInMemory(cfg *Config) *Org { return start(cfg, true) }

func start(cfg *Config, inMemory bool) *Org {
	o := &Org{
		cfg:      cfg.withDefaults(),
		inMemory: inMemory,
		id:       newID(),
		userID:   newID(),
		unitID:   newID(),
		key:      make([]byte, 32),
		closing:  make(chan struct{}),
	}
	rand.Read(o.key)
	primary, alternate := o.cfg.hostNames()
	o.primary = newDatacenter(o, primary)
	o.alternate = newDatacenter(o, alternate)
	o.active = o.primary
	o.alternate.fenced = true
	o.seed()
	o.primary.listen()
	o.alternate.listen()
	return o
}

// seed gives both datacenters the accounts the organization starts with.
func (o *Org) seed() {
	for n := 1; n <= o.cfg.Accounts; n++ {
		o.commit(o.primary, "accounts", SeedID(n), &row{
			attrs: map[string]any{"name": fmt.Sprintf("Account %02d", n)},
		})
	}
	o.pending = nil
	o.alternate.data = o.primary.data.clone()
}

// SeedID returns the id of the n-th account, counted from 1, that an
// organization starts with.
func SeedID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

// URL returns the primary endpoint, "https://" and its host name.
func (o *Org) URL() string { return "https://" + o.primary.Host() }

// AlternateURL returns the alternate endpoint, "https://" and its host name.
func (o *Org) AlternateURL() string { return "https://" + o.alternate.Host() }

// Primary returns the primary datacenter.
func (o *Org) Primary() *Datacenter { return o.primary }

// Alternate returns the alternate datacenter.
func (o *Org) Alternate() *Datacenter { return o.alternate }

// other returns the datacenter that d is not.
func (o *Org) other(d *Datacenter) *Datacenter {
	if d == o.primary {
		return o.alternate
	}
	return o.primary
}

// FailOver does what Microsoft does when it moves the organization to the
// alternate datacenter: from now on the alternate serves what had been
// replicated by now, and the primary answers with the fence. Writes of the
// last [Config.Lag] are missing at the alternate. FailOver does nothing if the
// alternate is active already.
func (o *Org) FailOver() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.active == o.alternate {
		return
	}
	o.replicate()
	o.activate(o.alternate)
}

// FailBack moves the organization back to the primary datacenter, which takes
// over everything from the alternate; what the failover lost stays lost. From
// now on the primary serves and the alternate answers with the fence. FailBack
// does nothing if the primary is active already, and heals no [Failure].
func (o *Org) FailBack() { o.failBack(false) }

// FailBackWithLoss is [Org.FailBack] without waiting for replication: writes
// the alternate made within the last [Config.Lag] are lost.
func (o *Org) FailBackWithLoss() { o.failBack(true) }

func (o *Org) failBack(lossy bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.active == o.primary {
		return
	}
	o.replicate()
	o.primary.data = o.alternate.data.clone()
	if lossy {
		o.primary.data.undo(o.pending)
	}
	o.activate(o.primary)
}

// activate makes d the active datacenter. The caller holds o.mu.
func (o *Org) activate(d *Datacenter) {
	o.pending = nil
	o.active = d
	d.fenced = false
	o.other(d).fenced = true
}

// Disaster makes the primary datacenter fail with f and moves the
// organization to the alternate. After the primary's Heal it answers with the
// fence until [Org.FailBack].
func (o *Org) Disaster(f Failure) {
	o.FailOver() // first: Fail takes its time to cut connections
	o.primary.Fail(f)
}

// Close shuts both datacenters down, closes all connections including those
// that transports from [Org.Transport] keep, and waits for the requests under
// way to end. Later calls do nothing. Records and deliveries stay readable.
func (o *Org) Close() {
	o.closeOnce.Do(func() {
		close(o.closing)
		o.netMu.Lock()
		o.closed = true
		o.netMu.Unlock()
		o.primary.shutDown()
		o.alternate.shutDown()
	})
	o.running.Wait()
	o.closeIdle()
}

// begin adds a handler to o.running, unless the organization is closed.
func (o *Org) begin() bool {
	o.netMu.Lock()
	defer o.netMu.Unlock()
	if !o.closed {
		o.running.Add(1)
	}
	return !o.closed
}

// newID returns a random id in the form of a GUID (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
