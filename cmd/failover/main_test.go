package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestHelp: every command prints its help within 80 columns, on standard output.
func TestHelp(t *testing.T) {
	t.Parallel()
	calls := [][]string{{"-h"}, {"help"}, {"--help"}}
	for _, c := range commands {
		if c.name != "proxy" { // it has flags of its own style
			calls = append(calls, []string{c.name, "-h"}, []string{"help", c.name})
		}
	}
	for _, args := range calls {
		var out, errors bytes.Buffer
		assert.Equal(t, 0, run(t.Context(), args, &out, &errors), "%q", args)
		assert.Contains(t, out.String(), "Usage: failover")
		assert.Empty(t, errors.String())
		for line := range strings.Lines(out.String()) {
			assert.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), 80, "%q fits 80 columns: %q", args, line)
		}
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args  []string
		words string
	}{
		{nil, "Usage: failover COMMAND"},
		{[]string{"chek"}, `there is no command "chek"`},
		{[]string{"check"}, "give one URL"},
		{[]string{"check", "-nope"}, "flag provided but not defined: -nope"},
		{[]string{"check", "https://by2--namcrmlivesg741.crm.dynamics.com"}, "failover check:"},
		{[]string{"dr"}, "give the ID of an environment"},
	} {
		var out, errors bytes.Buffer
		assert.Equal(t, 2, run(t.Context(), tt.args, &out, &errors), "%q", tt.args)
		assert.Contains(t, errors.String(), tt.words)
		assert.Empty(t, out.String())
	}
}
