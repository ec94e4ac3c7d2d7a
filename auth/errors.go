package auth

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"golang.org/x/oauth2"
)

// Error reports that there is no token for an audience. Its text is safe to log: of an
// answer of the sign-in service it holds only the status and the error code, and of an error
// whose text may quote an answer only the type. errors.As and errors.Unwrap find the error
// of the Source, whose own text may hold a token.
type Error struct {
	// Audience is the audience of the token.
	Audience string
	err      error
}

func (e *Error) Error() string {
	return "auth: no token for " + e.Audience + ": " + withoutTokens(cause(e.err))
}

// Unwrap returns the error of the [Source].
func (e *Error) Unwrap() error { return e.err }

var (
	errClosed   = errors.New("closed")
	errNoToken  = errors.New("no token, or an expired one")
	errPanicked = errors.New("the Source panicked")
	errHangs    = errors.New("the Source does not return")
	errLate     = errors.New("the sign-in service has not answered yet")
)

// cause describes the error of a source. It trusts the texts of errors that are made on
// this machine. All others may quote an answer, as those of encoding/json quote a field that
// they cannot read.
func cause(err error) string {
	var (
		azure *azidentity.AuthenticationFailedError
		oauth *oauth2.RetrieveError
	)
	switch {
	case errors.As(err, &oauth) && oauth.Response != nil:
		return answered(oauth.Response.StatusCode, oauth.ErrorCode)
	case errors.As(err, &azure) && azure.RawResponse != nil:
		var answer struct{ Error string }
		// An answer that is not JSON has no code.
		if body, err := runtime.Payload(azure.RawResponse); err == nil {
			_ = json.Unmarshal(body, &answer)
		}
		return answered(azure.RawResponse.StatusCode, answer.Error)
	}
	if own := madeHere(err); own != nil {
		return own.Error()
	}
	text := fmt.Sprintf("an error of type %T", err)
	for _, known := range phrases {
		if strings.Contains(err.Error(), known) {
			return text + ": " + known
		}
	}
	return text
}

// madeHere returns an error in the tree of err that does not quote what another machine has
// sent, nil if there is none.
func madeHere(err error) error {
	for _, own := range []error{errClosed, errNoToken, errPanicked, errHangs, errLate, context.Canceled, context.DeadlineExceeded, io.ErrUnexpectedEOF, io.EOF} {
		if errors.Is(err, own) {
			return own
		}
	}
	var (
		dns  *net.DNSError
		dial *net.OpError
		cert *tls.CertificateVerificationError
		file *fs.PathError
	)
	switch {
	case errors.As(err, &dns):
		return dns
	case errors.As(err, &cert):
		return cert
	case errors.As(err, &dial):
		return dial
	case errors.As(err, &file):
		return file
	}
	return nil
}

// phrases are the parts of untrusted texts that are shown. azidentity turns errors of the
// network into texts.
var phrases = []string{
	"connection refused", "connection reset", "no such host", "i/o timeout", "context deadline exceeded",
	"context canceled", "network is unreachable", "failed to verify certificate", "unexpected end of JSON input",
	"unexpected EOF", "missing environment variable", "no such file or directory", "executable not found on path",
}

// token matches what no text may hold: a JSON Web Token or the beginning of one, and
// everything after the name of the field of access tokens.
var token = regexp.MustCompile(`(?is:access_token.*)|eyJ[^\s"'\x60<>,;]*`)

func withoutTokens(text string) string { return token.ReplaceAllString(text, "[redacted]") }

// answered describes an answer of the sign-in service. It quotes codes like those of RFC
// 6749, section 5.2: lower-case words of up to 40 characters.
func answered(status int, code string) string {
	text := fmt.Sprintf("the sign-in service answered %d", status)
	for _, c := range code {
		if len(code) > 40 || c != '_' && (c < 'a' || c > 'z') {
			return text
		}
	}
	if code != "" {
		text += " " + code
	}
	return text
}
