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
	// "contoso.api.crm.dynamics.com". Unless AlternateHost is set, the
	// organization also answers to the name without its ".api" label, or with
	// one if Host has none, as Dataverse does; Finance and Operations does not.
	Host string
	// AlternateHost is the alternate endpoint's host name. Default: Host with
	// "--s" added to its first label, Microsoft's rule for Dataverse. Set it
	// for pairs that have no such rule; then only these two names answer.
	AlternateHost string
	// OneAddress makes an organization without an alternate endpoint, which
	// fails over behind its own address only: see [Org.Drill]. A Host of
	// Finance and Operations has one address unless AlternateHost is set,
	// because there is no rule to derive another. Default: false.
	OneAddress bool
	// Lag is how long a write takes to reach the other datacenters. Default:
	// none, every write is there at once.
	Lag time.Duration
	// Accounts is the number of records the entity set "accounts" starts with,
	// in all datacenters. Default: 25. Negative: none. With a Host of Finance
	// and Operations the set is "CustomersV3".
	Accounts int
	// PageSize is the most records a page of a list holds if the request does
	// not ask for fewer (Prefer: odata.maxpagesize). Default: 10.
	PageSize int
	// Anonymous makes the organization answer requests without a bearer token.
	Anonymous bool
	// MaxConcurrent is how many requests a datacenter carries out at a time.
	// Beyond, it answers as Dataverse's service protection does, with code
	// 0x80072326 and a pause of one second, the Web API by status 429.
	// Dataverse's limit is 52 for each user. A request that meets a Failure other
	// than [Delay] meets that instead, and counts. Default: none.
	MaxConcurrent int
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
	switch {
	case c.OneAddress && c.AlternateHost != "":
		panic("failovertest: an alternate host for an organization with one address")
	case isFinance(c.Host) && c.AlternateHost == "":
		c.OneAddress = true
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

// hostNames returns the names of the two endpoints, each one's own name first.
func (cfg *Config) hostNames() (primary, alternate []string) {
	host := strings.ToLower(cfg.Host)
	if cfg.AlternateHost != "" {
		return []string{host}, []string{strings.ToLower(cfg.AlternateHost)}
	}
	if isFinance(host) {
		return []string{host}, nil
	}
	org, domain, _ := strings.Cut(host, ".")
	other, hasAPI := strings.CutPrefix(domain, "api.")
	if !hasAPI {
		other = "api." + domain
	}
	primary = []string{host, org + "." + other}
	if cfg.OneAddress {
		return primary, nil
	}
	return primary, []string{org + "--s." + domain, org + "--s." + other}
}

// An Org is a simulated organization. It has a primary datacenter, an alternate
// one with an address of its own, and a secondary one to which it can move
// behind the primary's address. Its methods may be called by several goroutines at once.
type Org struct {
	cfg       Config
	inMemory  bool
	primary   *Datacenter
	secondary *Datacenter
	alternate *Datacenter   // nil with one address
	all       []*Datacenter // the ones above
	id        string        // OrganizationId
	userID    string
	unitID    string
	key       []byte // signs tokens

	closing   chan struct{} // closed by Close
	closeOnce sync.Once
	moving    chan struct{}  // holds a value while a Recovery is under way
	running   sync.WaitGroup // accept loops and handlers

	netMu      sync.Mutex
	closed     bool
	transports []*http.Transport
	behind     *Datacenter // the primary's name
	before     *Datacenter // where the name led before
	flickers   time.Time   // until when it leads to both by turns
	newDials   int         // since it flickers

	mu      sync.Mutex // guards everything below and the datacenters' stores and fences
	active  *Datacenter
	pending []change  // of active, not yet at the other datacenters, oldest first
	cut     time.Time // when replication was cut; zero: it was not
}

// Start starts an organization with TLS servers on the loopback
// interface, which speak HTTP/1.1 and HTTP/2. It panics if it cannot listen or
// if a host in cfg is no host name. Where the system allows it, each server has
// a loopback address of its own.
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
		moving:   make(chan struct{}, 1),
	}
	rand.Read(o.key)
	primary, alternate := o.cfg.hostNames()
	o.primary = newDatacenter(o, primary)
	o.secondary = newDatacenter(o, primary)
	o.all = []*Datacenter{o.primary, o.secondary}
	if alternate != nil {
		o.alternate = newDatacenter(o, alternate)
		o.all = append(o.all, o.alternate)
	}
	o.behind = o.primary
	o.activate(o.primary)
	o.seed()
	for n, d := range o.all {
		d.listen(n + 1)
	}
	return o
}

