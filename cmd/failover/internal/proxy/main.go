package proxy

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverotel"
	"github.com/d365failover/failover/failovertest"
)

const (
	defaultListen = "127.0.0.1:8365"
	defaultAdmin  = "127.0.0.1:8366"
	// defaultControl is the address of the ControlHandler.
	defaultControl = "127.0.0.1:8367"
	// anyPort is for demonstrations, several of which may run at the same time.
	anyPort = "127.0.0.1:0"
)

// options are set by the flags.
type options struct {
	org, alternate, public string
	listen, admin, control string
	expose                 bool
	attemptTimeout, grace  time.Duration
	duration               time.Duration
	front                  front
}

// Main runs the subcommand: it serves until ctx ends, and waits for the requests under way. It
// returns the exit status: 0, 1 if requests had to be cut off or an address is in use, or 2
// for a mistake on the command line.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("failover proxy", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.org, "org", "", "`URL` of the organization (default: a simulated one, for a demonstration)")
	flags.StringVar(&o.alternate, "alternate", "", "`URL` of its alternate endpoint (default: by Microsoft's rule, the organization's name with --s added)")
	flags.StringVar(&o.listen, "listen", "", "`address` for callers (default "+defaultListen+")")
	flags.StringVar(&o.admin, "admin", "", "`address` of the status page, readiness and metrics, or \"none\" (default "+defaultAdmin+")")
	flags.StringVar(&o.control, "control", "", "`address` on this machine for the commands switch, pin, unpin and verify, or \"none\" (default "+defaultControl+")")
	flags.StringVar(&o.public, "public", "", "`URL` of the proxy for callers, unless they use an IP address or localhost")
	flags.BoolVar(&o.expose, "expose", false, "allow addresses that other machines can reach")
	flags.DurationVar(&o.attemptTimeout, "attempt-timeout", 0, "maximum `time` to wait for the headers of an answer (default: no limit)")
	flags.DurationVar(&o.grace, "grace", 30*time.Second, "maximum `time` for requests under way after SIGTERM")
	flags.DurationVar(&o.duration, "duration", 0, "length of the demonstration (default 12s)")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if err := o.check(flags.NArg()); err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 2
	}
	if o.org != "" {
		return serve(ctx, o, stdout, stderr)
	}
	org := failovertest.Start(nil)
	defer org.Close()
	return demonstrate(ctx, org, o, stdout, stderr)
}

// check sets defaults and rejects invalid options.
func (o *options) check(arguments int) error {
	simulated := o.org == ""
	if arguments > 0 || o.duration < 0 || o.grace < 0 || o.attemptTimeout < 0 {
		return errors.New("there are no arguments besides flags, and durations must not be negative")
	}
	if simulated && (o.alternate != "" || o.duration != 0 && o.duration < shortest) || !simulated && o.duration != 0 {
		return fmt.Errorf("-alternate needs -org; -duration is only for demonstrations and at least %v", shortest)
	}
	if o.public != "" {
		u, err := url.Parse(o.public)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
			return errors.New("-public must be a URL of only scheme, host and port")
		}
		o.front.public = u
	}
	listen, admin, control := defaultListen, defaultAdmin, defaultControl
	if simulated {
		listen, admin, control, o.duration = anyPort, anyPort, anyPort, cmp.Or(o.duration, 12*time.Second)
	}
	o.listen, o.admin, o.control = cmp.Or(o.listen, listen), cmp.Or(o.admin, admin), cmp.Or(o.control, control)
	err := checkAddress(o.listen, o.expose)
	if o.admin == "none" {
		o.admin = ""
	} else {
		err = errors.Join(err, checkAddress(o.admin, o.expose))
	}
	if o.control == "none" {
		o.control = ""
	} else if checkAddress(o.control, false) != nil {
		err = errors.Join(err, errors.New("-control must be an address like "+defaultControl+" that only this machine can reach, because it does not "+
			"authenticate anybody; put a proxy that does in front of it"))
	}
	return err
}

// newBase returns the default transport with a smaller bound on response headers, because a
// proxy holds those of many callers, and with pings that find dead HTTP/2 connections, as the
// default of failover.Config has them.
func newBase() *http.Transport {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.MaxResponseHeaderBytes = 256 << 10
	base.HTTP2 = &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}
	return base
}

// serve runs the proxy of a real organization. It returns after ctx and the requests under way
// have ended.
func serve(ctx context.Context, o options, stdout, stderr io.Writer) int {
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	provider, metrics, err := newMetrics()
	if err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 1
	}
	transport, err := failoverotel.New(o.org, &failover.Config{
		Base:           newBase(),
		Alternate:      o.alternate,
		AttemptTimeout: o.attemptTimeout,
		Logger:         logger,
	}, failoverotel.WithMeterProvider(provider))
	if err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 2
	}
	defer transport.Close()
	return serveWith(ctx, o, transport, metrics, slog.NewLogLogger(logger.Handler(), slog.LevelWarn), stdout, stderr)
}

// serveWith is serve with a given Transport.
func serveWith(ctx context.Context, o options, transport *failover.Transport, metrics http.Handler, errorLog *log.Logger, stdout, stderr io.Writer) int {
	p, err := newProxy(transport, o.front, errorLog)
	if err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 2
	}
	s, err := start(errorLog, service{o.listen, p}, service{o.admin, statusHandler(transport, metrics, o.front)}, service{o.control, controlHandler(transport)})
	if err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 1
	}
	fmt.Fprintf(stdout, "%s is at http://%s\n", p.org.primary, s.proxy.addr)
	if s.admin.Server != nil {
		fmt.Fprintf(stdout, "its status is at http://%s/-/failover, its metrics for Prometheus are at http://%[1]s/-/metrics\n", s.admin.addr)
	}
	if s.control.Server != nil {
		fmt.Fprintf(stdout, "it takes commands at http://%s/\n", s.control.addr)
	}
	err = errors.Join(s.wait(ctx), s.stop(o.grace))
	if err != nil {
		fmt.Fprintln(stderr, "failover proxy:", err)
		return 1
	}
	return 0
}
