package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/machine"
)

// asProgram in the environment makes the test binary the program itself.
const asProgram = "PROXY_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		os.Exit(Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
	}
	status := m.Run()
	if n := panics.Load(); n > 0 {
		fmt.Fprintln(os.Stderr, n, "handlers have panicked")
		status = 1
	}
	os.Exit(status)
}

func TestTheDemonstration(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	status := Main(t.Context(), []string{"-duration", "4s"}, &stdout, &stderr)
	out := stdout.String()
	assert.Equal(t, 0, status, "%s%s", out, &stderr)
	assert.Empty(t, stderr.String())
	assert.Regexp(t, `(?m)^  failures +0 `, out)
	assert.Regexp(t, `(?m)^  switches +2$`, out)
	assert.Regexp(t, `switched +primary → alternate`, out)
	assert.Regexp(t, `switched +alternate → primary`, out)
	created := regexp.MustCompile(`accounts created +(\d+) +(\d+) confirmed`).FindStringSubmatch(out)
	require.NotNil(t, created, out)
	assert.Equal(t, created[1], created[2])
	assert.NotEqual(t, "0", created[1])
}

func TestFlags(t *testing.T) {
	t.Parallel()
	type row struct {
		name, why string
		args      []string
	}
	rows := []row{
		{"unknown flag", "a typing error", []string{"-x"}},
		{"an argument", "there are none", []string{"now"}},
		{"negative duration", "time goes one way", []string{"-duration", "-1s"}},
		{"negative grace", "the same", []string{"-grace", "-1s"}},
		{"too short", "the outage needs its time", []string{"-duration", "1s"}},
		{"duration of a real proxy", "it runs until it is stopped", []string{"-org", "https://contoso.crm4.dynamics.com", "-duration", "5s"}},
		{"alternate of nothing", "needs an organization", []string{"-alternate", "https://contoso--s.crm4.dynamics.com"}},
		{"no encryption", "tokens would travel in the clear", []string{"-org", "http://contoso.example"}},
		{"Microsoft's own host", "serves many organizations", []string{"-org", "https://by2--namcrmlivesg741.crm.dynamics.com"}},
		{"credentials in a URL", "and not in the error", []string{"-org", "https://user:hunter2@contoso.crm4.dynamics.com"}},
		{"all addresses", "other machines could reach it", []string{"-listen", ":8365"}},
		{"a network address", "the same", []string{"-listen", "10.0.0.1:8365"}},
		{"all addresses for the status", "the same", []string{"-admin", "0.0.0.0:0"}},
		{"a network address for commands", "nobody is asked who he is", []string{"-control", "192.168.1.2:8367"}},
		{"exposed commands", "-expose is about the others", []string{"-expose", "-control", ":8367"}},
		{"a name", "may be any machine's", []string{"-listen", "proxy.corp.example:80"}},
		{"no port", "no address", []string{"-listen", "127.0.0.1"}},
		{"public path", "the organization's paths are kept", []string{"-public", "https://proxy.corp.example/dynamics"}},
		{"public credentials", "are of no use", []string{"-public", "https://hunter2@proxy.corp.example"}},
		{"public name only", "the scheme is part of a link", []string{"-public", "proxy.corp.example"}},
	}
	requireReasons(t, rows, func(r row) (string, string) { return r.name, r.why })
	ended, cancel := context.WithCancel(t.Context())
	cancel() // a proxy that starts nevertheless ends at once
	for _, r := range rows {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, 2, Main(ended, r.args, &stdout, &stderr), r.name)
		assert.NotEmpty(t, stderr.String(), r.name)
		assert.NotContains(t, stderr.String(), "hunter2", r.name)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	assert.Equal(t, 0, Main(t.Context(), []string{"-h"}, &stdout, &stderr))
	assert.Contains(t, stderr.String(), "-org URL")
}

func TestExposedAddressesNeedTheFlag(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:0", "[::1]:80", "localhost:8365", "127.7.7.7:1"} {
		assert.NoError(t, checkAddress(addr, false), addr)
	}
	for _, addr := range []string{":80", "0.0.0.0:80", "[::]:80", "192.168.1.2:80", "proxy.corp.example:80"} {
		assert.ErrorContains(t, checkAddress(addr, false), "-expose", addr)
		assert.NoError(t, checkAddress(addr, true), addr)
	}
}

