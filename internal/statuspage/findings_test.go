package statuspage

import (
	"time"
)

// The time of the tests is 14 March 2026, 05:23:40 UTC, a little more than two hours after a
// failover.
var (
	statusNow     = time.Date(2026, 3, 14, 5, 23, 40, 0, time.UTC)
	statusStarted = statusNow.Add(-9 * 24 * time.Hour)
	refused       = &Fault{Class: "unavailable", Delivery: "not sent", Text: "unavailable, request not sent: dial tcp 203.0.113.7:443: connect: connection refused"}
	fence         = &Fault{Class: "unavailable", Definitive: true, Delivery: "refused", Status: 503, Code: "0x8004B065", RequestID: "7b1c", RetryAfterSeconds: 30,
		Text: "unavailable (definitive), request refused: status 503 0x8004B065 DatacenterNotAvailable (request id 7b1c)"}
)

// clockTime returns a time on the day of statusNow.
func clockTime(h, m, s int) time.Time { return time.Date(2026, 3, 14, h, m, s, 0, time.UTC) }

func failedProbe(f *Fault, at time.Time) *Probe {
	return &Probe{Time: at, Result: ProbeFailed, Error: f.Text, Fault: f}
}

// quietReport is that of a Transport that has met no outage.
func quietReport() *Report {
	return &Report{
		Time: statusNow, Started: statusStarted, Since: statusStarted, Ready: true, Active: "primary", Latch: 4, Runbook: "https://contoso.example/runbook",
		Process: Process{Instance: "web-1/17", Host: "web-1", PID: 17, Program: "orders", Version: "v1.2.3", Library: "v0.1.0", Go: "go1.26"},
		Primary: Endpoint{Name: "primary", URL: "https://contoso.api.crm.dynamics.com", Active: true, Breaker: "closed", LastSuccess: clockTime(5, 23, 39),
			Recent: Recent{Minutes: 5, Succeeded: 1200}},
		Alternate: &Endpoint{Name: "alternate", URL: "https://contoso--s.api.crm.dynamics.com", Breaker: "closed", Recent: Recent{Minutes: 5}},
	}
}

// failedOverReport is that of a Transport that switched to the alternate at 03:12:05.
func failedOverReport() *Report {
	r := quietReport()
	r.Active, r.Since, r.Generation = "alternate", clockTime(3, 12, 5), 1
	r.Primary.Active, r.Primary.Breaker, r.Primary.LastSuccess, r.Primary.LastFault = false, "open", clockTime(3, 11, 2), refused
	r.Primary.Faults = map[string]uint64{"application": 41, "unavailable": 3}
	r.Primary.Probe, r.Primary.Recent = failedProbe(refused, clockTime(5, 23, 12)), Recent{Minutes: 5}
	r.Alternate.Active, r.Alternate.LastSuccess = true, clockTime(5, 23, 39)
	r.Alternate.Probe, r.Alternate.Recent = &Probe{Time: clockTime(3, 12, 5), Result: ProbePassed}, Recent{Minutes: 5, Succeeded: 900}
	r.Events = []Event{
		{Kind: "tripped", Time: clockTime(3, 12, 4), From: "primary", To: "primary", Reason: refused.Text, Fault: refused},
		{Kind: "switched", Time: clockTime(3, 12, 5), Generation: 1, From: "primary", To: "alternate", Reason: refused.Text, Fault: refused},
	}
	return r
}

// downReport is that of a Transport that has lost the alternate as well.
func downReport() *Report {
	r := failedOverReport()
	r.Down, r.Ready = true, false
	r.Alternate.Breaker, r.Alternate.LastFault, r.Alternate.Probe = "open", fence, failedProbe(fence, clockTime(5, 23, 30))
	r.Events = append(r.Events,
		Event{Kind: "tripped", Time: clockTime(5, 4, 5), Generation: 1, From: "alternate", To: "alternate", Reason: fence.Text, Fault: fence},
		Event{Kind: "down", Time: clockTime(5, 4, 6), Generation: 1, From: "alternate", To: "alternate", Reason: "neither endpoint passes its probe", Fault: fence})
	return r
}

func trippedReport() *Report {
	r := quietReport()
	r.Primary.Breaker, r.Primary.LastFault = "open", refused
	r.Events = []Event{{Kind: "tripped", Time: clockTime(5, 23, 30), From: "primary", To: "primary", Reason: "three faults"}}
	return r
}

