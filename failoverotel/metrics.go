package failoverotel

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strconv"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/d365failover/failover"
)

// Keys of attributes. Those outside the namespace "failover" are from the semantic
// conventions.
const (
	keyOrganization = attribute.Key("failover.organization")
	keyEndpoint     = attribute.Key("failover.endpoint")
	keyFrom         = attribute.Key("failover.from")
	keyTo           = attribute.Key("failover.to")
	keyState        = attribute.Key("failover.circuit_breaker.state")
	keyResult       = attribute.Key("failover.probe.result")
	keyWriteState   = attribute.Key("failover.write.state")

	keyServerAddress = attribute.Key("server.address")
	keyServerPort    = attribute.Key("server.port")
	keyErrorType     = attribute.Key("error.type")
	keyMethod        = attribute.Key("http.request.method")
	keyStatusCode    = attribute.Key("http.response.status_code")
)

var (
	endpoints = []failover.Endpoint{failover.Primary, failover.Alternate}
	states    = []failover.State{failover.StateClosed, failover.StateHalfOpen, failover.StateOpen}
	classes   = []failover.Class{
		failover.ClassApplication, failover.ClassAuth, failover.ClassThrottled,
		failover.ClassTransient, failover.ClassUnavailable, failover.ClassCanceled, failover.ClassLocal,
	}
	// repeatable are the classes of faults after which another attempt may follow.
	repeatable = []failover.Class{failover.ClassThrottled, failover.ClassTransient, failover.ClassUnavailable}
)

// probeBuckets are the buckets, in seconds, that the semantic conventions recommend for the
// durations of HTTP requests.
var probeBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}

// instruments are all metrics of the package.
type instruments struct {
	// Updated as events happen:
	switches, renewals, refused, replays, unknown metric.Int64Counter
	probes                                        metric.Float64Histogram

	// Read from Status during a collection:
	active, breaker, down, pinned, latched, writes, truncated, apart, failing metric.Int64ObservableUpDownCounter
	faults, dropped                                                           metric.Int64ObservableCounter
	downtime                                                                  metric.Float64ObservableCounter
}

// newInstruments creates the instruments of a meter.
func newInstruments(m metric.Meter) (*instruments, error) {
	var errs []error
	counter := func(name, unit, text string) metric.Int64Counter {
		i, err := m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(text))
		errs = append(errs, err)
		return i
	}
	observed := func(name, unit, text string) metric.Int64ObservableCounter {
		i, err := m.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(text))
		errs = append(errs, err)
		return i
	}
	level := func(name, unit, text string) metric.Int64ObservableUpDownCounter {
		i, err := m.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(text))
		errs = append(errs, err)
		return i
	}
	const transport = "{transport}"
	in := &instruments{
		switches: counter("failover.switches", "{switch}", "Switches from one endpoint to the other."),
		renewals: counter("failover.renewals", "{renewal}", "Renewals of all connections because the organization may have been moved behind its address."),
		refused:  counter("failover.refused_switches", "{switch}", "Switches that were considered and refused."),
		replays:  counter("failover.replays", "{attempt}", "Attempts that repeat one with a fault."),
		unknown:  counter("failover.unknown_outcomes", "{write}", "Writes that may or may not have been carried out."),

		active:    level("failover.active", transport, "1 for the active endpoint, 0 for the other."),
		breaker:   level("failover.circuit_breaker.state", transport, "1 for the state of the endpoint's circuit breaker, 0 for the others."),
		down:      level("failover.down", transport, "1 while no endpoint passes its probe."),
		pinned:    level("failover.pinned", transport, "1 while pinned to an endpoint by hand."),
		latched:   level("failover.latched", transport, "1 while latched: after too many switches, further ones need a person, a fence, or time."),
		writes:    level("failover.loss_report.writes", "{write}", "Writes in the latest loss report."),
		truncated: level("failover.loss_report.truncated", transport, "1 if the latest loss report may lack writes."),
		apart:     level("failover.fleet.apart", transport, "1 while the fleet's endpoint is not active here."),
		failing:   level("failover.fleet.failing", transport, "1 while the fleet's store counts as lost."),

		faults:  observed("failover.faults", "{fault}", "Faults of requests."),
		dropped: observed("failover.dropped_events", "{event}", "Events that were dropped because OnEvent was too slow."),
	}
	var err error
	in.probes, err = m.Float64Histogram("failover.probe.duration", metric.WithUnit("s"),
		metric.WithDescription("Duration of probes."), metric.WithExplicitBucketBoundaries(probeBuckets...))
	errs = append(errs, err)
	in.downtime, err = m.Float64ObservableCounter("failover.downtime", metric.WithUnit("s"),
		metric.WithDescription("Time in which no endpoint passed its probe."))
	return in, errors.Join(append(errs, err)...)
}

// observables returns the instruments that watch fills.
func (in *instruments) observables() []metric.Observable {
	return []metric.Observable{in.active, in.breaker, in.down, in.pinned, in.latched, in.writes, in.truncated,
		in.apart, in.failing, in.faults, in.dropped, in.downtime}
}

// endpointAttributes returns the attributes of an endpoint.
func endpointAttributes(e failover.Endpoint, u *url.URL) []attribute.KeyValue {
	attributes := []attribute.KeyValue{keyEndpoint.String(e.String())}
	if u == nil { // the organization has one address
		return attributes
	}
	attributes = append(attributes, keyServerAddress.String(u.Hostname()))
	if port, err := strconv.Atoi(u.Port()); err == nil {
		attributes = append(attributes, keyServerPort.Int(port))
	}
	return attributes
}

