package failover_test

import (
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// lossStory runs a story after a failover that lost some of the last writes: the oldest was
// copied, the others were not.
func lossStory(t *testing.T, writes int, plot func(*story)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t, &failovertest.Config{Lag: 2 * time.Second}, failover.Config{})
		defer s.close()
		status, err := s.create("copied")
		require.NoError(t, err)
		require.Equal(t, 204, status)
		time.Sleep(3 * time.Second)
		for range writes - 1 {
			_, err := s.create("lost")
			require.NoError(t, err)
		}
		s.org.Disaster(failovertest.Refuse())
		require.Equal(t, 200, s.get(accounts))
		require.Len(t, s.transport.Status().Loss.AtRisk, writes)
		plot(s)
	})
}

func states(answer controlled) map[string]int {
	n := make(map[string]int)
	for _, w := range answer.Status.Losses[0].AtRisk {
		n[w.State]++
	}
	return n
}

func TestControlVerifies(t *testing.T) {
	lossStory(t, 3, func(s *story) {
		h := s.transport.ControlHandler()
		before := control(h, http.MethodGet, "/", "", "").Body.String()
		assert.Contains(s, before, "3 writes are at risk and were not verified")
		status, answer := command(s, h, "verify", nil)
		assert.Equal(s, http.StatusOK, status, answer.Error)
		assert.Equal(s, map[string]int{"present": 1, "missing": 2}, states(answer))
		assert.False(s, answer.Status.Verifying)
		assert.Equal(s, "writes missing", answer.Status.Situation)
		assert.NotContains(s, control(h, http.MethodGet, "/", "", "").Body.String(), "were not verified")
	})
}

// The browser does not have to wait: Verify continues without it, and runs only once, however
// many ask for it.
func TestVerifyOutlivesTheBrowser(t *testing.T) {
	lossStory(t, 101, func(s *story) {
		h := s.transport.ControlHandler()
		begin := time.Now()
		w := control(h, http.MethodPost, "/ops/verify", formEncoded, "", "Accept", "text/html")
		assert.Equal(s, http.StatusSeeOther, w.Code)
		assert.Equal(s, 5*time.Second, time.Since(begin))
		assert.Contains(s, control(h, http.MethodGet, "/", "", "").Body.String(), "Verify is reading the records.")
		before := deliveries(s.org.Alternate(), http.MethodGet)

		status, answer := command(s, h, "verify", nil) // joins the one in progress
		assert.Equal(s, http.StatusOK, status)
		assert.Equal(s, 10*time.Second, time.Since(begin))
		assert.Equal(s, map[string]int{"present": 1, "missing": 100}, states(answer))
		assert.Less(s, deliveries(s.org.Alternate(), http.MethodGet), before+60, "each record was read once")
	})
}

func TestCloseEndsVerify(t *testing.T) {
	lossStory(t, 101, func(s *story) {
		h := s.transport.ControlHandler()
		answers := make(chan controlled)
		go func() {
			_, answer := command(s, h, "verify", nil)
			answers <- answer
		}()
		time.Sleep(1050 * time.Millisecond) // between two reads
		begin := time.Now()
		s.transport.Close()
		assert.Zero(s, time.Since(begin))
		answer := <-answers
		assert.False(s, answer.OK)
		assert.NotEmpty(s, answer.Error)
	})
}

func TestVerifyNeedsCredentials(t *testing.T) {
	t.Parallel()
	transport, err := failover.New("https://contoso.api.crm.dynamics.com", &failover.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	status, answer := command(t, transport.ControlHandler(), "verify", nil)
	assert.Equal(t, http.StatusConflict, status)
	assert.Contains(t, answer.Error, "Config.Authorize")
}
