// Package peers has only tests: they run popular HTTP clients over a failover.Transport, or below
// it, through an outage and back. A table in docs/clients.md has the results: how to wire each
// client, and which of its features to turn off.
//
//	client, transport, err := failover.Wrap(nil, "https://contoso.crm4.dynamics.com", &failover.Config{Authorize: tokens.Authorize})
//	...
//	rest := resty.NewWithClient(client)
//
// The rule for all of them: give the client that [failover.Wrap] returns to whatever makes the
// requests, and let it repeat nothing that is in doubt ([failover.ErrOutcomeUnknown], or a write
// that was answered with a 5xx).
//
// [failover.Wrap]: https://pkg.go.dev/github.com/d365failover/failover#Wrap
// [failover.ErrOutcomeUnknown]: https://pkg.go.dev/github.com/d365failover/failover#ErrOutcomeUnknown
package peers
