// Package remote has the subcommands that show and control a running process through its
// ControlHandler: status, switch, pin, unpin, freeze, unfreeze and verify.
package remote

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/console"
)

const (
	// atVariable names the environment variable with the default of -at.
	atVariable = "FAILOVER_AT"
	// authorizationVariable names the environment variable with the Authorization header.
	authorizationVariable = "FAILOVER_AUTHORIZATION"
)

const at = `
-at is the URL at which the program serves its ControlHandler. If that requires
authentication, put the value of the Authorization header into the environment
variable FAILOVER_AUTHORIZATION ("Bearer ..." or "Basic ..."). It is not printed.

The exit status is 0 on success, 1 if the process refuses, and 2 if it cannot be
reached or the command line is wrong.
`

// An action is a subcommand that posts to the handler.
type action struct {
	name, about string
	field       string // name of the form field for the endpoint, "" if it takes none
	reason      bool   // it takes a reason
	timeout     time.Duration
	done        func(s *status) string // describes the result
}

var actions = map[string]action{
	"switch": {name: "switch", field: "to", reason: true, timeout: time.Minute, about: `
Switches the traffic of a running process to an endpoint, "primary" or
"alternate". The process probes the endpoint first, and refuses if it fails the
probe. Automatic switches remain possible: see "failover pin".

    failover switch alternate -reason "drill of November"
`, done: func(s *status) string { return "The traffic now goes to the " + s.Active + "." }},
	"pin": {name: "pin", field: "endpoint", reason: true, timeout: time.Minute, about: `
Keeps the traffic of a running process at an endpoint, "primary" or "alternate",
until "failover unpin": it switches there without a probe, and there are no
automatic switches.

    failover pin primary -reason "INC-4711"
`, done: func(s *status) string { return "The traffic stays at the " + s.Active + " until \"failover unpin\"." }},
	"unpin": {name: "unpin", reason: true, timeout: time.Minute, about: `
Allows automatic switches of a running process again, after "failover pin" or when
the process has latched after too many switches.

    failover unpin -reason "INC-4711 is over"
`, done: func(s *status) string { return "Automatic switches are allowed again." }},
	"freeze": {name: "freeze", reason: true, timeout: time.Minute, about: `
Disables automatic switches in all processes of a fleet until "failover unfreeze".
The traffic stays where it is, even if the endpoint fails. "failover switch" still
switches all processes. -at may name any process of the fleet.

    failover freeze -reason "migration tonight"
`, done: func(s *status) string { return "Automatic switches are disabled in the whole fleet." }},
	"unfreeze": {name: "unfreeze", timeout: time.Minute, about: `
Enables automatic switches in all processes of a fleet again, after "failover
freeze".

    failover unfreeze
`, done: func(s *status) string { return "Automatic switches are enabled again in the whole fleet." }},
	"verify": {name: "verify", timeout: 15 * time.Minute, about: `
Makes a running process look up the writes in its loss report, at ten records per
second, and shows which of them are present.

    failover verify
`, done: func(s *status) string { return "The writes have been looked up." }},
}

// Switch, Pin, Unpin, Freeze, Unfreeze and Verify run the subcommands of these names and return
// the exit status.
func Switch(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return act(ctx, actions["switch"], args, stdout, stderr)
}

// Pin is the subcommand pin: see [Switch].
func Pin(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return act(ctx, actions["pin"], args, stdout, stderr)
}

// Unpin is the subcommand unpin: see [Switch].
func Unpin(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return act(ctx, actions["unpin"], args, stdout, stderr)
}

// Freeze is the subcommand freeze: see [Switch].
func Freeze(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return act(ctx, actions["freeze"], args, stdout, stderr)
}

// Unfreeze is the subcommand unfreeze: see [Switch].
func Unfreeze(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return act(ctx, actions["unfreeze"], args, stdout, stderr)
}

// Verify is the subcommand verify: see [Switch].
func Verify(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return act(ctx, actions["verify"], args, stdout, stderr)
}

