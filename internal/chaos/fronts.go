package chaos

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/internal/machine"
)

// A front is a real front end between a client and a backend.
type front struct {
	name string
	// program is the command that runs it in the foreground. In it and in config, DIR,
	// ADDRESS, PORT and BACKEND stand for the working directory, the address, the port, and
	// the address of the backend.
	program []string
	config  string
	h2      bool
	reload  syscall.Signal // causes a graceful reload; 0 for none
	recycle bool           // closes connections after a few requests
}

const (
	haproxyConfig = `global
  stats socket DIR/admin
  hard-stop-after 5s
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 10s
frontend f
  bind ADDRESS:PORT ssl crt DIR/both.pem alpn ALPN
  default_backend b
backend b
  server s BACKEND
`
	nginxConfig = `daemon off;
pid DIR/pid;
error_log DIR/error.log warn;
worker_processes 1;
events { worker_connections 512; }
http {
  access_log off;
  client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
  proxy_http_version 1.1;
  server {
    listen ADDRESS:PORT ssl HTTP2;
    RECYCLE
    ssl_certificate DIR/both.pem; ssl_certificate_key DIR/both.pem;
    location / { proxy_pass http://BACKEND; }
  }
}
`
	apacheConfig = `ServerRoot DIR
PidFile DIR/pid
ErrorLog DIR/error.log
ServerName contoso.api.crm.dynamics.com
Listen ADDRESS:PORT
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule socache_shmcb_module /usr/lib/apache2/modules/mod_socache_shmcb.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
SSLEngine on
SSLCertificateFile DIR/both.pem
SSLCertificateKeyFile DIR/both.pem
Protocols PROTOCOLS
ProxyPass / http://BACKEND/
Mutex pthread
`
	caddyConfig = `{
  admin off
  auto_https off
  servers {
    protocols PROTOCOLS
  }
  storage file_system DIR
}
https://contoso.api.crm.dynamics.com:PORT {
  bind ADDRESS
  tls DIR/cert.pem DIR/key.pem
  reverse_proxy BACKEND
}
`
)

func replaced(config string, pairs ...string) string {
	return strings.NewReplacer(pairs...).Replace(config)
}

var (
	haproxy = []string{"haproxy", "-W", "-db", "-f", "DIR/config"}
	nginx   = []string{"nginx", "-p", "DIR", "-e", "DIR/error.log", "-c", "DIR/config"}
	apache  = []string{"apache2", "-DFOREGROUND", "-f", "DIR/config"}
	caddy   = []string{"caddy", "run", "--config", "DIR/config", "--adapter", "caddyfile"}
)

var fronts = []front{
	{name: "HAProxy, HTTP/1.1", program: haproxy, config: replaced(haproxyConfig, "ALPN", "http/1.1"), reload: syscall.SIGUSR2},
	{name: "HAProxy, HTTP/2", program: haproxy, config: replaced(haproxyConfig, "ALPN", "h2,http/1.1"), h2: true, reload: syscall.SIGUSR2},
	{name: "nginx, HTTP/1.1", program: nginx, config: replaced(nginxConfig, " HTTP2", "", "RECYCLE", ""), reload: syscall.SIGHUP},
	{name: "nginx, HTTP/2", program: nginx, config: replaced(nginxConfig, "HTTP2", "http2", "RECYCLE", ""), h2: true, reload: syscall.SIGHUP},
	{name: "nginx, HTTP/1.1, recycling", program: nginx, config: replaced(nginxConfig, " HTTP2", "", "RECYCLE", "keepalive_requests 7;"), recycle: true},
	{name: "nginx, HTTP/2, recycling", program: nginx, config: replaced(nginxConfig, "HTTP2", "http2", "RECYCLE", "keepalive_requests 7;"), h2: true, recycle: true},
	{name: "Apache, HTTP/1.1", program: apache, config: replaced(apacheConfig, "PROTOCOLS", "http/1.1"), reload: syscall.SIGUSR1},
	{name: "Apache, HTTP/2", program: apache, config: replaced(apacheConfig, "PROTOCOLS", "h2 http/1.1"), h2: true, reload: syscall.SIGUSR1},
	{name: "Caddy, HTTP/1.1", program: caddy, config: replaced(caddyConfig, "PROTOCOLS", "h1")},
	{name: "Caddy, HTTP/2", program: caddy, config: replaced(caddyConfig, "PROTOCOLS", "h1 h2"), h2: true},
}

// installed reports whether the program can be found.
func (f *front) installed() bool {
	_, err := exec.LookPath(f.program[0])
	return err == nil
}

// A runningFront is the process of a front end.
type runningFront struct {
	*front
	addr string
	cmd  *exec.Cmd
	out  bytes.Buffer // to be read once the process has ended
	dir  string
	done chan struct{}
}

