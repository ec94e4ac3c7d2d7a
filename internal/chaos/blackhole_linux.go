package chaos

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// A blackHole is a TCP address where a connection attempt neither succeeds nor fails.
type blackHole struct {
	ln    net.Listener
	fills []net.Conn
}

// newBlackHole opens a listener that accepts nothing, and fills its backlog. From then on
// Linux drops every SYN, as a network that lost its datacenter does.
func newBlackHole() (*blackHole, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &blackHole{ln: ln}
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		b.close()
		return nil, err
	}
	listenErr := error(nil)
	err = raw.Control(func(fd uintptr) { listenErr = syscall.Listen(int(fd), 0) })
	if err := errors.Join(err, listenErr); err != nil {
		b.close()
		return nil, err
	}
	for range 16 {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		c, err := new(net.Dialer).DialContext(ctx, "tcp", b.addr())
		cancel()
		if err != nil {
			return b, nil
		}
		b.fills = append(b.fills, c)
	}
	b.close()
	return nil, errors.New("chaos: the backlog does not fill up")
}

func (b *blackHole) addr() string { return b.ln.Addr().String() }

func (b *blackHole) close() {
	b.ln.Close()
	for _, c := range b.fills {
		c.Close()
	}
}
