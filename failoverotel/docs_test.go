package failoverotel

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// row is a metric, as documented or as produced.
type row struct {
	kind, unit string
	attributes []string // without those that every metric of its kind has
}

// produced returns every metric there is, after an outage and with a fleet.
func produced(t *testing.T) map[string]row {
	rows := make(map[string]row)
	synctest.Test(t, func(t *testing.T) {
		reader := sdk.NewManualReader()
		provider := sdk.NewMeterProvider(sdk.WithReader(reader))
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		client, transport, err := Wrap(org.Client(), org.URL(),
			&failover.Config{Authorize: org.Authorize, Logger: slog.New(slog.DiscardHandler)}, WithMeterProvider(provider))
		require.NoError(t, err)
		defer transport.Close()
		org.Disaster(failovertest.Refuse())
		resp, err := client.Get(org.URL() + "/api/data/v9.2/accounts")
		require.NoError(t, err)
		resp.Body.Close()
		pair := transport.Org()
		fleet := &observer{ready: make(chan struct{})}
		fleet.init(provider.Meter(scope), pair.Primary, pair.Alternate, nil)
		fleet.watch(func() failover.Status { return failover.Status{Fleet: &failover.FleetStatus{}} })
		synctest.Wait()

		var all metricdata.ResourceMetrics
		require.NoError(t, reader.Collect(context.Background(), &all))
		require.Len(t, all.ScopeMetrics, 1)
		assert.Equal(t, scope, all.ScopeMetrics[0].Scope.Name)
		for _, m := range all.ScopeMetrics[0].Metrics {
			r := row{unit: m.Unit}
			keys := make(map[string]bool)
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				r.kind = sumKind(data.IsMonotonic)
				collectKeys(keys, data.DataPoints)
			case metricdata.Sum[float64]:
				r.kind = sumKind(data.IsMonotonic)
				collectKeys(keys, data.DataPoints)
			case metricdata.Histogram[float64]:
				r.kind = "histogram"
				for _, p := range data.DataPoints {
					addKeys(keys, p.Attributes)
				}
			}
			assert.True(t, keys["failover.organization"], m.Name)
			assert.Equal(t, keys["failover.endpoint"], keys["server.address"], m.Name)
			delete(keys, "failover.organization")
			delete(keys, "server.address")
			r.attributes = slices.Sorted(maps.Keys(keys))
			assert.NotEmpty(t, m.Description, m.Name)
			rows[m.Name] = r
		}
	})
	return rows
}

func sumKind(monotonic bool) string {
	if monotonic {
		return "counter"
	}
	return "up-down counter"
}

func collectKeys[N int64 | float64](keys map[string]bool, points []metricdata.DataPoint[N]) {
	for _, p := range points {
		addKeys(keys, p.Attributes)
	}
}

func addKeys(keys map[string]bool, set attribute.Set) {
	for _, a := range set.ToSlice() {
		keys[string(a.Key)] = true
	}
}

// attributeList reads the attributes of a row of a table.
func attributeList(text string) []string {
	var list []string
	for a := range strings.SplitSeq(strings.ReplaceAll(text, "`", ""), ",") {
		if a = strings.TrimSpace(a); a != "" {
			list = append(list, a)
		}
	}
	slices.Sort(list)
	return list
}

func TestTheMetricsAreTheDocumentedOnes(t *testing.T) {
	t.Parallel()
	want := produced(t)
	require.Len(t, want, 18)

	file, err := parser.ParseFile(token.NewFileSet(), "failoverotel.go", nil, parser.ParseComments)
	require.NoError(t, err)
	got := make(map[string]row)
	for _, m := range regexp.MustCompile(`(?m)^\t(failover\.\S+) {2,}(.+?) {2,}(\S+)(?: {2,}(.+))?$`).FindAllStringSubmatch(file.Doc.Text(), -1) {
		got[m[1]] = row{m[2], m[3], attributeList(m[4])}
	}
	assert.Equal(t, want, got, "the package comment")

	page, err := os.ReadFile("../docs/telemetry.md")
	if os.IsNotExist(err) {
		t.Skip("not in the repository")
	}
	require.NoError(t, err)
	got = make(map[string]row)
	for _, m := range regexp.MustCompile("(?m)^\\| `(failover\\.\\S+)` \\| `\\w+` \\| ([^|]+) \\| `(\\S+)` \\|([^|]*)\\|").FindAllStringSubmatch(string(page), -1) {
		got[m[1]] = row{m[2], m[3], attributeList(m[4])}
	}
	assert.Equal(t, want, got, "docs/telemetry.md")
}

// Every attribute of the span events is in the package comment.
func TestTheAttributesAreDocumented(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "failoverotel.go", nil, parser.ParseComments)
	require.NoError(t, err)
	comment := strings.Join(strings.Fields(file.Doc.Text()), " ")
	for _, name := range []string{"metrics.go", "spans.go"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if ok && literal.Kind == token.STRING {
				key := strings.Trim(literal.Value, "`\"")
				if regexp.MustCompile(`^(failover|server|http|error)\.[a-z_.]+$`).MatchString(key) {
					assert.Contains(t, comment, key, name)
				}
				if suffix, ok := strings.CutPrefix(key, "."); ok {
					assert.Contains(t, comment, eventFault+"."+suffix, name)
				}
			}
			return true
		})
	}
}

// Every exported name has a doc comment.
func TestEverythingExportedIsDocumented(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "failoverotel.go", nil, parser.ParseComments)
	require.NoError(t, err)
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			assert.True(t, !d.Name.IsExported() || d.Doc.Text() != "", d.Name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if typ, ok := spec.(*ast.TypeSpec); ok && typ.Name.IsExported() {
					assert.NotEmpty(t, d.Doc.Text(), typ.Name)
				}
			}
		}
	}
}