// lossReport is failedOverReport with three writes at risk, one of them in doubt.
func lossReport() *Report {
	r := failedOverReport()
	r.Losses = []Loss{{
		Time: clockTime(3, 12, 5), From: "primary", To: "alternate", LastSuccess: clockTime(3, 11, 2), RPOSeconds: 5, Truncated: true,
		AtRisk: []Write{
			{Time: clockTime(3, 10, 58), Method: "POST", Path: "/api/data/v9.2/accounts", EntityID: "00000000-0000-0000-0000-00000000000a", RequestID: "d1b5", Label: "invoice run", Status: 204, State: NotVerified},
			{Time: clockTime(3, 11, 1), Method: "PATCH", Path: "/api/data/v9.2/contacts(00000000-0000-0000-0000-00000000000b)", Status: 204, State: NotVerified},
		},
		Unknown: []Write{{Time: clockTime(3, 11, 58), Method: "POST", Path: "/api/data/v9.2/accounts", State: NotVerified}},
	}}
	return r
}

// verifiedReport is lossReport after a Verify with the given results.
func verifiedReport(states ...string) *Report {
	r := lossReport()
	l := &r.Losses[0]
	l.AtRisk[0].State, l.AtRisk[1].State, l.Unknown[0].State = states[0], states[1], states[2]
	return r
}

func fleetReport(change func(*Fleet)) *Report {
	r := failedOverReport()
	r.Fleet = &Fleet{
		Member: "web-1/17/ABCDEF", Active: "alternate", Generation: 7, Since: clockTime(3, 12, 5), Reason: "the primary does not serve", By: "web-2/4711/GHIJKL",
		Loaded: clockTime(5, 20, 0), Failed: "primary", Witnesses: []string{"web-1/17/ABCDEF", "web-2/4711/GHIJKL"}, WitnessCount: 2,
	}
	change(r.Fleet)
	return r
}

func with(r *Report, change func(*Report)) *Report {
	change(r)
	return r
}

const failedOverSummary = "Failed over: traffic has gone to the alternate since 03:12 UTC (2 h 11 min)."

