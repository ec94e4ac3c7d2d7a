package statuspage

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Finding is one conclusion from a report.
type Finding struct {
	Name    string `json:"name"`
	Level   string `json:"level"` // LevelOK, LevelWarn, LevelBad or LevelOff
	Summary string `json:"summary"`
	Advice  string `json:"advice"`
	// Cause is the likely cause, and Why the reason for that.
	Cause string `json:"cause"`
	Why   string `json:"why,omitempty"`
	// Runbook is the address of the section that says what to do.
	Runbook string `json:"runbook,omitempty"`
}

// Levels of alarm.
const (
	LevelOK   = "ok"
	LevelWarn = "warn"
	LevelBad  = "bad"
	LevelOff  = "off" // the Transport is closed
)

// Causes.
const (
	CauseNone      = "none"
	CauseUs        = "us"
	CauseMicrosoft = "Microsoft"
	CauseEither    = "either"
)

// Verdict puts cause and reason into words.
func (f Finding) Verdict() string {
	if f.Why == "" {
		return ""
	}
	words := map[string]string{
		CauseUs: "Most likely us: ", CauseMicrosoft: "Most likely Microsoft: ", CauseEither: "Us or Microsoft? Not clear: ",
	}
	if before := words[f.Cause]; before != "" {
		return before + f.Why + "."
	}
	return strings.ToUpper(f.Why[:1]) + f.Why[1:] + "."
}

// Sections of the runbook.
const (
	sectionFirst     = "first-who-what-do-i-have-to-act"
	sectionAlternate = "on-the-alternate"
	sectionTripped   = "tripped-but-not-moving"
	sectionDown      = "down"
	sectionLatched   = "latched"
	sectionLatch     = "release-the-latch"
	sectionPinned    = "pinned"
	sectionStore     = "the-fleets-store-is-gone"
	sectionApart     = "apart-from-the-fleet"
	sectionFrozen    = "frozen"
	sectionAuth      = "401-after-a-switch"
	sectionThrottled = "throttled"
	sectionBrownout  = "a-share-of-the-requests-fails"
	sectionLoss      = "read-the-loss-report"
	sectionDoubt     = "a-write-in-doubt"
)

// Sections lists the sections that findings refer to.
var Sections = []string{
	sectionFirst, sectionAlternate, sectionTripped, sectionDown, sectionLatched, sectionLatch, sectionPinned, sectionStore,
	sectionApart, sectionFrozen, sectionAuth, sectionThrottled, sectionBrownout, sectionLoss, sectionDoubt,
}

// Judge determines what the report means and what to do, like the table in the runbook. The most
// serious finding comes first.
func (r *Report) Judge() {
	r.Findings = []Finding{r.state()}
	if !r.Closed {
		for _, find := range []func() (Finding, bool){
			r.unauthorized, r.throttled, r.failing, r.refusals, r.missing, r.unverified, r.unreadable, r.doubts, r.freeze, r.fleet,
		} {
			if f, ok := find(); ok {
				r.Findings = append(r.Findings, f)
			}
		}
	}
	if len(r.Findings) == 1 && r.Findings[0].Name == "healthy" {
		r.Findings[0].Advice = "Nothing to do."
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return slices.Index(gravity, b.Level) - slices.Index(gravity, a.Level) })
	for i := range r.Findings {
		f := &r.Findings[i]
		f.Cause = cmp.Or(f.Cause, CauseNone)
		if f.Runbook != "" {
			f.Runbook = r.Runbook + "#" + f.Runbook
		}
	}
	first := &r.Findings[0]
	r.Situation, r.Level, r.Summary, r.Advice = first.Name, first.Level, first.Summary, first.Advice
}

// gravity is the order of the levels.
var gravity = []string{LevelOK, LevelWarn, LevelBad, LevelOff}

