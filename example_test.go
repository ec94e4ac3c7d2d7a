package failover_test

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// quiet keeps log lines, which have the time in them, out of the examples.
var quiet = slog.New(slog.DiscardHandler)

// tokenFor stands for what a program gets its tokens from: a token for one audience,
// which is the address of an endpoint.
func tokenFor(_ context.Context, audience string) (string, error) { return "of " + audience, nil }

// A program reads from an organization whose region is lost meanwhile.
func Example() {
	org := failovertest.StartInMemory(nil) // a simulated organization
	defer org.Close()
	client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()

	read := func() {
		resp, err := client.Get("https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts?$top=1")
		if err != nil {
			log.Fatal(err)
		}
		defer resp.Body.Close()
		fmt.Println(resp.StatusCode, "from the", transport.Status().Active)
	}
	read()
	org.Disaster(failovertest.Refuse())
	read()
	// Output:
	// 200 from the primary
	// 200 from the alternate
}

func ExampleWrap() {
	client, transport, err := failover.Wrap(http.DefaultClient, "https://contoso.crm4.dynamics.com", &failover.Config{
		Authorize: func(req *http.Request) error { // for every attempt and probe, when its host is final
			token, err := tokenFor(req.Context(), "https://"+req.URL.Host)
			if err != nil {
				return err
			}
			req.Header.Set("Authorization", "Bearer "+token)
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()

	// Use client as before, always with the organization's own address:
	// client.Get("https://contoso.crm4.dynamics.com/api/data/v9.2/accounts")
	fmt.Println(client != http.DefaultClient, transport.Status().Alternate.URL)
	// Output: true https://contoso--s.crm4.dynamics.com
}

// A batch job would rather wait than fail, and asks a person before it returns.
func ExampleConfig_batchJob() {
	cfg := &failover.Config{
		WaitForUp:      true,            // while nothing serves, wait as long as the request's context lives
		RetryThrottled: 5 * time.Minute, // wait a 429 out inside the call
		MaxAttempts:    8,
		ManualFailback: true, // not in the middle of a run
	}
	_, transport, err := failover.Wrap(nil, "https://contoso.crm.dynamics.com", cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()
	fmt.Println(transport.Status().Active)
	// Output: primary
}

// An interactive service would rather fail fast than wait.
func ExampleConfig_interactive() {
	cfg := &failover.Config{
		FailFast:     true,            // while nothing serves
		SuspectAfter: 3 * time.Second, // without an answer, ask whether the endpoint still serves
		ProbeTimeout: 2 * time.Second,
		RetryBackoff: 50 * time.Millisecond,
	}
	_, transport, err := failover.Wrap(nil, "https://contoso.crm.dynamics.com", cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()
	fmt.Println(transport.Status().Active)
	// Output: primary
}

// No rule leads to a second address of Finance and Operations. If there is one, name it.
func ExampleConfig_financeAndOperations() {
	cfg := &failover.Config{Alternate: "https://contoso-dr.operations.dynamics.com"}
	_, transport, err := failover.Wrap(nil, "https://contoso.operations.dynamics.com", cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()
	fmt.Println(transport.Status().Alternate.URL)
	// Output: https://contoso-dr.operations.dynamics.com
}

// Events tell whoever is on call what happened, with the writes at risk.
func ExampleConfig_onEvent() {
	org := failovertest.StartInMemory(&failovertest.Config{Lag: time.Minute})
	defer org.Close()
	client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{
		Authorize: org.Authorize,
		Logger:    quiet,
		OnEvent: func(e failover.Event) {
			switch e.Kind {
			case failover.EventSwitched:
				fmt.Printf("%v: from %v to %v: %s\n", e.Kind, e.From, e.To, e.Reason)
				for _, w := range e.Loss.AtRisk {
					fmt.Println("at risk:", w.Method, w.Path, w.Label)
				}
			case failover.EventDown:
				fmt.Println("wake somebody up")
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := failover.WithLabel(context.Background(), "invoice 7")
	req, err := http.NewRequestWithContext(ctx, "POST", org.URL()+"/api/data/v9.2/accounts", strings.NewReader(`{"name":"Contoso"}`))
	if err != nil {
		log.Fatal(err)
	}
	for _, happens := range []func(){func() {}, org.FailOver} {
		happens()
		again := req.Clone(ctx)
		again.Body, _ = req.GetBody()
		resp, err := client.Do(again)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
	}
	transport.Close() // waits for OnEvent
	// Output:
	// switched: from primary to alternate: the primary does not serve, the alternate passes its probe
	// at risk: POST /api/data/v9.2/accounts invoice 7
}

// A write is in doubt if its answer was lost, and also if what answered was not the
// organization but a front end in the way.
func ExampleInDoubt() {
	for _, failure := range []failovertest.Failure{
		failovertest.Reset(failovertest.AfterApply),
		failovertest.Status(http.StatusBadGateway, nil, ""),
		failovertest.Refuse(),
	} {
		org := failovertest.StartInMemory(nil)
		client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize, Logger: quiet})
		if err != nil {
			log.Fatal(err)
		}
		req, err := http.NewRequest(http.MethodPost, org.URL()+"/api/data/v9.2/accounts", strings.NewReader(`{"name":"Contoso"}`))
		if err != nil {
			log.Fatal(err)
		}
		org.Primary().FailNext(1, failure)
		resp, err := client.Do(req)
		if fault, ok := failover.InDoubt(resp, err); ok {
			fmt.Println("look for the record before you send it again:", fault)
		}
		if err == nil {
			fmt.Println(resp.StatusCode)
			resp.Body.Close()
		}
		transport.Close()
		org.Close()
	}
	// Output:
	// look for the record before you send it again: transient, request outcome unknown: read tcp contoso.api.crm.dynamics.com:443: read: connection reset by peer
	// look for the record before you send it again: unavailable, request outcome unknown: status 502
	// 502
	// 204
}

func ExampleError() {
	org := failovertest.StartInMemory(nil)
	defer org.Close()
	client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()

	show := func(err error) {
		var failure *failover.Error
		switch {
		case errors.Is(err, failover.ErrOutcomeUnknown):
			fmt.Println("may or may not exist: look it up before you send it again")
		case errors.As(err, &failure) && errors.Is(err, failover.ErrUnavailable):
			fmt.Println("neither endpoint serves: try again later") // in failure.RetryAfter
		case errors.As(err, &failure):
			for _, fault := range failure.Attempts {
				fmt.Println(fault.Endpoint, fault.Class, fault.Delivery)
			}
		}
	}
	org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
	_, err = client.Post(org.URL()+"/api/data/v9.2/accounts", "application/json", strings.NewReader(`{"name":"Contoso"}`))
	show(err)
	org.Primary().Fail(failovertest.Refuse())
	_, err = client.Post(org.URL()+"/api/data/v9.2/accounts", "application/json", strings.NewReader(`{"name":"Contoso"}`))
	show(err)
	// Output:
	// may or may not exist: look it up before you send it again
	// neither endpoint serves: try again later
}

// A create that carries its own id can be sent twice: the second one fails with
// 412 if the first was carried out.
func ExampleWithReplay() {
	org := failovertest.StartInMemory(nil)
	defer org.Close()
	client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()

	org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
	ctx := failover.WithReplay(context.Background())
	body := `{"accountid":"` + failovertest.SeedID(4711) + `","name":"Contoso"}`
	req, err := http.NewRequestWithContext(ctx, "POST", org.URL()+"/api/data/v9.2/accounts", strings.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode)
	// Output: 412
}

// A drill moves the traffic by hand; the endpoint has to pass its probe.
func ExampleTransport_Switch() {
	org := failovertest.StartInMemory(nil)
	defer org.Close()
	_, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()

	err = transport.Switch(context.Background(), failover.Alternate, "drill")
	fmt.Println(transport.Status().Active, err != nil)
	org.FailOver()
	err = transport.Switch(context.Background(), failover.Alternate, "drill")
	fmt.Println(transport.Status().Active, err)
	// Output:
	// primary true
	// alternate <nil>
}

func ExampleLossReport_Verify() {
	org := failovertest.StartInMemory(&failovertest.Config{Lag: time.Minute})
	defer org.Close()
	client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()
	resp, err := client.Post(org.URL()+"/api/data/v9.2/accounts", "application/json", strings.NewReader(`{"name":"Contoso"}`))
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	org.FailOver()
	if resp, err = client.Get(org.URL() + "/api/data/v9.2/accounts"); err != nil {
		log.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()

	report := transport.Status().Loss // nil, and safe to use, as long as nothing is at risk
	found, err := report.Verify(context.Background(), client)
	fmt.Println(len(found.Present), "present,", len(found.Missing), "missing,", len(found.Unreadable), "unreadable,", err)
	// Output: 0 present, 1 missing, 0 unreadable, <nil>
}

// The administrator who starts an emergency response is shown the time of the last sync.
func ExampleTransport_WritesSince() {
	org := failovertest.StartInMemory(nil)
	defer org.Close()
	client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()

	lastSync := time.Now()
	resp, err := client.Post(org.URL()+"/api/data/v9.2/accounts", "application/json", strings.NewReader(`{"name":"Contoso"}`))
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()

	report := transport.WritesSince(lastSync)
	for _, w := range report.AtRisk {
		fmt.Println(w.Method, w.Path, w.Status)
	}
	// Output: POST /api/data/v9.2/accounts 204
}

func ExampleAlternateURL() {
	fmt.Println(failover.AlternateURL("https://contoso.api.crm.dynamics.com"))
	_, err := failover.AlternateURL("https://contoso.operations.dynamics.com")
	fmt.Println(err != nil)
	// Output:
	// https://contoso--s.api.crm.dynamics.com <nil>
	// true
}

func ExampleClassify() {
	resp := &http.Response{
		StatusCode: 503,
		Header:     http.Header{"Content-Type": {"application/json"}},
		Body:       io.NopCloser(strings.NewReader(`{"error":{"code":"0x8004B065","message":"Not here."}}`)),
	}
	f := failover.Classify(resp, nil)
	fmt.Println(f.Class, f.Definitive, f.Delivery)
	// Output: unavailable true refused
}

func ExampleDiscoverPolicy() {
	org := failovertest.StartInMemory(nil)
	defer org.Close()
	root, err := failover.ParseOrg(org.URL())
	if err != nil {
		log.Fatal(err)
	}
	policy, err := failover.DiscoverPolicy(context.Background(), org.Client(), root.Primary)
	fmt.Println(policy.Known, policy.FailoverAvailable, policy.EndpointEnabled, err)
	// Output: true true true <nil>
}

// The status page and the answer for Kubernetes are handlers like any other.
func ExampleTransport_StatusHandler() {
	org := failovertest.StartInMemory(nil)
	defer org.Close()
	_, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()

	mux := http.NewServeMux()
	mux.Handle("/debug/failover", transport.StatusHandler())
	mux.Handle("/readyz", transport.ReadyHandler())

	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, httptest.NewRequest("GET", "/readyz", nil))
	fmt.Print(answer.Code, " ", answer.Body)
	// Output: 200 ok
}

// ControlHandler asks nobody who they are. A middleware does: here with a password,
// over TLS or on an address that only operators reach.
func ExampleTransport_ControlHandler() {
	org := failovertest.StartInMemory(nil)
	defer org.Close()
	_, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()

	password := sha256.Sum256([]byte("from the program's secrets"))
	onlyOperators := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, given, _ := r.BasicAuth()
			if sum := sha256.Sum256([]byte(given)); subtle.ConstantTimeCompare(sum[:], password[:]) != 1 {
				w.Header().Set("WWW-Authenticate", `Basic realm="operators"`)
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
	mux := http.NewServeMux()
	mux.Handle("/ops/failover/", onlyOperators(transport.ControlHandler()))

	pin := func(given string) {
		r := httptest.NewRequest("POST", "/ops/failover/pin", strings.NewReader(`{"endpoint": "primary", "reason": "INC-4711"}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json")
		r.SetBasicAuth("jane", given)
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, r)
		fmt.Println(answer.Code, transport.Status().Pinned)
	}
	pin("guessed")
	pin("from the program's secrets")
	// Output:
	// 401 false
	// 200 true
}
