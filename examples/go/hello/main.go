// Hello greets users, and sends back what they post. ../relayed_hello is the same, behind a relay.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
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
	log.Fatal(http.ListenAndServe("localhost:8000", http.HandlerFunc(hello)))
}
