package failoverotel_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverotel"
	"github.com/d365failover/failover/failovertest"
)

// show prints the series of a metric whose value is not 0.
func show(reader *sdkmetric.ManualReader, name string) {
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		log.Fatal(err)
	}
	for _, m := range all.ScopeMetrics[0].Metrics {
		if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == name {
			for _, p := range sum.DataPoints {
				if p.Value != 0 {
					fmt.Println(name, p.Attributes.Encoded(attribute.DefaultEncoder()), p.Value)
				}
			}
		}
	}
}

func ExampleWrap() {
	reader := sdkmetric.NewManualReader() // a program uses an exporter
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))

	org := failovertest.StartInMemory(nil) // a simulated organization
	defer org.Close()
	client, transport, err := failoverotel.Wrap(org.Client(), org.URL(),
		&failover.Config{Authorize: org.Authorize, Logger: quiet}, failoverotel.WithMeterProvider(provider))
	if err != nil {
		log.Fatal(err)
	}
	org.Disaster(failovertest.Refuse())
	resp, err := client.Get(org.URL() + "/api/data/v9.2/accounts")
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	transport.Close() // waits until everything is counted
	show(reader, "failover.switches")
	// Output: failover.switches failover.from=primary,failover.organization=contoso.api.crm.dynamics.com,failover.to=alternate 1
}

// The span of a call shows the faults that it has met.
func ExampleWrap_spans() {
	recorder := tracetest.NewSpanRecorder() // a program uses an exporter
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("import")

	org := failovertest.StartInMemory(nil)
	defer org.Close()
	client, transport, err := failoverotel.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()
	org.FailOver()

	ctx, span := tracer.Start(context.Background(), "read accounts")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, org.URL()+"/api/data/v9.2/accounts", nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	span.End()
	for _, e := range recorder.Ended()[0].Events() {
		a := attribute.NewSet(e.Attributes...)
		for _, key := range []attribute.Key{"failover.endpoint", "failover.fault.code", "failover.again", "failover.to"} {
			value, _ := a.Value(key)
			fmt.Println(e.Name, key, value.String())
		}
	}
	fmt.Println(resp.StatusCode)
	// Output:
	// failover.fault failover.endpoint primary
	// failover.fault failover.fault.code 0x8004B065
	// failover.fault failover.again true
	// failover.fault failover.to alternate
	// 200
}

// WithAttributes distinguishes two Transports of one organization.
func ExampleWithAttributes() {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	for _, purpose := range []string{"import", "export"} {
		transport, err := failoverotel.New("https://contoso.crm4.dynamics.com", &failover.Config{Logger: quiet},
			failoverotel.WithMeterProvider(provider), failoverotel.WithAttributes(attribute.String("purpose", purpose)))
		if err != nil {
			log.Fatal(err)
		}
		defer transport.Close()
		if purpose == "export" {
			transport.Pin(failover.Primary)
		}
	}
	show(reader, "failover.pinned")
	// Output: failover.pinned failover.organization=contoso.crm4.dynamics.com,purpose=export 1
}