// state returns the finding about where the traffic goes, and whether that endpoint serves.
func (r *Report) state() Finding {
	active, other := r.side()
	since := sinceWords(r.Since, r.Time)
	switch {
	case r.Closed:
		return Finding{Name: "closed", Level: LevelOff, Summary: "Closed: this Transport no longer sends requests.", Cause: CauseUs,
			Why: "the program has called Close", Advice: "If this program should be serving, restart it: a closed Transport stays closed."}
	case r.Down:
		return r.down()
	case r.Pinned && (active.NotServing() || active.Failing()):
		advice := "Find out whether the endpoint serves."
		if other != nil {
			advice = fmt.Sprintf("Call Unpin to let the Transport find the endpoint that serves, or pin the %s.", other.Name)
		}
		return Finding{Name: "pinned", Level: LevelBad, Summary: fmt.Sprintf("Pinned to the %s, which does not serve.", active.Name),
			Cause: CauseUs, Why: "somebody has pinned it, so there are no automatic switches", Advice: advice, Runbook: sectionPinned}
	case r.Pinned:
		return Finding{Name: "pinned", Level: LevelWarn,
			Summary: fmt.Sprintf("Pinned: traffic stays at the %s%s.", active.Name, sinceWords(r.last("pinned"), r.Time)),
			Cause:   CauseUs, Why: "somebody has pinned it", Runbook: sectionPinned,
			Advice: "There are no automatic switches until somebody calls Unpin. Ask whoever pinned it."}
	case r.Latched && active.tripped():
		return Finding{Name: "latched", Level: LevelBad, Cause: CauseEither, Why: "the endpoints fail by turns", Runbook: sectionLatch,
			Summary: fmt.Sprintf("Latched at the %s, which is failing: %d switches within an hour.", active.Name, r.Latch),
			Advice:  fmt.Sprintf("Find out which endpoint serves. If it is the %s, call Switch.", nameOf(other))}
	case r.Latched:
		return Finding{Name: "latched", Level: LevelWarn, Cause: CauseEither, Why: "the endpoints fail by turns", Runbook: sectionLatched,
			Summary: fmt.Sprintf("Latched: traffic stays at the %s after %d switches within an hour.", active.Name, r.Latch),
			Advice:  fmt.Sprintf("Find out why the endpoints fail by turns. Then wait for the hour to pass, or switch to the %s with Switch.", nameOf(other))}
	case active.tripped():
		return r.tripped()
	case r.Active == "alternate":
		return r.failedOver(since)
	default:
		return Finding{Name: "healthy", Level: LevelOK, Summary: "Healthy: traffic has gone to the primary" + since + "."}
	}
}

func nameOf(e *Endpoint) string {
	if e == nil {
		return "other endpoint"
	}
	return e.Name
}

func (r *Report) down() Finding {
	active, other := r.side()
	since := sinceWords(r.downSince(), r.Time)
	f := Finding{Name: "down", Level: LevelBad, Cause: CauseEither, Runbook: sectionDown,
		Summary: "Down: no endpoint serves the organization" + since + "."}
	probed := "both endpoints are probed every few seconds"
	if other == nil {
		f.Summary = "Down: the organization does not serve at its one address" + since + "."
		probed = "it is probed every few seconds"
	}
	switch {
	case other != nil && (active.fenced() || other.fenced()):
		fenced := other
		if !other.fenced() {
			fenced = active
		}
		f.Cause, f.Why = CauseMicrosoft, fmt.Sprintf("the %s answers, and says that it does not serve: no failover is complete", fenced.Name)
		f.Advice = "Wait, and open a ticket. "
	case active.fenced():
		f.Cause, f.Why, f.Advice = CauseMicrosoft, "the organization answers, and says that it does not serve", "Wait, and open a ticket. "
	case other != nil && active.unreachable() && other.unreachable():
		f.Cause, f.Why = CauseUs, "this machine can reach neither endpoint, which is more often its own network than both regions"
		f.Advice = "Check this machine's network, DNS and proxy, and whether other processes report the same. "
	default:
		f.Why, f.Advice = "the results of the probes fit both", "Check Microsoft's service health and this machine's network. "
	}
	if r.FailsFast {
		f.Advice += "Requests fail at once; " + probed + ", and the first to pass gets the traffic."
	} else {
		f.Advice += fmt.Sprintf("Requests are still sent to the %s; %s.", active.Name, probed)
	}
	return f
}

