package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/failovertest"
)

// command returns a command of another program, and skips the test without it.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not on this machine; the test shows that it can be a caller of the proxy", name)
	}
	return exec.CommandContext(t.Context(), path, args...)
}

// curl makes a request as a shell script would, and returns the body.
func (s *site) curl(t *testing.T, args ...string) string {
	t.Helper()
	cmd := command(t, "curl", append([]string{"--silent", "--show-error", "--fail-with-body", "--noproxy", "*",
		"-H", "Authorization: Bearer " + s.org.Token(orgHost)}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s%s", out, &stderr)
	return string(out)
}

// failBack moves the organization and the traffic back. Without the latter, an upload could meet the
// fence of the alternate, and it can be sent only once.
func (s *site) failBack(t *testing.T) func() {
	return func() {
		s.org.Primary().Heal()
		s.org.FailBack()
		s.send(t, http.MethodGet, s.root()+"WhoAmI", "")
	}
}

func TestCurlThroughAnOutage(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	file := filepath.Join(t.TempDir(), "upload")
	upload := []byte(`{"documentbody":"` + strings.Repeat("x", 3<<20) + `"}`)
	require.NoError(t, os.WriteFile(file, upload, 0o600))
	for _, happens := range []func(){
		func() {},
		func() { s.org.Disaster(failovertest.Refuse()) },
		s.failBack(t),
	} {
		happens()
		// With Expect: 100-continue, and a body that can be read only once.
		s.curl(t, "-X", "PATCH", "-T", file, "-H", asJSON, s.root()+"annotations("+newID()+")")
		id := newID()
		s.curl(t, "-d", `{"accountid":"`+id+`","name":"curl"}`, "-H", asJSON, "-H", "Idempotency-Key: "+id, s.root()+"accounts")
		assert.Contains(t, s.curl(t, s.root()+"accounts("+id+")"), `"name":"curl"`)
		assert.Contains(t, s.curl(t, "--http2", "--compressed", s.root()+"WhoAmI"), s.root())
		n := 0
		for next := s.root() + "accounts"; next != ""; {
			var page struct {
				Next  string `json:"@odata.nextLink"`
				Value []any
			}
			require.NoError(t, json.Unmarshal([]byte(s.curl(t, next)), &page))
			n, next = n+len(page.Value), page.Next
		}
		assert.GreaterOrEqual(t, n, 26)
	}
	assert.Len(t, s.org.Primary().Rows("accounts"), 25+3)
	assert.Len(t, s.org.Primary().Rows("annotations"), 3)
	assert.Equal(t, 6, applied(s.org.Primary())+applied(s.org.Alternate()), "no write was carried out twice")
}

func TestJavaThroughAnOutage(t *testing.T) {
	t.Parallel()
	if err := command(t, "javac", "-version").Run(); err != nil {
		t.Skip("there is a java without a compiler on this machine, which runs no source file")
	}
	s := startSite(t)
	s.goesOn(t, command(t, "java", "-XX:TieredStopAtLevel=1", filepath.Join("testdata", "Caller.java"), s.url, s.org.Token(orgHost)))
}

func TestPythonThroughAnOutage(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.goesOn(t, command(t, "python3", filepath.Join("testdata", "caller.py"), s.url, s.org.Token(orgHost)))
}

// goesOn runs a program that works on while the organization fails over and back,
// each time that it has written "ready".
func (s *site) goesOn(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	happens := []func(){
		func() { s.org.Disaster(failovertest.Refuse()) },
		s.failBack(t),
	}
	last := ""
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if last = lines.Text(); last == "ready" && len(happens) > 0 {
			happens[0]()
			happens = happens[1:]
			_, err := stdin.Write([]byte("\n"))
			require.NoError(t, err)
		}
	}
	require.NoError(t, cmd.Wait(), "%s", &stderr)
	assert.Equal(t, "done", last)
	assert.Empty(t, happens)
	assert.Len(t, s.org.Primary().Rows("accounts"), 25+3)
	assert.Len(t, s.org.Primary().Rows("annotations"), 3)
	assert.Equal(t, 2, applied(s.org.Alternate()), "the alternate took over")
	assert.Equal(t, 6, applied(s.org.Primary())+applied(s.org.Alternate()), "no write was carried out twice")
}