// Status is the subcommand status: see [Switch].
func Status(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := console.NewCommand("status", "", `
Shows the status of a running process: the active endpoint, the health of both,
what to do, and the latest events.

    failover status -at https://orders.contoso.example/ops/failover
`+at, stdout, stderr)
	where, asJSON := flags(c)
	operands, exit, ok := c.Parse(args)
	switch {
	case !ok:
		return exit
	case len(operands) > 0:
		return c.Mistake("there is nothing to give but flags")
	}
	p, err := newProcess(*where)
	if err != nil {
		return c.Mistake("%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	body, err := p.get(ctx)
	if err != nil {
		return c.Fail(err)
	}
	if *asJSON {
		return printJSON(c, stdout, body)
	}
	s := new(status)
	if err := json.Unmarshal(body, s); err != nil || s.Active == "" {
		return c.Fail(errNoStatus)
	}
	s.print(stdout)
	return console.OK
}

func flags(c *console.Command) (where *string, asJSON *bool) {
	where = c.String("at", cmp.Or(os.Getenv(atVariable), "http://127.0.0.1:8367/"), "`URL` of the ControlHandler (default: the environment "+
		"variable "+atVariable+", or else that of \"failover proxy\")")
	return where, c.Bool("json", false, "print the answer as JSON")
}

// act runs the subcommand of an action.
func act(ctx context.Context, a action, args []string, stdout, stderr io.Writer) int {
	operand := ""
	if a.field != "" {
		operand = "primary|alternate"
	}
	c := console.NewCommand(a.name, operand, a.about+at, stdout, stderr)
	where, asJSON := flags(c)
	var reason *string
	if a.reason {
		reason = c.String("reason", "", "`text` that says why, for the log and for other operators")
	}
	operands, exit, ok := c.Parse(args)
	if !ok {
		return exit
	}
	fields := url.Values{}
	switch {
	case a.field == "" && len(operands) > 0:
		return c.Mistake("there is nothing to give but flags")
	case a.field != "" && (len(operands) != 1 || operands[0] != "primary" && operands[0] != "alternate"):
		return c.Mistake("give the endpoint: primary or alternate")
	case a.field != "":
		fields.Set(a.field, operands[0])
	}
	if a.reason {
		if strings.TrimSpace(*reason) == "" {
			return c.Mistake("give a -reason: other operators will need it")
		}
		fields.Set("reason", by(*reason))
	}
	p, err := newProcess(*where)
	if err != nil {
		return c.Mistake("%v", err)
	}
	progress := console.NewProgress(stderr)
	progress.Show("waiting for the process: up to %v", a.timeout)
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	answer, body, err := p.post(ctx, a.name, fields)
	progress.End()
	switch {
	case err != nil:
		return c.Fail(err)
	case *asJSON:
		if exit := printJSON(c, stdout, body); exit != console.OK {
			return exit
		}
	case answer.OK:
		fmt.Fprintln(stdout, console.Clean(a.done(&answer.Status)))
		fmt.Fprintln(stdout)
		answer.Status.print(stdout)
	default:
		fmt.Fprint(stderr, console.Wrap("failover "+a.name+": refused: "+answer.Error, ""))
	}
	if !answer.OK {
		return console.Failed
	}
	return console.OK
}

// by adds the name of the user to a reason.
func by(reason string) string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return reason + " (" + u.Username + ")"
	}
	return reason
}

func printJSON(c *console.Command, stdout io.Writer, body []byte) int {
	var indented bytes.Buffer
	if err := json.Indent(&indented, body, "", "  "); err != nil {
		return c.Fail(errNoStatus)
	}
	if _, err := fmt.Fprintf(stdout, "%s\n", bytes.TrimSpace(indented.Bytes())); err != nil {
		return c.Fail(err)
	}
	return console.OK
}

// process is a running process at its handler.
type process struct {
	at            *url.URL
	authorization string
	client        *http.Client
}

var errNoStatus = errors.New("the answer is not that of a ControlHandler: check -at")

func newProcess(where string) (*process, error) {
	u, err := url.Parse(where)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("-at: give the URL of the handler, such as http://127.0.0.1:8367/")
	}
	p := &process{authorization: os.Getenv(authorizationVariable)}
	if u.User != nil {
		return nil, errors.New("-at: do not put a password on the command line; put the header into " + authorizationVariable)
	}
	if p.authorization != "" && u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, errors.New("-at: " + authorizationVariable + " is not sent over plain http to another machine")
	}
	p.at = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	p.client = &http.Client{CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) == 1 && req.Method == http.MethodGet && req.URL.Host == u.Host && req.URL.Path == via[0].URL.Path+"/" {
			return nil // by an http.ServeMux, if the pattern of the handler ends with a slash
		}
		return http.ErrUseLastResponse
	}}
	return p, nil
}

func (p *process) get(ctx context.Context) ([]byte, error) {
	code, body, err := p.do(ctx, http.MethodGet, p.at, nil)
	if err == nil && code != http.StatusOK {
		err = p.unexpected(code)
	}
	return body, err
}

// answer is the handler's answer to a POST.
type answer struct {
	OK     bool   `json:"ok"`
	Error  string `json:"error"`
	Status status `json:"status"`
}

func (p *process) post(ctx context.Context, name string, fields url.Values) (*answer, []byte, error) {
	code, body, err := p.do(ctx, http.MethodPost, p.at.JoinPath(name), strings.NewReader(fields.Encode()))
	if err != nil {
		return nil, nil, err
	}
	a := new(answer)
	switch err := json.Unmarshal(body, a); {
	case err != nil || a.OK != (code == http.StatusOK) || !a.OK && a.Error == "":
		return nil, nil, p.unexpected(code)
	}
	return a, body, nil
}

// maxBody is the maximum size of an answer: 16 loss reports of some thousand writes each have
// 30 MB.
const maxBody = 64 << 20

func (p *process) do(ctx context.Context, method string, u *url.URL, body io.Reader) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if p.authorization != "" {
		req.Header.Set("Authorization", p.authorization)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, nil, p.unreachable(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return 0, nil, p.unreachable(err)
	case len(content) > maxBody:
		return 0, nil, fmt.Errorf("the answer of %s is longer than %d MB", p.at.Host, maxBody>>20)
	}
	return resp.StatusCode, content, nil
}

func (p *process) unreachable(err error) error {
	if outer := (*url.Error)(nil); errors.As(err, &outer) {
		err = outer.Err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted; the action may still have been carried out")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s does not answer; the action may still have been carried out: check the status", p.at.Host)
	}
	return fmt.Errorf("no answer from %s (%v): is the process running, and is -at correct?", p.at.Host, err)
}

func (p *process) unexpected(code int) error {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("the process requires authentication (%d): put an Authorization header into %s", code, authorizationVariable)
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return fmt.Errorf("there is no ControlHandler at %s (%d): check -at; a StatusHandler only shows the status", p.at, code)
	case http.StatusOK:
		return errNoStatus
	}
	return fmt.Errorf("%s answered %d: check -at", p.at, code)
}

func loopback(host string) bool {
	return host == "localhost" || strings.HasPrefix(host, "127.") || host == "::1"
}
