package failover

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/d365failover/failover/internal/redact"
)

// statusPage is the template of the page. Its style is one literal element, so
// that the Content-Security-Policy can name it by its hash.
//
//go:embed statuspage.html
var statusPage string

// StatusHandler returns a handler that shows [Transport.Status]: as a page for
// people, which renews itself every 10 seconds, or as JSON if the query has
// format=json or the Accept header ranks application/json above text/html. It
// answers GET and HEAD, with 200 whatever the state is; the answer that depends
// on the state is [Transport.ReadyHandler].
//
//	mux.Handle("/debug/failover", transport.StatusHandler())
//
// The page has no script and loads nothing. It shows no credentials, query
// strings, bodies or messages of the service, but it names the organization
// and its records, and it asks nobody who they are: mount it where
// net/http/pprof would be mounted.
//
// The JSON is one object. Its times are RFC 3339 in UTC, a number of seconds
// says so in its name, and enumerations are the words of their String methods.
// What does not exist (the last fault of an endpoint that had none, the status
// of a fault without a response) is left out. Fields may be added.
//
//	time, started       of this answer, and of New
//	situation           the gravest that applies: "closed", "down", "pinned",
//	                    "latched", "tripped", "failed over" or "healthy"
//	summary, advice     a sentence or two for people; their wording may change
//	ready               whether Ready returns nil
//	active              endpoint, "primary" or "alternate"
//	since               when it became active
//	activeSeconds       how long ago that is
//	generation          how many switches led here
//	pinned, down,       booleans, see Status
//	latched, closed
//	primary, alternate  objects with url, active, breaker, lastSuccess,
//	                    lastFault, faults (number by class, of every class) and
//	                    probe, the last one: time, result ("passed", "failed" or
//	                    "inconclusive"), error
//	fleet               with Config.Shared, what is known of the fleet: member,
//	                    apart, active, generation, since, reason and by of the
//	                    record, loaded, failed, witnesses, error
//	loss                the writes that the last switch put at risk: from,
//	                    lastSuccess, rpoSeconds, truncated, atRisk, unknown
//	events              objects, oldest first, with kind, time, generation,
//	                    from, to, reason, fault, error
//
// A fault is an object with time (of a last fault), class, definitive, delivery, status, code,
// requestId, retryAfterSeconds and text. The writes of atRisk and unknown have
// time, method, path, entityId, requestId, label, status, and state: "not
// verified", "present", "missing" or "unreadable".
func (t *Transport) StatusHandler() http.Handler {
	// Parsed here and not in a variable of the package, so that programs that
	// do not show the page link little of html/template.
	page := template.Must(template.New("status").Parse(statusPage))
	policy := "default-src 'none'; style-src " + styleSource(statusPage) + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return readOnly(func(w http.ResponseWriter, r *http.Request) {
		report, line := t.statusReport()
		var body bytes.Buffer
		if wantsJSON(r) {
			out := json.NewEncoder(&body)
			out.SetIndent("", "  ")
			if err := out.Encode(report); err != nil {
				http.Error(w, "status: "+err.Error(), http.StatusInternalServerError)
				return
			}
			respond(w, http.StatusOK, "application/json", body.Bytes())
			return
		}
		if err := page.Execute(&body, statusHTML{report, line}); err != nil {
			http.Error(w, "status: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Security-Policy", policy)
		respond(w, http.StatusOK, "text/html; charset=utf-8", body.Bytes())
	})
}

// Ready returns nil unless neither endpoint serves, or the Transport is closed;
// which endpoint serves makes no difference. The error is [ErrUnavailable] with
// the faults that the last probes have met (errors.As finds them as [*Fault]),
// or [ErrClosed]. Ready reports what is known and sends nothing: a Transport is
// ready before its first request.
func (t *Transport) Ready() error {
	st := t.state.Load()
	if st.closed {
		return ErrClosed
	}
	if st.down == nil {
		return nil
	}
	faults, _ := t.outlook(st.down)
	err := ErrUnavailable
	for _, f := range faults {
		if f != nil {
			err = fmt.Errorf("%w; %v: %w", err, f.Endpoint, f)
		}
	}
	return err
}

// ReadyHandler returns a handler for the readiness probe of Kubernetes and its
// like: "ok" with status 200 if [Transport.Ready] returns nil, otherwise the
// error's text with status 503. It answers GET and HEAD.
//
//	mux.Handle("/readyz", transport.ReadyHandler())
//
// It is no liveness probe: to restart a program does not bring an organization
// back.
func (t *Transport) ReadyHandler() http.Handler {
	return readOnly(func(w http.ResponseWriter, _ *http.Request) {
		status, text := http.StatusOK, "ok"
		if err := t.Ready(); err != nil {
			status, text = http.StatusServiceUnavailable, redact.Line(err.Error(), maxErrorText)
		}
		respond(w, status, "text/plain; charset=utf-8", []byte(text+"\n"))
	})
}

// readOnly lets GET and HEAD through to h.
func readOnly(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are answered here", http.StatusMethodNotAllowed)
			return
		}
		h(w, r)
	})
}

