package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/internal/timeline"
)

// lag is how far the other datacenters of the simulation are behind. Microsoft names a
// recovery point of a few seconds, and up to 15 minutes for an emergency response.
const lag = 500 * time.Millisecond

// downtime is how long no datacenter serves while the organization moves behind its own
// address. In a drill it takes minutes.
const downtime = time.Second

// simulation is what the organization lives through.
type simulation struct {
	org        *failovertest.Org
	oneAddress bool

	// lost is what only a simulator can know: the accounts that the primary
	// has acknowledged and the place that took over never got. (Updates of that time
	// are lost as well. They are not counted, because the next update hides them.)
	lost map[string]bool
}

// scenes returns what happens when: a disaster that keeps the address, as today's do, and
// one after which the organization has another one.
func (s *simulation) scenes() []timeline.Scene {
	behind := []timeline.Scene{
		{Percent: 12, Text: "the region is gone; an emergency response moves the organization to another one, " +
			"behind its own address", Happen: s.emergency},
		{Percent: 37, Text: "the region is back; a switch back moves the organization home", Happen: s.switchBack},
	}
	if s.oneAddress {
		behind[0].Percent, behind[1].Percent = 24, 65
		return behind
	}
	return append(behind,
		timeline.Scene{Percent: 58, Text: "the primary's region is gone; the alternate takes over", Happen: s.disaster},
		timeline.Scene{Percent: 76, Text: "the primary's region is back; the organization is not, yet", Happen: s.org.Primary().Heal},
		timeline.Scene{Percent: 84, Text: "the organization is moved back to the primary", Happen: s.org.FailBack},
	)
}

// emergency moves the organization at its last synchronization. Open connections go on
// leading to the old place, which answers that it does not serve.
func (s *simulation) emergency() {
	report := s.org.EmergencyResponse(&failovertest.Recovery{Downtime: downtime})
	if report == nil {
		return
	}
	for _, w := range report.Lost {
		if w.Op == "create" {
			s.lost[strings.ToLower(w.ID)] = true
		}
	}
}

func (s *simulation) switchBack() {
	s.org.SwitchBack(&failovertest.Recovery{Downtime: downtime})
}

// disaster makes the alternate serve and the primary refuse connections, in
// this order so that at no moment neither serves. Then it finds out what the
// alternate has missed. (In a real outage Microsoft takes minutes to move an
// organization.)
func (s *simulation) disaster() {
	s.org.FailOver()
	s.org.Primary().Fail(failovertest.Refuse())
	for _, account := range s.org.Primary().Rows("accounts") {
		id := account["accountid"].(string)
		if _, ok := s.org.Alternate().Lookup("accounts", id); !ok {
			s.lost[id] = true
		}
	}
}

// explain prints what the failover has lost, and returns how many of the
// missing accounts that does not account for.
func (s *simulation) explain(out io.Writer, missing []string) (unexplained int) {
	fmt.Fprintf(out, "\nKnown to the simulator alone\n")
	timeline.Item(out, "lost accounts", len(s.lost), fmt.Sprintf("acknowledged in the last %v before a disaster, "+
		"and missing at the place that took over, which lags that far behind", lag))
	for _, id := range missing {
		if !s.lost[id] {
			unexplained++
		}
	}
	if unexplained > 0 {
		timeline.Item(out, "unexplained", unexplained, "created, missing, and not lost by the failover")
	}
	return unexplained
}
