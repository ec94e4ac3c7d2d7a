// Command sidecar is a small reverse proxy in front of a Dynamics 365
// organization, for programs in Java, Python, Power Query or anything else that
// speaks HTTP. It gives them what a Go program gets from failover.Transport.
package main
