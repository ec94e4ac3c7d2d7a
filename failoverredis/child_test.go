package failoverredis_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverredis"
)

// This file is the code of the processes of a fleet. The test binary starts itself for each, with
// a setup in its environment, and sends it orders.

// childEnv has the setup of a child process.
const childEnv = "FAILOVERREDIS_TEST_CHILD"

// setup is the configuration of a child process.
type setup struct {
	URL        string            // of the organization
	Paths      map[string]string // by host name: the address to connect to
	Tokens     map[string]string // by host name
	Authority  []byte            // certificate, DER
	Redis      string            // address
	Transports int
	Skew       time.Duration // of the process's clock
	Quorum     int
}

// order is an order for a child process.
type order struct {
	// Get is how many Transports make Times requests each, one after the other. 0: the child
	// only reports.
	Get, Times int
}

// report is the answer of a child process.
type report struct {
	Err     string
	Results []result
	Status  []status // of every Transport
}

// result of one request.
type result struct {
	Status int // 0 if there was no response
	Err    string
	Took   time.Duration
}

// status of one Transport.
type status struct {
	Active     failover.Endpoint
	Since      time.Time
	Generation uint64
	Faults     int64 // met by requests
	Probes     int64
	Member     string
	Apart      bool
	StoreErr   string
	Witnesses  int
	Lost       int64 // events
	Found      int64
}

// child is a process of a fleet.
type child struct {
	url        string
	transports []*failover.Transport
	faults     []atomic.Int64
	probes     []atomic.Int64
	lost       []atomic.Int64
	found      []atomic.Int64
}

// runChild serves orders until standard input ends. It returns the exit code.
func runChild(config string) int {
	var s setup
	out := json.NewEncoder(os.Stdout)
	err := json.Unmarshal([]byte(config), &s)
	if err == nil {
		err = serve(s, bufio.NewReader(os.Stdin), out)
	}
	if err != nil {
		out.Encode(report{Err: err.Error()})
		return 1
	}
	return 0
}

func serve(s setup, in io.Reader, out *json.Encoder) error {
	authority, err := x509.ParseCertificate(s.Authority)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	base := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(addr)
			return new(net.Dialer).DialContext(ctx, network, s.Paths[host])
		},
		TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 10,
	}
	for host, token := range s.Tokens { // one connection each, instead of one for every Transport at once
		req, err := http.NewRequest(http.MethodGet, "https://"+host+"/api/data/v9.2/WhoAmI", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := base.RoundTrip(req)
		if err != nil {
			continue // there is an outage
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	client := redis.NewClient(&redis.Options{Addr: s.Redis})
	defer client.Close()
	store := failoverredis.New(client, nil)
	defer store.Close()
	counters := func() []atomic.Int64 { return make([]atomic.Int64, s.Transports) }
	c := &child{url: s.URL, faults: counters(), probes: counters(), lost: counters(), found: counters()}
	for i := range s.Transports {
		t, err := failover.New(s.URL, &failover.Config{
			Base: base, Shared: &skewed{store, s.Skew}, Logger: slog.New(slog.DiscardHandler),
			Authorize: func(req *http.Request) error {
				req.Header.Set("Authorization", "Bearer "+s.Tokens[req.URL.Host])
				return nil
			},
			ProbeInterval: 500 * time.Millisecond, MaxProbeInterval: time.Second,
			MinDwell: -1, Rise: 2, Quorum: s.Quorum, RetryBackoff: 20 * time.Millisecond,
			ProbeTimeout: 20 * time.Second, // hundreds of Transports may probe at once, on a busy machine
			OnFault:      func(context.Context, failover.Attempt) { c.faults[i].Add(1) },
			OnEvent: func(e failover.Event) {
				switch e.Kind {
				case failover.EventProbed:
					c.probes[i].Add(1)
				case failover.EventFleetLost:
					c.lost[i].Add(1)
				case failover.EventFleetFound:
					c.found[i].Add(1)
				}
			},
		})
		if err != nil {
			return err
		}
		defer t.Close()
		c.transports = append(c.transports, t)
	}
	out.Encode(report{Status: c.status()})
	for orders := json.NewDecoder(in); ; {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		results := c.get(o)
		if err := out.Encode(report{Results: results, Status: c.status()}); err != nil {
			return err
		}
	}
}

// get makes the requests of an order.
func (c *child) get(o order) (results []result) {
	var mu sync.Mutex // guards results
	var wg sync.WaitGroup
	for _, t := range c.transports[:min(o.Get, len(c.transports))] {
		client := &http.Client{Transport: t, Timeout: 30 * time.Second}
		wg.Go(func() {
			for range o.Times {
				r := get(client, c.url+"/api/data/v9.2/accounts?$select=name&$top=1")
				mu.Lock()
				results = append(results, r)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return results
}

func get(client *http.Client, url string) result {
	start := time.Now()
	resp, err := client.Get(url)
	if err != nil {
		return result{Err: err.Error(), Took: time.Since(start)}
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return result{Err: fmt.Sprintf("body: %v", err), Took: time.Since(start)}
	}
	return result{Status: resp.StatusCode, Took: time.Since(start)}
}

func (c *child) status() (all []status) {
	for i, t := range c.transports {
		s := t.Status()
		st := status{
			Active: s.Active, Since: s.Since, Generation: s.Generation, Faults: c.faults[i].Load(), Probes: c.probes[i].Load(),
			Member: s.Fleet.Member, Apart: s.Fleet.Apart, Witnesses: s.Fleet.WitnessCount,
			Lost: c.lost[i].Load(), Found: c.found[i].Load(),
		}
		if s.Fleet.Err != nil {
			st.StoreErr = s.Fleet.Err.Error()
		}
		all = append(all, st)
	}
	return all
}

// skewed is a store as a process sees it whose own clock is ahead.
type skewed struct {
	failover.Shared
	ahead time.Duration
}

func (s *skewed) Load(ctx context.Context, organization string) (failover.Record, time.Time, error) {
	r, now, err := s.Shared.Load(ctx, organization)
	if r.Generation != 0 {
		r = shifted(r, -s.ahead)
	}
	return r, now.Add(-s.ahead), err
}

func (s *skewed) CompareAndSwap(ctx context.Context, organization string, generation uint64, next failover.Record) (bool, error) {
	return s.Shared.CompareAndSwap(ctx, organization, generation, shifted(next, s.ahead))
}

func shifted(r failover.Record, by time.Duration) failover.Record {
	r.Since = r.Since.Add(by)
	earlier := make([]time.Time, len(r.Earlier))
	for i, at := range r.Earlier {
		earlier[i] = at.Add(by)
	}
	r.Earlier = earlier
	return r
}
