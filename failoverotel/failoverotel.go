// Package failoverotel shows what a [failover.Transport] does through
// OpenTelemetry: as metrics of the organization's endpoints, and as events on
// the spans of the callers that meet faults. Its [New] and [Wrap] are those of
// package failover with instruments; nothing else changes.
//
//	client, transport, err := failoverotel.Wrap(http.DefaultClient, "https://contoso.crm4.dynamics.com", nil)
//	if err != nil {
//		return err
//	}
//	defer transport.Close()
//
// A request that meets no fault costs nothing more than without the package. It
// links the API of OpenTelemetry only; which SDK and exporters there are is up
// to the program.
//
// # Metrics
//
// The meter is named after this package. Every metric has the attribute
// failover.organization, the host of the primary (with the port if the URL has
// one), and those of [WithAttributes]. Where failover.endpoint is listed
// ("primary" or "alternate"), server.address is the host of that endpoint, and
// server.port its port if the URL has one. No attribute holds paths, ids, codes
// or anything else without a bound: an organization has at most 52 series and
// 6 histograms.
//
//	name                            type             unit          attributes
//	failover.active                 up-down counter  {transport}   failover.endpoint
//	failover.circuit_breaker.state  up-down counter  {transport}   failover.endpoint, failover.circuit_breaker.state
//	failover.down                   up-down counter  {transport}
//	failover.pinned                 up-down counter  {transport}
//	failover.latched                up-down counter  {transport}
//	failover.downtime               counter          s
//	failover.switches               counter          {switch}      failover.from, failover.to
//	failover.renewals               counter          {renewal}     failover.endpoint
//	failover.refused_switches       counter          {switch}      failover.from, failover.to
//	failover.faults                 counter          {fault}       failover.endpoint, error.type
//	failover.replays                counter          {attempt}     failover.from, failover.to, error.type
//	failover.unknown_outcomes       counter          {write}       failover.endpoint
//	failover.probe.duration         histogram        s             failover.endpoint, failover.probe.result
//	failover.loss_report.writes     up-down counter  {write}       failover.write.state
//	failover.loss_report.truncated  up-down counter  {transport}
//	failover.dropped_events         counter          {event}
//	failover.fleet.apart            up-down counter  {transport}
//	failover.fleet.failing          up-down counter  {transport}
//
// What is counted in {transport} is 1 where it applies and 0 where it does not.
// These are up-down counters and not gauges so that sums say how many
// Transports it applies to, be they of one program or of many.
//
//   - failover.active is 1 for the endpoint that the traffic goes to.
//   - failover.circuit_breaker.state is 1 for the state that the breaker of the
//     endpoint is in: "closed", "half-open" or "open".
//   - failover.down, failover.pinned and failover.latched are the fields of
//     [failover.Status]. Down: no endpoint passes its probe. Pinned: by hand. Latched:
//     four switches within an hour, so further ones wait for a person.
//   - failover.downtime is [failover.Status.TimeDown]. It grows while down.
//   - failover.switches counts switches, and failover.refused_switches those that
//     were considered and refused. With one address, refused switches are from
//     "primary" to "primary".
//   - failover.renewals counts [failover.EventRenewed]: requests to the endpoint have
//     failed or waited, it passes its probe over a new connection, and there is
//     evidence that the organization has been moved behind the address. All
//     connections are new from then on.
//   - failover.faults counts the faults of requests by class: error.type is
//     "application", "auth", "throttled", "transient", "unavailable",
//     "canceled" or "local". Only "transient" and "unavailable" count towards the
//     circuit breaker; "local" is caused by this machine or the program.
//   - failover.replays counts attempts that repeat one with a fault of class
//     error.type. From and to are the endpoints of the two attempts.
//   - failover.unknown_outcomes counts writes in doubt.
//   - failover.probe.duration is that of probes; failover.probe.result is "passed",
//     "failed" or "inconclusive".
//   - failover.loss_report.writes is the number of writes in the latest report:
//     failover.write.state is "at_risk" or "unknown". If
//     failover.loss_report.truncated is 1, there may be more.
//   - failover.dropped_events is [failover.Status.EventsDropped]. If it grows, the
//     program's OnEvent is too slow, and switches, refused switches, unknown
//     outcomes and probes are counted too low.
//   - failover.fleet.apart and failover.fleet.failing exist with
//     [failover.Config.Shared] only. Apart: this process is not at its fleet's
//     endpoint. Failing: the store counts as lost, see [failover.FleetStatus].Err.
//
// Counters begin with 0, so that the first switch is an increase. After
// [failover.Transport.Close] a last collection still shows the faults, the
// downtime and the dropped events, later ones nothing that is read from the
// Transport.
//
// # Alerts
//
// Page somebody if failover.down stays 1 for some minutes, if failover.latched is
// 1, or if failover.refused_switches keeps growing: the traffic fails and there is
// no switch. Open a ticket for any increase of failover.switches,
// failover.renewals or failover.downtime with failover.loss_report.writes over 0
// or truncated, of failover.unknown_outcomes or failover.dropped_events, and for
// failover.pinned for a day. Do not alert on failover.faults, which replays are
// for, nor on silence. The file alerts.yaml has these as rules for Prometheus, and
// grafana.json is a dashboard.
//
// # Span events
//
// If the context of a request has a span that records, each fault that the
// request meets is an event "failover.fault" on it, also if the caller gets an
// answer in the end. Its attributes are failover.organization,
// failover.endpoint, server.address (and server.port) of the endpoint that the
// attempt went to; error.type, the class; http.request.method, "_OTHER" if it is neither
// PATCH nor of RFC 9110; failover.fault.delivery, "unknown", "not sent", "refused" or "answered";
// failover.fault.definitive; failover.fault.text, the text of
// [failover.Fault.Error]; failover.attempt, the number of the attempt from 1;
// failover.again, whether another one follows, and if it does failover.to, the
// endpoint that it goes to. Where they are known there are
// http.response.status_code, failover.fault.code and failover.fault.request_id.
// There are no queries, user info, headers but the request id, or bodies. Name
// and status of the span are left alone.
package failoverotel

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/d365failover/failover"
)

