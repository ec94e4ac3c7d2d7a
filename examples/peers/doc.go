// Package peers holds tests only: clients that people use already, on top of a
// failover.Transport or below it, through an outage and back. docs/clients.md
// has what they show as a table: how to wire each client, and what of it to
// switch off.
//
//	client, transport, err := failover.Wrap(nil, "https://contoso.crm4.dynamics.com", &failover.Config{Authorize: tokens.Authorize})
//	...
//	rest := resty.NewWithClient(client)
//
// The one rule for all of them: what makes http.Client requests takes the client
// that [failover.Wrap] returns, and repeats nothing that is in doubt
// ([failover.ErrOutcomeUnknown], or a write that was answered 5xx).
//
// [failover.Wrap]: https://pkg.go.dev/github.com/d365failover/failover#Wrap
// [failover.ErrOutcomeUnknown]: https://pkg.go.dev/github.com/d365failover/failover#ErrOutcomeUnknown
package peers
