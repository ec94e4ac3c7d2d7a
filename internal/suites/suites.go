package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// A suite is the tests of some packages.
type suite struct {
	name     string
	module   string // with its version; "" for the standard library
	dir      string // where the packages are, below the module or src
	packages []string
	args     []string // for go test
	tags     string   // for the build
	// edits wrap each *http.Transport that a library or a test calls directly.
	edits []edit
	// direct are the test files whose own calls of RoundTrip are wrapped as well, with the
	// prefix that they give to names of net/http.
	direct map[string]string
}

var suites = []suite{
	{
		name: "net/http", dir: "net/http", packages: []string{"."}, args: []string{"-parallel=32"},
		direct: map[string]string{"client_test.go": "", "requestwrite_test.go": "", "transport_dial_test.go": "http.", "transport_test.go": ""},
		edits: []edit{
			{"main_test.go", "\tv := m.Run()\n", "\tv := m.Run()\n\twrap.Close()\n"},
			{"main_test.go", "\n\t\"net/http\"\n", "\n\t\"d365failover/wrap\"\n\t\"net/http\"\n"},
		},
	},
	{name: "net/http/httputil", dir: "net/http/httputil", packages: []string{"."}, direct: map[string]string{"reverseproxy_test.go": "http."}},
	{
		name: "oauth2", module: "golang.org/x/oauth2@v0.36.0", packages: []string{"./..."},
		edits: []edit{
			{"transport.go", "\t\treturn t.Base\n", "\t\treturn http.Through(t.Base)\n"},
			{"transport.go", "\treturn http.DefaultTransport\n", "\treturn http.Through(http.DefaultTransport)\n"},
		},
	},
	{name: "azcore", module: "github.com/Azure/azure-sdk-for-go/sdk/azcore@v1.24.0", packages: []string{"./..."}},
	{
		name: "otelhttp", module: "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp@v0.71.0", packages: []string{"./..."},
		edits: []edit{{"transport.go", "rt: base,", "rt: http.Through(base),"}},
	},
	{name: "go-retryablehttp", module: "github.com/hashicorp/go-retryablehttp@v0.7.8", packages: []string{"./..."}},
	{
		name: "elastic-transport-go", module: "github.com/elastic/elastic-transport-go/v8@v8.11.0", packages: []string{"./..."},
		edits: elasticEdits,
	},
	{
		name: "elastic-transport-go, integration", module: "github.com/elastic/elastic-transport-go/v8@v8.11.0", packages: []string{"./..."}, tags: "integration",
		edits: elasticEdits,
	},
}

var elasticEdits = []edit{
	{"elastictransport/elastictransport.go", "return c.transport.RoundTrip(req)", "return http.Through(c.transport).RoundTrip(req)"},
}

// prepare returns the directory of a suite's packages, ready for testing.
func (r *runner) prepare(ctx context.Context, s suite) (string, error) {
	dir := r.toolchain.src()
	if s.module != "" {
		cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", s.module)
		cmd.Dir, cmd.Stderr = r.dir, os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return "", err
		}
		var module struct{ Dir string }
		if err := json.Unmarshal(out, &module); err != nil {
			return "", err
		}
		dir = filepath.Join(r.dir, fileName(s.name))
		if err := copyTree(module.Dir, dir); err != nil {
			return "", err
		}
	}
	dir = filepath.Join(dir, filepath.FromSlash(s.dir))
	err := apply(dir, s.edits)
	for file, prefix := range s.direct {
		err = errors.Join(err, throughDirect(filepath.Join(dir, file), prefix))
	}
	return dir, errors.Join(err, wrapTests(dir))
}

var roundTrip = regexp.MustCompile(`(\w[\w.()]*)\.RoundTrip\(`)

// throughDirect wraps the calls of RoundTrip in a file.
func throughDirect(file, prefix string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	changed := roundTrip.ReplaceAll(text, []byte(prefix+"Through($1).RoundTrip("))
	if bytes.Equal(text, changed) {
		return fmt.Errorf("%s calls no RoundTrip", file)
	}
	return os.WriteFile(file, changed, 0o666)
}

func fileName(name string) string { return strings.NewReplacer("/", "-", ", ", "-").Replace(name) }
