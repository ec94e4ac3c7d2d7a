package failover_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// createLabelled posts an account and returns the path of the record.
func (s *story) createLabelled(label string) string {
	s.Helper()
	ctx := failover.WithLabel(s.Context(), label)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.org.URL()+accounts, strings.NewReader(`{"name":"Contoso"}`))
	require.NoError(s, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	require.NoError(s, err)
	resp.Body.Close()
	require.Equal(s, 204, resp.StatusCode)
	return strings.TrimPrefix(resp.Header.Get("OData-EntityId"), s.org.URL())
}

// labels returns the labels of the writes, in order.
func labels(writes []failover.Write) []string {
	var list []string
	for _, w := range writes {
		list = append(list, w.Label)
	}
	return list
}

// lagging runs a story of an organization with a replication lag.
func lagging(t *testing.T, lag time.Duration, plot func(*story)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t, &failovertest.Config{Lag: lag}, failover.Config{})
		defer s.close()
		plot(s)
	})
}

func TestTheLossReportListsWhatIsAtRisk(t *testing.T) {
	lagging(t, 3*time.Second, func(s *story) {
		s.createLabelled("long ago")
		time.Sleep(time.Minute)
		s.createLabelled("safe")
		time.Sleep(4 * time.Second)
		lost := s.createLabelled("at risk")
		time.Sleep(time.Second)
		require.Equal(s, 200, s.get(accounts)) // the anchor
		anchor := time.Now()
		s.org.Primary().FailNext(1, failovertest.Reset(failovertest.BeforeAnswer))
		req, err := http.NewRequestWithContext(failover.WithLabel(s.Context(), "in doubt"), http.MethodPost, s.org.URL()+accounts, strings.NewReader(`{}`))
		require.NoError(s, err)
		req.Header.Set("X-Ms-Client-Request-Id", "contoso-7")
		_, err = s.client.Do(req)
		require.ErrorIs(s, err, failover.ErrOutcomeUnknown)
		assert.ErrorContains(s, err, "contoso-7")
		assert.ErrorContains(s, err, "primary")

		s.org.Disaster(failovertest.Refuse())
		time.Sleep(10 * time.Minute) // nobody calls for a while
		require.Equal(s, 200, s.get(accounts))

		report := s.transport.Status().Loss
		require.NotNil(s, report)
		assert.Equal(s, failover.Primary, report.From)
		assert.WithinDuration(s, anchor, report.LastSuccess, time.Millisecond)
		assert.Equal(s, []string{"safe", "at risk"}, labels(report.AtRisk), "within the RPO of 5 s before the last success")
		assert.Equal(s, []string{"in doubt"}, labels(report.Unknown))
		assert.Equal(s, "contoso-7", report.Unknown[0].RequestID)
		assert.False(s, report.Truncated)
		assert.Equal(s, lost, report.AtRisk[1].Entity)
		assert.Equal(s, 204, report.AtRisk[1].Status)

		found, err := report.Verify(s.Context(), s.client)
		require.NoError(s, err)
		assert.Equal(s, []string{"safe"}, labels(found.Present))
		assert.Equal(s, []string{"at risk"}, labels(found.Missing))
		assert.Equal(s, []string{"in doubt"}, labels(found.Unreadable))

		for _, e := range s.told() {
			if e.Kind == failover.EventSwitched {
				assert.Same(s, report, e.Loss)
			}
		}
	})
}

func TestReadsAreNotInTheLedger(t *testing.T) {
	lagging(t, 0, func(s *story) {
		s.get(accounts)
		s.send("POST", soapService, "application/soap+xml; action=\"http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/Retrieve\"", "<x/>")
		s.org.FailOver()
		s.get(accounts)
		report := s.transport.Status().Loss
		assert.Empty(s, report.AtRisk)
		assert.Empty(s, report.Unknown)
	})
}

