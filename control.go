package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/d365failover/failover/internal/redact"
	"github.com/d365failover/failover/internal/statuspage"
)

// ControlHandler returns a handler that shows what [Transport.StatusHandler] shows, and
// makes methods of the Transport available to people and scripts. Mount it with a path that
// ends in a slash:
//
//	mux.Handle("/ops/failover/", onlyOperators(transport.ControlHandler()))
//
// It authenticates nobody, and anyone who reaches it can switch all traffic of the
// organization: protect it by a middleware such as onlyOperators. Requests that a browser
// sends on behalf of another site are refused (see [http.CrossOriginProtection]); there is no
// other protection. An address that only operators can reach is not enough if they browse
// from there: a hostile site can point its own name to that address (DNS rebinding).
//
// The actions are below the path. Each answers GET with a form, and acts on POST:
//
//	switch    [Transport.Switch]; fields: to ("primary" or "alternate"), reason
//	pin       [Transport.Pin]; fields: endpoint, reason
//	unpin     [Transport.Unpin]; field: reason
//	freeze    [Transport.Freeze], with [Config.Shared] only; field: reason
//	unfreeze  [Transport.Unfreeze], with [Config.Shared] only
//	verify    [LossReport.Verify] for every report of [Transport.Status], through
//	          this Transport, which needs [Config.Authorize]. It continues if the
//	          caller goes away, and a second request joins the one under way
//
// A reason is required where there is a field for it, and is one line of at most 200
// bytes, with secrets redacted as in the errors of this package. That of freeze goes
// into the fleet's [Record], the others into the events and the log, unless the action changes
// nothing there: a switch to the endpoint that is active may only release the latch. Fields are
// form-encoded, or the strings of a JSON object, in at most 16 KiB.
//
// A request that prefers JSON (see StatusHandler) gets an object with ok (a boolean), error
// (a text, empty if ok) and status (the JSON of StatusHandler after the action, null with
// 403). A browser is redirected to the page by a 303 on success; otherwise it gets the form
// again, with the error. A browser waits for verify for 5 seconds at most; while it continues,
// verifying is true in the JSON. The status of an answer is
//
//	200, 303  success, or for a browser that verify has started
//	400       a field is missing or wrong
//	403       the request was made on behalf of another site
//	404       there is no such action
//	409       the action was refused: the endpoint does not pass its probe, the
//	          Transport is closed, there is no fleet or its store does not answer,
//	          or Verify ended early
//	413, 415  the body is too long, or neither a form nor JSON
func (t *Transport) ControlHandler() http.Handler {
	return &controlHandler{t: t, page: statuspage.NewPage(), origin: http.NewCrossOriginProtection()}
}

type controlHandler struct {
	t      *Transport
	page   *statuspage.Page
	origin *http.CrossOriginProtection
}

// ServeHTTP implements [http.Handler].
func (c *controlHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	last := lastElement(r.URL.Path)
	action, found := statuspage.FindAction(last)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		report := c.t.report()
		if found {
			body, policy, err := c.page.DrawForm(report, &statuspage.Form{Action: action})
			respondPage(w, http.StatusOK, body, policy, err)
			return
		}
		report.Control = true
		if mount := lastElement(requestPath(r)); mount != "" {
			report.Mount = mount + "/" // the browser takes relative links as beside it
		}
		show(w, r, c.page, report)
	case http.MethodPost:
		form := statuspage.Form{Action: action}
		var err error
		switch {
		case c.origin.Check(r) != nil:
			err = &controlError{http.StatusForbidden, errors.New("requests on behalf of another site are refused")}
		case !found:
			err = &controlError{http.StatusNotFound, errors.New("no such action")}
		default:
			err = c.do(w, r, &form)
		}
		c.answer(w, r, &form, err)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "only GET, HEAD and POST are answered here", http.StatusMethodNotAllowed)
	}
}

