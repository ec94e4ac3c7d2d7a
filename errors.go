package failover

import (
	"errors"
	"time"
)

// Class says what a fault means for the endpoint that gave it.
type Class uint8

const (
	// ClassApplication: the organization answered and refused the request
	// itself (validation, plug-in, not found, concurrency). The endpoint is
	// healthy; the fault does not count.
	ClassApplication Class = iota
	// ClassAuth: the caller's credentials, or the service that issues them,
	// are at fault (401, 403, 407, sign-in pages, token errors). Does not count.
	ClassAuth
	// ClassThrottled: the caller has to slow down (429 and the service
	// protection codes). Does not count; see [Fault.RetryAfter].
	ClassThrottled
	// ClassTransient: the endpoint did not manage this request (timeout,
	// reset, deadlock, an unexplained 500). Counts.
	ClassTransient
	// ClassUnavailable: the endpoint, or the way to it, is not there (refused,
	// DNS, TLS, 502, 503, outage pages, the fence codes). Counts.
	ClassUnavailable
	// ClassCanceled: the caller gave up. Neither a fault of the endpoint nor a
	// success. A deadline that passes is ClassTransient: it is how an endpoint
	// that swallows requests looks.
	ClassCanceled
)

// Delivery says what is known about the request that met a fault.
type Delivery uint8

const (
	// Unknown: bytes left and no definite answer came. The request may or may
	// not have been carried out.
	Unknown Delivery = iota
	// NotSent: no byte of the request left (dial, DNS, TLS handshake).
	NotSent
	// Refused: a front end provably did not run the request (a fence code,
	// 429, an HTTP/2 REFUSED_STREAM).
	Refused
	// Answered: the organization itself answered.
	Answered
)

// A Fault is what an attempt got instead of a healthy answer.
type Fault struct {
	Class Class
	// Definitive: one such fault is proof that the organization is not served
	// by this endpoint; no threshold applies.
	Definitive bool
	Delivery   Delivery
	// Endpoint that gave the fault. Classify does not know it and leaves it
	// [Primary]; the Transport sets it.
	Endpoint Endpoint
	// Status of the response, 0 if there was none.
	Status int
	// Code of the organization service in the form "0x8004B065", or the code
	// word of the answer ("ServiceUnavailable"), or "".
	Code string
	// Message of the answer: one line, at most 256 bytes, "" if there was none.
	Message string
	// RequestID the service gave the request (x-ms-service-request-id or its
	// like), "" if it gave none.
	RequestID string
	// RetryAfter the server asked for, 0 if it did not.
	RetryAfter time.Duration
	// Err of the attempt when there was no response.
	Err error
}

// counted reports whether the fault speaks against its endpoint.
func (f *Fault) counted() bool {
	return f.Class == ClassTransient || f.Class == ClassUnavailable
}

var (
	// ErrClosed is returned by round trips after [Transport.Close].
	ErrClosed = errors.New("failover: transport closed")
	// ErrUnavailable is returned while neither endpoint serves the organization.
	ErrUnavailable = errors.New("failover: neither endpoint serves the organization")
	// ErrOutcomeUnknown marks the error of a write that was sent and got no
	// definite answer: it may or may not have been carried out.
	ErrOutcomeUnknown = errors.New("failover: outcome of the write is unknown")
)
