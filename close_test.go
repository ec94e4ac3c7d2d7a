package failover_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

func TestCloseEndsEverything(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Disaster(failovertest.Refuse())
		s.get(accounts) // from now on the primary is probed for the fail-back
		require.NoError(s, s.transport.Close())
		require.NoError(s, s.transport.Close())
		_, err := s.create("Contoso")
		assert.ErrorIs(s, err, failover.ErrClosed)
		assert.ErrorIs(s, s.transport.Switch(context.Background(), failover.Primary, ""), failover.ErrClosed)
		s.transport.Pin(failover.Primary)
		assert.Equal(s, failover.Alternate, s.active())
	})
}

func TestCloseInTheMiddleOfADecisionFreesTheCallers(t *testing.T) {
	tell(t, failover.Config{AttemptTimeout: time.Second}, func(s *story) {
		s.org.Primary().Fail(failovertest.BlackHole())
		s.org.Alternate().Fail(failovertest.BlackHole())
		done := make(chan error)
		go func() {
			_, err := s.try(context.Background(), http.MethodGet, s.org.URL()+accounts, "")
			done <- err
		}()
		time.Sleep(5 * time.Second) // three attempts are over, and the probes hang
		require.NoError(s, s.transport.Close())
		assert.Error(s, <-done)
	})
}
