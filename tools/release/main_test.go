package main

import (
	"strings"
	"testing"
)

// What users would stumble over is an error here, and nothing else is.
func TestMistakes(t *testing.T) {
	t.Parallel()
	const head = "module " + family + "/auth\n\ngo 1.25.0\n\n"
	repo := &repository{version: "v0.1.0", modules: []*mod{{path: family, zipSum: "h1:zip=", modSum: "h1:mod="}}}
	for name, c := range map[string]struct{ gomod, gosum, want string }{
		"fit to be published":         {"require " + family + " v0.1.0", "", ""},
		"the right sums":              {"require " + family + " v0.1.0", family + " v0.1.0 h1:zip=\n" + family + " v0.1.0/go.mod h1:mod=\n", ""},
		"other modules are not ours":  {"require " + family + "er v0.7.0", family + "er v0.7.0 h1:other=\n", ""},
		"replace":                     {"require " + family + " v0.1.0\nreplace " + family + " => ../", "", "replace and exclude"},
		"exclude":                     {"exclude " + family + " v0.0.9", "", "replace and exclude"},
		"no version at all":           {"require " + family + " v0.0.0", "", "v0.1.0 is what CHANGELOG.md says"},
		"another version":             {"require " + family + " v0.2.0", "", "v0.1.0 is what CHANGELOG.md says"},
		"a module that nobody gets":   {"require " + family + "/internal/chaos v0.1.0", "", "is not published"},
		"a sum of other files":        {"require " + family + " v0.1.0", family + " v0.1.0 h1:other=\n", "another sum"},
		"a sum of another go.mod":     {"require " + family + " v0.1.0", family + " v0.1.0/go.mod h1:other=\n", "another sum"},
		"a sum of an earlier version": {"require " + family + " v0.1.0", family + " v0.0.9 h1:zip=\n", "nothing requires"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := (&mod{dir: "auth", path: family + "/auth", gomod: []byte(head + c.gomod + "\n"), gosum: c.gosum}).mistakes(repo)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
