// Command example serves metrics in the format of Prometheus. They are those of a client of a
// simulated organization with one outage after the other:
//
//	go run ./failoverotel/example
//	curl http://localhost:9464/metrics
//
// Use it to try the dashboard grafana.json and the rules alerts.yaml. It sends nothing to
// other machines. Ctrl-C ends it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverotel"
	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/sharedtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its environment as parameters. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("example", flag.ContinueOnError)
	flags.SetOutput(stderr)
	address := flags.String("listen", "localhost:9464", "`address` to serve /metrics at")
	period := flags.Duration("period", 2*time.Minute, "`time` from one outage to the next, at least 10s")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0 || *period < 10*time.Second:
		fmt.Fprintln(stderr, "example: -period must be at least 10s, and there are no arguments besides flags")
		return 2
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		fmt.Fprintln(stderr, "example:", err)
		return 1
	}
	org := failovertest.Start(&failovertest.Config{Lag: lag})
	defer org.Close()
	app, err := newApp(org, slog.New(slog.NewTextHandler(stdout, nil)))
	if err != nil {
		fmt.Fprintln(stderr, "example:", err)
		return 1
	}
	defer app.transport.Close()

	mux := http.NewServeMux()
	mux.Handle("/metrics", app.metrics)
	mux.Handle("/debug/failover", app.transport.StatusHandler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	defer server.Close()
	go server.Serve(listener) // until Close
	fmt.Fprintf(stdout, "http://%s/metrics and http://%[1]s/debug/failover\n", listener.Addr())
	for ctx.Err() == nil {
		app.live(ctx, *period)
	}
	return 0
}

// lag is how far the simulated alternate lags behind the primary.
const lag = time.Second

// app is a program that uses an organization and exports metrics.
type app struct {
	org       *failovertest.Org
	client    *http.Client
	transport *failover.Transport
	metrics   http.Handler
}

func newApp(org *failovertest.Org, logger *slog.Logger) (*app, error) {
	registry := prometheus.NewRegistry()
	reader, err := exporter.New(exporter.WithRegisterer(registry))
	if err != nil {
		return nil, err
	}
	client, transport, err := failoverotel.Wrap(org.Client(), org.URL(), &failover.Config{
		Authorize: org.Authorize,
		Logger:    logger,
		Shared:    new(sharedtest.Memory), // a fleet of one; a real fleet uses failoverredis
		// A real outage takes hours, this one seconds. Outside a demonstration, keep the
		// defaults: 10 s to 60 s, and 5 min.
		ProbeInterval:    time.Second,
		MaxProbeInterval: time.Second,
		MinDwell:         time.Second,
	}, failoverotel.WithMeterProvider(sdk.NewMeterProvider(sdk.WithReader(reader))))
	if err != nil {
		return nil, err
	}
	return &app{org, client, transport, promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}, nil
}

// live sends requests for a period in which the organization's region fails and recovers.
func (a *app) live(ctx context.Context, period time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, period)
	defer cancel()
	var workers sync.WaitGroup
	for _, method := range []string{http.MethodGet, http.MethodGet, http.MethodGet, http.MethodPost} {
		workers.Go(func() { a.work(ctx, method) })
	}
	primary := a.org.Primary()
	scenes := []func(){
		// The answers to writes are lost: the writes are in doubt.
		func() { primary.FailWhen(isWrite, failovertest.Reset(failovertest.AfterApply)) },
		// The region is lost, and the alternate does not serve yet: down.
		func() { primary.Fail(failovertest.Refuse()) },
		a.org.FailOver,
		func() {}, // for a while
		primary.Heal,
		a.org.FailBack,
		// These switches count for the latch; pinning and unpinning releases it.
		func() { a.transport.Pin(failover.Primary) },
		a.transport.Unpin,
	}
	for _, happen := range scenes {
		if !wait(ctx, period/time.Duration(len(scenes)+1)) {
			break
		}
		happen()
	}
	workers.Wait()
}

func isWrite(r *http.Request) bool { return r.Method == http.MethodPost }

// work sends one request after the other until ctx ends. The metrics show the results.
func (a *app) work(ctx context.Context, method string) {
	for wait(ctx, 200*time.Millisecond) {
		var body io.Reader
		if method == http.MethodPost {
			body = strings.NewReader(`{"name":"Contoso"}`)
		}
		req, err := http.NewRequestWithContext(ctx, method, a.org.URL()+"/api/data/v9.2/accounts", body)
		if err != nil {
			return
		}
		if resp, err := a.client.Do(req); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
}

// wait waits for d and reports true, or reports false once ctx ends.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
