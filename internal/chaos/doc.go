// Package chaos breaks the network below a [failover.Transport] and counts what its callers
// see.
//
// Two servers are the endpoints of an organization. They speak HTTP/1.1 and HTTP/2 over real
// TLS on the loopback interface, behind a real DNS server and behind proxies
// (github.com/Shopify/toxiproxy/v2) that inject faults. The package itself injects the rest:
// missing names, refused connections, listeners that do not answer a SYN, wrong certificates,
// GOAWAY and REFUSED_STREAM, and hostile answers.
//
// Every request has an id, by which both servers count the requests that arrived, that they
// refused, and that they carried out. This reveals a write that was carried out twice,
// whatever the client believes.
//
// With -v the tests print their tables. With -full they print those of docs/reliability.md,
// which gives the commands.
package chaos
