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
	// defaultControl is that of commands, which move the traffic.
	defaultControl = "127.0.0.1:8367"
	// anyPort is for demonstrations, of which there may be several.
	anyPort = "127.0.0.1:0"
)

// options are what the flags say.
type options struct {
	org, alternate, public string
	listen, admin, control string
	expose                 bool
	attemptTimeout, grace  time.Duration
	duration               time.Duration
	front                  front
}

// Main is the subcommand: it serves until ctx ends and the requests under way
// have ended, too. It returns the exit status: 0, 1 if requests had to be cut off
// or an address is in use, or 2 for a mistake on the command line.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("failover proxy", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.org, "org", "", "`URL` of the organization (default: a simulated one, for a demonstration)")
	flags.StringVar(&o.alternate, "alternate", "", "`URL` of its alternate endpoint, where no rule leads to it")
	flags.StringVar(&o.listen, "listen", "", "`address` for callers (default "+defaultListen+")")
	flags.StringVar(&o.admin, "admin", "", "`address` of status page, readiness and metrics, or \"none\" (default "+defaultAdmin+")")
	flags.StringVar(&o.control, "control", "", "`address` on this machine where people switch, pin, unpin and verify, or \"none\" (default "+defaultControl+")")
	flags.StringVar(&o.public, "public", "", "`URL` by which callers know the proxy, if not by an IP address or as localhost")
	flags.BoolVar(&o.expose, "expose", false, "permit addresses that other machines can reach")
	flags.DurationVar(&o.attemptTimeout, "attempt-timeout", 0, "longest wait for the headers of an answer (default 150s)")
	flags.DurationVar(&o.grace, "grace", 30*time.Second, "how long requests under way may take after SIGTERM")
	flags.DurationVar(&o.duration, "duration", 0, "how long the demonstration takes (default 12s)")
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

// check completes the options and refuses those that make no sense.
func (o *options) check(arguments int) error {
	simulated := o.org == ""
	if arguments > 0 || o.duration < 0 || o.grace < 0 || o.attemptTimeout < 0 {
		return errors.New("there is nothing but flags, and no duration is negative")
	}
	if simulated && (o.alternate != "" || o.duration != 0 && o.duration < shortest) || !simulated && o.duration != 0 {
		return fmt.Errorf("-alternate needs -org; -duration is for demonstrations and %v at least", shortest)
	}
	if o.public != "" {
		u, err := url.Parse(o.public)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
			return errors.New("-public is a URL of scheme, host and port")
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
		err = errors.Join(err, errors.New("-control is an address like "+defaultControl+" that only this machine can reach, because whoever reaches it moves the traffic; "+
			"put something in front of it that asks people who they are"))
	}
	return err
}

// newBase returns the default transport with a bound on the header of an answer
// that is in proportion to what a proxy of many callers has to hold.
func newBase() *http.Transport {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.MaxResponseHeaderBytes = 256 << 10
	return base
}

// serve is the proxy of a real organization. It returns when ctx has ended and
// the requests under way have, too.
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

// serveWith is serve with a Transport.
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
		fmt.Fprintf(stdout, "its status is at http://%s/-/failover, metrics for Prometheus at http://%[1]s/-/metrics\n", s.admin.addr)
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
