package failoverotel

import (
	"context"
	"net/http"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/d365failover/failover"
)

// eventFault is the name of the span event, and the prefix of the attributes of its fault.
const eventFault = "failover.fault"

// addSpanEvent adds a fault to the caller's span.
func (o *observer) addSpanEvent(ctx context.Context, a failover.Attempt) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	f := a.Fault
	attributes := append(slices.Clone(o.endpoints[f.Endpoint]),
		o.organization,
		keyErrorType.String(f.Class.String()),
		keyMethod.String(knownMethod(a.Method)),
		attribute.String(eventFault+".delivery", f.Delivery.String()),
		attribute.Bool(eventFault+".definitive", f.Definitive),
		attribute.String(eventFault+".text", f.Error()),
		attribute.Int("failover.attempt", a.Number),
		attribute.Bool("failover.again", a.Again),
	)
	if a.Again {
		attributes = append(attributes, keyTo.String(a.To.String()))
	}
	if f.Status != 0 {
		attributes = append(attributes, keyStatusCode.Int(f.Status))
	}
	if f.Code != "" {
		attributes = append(attributes, attribute.String(eventFault+".code", f.Code))
	}
	if f.RequestID != "" {
		attributes = append(attributes, attribute.String(eventFault+".request_id", f.RequestID))
	}
	span.AddEvent(eventFault, trace.WithAttributes(attributes...))
}

// knownMethod returns a method as the semantic conventions require.
func knownMethod(method string) string {
	switch method {
	case "":
		return http.MethodGet
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return method
	default:
		return "_OTHER"
	}
}
