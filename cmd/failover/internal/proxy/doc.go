// Package proxy is the subcommand proxy: a small reverse proxy in front of a
// Dynamics 365 organization, for programs in Java, Python, Power Query or anything
// else that speaks HTTP. It gives them what a Go program gets from
// failover.Transport: while the organization is failed over, they notice nothing
// that could safely have been avoided.
//
//	failover proxy
//
// shows it with a simulated organization that loses its region meanwhile. With
//
//	failover proxy -org https://contoso.crm4.dynamics.com
//
// it serves a real one at http://127.0.0.1:8365, until SIGINT or SIGTERM; requests
// under way may take another 30 s (-grace). The exit status is 1 if some had to be
// cut off, or an address is in use, and 2 if the flags are wrong.
//
// # Callers
//
// A caller uses http://127.0.0.1:8365 in place of the organization's address, and
// nothing else changes. It brings its own credentials, tokens for the
// organization's address as before; the proxy has none. If the alternate wants
// tokens of its own, which Microsoft does not document, such calls are answered
// 401 while it serves. Python:
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
// A write that is safe to repeat should say so, then the proxy repeats it where
// its answer was lost: by If-Match, by If-None-Match: *, or, for a POST under an
// id of the caller's own, by an Idempotency-Key. A 412 then means that the record is there.
//
// # Answers
//
// Answers of the organization come as they are. The proxy's own are in the form of
// OData errors, with a code that begins with "Failover.":
//
//	400, 421  the request cannot be meant for the organization (see below)
//	405, 411  TRACE; a body over HTTP/1.0 without a length
//	502       no answer, or one that cannot be passed on
//	503       neither endpoint serves, or the proxy ends: try again after Retry-After
//
// A header Failover-Outcome: unknown says that a write may or may not have been
// carried out: look before it is sent again. It comes with a 502 of the proxy's
// own, or with an answer of a front end that says nothing of the write; a POST
// that only reads may have it, too. Without it the organization has answered, or
// nothing was carried out. No answer of the organization can say it, in no place.
//
// An unknown outcome is a 502 because that is what clients leave to their users:
// Apache HttpClient 5 repeats any request after 429 and 503, Power Query after
// 408, 429, 503, 504 and 509, and urllib3 no POST at all. Who tells a client to
// repeat more (curl --retry, policies for every 5xx) has to except writes, as
// without the proxy.
//
// An answer that breaks off half way breaks off for the caller as well, and a body
// longer than 1 MiB can be sent once: an upload that meets an outage half way
// fails, and so does one that a fence answers.
//
// # Links
//
// The organization names itself in what it answers. So that callers stay with the
// proxy, it is named instead in Location, OData-EntityId and their like, in the
// links of OData payloads (@odata.nextLink, @odata.deltaLink, @odata.context,
// @odata.id ...), in the parts of a $batch and in a WSDL; and the other way round
// in requests: @odata.bind, @odata.id, $id, request lines and Host headers within
// a $batch, and the wsa:To of a SOAP message that is not signed. Values of columns
// are never changed. Bodies pass as they come, whatever their length.
//
// For that the proxy takes answers compressed by gzip, and passes them on as they
// were before. Bodies of requests that are compressed are passed on as they are.
//
// # Who may use it
//
// Connections of callers are not encrypted. The proxy therefore listens to this
// machine only, unless -expose permits more. Whoever reaches it gets no further
// than to the organization, and there with no other than his own credentials: it
// adds none, keeps none but up to eight Authorization headers in memory for probes of
// the organization, takes no requests for other hosts, and no web page can lead a
// browser to it under a name of its own (DNS rebinding). What -expose risks are
// the tokens of callers on the way. Put TLS in front of it, keep the Host header,
// and give the address that callers know:
//
//	failover proxy -org https://contoso.crm4.dynamics.com -public https://dynamics.corp.example
//
// Callers in containers of the same pod need neither. In other containers they
// know it by a name: -expose -listen :8365 -public http://proxy:8365, and -admin
// :8366 to have the status page, readiness and metrics there. -alternate names an
// alternate that no rule leads to, -attempt-timeout bounds the wait for an answer.
//
// NTLM and Negotiate sign in a connection and not a request (RFC 4559, section 6),
// and the callers share the proxy's connections to the organization: the next one
// would act as whoever signed in last. Such credentials are answered 400 with the
// code Failover.ConnectionCredentials, and challenges that ask for them are left
// out of answers; a 401 with no others becomes a 502 with that code. An
// organization on premises needs another form of sign-in for its callers, such as
// OAuth of AD FS.
//
// The status page, readiness and metrics have an address of their own, because all
// paths of the proxy are the organization's, and because the page names records:
//
//	http://127.0.0.1:8366/-/failover
//	http://127.0.0.1:8366/-/ready
//	http://127.0.0.1:8366/-/metrics
//
// People move the traffic at a third address, which -control moves and no flag
// exposes, because it asks nobody who he is: the status page with its commands,
// for a browser on this machine or for "failover switch -at http://127.0.0.1:8367".
package proxy
