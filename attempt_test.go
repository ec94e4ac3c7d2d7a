package failover

import (
	"context"
	"net/http/httptrace"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Without the key, every write would take one allocation more.
func TestTheTraceOfATransitIsFound(t *testing.T) {
	t.Parallel()
	require.NotNil(t, traceKey, "httptrace looks for traces in another way now")
	var w transit
	ctx := w.context(t.Context(), 0)
	require.Same(t, &w, ctx)
	assert.Same(t, &w.trace, httptrace.ContextClientTrace(ctx))
	child, cancel := context.WithCancel(ctx)
	defer cancel()
	assert.Same(t, &w.trace, httptrace.ContextClientTrace(child))
}
