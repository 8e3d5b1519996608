package relay

import (
	"context"
	"fmt"
	"log"
)

// ListenEvent dials back for each user that the relay announces. `where` is an invite, or HOST:PORT of an open relay.
func ListenEvent(where string) (*Listener, error) {
	return listen(where, "event", func(l *Listener, link *link) error {
		defer link.Close()
		stop := context.AfterFunc(l.ctx, func() { link.Close() })
		defer stop()
		for {
			ticket, err := link.line()
			if err != nil {
				return err
			}
			go func() {
				connection, err := l.relay.dial()
				if err != nil {
					log.Printf("relay: a user was lost: %v", err)
					return
				}
				fmt.Fprintf(connection, "event\n%s\n", ticket)
				l.admit(newUser(connection, newReader(connection)), link.proxy)
			}()
		}
	})
}
