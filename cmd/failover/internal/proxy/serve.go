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

// servers are the two servers of the program.
type servers struct {
	proxy, admin *http.Server
	addr         net.Addr // of the proxy
	adminAddr    net.Addr // of the status page, nil if there is none
	failed       chan error
}

// start listens and serves: the proxy at listen, and status at admin unless that is
// empty.
func start(listen, admin string, proxy, status http.Handler, errorLog *log.Logger) (*servers, error) {
	s := &servers{failed: make(chan error, 2)}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	if admin != "" {
		adminListener, err := net.Listen("tcp", admin)
		if err != nil {
			ln.Close()
			return nil, err
		}
		s.adminAddr = adminListener.Addr()
		s.admin = newServer(status, errorLog)
		go func() { s.failed <- s.admin.Serve(adminListener) }()
	}
	s.addr = ln.Addr()
	s.proxy = newServer(patient(proxy, patience), errorLog)
	go func() { s.failed <- s.proxy.Serve(ln) }()
	return s, nil
}

// newServer returns a server that slow callers do not hold up. Bodies of any
// length may take any time as long as they move on: see patient.
func newServer(handler http.Handler, errorLog *log.Logger) *http.Server {
	s := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    256 << 10, // a query of 32 KiB, a token of 48
		ErrorLog:          errorLog,
		Protocols:         new(http.Protocols),
		// So that "OPTIONS *" is refused and not answered for the organization.
		DisableGeneralOptionsHandler: true,
	}
	s.Protocols.SetHTTP1(true)
	return s
}

// statusHandler serves what is for the people who run the proxy. It is not part of
// the proxy's address, where every path is the organization's.
func statusHandler(transport *failover.Transport, metrics http.Handler, front front) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/-/failover", transport.StatusHandler())
	mux.Handle("/-/ready", transport.ReadyHandler())
	mux.Handle("/-/metrics", metrics)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := front.origin(r.Host); !ok {
			writeError(w, http.StatusMisdirectedRequest, "WrongHost", "this host name is not one of the proxy's; see its flag -public")
			return
		}
		mux.ServeHTTP(w, r)
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

// stop takes no more requests, waits for those under way until grace is over and
// then cuts them off, which is an error. The status page goes last.
func (s *servers) stop(grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	err := s.proxy.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("requests were still under way after %v and have been cut off", grace)
	}
	s.proxy.Close()
	if s.admin != nil {
		s.admin.Close()
	}
	return err
}

// checkAddress refuses an address that other machines can reach, unless expose
// says that this is meant.
func checkAddress(addr string, expose bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not an address like 127.0.0.1:8365", addr)
	}
	if ip, err := netip.ParseAddr(host); expose || host == "localhost" || err == nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("other machines can reach %q, over connections that are not encrypted; -expose permits it", addr)
}