// respond writes a whole response. net/http leaves the body out for HEAD.
func respond(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body)
}

// styleSource returns the source expression that permits the page's style.
// Source: Content Security Policy Level 3, section 2.3.1, hash-source.
func styleSource(page string) string {
	_, style, _ := strings.Cut(page, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// wantsJSON reports whether a request is for the JSON form. A header that ranks
// both forms equal, as "application/json, */*" does, means the one it names.
func wantsJSON(r *http.Request) bool {
	if format := r.URL.Query().Get("format"); format != "" {
		return format == "json"
	}
	accept := strings.Split(strings.Join(r.Header.Values("Accept"), ","), ",")
	asJSON, named := rank(accept, "application/json")
	asHTML, alsoNamed := rank(accept, "text/html")
	return asJSON > asHTML || asJSON == asHTML && asJSON > 0 && named && !alsoNamed
}

// rank returns the weight that an Accept header gives a media type, and whether
// it names it. The most specific range decides (RFC 9110, section 12.5.1).
func rank(accept []string, mediaType string) (weight float64, named bool) {
	family, _, _ := strings.Cut(mediaType, "/")
	found := -1
	for _, field := range accept {
		name, params, err := mime.ParseMediaType(field)
		if err != nil {
			continue
		}
		for precision, match := range []string{"*/*", family + "/*", mediaType} {
			if name != match || precision <= found {
				continue
			}
			found, weight = precision, 1
			if q, ok := params["q"]; ok {
				weight, _ = strconv.ParseFloat(q, 64)
			}
		}
	}
	return weight, found == 2
}

// statusHTML is what the page is made of.
type statusHTML struct {
	*statusReport
	Timeline *timeline
}

// moment is a time as the page shows it.
type moment struct{ at, now time.Time }

// At returns a time for showing.
func (p statusHTML) At(t time.Time) moment { return moment{t, p.Time} }

// RFC3339 returns the time for machines, Clock for people, with the date unless
// that is today's, and Ago how long ago it is.
func (m moment) RFC3339() string { return m.at.UTC().Format(time.RFC3339) }
func (m moment) Clock() string   { return clock(m.at, m.now, "15:04:05") }
func (m moment) Ago() string     { return ago(m.at, m.now) }

// Stamp returns the time of the report.
func (p statusHTML) Stamp() string { return p.Time.Format("2 Jan 2006 15:04:05 UTC") }

// Running returns for how long the Transport has existed.
func (p statusHTML) Running() string { return inWords(p.Time.Sub(p.Started)) }

// Title is the page's title: what matters first.
func (p statusHTML) Title() string { return p.Situation + ": " + p.Primary.URL }

// Endpoints returns both endpoints, the active one first.
func (p statusHTML) Endpoints() []statusEndpoint {
	if p.Alternate.Active {
		return []statusEndpoint{p.Alternate, p.Primary}
	}
	return []statusEndpoint{p.Primary, p.Alternate}
}

// Newest returns the events for reading from the top.
func (p statusHTML) Newest() []statusEvent {
	newest := slices.Clone(p.Events)
	slices.Reverse(newest)
	return newest
}

// writeRows is a list of writes as the page shows it.
type writeRows struct {
	statusHTML
	Writes []statusWrite
	More   int
}

// maxWriteRows bounds each list of writes on the page; the JSON has them all.
const maxWriteRows = 100

// Rows returns the writes of a list that the page has room for.
func (p statusHTML) Rows(writes []statusWrite) writeRows {
	n := min(len(writes), maxWriteRows)
	return writeRows{p, writes[:n], len(writes) - n}
}

// clock returns t in UTC, with the date unless that is the date of now.
func clock(t, now time.Time, layout string) string {
	t, now = t.UTC(), now.UTC()
	switch {
	case t.Year() != now.Year():
		layout = "2 Jan 2006 " + layout
	case t.YearDay() != now.YearDay():
		layout = "2 Jan " + layout
	}
	return t.Format(layout)
}

// ago returns the time from t to now in words.
func ago(t, now time.Time) string {
	if d := now.Sub(t); d >= time.Second {
		return inWords(d) + " ago"
	}
	return "now"
}

// inWords returns a duration with the one or two units that matter.
func inWords(d time.Duration) string {
	days, hours, minutes := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%d d %d h", days, hours)
	case hours > 0:
		return fmt.Sprintf("%d h %d min", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%d min", minutes)
	default:
		return fmt.Sprintf("%d s", int(max(0, d).Seconds()))
	}
}