func (r *Report) tripped() Finding {
	active, other := r.side()
	f := Finding{Name: "tripped", Level: LevelBad, Cause: CauseEither, Runbook: sectionTripped,
		Summary: fmt.Sprintf("Tripped: the %s is failing, and traffic still goes there.", active.Name),
		Why:     "the faults alone do not show it", Advice: "There is no other endpoint to switch to: find out what fails."}
	if other != nil {
		f.Advice = fmt.Sprintf("The traffic switches automatically if the %s passes its probe.", other.Name)
	}
	if other != nil && r.frozen() {
		f.Advice = fmt.Sprintf("The fleet is frozen: if the %s serves, call Switch.", other.Name)
	}
	if active.LastFault != nil && active.LastFault.Definitive {
		f.Cause, f.Why = CauseMicrosoft, fmt.Sprintf("the %s itself says that it does not serve", active.Name)
	}
	if refused := r.lastRefusal(); refused != nil && !refused.Time.Before(r.last("tripped")) {
		f.Advice = fmt.Sprintf("The switch to the %s was refused: %s. If that persists, call Switch.", refused.To, refused.Reason)
		if strings.HasSuffix(refused.Reason, probeAnswered) {
			f.Why = whyPartial
		}
	}
	return f
}

// probeAnswered is the end of a Transport's reason to stay because the active endpoint passes
// its probe.
const (
	probeAnswered = "answers its probe"
	whyPartial    = "the endpoint answers its probe, so the fault concerns a part of the organization or some requests, rarely the region"
)

func (r *Report) failedOver(since string) Finding {
	f := Finding{Name: "failed over", Level: LevelWarn, Cause: CauseEither, Runbook: sectionAlternate,
		Summary: "Failed over: traffic has gone to the alternate" + since + ".",
		Why:     "Microsoft has failed over, or the primary is cut off from here",
		Advice:  "Traffic returns automatically when the primary keeps passing its probe."}
	switch {
	case r.Primary.fenced():
		f.Cause, f.Why = CauseMicrosoft, "the primary itself says that it does not serve"
	case r.Primary.passed():
		f.Cause, f.Why = CauseNone, "the primary passes its probe again"
	}
	switch {
	case r.ManualFailback:
		f.Advice = "Fail-back is manual: call Switch when the primary passes its probe."
	case r.frozen():
		f.Advice = "The fleet is frozen: traffic returns only after Unfreeze, or with Switch."
	}
	return f
}

// share returns the level of n of all attempts: most of them are bad, a tenth is a warning, and
// a few of a small number are nothing.
func share(n, all int) (level string, ok bool) {
	switch {
	case n >= 3 && 2*n >= all:
		return LevelBad, true
	case n > 0 && n == all, n >= 5 && 10*n >= all:
		return LevelWarn, true
	default:
		return "", false
	}
}

// ofAttempts describes n of the attempts of the last minutes.
func ofAttempts(n int, recent *Recent, e *Endpoint) string {
	if n == 1 && n == recent.Attempts() {
		return fmt.Sprintf("The only attempt at the %s in the last %d minutes", e.Name, recent.Minutes)
	}
	if n == recent.Attempts() {
		return fmt.Sprintf("All %d attempts at the %s in the last %d minutes", n, e.Name, recent.Minutes)
	}
	return fmt.Sprintf("About %d%% of the attempts at the %s in the last %d minutes (%d of %d)",
		(100*n+recent.Attempts()/2)/recent.Attempts(), e.Name, recent.Minutes, n, recent.Attempts())
}

func (r *Report) unauthorized() (Finding, bool) {
	e, _ := r.side()
	n := e.Recent.Auth()
	level, ok := share(n, e.Recent.Attempts())
	f := Finding{Name: "unauthorized", Level: level, Cause: CauseUs, Runbook: sectionAuth,
		Summary: ofAttempts(n, &e.Recent, e) + " got 401, 403 or a sign-in page.",
		Why:     "the credentials are refused, which is no evidence against the endpoint, so there is no switch",
		Advice:  "Check the credentials: an expired secret, a changed user or role, a network rule."}
	if r.Generation > 0 {
		f.Advice = fmt.Sprintf("Most likely the token is for the other host: request one whose audience is the %s, %s.", e.Name, e.URL)
	}
	return f, ok
}

