package relay

import (
	"context"
	"io"

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
			accepted, err := session.AcceptStream()
			if err != nil {
				return err
			}
			stream := stream{accepted}
			go l.admit(newUser(stream, newReader(stream)), link.proxy)
		}
	})
}

// stream knows a link that was lost from a user who has ended, which yamux does not.
type stream struct{ *yamux.Stream }

func (s stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err == io.EOF && s.Session().IsClosed() {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
