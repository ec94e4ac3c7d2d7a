// Package chaos breaks the network below a [failover.Transport] and counts what its callers see.
//
// Two servers are the endpoints of an organization. They speak HTTP/1.1 and HTTP/2 over real TLS on
// the loopback interface, behind a real DNS server and proxies of
// github.com/Shopify/toxiproxy/v2, which inject faults. The package injects the others itself:
// missing names, refused connections, listeners that do not answer a SYN, wrong certificates, GOAWAY
// and REFUSED_STREAM, and hostile answers.
//
// Every request has an id, and both servers count by id which requests arrived, which they refused
// and which they carried out. So a write that was carried out twice is found, whatever the client
// believes.
//
// With -v the tests print their tables. With -full, these are the tables of docs/reliability.md,
// which has the commands.
package chaos
