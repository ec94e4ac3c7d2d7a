package failover

import (
	"context"
	"fmt"
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

// Some log the contexts of requests, which other goroutines use meanwhile.
func TestATransitIsPrintedAsAContextIs(t *testing.T) {
	t.Parallel()
	var w transit
	parent := context.WithValue(t.Context(), contextKey(7), "contoso")
	assert.Equal(t, fmt.Sprint(parent)+".WithClientTrace", fmt.Sprint(w.context(parent, 0)))
}
