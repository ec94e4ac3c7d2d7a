package failover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestClassString(t *testing.T) {
	t.Parallel()
	want := map[Class]string{
		ClassApplication: "application", ClassAuth: "auth", ClassThrottled: "throttled", ClassTransient: "transient",
		ClassUnavailable: "unavailable", ClassCanceled: "canceled", ClassLocal: "local", 200: "Class(200)",
	}
	for c, s := range want {
		assert.Equal(t, s, c.String())
	}
}

func TestDeliveryString(t *testing.T) {
	t.Parallel()
	want := map[Delivery]string{Unknown: "unknown", NotSent: "not sent", Refused: "refused", Answered: "answered", 9: "Delivery(9)"}
	for d, s := range want {
		assert.Equal(t, s, d.String())
	}
}

func TestOutcomeString(t *testing.T) {
	t.Parallel()
	for o, s := range map[Outcome]string{OutcomeAcknowledged: "acknowledged", OutcomeUnknown: "unknown", OutcomePartial: "partial"} {
		assert.Equal(t, s, o.String())
	}
}

func TestFaultCounted(t *testing.T) {
	t.Parallel()
	for c := ClassApplication; c <= ClassLocal; c++ {
		f := &Fault{Class: c}
		assert.Equal(t, c == ClassTransient || c == ClassUnavailable, f.counted(), "%v", c)
	}
}

// A GOAWAY that leaves a request out is proof, unless other errors are joined to it.
func TestWhatAGOAWAYLeavesOut(t *testing.T) {
	t.Parallel()
	gone := errors.New("http2: Transport: cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY] after Request.Body was written; define Request.GetBody to avoid this error")
	assert.Equal(t, Fault{Class: ClassTransient, Delivery: Refused, Err: gone}, *Classify(nil, gone))
	assert.Equal(t, Unknown, Classify(nil, errors.Join(gone, io.EOF)).Delivery)
}

// quick denies being a timeout, whatever it wraps.
type quick struct{ error }

func (quick) Timeout() bool   { return false }
func (q quick) Unwrap() error { return q.error }

func TestWhatIsATimeout(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		context.DeadlineExceeded: true, os.ErrDeadlineExceeded: true, quick{context.DeadlineExceeded}: true, quick{os.ErrDeadlineExceeded}: true,
		&net.DNSError{IsTimeout: true}: true, &net.DNSError{}: false, io.EOF: false, quick{io.EOF}: false, context.Canceled: false,
	} {
		assert.Equal(t, want, isTimeout(err), "%T %v", err, err)
		assert.Equal(t, want, (&Fault{Err: fmt.Errorf("contoso: %w", err)}).Timeout(), "%T %v", err, err)
		assert.Equal(t, want, (&Error{is: []error{err}}).Timeout())
		assert.Equal(t, want, (&Error{Attempts: []*Fault{{Status: 504}, {Err: err}}}).Timeout(), "the last attempt counts")
	}
	assert.False(t, isTimeout(nil))
	for status, want := range map[int]bool{0: false, 503: false, 504: true, 523: false, 524: true, 525: false} {
		assert.Equal(t, want, (&Fault{Status: status}).Timeout(), status)
	}
	var none *Fault
	assert.NoError(t, none.Unwrap(), "it may be in an error of the program's own")
	assert.NotErrorIs(t, fmt.Errorf("contoso: %w", none), io.EOF)
}

