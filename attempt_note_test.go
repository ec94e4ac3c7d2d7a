package failover

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A machine that has run out of files, ports or buffers says so by these numbers: the first
// are its own, the others those of Windows sockets.
func TestTheLimitsOfAMachine(t *testing.T) {
	t.Parallel()
	for _, n := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM, 10024, 10049, 10055} {
		assert.True(t, machineLimit(&net.OpError{Err: n}), "%d", n)
		assert.True(t, machineLimit(&net.DNSError{Err: "lookup: " + n.Error()}), "%d", n)
	}
	for _, n := range []syscall.Errno{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, 10054, 10060, 10061} {
		assert.False(t, machineLimit(&net.OpError{Err: n}), "%d", n)
		assert.False(t, machineLimit(fmt.Errorf("%s", n.Error())), "%d", n)
	}
}

// A token that an endpoint has rejected is not the first that its probes try.
func TestARejectedTokenIsTakenNoteOf(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1})
	for _, row := range []struct {
		f        Fault
		rejected [2]bool
	}{
		{Fault{Class: ClassAuth, Status: http.StatusUnauthorized, Endpoint: Alternate}, [2]bool{false, true}},
		{Fault{Class: ClassLocal}, [2]bool{}},
		{Fault{Class: ClassTransient, Status: 503}, [2]bool{}},
	} {
		transport.credentials.kept = []credential{{header: "Bearer contoso"}}
		c := &call{t: transport, req: &http.Request{Header: http.Header{"Authorization": {"Bearer contoso"}}}}
		c.lend(&row.f)
		require.Len(t, transport.credentials.kept, 1)
		assert.Equal(t, row.rejected, transport.credentials.kept[0].rejected)
	}
}

// Only a redirect of the same Transport says where a request has to go, and the state is
// the same where that is the active endpoint.
func TestWhoseRedirectAimsARequest(t *testing.T) {
	t.Parallel()
	transport, other := newTestTransport(t, acknowledging, Config{}), newTestTransport(t, acknowledging, Config{})
	follow := func(r *redirection) *http.Request {
		from := new(http.Request).WithContext(context.WithValue(t.Context(), redirectionKey{}, r))
		return &http.Request{Response: &http.Response{Request: from}}
	}
	r := &redirection{transport, Alternate}
	assert.Same(t, r, transport.redirection(follow(r)))
	assert.Nil(t, other.redirection(follow(r)))
	assert.Nil(t, transport.redirection(follow(nil)))
	assert.Nil(t, transport.redirection(&http.Request{Response: new(http.Response)}))
	st := transport.state.Load()
	assert.Same(t, st, (*redirection)(nil).aim(st))
	assert.Same(t, st, (&redirection{transport, Primary}).aim(st))
	aimed := r.aim(st)
	assert.Equal(t, Alternate, aimed.active)
	assert.Equal(t, st.epoch, aimed.epoch)
	assert.Equal(t, Primary, st.active)
}
