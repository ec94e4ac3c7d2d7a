package proxy

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/d365failover/failover"
)

// A service is a handler and its address, "" for none.
type service struct {
	listen  string
	handler http.Handler
}

// servers are the servers of the program.
type servers struct {
	proxy, admin, control running // the latter two may be missing
	failed                chan error
}

// running is a server that listens. The zero value is none.
type running struct {
	*http.Server
	addr net.Addr
}

// start listens at all addresses and serves.
func start(errorLog *log.Logger, proxy, admin, control service) (*servers, error) {
	s := &servers{failed: make(chan error, 3)}
	proxy.handler = patient(proxy.handler, patience)
	for _, each := range []struct {
		service
		running *running
	}{{proxy, &s.proxy}, {admin, &s.admin}, {control, &s.control}} {
		if each.listen == "" {
			continue
		}
		ln, err := net.Listen("tcp", each.listen)
		if err != nil {
			s.close()
			return nil, err
		}
		*each.running = running{newServer(each.handler, errorLog), ln.Addr()}
		if each.running != &s.proxy { // their answers are short, but verify may take minutes
			each.running.ReadTimeout, each.running.WriteTimeout = 10*time.Second, 10*time.Minute
		}
		go func() { s.failed <- each.running.Serve(ln) }()
	}
	return s, nil
}

// close cuts off the requests under way.
func (s *servers) close() {
	for _, r := range []running{s.proxy, s.admin, s.control} {
		if r.Server != nil {
			r.Close()
		}
	}
}

// newServer returns a server that slow callers do not block. Bodies may take any time as long as
// they make progress: see patient.
func newServer(handler http.Handler, errorLog *log.Logger) *http.Server {
	s := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    256 << 10, // a query of 32 KiB, a token of 48 KiB
		ErrorLog:          errorLog,
		Protocols:         new(http.Protocols),
		// So that "OPTIONS *" is rejected rather than answered for the organization.
		DisableGeneralOptionsHandler: true,
	}
	s.Protocols.SetHTTP1(true)
	return s
}

// statusHandler serves the status page, readiness and metrics for the operators of the proxy. It
// has its own address, because every path of the proxy's belongs to the organization.
func statusHandler(transport *failover.Transport, metrics http.Handler, front front) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/-/failover", transport.StatusHandler())
	mux.Handle("/-/ready", transport.ReadyHandler())
	mux.Handle("/-/metrics", metrics)
	return addressed(front, mux)
}

// controlHandler serves the ControlHandler. It does not authenticate anybody, so it has an
// address that only this machine can reach.
func controlHandler(transport *failover.Transport) http.Handler {
	return addressed(front{}, transport.ControlHandler())
}

// addressed serves only requests that name the proxy: see front.origin.
func addressed(front front, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := front.origin(r.Host); !ok {
			writeError(w, http.StatusMisdirectedRequest, "WrongHost", "this host name is not one of the proxy's; see its flag -public")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// wait returns when ctx ends, or with the error of a server that has failed.
func (s *servers) wait(ctx context.Context) error {
	select {
	case err := <-s.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// stop accepts no more requests, waits for those under way until grace is over, and then cuts
// them off, which is an error. It stops the status page last.
func (s *servers) stop(grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	err := s.proxy.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("requests were still under way after %v and have been cut off", grace)
	}
	s.close()
	return err
}

// checkAddress rejects an address that other machines can reach, unless expose is set.
func checkAddress(addr string, expose bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not an address like 127.0.0.1:8365", addr)
	}
	if ip, err := netip.ParseAddr(host); expose || host == "localhost" || err == nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("other machines could reach %q over connections that are not encrypted; -expose allows that", addr)
}
