package failoverredis_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverredis"
	"github.com/d365failover/failover/failovertest"
)

// fleet is an organization, a redis-server, and processes with many Transports
// that keep in step through it.
type fleet struct {
	*testing.T
	org       *failovertest.Org
	redis     *server
	admin     *redis.Client
	authority []byte
	processes []*process
	quorum    int // of processes that are started
}

// process is a process of the operating system, with a network of its own.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	orders *json.Encoder
	out    *json.Decoder
	paths  map[string]*path // by host name; "redis"
	last   report
}

// The clocks of the three processes in most tests are some minutes apart.
var skews = []time.Duration{0, 7 * time.Minute, -11 * time.Minute}

// sizes returns how many Transports each process has: as many as two busy cores can serve in time
// when all meet an outage at once, or 200 in total with -full.
func sizes() []int {
	if *full {
		return []int{67, 67, 66}
	}
	return []int{20, 20, 20}
}

// found is the maximum time until a store that answers again counts as found: two minutes without
// a late answer, and a while for the late answers of a busy machine.
const found = 3 * time.Minute

// startFleet starts processes with so many Transports each.
func startFleet(t *testing.T, sizes []int) *fleet { return startQuorum(t, 0, sizes) }

// startQuorum starts a fleet of processes that have a quorum.
func startQuorum(t *testing.T, quorum int, sizes []int) *fleet {
	t.Helper()
	f := &fleet{T: t, redis: startServer(t), quorum: quorum}
	f.admin = f.redis.client(t)
	f.org = failovertest.Start(nil)
	t.Cleanup(f.org.Close)
	base := f.org.Transport()
	raw, err := base.DialContext(t.Context(), "tcp", f.org.Primary().Host()+":443")
	require.NoError(t, err)
	conn := tls.Client(raw, &tls.Config{RootCAs: base.TLSClientConfig.RootCAs, ServerName: f.org.Primary().Host()})
	defer conn.Close()
	require.NoError(t, conn.HandshakeContext(t.Context()))
	chain := conn.ConnectionState().VerifiedChains[0]
	f.authority = chain[len(chain)-1].Raw
	var wg sync.WaitGroup
	f.processes = make([]*process, len(sizes))
	for i, n := range sizes {
		wg.Go(func() { f.processes[i] = f.spawn(n, skews[i%len(skews)]) })
	}
	wg.Wait()
	for _, p := range f.processes {
		require.NotNil(t, p, "a process has not started")
	}
	return f
}

// start adds a process to the fleet.
func (f *fleet) start(transports int) *process {
	f.Helper()
	p := f.spawn(transports, 0)
	require.NotNil(f, p, "the process has not started")
	f.processes = append(f.processes, p)
	return p
}

// spawn starts a process and waits until its Transports are ready. It returns
// nil after an error.
func (f *fleet) spawn(transports int, skew time.Duration) *process {
	p := &process{paths: make(map[string]*path)}
	s := setup{
		URL: f.org.URL(), Authority: f.authority, Transports: transports, Skew: skew, Quorum: f.quorum,
		Paths: make(map[string]string), Tokens: make(map[string]string),
	}
	dial := f.org.Transport().DialContext
	for _, dc := range []*failovertest.Datacenter{f.org.Primary(), f.org.Alternate()} {
		host := dc.Host()
		p.paths[host] = newPath(f, func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", host+":443") })
		s.Paths[host], s.Tokens[host] = p.paths[host].addr(), f.org.Token(host)
	}
	p.paths["redis"] = newPath(f, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", f.redis.addr)
	})
	s.Redis = p.paths["redis"].addr()

	config, err := json.Marshal(s)
	assert.NoError(f, err)
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), childEnv+"="+string(config)), os.Stderr
	in, err1 := p.cmd.StdinPipe()
	out, err2 := p.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, p.cmd.Start()); err != nil {
		f.Errorf("start: %v", err)
		return nil
	}
	f.Cleanup(p.kill)
	p.in, p.orders, p.out = in, json.NewEncoder(in), json.NewDecoder(out)
	if err := p.hear(); err != nil {
		f.Errorf("start: %v", err)
		return nil
	}
	return p
}

// hear reads a report.
func (p *process) hear() error {
	p.last = report{}
	err := p.out.Decode(&p.last)
	if err == nil && p.last.Err != "" {
		err = errors.New(p.last.Err)
	}
	return err
}

// kill ends the process at once.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.in.Close()
	p.cmd.Wait()
}

// do makes a process carry out an order.
func (f *fleet) do(p *process, o order) report {
	f.Helper()
	err := p.orders.Encode(o)
	if err == nil {
		err = p.hear()
	}
	require.NoError(f, err)
	return p.last
}

// get makes every Transport of the processes, or of all processes if none are given, send requests
// at the same time, and returns the results.
func (f *fleet) get(times int, processes ...*process) (results []result) {
	f.Helper()
	if len(processes) == 0 {
		processes = f.processes
	}
	for _, p := range processes {
		require.NoError(f, p.orders.Encode(order{Get: len(p.last.Status), Times: times}))
	}
	for _, p := range processes {
		require.NoError(f, p.hear())
		results = append(results, p.last.Results...)
	}
	return results
}

