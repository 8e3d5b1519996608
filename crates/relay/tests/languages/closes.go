// Takes one user, closes, and echoes then: closes multiplex|event|pool RELAY. Or greets the user, whose end it leaves
// unread: closes MODE RELAY greet.
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"relay.test/examples/relay"
)

func main() {
	listen := map[string]func(string) (*relay.Listener, error){
		"multiplex": relay.ListenMultiplex,
		"event":     relay.ListenEvent,
		"pool":      relay.ListenPool,
	}[os.Args[1]]
	listener, err := listen(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("reachable at", listener.Addr())
	user, err := listener.Accept()
	if err != nil {
		log.Fatal(err)
	}
	listener.Close()
	if len(os.Args) > 3 {
		time.Sleep(500 * time.Millisecond)
		io.WriteString(user, "welcome")
	} else {
		io.Copy(user, user)
	}
	user.Close()
	time.Sleep(time.Minute)
}