// lastElement returns the last element of a path.
func lastElement(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// requestPath returns the escaped path that the client asked for, before any http.StripPrefix.
func requestPath(r *http.Request) string {
	if u, err := url.ParseRequestURI(r.RequestURI); err == nil {
		return u.EscapedPath()
	}
	return r.URL.EscapedPath()
}

// controlError is an error with the status of the answer.
type controlError struct {
	status int
	error
}

func badField(format string, args ...any) error {
	return &controlError{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

// do carries out an action with the fields of a request, which it also stores in form.
func (c *controlHandler) do(w http.ResponseWriter, r *http.Request, form *statuspage.Form) error {
	fields, err := readFields(w, r)
	if err != nil {
		return err
	}
	form.Reason, form.Chosen = fields["reason"], fields[form.Field]
	reason := redact.Line(redact.Text(form.Reason), maxReason)
	var e Endpoint
	if form.Field != "" {
		if e, err = c.endpoint(form); err != nil {
			form.Chosen = ""
			return err
		}
	}
	if form.NeedsReason && strings.TrimSpace(reason) == "" {
		return badField("a reason is required")
	}
	switch form.Name {
	case "switch":
		return c.t.Switch(r.Context(), e, reason)
	case "pin":
		c.t.pin(e, "by hand: "+reason)
	case "unpin":
		c.t.unpin("by hand: " + reason)
	case "freeze":
		return c.t.Freeze(r.Context(), reason)
	case "unfreeze":
		return c.t.Unfreeze(r.Context())
	case "verify":
		patience := time.Duration(never)
		if !statuspage.WantsJSON(r) {
			patience = verifyPatience
		}
		return c.t.verifyLosses(r.Context(), patience)
	}
	if c.t.state.Load().closed {
		return ErrClosed
	}
	return nil
}

// endpoint returns the endpoint that was chosen.
func (c *controlHandler) endpoint(form *statuspage.Form) (Endpoint, error) {
	switch form.Chosen {
	case Primary.String():
		return Primary, nil
	case Alternate.String():
		if c.t.org.Alternate != nil {
			return Alternate, nil
		}
		return 0, badField("%s: the organization has no alternate address", form.Field)
	}
	return 0, badField("%s must be primary or alternate", form.Field)
}

const (
	maxReason = 200
	maxFields = 16 << 10
	// verifyPatience is how long a browser waits for Verify.
	verifyPatience = 5 * time.Second
)

// readFields returns the fields of a request's body.
func readFields(w http.ResponseWriter, r *http.Request) (map[string]string, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFields))
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return nil, &controlError{http.StatusRequestEntityTooLarge, errors.New("the body is too long")}
	}
	if err != nil {
		return nil, badField("the body cannot be read")
	}
	fields := make(map[string]string)
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case len(body) == 0:
	case mediaType == "application/json":
		if json.Unmarshal(body, &fields) != nil {
			return nil, badField("the body is not a JSON object of strings")
		}
	case mediaType == "application/x-www-form-urlencoded":
		values, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, badField("the body is not form-encoded")
		}
		for key := range values {
			fields[key] = values.Get(key)
		}
	default:
		return nil, &controlError{http.StatusUnsupportedMediaType, errors.New("the body must be form-encoded or JSON")}
	}
	return fields, nil
}

// controlAnswer is the JSON answer to an action.
type controlAnswer struct {
	OK     bool               `json:"ok"`
	Error  string             `json:"error"`
	Status *statuspage.Report `json:"status"`
}

// answer answers with the result of an action.
func (c *controlHandler) answer(w http.ResponseWriter, r *http.Request, form *statuspage.Form, err error) {
	status, refused := http.StatusOK, ""
	if err != nil {
		status, refused = http.StatusConflict, boundedText(err)
		var known *controlError
		if errors.As(err, &known) {
			status = known.status
		}
	}
	switch {
	case status == http.StatusForbidden || statuspage.WantsJSON(r):
		answer := controlAnswer{OK: err == nil, Error: refused}
		if status != http.StatusForbidden { // another site learns nothing
			answer.Status = c.t.report()
		}
		respondJSON(w, status, answer)
	case err == nil:
		w.Header().Set("Location", "./")
		respond(w, http.StatusSeeOther, "text/plain; charset=utf-8", []byte("done\n"))
	case form.Action == nil:
		http.Error(w, refused, status)
	default:
		form.Refused = refused
		body, policy, err := c.page.DrawForm(c.t.report(), form)
		respondPage(w, status, body, policy, err)
	}
}

// verifying is a Verify under way.
type verifying struct {
	done chan struct{}
	err  error // once done is closed
}

// errNoAuthorize says why verify is not available.
var errNoAuthorize = errors.New("failover: verify needs Config.Authorize; without it, call LossReport.Verify with a client that authorizes its requests")

// verifyLosses verifies the loss reports, or joins the Verify under way. It waits for the result
// until ctx ends, or until patience is over: then it returns nil.
func (t *Transport) verifyLosses(ctx context.Context, patience time.Duration) error {
	if t.cfg.Authorize == nil {
		return errNoAuthorize
	}
	t.mu.Lock()
	if t.state.Load().closed {
		t.mu.Unlock()
		return ErrClosed
	}
	run := t.verifying
	if run == nil {
		run = &verifying{done: make(chan struct{})}
		t.verifying = run
		reports := t.books.reports()
		t.wg.Go(func() {
			run.err = verifyAll(t.ctx, &http.Client{Transport: t}, reports)
			t.mu.Lock()
			t.verifying = nil
			t.mu.Unlock()
			close(run.done)
		})
	}
	t.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-run.done:
		return run.err
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// verifyAll verifies reports, the newest first, until one cannot be.
func verifyAll(ctx context.Context, client *http.Client, reports []*LossReport) error {
	for _, r := range slices.Backward(reports) {
		if _, err := r.Verify(ctx, client); err != nil {
			return err
		}
	}
	return nil
}