// findings are the situations of the runbook's table, and what the page must conclude about
// the most serious finding of each.
var findings = []struct {
	name, why string
	report    *Report

	situation, level string
	summary          string // complete
	advice           string // a part of it
	cause, because   string // because: a part of Why
	section          string
	others           []string // names of the other findings
	page             []string // texts that the page has
	not              []string // texts that it has not
}{
	{
		name: "healthy", why: "the usual case says so, and since when",
		report: quietReport(), situation: "healthy", level: "ok", cause: CauseNone,
		summary: "Healthy: traffic has gone to the primary since 5 Mar 05:23 UTC (9 d 0 h).", advice: "Nothing to do.",
		page: []string{"None yet.", "No events.", "last 24 hours", "0 switches", "all attempts succeeded, about 1200", "whether it serves is unknown",
			"orders v1.2.3, process 17 on web-1, instance web-1/17; failover v0.1.0, go1.26"},
		not: []string{"One address", "<nav", "Also"},
	},
	{
		name: "just started", why: "nothing has happened yet, which is no alarm",
		report:    with(quietReport(), func(r *Report) { r.Since, r.Started, r.Primary.Recent = statusNow, statusNow, Recent{Minutes: 5} }),
		situation: "healthy", level: "ok", cause: CauseNone,
		summary: "Healthy: traffic has gone to the primary since 05:23 UTC (0 s).", advice: "Nothing to do.",
		page: []string{"no attempts"},
	},
	{
		name: "standby fenced", why: "a fence at the standby is how it is in normal times, and is shown as what it is",
		report:    with(quietReport(), func(r *Report) { r.Alternate.Probe = failedProbe(fence, clockTime(5, 0, 0)) }),
		situation: "healthy", level: "ok", cause: CauseNone,
		summary: "Healthy: traffic has gone to the primary since 5 Mar 05:23 UTC (9 d 0 h).", advice: "Nothing to do.",
		page: []string{">does not serve<", "the endpoint says that it does not serve, as a standby does"}, not: []string{"nothing is held"},
	},
	{
		name: "one address", why: "there is nothing to switch to, and the page says so",
		report:    with(quietReport(), func(r *Report) { r.Alternate = nil }),
		situation: "healthy", level: "ok", cause: CauseNone,
		summary: "Healthy: traffic has gone to the primary since 5 Mar 05:23 UTC (9 d 0 h).", advice: "Nothing to do.",
		page: []string{"One address"}, not: []string{">alternate<", "contoso--s"},
	},
	{
		name: "one address, down", why: "the sentences speak of the one endpoint that there is",
		report: with(quietReport(), func(r *Report) {
			r.Alternate, r.Down, r.Primary.Probe = nil, true, failedProbe(refused, clockTime(5, 23, 30))
		}),
		situation: "down", level: "bad", cause: CauseEither, section: sectionDown,
		summary: "Down: the organization does not serve at its one address.", advice: "it is probed every few seconds",
		not: []string{"neither", "both endpoints"},
	},
	{
		name: "one address, tripped", why: "there is nowhere to move to",
		report:    with(trippedReport(), func(r *Report) { r.Alternate = nil }),
		situation: "tripped", level: "bad", cause: CauseEither, section: sectionTripped,
		summary: "Tripped: the primary is failing, and traffic still goes there.", advice: "There is no other endpoint to switch to",
	},
	{
		name: "failed over", why: "the case the library is for",
		report: failedOverReport(), situation: "failed over", level: "warn", cause: CauseEither, because: "cut off from here", section: sectionAlternate,
		summary: failedOverSummary, advice: "returns automatically",
		page: []string{"(28 s ago)", "41 application", "3 unavailable", "switched to the alternate", ">failing<", "1 switch."},
	},
	{
		name: "failed over, primary fenced", why: "the primary's own word is Microsoft's",
		report:    with(failedOverReport(), func(r *Report) { r.Primary.Probe = failedProbe(fence, clockTime(5, 23, 0)) }),
		situation: "failed over", level: "warn", cause: CauseMicrosoft, because: "itself says", section: sectionAlternate,
		summary: failedOverSummary, advice: "returns automatically", page: []string{"Most likely Microsoft: the primary itself says"},
	},
	{
		name: "failed over, primary recovering", why: "half-open with a good probe is not failing",
		report: with(failedOverReport(), func(r *Report) {
			r.Primary.Breaker, r.Primary.Probe = "half-open", &Probe{Time: clockTime(5, 23, 12), Result: ProbePassed}
		}),
		situation: "failed over", level: "warn", cause: CauseNone, section: sectionAlternate,
		summary: failedOverSummary, advice: "returns automatically", page: []string{">recovering<", ">passed<"},
	},
	{
		name: "failed over, fail-back by hand", why: "nothing comes back by itself",
		report:    with(failedOverReport(), func(r *Report) { r.ManualFailback = true }),
		situation: "failed over", level: "warn", cause: CauseEither, section: sectionAlternate,
		summary: failedOverSummary, advice: "Fail-back is manual",
	},
	{
		name: "writes at risk", why: "somebody has to look at the writes",
		report: lossReport(), situation: "failed over", level: "warn", cause: CauseEither, section: sectionAlternate,
		summary: failedOverSummary, others: []string{"writes at risk"},
		page: []string{"Check the writes at risk", "3 writes are at risk and were not verified", "Acknowledged, perhaps not replicated (2)", "Sent, outcome unknown (1)", ">not verified<", "invoice run", "may be incomplete"},
	},
	{
		name: "writes missing", why: "what is missing outranks that the traffic is at the alternate",
		report:    verifiedReport(Missing, Present, Unreadable),
		situation: "writes missing", level: "bad", cause: CauseMicrosoft, section: sectionLoss,
		summary: "1 write is missing at the endpoint that was read.", advice: "with the same id", others: []string{"failed over", "writes to look up"},
		page: []string{">missing<", ">present<", ">unreadable<", "Found: 1 of 3. Missing: 1. To be looked up by hand: 1."}, not: []string{"Check the writes"},
	},
	{
		name: "all writes found", why: "there is nothing to check any more",
		report: verifiedReport(Present, Present, Present), situation: "failed over", level: "warn", cause: CauseEither, section: sectionAlternate,
		summary: failedOverSummary, page: []string{"All 3 were found. There is nothing to do."}, not: []string{"Check the writes", "Also"},
	},
	{
		name: "no writes at risk", why: "an empty report is good news",
		report: with(failedOverReport(), func(r *Report) { r.Losses = []Loss{{From: "primary", RPOSeconds: 5}} }), situation: "failed over", level: "warn",
		cause: CauseEither, section: sectionAlternate, summary: failedOverSummary,
		page: []string{"no write was recent enough", "never gave a healthy answer"}, not: []string{"Check the writes"},
	},
	{
		name: "writes of an earlier switch", why: "the fail-back's report does not end the duty to look at the failover's",
		report: with(lossReport(), func(r *Report) {
			r.Active, r.Primary.Active, r.Alternate.Active, r.Primary.Breaker = "primary", true, false, "closed"
			r.Losses = []Loss{{Time: clockTime(5, 0, 0), From: "alternate", To: "primary", LastSuccess: clockTime(4, 0, 0)}, r.Losses[0]}
		}),
		situation: "writes at risk", level: "warn", cause: CauseMicrosoft, section: sectionLoss,
		summary: "3 writes are at risk and were not verified.", others: []string{"healthy"}, page: []string{"<h2 id=\"h-loss\">Writes at risk</h2>", "<details open=\"\">", "0 writes", "3 writes"}, not: []string{"Nothing to do."},
	},
	{
		name: "tripped", why: "the decision is being made",
		report: trippedReport(), situation: "tripped", level: "bad", cause: CauseEither, section: sectionTripped,
		summary: "Tripped: the primary is failing, and traffic still goes there.", advice: "switches automatically if the alternate passes its probe",
	},
	{
		name: "tripped by a fence", why: "the endpoint's own word is Microsoft's",
		report:    with(trippedReport(), func(r *Report) { r.Primary.LastFault = fence }),
		situation: "tripped", level: "bad", cause: CauseMicrosoft, section: sectionTripped,
		summary: "Tripped: the primary is failing, and traffic still goes there.", advice: "switches automatically",
	},
	{
		name: "tripped, switch refused", why: "the reason for staying is what one needs to know",
		report: with(trippedReport(), func(r *Report) {
			r.Events = append(r.Events, Event{Kind: "switch refused", Time: clockTime(5, 23, 31), To: "alternate", Reason: "not confirmed: freeze"})
			r.Primary.Recent.RefusedSwitches = 1
		}),
		situation: "tripped", level: "bad", cause: CauseEither, section: sectionTripped,
		summary: "Tripped: the primary is failing, and traffic still goes there.", advice: "The switch to the alternate was refused: not confirmed: freeze.",
		page: []string{"1 switch refused"},
	},
	{
		name: "tripped after an old refusal", why: "a refusal before the trip is about another outage",
		report: with(trippedReport(), func(r *Report) {
			r.Events = append([]Event{{Kind: "switch refused", Time: clockTime(2, 0, 0), To: "alternate", Reason: "old"}}, r.Events...)
		}),
		situation: "tripped", level: "bad", cause: CauseEither, section: sectionTripped,
		summary: "Tripped: the primary is failing, and traffic still goes there.", advice: "switches automatically",
	},
	{
		name: "alternate tripped", why: "worse than failed over",
		report:    with(failedOverReport(), func(r *Report) { r.Alternate.Breaker = "open" }),
		situation: "tripped", level: "bad", cause: CauseEither, section: sectionTripped,
		summary: "Tripped: the alternate is failing, and traffic still goes there.", advice: "if the primary passes its probe",
	},
	{
		name: "switches refused", why: "17 refusals are no peace, although the breaker is closed again after each",
		report: with(quietReport(), func(r *Report) {
			r.Primary.Recent = Recent{Minutes: 5, Succeeded: 1000, RefusedSwitches: 17, Faults: map[string]int{"transient": 51}}
			r.Events = []Event{{Kind: "switch refused", Time: clockTime(5, 23, 0), From: "primary", To: "alternate", Reason: "the primary answers its probe"}}
		}),
		situation: "switches refused", level: "warn", cause: CauseEither, because: "rarely the region", section: sectionTripped,
		summary: "17 switches were refused to leave the primary in the last 5 minutes.", advice: "the primary answers its probe", others: []string{"healthy"},
		page: []string{"17 switches refused"}, not: []string{"Nothing to do."},
	},
	{
		name: "all unauthorized after a switch", why: "600 of 600 requests get 401, and somebody has to act",
		report: with(failedOverReport(), func(r *Report) {
			r.Alternate.Recent = Recent{Minutes: 5, Faults: map[string]int{"auth": 600}}
		}),
		situation: "unauthorized", level: "bad", cause: CauseUs, section: sectionAuth,
		summary: "All 600 attempts at the alternate in the last 5 minutes got 401, 403 or a sign-in page.",
		advice:  "the token is for the other host: request one whose audience is the alternate, https://contoso--s.api.crm.dynamics.com",
		others:  []string{"failed over"}, page: []string{"about 0 of 600 attempts succeeded", "600 unauthorized"}, not: []string{"Nothing to do."},
	},
	{
		name: "half unauthorized", why: "one of two users has lost a role",
		report: with(quietReport(), func(r *Report) {
			r.Primary.Recent = Recent{Minutes: 5, Succeeded: 880, Faults: map[string]int{"auth": 120}}
		}),
		situation: "unauthorized", level: "warn", cause: CauseUs, section: sectionAuth,
		summary: "About 12% of the attempts at the primary in the last 5 minutes (120 of 1000) got 401, 403 or a sign-in page.",
		advice:  "Check the credentials", others: []string{"healthy"},
	},
	{
		name: "a few unauthorized", why: "one in a hundred is somebody's mistake",
		report: with(quietReport(), func(r *Report) {
			r.Primary.Recent = Recent{Minutes: 5, Succeeded: 990, Faults: map[string]int{"auth": 10, "canceled": 900, "local": 900, "application": 5000}}
		}),
		situation: "healthy", level: "ok", cause: CauseNone,
		summary: "Healthy: traffic has gone to the primary since 5 Mar 05:23 UTC (9 d 0 h).", advice: "Nothing to do.", page: []string{"10 unauthorized"},
	},
	{
		name: "the only attempt unauthorized", why: "one is too few to be woken for, and all there is",
		report: with(quietReport(), func(r *Report) {
			r.Primary.Recent = Recent{Minutes: 5, Faults: map[string]int{"auth": 1}}
		}),
		situation: "unauthorized", level: "warn", cause: CauseUs, section: sectionAuth,
		summary: "The only attempt at the primary in the last 5 minutes got 401, 403 or a sign-in page.", others: []string{"healthy"},
	},
	{
		name: "throttled", why: "a switch would not help",
		report: with(quietReport(), func(r *Report) {
			r.Primary.Recent = Recent{Minutes: 5, Succeeded: 500, Faults: map[string]int{"throttled": 500}}
		}),
		situation: "throttled", level: "warn", cause: CauseUs, section: sectionThrottled,
		summary: "About 50% of the attempts at the primary in the last 5 minutes (500 of 1000) were throttled (429).", others: []string{"healthy"},
		not: []string{"Nothing to do."},
	},
	{
		name: "brown-out", why: "a share fails, and no breaker trips for long",
		report: with(quietReport(), func(r *Report) {
			r.Primary.Recent = Recent{Minutes: 5, Succeeded: 400, Faults: map[string]int{"transient": 400, "unavailable": 200}}
		}),
		situation: "failing", level: "bad", cause: CauseEither, section: sectionBrownout,
		summary: "About 60% of the attempts at the primary in the last 5 minutes (600 of 1000) failed.", advice: "call Switch", others: []string{"healthy"},
	},
	{
		name: "failures of an outage that is over", why: "they are no brown-out",
		report: with(quietReport(), func(r *Report) {
			r.Primary.Recent = Recent{Minutes: 5, Succeeded: 400, Faults: map[string]int{"unavailable": 600}}
			r.Events = []Event{{Kind: "up", Time: clockTime(5, 20, 0), From: "primary", To: "primary"}}
		}),
		situation: "healthy", level: "ok", cause: CauseNone,
		summary: "Healthy: traffic has gone to the primary since 5 Mar 05:23 UTC (9 d 0 h).", advice: "Nothing to do.", page: []string{"600 failed"},
	},
	{
		name: "writes in doubt", why: "somebody has to look them up, and nobody else says so",
		report: with(quietReport(), func(r *Report) {
			r.Events = []Event{
				{Kind: "outcome unknown", Time: clockTime(0, 0, 0).Add(-24 * time.Hour), From: "primary", To: "primary", Reason: "POST long ago"},
				{Kind: "outcome unknown", Time: clockTime(1, 0, 0), From: "primary", To: "primary", Reason: "POST /a"},
				{Kind: "outcome unknown", Time: clockTime(2, 30, 0), From: "primary", To: "primary", Reason: "POST /b"},
			}
		}),
		situation: "writes in doubt", level: "warn", cause: CauseNone, section: sectionDoubt,
		summary: "2 writes are in doubt, the newest since 02:30 UTC.", advice: "Look each up", others: []string{"healthy"}, not: []string{"Nothing to do."},
	},
	{
		name: "more doubts than are on record", why: "the record is short",
		report:    with(quietReport(), func(r *Report) { r.Primary.Recent.InDoubt = 70 }),
		situation: "writes in doubt", level: "warn", cause: CauseNone, section: sectionDoubt,
		summary: "70 writes are in doubt.", others: []string{"healthy"}, page: []string{"70 in doubt"},
	},
	{
		name: "down, alternate fenced", why: "outranks that the traffic is at the alternate; the fence is Microsoft's word",
		report: downReport(), situation: "down", level: "bad", cause: CauseMicrosoft, because: "the alternate answers, and says that it does not serve", section: sectionDown,
		summary: "Down: no endpoint serves the organization since 05:04 UTC (19 min).", advice: "Requests are still sent to the alternate",
		page: []string{"DatacenterNotAvailable", `class="bar down"`, "Wait, and open a ticket."},
	},
	{
		name: "down, failing fast", why: "with FailFast requests are not sent",
		report:    with(downReport(), func(r *Report) { r.FailsFast = true }),
		situation: "down", level: "bad", cause: CauseMicrosoft, section: sectionDown,
		summary: "Down: no endpoint serves the organization since 05:04 UTC (19 min).", advice: "Requests fail at once",
	},
	{
		name: "down, nothing can be reached", why: "two regions at once are seldom both gone",
		report:    with(downReport(), func(r *Report) { r.Alternate.Probe = failedProbe(refused, clockTime(5, 23, 30)) }),
		situation: "down", level: "bad", cause: CauseUs, section: sectionDown,
		summary: "Down: no endpoint serves the organization since 05:04 UTC (19 min).", advice: "this machine's network, DNS and proxy",
	},
	{
		name: "down, both answer nonsense", why: "what fits both is left open",
		report: with(downReport(), func(r *Report) {
			r.Alternate.Probe = failedProbe(&Fault{Class: "unavailable", Delivery: "unknown", Status: 503}, clockTime(5, 23, 30))
		}),
		situation: "down", level: "bad", cause: CauseEither, section: sectionDown,
		summary: "Down: no endpoint serves the organization since 05:04 UTC (19 min).", advice: "Microsoft's service health",
	},
	{
		name: "pinned", why: "since the pin, not since the switch",
		report: with(failedOverReport(), func(r *Report) {
			r.Pinned = true
			r.Events = append(r.Events, Event{Kind: "pinned", Time: clockTime(5, 3, 0), From: "alternate", To: "alternate", Reason: "by hand"})
		}),
		situation: "pinned", level: "warn", cause: CauseUs, section: sectionPinned,
		summary: "Pinned: traffic stays at the alternate since 05:03 UTC (20 min).", advice: "until somebody calls Unpin", page: []string{`class="bar pinned"`},
	},
	{
		name: "pinned long ago", why: "the event may have left the record",
		report:    with(failedOverReport(), func(r *Report) { r.Pinned = true }),
		situation: "pinned", level: "warn", cause: CauseUs, section: sectionPinned,
		summary: "Pinned: traffic stays at the alternate.", advice: "until somebody calls Unpin",
	},
	{
		name: "pinned to an endpoint that fails", why: "nothing will move the traffic but a hand",
		report:    with(failedOverReport(), func(r *Report) { r.Pinned, r.Alternate.Probe = true, failedProbe(fence, clockTime(5, 23, 0)) }),
		situation: "pinned", level: "bad", cause: CauseUs, section: sectionPinned,
		summary: "Pinned to the alternate, which does not serve.", advice: "or pin the primary",
	},
	{
		name: "latched", why: "automatic moves are off",
		report: with(failedOverReport(), func(r *Report) {
			r.Latched = true
			r.Events = append(r.Events, Event{Kind: "latched", Time: clockTime(3, 12, 5), From: "alternate", To: "alternate", Reason: "4 switches within an hour"})
		}),
		situation: "latched", level: "warn", cause: CauseEither, section: sectionLatched,
		summary: "Latched: traffic stays at the alternate after 4 switches within an hour.", advice: "switch to the primary with Switch",
	},
	{
		name: "latched at an endpoint that fails", why: "requests fail until a hand moves them",
		report:    with(failedOverReport(), func(r *Report) { r.Latched, r.Alternate.Breaker = true, "open" }),
		situation: "latched", level: "bad", cause: CauseEither, section: sectionLatch,
		summary: "Latched at the alternate, which is failing: 4 switches within an hour.", advice: "If it is the primary, call Switch.",
	},
	{
		name: "in step with the fleet", why: "a fleet that agrees is no finding",
		report: fleetReport(func(*Fleet) {}), situation: "failed over", level: "warn", cause: CauseEither, section: sectionAlternate,
		summary: failedOverSummary, page: []string{">in step<", "generation 7, by web-2/4711/GHIJKL: the primary does not serve"},
	},
	{
		name: "alone with an outage", why: "the other processes of the fleet are well",
		report: fleetReport(func(f *Fleet) { f.Witnesses, f.WitnessCount = f.Witnesses[:1], 1 }), situation: "failed over", level: "warn", cause: CauseEither, section: sectionAlternate,
		summary: failedOverSummary, others: []string{"fleet"},
		page: []string{"No other process of the fleet has seen the primary fail", "Check this process&#39;s network first.", "web-1/17/ABCDEF"},
	},
	{
		name: "the fleet's store is gone", why: "others will not follow",
		report: fleetReport(func(f *Fleet) { f.Error = "connection <refused>" }), situation: "failed over", level: "warn", cause: CauseEither, section: sectionAlternate,
		summary: failedOverSummary, others: []string{"fleet"},
		page: []string{"this process decides on its own", ">store fails<", "connection &lt;refused&gt;"},
	},
	{
		name: "apart from the fleet", why: "the fleet has gone where this process cannot",
		report:    fleetReport(func(f *Fleet) { *f = Fleet{Member: f.Member, Apart: true, Active: "primary"} }),
		situation: "failed over", level: "warn", cause: CauseEither, section: sectionAlternate,
		summary: failedOverSummary, others: []string{"fleet"}, page: []string{">apart<", "no switch on record", "the fleet is at the primary."},
	},
	{
		name: "more witnesses than names", why: "a store names eight; how many there are matters",
		report: fleetReport(func(f *Fleet) { f.WitnessCount = 37 }), situation: "failed over", level: "warn", cause: CauseEither, section: sectionAlternate,
		summary: failedOverSummary, page: []string{"web-2/4711/GHIJKL</span> and 35 more"},
	},
	{
		name: "frozen", why: "automatic switches are off in every process, and somebody has to remember",
		report: with(fleetReport(func(f *Fleet) { f.Frozen = "migration <tonight>." }), func(r *Report) {
			r.Active, r.Primary.Active, r.Alternate.Active, r.Primary.Breaker = "primary", true, false, "closed"
		}),
		situation: "frozen", level: "warn", cause: CauseUs, section: sectionFrozen,
		summary: "Frozen: no automatic switches in the fleet: migration <tonight>.", advice: "until somebody calls Unfreeze", others: []string{"healthy"},
		page: []string{">frozen<", "migration &lt;tonight&gt;"}, not: []string{"Nothing to do.", ">in step<"},
	},
	{
		name: "frozen at the alternate", why: "traffic does not return by itself",
		report:    fleetReport(func(f *Fleet) { f.Frozen = "migration" }),
		situation: "failed over", level: "warn", cause: CauseEither, section: sectionAlternate,
		summary: failedOverSummary, advice: "traffic returns only after Unfreeze", others: []string{"frozen"},
	},
	{
		name: "frozen and tripped", why: "traffic does not move by itself",
		report:    with(trippedReport(), func(r *Report) { r.Fleet = &Fleet{Active: "primary", Frozen: "migration"} }),
		situation: "tripped", level: "bad", cause: CauseEither, section: sectionTripped,
		summary: "Tripped: the primary is failing, and traffic still goes there.", advice: "The fleet is frozen: if the alternate serves, call Switch.", others: []string{"frozen"},
	},
	{
		name: "closed", why: "outranks everything: nothing is sent",
		report:    with(verifiedReport(Missing, Missing, Missing), func(r *Report) { r.Closed, r.Down = true, true }),
		situation: "closed", level: "off", cause: CauseUs,
		summary: "Closed: this Transport no longer sends requests.", advice: "restart",
	},
}
