package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/d365failover/failover/cmd/failover/internal/console"
)

// A Verdict answers the question: would a failover work from this machine?
type Verdict struct {
	// Answer is "yes", "no" or "cannot tell".
	Answer string `json:"answer"`
	// Summary is a sentence or two for people.
	Summary string `json:"summary"`
	// Mend lists what to fix, the most severe first.
	Mend []string `json:"mend"`
}

// Exit returns the exit status.
func (v Verdict) Exit() int {
	switch v.Answer {
	case "yes":
		return console.OK
	case "no":
		return console.Failed
	}
	return console.Unknown
}

// decide weighs the findings about the endpoints; alternate is nil if the organization has one
// address. It adds findings that need both endpoints.
func decide(primary, alternate *judgement) Verdict {
	if alternate == nil {
		return oneAddress(primary, "")
	}
	available := primary.facts.Policy != nil && primary.facts.Policy.Known && primary.facts.Policy.FailoverAvailable
	switch {
	case alternate.absent && !available && primary.serves:
		// Nothing says that there is a second one.
		alternate.soften("name", notable, "")
		return oneAddress(primary, fmt.Sprintf(" (%s does not exist, and the organization does not claim to have an alternate)", alternate.host))
	case alternate.absent && available:
		alternate.soften("name", unclear, fmt.Sprintf("The organization says that it has an alternate endpoint, but %s does not exist in "+
			"DNS, as seen from this machine. Some names appear only with the failover: ask Microsoft, and the operators of the name servers here.",
			alternate.host))
	case primary.id != "" && alternate.id != "" && primary.id != alternate.id:
		alternate.add("WhoAmI", broken, "another organization", "%s serves a different organization (%s) from %s (%s): set "+
			"Config.Alternate to the right address, or Config.OrganizationID so that it is never used.",
			alternate.host, alternate.id, primary.host, primary.id)
	case primary.fenced && !alternate.serves:
		primary.add("WhoAmI", unclear, "", "Neither endpoint serves the organization now: it is being moved, or is disabled. Check "+
			"again once it serves.")
	}
	if primary.fenced && alternate.serves {
		return total("The organization is failed over now: %s serves it, and this machine can use it.", alternate.host, primary, alternate)
	}
	return total("Both endpoints answer this machine as expected: %s", state(primary, alternate), primary, alternate)
}

// soften replaces the level and the advice of a finding that other findings explain.
func (j *judgement) soften(check string, to level, mend string) {
	for i := range j.findings {
		if f := &j.findings[i]; f.check == check {
			f.level, f.mend = to, mend
		}
	}
}

func state(primary, alternate *judgement) string {
	switch {
	case primary.serves && alternate.fenced:
		return "the primary serves, and the alternate says that it does not serve now, as it should before a failover."
	case primary.serves && alternate.serves:
		return "both lead to the same organization."
	}
	return "see the table."
}

func oneAddress(primary *judgement, why string) Verdict {
	return total("The organization has one address%s. A failover that keeps the address, such as one between availability zones or "+
		"one of self-service disaster recovery, would work from this machine; there is no other address to switch to.", why, primary)
}

// total adds up the findings. good is the summary if nothing is wrong.
func total(good, detail string, judgements ...*judgement) Verdict {
	type item struct {
		level level
		mend  string
	}
	var items []item
	worst := fine
	for _, j := range judgements {
		for _, f := range j.findings {
			worst = max(worst, f.level)
			if f.level >= warning && f.mend != "" {
				items = append(items, item{f.level, f.mend})
			}
		}
	}
	slices.SortStableFunc(items, func(a, b item) int { return int(b.level - a.level) })
	v := Verdict{Mend: []string{}}
	for _, i := range items {
		if !slices.Contains(v.Mend, i.mend) {
			v.Mend = append(v.Mend, i.mend)
		}
	}
	switch {
	case worst >= broken:
		v.Answer, v.Summary = "no", "A failover would not work from this machine."
	case worst >= unclear:
		v.Answer, v.Summary = "cannot tell", "From here it cannot be determined whether a failover would work."
	default:
		v.Answer, v.Summary = "yes", fmt.Sprintf(good, detail)
		if len(v.Mend) > 0 {
			v.Summary = strings.TrimSuffix(v.Summary, ".") + ", with " + console.Plural(len(v.Mend), "reservation") + "."
		}
	}
	return v
}
