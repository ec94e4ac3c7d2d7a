package proxy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

// failure is an answer of the proxy's own.
type failure struct {
	Error struct{ Code, Message string }
}

func (r reply) failure(t *testing.T) failure {
	t.Helper()
	var f failure
	require.NoError(t, json.Unmarshal([]byte(r.body), &f), r.body)
	assert.Equal(t, "application/json", r.Header.Get("Content-Type"))
	assert.NotContains(t, r.body, "secret")
	return f
}

func TestAWriteWithoutAnAnswerIsInDoubtAndNotSentAgain(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
	r := s.send(t, http.MethodPost, s.root()+"accounts?x=secret", `{"name":"secret"}`, asJSON)
	assert.Equal(t, http.StatusBadGateway, r.StatusCode)
	assert.Equal(t, "unknown", r.Header.Get("Failover-Outcome"))
	assert.Empty(t, r.Header.Get("Retry-After"))
	assert.Equal(t, "Failover.OutcomeUnknown", r.failure(t).Error.Code)
	assert.Equal(t, 1, applied(s.org.Primary()))
	writes := 0
	for _, d := range s.org.Primary().Deliveries() {
		if d.Method == http.MethodPost { // the others are probes
			writes++
		}
	}
	assert.Equal(t, 1, writes)
}

func TestAnAnswerThatSaysNothingOfAWriteIsMarked(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.org.Primary().FailNext(1, failovertest.OutagePage())
	r := s.send(t, http.MethodPost, s.root()+"accounts", `{"name":"Contoso"}`, asJSON)
	assert.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	assert.Equal(t, "unknown", r.Header.Get("Failover-Outcome"))
	assert.Contains(t, r.body, "Our services aren't available", "it comes as it is")

	r = s.send(t, http.MethodPost, s.root()+"accounts(1)", `{}`, asJSON)
	assert.Equal(t, http.StatusBadRequest, r.StatusCode)
	assert.Empty(t, r.Header.Get("Failover-Outcome"), "the organization answered")
}

func TestAnUploadThatMeetsAFenceIsTheCallersToRepeat(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.org.FailOver()
	target, body := s.root()+"annotations("+newID()+")", `{"documentbody":"`+strings.Repeat("x", 2*maxHeld)+`"}`
	r := s.send(t, http.MethodPatch, target, body, asJSON)
	assert.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	assert.Empty(t, r.Header.Get("Failover-Outcome"), "a fence carries nothing out")
	assert.Eventually(t, func() bool {
		return s.send(t, http.MethodPatch, target, body, asJSON).StatusCode == http.StatusNoContent
	}, time.Minute, 50*time.Millisecond)
	assert.Equal(t, 1, applied(s.org.Alternate()))
}

func TestAWriteThatIsVouchedForIsRepeated(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
	r := s.send(t, http.MethodPost, s.root()+"accounts", `{"accountid":"`+newID()+`","name":"Contoso"}`, asJSON, "Idempotency-Key: 1")
	assert.Equal(t, http.StatusPreconditionFailed, r.StatusCode, "the first attempt got through")
	assert.Equal(t, 1, applied(s.org.Primary()))
}

func TestAnOrganizationThatIsDownIsUnavailable(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.org.Primary().Fail(failovertest.Refuse())
	s.org.Alternate().Fail(failovertest.Refuse())
	for range 2 {
		r := s.send(t, http.MethodPost, s.root()+"accounts?x=secret", `{"name":"Contoso"}`, asJSON)
		assert.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
		assert.NotEmpty(t, r.Header.Get("Retry-After"))
		assert.Empty(t, r.Header.Get("Failover-Outcome"), "nothing was sent")
		assert.Equal(t, "Failover.Unavailable", r.failure(t).Error.Code)
	}
	ready := s.send(t, http.MethodGet, "http://"+s.servers.admin.addr.String()+"/-/ready", "")
	assert.Equal(t, http.StatusServiceUnavailable, ready.StatusCode)
	s.org.Primary().Heal()
	assert.Eventually(t, func() bool {
		return s.send(t, http.MethodPost, s.root()+"accounts", `{"name":"Contoso"}`, asJSON).StatusCode == http.StatusNoContent
	}, time.Minute, 50*time.Millisecond)
}

func TestAReadThatGetsNoAnswer(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.org.Primary().FailWhen(func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "accounts")
	}, failovertest.Reset(failovertest.BeforeAnswer))
	r := s.send(t, http.MethodGet, s.root()+"accounts", "")
	assert.Equal(t, http.StatusBadGateway, r.StatusCode, r.body)
	assert.Equal(t, "Failover.NoAnswer", r.failure(t).Error.Code)
	assert.Empty(t, r.Header.Get("Failover-Outcome"))

	s.org.Primary().Heal()
	s.org.Primary().FailWhen(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "contacts") }, failovertest.OutagePage())
	r = s.send(t, http.MethodGet, s.root()+"contacts", "")
	assert.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	assert.Empty(t, r.Header.Get("Failover-Outcome"), "a read leaves nothing in doubt")
}

func TestAClosedTransportEndsConnections(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.transport.Close()
	r := s.send(t, http.MethodGet, s.root()+"accounts", "")
	assert.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	assert.Equal(t, "Failover.ShuttingDown", r.failure(t).Error.Code)
	assert.True(t, r.Close)
}

func TestABodyThatBreaksOffIsNotSentOn(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	conn, err := net.Dial("tcp", s.servers.proxy.addr.String())
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "POST /api/data/v9.2/accounts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"name\":")
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	assert.Equal(t, http.StatusBadRequest, resp.StatusCode)
	assert.Empty(t, s.org.Primary().Deliveries())
}

// A caller that sends no more may still wait for the answer. To the proxy it looks like one that has gone.
func TestACallerThatHalfClosesIsTold(t *testing.T) {
	t.Parallel()
	closed := make(chan func() error, 1)
	s := startHTTP1(t, nil, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		(<-closed)()
		<-r.Context().Done()
	})
	conn, err := net.Dial("tcp", s.servers.proxy.addr.String())
	require.NoError(t, err)
	defer conn.Close()
	closed <- conn.(*net.TCPConn).CloseWrite
	fmt.Fprintf(conn, "POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	assert.Equal(t, http.StatusBadGateway, resp.StatusCode)
	assert.Equal(t, "unknown", resp.Header.Get("Failover-Outcome"))
}