// Error types that prove that nothing was sent, and error types that do not.
func TestWhatTheTypeOfAnErrorProves(t *testing.T) {
	t.Parallel()
	other := errors.New("contoso")
	local, remote := net.Pipe()
	defer local.Close()
	defer remote.Close()
	for name, row := range map[string]struct {
		err  error
		want Fault
	}{
		"dial":             {&net.OpError{Op: "dial", Err: other}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"proxy":            {&net.OpError{Op: "proxyconnect", Err: other}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"SOCKS":            {&net.OpError{Op: "socks connect", Err: other}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"within a read":    {&net.OpError{Op: "read", Err: &net.OpError{Op: "dial", Err: other}}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"read":             {&net.OpError{Op: "read", Err: other}, Fault{Class: ClassTransient}},
		"name":             {&net.DNSError{}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"address":          {&net.AddrError{}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"verification":     {&tls.CertificateVerificationError{Err: other}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"authority":        {x509.UnknownAuthorityError{}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"name of the host": {x509.HostnameError{Certificate: new(x509.Certificate)}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"certificate":      {x509.CertificateInvalidError{}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"roots":            {x509.SystemRootsError{}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"client hello":     {&tls.ECHRejectionError{}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"first record":     {tls.RecordHeaderError{Conn: local}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"later record":     {tls.RecordHeaderError{}, Fault{Class: ClassUnavailable}},
		"alert":            {tls.AlertError(42), Fault{Class: ClassUnavailable}},
		"alert over TCP":   {&net.OpError{Op: "remote error", Err: other}, Fault{Class: ClassUnavailable}},
		"own alert":        {&net.OpError{Op: "local error", Err: other}, Fault{Class: ClassUnavailable}},
		"HTTP":             {http.ErrSchemeMismatch, Fault{Class: ClassUnavailable}},
		"refused CONNECT":  {&net.OpError{Op: "proxyconnect", Err: &connectError{407, 0}}, Fault{Class: ClassAuth, Delivery: NotSent}},
		"throttled there":  {&connectError{429, time.Second}, Fault{Class: ClassThrottled, Delivery: NotSent, RetryAfter: time.Second}},
		"no way there":     {&connectError{404, 0}, Fault{Class: ClassUnavailable, Delivery: NotSent}},
		"a fault":          {&url.Error{Op: "Get", URL: "/", Err: &Fault{Class: ClassAuth, Delivery: Answered, Endpoint: Alternate, Status: 403}}, Fault{Class: ClassAuth, Delivery: Answered, Status: 403}},
		"other":            {other, Fault{Class: ClassTransient}},
	} {
		row.want.Err = row.err
		assert.Equal(t, row.want, *Classify(nil, row.err), name)
		joined := Classify(nil, errors.Join(row.err, other))
		assert.Equal(t, Unknown, joined.Delivery, "%s: the other one may have been sent", name)
	}
}

func TestWhatIsTemporary(t *testing.T) {
	t.Parallel()
	passing, lasting := &net.DNSError{IsTemporary: true}, &net.DNSError{}
	for _, row := range []struct {
		errs []error
		want bool
	}{{nil, false}, {[]error{passing}, true}, {[]error{lasting}, false}, {[]error{io.EOF}, false}, {[]error{passing, io.EOF}, false}, {[]error{io.EOF, passing}, true}} {
		var e Error
		for _, err := range row.errs {
			e.Attempts = append(e.Attempts, &Fault{Err: err})
		}
		assert.Equal(t, row.want, e.Temporary(), "%v", row.errs)
	}
}

// Error texts that are shown or kept are cut at their limits, and not before.
func TestTheTextsOfErrorsAreBounded(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x ", maxErrorKept)
	shown := redacted(errors.New(text[:399])).Error()
	assert.Equal(t, text[:399], shown)
	assert.Len(t, redacted(errors.New(text)).Error(), 399, "without the blank")
	whole, long := errors.New(text[:maxErrorKept]), errors.New(text[:maxErrorKept+1])
	assert.Equal(t, whole, boundedError(whole))
	assert.InDelta(t, 2048, len(boundedError(long).Error()), 1)
	for _, err := range []error{nil, &Fault{}, &Error{}} {
		assert.Equal(t, err, redacted(err))
	}
}

func TestFaultText(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, why string
		fault     Fault
		want      string
	}{
		{"fence", "the name of a code helps whoever reads a log", Fault{Class: ClassUnavailable, Definitive: true, Delivery: Refused, Status: 500, Code: "0x8004B065", RequestID: "r-1"},
			"unavailable (definitive), request refused: status 500 0x8004B065 DatacenterNotAvailable (request id r-1)"},
		{"message", "messages quote record data", Fault{Class: ClassApplication, Delivery: Answered, Status: 400, Code: "0x80040203", Message: "SECRET"},
			"application, request answered: status 400 0x80040203"},
		{"error", "the reason is the underlying error's", Fault{Class: ClassTransient, Err: io.ErrUnexpectedEOF},
			"transient, request outcome unknown: unexpected EOF"},
		{"zero", "the zero value has a text", Fault{}, "application, request outcome unknown"},
		{"multi-line error", "logs are line by line", Fault{Class: ClassUnavailable, Delivery: NotSent, Err: errors.New("a\r\nlevel=error\x1b[31m \u202eb")},
			"unavailable, request not sent: a level=error [31m b"},
	}
	for _, tt := range tests {
		require.NotEmpty(t, tt.why)
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, tt.fault.Error(), tt.why)
			assert.Equal(t, tt.fault.Err, errors.Unwrap(&tt.fault))
		})
	}
}

// canary stands for a secret. It must never appear.
const canary = "s3cr3t"

func TestErrorsHideSecrets(t *testing.T) {
	t.Parallel()
	_, parseErr := url.Parse(fmt.Sprintf("https://user:%s@contoso.com:port/", canary))
	require.Error(t, parseErr)
	errs := map[string]error{
		"url error with query":     &url.Error{Op: "Get", URL: "https://contoso.com/api?sig=" + canary, Err: io.EOF},
		"nested url errors":        &url.Error{Op: "Get", URL: canary, Err: &url.Error{Op: "Post", URL: canary, Err: io.EOF}},
		"wrapped url error":        fmt.Errorf("token: %w", &url.Error{Op: "Post", URL: "https://login.contoso.com/token?code=" + canary, Err: io.EOF}),
		"parse error":              parseErr,
		"proxy with user info":     fmt.Errorf("proxyconnect via http://user:%s@proxy.contoso.com:8080 failed", canary),
		"user info with a query":   fmt.Errorf("dial https://user:x?%s@contoso.com failed", canary),
		"query with an at sign":    fmt.Errorf("get https://contoso.com/p?a=b@c&sig=%s failed", canary),
		"slash in password":        fmt.Errorf("dial socks5://user:a/%s@proxy failed", canary),
		"fragment":                 fmt.Errorf("get https://contoso.com/cb#access_token=%s failed", canary),
		"relative address":         fmt.Errorf(`bad Location "/cb?code=%s"`, canary),
		"bearer token":             fmt.Errorf("header Authorization: Bearer %s rejected", canary),
		"basic credentials":        fmt.Errorf("Proxy-Authorization: basic  %s", canary),
		"angle brackets":           fmt.Errorf("see <https://u:%s@contoso.com/>", canary),
		"cut in the password":      fmt.Errorf("%s dial https://user:%s%s@contoso.com", strings.Repeat("\t", maxErrorText-50), canary, strings.Repeat("x", 99)),
		"operation on a url error": &net.OpError{Op: "proxyconnect", Net: "tcp", Err: &url.Error{Op: "parse", URL: "http://u:" + canary + "@p", Err: io.EOF}},
	}
	for name, err := range errs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := Classify(nil, err)
			require.NotNil(t, f)
			assert.NotContains(t, f.Error(), canary)
			e := &Error{Method: "GET", URL: "https://contoso.com/p?" + canary, Attempts: []*Fault{f}}
			assert.NotContains(t, e.Error(), canary)
			assert.ErrorIs(t, e, err, "the error itself stays at hand")
		})
	}
}

func TestError(t *testing.T) {
	t.Parallel()
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	first := Classify(nil, dial)
	second := Classify(nil, context.DeadlineExceeded)
	second.Endpoint = Alternate
	e := &Error{
		Method: "POST", URL: "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts",
		Attempts: []*Fault{first, second}, RetryAfter: time.Second, is: []error{ErrOutcomeUnknown},
	}
	assert.Equal(t, "failover: POST https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts: outcome of the write is unknown: "+
		"primary: unavailable, request not sent: dial tcp: connection refused; "+
		"alternate: transient, request outcome unknown: context deadline exceeded", e.Error())
	assert.Equal(t, []error{ErrOutcomeUnknown, first, second}, e.Unwrap())

	var err error = &url.Error{Op: "Post", URL: e.URL, Err: e} // as http.Client wraps it
	assert.ErrorIs(t, err, ErrOutcomeUnknown)
	assert.NotErrorIs(t, err, ErrUnavailable)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	var fault *Fault
	require.ErrorAs(t, err, &fault)
	assert.Same(t, first, fault, "the first attempt comes first")
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	assert.Same(t, dial, op)
	assert.True(t, err.(net.Error).Timeout(), "the last attempt timed out")
	assert.True(t, e.Temporary(), "as deadlines are")

	e.Attempts = e.Attempts[:1]
	assert.False(t, e.Timeout())
	assert.False(t, e.Temporary())
	assert.False(t, (&Error{}).Timeout(), "no attempt, no time-out")
	assert.False(t, (&Error{}).Temporary())
}

func TestErrorTextIsBounded(t *testing.T) {
	t.Parallel()
	long := errors.New(strings.Repeat("ü\n", 1<<16))
	f := Classify(nil, long)
	assert.LessOrEqual(t, len(f.Error()), 400)
	assert.True(t, utf8.ValidString(f.Error()))
	e := &Error{Method: "GET", URL: "https://contoso.com/" + strings.Repeat("x", 1<<16)}
	for range 100 {
		e.Attempts = append(e.Attempts, f)
	}
	assert.LessOrEqual(t, len(e.Error()), 2048)
	assert.NotContains(t, e.Error(), "\n")
}
