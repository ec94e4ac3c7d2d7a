package proxy

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/d365failover/failover"
)

// outcomeHeader is outcomeUnknown in the answer to a write that may or may not have been carried
// out.
const (
	outcomeHeader  = "Failover-Outcome"
	outcomeUnknown = "unknown"
)

var (
	// errNotHTTP is an answer that cannot be passed on. It leaves a write in doubt.
	errNotHTTP             = errors.New("the organization's answer is not a valid answer to this request")
	errConnectionChallenge = errors.New("the organization accepts only NTLM or Negotiate, which authenticate a connection; callers of the proxy share connections")
)

// isSafe reports whether a method only reads (RFC 9110, section 9.2.1).
func isSafe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// writeFailure answers a request for which there is no response to pass on.
//
//	503 and Retry-After   nothing was carried out; the request may be repeated
//	502, outcome unknown  a write was sent and got no definite answer
//	502                   nothing was carried out, or the request only reads
//
// Clients retry after 503 and Retry-After by default, even a POST, so an unknown outcome has
// neither. Of the statuses for a failed gateway, 502 is the one after which HTTP libraries do
// not retry a POST unless configured to. They would retry a 4xx even less, but that says that
// the request is wrong and was not carried out, and both may be false.
func writeFailure(w http.ResponseWriter, r *http.Request, err error) {
	var failure *failover.Error
	e := exchangeOf(r)
	retryAfter := time.Duration(0)
	if errors.As(err, &failure) {
		retryAfter = failure.RetryAfter
	}
	switch {
	case errors.Is(err, failover.ErrOutcomeUnknown):
		w.Header().Set(outcomeHeader, outcomeUnknown)
		writeError(w, http.StatusBadGateway, "OutcomeUnknown", err.Error()+
			" (it may or may not have been carried out; look for its effect before you send it again)")
	case errors.Is(err, failover.ErrClosed):
		w.Header().Set("Connection", "close")
		writeUnavailable(w, time.Second, "ShuttingDown", err)
	case errors.Is(err, failover.ErrUnavailable):
		writeUnavailable(w, retryAfter, "Unavailable", err)
	case failure != nil && !e.brokeOff.Load():
		writeError(w, http.StatusBadGateway, "NoAnswer", failure.Error())
	case e.brokeOff.Load():
		writeError(w, http.StatusBadRequest, "BodyBrokeOff", "the body of the request broke off")
	case errors.Is(err, errConnectionChallenge):
		if e.inDoubt { // an earlier attempt
			w.Header().Set(outcomeHeader, outcomeUnknown)
		}
		writeError(w, http.StatusBadGateway, "ConnectionCredentials", err.Error())
	default:
		if e.inDoubt || !isSafe(r.Method) {
			w.Header().Set(outcomeHeader, outcomeUnknown)
		}
		writeError(w, http.StatusBadGateway, "NoAnswer", errNotHTTP.Error())
	}
}

func writeUnavailable(w http.ResponseWriter, retryAfter time.Duration, code string, err error) {
	seconds := max(1, int(math.Ceil(retryAfter.Seconds())))
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	writeError(w, http.StatusServiceUnavailable, code, err.Error())
}

// writeError writes an error of the proxy as an OData error (JSON Format 4.01, section 21), which
// the organization's clients understand.
func writeError(w http.ResponseWriter, status int, code, message string) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("OData-Version", "4.0")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": "Failover." + code, "message": message}})
}