// seed gives all datacenters the records the organization starts with.
func (o *Org) seed() {
	for n := 1; n <= o.cfg.Accounts; n++ {
		name := fmt.Sprintf("Account %02d", n)
		if isFinance(o.cfg.Host) {
			o.seedCustomer(n, name)
		} else {
			o.commit(o.primary, "accounts", SeedID(n), &row{attrs: map[string]any{"name": name}})
		}
	}
	o.drain()
}

// SeedID returns the id of the n-th account, counted from 1, that an
// organization starts with.
func SeedID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

// URL returns the primary endpoint, "https://" and its host name.
func (o *Org) URL() string { return "https://" + o.primary.Host() }

// AlternateURL returns the alternate endpoint, "https://" and its host name, or
// "" if the organization has one address.
func (o *Org) AlternateURL() string {
	if o.alternate == nil {
		return ""
	}
	return "https://" + o.alternate.Host()
}

// Primary returns the primary datacenter.
func (o *Org) Primary() *Datacenter { return o.primary }

// Secondary returns the datacenter of the paired region, which has the
// primary's host name and serves after [Org.Drill] or [Org.EmergencyResponse].
// In normal times no new connection leads to it.
func (o *Org) Secondary() *Datacenter { return o.secondary }

// Alternate returns the alternate datacenter, or nil if the organization has
// one address.
func (o *Org) Alternate() *Datacenter { return o.alternate }

// FailOver does what Microsoft does when it moves the organization to the
// alternate datacenter: from now on the alternate serves what had been
// replicated by now, and the primary answers with the fence. Writes of the
// last [Config.Lag] are missing at the alternate. FailOver does nothing unless
// the organization is at its primary datacenter, and panics if it has one
// address.
func (o *Org) FailOver() {
	o.needAlternate()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.active != o.primary {
		return
	}
	o.replicate()
	o.primary.stale = true
	o.activate(o.alternate)
}

func (o *Org) needAlternate() {
	if o.alternate == nil {
		panic("failovertest: the organization has one address and no alternate datacenter")
	}
}

// FailBack moves the organization back to the primary datacenter, which takes
// over everything from the alternate; what the failover lost stays lost. From
// now on the primary serves and the alternate answers with the fence. FailBack
// does nothing unless the alternate is active, heals no [Failure], and panics
// if the organization has one address.
func (o *Org) FailBack() { o.failBack(false) }

// FailBackWithLoss is [Org.FailBack] without waiting for replication: writes
// the alternate made within the last [Config.Lag] are lost.
func (o *Org) FailBackWithLoss() { o.failBack(true) }

func (o *Org) failBack(lossy bool) {
	o.needAlternate()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.active != o.alternate {
		return
	}
	o.replicate()
	o.primary.data, o.primary.stale = o.alternate.data.clone(), false
	if lossy {
		o.primary.data.undo(o.pending)
	} else {
		o.drain()
	}
	o.activate(o.primary)
}

// activate makes d the active datacenter. The caller holds o.mu.
func (o *Org) activate(d *Datacenter) {
	o.pending = nil
	o.cut = time.Time{}
	o.active = d
	for _, other := range o.all {
		other.fenced = other != d
	}
}

// Disaster makes the primary datacenter fail with f and moves the
// organization to the alternate. After the primary's Heal it answers with the
// fence until [Org.FailBack]. Disaster panics if the organization has one
// address: see [Org.EmergencyResponse].
func (o *Org) Disaster(f Failure) {
	o.FailOver() // first: Fail takes its time to cut connections
	o.primary.Fail(f)
}

// Close shuts the datacenters down, closes all connections including those
// that transports from [Org.Transport] keep, and waits for the requests under
// way to end. Later calls do nothing. Records and deliveries stay readable.
func (o *Org) Close() {
	o.closeOnce.Do(func() {
		close(o.closing)
		o.netMu.Lock()
		o.closed = true
		o.netMu.Unlock()
		for _, d := range o.all {
			d.shutDown()
		}
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
