package failoverredis_test

import (
	"fmt"
	"log/slog"
	"net/http"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverredis"
	"github.com/d365failover/failover/failovertest"
)

// Two services share the state of an organization through Redis. One of them meets an
// outage; the other switches to the alternate before its next request.
func Example() {
	org := failovertest.Start(nil)
	defer org.Close()
	server := miniredis.NewMiniRedis() // in production: Redis
	if err := server.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	service := func(onEvent func(failover.Event)) (*failover.Transport, func()) {
		client := redis.NewClient(&redis.Options{Addr: server.Addr()})
		shared := failoverredis.New(client, nil)
		transport, err := failover.New(org.URL(), &failover.Config{
			Shared:    shared,
			Base:      org.Transport(),
			Authorize: org.Authorize,
			OnEvent:   onEvent,
			Logger:    slog.New(slog.DiscardHandler),
		})
		if err != nil {
			panic(err)
		}
		return transport, func() {
			transport.Close()
			shared.Close()
			client.Close()
		}
	}
	orders, closeOrders := service(nil)
	defer closeOrders()
	followed := make(chan failover.Event, 1)
	invoices, closeInvoices := service(func(e failover.Event) {
		if e.Kind == failover.EventSwitched {
			followed <- e
		}
	})
	defer closeInvoices()

	org.Disaster(failovertest.Refuse())
	resp, err := (&http.Client{Transport: orders}).Get(org.URL() + "/api/data/v9.2/accounts")
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println("orders:", resp.Status, "from the", orders.Status().Active)

	e := <-followed
	fmt.Println("invoices: at the", e.To, "after", len(invoices.Status().Primary.Faults), "faults")
	// Output:
	// orders: 200 OK from the alternate
	// invoices: at the alternate after 0 faults
}
