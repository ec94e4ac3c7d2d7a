package failover

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A body is mapped by the one type and the one encoding that its headers give, however
// these are spelled.
func TestABodyIsMappedByItsOneType(t *testing.T) {
	t.Parallel()
	o, err := ParseOrg("https://contoso.crm4.dynamics.com")
	require.NoError(t, err)
	body := []byte(`{"parentaccountid@odata.bind":"https://contoso.crm4.dynamics.com/api/data/v9.2/accounts(1)"}`)
	for _, row := range []struct {
		h    http.Header
		want bool
	}{
		{http.Header{"Content-Type": {"application/json"}}, true},
		{http.Header{"content-type": {"application/json"}}, true},
		{http.Header{"CONTENT-TYPE": {"application/json; charset=utf-8"}, "content-encoding": {"identity"}}, true},
		{http.Header{"Content-Type": {"application/json"}, "content-encoding": {"gzip"}}, false},
		{http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"identity", "identity"}}, false},
		{http.Header{"Content-Type": {"application/json"}, "content-type": {"text/plain"}}, false},
		{http.Header{"Content-Type": {"application/json", "application/json"}}, false},
		{http.Header{}, false},
	} {
		mapped, ok := o.rewriteBody(row.h, "/api/data/v9.2/contacts", body, Alternate)
		assert.Equal(t, row.want, ok, row.h)
		assert.Equal(t, row.want, string(mapped) != string(body), row.h)
	}
}