func (r *Report) throttled() (Finding, bool) {
	e, _ := r.side()
	n := e.Recent.Throttled()
	_, ok := share(n, e.Recent.Attempts())
	return Finding{Name: "throttled", Level: LevelWarn, Cause: CauseUs, Runbook: sectionThrottled,
		Summary: ofAttempts(n, &e.Recent, e) + " were throttled (429).",
		Why:     "service protection limits apply per user, so it is this program's load",
		Advice:  "Send less, spread the load over users, or let calls wait (RetryThrottled). A switch does not help."}, ok
}

// failing finds a brown-out: a share of the attempts fails, but no circuit breaker trips, or not
// for long.
func (r *Report) failing() (Finding, bool) {
	e, other := r.side()
	n := e.Recent.Failed()
	level, ok := share(n, e.Recent.Attempts())
	if !ok || r.Down || e.tripped() || r.recovered(e) { // another finding says so
		return Finding{}, false
	}
	f := Finding{Name: "failing", Level: level, Cause: CauseEither, Runbook: sectionBrownout,
		Summary: ofAttempts(n, &e.Recent, e) + " failed.", Why: "the endpoint serves some requests and fails others",
		Advice: "Check which requests fail, and the last fault."}
	if other != nil && level == LevelBad {
		f.Advice += fmt.Sprintf(" If this persists and the %s passes its probe, call Switch.", other.Name)
	}
	return f, true
}

// recovered reports whether there was a switch, or Down has ended, so recently that the counts
// may be from the time before.
func (r *Report) recovered(e *Endpoint) bool {
	within := time.Duration(e.Recent.Minutes) * time.Minute
	return r.Time.Sub(r.last("up")) < within || r.Time.Sub(r.last("switched")) < within
}

// refusals finds refused switches.
func (r *Report) refusals() (Finding, bool) {
	e, _ := r.side()
	n := e.Recent.RefusedSwitches
	if n == 0 || e.tripped() { // another finding says so
		return Finding{}, false
	}
	f := Finding{Name: "switches refused", Level: LevelWarn, Cause: CauseEither, Runbook: sectionTripped,
		Summary: fmt.Sprintf("%s to leave the %s in the last %d minutes.", number(n, "switch was refused", "switches were refused"), e.Name, e.Recent.Minutes),
		Why:     "the faults are real; the reason says what prevents a switch", Advice: "Find out what fails."}
	if last := r.lastRefusal(); last != nil {
		f.Advice = fmt.Sprintf("The last reason: %s. Find out what fails.", last.Reason)
		if strings.HasSuffix(last.Reason, probeAnswered) {
			f.Why = whyPartial
		}
	}
	return f, true
}

// written returns the number of writes in a state, in all reports.
func (r *Report) written(state string) (n int) {
	for i := range r.Losses {
		n += r.Losses[i].Count(state)
	}
	return n
}

func (r *Report) missing() (Finding, bool) {
	n := r.written(Missing)
	return Finding{Name: "writes missing", Level: LevelBad, Cause: CauseMicrosoft, Runbook: sectionLoss,
		Summary: number(n, "write is missing", "writes are missing") + " at the endpoint that was read.",
		Why:     "replication between the regions is asynchronous",
		Advice:  "Create each again with the same id and If-None-Match: *, so that nothing is duplicated if it turns up after all."}, n > 0
}

func (r *Report) unverified() (Finding, bool) {
	n := r.written(NotVerified)
	return Finding{Name: "writes at risk", Level: LevelWarn, Cause: CauseMicrosoft, Runbook: sectionLoss,
		Summary: number(n, "write is at risk and was not verified", "writes are at risk and were not verified") + ".",
		Why:     "replication between the regions is asynchronous",
		Advice:  "Check the writes at risk within the day: Verify reads them."}, n > 0
}

func (r *Report) unreadable() (Finding, bool) {
	n := r.written(Unreadable)
	return Finding{Name: "writes to look up", Level: LevelWarn, Cause: CauseNone, Runbook: sectionDoubt,
		Summary: number(n, "write at risk has", "writes at risk have") + " to be looked up by hand.",
		Why:     "reading the record does not show whether the write was carried out",
		Advice:  "Look for the effect of the write, by id, label or business key."}, n > 0
}

