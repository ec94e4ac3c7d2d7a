// Package failoverotel reports what a [failover.Transport] does through OpenTelemetry: as
// metrics, and as events on the spans of requests that meet faults. Its [New] and [Wrap] are
// those of package failover with instrumentation, and otherwise work the same.
//
//	client, transport, err := failoverotel.Wrap(http.DefaultClient, "https://contoso.crm4.dynamics.com", nil)
//	if err != nil {
//		return err
//	}
//	defer transport.Close()
//
// Instrumentation adds no cost to a request that meets no fault. The package depends only on
// the API of OpenTelemetry; the program chooses the SDK and the exporters.
//
// # Metrics
//
// The name of the meter is the path of this package. Every metric has the attribute
// failover.organization, the host of the primary (with the port if the URL has one), and the
// attributes of [WithAttributes]. Metrics with failover.endpoint ("primary" or "alternate")
// also have server.address, the host of that endpoint, and server.port if its URL has a
// port. No attribute holds paths, ids, codes or other unbounded values: an organization has
// at most 52 series and 6 histograms.
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
// Metrics in {transport} are 1 where the condition holds and 0 where it does not. They are
// up-down counters rather than gauges, so that their sum is the number of Transports for
// which it holds, in one program or in many.
//
//   - failover.active is 1 for the active endpoint.
//   - failover.circuit_breaker.state is 1 for the state of the endpoint's circuit breaker:
//     "closed", "half-open" or "open".
//   - failover.down, failover.pinned and failover.latched are the fields of
//     [failover.Status]. Down: no endpoint passes its probe. Pinned: by hand. Latched: four
//     switches within an hour, so further ones need a person, a fence, or time.
//   - failover.downtime is [failover.Status.TimeDown]. It grows while down.
//   - failover.switches counts switches, and failover.refused_switches those that were
//     considered and refused. With one address, refused switches are from "primary" to
//     "primary".
//   - failover.renewals counts [failover.EventRenewed]: the organization may have been moved
//     behind the endpoint's address, so further requests go over new connections.
//   - failover.faults counts the faults of requests by class: error.type is "application",
//     "auth", "throttled", "transient", "unavailable", "canceled" or "local". Only
//     "transient" and "unavailable" count towards the circuit breaker. "local" faults come
//     from this machine or program.
//   - failover.replays counts attempts that repeat one with a fault of class error.type.
//     From and to are the endpoints of the two attempts.
//   - failover.unknown_outcomes counts writes in doubt.
//   - failover.probe.duration is the duration of probes. failover.probe.result is "passed",
//     "failed" or "inconclusive".
//   - failover.loss_report.writes is the number of writes in the latest loss report:
//     failover.write.state is "at_risk" or "unknown". There may be more if
//     failover.loss_report.truncated is 1.
//   - failover.dropped_events is [failover.Status.EventsDropped]. If it grows, the program's
//     OnEvent is too slow, and the counts of switches, renewals, refused switches, unknown
//     outcomes and probes are too low.
//   - failover.fleet.apart and failover.fleet.failing exist only with
//     [failover.Config.Shared]. Apart: the fleet's endpoint is not active in this process.
//     Failing: the store counts as lost; see [failover.FleetStatus].Err.
//
// Counters start at 0, so that the first switch is an increase. After
// [failover.Transport.Close], one more collection reports the faults, the downtime and the
// dropped events.
//
// # Alerts
//
// The file alerts.yaml has rules for Prometheus, and grafana.json is a dashboard. With
// another system, page somebody if failover.down stays 1 for 5 minutes, if failover.latched
// is 1, if failover.refused_switches or failover.renewals keep growing (requests fail, but
// the traffic does not switch), or if Transports of one organization stay at different
// endpoints. Open a ticket for any increase of failover.switches, failover.renewals,
// failover.unknown_outcomes or failover.dropped_events; if a loss report lists writes or is
// truncated after a switch, a renewal or an outage; and if a Transport is pinned or at the
// alternate for a day. Do not alert on failover.faults, which the library handles, or on
// missing data.
//
// # Span events
//
// If the context of a request has a recording span, each fault of the request is an event
// "failover.fault" on it, even if the caller gets a healthy answer in the end. The
// attributes of the event are:
//
//   - failover.organization
//   - failover.endpoint, server.address and server.port: the endpoint of the attempt
//   - error.type: the class of the fault
//   - http.request.method: "_OTHER" if it is neither PATCH nor a method of RFC 9110
//   - failover.fault.delivery: "unknown", "not sent", "refused" or "answered"
//   - failover.fault.definitive
//   - failover.fault.text: the text of [failover.Fault.Error]
//   - failover.attempt: the number of the attempt, from 1
//   - failover.again: whether another attempt follows; if so, failover.to is its endpoint
//   - if known, http.response.status_code, failover.fault.code and
//     failover.fault.request_id
//
// Events hold no queries, user info, bodies, or headers other than the request id. The
// package changes neither name nor status of the span.
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

// WithMeterProvider sets the provider of the meter. Nil, or without this option:
// [otel.GetMeterProvider], which the program may set later.
func WithMeterProvider(provider metric.MeterProvider) Option {
	return func(o *options) { o.provider = provider }
}

// WithAttributes adds attributes to every metric, but not to span events. Use it to
// distinguish Transports of one organization in one program; without it, their values are
// added up in the same series. An attribute of this package takes precedence over one with
// the same name.
func WithAttributes(attributes ...attribute.KeyValue) Option {
	return func(o *options) { o.attributes = append(o.attributes, attributes...) }
}

// New is [failover.New] with metrics and span events. It calls OnEvent and OnFault of cfg as
// failover.New does. A nil cfg means defaults; cfg is not changed.
//
// Errors of the OpenTelemetry API go to [otel.Handle], and New does not return them; the
// Transport then works without metrics.
func New(orgURL string, cfg *failover.Config, opts ...Option) (*failover.Transport, error) {
	return observed(orgURL, cfg, opts, func(cfg *failover.Config) (*failover.Transport, error) {
		return failover.New(orgURL, cfg)
	})
}

// Wrap is [failover.Wrap] with metrics and span events, like [New].
func Wrap(client *http.Client, orgURL string, cfg *failover.Config, opts ...Option) (*http.Client, *failover.Transport, error) {
	var wrapped *http.Client
	transport, err := observed(orgURL, cfg, opts, func(cfg *failover.Config) (t *failover.Transport, err error) {
		wrapped, t, err = failover.Wrap(client, orgURL, cfg)
		return t, err
	})
	return wrapped, transport, err
}

// observed creates a Transport with the hooks of an observer in its Config, and lets the
// observer watch it.
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
	ready chan struct{} // closed by init, because events may come before New has returned

	*instruments
	meter        metric.Meter
	organization attribute.KeyValue
	oneAddress   bool
	common       []attribute.KeyValue    // of every metric, the organization included
	endpoints    [2][]attribute.KeyValue // of every metric and event of an endpoint
}

// init prepares an observer for the endpoints of an organization.
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

// beforeEvent returns a function that counts an event and then calls next.
func (o *observer) beforeEvent(next func(failover.Event)) func(failover.Event) {
	return func(e failover.Event) {
		<-o.ready
		o.countEvent(e)
		if next != nil {
			next(e)
		}
	}
}

// beforeFault returns a function that counts and traces a fault and then calls next.
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
