// Hello of ../hello, made reachable by a relay: go run ./relayed_hello INVITE.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"relay.test/examples/relay"
)

func hello(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<20))
		if err == nil {
			w.Write(body)
		}
		return
	}
	fmt.Fprintf(w, "hello, %s\n", r.RemoteAddr)
}

func main() {
	listener, err := relay.ListenMultiplex(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("reachable at", listener.Addr())
	log.Fatal(http.Serve(listener, http.HandlerFunc(hello)))
}
