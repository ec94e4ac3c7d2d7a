// Package wrap puts a failover.Transport between net/http's clients and each *http.Transport:
// one for every scheme and host that requests name.
package wrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"d365failover/failover"
)

// variable is the environment variable that turns the wrapping on. It names a directory, in
// which the process counts what it has done.
const variable = "FAILOVER_SUITES"

// off says which parts of the library are turned off: its errors (the caller gets that of the
// last attempt), sending again, probing, or buffering bodies.
var off = struct{ errors, repeats, probes, holding bool }{
	strings.Contains(os.Getenv(variable+"_OFF"), "errors"),
	strings.Contains(os.Getenv(variable+"_OFF"), "repeats"),
	strings.Contains(os.Getenv(variable+"_OFF"), "probes"),
	strings.Contains(os.Getenv(variable+"_OFF"), "holding"),
}

var notes struct{ through, beside, faults, again, log *os.File }

func init() {
	dir := os.Getenv(variable)
	if dir == "" {
		return
	}
	for name, file := range map[string]**os.File{
		"through": &notes.through, "beside": &notes.beside, "faults": &notes.faults, "again": &notes.again, "log": &notes.log,
	} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
		if err != nil {
			panic(err)
		}
		*file = f
	}
	http.WrapTransport = wrap
}

// organizations are the Transports over one *http.Transport.
type organizations struct {
	base *http.Transport

	mu         sync.Mutex
	transports map[string]http.RoundTripper
}

var all sync.Map // *organizations by *http.Transport

func wrap(base *http.Transport) http.RoundTripper {
	o, ok := all.Load(base)
	if !ok {
		o, _ = all.LoadOrStore(base, &organizations{base: base, transports: make(map[string]http.RoundTripper)})
	}
	return o.(*organizations)
}

func (o *organizations) RoundTrip(req *http.Request) (*http.Response, error) {
	rt := o.transport(req)
	if rt == o.base {
		count(notes.beside)
	} else {
		count(notes.through)
	}
	resp, err := rt.RoundTrip(req)
	var e *failover.Error
	if off.errors && errors.As(err, &e) && len(e.Attempts) > 0 {
		if f := e.Attempts[len(e.Attempts)-1]; f.Err != nil {
			err = f.Err
		}
	}
	return resp, err
}

func (o *organizations) CloseIdleConnections() {
	o.base.CloseIdleConnections()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, rt := range o.transports {
		if t, ok := rt.(*failover.Transport); ok {
			t.CloseIdleConnections()
		}
	}
}

// transport returns the Transport for the host of a request, or the *http.Transport if no
// organization can have that host.
func (o *organizations) transport(req *http.Request) http.RoundTripper {
	if req.URL == nil {
		return o.base
	}
	origin := req.URL.Scheme + "://" + req.URL.Host
	o.mu.Lock()
	defer o.mu.Unlock()
	rt, ok := o.transports[origin]
	if ok {
		return rt
	}
	c := failover.Config{
		Base: o.base, Alternate: failover.NoAlternate, AllowHTTP: true,
		OnFault: noteFault, Logger: slog.New(slog.NewTextHandler(notes.log, nil)),
	}
	if off.repeats {
		c.MaxAttempts = -1
	}
	if off.probes {
		c.FailureThreshold, c.SuspectAfter = -1, -1
		c.Probe = func(context.Context, *http.Client, *url.URL) error { return errors.New("switched off") }
	}
	if off.holding {
		c.MaxBody = -1
	}
	t, err := failover.New(origin, &c)
	if rt = t; err != nil {
		fmt.Fprintf(notes.log, "beside: %q: %v\n", origin, err)
		rt = o.base
	}
	o.transports[origin] = rt
	return rt
}

func noteFault(_ context.Context, a failover.Attempt) {
	count(notes.faults)
	if a.Again {
		count(notes.again)
	}
	fmt.Fprintf(notes.log, "fault: again=%t %v\n", a.Again, a.Fault)
}

// count adds one to a number that outlives the process: the length of a file.
func count(f *os.File) { f.Write([]byte{1}) }

// Close closes every Transport made so far.
func Close() {
	all.Range(func(_, o any) bool {
		o.(*organizations).close()
		return true
	})
}

func (o *organizations) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, rt := range o.transports {
		if t, ok := rt.(*failover.Transport); ok {
			t.Close()
		}
	}
}
