package failovertest

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// A Failure is a way in which a datacenter fails. The zero Failure does nothing.
//
// The failures of connecting ([Refuse], [NoSuchHost], [BlackHole], [BadCertificate],
// [ExpiredCertificate]) cut the open connections when they are set, so that no request gets
// through on one of them. Only the BlackHole of a [Datacenter.Fail] or a [Recovery] leaves
// them open and swallows what is sent on them. All other failures happen to requests, on old
// and new connections.
type Failure struct {
	kind   failureKind
	moment Moment
	delay  time.Duration
	bytes  int
	answer *answer
}

type failureKind uint8

const (
	none failureKind = iota
	refuse
	noSuchHost
	blackHole
	badCertificate
	expiredCertificate
	hang
	reset
	truncate
	delayed
	throttled
	tooMany
	canned
)

// stage is when a failure happens.
type stage uint8

const (
	stageDial stage = iota
	stageTLS
	stageRequest
)

func (f Failure) stage() stage {
	switch f.kind {
	case refuse, noSuchHost, blackHole:
		return stageDial
	case badCertificate, expiredCertificate:
		return stageTLS
	}
	return stageRequest
}

// String describes the failure in a few words.
func (f Failure) String() string {
	switch f.kind {
	case refuse:
		return "refuse"
	case noSuchHost:
		return "no such host"
	case blackHole:
		return "black hole"
	case badCertificate:
		return "bad certificate"
	case expiredCertificate:
		return "expired certificate"
	case hang:
		return "hang"
	case reset:
		return "reset " + f.moment.String()
	case truncate:
		return fmt.Sprintf("truncate to %d bytes", f.bytes)
	case delayed:
		return "delay " + f.delay.String()
	case throttled:
		return "throttle " + f.delay.String()
	case tooMany:
		return "too many at a time"
	case canned:
		return "status " + strconv.Itoa(f.answer.status)
	}
	return "none"
}

// A Moment is when [Reset] resets the connection of a request.
type Moment uint8

const (
	// BeforeRequest: before the request's body is read. The request is not carried out.
	BeforeRequest Moment = iota
	// DuringRequest: after the first byte of the body. The request is not carried out.
	DuringRequest
	// BeforeAnswer: after the whole request was read. It is not carried out.
	BeforeAnswer
	// AfterApply: after the request was carried out, and before the answer. The caller
	// cannot distinguish it from BeforeAnswer.
	AfterApply
	// MidBody: after half of the body of the answer. The request is carried out.
	MidBody
)

// String returns the moment in words, such as "after apply".
func (m Moment) String() string {
	switch m {
	case DuringRequest:
		return "during request"
	case BeforeAnswer:
		return "before answer"
	case AfterApply:
		return "after apply"
	case MidBody:
		return "mid body"
	}
	return "before request"
}

// Refuse makes connecting fail at once with ECONNREFUSED, as if nothing listened. (Sockets of
// Windows report WSAECONNREFUSED, which errors.Is does not take for the same.)
func Refuse() Failure { return Failure{kind: refuse} }

// NoSuchHost removes the host's name from DNS: dialing it fails with a *[net.DNSError] whose
// IsNotFound is true.
func NoSuchHost() Failure { return Failure{kind: noSuchHost} }

// BlackHole makes the network swallow everything, as when a datacenter loses power: dialing
// hangs until its context ends, at most for 30 seconds, and requests on open connections get
// no answer and are not carried out. A dial that still hangs when the datacenter heals
// succeeds.
func BlackHole() Failure { return Failure{kind: blackHole} }

// BadCertificate makes the datacenter present a certificate of an authority that the client
// does not trust: [x509.UnknownAuthorityError].
func BadCertificate() Failure { return Failure{kind: badCertificate} }

// ExpiredCertificate makes the datacenter present a certificate that expired
// an hour ago: [x509.CertificateInvalidError].
func ExpiredCertificate() Failure { return Failure{kind: expiredCertificate} }

// Hang makes the datacenter read requests and never answer them. They are not carried out. A
// request hangs until its caller gives up or the organization is closed, even if the
// datacenter heals.
func Hang() Failure { return Failure{kind: hang} }

// Reset makes the datacenter reset the connection (TCP RST) at moment m of a request. With
// HTTP/2 this ends all requests on the connection, except that [MidBody] resets only the
// stream. Note that [http.Transport] itself repeats requests such as GET if a connection that
// it has used before is reset.
func Reset(m Moment) Failure { return Failure{kind: reset, moment: m} }

// Delay makes the datacenter carry requests out at once and answer them d later.
func Delay(d time.Duration) Failure { return Failure{kind: delayed, delay: d} }

// Truncate makes the datacenter carry requests out and end the connection (in HTTP/2, the
// stream) after n bytes of the answer's body. Answers with bodies of up to n bytes are sent
// whole.
func Truncate(n int) Failure { return Failure{kind: truncate, bytes: max(n, 0)} }

// Status makes the datacenter answer with the given status, header and body. Requests are
// not carried out. The header may be nil.
func Status(code int, header http.Header, body string) Failure {
	return Failure{kind: canned, answer: &answer{status: code, header: header.Clone(), body: []byte(body)}}
}

// Throttle makes the datacenter reject requests with the service-protection code 0x80072322
// and a Retry-After in full seconds: the Web API with status 429 and the header, the
// organization service with a fault that has it in its ErrorDetails.
func Throttle(retryAfter time.Duration) Failure {
	return Failure{kind: throttled, delay: retryAfter.Truncate(time.Second)}
}

// ServerBusy makes the datacenter answer 503 with the OData error code ServiceUnavailable, as
// the service does while an organization is moved or restarted. Requests are not carried
// out.
func ServerBusy() Failure {
	return Failure{kind: canned, answer: errorAnswer(http.StatusServiceUnavailable, "ServiceUnavailable",
		"The service is busy or being restarted. Please try again later.")}
}

// OutagePage makes the datacenter answer 503 with the HTML page of Azure Front Door for an
// origin that does not answer. Requests are not carried out.
func OutagePage() Failure {
	return Status(http.StatusServiceUnavailable, http.Header{
		"Content-Type": {"text/html"},
		"X-Azure-Ref":  {"simulated"},
	}, "<h2>Our services aren't available right now</h2>"+
		"<p>We're working to restore all services as soon as possible. Please check back soon.</p>")
}
