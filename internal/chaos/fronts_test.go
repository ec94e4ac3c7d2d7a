package chaos

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// POSTs go through real front ends that recycle connections, are reloaded, or lose their
// backend. None is carried out twice, and none that may have been is reported as a plain
// failure. Not parallel: each front end needs the whole machine.
func TestRealFrontEnds(t *testing.T) {
	callers, posts, kills := 16, 300, 3
	if *full {
		posts, kills = 1500, 8
	}
	for i := range fronts {
		f := &fronts[i]
		t.Run(f.name, func(t *testing.T) {
			if !f.installed() {
				t.Skipf("%s is not installed", f.program[0])
			}
			b := newBackend()
			defer b.wg.Wait()
			defer func() { b.kill() }()
			r, err := f.start("127.0.0.1", b.addr)
			require.NoError(t, err)
			defer r.stop()
			try := func(trouble string, ours bool, make func()) tallyOf {
				n := 0
				if make == nil {
					n = posts
				}
				got := storm(r, b, ours, callers, n, make)
				t.Logf("%s, with a Transport %v: %v", trouble, ours, got)
				if ours {
					assert.Zero(t, got.doubled, trouble)
					assert.Zero(t, got.hidden, trouble)
					assert.Zero(t, got.lost, trouble)
				}
				return got
			}
			quiet := "no trouble"
			if f.recycle {
				quiet = "recycled"
			}
			try(quiet, false, nil)
			got := try(quiet, true, nil)
			assert.Zero(t, got.failed, quiet)
			assert.Zero(t, got.inDoubt, quiet)
			for _, ours := range []bool{false, true} {
				try("backend killed", ours, func() {
					for range kills {
						pause(300 * time.Millisecond)
						b.kill()
						pause(20 * time.Millisecond)
						b.start()
					}
					pause(300 * time.Millisecond)
				})
				if f.reload != 0 {
					try("reloaded", ours, func() {
						for range kills {
							pause(200 * time.Millisecond)
							syscall.Kill(r.cmd.Process.Pid, f.reload)
						}
						pause(500 * time.Millisecond)
					})
				}
			}
		})
	}
}
