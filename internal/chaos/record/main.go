// Command record puts real front ends in front of a failing backend, on loopback, and writes
// down what they answer:
//
//	go run ./record ../../testdata/fronts
//
// It needs root, and nginx, haproxy, apache2, varnish, squid and caddy from the packages of
// Debian. It is run by hand; tests of the core read its recordings.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// host is the host that the client requests.
const host = "contoso.api.crm.dynamics.com"

// The situations of the backend, or of the front end itself.
const (
	dead       = "dead"       // refuses connections
	slow       = "slow"       // accepts the request, and does not answer before the front end times out
	resetting  = "resetting"  // accepts the request and resets the connection
	closing    = "closing"    // accepts the request and closes the connection
	garbled    = "garbled"    // answers with something other than HTTP
	overloaded = "overloaded" // is busy with as many requests as the front end may send it
	unrouted   = "unrouted"   // the front end has no route for the path
)

var situations = []string{dead, slow, resetting, closing, garbled, overloaded, unrouted}

// An answer is what a front end sent.
type answer struct {
	Situation string      `json:"situation"`
	Method    string      `json:"method"`
	Status    int         `json:"status"`
	Header    http.Header `json:"header"`
	Body      string      `json:"body"`
}

// A recording has all answers of one front end.
type recording struct {
	Front    string   `json:"front"`
	Version  string   `json:"version"`
	Recorded string   `json:"recorded"` // date
	Answers  []answer `json:"answers"`
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: record FOLDER [FRONT...]")
	}
	for _, f := range fronts {
		if len(os.Args) > 2 && !slices.Contains(os.Args[2:], f.name) {
			continue
		}
		r := recording{Front: f.name, Version: f.installed(), Recorded: time.Now().UTC().Format(time.DateOnly)}
		for _, s := range situations {
			if s == overloaded && f.name == "caddy" {
				continue
			}
			answers, err := f.record(s)
			if err != nil {
				log.Fatalf("%s, %s: %v", f.name, s, err)
			}
			r.Answers = append(r.Answers, answers...)
		}
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			log.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(os.Args[1], f.name+".json"), text.Bytes(), 0o644); err != nil {
			log.Fatal(err)
		}
		log.Printf("%s: %d answers", r.Version, len(r.Answers))
	}
}

// record starts the front end afresh and returns its answers in a situation.
func (f *front) record(situation string) ([]answer, error) {
	b, err := startBackend(situation)
	if err != nil {
		return nil, err
	}
	defer b.close()
	port, stop, err := f.start(b.port)
	if err != nil {
		return nil, err
	}
	defer stop()
	client := &http.Client{
		Timeout:       20 * time.Second,
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	path := "/api/data/v9.2/accounts"
	if situation == unrouted {
		path = "/nowhere"
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if situation == overloaded {
		go func() { // takes the only slot
			if resp, err := ask(ctx, client, http.MethodGet, port, path); err == nil {
				resp.Body.Close()
			}
		}()
		select {
		case <-b.busy:
		case <-time.After(5 * time.Second):
			return nil, errors.New("the first request does not reach the backend")
		}
	}
	var answers []answer
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		resp, err := ask(ctx, client, method, port, path)
		if err != nil {
			log.Printf("%s, %s, %s: no answer: %v", f.name, situation, method, err)
			continue
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		answers = append(answers, answer{situation, method, resp.StatusCode, tidyHeader(resp.Header, port, b.port), tidy(string(body), port, b.port)})
	}
	return answers, nil
}

func ask(ctx context.Context, client *http.Client, method string, port int, path string) (*http.Response, error) {
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader(`{"name":"Contoso"}`)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1:"+strconv.Itoa(port)+path, body)
	if err != nil {
		return nil, err
	}
	req.Host = host
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "contoso")
	return client.Do(req)
}

// tidyHeader removes what differs between runs.
func tidyHeader(h http.Header, port, backend int) http.Header {
	h.Del("Date")
	if h.Get("X-Varnish") != "" {
		h.Set("X-Varnish", "1")
	}
	for _, values := range h {
		for i := range values {
			values[i] = tidy(values[i], port, backend)
		}
	}
	return h
}

var varnishID = regexp.MustCompile(`XID: \d+`)

// tidy replaces what differs between runs.
func tidy(body string, port, backend int) string {
	body = strings.ReplaceAll(body, strconv.Itoa(port), "8443")
	body = strings.ReplaceAll(body, strconv.Itoa(backend), "8080")
	if name, err := os.Hostname(); err == nil {
		body = strings.ReplaceAll(body, name, "contoso.example")
	}
	return varnishID.ReplaceAllString(body, "XID: 1")
}

// A backend is in one situation.
type backend struct {
	port     int
	listener net.Listener
	busy     chan struct{} // gets a value for every request that is kept waiting
}

func startBackend(situation string) (*backend, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &backend{port: ln.Addr().(*net.TCPAddr).Port, listener: ln, busy: make(chan struct{}, 100)}
	if situation == dead {
		ln.Close()
		return b, nil
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go b.serve(conn.(*net.TCPConn), situation)
		}
	}()
	return b, nil
}

func (b *backend) serve(conn *net.TCPConn, situation string) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	io.Copy(io.Discard, req.Body)
	switch situation {
	case slow, overloaded:
		b.busy <- struct{}{}
		io.Copy(io.Discard, conn) // until the front end gives up
	case resetting:
		conn.SetLinger(0)
	case garbled:
		io.WriteString(conn, "contoso\r\n\r\n")
	}
}

func (b *backend) close() { b.listener.Close() }

// start starts the front end and waits until it listens.
func (f *front) start(backend int) (port int, stop func(), err error) {
	dir, err := os.MkdirTemp("", "record")
	if err != nil {
		return 0, nil, err
	}
	os.Chmod(dir, 0o777)
	os.Mkdir(filepath.Join(dir, "empty"), 0o755)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, nil, err
	}
	port = ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	fill := strings.NewReplacer("DIR", dir, "BACKENDPORT", strconv.Itoa(backend), "BACKEND", "127.0.0.1:"+strconv.Itoa(backend), "PORT", strconv.Itoa(port))
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(fill.Replace(f.config)), 0o644); err != nil {
		return 0, nil, err
	}
	var args []string
	for _, a := range f.command[1:] {
		args = append(args, fill.Replace(a))
	}
	cmd := exec.Command(f.command[0], args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	stop = func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
		os.RemoveAll(dir)
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		select {
		case <-exited:
			stop()
			return 0, nil, fmt.Errorf("%s ended: %s", f.name, output.String())
		default:
		}
		if conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			conn.Close()
			return port, stop, nil
		}
	}
	stop()
	return 0, nil, fmt.Errorf("%s does not listen: %s", f.name, output.String())
}

// installed returns the name and version that the front end prints.
func (f *front) installed() string {
	out, _ := exec.Command(f.command[0], f.version).CombinedOutput()
	version := regexp.MustCompile(`\d+\.\d+[0-9.]*`).FindString(string(out))
	return f.name + " " + version
}
