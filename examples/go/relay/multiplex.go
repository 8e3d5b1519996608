package relay

import (
	"context"

	"github.com/hashicorp/yamux"
)

// ListenMultiplex gets all users as streams of one connection. `where` is an invite, or HOST:PORT of an open relay.
func ListenMultiplex(where string) (*Listener, error) {
	return listen(where, "multiplex", func(l *Listener, link *link) error {
		// The relay opens the streams: in yamux' words it is the client.
		session, err := yamux.Server(link, nil)
		if err != nil {
			return err
		}
		defer session.Close()
		// The relay closes the public port at this, and the link after the last user.
		stop := context.AfterFunc(l.ctx, func() { session.GoAway() })
		defer stop()
		for {
			stream, err := session.AcceptStream()
			if err != nil {
				return err
			}
			go l.admit(newUser(stream, newReader(stream)), link.proxy)
		}
	})
}
