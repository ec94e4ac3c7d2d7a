// Package failovertest simulates a Dynamics 365 organization and its datacenters, to test
// code that must survive a failover. It is to Dataverse what net/http/httptest is to a web
// server. A complete test with package failover:
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
//	org.Disaster(failovertest.Refuse()) // the primary region is lost
//	resp, err := client.Get(org.URL() + "/api/data/v9.2/accounts")
//	// err is nil: the alternate datacenter answered
//
// # Two ways to run
//
// [Start] runs real TLS servers on the loopback interface, which speak HTTP/1.1 and HTTP/2.
// [Org.Transport] dials them under the organization's real host names and trusts their
// certificates. [StartInMemory] needs no sockets and works in a testing/synctest bubble,
// where minutes of waiting take no time. It imitates the errors of TCP and TLS, and speaks
// HTTP/1.1 only.
//
// # Two kinds of failover
//
// Between two addresses: [Org.FailOver] moves the organization to the alternate datacenter,
// which has a host name of its own, and [Org.FailBack] moves it back. [Org.Disaster] is a
// FailOver from a primary datacenter that fails.
//
// Behind one address, like self-service disaster recovery: [Org.Drill] and
// [Org.EmergencyResponse] move the organization to the secondary datacenter, and
// [Org.SwitchBack] moves it back. The host name stays and then leads to the other
// datacenter. Open connections keep leading to the old one:
//
//	report := org.EmergencyResponse(&failovertest.Recovery{
//		Downtime: 2 * time.Minute,
//		Old:      failovertest.BlackHole(),
//	})
//	// report.Lost are the writes later than report.LastSync
//
// A failover of one kind starts only after the organization has returned from the other.
// An organization with [Config.OneAddress] has only the second kind.
//
// # What is served
//
//   - The Web API below /api/data/v9.x/: WhoAmI, RetrieveVersion, and records of any entity
//     set with create, retrieve, update, upsert and delete, ETags, If-Match and
//     If-None-Match, single properties, $ref, @odata.bind, $select, $top, $count, $filter by
//     equality, paging, and change tracking with delta links. Links name the host to which
//     the request was addressed, and addresses in bodies must name it, too.
//   - $batch with single requests and atomic change sets. Their addresses may be absolute,
//     paths with a Host header, or relative to the service root.
//   - The organization service over the same records: SOAP 1.2 with WS-Addressing at
//     /XRMServices/2011/Organization.svc, and SOAP 1.1 at /web below it. It knows Execute
//     (WhoAmI, RetrieveVersion), Create, Retrieve, RetrieveMultiple (QueryExpression with
//     equalities), Update and Delete. Like WCF, it answers a wsa:To that names another host
//     with the fault DestinationUnreachable. The FailoverPolicy in its WSDL says whether the
//     datacenter serves.
//   - The OData service of Finance and Operations below /data: an empty service document,
//     and records of any data entity with create, retrieve, update and delete, paging,
//     $select, $top, $count and $filter by equality. It knows the keys of CustomersV3,
//     CustomerGroups, VendorsV2, ReleasedProductsV2, SalesOrderHeadersV2 and
//     PurchaseOrderHeaders; every other data entity has the key RecId, which the service
//     assigns. There is no $batch.
//   - Authorization: the bearer tokens of [Org.Token], for all or for some audiences. Without
//     a valid token the answer is 401 with Dataverse's challenge, even at a fenced
//     datacenter.
//   - The fence: a datacenter that does not serve answers authorized operations with code
//     0x8004B065 and carries none out. In normal times the alternate and the secondary do
//     so. Microsoft does not document what a datacenter answers after self-service disaster
//     recovery has left it, nor what Finance and Operations answers; set [Recovery.Old] to
//     simulate something else.
//
// Records have no schema: requests may set any attribute. Reads and writes are serialized,
// so no transaction ever blocks.
//
// # Replication
//
// A write reaches the other datacenters [Config.Lag] after it was made. [Org.FailOver] and
// [Org.EmergencyResponse] cut replication off, so the writes of the last Lag are lost. They
// stay visible to [Datacenter.Lookup] at the primary until [Org.FailBack] or
// [Org.SwitchBack] makes it a copy of the datacenter that served. [Org.Drill], FailBack and
// SwitchBack lose nothing.
package failovertest