func TestAnAddressInUse(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	for _, flag := range []string{"-listen", "-admin", "-control"} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, 1, Main(t.Context(), []string{"-org", "https://contoso.crm4.dynamics.com", "-listen", anyPort, "-admin", anyPort, "-control", anyPort, flag, s.servers.proxy.addr.String()}, &stdout, &stderr))
		assert.Regexp(t, "in use|10048|Only one usage of each socket address", stderr.String()) // two of them on Windows
	}
}

// program is a run of the proxy for an organization.
type program struct {
	url    string
	stop   context.CancelFunc
	status chan int
	stderr bytes.Buffer
}

func startRunning(t *testing.T, grace time.Duration, handler http.HandlerFunc) *program {
	t.Helper()
	s := startOrganization(t, handler)
	ctx, cancel := context.WithCancel(t.Context())
	r := &program{stop: cancel, status: make(chan int, 1)}
	out, in := io.Pipe()
	o := options{listen: net.JoinHostPort("127.0.0.1", machine.FreePort("127.0.0.1")), grace: grace}
	go func() {
		r.status <- serveWith(ctx, o, s.transport, http.NotFoundHandler(), log.New(io.Discard, "", 0), in, &r.stderr)
		in.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	_, r.url, _ = strings.Cut(strings.TrimSpace(line), " is at ")
	require.NotEmpty(t, r.url)
	return r
}

func TestRequestsUnderWayAreFinished(t *testing.T) {
	t.Parallel()
	began, goOn := make(chan struct{}), make(chan struct{})
	r := startRunning(t, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-goOn
		io.WriteString(w, "done")
	})
	body := make(chan string, 1)
	go func() {
		resp, err := http.Get(r.url + "/x")
		if err != nil {
			body <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		body <- string(text)
	}()
	<-began
	r.stop()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.Errno(10061)) // on Windows
	}, time.Minute, 5*time.Millisecond, "no more requests are taken")
	close(goOn)
	assert.Equal(t, "done", <-body)
	assert.Equal(t, 0, <-r.status, "%s", &r.stderr)
}

func TestRequestsThatTakeTooLongAreCutOff(t *testing.T) {
	t.Parallel()
	began := make(chan struct{})
	r := startRunning(t, 50*time.Millisecond, func(w http.ResponseWriter, req *http.Request) {
		close(began)
		<-req.Context().Done()
	})
	failed := make(chan error, 1)
	go func() {
		resp, err := http.Get(r.url + "/x")
		if err == nil {
			resp.Body.Close()
		}
		failed <- err
	}()
	<-began
	r.stop()
	assert.Equal(t, 1, <-r.status)
	assert.Error(t, <-failed)
	assert.Contains(t, r.stderr.String(), "cut off")
}

func TestSignalsEndTheProgram(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there is no sending of signals")
	}
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		exe, err := os.Executable()
		require.NoError(t, err)
		cmd := exec.CommandContext(t.Context(), exe, "-org", "https://contoso.crm4.dynamics.com", "-listen", anyPort, "-admin", anyPort, "-control", anyPort)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewReader(out)
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		assert.Contains(t, line, "https://contoso.crm4.dynamics.com is at http://127.0.0.1:")
		line, err = lines.ReadString('\n')
		require.NoError(t, err)
		third, err := lines.ReadString('\n')
		require.NoError(t, err)
		control := regexp.MustCompile(`http://127[0-9.:]+`).FindString(third)
		resp, err := http.Get(control + "/?format=json")
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, http.StatusOK, resp.StatusCode)
		admin := regexp.MustCompile(`http://[0-9.:]+`).FindString(line)
		for path, want := range map[string]string{
			"/-/ready": "ok\n", "/-/failover": "https://contoso.crm4.dynamics.com", "/-/metrics": `failover_active{failover_endpoint="primary"`,
		} {
			resp, err := http.Get(admin + path)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			require.NoError(t, err)
			assert.Equal(t, http.StatusOK, resp.StatusCode, path)
			assert.Contains(t, string(body), want, path)
		}
		require.NoError(t, cmd.Process.Signal(signal))
		assert.NoError(t, cmd.Wait(), "%v", signal)
	}
}