// scope is the name of the meter.
const scope = "github.com/d365failover/failover/failoverotel"

// An Option adjusts [New] and [Wrap].
type Option func(*options)

type options struct {
	provider   metric.MeterProvider
	attributes []attribute.KeyValue
}

// WithMeterProvider sets where the metrics go. Nil, and the default:
// [otel.GetMeterProvider], which may be set later, too.
func WithMeterProvider(provider metric.MeterProvider) Option {
	return func(o *options) { o.provider = provider }
}

// WithAttributes adds attributes to every metric, and to no span event. It tells
// several Transports of one organization in one program apart; without it they
// share their series, as their sum. The attributes of this package win over
// others of their name.
func WithAttributes(attributes ...attribute.KeyValue) Option {
	return func(o *options) { o.attributes = append(o.attributes, attributes...) }
}

// New is [failover.New] with metrics and span events. OnEvent and OnFault of cfg
// are called as they would be without this package. A nil cfg means defaults,
// and cfg is not changed.
//
// What the OpenTelemetry API has to object to goes to [otel.Handle] and is no
// error of New; the Transport then works without metrics.
func New(orgURL string, cfg *failover.Config, opts ...Option) (*failover.Transport, error) {
	return observed(orgURL, cfg, opts, func(cfg *failover.Config) (*failover.Transport, error) {
		return failover.New(orgURL, cfg)
	})
}

// Wrap is [failover.Wrap] with what [New] adds.
func Wrap(client *http.Client, orgURL string, cfg *failover.Config, opts ...Option) (*http.Client, *failover.Transport, error) {
	var wrapped *http.Client
	transport, err := observed(orgURL, cfg, opts, func(cfg *failover.Config) (t *failover.Transport, err error) {
		wrapped, t, err = failover.Wrap(client, orgURL, cfg)
		return t, err
	})
	return wrapped, transport, err
}

// observed makes a Transport with the hooks of an observer in its Config, and
// lets the observer watch it.
func observed(orgURL string, cfg *failover.Config, opts []Option, create func(*failover.Config) (*failover.Transport, error)) (*failover.Transport, error) {
	var c failover.Config
	if cfg != nil {
		c = *cfg
	}
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.provider == nil {
		o.provider = otel.GetMeterProvider()
	}
	obs := &observer{ready: make(chan struct{})}
	c.OnEvent, c.OnFault = obs.beforeEvent(c.OnEvent), obs.beforeFault(c.OnFault)
	transport, err := create(&c)
	if err != nil {
		return nil, err
	}
	org := transport.Org()
	obs.init(o.provider.Meter(scope), org.Primary, org.Alternate, o.attributes)
	obs.watch(transport.Status)
	return transport, nil
}

// observer measures one Transport.
type observer struct {
	ready chan struct{} // closed by init: events may come before New has returned

	*instruments
	meter        metric.Meter
	organization attribute.KeyValue
	oneAddress   bool
	common       []attribute.KeyValue    // of every metric, the organization included
	endpoints    [2][]attribute.KeyValue // of every metric and event of an endpoint
}

// init makes an observer ready, for the endpoints of an organization.
func (o *observer) init(meter metric.Meter, primary, alternate *url.URL, attributes []attribute.KeyValue) {
	defer close(o.ready)
	o.meter = meter
	o.organization = keyOrganization.String(primary.Host)
	o.oneAddress = alternate == nil
	o.common = append(slices.Clone(attributes), o.organization)
	o.endpoints = [2][]attribute.KeyValue{
		failover.Primary:   endpointAttributes(failover.Primary, primary),
		failover.Alternate: endpointAttributes(failover.Alternate, alternate),
	}
	var err error
	if o.instruments, err = newInstruments(meter); err != nil {
		otel.Handle(err)
		o.meter = noop.Meter{}
		o.instruments, _ = newInstruments(o.meter)
	}
}

// beforeEvent returns next with what the observer does before it.
func (o *observer) beforeEvent(next func(failover.Event)) func(failover.Event) {
	return func(e failover.Event) {
		<-o.ready
		o.countEvent(e)
		if next != nil {
			next(e)
		}
	}
}

// beforeFault returns next with what the observer does before it.
func (o *observer) beforeFault(next func(context.Context, failover.Attempt)) func(context.Context, failover.Attempt) {
	return func(ctx context.Context, a failover.Attempt) {
		<-o.ready
		o.countFault(ctx, a)
		o.addSpanEvent(ctx, a)
		if next != nil {
			next(ctx, a)
		}
	}
}
