// Forward makes a local service reachable by a relay, in one of three protocols:
//
//	go run ./forward multiplex|event|pool INVITE PORT
//
// INVITE is what `relay invite` prints, or HOST:PORT of a relay that is open to everybody. Users reach the service on
// localhost:PORT.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"relay.test/examples/relay"
)

func main() {
	listeners := map[string]func(string) (*relay.Listener, error){
		"multiplex": relay.ListenMultiplex,
		"event":     relay.ListenEvent,
		"pool":      relay.ListenPool,
	}
	if len(os.Args) != 4 || listeners[os.Args[1]] == nil {
		log.Fatalf("usage: %s multiplex|event|pool INVITE PORT", os.Args[0])
	}
	listener, err := listeners[os.Args[1]](os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("reachable at", listener.Addr())
	for {
		user, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(user.(side), net.JoinHostPort("localhost", os.Args[3]))
	}
}

// side of a pipe.
type side interface {
	net.Conn
	CloseWrite() error
	Abort()
}

// service is the other side.
type service struct{ *net.TCPConn }

func (s service) Abort() {
	s.SetLinger(0)
	s.Close()
}

// serve pipes one user to the service. Should anything fail, both see an abort.
func serve(user side, at string) {
	connection, err := net.Dial("tcp", at)
	if err != nil {
		log.Printf("a user was lost: %v", err)
		user.Abort()
		return
	}
	service := service{connection.(*net.TCPConn)}
	up := make(chan error)
	go func() { up <- copy(service, user) }()
	down := copy(user, service)
	if err := <-up; err != nil || down != nil {
		log.Printf("a user was lost: %v %v", err, down)
		return
	}
	user.Close()
	service.Close()
}

// copy carries one direction, with its end.
func copy(to, from side) error {
	if _, err := io.Copy(to, from); err != nil {
		to.Abort()
		from.Abort()
		return err
	}
	return to.CloseWrite()
}