// doubtful is how long a write in doubt is shown, since nobody reports that it was looked up.
const doubtful = 24 * time.Hour

func (r *Report) doubts() (Finding, bool) {
	n, newest := 0, time.Time{}
	for i := range r.Events {
		if e := &r.Events[i]; e.Kind == "outcome unknown" && r.Time.Sub(e.Time) < doubtful {
			n, newest = n+1, e.Time
		}
	}
	active, _ := r.side()
	n = max(n, active.Recent.InDoubt) // the events may lack older ones
	summary := number(n, "write is in doubt", "writes are in doubt")
	if r.RecordFull { // older ones may have been dropped
		summary = "At least " + summary
	}
	if !newest.IsZero() {
		summary += fmt.Sprintf(", the newest since %s UTC", clock(newest, r.Time, "15:04"))
	}
	return Finding{Name: "writes in doubt", Level: LevelWarn, Cause: CauseNone, Runbook: sectionDoubt,
		Summary: summary + ".",
		Why:     "a write was sent and got no definite answer; it is not sent again",
		Advice:  "Look each up within the day: the log lines name them."}, n > 0
}

// freeze finds that somebody has frozen the fleet.
func (r *Report) freeze() (Finding, bool) {
	if !r.frozen() {
		return Finding{}, false
	}
	return Finding{Name: "frozen", Level: LevelWarn, Cause: CauseUs, Runbook: sectionFrozen,
		Summary: fmt.Sprintf("Frozen: no automatic switches in the fleet: %s.", strings.TrimSuffix(r.Fleet.Frozen, ".")),
		Why:     "somebody has frozen the fleet", Advice: "There are no automatic switches until somebody calls Unfreeze. Ask whoever froze it."}, true
}

// fleet finds differences between this process and its fleet.
func (r *Report) fleet() (Finding, bool) {
	f := Finding{Name: "fleet", Level: LevelWarn, Cause: CauseUs}
	switch s := r.Fleet; {
	case s == nil:
		return f, false
	case s.Error != "":
		f.Summary, f.Why, f.Runbook = "The fleet's store fails.", "the store, or the network in between", sectionStore
		f.Advice = "Within the day. Until then this process decides on its own."
	case s.WitnessCount == 1:
		f.Summary = fmt.Sprintf("No other process of the fleet has seen the %s fail.", s.Failed)
		f.Why, f.Runbook = "only this process has seen it, or the others have no traffic", sectionFirst
		f.Advice = "Check this process's network first."
	case s.Apart:
		f.Summary, f.Runbook = fmt.Sprintf("Apart: the fleet is at the %s.", s.Active), sectionApart
		f.Why, f.Advice = "this process's network, ConfirmSwitch or a pin", "Find out why this process does not follow."
	default:
		return f, false
	}
	return f, true
}

// number returns a number with its noun, in the singular or the plural.
func number(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// last returns when an event of a kind last happened, zero if none is on record.
func (r *Report) last(kind string) time.Time {
	for i := range slices.Backward(r.Events) {
		if r.Events[i].Kind == kind {
			return r.Events[i].Time
		}
	}
	return time.Time{}
}

// downSince returns when the present outage began, zero if no event reports it: of outages that
// follow each other, only the first and the long ones are reported.
func (r *Report) downSince() time.Time {
	began := r.last("down")
	for _, over := range []string{"up", "switched", "pinned"} {
		if !r.last(over).Before(began) {
			return time.Time{}
		}
	}
	return began
}

// lastRefusal returns the last refused switch on record, nil if there is none.
func (r *Report) lastRefusal() *Event {
	for i := range slices.Backward(r.Events) {
		if r.Events[i].Kind == "switch refused" {
			return &r.Events[i]
		}
	}
	return nil
}

// sinceWords returns " since 03:12 UTC (2 h 11 min)", "" for the zero time.
func sinceWords(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf(" since %s UTC (%s)", clock(t, now, "15:04"), inWords(now.Sub(t)))
}
