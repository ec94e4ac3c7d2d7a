// Package chaos breaks the network under a [failover.Transport] and counts what
// its callers see.
//
// Two servers stand for the endpoints of an organization. They speak HTTP/1.1
// and HTTP/2 over real TLS on the loopback interface, are found through a real
// DNS server, and stand behind proxies of github.com/Shopify/toxiproxy/v2, which
// injects the faults that it knows. The rest is done here: names that are gone,
// ports that refuse, listeners that do not answer a SYN, certificates that do
// not fit, GOAWAY and REFUSED_STREAM, and answers made to do harm.
//
// Every request carries an id, and both servers count by id what arrived, what
// they refused and what they carried out. That is how a write that was done
// twice is found, whatever the client believes.
//
// The tests print their tables with -v. With -full they are those of
// docs/reliability.md, which has the commands.
package chaos
