// Package failovertest simulates a Dynamics 365 organization and its
// datacenters, for tests of code that has to survive a failover. It relates to
// Dataverse as net/http/httptest does to a web server.
//
// A test in full, with the package it is made for:
//
//	org := failovertest.Start(nil)
//	defer org.Close()
//
//	rt, err := failover.New(org.URL(), &failover.Config{
//		Base:      org.Transport(),
//		Authorize: org.Authorize,
//	})
//	if err != nil {
//		t.Fatal(err)
//	}
//	defer rt.Close()
//	client := &http.Client{Transport: rt}
//
//	org.Disaster(failovertest.Refuse()) // the primary region is gone
//	resp, err := client.Get(org.URL() + "/api/data/v9.2/accounts")
//	// err is nil: the alternate datacenter answered
//
// # Two ways to run
//
// [Start] runs real TLS servers on the loopback interface, which speak
// HTTP/1.1 and HTTP/2; [Org.Transport] dials them under the organization's
// real host names and trusts their certificates. [StartInMemory] needs no
// sockets and works in a testing/synctest bubble, where minutes of waiting
// take no time; it imitates TCP's and TLS's errors and speaks HTTP/1.1 only.
//
// # Two kinds of failover
//
// Between two addresses: [Org.FailOver] moves the organization to the alternate
// datacenter, which has a host name of its own, and [Org.FailBack] moves it back.
// [Org.Disaster] is a FailOver from a primary datacenter that fails.
//
// Behind one address, as self-service disaster recovery does it: [Org.Drill] and
// [Org.EmergencyResponse] move the organization to the secondary datacenter, and
// [Org.SwitchBack] moves it back. The host name stays and leads to the other
// datacenter from then on; connections that are open keep leading to the one
// that was left:
//
//	report := org.EmergencyResponse(&failovertest.Recovery{
//		Downtime: 2 * time.Minute,
//		Old:      failovertest.BlackHole(),
//	})
//	// report.Lost are the writes later than report.LastSync
//
// A failover of the one kind starts after the way back from the other.
// [Config.OneAddress] makes an organization that has the second kind only.
//
// # What is served
//
//   - The Web API below /api/data/v9.x/: WhoAmI, RetrieveVersion, and records
//     of any entity set with create, retrieve, update, upsert and delete,
//     ETags, If-Match and If-None-Match, single properties, $ref,
//     @odata.bind, $select, $top, $count, $filter by equality, paging, and
//     change tracking with delta links. Links name the host the request was
//     addressed to, and addresses in bodies must name it too.
//   - $batch with single requests and atomic change sets, whose addresses may
//     be absolute, paths with a Host header, or relative to the service root.
//   - The organization service, SOAP 1.2 with WS-Addressing at
//     /XRMServices/2011/Organization.svc and SOAP 1.1 at /web below it, over
//     the same records: Execute (WhoAmI, RetrieveVersion), Create, Retrieve,
//     RetrieveMultiple (QueryExpression with equalities), Update, Delete. As
//     in WCF, a wsa:To that names another host is answered with the fault
//     DestinationUnreachable. The WSDL tells by its FailoverPolicy whether
//     the datacenter serves.
//   - The OData service of Finance and Operations below /data: an empty service
//     document, and records of any data entity with create, retrieve, update
//     and delete, paging, $select, $top, $count and $filter by equality. The
//     simulator knows the keys of CustomersV3, CustomerGroups, VendorsV2,
//     ReleasedProductsV2, SalesOrderHeadersV2 and PurchaseOrderHeaders;
//     every other data entity has the key RecId, which the service gives. There
//     is no $batch.
//   - Bearer tokens of [Org.Token], for all or for some audiences: without a valid one the answer is 401 with
//     the challenge that Dataverse sends, also where a fence is up.
//   - The fence: a datacenter that does not serve answers authorised
//     operations with code 0x8004B065 and carries none out. In normal times
//     the alternate and the secondary do so. What a datacenter that
//     self-service disaster recovery has left answers is not documented, and
//     neither is what Finance and Operations answers: [Recovery] can make it
//     anything else.
//
// Records are what requests made them: there is no schema, and no check of
// attributes. Reading and writing is serialised; there are no transactions to
// wait for.
//
// # Replication
//
// A write reaches the other datacenters [Config.Lag] after it was made.
// [Org.FailOver] and [Org.EmergencyResponse] cut replication off, so the writes
// of the last Lag are lost. They stay visible to [Datacenter.Lookup] at the
// primary until [Org.FailBack] or [Org.SwitchBack] makes it a copy of the
// datacenter that served. [Org.Drill], FailBack and SwitchBack lose nothing.
package failovertest
