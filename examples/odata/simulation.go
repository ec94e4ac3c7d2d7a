package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/internal/timeline"
)

// lag is how far the other datacenters of the simulation lag behind. Microsoft documents a
// recovery point of a few seconds, and of up to 15 minutes for an emergency response.
const lag = 500 * time.Millisecond

// downtime is how long no datacenter serves while the organization moves behind its own address.
// A real drill takes minutes.
const downtime = time.Second

// simulation is the course of the disasters.
type simulation struct {
	org        *failovertest.Org
	oneAddress bool

	// lost are the accounts whose creation the primary acknowledged and that the datacenter
	// that took over never got, which only a simulator can know. (Updates were lost, too.
	// They are not counted, because the next update hides them.)
	lost map[string]bool
}

// scenes returns what happens when: a disaster that keeps the address, like today's, and one that
// moves the organization to another address.
func (s *simulation) scenes() []timeline.Scene {
	behind := []timeline.Scene{
		{Percent: 12, Text: "the region is lost; an emergency response moves the organization to another region, " +
			"behind its own address", Happen: s.emergency},
		{Percent: 37, Text: "the region is back; the switch back moves the organization to it", Happen: s.switchBack},
	}
	if s.oneAddress {
		behind[0].Percent, behind[1].Percent = 24, 65
		return behind
	}
	return append(behind,
		timeline.Scene{Percent: 58, Text: "the primary's region is lost; the alternate takes over", Happen: s.disaster},
		timeline.Scene{Percent: 76, Text: "the primary's region is back, but the organization is not yet", Happen: s.org.Primary().Heal},
		timeline.Scene{Percent: 84, Text: "the organization is moved back to the primary", Happen: s.org.FailBack},
	)
}

// emergency moves the organization in its state at the last synchronization. Open connections keep
// leading to the old place, which answers with the fence.
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

// disaster makes the alternate serve and then the primary refuse connections, so that one of them
// always serves; in a real outage, Microsoft takes minutes to move an organization. It then finds
// out which accounts the alternate lacks.
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

// explain prints what the disasters have lost, and returns how many of the missing accounts they
// have not lost.
func (s *simulation) explain(out io.Writer, missing []string) (unexplained int) {
	fmt.Fprintf(out, "\nKnown only to the simulator\n")
	timeline.Item(out, "lost accounts", len(s.lost), fmt.Sprintf("acknowledged in the last %v before a disaster, "+
		"and missing at the datacenter that took over, which lags that far behind", lag))
	for _, id := range missing {
		if !s.lost[id] {
			unexplained++
		}
	}
	if unexplained > 0 {
		timeline.Item(out, "unexplained", unexplained, "created and missing, but not lost in a disaster")
	}
	return unexplained
}
