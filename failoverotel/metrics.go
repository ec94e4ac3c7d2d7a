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

// Keys of attributes. Those outside of the namespace "failover" are of the
// semantic conventions.
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
	// repeatable are the classes of the faults that another attempt may follow.
	repeatable = []failover.Class{failover.ClassThrottled, failover.ClassTransient, failover.ClassUnavailable}
)

// probeBuckets are in seconds: those that the semantic conventions advise for
// the durations of HTTP requests.
var probeBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}

// instruments are all metrics of the package.
type instruments struct {
	// Counted as it happens:
	switches, renewals, refused, replays, unknown metric.Int64Counter
	probes                                        metric.Float64Histogram

	// Read from Status when somebody collects:
	active, breaker, down, pinned, latched, writes, truncated, apart, failing metric.Int64ObservableUpDownCounter
	faults, dropped                                                           metric.Int64ObservableCounter
	downtime                                                                  metric.Float64ObservableCounter
}

// newInstruments returns the instruments of a meter, or what is wrong with them.
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
		switches: counter("failover.switches", "{switch}", "Switches of all traffic from one endpoint to the other."),
		renewals: counter("failover.renewals", "{renewal}", "Renewals of all connections because the organization may have moved behind its address."),
		refused:  counter("failover.refused_switches", "{switch}", "Switches that were called for and not made."),
		replays:  counter("failover.replays", "{attempt}", "Attempts made again after a fault."),
		unknown:  counter("failover.unknown_outcomes", "{write}", "Writes that may or may not have been carried out."),

		active:    level("failover.active", transport, "1 for the endpoint that the traffic goes to, 0 for the other."),
		breaker:   level("failover.circuit_breaker.state", transport, "1 for the state of the endpoint's circuit breaker, 0 for the others."),
		down:      level("failover.down", transport, "1 while no endpoint passes its probe."),
		pinned:    level("failover.pinned", transport, "1 while pinned to an endpoint by hand."),
		latched:   level("failover.latched", transport, "1 while further switches need a hand, after too many of them."),
		writes:    level("failover.loss_report.writes", "{write}", "Writes that the last loss report lists."),
		truncated: level("failover.loss_report.truncated", transport, "1 if the last loss report may lack writes."),
		apart:     level("failover.fleet.apart", transport, "1 while the active endpoint is not that of the fleet."),
		failing:   level("failover.fleet.failing", transport, "1 while the fleet's store counts as lost."),

		faults:  observed("failover.faults", "{fault}", "Faults that attempts have met."),
		dropped: observed("failover.dropped_events", "{event}", "Events that were not told of because OnEvent is slow."),
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

// endpointAttributes returns what tells an endpoint.
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

// with returns the attributes of a metric.
func (o *observer) with(attributes ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(slices.Concat(o.common, attributes)...)
}

// at returns the attributes of a metric of an endpoint.
func (o *observer) at(e failover.Endpoint, attributes ...attribute.KeyValue) metric.MeasurementOption {
	return o.with(slices.Concat(o.endpoints[e], attributes)...)
}

// fromTo returns the attributes of a metric of a move.
func (o *observer) fromTo(from, to failover.Endpoint, attributes ...attribute.KeyValue) metric.MeasurementOption {
	return o.with(append(attributes, keyFrom.String(from.String()), keyTo.String(to.String()))...)
}

// watch begins to measure a Transport, which status is the method of. It stops
// when that is closed.
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
			// Not here: the SDK collects and unregisters under one lock.
			go func() {
				if err := r.Unregister(); err != nil {
					otel.Handle(err)
				}
			}()
		default: // on its way
		}
		return nil
	}, o.observables()...)
	if err != nil {
		otel.Handle(err)
		return
	}
	registered <- registration
}

// begin lets the counters begin with 0. An increase from nothing to 1 would not
// be one to Prometheus.
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
	if o.oneAddress { // which is refused to move to itself
		o.refused.Add(ctx, 0, o.fromTo(failover.Primary, failover.Primary))
	}
}

// observeCounters reports what only ever grows.
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

// observeLevels reports what is so at the moment.
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

// countEvent counts what an event tells of.
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

// probeResult says what a probe that ended with err has shown, by the rule of
// [failover.Probe].
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

// countFault counts the attempt that follows a fault.
func (o *observer) countFault(ctx context.Context, a failover.Attempt) {
	if a.Again {
		o.replays.Add(ctx, 1, o.fromTo(a.Fault.Endpoint, a.To, keyErrorType.String(a.Fault.Class.String())))
	}
}
