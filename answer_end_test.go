package failover

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
)

// An answer that a program's own Base has made up may have no body. There is nothing to end.
func TestAnAnswerWithoutABodyIsEnded(t *testing.T) {
	t.Parallel()
	assert.NotPanics(t, func() {
		discard(nil)
		discard(new(http.Response))
		discard(&http.Response{ContentLength: 1 << 20})
		keep(new(http.Response))
		assert.Nil(t, keep(nil))
	})
}
