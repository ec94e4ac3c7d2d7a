// Package failovertest simulates a Dynamics 365 organization with two
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
//   - The empty service document of Finance and Operations at /data.
//   - Bearer tokens of [Org.Token]: without a valid one the answer is 401 with
//     the challenge that Dataverse sends, also where a fence is up.
//   - The fence: a datacenter that does not serve answers authorised
//     operations with code 0x8004B065 and carries none out. In normal times
//     the alternate does so.
//
// Records are what requests made them: there is no schema, and no check of
// attributes. Reading and writing is serialised; there are no transactions to
// wait for.
//
// # Replication
//
// A write reaches the other datacenter [Config.Lag] after it was made.
// [Org.FailOver] cuts replication off, so the writes of the last Lag are lost
// at the alternate. They stay visible to [Datacenter.Lookup] at the primary
// until [Org.FailBack] makes it a copy of the alternate.
package failovertest
