package relay

import (
	"context"
	"fmt"
	"time"
)

// How many members are kept idle: as many users may arrive within one round trip to the relay.
const members = 8

// ListenPool keeps idle connections to the relay, each of which becomes a user's. `where` is an invite, or HOST:PORT of
// an open relay.
func ListenPool(where string) (*Listener, error) {
	return listen(where, "pool", func(l *Listener, link *link) error {
		// A pool keeps its port for some time without members, unless it is told to end.
		l.farewell.Store(nil)
		if link.ends {
			words := fmt.Sprintf("pool\nend %s\n", link.pool)
			l.farewell.Store(&words)
		}
		if l.ctx.Err() != nil {
			l.sayFarewell()
		}
		gone := make(chan error)
		go func() { gone <- l.keepMember(link, newUser(link.Conn, link.reader)) }()
		for range members - 1 {
			go func() { gone <- l.keepMember(link, nil) }()
		}
		for range members - 1 {
			<-gone
		}
		return <-gone
	})
}

// keepMember keeps one member idle, until the pool seems to be gone.
func (l *Listener) keepMember(link *link, member *user) (err error) {
	for refused := 0; refused < 3; {
		if member == nil {
			member, err = l.join(link.pool)
		}
		if err == nil {
			err = l.taken(member)
		}
		switch {
		case l.ctx.Err() != nil:
			return l.ctx.Err()
		case err == nil:
			refused = 0
			go l.admit(member, link.proxy)
		default:
			refused++
			time.Sleep(time.Second)
		}
		member = nil
	}
	return err
}

func (l *Listener) join(pool string) (*user, error) {
	connection, err := l.relay.dial()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(connection, "pool\n%s\n", pool)
	return newUser(connection, newReader(connection)), nil
}

// taken waits for the member's first byte, however long that takes: it has been given to a user.
func (l *Listener) taken(member *user) error {
	stop := context.AfterFunc(l.ctx, func() { member.Close() })
	defer stop()
	_, err := member.reader.Peek(1)
	if err != nil {
		member.Close()
	}
	return err
}
