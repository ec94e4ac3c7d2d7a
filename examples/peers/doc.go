// Package peers has only tests: they run popular HTTP clients over a failover.Transport, or below
// it, through an outage and back. docs/clients.md has the results: how to connect each client, and
// which of its features to disable.
//
//	client, transport, err := failover.Wrap(nil, "https://contoso.crm4.dynamics.com", &failover.Config{Authorize: tokens.Authorize})
//	...
//	rest := resty.NewWithClient(client)
//
// The rule for all of them: give the client that [failover.Wrap] returns to whatever makes the
// requests, and let that repeat no write that [failover.InDoubt] reports.
//
// [failover.Wrap]: https://pkg.go.dev/github.com/d365failover/failover#Wrap
// [failover.InDoubt]: https://pkg.go.dev/github.com/d365failover/failover#InDoubt
package peers