// with returns the attributes of a metric of the organization.
func (o *observer) with(attributes ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(slices.Concat(o.common, attributes)...)
}

// at returns the attributes of a metric of an endpoint.
func (o *observer) at(e failover.Endpoint, attributes ...attribute.KeyValue) metric.MeasurementOption {
	return o.with(slices.Concat(o.endpoints[e], attributes)...)
}

// fromTo returns the attributes of a metric of a switch or a replay.
func (o *observer) fromTo(from, to failover.Endpoint, attributes ...attribute.KeyValue) metric.MeasurementOption {
	return o.with(append(attributes, keyFrom.String(from.String()), keyTo.String(to.String()))...)
}

// watch starts to measure a Transport, given its method Status, and stops when the Transport
// is closed.
func (o *observer) watch(status func() failover.Status) {
	o.begin()
	registered := make(chan metric.Registration, 1)
	registration, err := o.meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		s := status()
		o.observeCounters(to, &s)
		if !s.Closed {
			o.observeLevels(to, &s)
			return nil
		}
		select {
		case r := <-registered:
			// In a goroutine, because the SDK collects and unregisters under one lock.
			go func() {
				if err := r.Unregister(); err != nil {
					otel.Handle(err)
				}
			}()
		default: // RegisterCallback has not returned yet, or this was done before
		}
		return nil
	}, o.observables()...)
	if err != nil {
		otel.Handle(err)
		return
	}
	registered <- registration
}

// begin starts the counters at 0. Prometheus would not count a series that starts at 1 as an
// increase.
func (o *observer) begin() {
	ctx := context.Background()
	for _, e := range endpoints {
		o.unknown.Add(ctx, 0, o.at(e))
		o.renewals.Add(ctx, 0, o.at(e))
		o.switches.Add(ctx, 0, o.fromTo(e, e^1))
		o.refused.Add(ctx, 0, o.fromTo(e, e^1))
		for _, class := range repeatable {
			for _, to := range endpoints {
				o.replays.Add(ctx, 0, o.fromTo(e, to, keyErrorType.String(class.String())))
			}
		}
	}
	if o.oneAddress { // its refused switches are from the primary to the primary
		o.refused.Add(ctx, 0, o.fromTo(failover.Primary, failover.Primary))
	}
}

// observeCounters reports the counters.
func (o *observer) observeCounters(to metric.Observer, s *failover.Status) {
	for i, side := range [...]failover.EndpointStatus{s.Primary, s.Alternate} {
		e := failover.Endpoint(i)
		for _, class := range classes {
			to.ObserveInt64(o.faults, int64(side.Faults[class]), o.at(e, keyErrorType.String(class.String())))
		}
	}
	to.ObserveInt64(o.dropped, int64(s.EventsDropped), o.with())
	to.ObserveFloat64(o.downtime, s.TimeDown.Seconds(), o.with())
}

// observeLevels reports the up-down counters.
func (o *observer) observeLevels(to metric.Observer, s *failover.Status) {
	for i, side := range [...]failover.EndpointStatus{s.Primary, s.Alternate} {
		e := failover.Endpoint(i)
		to.ObserveInt64(o.active, number(s.Active == e), o.at(e))
		for _, state := range states {
			to.ObserveInt64(o.breaker, number(side.State == state), o.at(e, keyState.String(state.String())))
		}
	}
	to.ObserveInt64(o.down, number(s.Down), o.with())
	to.ObserveInt64(o.pinned, number(s.Pinned), o.with())
	to.ObserveInt64(o.latched, number(s.Latched), o.with())
	var loss failover.LossReport
	if s.Loss != nil {
		loss = *s.Loss
	}
	to.ObserveInt64(o.writes, int64(len(loss.AtRisk)), o.with(keyWriteState.String("at_risk")))
	to.ObserveInt64(o.writes, int64(len(loss.Unknown)), o.with(keyWriteState.String("unknown")))
	to.ObserveInt64(o.truncated, number(loss.Truncated), o.with())
	if s.Fleet != nil {
		to.ObserveInt64(o.apart, number(s.Fleet.Apart), o.with())
		to.ObserveInt64(o.failing, number(s.Fleet.Err != nil), o.with())
	}
}

func number(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

// countEvent counts an event.
func (o *observer) countEvent(e failover.Event) {
	ctx := context.Background()
	switch e.Kind {
	case failover.EventSwitched:
		o.switches.Add(ctx, 1, o.fromTo(e.From, e.To))
	case failover.EventRenewed:
		o.renewals.Add(ctx, 1, o.at(e.From))
	case failover.EventSwitchRefused:
		o.refused.Add(ctx, 1, o.fromTo(e.From, e.To))
	case failover.EventOutcomeUnknown:
		o.unknown.Add(ctx, 1, o.at(e.From))
	case failover.EventProbed:
		o.probes.Record(ctx, e.Duration.Seconds(), o.at(e.From, keyResult.String(probeResult(e.Err))))
	}
}

// probeResult returns the result of a probe that ended with err, as [failover.Probe] defines
// it.
func probeResult(err error) string {
	var f *failover.Fault
	switch {
	case err == nil:
		return "passed"
	case errors.As(err, &f) && f.Class != failover.ClassTransient && f.Class != failover.ClassUnavailable:
		return "inconclusive"
	default:
		return "failed"
	}
}

// countFault counts the attempt that follows a fault, if there is one.
func (o *observer) countFault(ctx context.Context, a failover.Attempt) {
	if a.Again {
		o.replays.Add(ctx, 1, o.fromTo(a.Fault.Endpoint, a.To, keyErrorType.String(a.Fault.Class.String())))
	}
}
