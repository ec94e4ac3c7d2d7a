package main

import (
	"fmt"
	"io"
	"time"

	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/internal/timeline"
)

// lag is how far the simulated alternate is behind the primary. Microsoft
// names a recovery point of a few seconds.
const lag = 500 * time.Millisecond

// simulation is the outage of a region as the organization lives through it.
type simulation struct {
	org *failovertest.Org

	// lost is what only a simulator can know: the accounts that the primary
	// has acknowledged and the alternate never got. (Updates of that time are
	// lost as well. They are not counted, because the next update hides them.)
	lost map[string]bool
}

// scenes returns what happens when. In a real outage Microsoft takes minutes to
// move an organization. Until then neither endpoint serves and calls fail with
// failover.ErrUnavailable; the simulation leaves that time out.
func (s *simulation) scenes() []timeline.Scene {
	return []timeline.Scene{
		{Percent: 21, Text: "the primary's region is gone; the alternate takes over", Happen: s.disaster},
		{Percent: 54, Text: "the primary's region is back; the organization is not, yet", Happen: s.org.Primary().Heal},
		{Percent: 67, Text: "the organization is moved back to the primary", Happen: s.org.FailBack},
	}
}

// disaster makes the alternate serve and the primary refuse connections, in
// this order so that at no moment neither serves. Then it finds out what the
// alternate has missed.
func (s *simulation) disaster() {
	s.org.FailOver()
	s.org.Primary().Fail(failovertest.Refuse())
	s.lost = make(map[string]bool)
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
	timeline.Item(out, "lost accounts", len(s.lost), fmt.Sprintf("acknowledged in the last %v before the disaster and", lag))
	timeline.Item(out, "", "", "missing at the alternate, which lags that far behind")
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
