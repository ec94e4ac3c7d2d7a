package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverotel"
	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/internal/timeline"
)

// shortest is the shortest demonstration.
const shortest = 3 * time.Second

// demonstrate runs the proxy of a simulated organization, and callers that know nothing about
// failovers, through an outage. It returns the exit status.
func demonstrate(ctx context.Context, org *failovertest.Org, o options, stdout, stderr io.Writer) int {
	addresses, err := failover.ParseOrg(org.URL())
	if err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 1
	}
	line := timeline.New(stdout, addresses)
	provider, metrics, err := newMetrics()
	if err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 1
	}
	transport, err := failoverotel.New(org.URL(), &failover.Config{
		Base:      org.Transport(), // dials the simulator, trusts its certificates
		Authorize: org.Authorize,   // real callers bring their own tokens
		// A real outage takes hours, this one seconds. Outside a demonstration, keep the
		// defaults: 10 s to 60 s, 5 min, 5 s.
		ProbeInterval:    time.Second,
		MaxProbeInterval: time.Second,
		MinDwell:         2 * time.Second,
		RPO:              time.Second,
		OnEvent:          line.OnEvent,
		Logger:           slog.New(slog.DiscardHandler), // the timeline shows the same
	}, failoverotel.WithMeterProvider(provider))
	if err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 1
	}
	defer transport.Close()
	errorLog := log.New(io.Discard, "", 0)
	p, err := newProxy(transport, o.front, errorLog)
	if err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 1
	}
	s, err := start(errorLog, service{o.listen, observed(p, line)}, service{o.admin, statusHandler(transport, metrics, o.front)}, service{o.control, controlHandler(transport)})
	if err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 1
	}
	root := "http://" + s.proxy.addr.String() + "/api/data/v9.2/"
	fmt.Fprintf(stdout, "Callers list and create accounts through the proxy for %v. The organization is simulated\n"+
		"on this machine, and its region fails and recovers meanwhile. Try it:\n\n  curl %saccounts\n", o.duration, root)
	if s.admin.Server != nil {
		fmt.Fprintf(stdout, "  curl 'http://%s/-/failover?format=json'\n  curl http://%[1]s/-/metrics\n", s.admin.addr)
	}
	if s.control.Server != nil {
		fmt.Fprintf(stdout, "  failover status -at http://%s/\n", s.control.addr)
	}
	fmt.Fprintf(stdout, "\n  primary    %s\n  alternate  %s\n\n", addresses.Primary, addresses.Alternate)
	callers := &callers{client: http.DefaultClient, root: root, failed: line.Failed}
	sum := callers.through(ctx, org, line, o.duration)
	sum.Print(stdout)
	missing := callers.missing(context.WithoutCancel(ctx))
	timeline.Item(stdout, "accounts created", len(callers.created), fmt.Sprintf("%d confirmed present by reading them back", len(callers.created)-missing))
	if err := s.stop(o.grace); err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 1
	}
	if missing > 0 || sum.Failures > 0 {
		return 1
	}
	return 0
}

// observed reports to the timeline which endpoint answers.
func observed(next http.Handler, line *timeline.Timeline) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var host string
		began := time.Now()
		ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			GetConn: func(addr string) { host, _, _ = net.SplitHostPort(addr) },
		})
		defer func() { line.Call(r.Method, host, time.Since(began)) }()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// callers are programs that reach the organization at root.
type callers struct {
	client *http.Client
	root   string
	failed func(error)

	mu      sync.Mutex
	created []string // ids of accounts
}

// through sends requests for the duration, in which the organization fails over and back.
func (c *callers) through(ctx context.Context, org *failovertest.Org, line *timeline.Timeline, duration time.Duration) timeline.Summary {
	line.Begin(500 * time.Millisecond)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	for i, job := range []func(context.Context) error{c.list, c.create, c.list, c.create} {
		all.Go(func() { c.work(ctx, job, time.Duration(i)*100*time.Millisecond) })
	}
	line.Play(ctx, duration, []timeline.Scene{
		{Percent: 21, Text: "the primary's region is lost; the alternate takes over", Happen: func() { org.Disaster(failovertest.Refuse()) }},
		{Percent: 54, Switched: true, Text: "the primary's region is back, but the organization is not yet", Happen: org.Primary().Heal},
		{Percent: 67, Text: "the organization is moved back to the primary", Happen: org.FailBack},
		{Percent: 100, Switched: true},
	})
	cancel()
	all.Wait()
	return line.End()
}

// work repeats a job until ctx ends, and finishes a job that has begun.
func (c *callers) work(ctx context.Context, job func(context.Context) error, offset time.Duration) {
	for pause := offset; ; pause = 400 * time.Millisecond {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if err := job(context.WithoutCancel(ctx)); err != nil {
			c.failed(err)
		}
	}
}

// list reads the first accounts, in pages. The links to the next pages are absolute and lead
// through the proxy.
func (c *callers) list(ctx context.Context) error {
	next := c.root + "accounts?$select=name"
	for n := 0; next != "" && n < 25; {
		var page struct {
			Value []any  `json:"value"`
			Next  string `json:"@odata.nextLink"`
		}
		if err := c.do(ctx, http.MethodGet, next, nil, &page); err != nil {
			return fmt.Errorf("list accounts: %w", err)
		}
		n, next = n+len(page.Value), page.Next
	}
	return nil
}

// create creates an account with a new id. The id makes the request safe to repeat, which an
// Idempotency-Key declares: if the first attempt was carried out but its answer was lost, the
// second one is answered 412.
func (c *callers) create(ctx context.Context) error {
	id := newID()
	err := c.do(ctx, http.MethodPost, c.root+"accounts", map[string]string{"accountid": id, "name": "Failover example"}, nil)
	if err != nil && !errors.Is(err, errExists) {
		return fmt.Errorf("create an account: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.created = append(c.created, id)
	return nil
}

// missing returns how many of the created accounts cannot be read.
func (c *callers) missing(ctx context.Context) (n int) {
	for _, id := range c.created {
		if err := c.do(ctx, http.MethodGet, c.root+"accounts("+id+")?$select=name", nil, nil); err != nil {
			n++
		}
	}
	return n
}

var errExists = errors.New("status 412: a record with this id exists")

// do makes a request with in, if not nil, as its body, and decodes the answer into out, if not
// nil. It repeats a read whose answer breaks off, which the proxy cannot do because it has
// already passed on the beginning.
func (c *callers) do(ctx context.Context, method, target string, in, out any) error {
	for try := 1; ; try++ {
		err := c.once(ctx, method, target, in, out)
		if method != http.MethodGet || try == 3 || !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
	}
}

func (c *callers) once(ctx context.Context, method, target string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, target, &body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", newID())
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusPreconditionFailed:
		return errExists
	case resp.StatusCode > 299:
		return fmt.Errorf("status %d %s", resp.StatusCode, answer)
	case out != nil:
		return json.Unmarshal(answer, out)
	}
	return nil
}

// newID returns a random id for a new record.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40 // version and variant of RFC 9562
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
