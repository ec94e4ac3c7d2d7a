package failoverredis_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/machine"
)

// server is a redis-server of a test, in a process of its own.
type server struct {
	addr string
	args []string
	cmd  *exec.Cmd
}

// startServer starts a redis-server on the loopback interface that keeps nothing
// on disk. It is killed when the test ends.
func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("there is no redis-server in PATH (on Debian: apt-get install redis-server)")
	}
	port := machine.FreePort("127.0.0.1")
	s := &server{addr: net.JoinHostPort("127.0.0.1", port)}
	s.args = append([]string{path}, args...)
	s.args = append(s.args, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir(), "--loglevel", "warning")
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

// start starts the process and waits until it accepts connections.
func (s *server) start(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	log := filepath.Join(t.TempDir(), "log")
	out, err := os.Create(log)
	require.NoError(t, err)
	defer out.Close()
	s.cmd.Stdout, s.cmd.Stderr = out, out
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() {
		if said, _ := os.ReadFile(log); t.Failed() && len(said) > 0 {
			t.Logf("redis-server at %s: %s", s.addr, said)
		}
	})
	eventually(t, patience, func() error {
		conn, err := net.DialTimeout("tcp", s.addr, time.Second)
		if err != nil {
			said, _ := os.ReadFile(log)
			return fmt.Errorf("%w: %s", err, said)
		}
		return conn.Close()
	})
}

// kill ends the process at once.
func (s *server) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// pause makes the process stop, with its connections open, until resume.
func (s *server) pause(t testing.TB) {
	t.Helper()
	if stop == nil {
		t.Skip("processes cannot be paused here")
	}
	require.NoError(t, s.cmd.Process.Signal(stop))
	t.Cleanup(func() { s.cmd.Process.Signal(cont) })
}

func (s *server) resume(t testing.TB) {
	t.Helper()
	require.NoError(t, s.cmd.Process.Signal(cont))
}

// client returns a client for the server, which is closed when the test ends.
func (s *server) client(t testing.TB) *redis.Client {
	t.Helper()
	return closing(t, redis.NewClient(&redis.Options{Addr: s.addr}))
}

// closing closes c when the test ends.
func closing[C io.Closer](t testing.TB, c C) C {
	t.Cleanup(func() { c.Close() })
	return c
}

// startCluster starts a cluster of three masters, optionally with a replica each, and returns its
// nodes.
func startCluster(t *testing.T, replicas bool) (servers []*server) {
	t.Helper()
	const masters, slots = 3, 16384
	nodes := masters
	if replicas {
		nodes = 2 * masters
	}
	ctx := t.Context()
	var clients []*redis.Client
	for i := range nodes {
		s := startServer(t, "--cluster-enabled", "yes", "--cluster-port", machine.FreePort("127.0.0.1"), "--cluster-node-timeout", "2000")
		c := s.client(t)
		if i < masters {
			require.NoError(t, c.ClusterAddSlotsRange(ctx, i*slots/masters, (i+1)*slots/masters-1).Err())
		}
		require.NoError(t, c.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err())
		servers, clients = append(servers, s), append(clients, c)
		if i == 0 {
			continue
		}
		bus := s.args[1:]
		for at, arg := range bus {
			if arg == "--cluster-port" {
				host, port, _ := net.SplitHostPort(s.addr)
				require.NoError(t, clients[0].Do(ctx, "CLUSTER", "MEET", host, port, bus[at+1]).Err())
			}
		}
	}
	for _, c := range clients {
		eventually(t, patience, func() error {
			info, err := c.ClusterInfo(ctx).Result()
			if err == nil && !(strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprint("cluster_known_nodes:", nodes))) {
				err = fmt.Errorf("cluster is not ready: %s", info)
			}
			return err
		})
	}
	for i := masters; i < nodes; i++ {
		id, err := clients[i-masters].Do(ctx, "CLUSTER", "MYID").Text()
		require.NoError(t, err)
		require.NoError(t, clients[i].ClusterReplicate(ctx, id).Err())
		eventually(t, patience, func() error {
			info, err := clients[i].Info(ctx, "replication").Result()
			if err == nil && !strings.Contains(info, "master_link_status:up") {
				err = fmt.Errorf("replica is not ready: %s", info)
			}
			return err
		})
	}
	return servers
}

// addrs returns the addresses of servers.
func addrs(servers []*server) (all []string) {
	for _, s := range servers {
		all = append(all, s.addr)
	}
	return all
}

// startSentinel starts a master, a replica, and a sentinel that watches them
// under the name "main". It returns the master and the sentinel's address.
func startSentinel(t *testing.T) (master *server, sentinel string) {
	t.Helper()
	master = startServer(t)
	host, port, _ := net.SplitHostPort(master.addr)
	replica := startServer(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	eventually(t, patience, func() error {
		info, err := replica.client(t).Info(context.Background(), "replication").Result()
		if err == nil && !strings.Contains(info, "master_link_status:up") {
			err = fmt.Errorf("replica is not ready: %s", info)
		}
		return err
	})
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil,
		"sentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n", host, port), 0o600))
	s := startServer(t, config, "--sentinel")
	return master, s.addr
}

// eventually calls done until it returns nil, and fails the test with its last
// error if that takes too long. If the machine stalls, it starts to wait anew.
func eventually(t testing.TB, patience time.Duration, done func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	stalls := machine.Stalls()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		late := time.Now().After(deadline)
		err := done()
		if err == nil {
			return
		}
		if n := machine.Stalls(); n > stalls {
			stalls, deadline = n, time.Now().Add(patience)
		} else if late {
			t.Fatalf("not within %v: %v", patience, err)
		}
	}
}

// patience is the maximum time for what takes a moment, unless the machine is busy.
const patience = 2 * time.Minute
