package failover

import (
	"context"
	"io"
	"net/http/httptrace"
	"strings"
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

// A string has to be copied, and a long one is not, whatever its ContentLength.
func TestALongStringIsNotReadAhead(t *testing.T) {
	t.Parallel()
	require.NotNil(t, nopCloser, "io.NopCloser works in another way now: no body is found in memory")
	text := strings.NewReader(strings.Repeat("x", 1000))
	assert.Nil(t, inMemory(io.NopCloser(text), 999))
	assert.Len(t, inMemory(io.NopCloser(text), 1000), 1000)
	assert.Equal(t, 1000, text.Len(), "nothing was consumed")
}