// An unconditional update of a record that the failover lost would create the record anew,
// with nothing in it but the update.
func TestAnUpdateOfALostRecordCreatesNoStub(t *testing.T) {
	lagging(t, time.Minute, func(s *story) {
		lost := s.createLabelled("lost")
		s.org.FailOver()
		status, _ := s.send("PATCH", lost, "application/json", `{"telephone1":"7"}`)
		assert.Equal(s, 404, status)
		assert.Equal(s, failover.Alternate, s.active())
		assert.Equal(s, 404, s.get(lost))

		own := accounts + "(" + failovertest.SeedID(7777) + ")"
		status, _ = s.send("PATCH", own, "application/json", `{"name":"Contoso"}`)
		assert.Equal(s, 204, status, "an upsert of any other record stays one")
		status, _ = s.send("PATCH", lost, "application/json", `{"name":"Contoso"}`, "If-None-Match", "*")
		assert.Equal(s, 204, status, "the caller's own condition is left alone")
	})
}

func TestAnUpdateOfARecordThatArrivedGoesThrough(t *testing.T) {
	lagging(t, 0, func(s *story) {
		kept := s.createLabelled("kept")
		s.org.FailOver()
		status, _ := s.send("PATCH", kept, "application/json", `{"telephone1":"7"}`)
		assert.Equal(s, 204, status)
	})
}

func TestConfirmSwitchSeesTheLossReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var proposal failover.Switch
		s := newStory(t, nil, failover.Config{ConfirmSwitch: func(_ context.Context, p failover.Switch) error { proposal = p; return nil }})
		defer s.close()
		s.createLabelled("at risk")
		s.org.FailOver()
		s.get(accounts)
		synctest.Wait()
		require.NotNil(t, proposal.Loss)
		assert.Equal(t, []string{"at risk"}, labels(proposal.Loss.AtRisk))
	})
}

func TestALossReportIsJSON(t *testing.T) {
	lagging(t, 0, func(s *story) {
		s.createLabelled("at risk")
		s.org.FailOver()
		s.get(accounts)
		text, err := json.Marshal(s.transport.Status().Loss)
		require.NoError(s, err)
		assert.Contains(s, string(text), fmt.Sprintf("%q", "at risk"))
	})
}

// Behind one address, too, another place may serve after an outage than before it.
func TestTheEndOfAnOutageAtTheSameEndpointIsReported(t *testing.T) {
	lagging(t, 0, func(s *story) {
		s.createLabelled("long ago")
		time.Sleep(time.Minute)
		lost := s.createLabelled("at risk")
		time.Sleep(time.Second)
		require.Equal(s, 200, s.get(accounts)) // the anchor
		anchor := time.Now()
		time.Sleep(2 * time.Second)
		s.org.Primary().Fail(failovertest.Status(503, nil, ""))
		s.org.Alternate().Fail(failovertest.Refuse())
		for range 5 {
			s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
		}
		require.True(s, s.transport.Status().Down)
		time.Sleep(time.Hour)
		s.org.Primary().Heal()
		time.Sleep(time.Minute)
		require.False(s, s.transport.Status().Down)
		require.Equal(s, 200, s.get(accounts))

		report := s.transport.Status().Loss
		require.NotNil(s, report)
		assert.Equal(s, failover.Primary, report.From)
		assert.Equal(s, failover.Primary, report.To)
		assert.False(s, report.Moved())
		assert.WithinDuration(s, anchor, report.LastSuccess, time.Millisecond)
		assert.Equal(s, []string{"at risk"}, labels(report.AtRisk))
		told := false
		for _, e := range s.told() {
			told = told || e.Kind == failover.EventUp && e.Loss == report
		}
		assert.True(s, told)

		status, _ := s.send("PATCH", lost, "application/json", `{"telephone1":"7"}`)
		assert.Equal(s, 204, status, "it is there")
		sent := s.org.Primary().Deliveries()
		assert.Equal(s, "*", sent[len(sent)-1].Header.Get("If-Match"), "which the program could not know")
		s.send("PATCH", lost, "application/json", `{"telephone1":"8"}`)
		sent = s.org.Primary().Deliveries()
		assert.Empty(s, sent[len(sent)-1].Header.Get("If-Match"), "and now it does")
	})
}