// start runs the front end at an address, in a directory of its own, and waits until it
// listens.
func (f *front) start(address, backend string) (*runningFront, error) {
	dir, port := must(os.MkdirTemp("", "front")), machine.FreePort(address) // some programs reject unusual directory names
	r := &runningFront{front: f, addr: net.JoinHostPort(address, port), dir: dir, done: make(chan struct{})}
	fill := strings.NewReplacer("DIR", dir, "ADDRESS", address, "PORT", port, "BACKEND", backend).Replace
	cert, key := pemOf(certs().good)
	for name, content := range map[string]string{"config": fill(f.config), "cert.pem": cert, "key.pem": key, "both.pem": cert + key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	args := make([]string, len(f.program))
	for i, arg := range f.program {
		args[i] = fill(arg)
	}
	r.cmd = exec.Command(args[0], args[1:]...)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	r.cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	r.cmd.WaitDelay = time.Second
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a process group, to end its workers too
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { defer close(r.done); r.cmd.Wait() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		if c, err := net.Dial("tcp", r.addr); err == nil {
			c.Close()
			return r, nil
		}
		select {
		case <-tick.C:
		case <-r.done:
			os.RemoveAll(dir)
			return nil, fmt.Errorf("%s has ended: %s", f.name, r.out.String())
		}
	}
	r.stop()
	return nil, fmt.Errorf("%s does not listen: %s", f.name, r.out.String())
}

// signal sends a signal to the process group.
func (r *runningFront) signal(s syscall.Signal) { syscall.Kill(-r.cmd.Process.Pid, s) }

// stop ends the process group.
func (r *runningFront) stop() {
	r.signal(syscall.SIGKILL)
	<-r.done
	os.RemoveAll(r.dir)
}

func pemOf(c tls.Certificate) (cert, key string) {
	cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
	key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(c.PrivateKey))}))
	return cert, key
}

// A backend carries out requests, counts them by id, and can be killed.
type backend struct {
	addr string
	mu   sync.Mutex
	srv  *http.Server
	done map[string]int
	wg   sync.WaitGroup
}

func newBackend() *backend {
	b := &backend{addr: "127.0.0.1:" + machine.FreePort("127.0.0.1"), done: make(map[string]int)}
	b.start()
	return b
}

func (b *backend) start() {
	ln := must(net.Listen("tcp", b.addr))
	srv := &http.Server{Handler: b, ErrorLog: log.New(io.Discard, "", 0)}
	b.mu.Lock()
	b.srv = srv
	b.mu.Unlock()
	b.wg.Go(func() { srv.Serve(ln) })
}

// kill resets every connection, and with it the requests in progress.
func (b *backend) kill() {
	b.mu.Lock()
	srv := b.srv
	b.mu.Unlock()
	srv.Close()
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	if id := r.Header.Get(idHeader); id != "" {
		b.mu.Lock()
		b.done[id]++
		b.mu.Unlock()
		select { // time for a kill to happen
		case <-time.After(5 * time.Millisecond):
		case <-r.Context().Done():
		}
	}
	io.WriteString(w, whoAmI)
}

func (b *backend) times(id string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done[id]
}

// A tallyOf sums up many POSTs through a front end.
type tallyOf struct {
	posts, failed, inDoubt int
	doubled                int // carried out more than once
	hidden                 int // failed, not reported as in doubt, and carried out
	lost                   int // acknowledged, but not carried out
	worst                  time.Duration
}

func (t tallyOf) String() string {
	return fmt.Sprintf("%d POSTs, %d failed, %d of them in doubt, %d doubled, %d hidden, worst %v", t.posts, t.failed, t.inDoubt, t.doubled, t.hidden, t.worst.Round(time.Millisecond))
}

// storms numbers the storms, so that every POST has a unique id.
var storms atomic.Int64

// storm sends POSTs through a front end, half of them with GetBody, while trouble runs. It
// ends with trouble, or after that number of posts if it is set.
func storm(r *runningFront, b *backend, ours bool, callers, posts int, trouble func()) (t tallyOf) {
	base := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if !strings.HasPrefix(addr, primaryHost+":") {
				return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
			}
			return new(net.Dialer).DialContext(ctx, network, r.addr)
		},
		TLSClientConfig: &tls.Config{RootCAs: certs().pool}, ForceAttemptHTTP2: r.h2, MaxIdleConnsPerHost: callers,
	}
	defer base.CloseIdleConnections()
	var rt http.RoundTripper = base
	if ours {
		transport := must(failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)}))
		defer transport.Close()
		rt = transport
	}
	id := storms.Add(1)
	var next atomic.Int64
	var over atomic.Bool
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for !over.Load() {
				n := int(next.Add(1))
				if posts > 0 && n > posts {
					return
				}
				one := post(rt, b, r.h2, fmt.Sprint(id, " ", n), n%2 == 0)
				mu.Lock()
				t.add(one)
				mu.Unlock()
				if one.failed > 0 {
					pause(5 * time.Millisecond)
				}
			}
		})
	}
	if trouble != nil {
		trouble()
		over.Store(true)
	}
	wg.Wait()
	return t
}

func (t *tallyOf) add(one tallyOf) {
	t.posts += one.posts
	t.failed += one.failed
	t.inDoubt += one.inDoubt
	t.doubled += one.doubled
	t.hidden += one.hidden
	t.lost += one.lost
	t.worst = max(t.worst, one.worst)
}

// post makes one POST.
func post(rt http.RoundTripper, b *backend, h2 bool, id string, getBody bool) tallyOf {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req := must(http.NewRequestWithContext(ctx, "POST", orgURL+"/api/data/v9.2/accounts", bytes.NewReader(requestBody[:1<<10])))
	req.Header.Set(idHeader, id)
	req.Header.Set("Content-Type", "application/json")
	if !getBody {
		req.GetBody = nil
	}
	begun := time.Now()
	resp, err := rt.RoundTrip(req)
	one := tallyOf{posts: 1, worst: time.Since(begun)}
	_, doubt := failover.InDoubt(resp, err)
	good := false
	if err == nil {
		if (resp.ProtoMajor == 2) != h2 {
			err = errors.New("another protocol")
		}
		_, readErr := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		good = err == nil && readErr == nil && resp.StatusCode == http.StatusOK
	}
	times := b.times(id)
	one.failed, one.inDoubt = count(!good), count(doubt)
	one.doubled, one.lost = count(times > 1), count(good && times == 0)
	one.hidden = count(!good && !doubt && times > 0)
	return one
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}
