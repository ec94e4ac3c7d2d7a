package failovertest

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// A Failure is a way for a datacenter to fail. The zero Failure is none: it
// lets the request through.
//
// The failures of connecting ([Refuse], [NoSuchHost], [BlackHole],
// [BadCertificate], [ExpiredCertificate]) cut the connections that exist when
// they are set, so that no request slips through on one of them; only a
// lasting BlackHole leaves them open and swallows what is sent on them. The
// other failures happen to requests, on connections old and new.
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

// stage is when a failure shows.
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

// String describes the failure in a word or two.
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

// A Moment of a request at which its connection can be reset.
type Moment uint8

const (
	// BeforeRequest: before the body of the request is read. It is not applied.
	BeforeRequest Moment = iota
	// DuringRequest: after the first byte of the body. It is not applied.
	DuringRequest
	// BeforeAnswer: after all of the request was read. It is not applied.
	BeforeAnswer
	// AfterApply: like BeforeAnswer as far as the caller can see, but the
	// request was carried out.
	AfterApply
	// MidBody: after half of the body of the answer. The request was carried out.
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

// Refuse makes connecting fail at once with ECONNREFUSED, as a host does that
// has no listener.
func Refuse() Failure { return Failure{kind: refuse} }

// NoSuchHost makes the host's name disappear from DNS: dialing it fails with
// a *[net.DNSError] that says so.
func NoSuchHost() Failure { return Failure{kind: noSuchHost} }

// BlackHole makes the network swallow everything, as it looks when a
// datacenter loses its power: dialing hangs until its context ends, or for 30
// seconds, and requests on connections that exist get no answer. Nothing sent
// into it is applied. Dialing that hangs when the datacenter heals succeeds.
func BlackHole() Failure { return Failure{kind: blackHole} }

// BadCertificate makes the datacenter present a certificate of an authority
// the client does not trust: [x509.UnknownAuthorityError].
func BadCertificate() Failure { return Failure{kind: badCertificate} }

// ExpiredCertificate makes the datacenter present a certificate that expired
// an hour ago: [x509.CertificateInvalidError].
func ExpiredCertificate() Failure { return Failure{kind: expiredCertificate} }

// Hang makes the datacenter read requests and never answer them. They are not
// applied. A request that hangs does so until its caller gives up or the
// organization is closed, whatever happens to the datacenter meanwhile.
func Hang() Failure { return Failure{kind: hang} }

// Reset makes the datacenter reset the connection (TCP RST) at moment m of a
// request. In HTTP/2 this ends all requests of the connection; at [MidBody]
// only the stream is reset. Mind that [http.Transport] repeats requests such
// as GET by itself when a connection it has used before is reset.
func Reset(m Moment) Failure { return Failure{kind: reset, moment: m} }

// Delay makes the datacenter carry requests out at once and answer them after d.
func Delay(d time.Duration) Failure { return Failure{kind: delayed, delay: d} }

// Truncate makes the datacenter carry requests out and close the connection
// after n bytes of the answer's body. Answers whose body is no longer than n
// are sent whole.
func Truncate(n int) Failure { return Failure{kind: truncate, bytes: max(n, 0)} }

// Status makes the datacenter answer with this status, header and body.
// Requests are not applied. The header may be nil.
func Status(code int, header http.Header, body string) Failure {
	return Failure{kind: canned, answer: &answer{status: code, header: header.Clone(), body: []byte(body)}}
}

// Throttle makes the datacenter refuse requests with the service-protection
// code 0x80072322 and ask for a pause, in full seconds: the Web API by status
// 429 and Retry-After, the organization service by a fault whose ErrorDetails
// have a duration of that name.
func Throttle(retryAfter time.Duration) Failure {
	return Failure{kind: throttled, delay: retryAfter.Truncate(time.Second)}
}

// ServerBusy makes the datacenter answer 503 with an OData error that has a
// word for a code, as the service does while an organization is moved or
// restarted.
func ServerBusy() Failure {
	return Failure{kind: canned, answer: errorAnswer(http.StatusServiceUnavailable, "ServiceUnavailable",
		"The service is busy or being restarted. Please try again later.")}
}

// OutagePage makes the datacenter answer 503 with the HTML page that Azure
// Front Door shows if no origin answers.
func OutagePage() Failure {
	return Status(http.StatusServiceUnavailable, http.Header{
		"Content-Type": {"text/html"},
		"X-Azure-Ref":  {"simulated"},
	}, "<h2>Our services aren't available right now</h2>"+
		"<p>We're working to restore all services as soon as possible. Please check back soon.</p>")
}