// status of all Transports.
func (f *fleet) status() (all []status) {
	f.Helper()
	for _, p := range f.processes {
		all = append(all, f.do(p, order{}).Status...)
	}
	return all
}

// eventually waits until every Transport is in the expected state.
func (f *fleet) eventually(what string, patience time.Duration, is func(status) bool) (all []status) {
	f.Helper()
	eventually(f, patience, func() error {
		all = f.status()
		for i, s := range all {
			if !is(s) {
				others := slices.DeleteFunc(slices.Clone(all), is)
				return fmt.Errorf("%s: %d of %d are not, such as number %d: %+v", what, len(others), len(all), i, s)
			}
		}
		return nil
	})
	return all
}

// allAt waits until all Transports are at an endpoint.
func (f *fleet) allAt(e failover.Endpoint) []status {
	f.Helper()
	return f.eventually("at the "+e.String(), patience, func(s status) bool { return s.Active == e })
}

// record returns the fleet's record.
func (f *fleet) record() failover.Record {
	f.Helper()
	s := failoverredis.New(f.admin, nil)
	defer s.Close()
	r, _, err := s.Load(f.Context(), organization)
	require.NoError(f, err)
	return r
}

// answered checks that all requests were answered with 200, and returns how long
// they took.
func (f *fleet) answered(results []result) times {
	f.Helper()
	took := make(times, len(results))
	for i, r := range results {
		if r.Status != 200 {
			f.Fatalf("a request failed: %+v", r)
		}
		took[i] = r.Took
	}
	slices.Sort(took)
	return took
}

// times are durations in ascending order.
type times []time.Duration

// at returns the time within which a share of all was done.
func (t times) at(share float64) time.Duration {
	return t[min(int(share*float64(len(t))), len(t)-1)]
}

func (t times) String() string {
	return fmt.Sprintf("p50 %v, p99 %v, max %v (%d)", t.at(.5).Round(100*time.Microsecond), t.at(.99).Round(100*time.Microsecond),
		t[len(t)-1].Round(100*time.Microsecond), len(t))
}

func (t times) sorted() times {
	slices.Sort(t)
	return t
}

// following returns how long after the first Transport the others have switched.
func following(all []status) times {
	first := all[0].Since
	for _, s := range all {
		if s.Since.Before(first) {
			first = s.Since
		}
	}
	took := make(times, len(all))
	for i, s := range all {
		took[i] = s.Since.Sub(first)
	}
	slices.Sort(took)
	return took
}

// scripts returns how many scripts the server has run since it started.
func (f *fleet) scripts() (calls int) {
	f.Helper()
	info, err := f.admin.Info(f.Context(), "commandstats").Result()
	require.NoError(f, err)
	if _, stats, found := strings.Cut(info, "cmdstat_evalsha:calls="); found {
		fmt.Sscan(stats[:strings.IndexByte(stats, ',')], &calls)
	}
	return calls
}

// forget removes a process that has ended.
func (f *fleet) forget(p *process) {
	f.processes = slices.DeleteFunc(f.processes, func(q *process) bool { return p == q })
}

// line returns the line of INFO with a name.
func line(info, name string) string {
	for l := range strings.Lines(info) {
		if strings.HasPrefix(l, name+":") {
			return strings.TrimSpace(l)
		}
	}
	return ""
}

// path is a process's way to a server, which can be cut.
type path struct {
	ln   net.Listener
	dial func(context.Context) (net.Conn, error)
	wg   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	isCut bool
	held  map[net.Conn]bool // data on them is lost
	conns map[net.Conn]bool
}

// newPath starts a path on the loopback interface, which ends with the test.
func newPath(t testing.TB, dial func(context.Context) (net.Conn, error)) *path {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	p := &path{ln: ln, dial: dial, conns: make(map[net.Conn]bool), held: make(map[net.Conn]bool)}
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.join(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *path) addr() string { return p.ln.Addr().String() }

// join copies between a connection and the server until either ends.
func (p *path) join(c net.Conn) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if !p.add(c) {
		return
	}
	s, err := p.dial(ctx)
	if err != nil {
		c.(*net.TCPConn).SetLinger(0) // as good as refused
		return
	}
	defer s.Close()
	if !p.add(s) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(&leg{p, c, s}, c); s.Close() })
	io.Copy(&leg{p, c, c}, s)
	c.Close()
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	delete(p.conns, s)
	delete(p.held, c)
}

// leg is one direction of a connection over a path.
type leg struct {
	p    *path
	conn net.Conn // that of the process
	to   net.Conn
}

func (l *leg) Write(b []byte) (int, error) {
	l.p.mu.Lock()
	held := l.p.held[l.conn]
	l.p.mu.Unlock()
	if held {
		return len(b), nil
	}
	return l.to.Write(b)
}

// add keeps a connection, unless the path is cut.
func (p *path) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.isCut {
		p.conns[c] = true
	}
	return !p.isCut
}

// hold makes the open connections go silent, but not new ones.
func (p *path) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		p.held[c] = true
	}
}

// cut ends all connections, and new ones as soon as they are made, until mend.
func (p *path) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = true
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

func (p *path) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = false
}
