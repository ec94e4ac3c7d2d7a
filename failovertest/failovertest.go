package failovertest

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Config configures [Start] and [StartInMemory]. The zero value of every field is its
// default, and so is a nil *Config.
type Config struct {
	// Host is the primary endpoint's host name, without a port. Unless AlternateHost is
	// set, a Dataverse organization also has the name without the label "api", or with it
	// if Host has none. Default: "contoso.api.crm.dynamics.com".
	Host string
	// AlternateHost is the alternate endpoint's host name. If it is set, the organization
	// has only these two names. Default: Host with "--s" added to its first label,
	// Microsoft's rule for Dataverse.
	AlternateHost string
	// OneAddress makes an organization without an alternate endpoint, which fails over only
	// behind its own address: see [Org.Drill]. A Host of Finance and Operations has one
	// address unless AlternateHost is set. Default: false.
	OneAddress bool
	// Lag is how long a write takes to reach the other datacenters. Default: no time.
	Lag time.Duration
	// Accounts is the number of records with which the entity set "accounts" starts, in all
	// datacenters; with a Host of Finance and Operations the set is "CustomersV3". Default:
	// 25. Negative: none.
	Accounts int
	// PageSize is the maximum number of records in a page of a list, unless the request asks
	// for fewer (Prefer: odata.maxpagesize). Default: 10.
	PageSize int
	// Anonymous makes the organization accept requests without a bearer token.
	Anonymous bool
	// MaxConcurrent is how many requests a datacenter carries out at a time; Dataverse's
	// limit is 52 for each user. It answers further ones like Dataverse's service
	// protection: with code 0x80072326 (status 429 in the Web API) and a Retry-After of one
	// second. A request that meets a Failure other than [Delay] gets that instead, and
	// counts, too. Default: no limit.
	MaxConcurrent int
	// FenceStatus is the HTTP status with which the Web API of a fenced datacenter answers.
	// Microsoft documents the code, 0x8004B065, for the SOAP service, but no status for the
	// Web API: recognize a fence by its code. Default: 503.
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
		panic("failovertest: AlternateHost and OneAddress are both set")
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

// An Org is a simulated organization. It has a primary datacenter, an alternate one with an
// address of its own, and a secondary one to which it can move behind the primary's address.
// It is safe for concurrent use.
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
	behind     *Datacenter // to which the primary's name leads
	before     *Datacenter // to which it led before
	flickers   time.Time   // until when it leads to either in turn
	newDials   int         // while it does

	mu      sync.Mutex // guards everything below and the datacenters' stores and fences
	active  *Datacenter
	pending []change  // of active, not yet replicated, oldest first
	cut     time.Time // when replication was cut off; zero: it was not
}

// Start starts an organization with TLS servers on the loopback interface, which speak
// HTTP/1.1 and HTTP/2; where the system allows it, each has a loopback address of its own.
// Start panics if it cannot listen, or if cfg is invalid. A nil cfg means the defaults. The
// caller must call [Org.Close].
func Start(cfg *Config) *Org { return start(cfg, false) }

// StartInMemory starts an organization without sockets: connections are pipes that carry
// plain HTTP/1.1 for https URLs, and the errors of a failing network are imitated. It waits
// only on channels and timers, so it works in a testing/synctest bubble, with the bubble's
// time; start the organization in the bubble then, and close it before the bubble ends.
// StartInMemory panics if cfg is invalid. A nil cfg means the defaults. The caller must call
// [Org.Close].
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

// seed stores the records with which the organization starts in all datacenters.
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

// SeedID returns the id of the n-th account, counted from 1, with which a Dataverse
// organization starts.
func SeedID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

// URL returns the URL of the primary endpoint: "https://" and its host name.
func (o *Org) URL() string { return "https://" + o.primary.Host() }

// AlternateURL returns the URL of the alternate endpoint: "https://" and its host name, or ""
// if the organization has one address.
func (o *Org) AlternateURL() string {
	if o.alternate == nil {
		return ""
	}
	return "https://" + o.alternate.Host()
}

// Primary returns the primary datacenter.
func (o *Org) Primary() *Datacenter { return o.primary }

// Secondary returns the datacenter of the paired region, which has the primary's host name
// and serves after [Org.Drill] or [Org.EmergencyResponse]. In normal times, no new
// connection leads to it.
func (o *Org) Secondary() *Datacenter { return o.secondary }

// Alternate returns the alternate datacenter, or nil if the organization has
// one address.
func (o *Org) Alternate() *Datacenter { return o.alternate }

// FailOver moves the organization to the alternate datacenter, as Microsoft does: the
// alternate serves what has been replicated so far, without the writes of the last
// [Config.Lag], and the primary answers with the fence. FailOver does nothing unless the
// organization is at its primary datacenter, and panics if it has one address.
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
		panic("failovertest: an organization with one address has no alternate datacenter")
	}
}

// FailBack moves the organization back to the primary datacenter, which becomes a copy of
// the alternate; what the failover lost stays lost. The primary then serves and the
// alternate answers with the fence. FailBack heals no [Failure]. It does nothing unless the
// organization is at its alternate datacenter, and panics if it has one address.
func (o *Org) FailBack() { o.failBack(false) }

// FailBackWithLoss is [Org.FailBack] without waiting for replication: the writes that the
// alternate carried out within the last [Config.Lag] are lost.
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

// Disaster makes the primary datacenter fail with f and moves the organization to the
// alternate. Once healed, the primary answers with the fence until [Org.FailBack]. Disaster
// panics if the organization has one address: see [Org.EmergencyResponse].
func (o *Org) Disaster(f Failure) {
	o.FailOver() // first: Fail takes its time to cut connections
	o.primary.Fail(f)
}

// Close shuts the datacenters down, closes all connections, including the idle ones of the
// transports that [Org.Transport] returned, and waits until the requests under way have
// ended. Records and deliveries stay readable. Closing again does nothing.
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

// begin adds a handler to o.running and reports true, unless the organization is closed.
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
