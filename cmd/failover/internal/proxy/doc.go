// Package proxy is the subcommand proxy: a small reverse proxy in front of a Dynamics 365
// organization, for programs in Java, Python, Power Query or anything else that speaks HTTP.
// It gives them what a failover.Transport gives a Go program: a failover goes unnoticed as far
// as that is safe.
//
//	failover proxy
//
// demonstrates it with a simulated organization that fails over. With
//
//	failover proxy -org https://contoso.crm4.dynamics.com
//
// it serves a real one at http://127.0.0.1:8365 until SIGINT or SIGTERM; requests under way
// then have up to 30 s to end (-grace). The exit status is 1 if some did not end in time or an
// address is in use, and 2 if the flags are wrong.
//
// # Callers
//
// A caller replaces the organization's address by http://127.0.0.1:8365 and changes nothing
// else. It sends its own credentials, tokens for the organization's address as before; the
// proxy has none. If the alternate requires tokens of its own, which Microsoft does not
// document, such calls are answered 401 while it serves. Python:
//
//	token = app.acquire_token_for_client(["https://contoso.crm4.dynamics.com/.default"])["access_token"]
//	requests.get("http://127.0.0.1:8365/api/data/v9.2/accounts", headers={"Authorization": "Bearer " + token})
//
// Java:
//
//	HttpRequest.newBuilder(URI.create("http://127.0.0.1:8365/api/data/v9.2/accounts"))
//		.header("Authorization", "Bearer " + token)
//
// Power Query, with Anonymous as the kind of credentials:
//
//	OData.Feed("http://127.0.0.1:8365/api/data/v9.2/", [Authorization = "Bearer " & Token], [Implementation = "2.0"])
//
// The proxy repeats a write whose answer was lost if the request says that it is safe to
// repeat: with If-Match, with If-None-Match: *, or, for a POST that sets the record's id, with
// an Idempotency-Key. A 412 then means that the record exists.
//
// # Answers
//
// The organization's answers pass through. The proxy's own answers are OData errors with a
// code that begins with "Failover.":
//
//	400, 421  the request cannot be for the organization (see below)
//	405, 411  TRACE; a body over HTTP/1.0 without a length
//	502       no answer, or one that cannot be passed on
//	503       the organization is down, or the proxy shuts down: retry after Retry-After
//
// The header Failover-Outcome: unknown says that a write may or may not have been carried out:
// look for its effect before you send it again. It comes with a 502 of the proxy, or with the
// answer of a front end that leaves the outcome open; a POST that only reads may have it, too.
// Without it, either the organization has answered or nothing was carried out. The proxy
// removes this header from the organization's answers, including those within a $batch.
//
// The status for an unknown outcome is 502 because clients do not retry that by themselves:
// Apache HttpClient 5 retries any request after 429 and 503, Power Query after 408, 429, 503,
// 504 and 509, and urllib3 no POST at all. If you configure a client to retry more (curl
// --retry, policies for every 5xx), exclude writes: curl --retry repeats a POST after a 502 of
// any gateway, although not after a lost connection.
//
// An answer that breaks off also breaks off for the caller. A body that is longer than 1 MiB,
// arrives slowly or has trailers can be sent only once: such an upload fails if an outage begins
// before it ends, or if it is answered with a fence.
//
// # Links
//
// The organization's answers contain its own address. The proxy replaces it by its own, so
// that callers stay with the proxy: in Location, OData-EntityId and similar headers, in the
// links of OData payloads (@odata.nextLink, @odata.deltaLink, @odata.context, @odata.id ...),
// in the parts of a $batch, and in a WSDL. In requests it does the reverse: in @odata.bind,
// @odata.id, $id, request lines and Host headers within a $batch, and the wsa:To of a SOAP
// message that is not signed. It never changes the values of columns. Bodies of any length are
// streamed.
//
// To do so, the proxy requests gzip from the organization and decompresses the answers; callers
// get them uncompressed. It does not change request bodies that are compressed.
//
// # Who may use it
//
// Connections of callers are not encrypted, so the proxy listens only to this machine unless
// -expose permits more. Whoever reaches the proxy reaches only the organization, and only with
// his own credentials. The proxy adds none, and stores none except up to eight Authorization
// headers, in memory, with which it probes the organization. It rejects requests for other
// hosts, and those under a host name that is not its own, which protects it from web pages in a
// browser on the same machine (DNS rebinding). With -expose, the tokens of callers can be read
// on the network. Put TLS in front of the proxy, preserve the Host header, and set the address
// that callers use:
//
//	failover proxy -org https://contoso.crm4.dynamics.com -public https://dynamics.corp.example
//
// Callers in containers of the same pod need neither. Callers in other containers use a name:
// -expose -listen :8365 -public http://proxy:8365, and -admin :8366 to serve the status page,
// readiness and metrics there. -alternate sets an alternate that cannot be derived, and
// -attempt-timeout bounds the wait for an answer.
//
// NTLM and Negotiate authenticate a connection, not a request (RFC 4559, section 6), and
// callers share the proxy's connections to the organization: the next caller would act as the
// last one that signed in. The proxy therefore answers such credentials with 400 and the code
// Failover.ConnectionCredentials, and removes challenges for them from answers; a 401 without
// other challenges becomes a 502 with that code. Callers of an organization on premises need
// another form of authentication, such as OAuth with AD FS.
//
// The status page, readiness and metrics have an address of their own, because every path of
// the proxy belongs to the organization, and because the page names records:
//
//	http://127.0.0.1:8366/-/failover
//	http://127.0.0.1:8366/-/ready
//	http://127.0.0.1:8366/-/metrics
//
// A third address serves the status page with its commands, for a browser on this machine or
// for "failover switch -at http://127.0.0.1:8367". It does not authenticate anybody, so
// -control can change it but only to an address of this machine.
package proxy
