package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const code = `package shop

import "time"

type kind uint8

const (
	book kind = iota
	food
)

const limit = 20

var calls int

// Free has something of everything that is mutated.
func Free(price int, member bool, k kind) bool {
	defer func() { calls++ }()
	switch kind := k; kind {
	case food:
		return false
	}
	return price < limit || member
}

func Wait(n int, kind func(time.Duration)) {
	for i := 0; i < n && n > 0; i++ {
		kind(min(time.Duration(n+i)*time.Second, 30*time.Second))
	}
}

func Count(seen map[string]int, what string) {
	if seen == nil {
		calls -= 1
		return
	}
	seen[what] += 1
}
`

const tests = `package shop

import "testing"

func TestFree(t *testing.T) {
	if !Free(10, false, book) || Free(30, false, book) || !Free(30, true, book) || Free(10, true, food) {
		t.Error("wrong")
	}
}

func TestCount(t *testing.T) {
	seen := make(map[string]int)
	Count(seen, "a")
	Count(nil, "a")
}
`

// A module whose tests have gaps. Not parallel: the go command is run in the working
// directory.
func TestWhatTheTestsMissSurvives(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a module")
	}
	dir := t.TempDir()
	switches, err := os.ReadFile(filepath.Join("mutant", "mutant.go"))
	require.NoError(t, err)
	for name, text := range map[string]string{
		"go.mod": "module contoso.com/shop\n\ngo 1.25.0\n", "shop.go": code, "shop_test.go": tests,
		"internal/mutate/mutant/mutant.go": string(switches),
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	t.Chdir(dir)
	sources, mutations, err := mutateModule(t.Context())
	require.NoError(t, err)
	for _, s := range sources {
		assert.Equal(t, strings.Count(code, "\n"), strings.Count(s.text, "\n"), "lines keep their numbers")
	}
	programs, err := prepare(t.Context(), t.TempDir(), sources)
	require.NoError(t, err)
	recorded, err := recordTests(t.Context(), t.TempDir(), programs, 2, 0, make(map[string]recording))
	require.NoError(t, err)
	got := make(map[string]string)
	for _, m := range mutations {
		got[strings.TrimPrefix(m.key, "shop.go: ")] = try(t.Context(), m, recorded, nil).end()
	}
	want := map[string]string{
		`Free: defer func() { calls++ }(): left out`: "survived",
		`Free: calls++: left out`:                    "survived",
		`Free: food: another 98`:                     ". TestFree",
		`Free: false: true`:                          ". TestFree",
		`Free: price < limit || member: true`:        ". TestFree",
		`Free: price < limit: false`:                 ". TestFree",
		`Free: price < limit: at the bound`:          "not reached",
		`Free: limit: 80`:                            ". TestFree",
		`Free: member: false`:                        ". TestFree",
		`Count: seen == nil: true`:                   "survived",
		`Count: seen == nil: false`:                  ". TestCount", // it panics
		`Count: calls -= 1: left out`:                "survived",
		`Count: return: left out`:                    ". TestCount",
		`Count: seen[what] += 1: left out`:           "survived",
	}
	for key, end := range want {
		assert.Equal(t, end, got[key], key)
	}
	for key, end := range got {
		if want[key] == "" {
			assert.NotContains(t, end, "Test", "nothing tests %s", key)
		}
	}
	assert.Contains(t, slices.Collect(maps.Keys(got)), "Wait: min(time.Duration(n+i)*time.Second, 30*time.Second): max")
	assert.Contains(t, slices.Collect(maps.Keys(got)), "Wait: 30*time.Second: 120000000000")
}

func TestEveryKeyIsThere(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "pairs")
	require.NoError(t, os.WriteFile(name, []byte("# about\n\na: b\n\tnothing depends on it\nc\n"), 0o644))
	pairs, err := readPairs(name)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a: b": "nothing depends on it", "c": ""}, pairs)
	none, err := readPairs(name + "2")
	require.NoError(t, err)
	assert.Empty(t, none)
}
