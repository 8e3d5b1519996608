// Package relay lets a server be reached through a relay: its net.Listeners yield the users of a public port.
//
//	listener, err := relay.ListenMultiplex(invite)
//	...
//	http.Serve(listener, handler)
//
// Copy the folder into your program. Of multiplex.go, event.go and pool.go one is enough, and only multiplex.go needs a
// library. docs/PROTOCOL.md specifies what is spoken here.
package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// Listener is a net.Listener. A lost tunnel is opened again, on the same public port if it is still free.
type Listener struct {
	relay    *relay
	protocol string
	serve    func(*Listener, *link) error // Brings users until the tunnel ends, and closes it.
	users    chan net.Conn
	public   atomic.Pointer[string] // The public port.
	farewell atomic.Pointer[string] // What the relay is told at the end, by a connection of its own.
	// Done when nobody is to be accepted any more; its cause is why.
	ctx context.Context
	end context.CancelCauseFunc
}

// listen opens a tunnel. It fails if that cannot be done now; later it tries again.
func listen(where, protocol string, serve func(*Listener, *link) error) (*Listener, error) {
	relay, err := parse(where)
	if err != nil {
		return nil, err
	}
	l := &Listener{relay: relay, protocol: protocol, serve: serve, users: make(chan net.Conn)}
	link, err := l.open()
	if err != nil {
		return nil, err
	}
	l.ctx, l.end = context.WithCancelCause(context.Background())
	go l.run(link)
	return l, nil
}

func (l *Listener) open() (*link, error) {
	wish := ""
	if before := l.public.Load(); before != nil {
		wish = *before
	}
	link, err := l.relay.open(l.protocol, wish)
	if err == nil {
		l.public.Store(&link.public)
	}
	return link, err
}

func (l *Listener) run(link *link) {
	for {
		err := l.serve(l, link)
		if l.ctx.Err() != nil {
			return
		}
		log.Printf("relay: the tunnel was lost: %v", err)
		for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
			if isFinal(err) {
				l.end(err)
				return
			}
			select {
			case <-time.After(pause/2 + rand.N(pause/2)):
			case <-l.ctx.Done():
				return
			}
			if link, err = l.open(); err == nil {
				break
			}
			log.Printf("relay: %v", err)
		}
		log.Printf("relay: reachable again at %v", l.Addr())
	}
}

// admit hands a user to Accept, once the connection says who it is: for that one waits beside the others.
func (l *Listener) admit(user *user, proxy bool) {
	user.local = l.Addr()
	if proxy {
		if err := user.readAddresses(); err != nil {
			user.Abort()
			return
		}
	}
	select {
	case l.users <- user:
	case <-l.ctx.Done():
		user.Abort()
	}
}

// Accept fails only after Close, or when no retry can help.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case user := <-l.users:
		return user, nil
	case <-l.ctx.Done():
		return nil, context.Cause(l.ctx)
	}
}

// Close frees the public port. Users that were accepted live on.
func (l *Listener) Close() error {
	l.end(net.ErrClosed)
	l.sayFarewell()
	return nil
}

func (l *Listener) sayFarewell() {
	words := l.farewell.Swap(nil)
	if words == nil {
		return
	}
	if connection, err := l.relay.dial(); err == nil {
		defer connection.Close()
		connection.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprint(connection, *words)
		io.Copy(io.Discard, connection) // The relay closes it when it has done so.
	}
}

// Addr is where users come.
func (l *Listener) Addr() net.Addr {
	return address(net.JoinHostPort(l.relay.host, *l.public.Load()))
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// user is an accepted connection. RemoteAddr is the user's address, or the zero TCPAddr where the relay does not tell:
// never that of the relay. It can end one direction (CloseWrite), and be aborted.
type user struct {
	net.Conn
	reader        *bufio.Reader
	remote, local net.Addr
}

func (u *user) Read(p []byte) (int, error) { return u.reader.Read(p) }
func (u *user) RemoteAddr() net.Addr       { return u.remote }
func (u *user) LocalAddr() net.Addr        { return u.local }

func newUser(connection net.Conn, reader *bufio.Reader) *user {
	return &user{Conn: connection, reader: reader, remote: &net.TCPAddr{}}
}

// CloseWrite says that we send no more; reading goes on. A stream of yamux does so by its Close.
func (u *user) CloseWrite() error {
	if connection, ok := u.Conn.(interface{ CloseWrite() error }); ok {
		return connection.CloseWrite()
	}
	return u.Conn.Close()
}

// Close goes on to read for a while, beside us. Under TLS the user's end is bytes, too, and closing a connection ahead of
// bytes resets it.
func (u *user) Close() error {
	secure, ok := u.Conn.(*tls.Conn)
	if !ok {
		return u.Conn.Close()
	}
	secure.SetDeadline(time.Now().Add(patience))
	err := secure.CloseWrite()
	go func() {
		io.Copy(io.Discard, secure)
		secure.Close()
	}()
	return err
}

// Abort ends with a RST, which nobody takes for the end of what was to be said.
func (u *user) Abort() { abort(u.Conn) }

// readAddresses takes the line of PROXY protocol that comes before the user's first byte.
func (u *user) readAddresses() error {
	u.SetReadDeadline(time.Now().Add(patience))
	defer u.SetReadDeadline(time.Time{})
	line, err := u.reader.ReadSlice('\n') // At most 107 bytes: a longer one fails.
	if err != nil {
		return err
	}
	words := strings.Fields(string(line))
	switch {
	case len(words) == 6 && words[0] == "PROXY" && strings.HasPrefix(words[1], "TCP"):
		remote, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(words[2], words[4]))
		local, err2 := net.ResolveTCPAddr("tcp", net.JoinHostPort(words[3], words[5]))
		u.remote, u.local = remote, local
		return errors.Join(err, err2)
	case len(words) >= 2 && words[0] == "PROXY" && words[1] == "UNKNOWN":
		return nil
	}
	return fmt.Errorf("%q is no line of PROXY protocol", line)
}
