// Relay stands in for the relay of 2017, for forwarders to be tested against:
//
//	relay [-listen ADDR:PORT] [-half-close] [-pool-check DURATION]
//
// It has the same exchanges on the wire, and those of the original's faults that a forwarder can meet:
//
//   - A connection that closes before it has named a protocol, an empty line, or a second word on a line
//     ends the whole program with exit code 3. A word that it does not know is never answered.
//   - A pool without an idle member at the time of a check loses its port, even if it is merely busy.
//   - An event tunnel is never torn down, and a waiting user waits for ever.
//   - A user's end-of-file goes nowhere in multiplex and event, and in pool it cuts the reply. -half-close
//     mends this, so that half-close can be tested too; a stream of the old yamux still receives nothing
//     after its own end.
//
// It prints `listening on PORT`; do not probe it by connecting.
package main

import (
	"bufio"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

var (
	listenAddress = flag.String("listen", "127.0.0.1:0", "`address` of the control port")
	poolCheck     = flag.Duration("pool-check", 10*time.Second, "how often a pool without an idle member loses its port")
	halfClose     = flag.Bool("half-close", false, "carry end-of-file in each direction")
	control       *net.TCPAddr
)

func main() {
	flag.Parse()
	listener, err := net.Listen("tcp", *listenAddress)
	if err != nil {
		log.Fatal(err)
	}
	control = listener.Addr().(*net.TCPAddr)
	fmt.Printf("listening on %d\n", control.Port)
	for {
		conn, err := listener.Accept()
		if err != nil {
			die("accept: %v", err)
		}
		go greet(&client{conn.(*net.TCPConn), bufio.NewReader(conn)})
	}
}

// die is the fault that everything about the original has to be careful of.
func die(format string, args ...any) {
	log.Printf("died of "+format, args...)
	os.Exit(3)
}

// client is a connection to the control port. Bytes behind its last line belong to the data phase, so it is
// read through the reader that found the line.
type client struct {
	*net.TCPConn
	reader *bufio.Reader
}

func (c *client) Read(b []byte) (int, error) { return c.reader.Read(b) }

// WriteTo hides the promoted method of the connection, which would pass the reader by.
func (c *client) WriteTo(w io.Writer) (int64, error) { return c.reader.WriteTo(w) }

func (c *client) word() string {
	line, err := c.reader.ReadString('\n')
	if err != nil {
		die("a connection that ended before its line: %v", err)
	}
	words := strings.Fields(line)
	if len(words) != 1 {
		die("the line %q", line)
	}
	return words[0]
}

// The unknown word's connection stays open, unanswered: without a reference it would be collected and closed.
var forgotten sync.Map

func greet(c *client) {
	switch c.word() {
	case "multiplex":
		multiplex(c)
	case "pool":
		if id := c.word(); id == "new" {
			newPool(c)
		} else if pool, ok := pools.Load(id); ok {
			pool.(chan *client) <- c
		} else {
			c.Close()
		}
	case "event":
		if id := c.word(); id == "new" {
			newEvent(c)
		} else if user, ok := waiting.LoadAndDelete(id); ok {
			pipe(user.(*net.TCPConn), c)
		} else {
			c.Close()
		}
	default:
		forgotten.Store(c, true)
	}
}

// publish listens on the first free port above the control port, and tells the client which one it is.
func publish(c *client) net.Listener {
	for port := control.Port + 1; port < 1<<16; port++ {
		listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: control.IP, Port: port})
		if err == nil {
			fmt.Fprintf(c, "%d\n", port)
			return listener
		}
	}
	die("having no port")
	return nil
}

func newID() string {
	id := make([]byte, 5)
	if _, err := rand.Read(id); err != nil {
		die("having no random bytes: %v", err)
	}
	return fmt.Sprintf("%X", id)
}

func multiplex(c *client) {
	listener := publish(c)
	session, err := yamux.Client(c, nil)
	if err != nil {
		die("yamux: %v", err)
	}
	go func() {
		session.Accept() // The forwarder opens no streams: this returns when the session has ended.
		session.Close()
		listener.Close()
	}()
	for {
		user, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			stream, err := session.Open()
			if err != nil {
				user.Close()
				return
			}
			pipe(user.(*net.TCPConn), stream)
		}()
	}
}

var pools sync.Map // id -> chan *client

func newPool(c *client) {
	listener := publish(c)
	defer listener.Close()
	id := newID()
	members := make(chan *client, 1024)
	pools.Store(id, members)
	defer pools.Delete(id)
	fmt.Fprintf(c, "%s\n", id)
	members <- c

	go func() {
		for range time.Tick(*poolCheck) {
			if len(members) == 0 {
				listener.Close()
				return
			}
		}
	}()
	for {
		user, err := listener.Accept()
		if err != nil {
			return
		}
		member := <-members
		if *halfClose {
			go pipe(user.(*net.TCPConn), member)
		} else {
			go cut(user, member)
		}
	}
}

var waiting sync.Map // id -> *net.TCPConn

func newEvent(c *client) {
	listener := publish(c)
	for {
		user, err := listener.Accept()
		if err != nil {
			die("accept: %v", err)
		}
		id := newID()
		waiting.Store(id, user)
		fmt.Fprintf(c, "%s\n", id)
	}
}

// pipe ends when the service does.
func pipe(user *net.TCPConn, service io.ReadWriteCloser) {
	up := make(chan struct{})
	go func() {
		defer close(up)
		io.Copy(service, user)
		if *halfClose {
			closeWrite(service)
		}
	}()
	io.Copy(user, service)
	if *halfClose {
		closeWrite(user)
		<-up
	}
	user.Close()
	service.Close()
}

// cut ends when either side does.
func cut(user, service io.ReadWriteCloser) {
	defer user.Close()
	defer service.Close()
	ended := make(chan struct{}, 2)
	carry := func(to io.Writer, from io.Reader) {
		io.Copy(to, from)
		ended <- struct{}{}
	}
	go carry(user, service)
	go carry(service, user)
	<-ended
}

func closeWrite(to io.Closer) {
	if conn, ok := to.(interface{ CloseWrite() error }); ok {
		conn.CloseWrite()
	} else {
		to.Close() // A yamux stream: its close is a half-close.
	}
}
