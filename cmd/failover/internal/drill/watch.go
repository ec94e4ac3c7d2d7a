package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/cmd/failover/internal/network"
	"github.com/d365failover/failover/cmd/failover/internal/signin"
)

// target is the organization that is watched.
type target struct {
	endpoint *url.URL
	second   *url.URL // the alternate address; nil: not watched
	network  *network.Network
	source   signin.Source // may be nil
	timeout  time.Duration // of one request
}

// request returns a request with a token to an address of the organization. It returns an error
// if there is no token.
func (t *target) request(ctx context.Context, method string, endpoint *url.URL, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, endpoint.JoinPath(path).String(), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	req.Header.Set("OData-MaxVersion", "4.0")
	if t.source != nil {
		token, err := t.source(ctx, signin.AudienceOf(endpoint))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

// fresh returns a client that uses a new connection for each request.
func (t *target) fresh() *http.Client {
	transport := t.network.Transport()
	transport.DisableKeepAlives = true
	return &http.Client{Transport: transport, CheckRedirect: noRedirects}
}

func noRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// probePath returns the path that samples request.
func (t *target) probePath() string {
	if network.FinanceAndOperations(t.endpoint.Hostname()) {
		return "/data"
	}
	return "/api/data/v9.2/WhoAmI"
}

// sample makes one request of a series. ok is false if ctx ended meanwhile, so that the sample
// means nothing.
func (t *target) sample(ctx context.Context, series Series, client *http.Client) (s Sample, ok bool) {
	s = Sample{Series: series, Begun: time.Now()}
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	var mu sync.Mutex // a connection may come after the request has ended
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		mu.Lock()
		defer mu.Unlock()
		s.Address, s.Reused = hostOf(info.Conn.RemoteAddr()), info.Reused
	}})
	endpoint := t.endpoint
	if series == Second {
		endpoint = t.second
	}
	req, err := t.request(ctx, http.MethodGet, endpoint, t.probePath(), nil)
	if err != nil {
		return Sample{Series: series, Begun: s.Begun, State: Unclear, Cause: "no token: " + err.Error()}, parent.Err() == nil
	}
	begun := time.Now() // the time for the token does not count
	resp, err := client.Do(req)
	state, cause := t.judge(resp, err)
	mu.Lock()
	defer mu.Unlock()
	s.Begun, s.Took, s.State, s.Cause = begun, time.Since(begun).Seconds(), state, cause
	return s, parent.Err() == nil
}

// hostOf returns the host of an address, or all of it if it has none.
func hostOf(a net.Addr) string {
	if host, _, err := net.SplitHostPort(a.String()); err == nil {
		return host
	}
	return a.String()
}

// judge returns what an answer shows, and closes it.
func (t *target) judge(resp *http.Response, err error) (State, string) {
	fault := failover.Classify(resp, err)
	if resp != nil {
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
		resp.Body.Close()
	}
	switch {
	case fault == nil && resp.StatusCode == http.StatusOK:
		return Served, ""
	case fault == nil:
		return Failed, fmt.Sprintf("answers %d", resp.StatusCode)
	case fault.Class == failover.ClassThrottled:
		return Unclear, cause(fault, t.timeout)
	case t.source == nil && fault.Status == http.StatusUnauthorized:
		return Served, "" // without a sign-in, any answer of the service will do
	}
	return Failed, cause(fault, t.timeout)
}

// cause describes a fault in a few words.
func cause(f *failover.Fault, timeout time.Duration) string {
	var (
		dns *net.DNSError
		op  *net.OpError
	)
	switch {
	case f.Code == "0x8004B065":
		return "fence (0x8004B065)"
	case f.Code != "" && f.Status != 0:
		return fmt.Sprintf("%d %s", f.Status, f.Code)
	case f.Status != 0:
		return fmt.Sprintf("answers %d", f.Status)
	case errors.As(f.Err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(f.Err, &dns):
		return "name not resolved"
	case f.Timeout():
		return fmt.Sprintf("no answer in %v", timeout)
	case errors.As(f.Err, &op) && op.Err != nil:
		err := op.Err
		for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
			err = inner
		}
		return err.Error()
	}
	return f.Class.String()
}

// watch takes samples until ctx ends, and waits for those under way. It calls note for each,
// concurrently.
func (t *target) watch(ctx context.Context, interval time.Duration, note func(Sample)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { t.watchKept(ctx, interval, note) })
	once := func(series Series, name func() []string) {
		var names []string
		var lookup sync.WaitGroup
		lookup.Go(func() { names = name() })
		client := t.fresh()
		s, ok := t.sample(ctx, series, client)
		client.CloseIdleConnections()
		lookup.Wait()
		if s.Name = names; ok {
			note(s)
		}
	}
	every(ctx, interval, func(int) {
		wg.Go(func() { once(New, func() []string { return t.name(ctx) }) })
		if t.second != nil {
			wg.Go(func() { once(Second, func() []string { return nil }) })
		}
	})
}

// name returns the addresses of the organization's name.
func (t *target) name(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	addresses, err := t.network.Addresses(ctx, t.endpoint.Hostname())
	if err != nil {
		return nil
	}
	var list []string
	for _, a := range addresses {
		list = append(list, a.String())
	}
	return list
}

// watchKept takes samples over one kept connection, one at a time.
func (t *target) watchKept(ctx context.Context, interval time.Duration, note func(Sample)) {
	transport := t.network.Transport()
	transport.IdleConnTimeout = 0
	transport.MaxConnsPerHost = 1
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: noRedirects}
	every(ctx, interval, func(int) {
		if s, ok := t.sample(ctx, Kept, client); ok {
			note(s)
		}
	})
}

// every calls f at once and then at every interval until ctx ends, with the number of the call.
// It skips calls that are due while f runs.
func every(ctx context.Context, interval time.Duration, f func(n int)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		f(n)
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}
