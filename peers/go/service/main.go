// Service is what stands behind a relay, as a program of 2017 would do it: it dials the control port, asks
// for a multiplexed tunnel, and takes each user as a stream of a yamux session.
//
//	service [-role client|server] [-greet TEXT] [-forward HOST:PORT | -echo] HOST PORT
//
// A stream's first byte says what its user wants:
//
//	e   echo: everything after it comes back
//	h   hash: everything up to end-of-file, then the SHA-256 of it in hex, then the end
//	n   as h, but of exactly as many bytes as the next 8 say (big-endian): the service ends first
//
// With -forward every stream is piped to that address instead; with -echo all that comes is sent back. It
// prints `established relay address: HOST:PORT` once the tunnel stands, and ends when the session does.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"strings"

	"github.com/hashicorp/yamux"
)

func main() {
	// The forwarder of 2017 is a yamux client although the relay is one too. It works because the forwarder
	// never opens a stream and nobody checks whose ids are odd.
	role := flag.String("role", "client", "the `side` of yamux to be: client or server")
	greet := flag.String("greet", "", "`text` to send to each user before anything is read")
	forward := flag.String("forward", "", "`address` to pipe each stream to")
	echo := flag.Bool("echo", false, "send back what comes, without a verb")
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("usage: service [flags] HOST PORT")
	}

	session, port, err := establish(flag.Arg(0), flag.Arg(1), *role)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("established relay address: %s\n", net.JoinHostPort(flag.Arg(0), port))
	for {
		stream, err := session.Accept()
		if err != nil {
			log.Fatalf("the session has ended: %v", err)
		}
		go func() {
			defer stream.Close()
			io.WriteString(stream, *greet)
			var err error
			switch {
			case *echo:
				_, err = io.Copy(stream, stream)
			case *forward != "":
				err = pipe(stream, *forward)
			default:
				err = serve(stream)
			}
			if err != nil {
				log.Printf("a stream failed: %v", err)
			}
		}()
	}
}

// establish asks the relay for a tunnel and returns its session and public port.
func establish(host, port, role string) (*yamux.Session, string, error) {
	conn, err := net.Dial("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, "", err
	}
	if _, err := io.WriteString(conn, "multiplex\n"); err != nil {
		return nil, "", err
	}
	// Frames may arrive in the same segment as the line: what the reader holds belongs to the session.
	reader := bufio.NewReader(conn)
	line, err := reader.ReadString('\n')
	if err != nil {
		return nil, "", err
	}
	side := yamux.Client
	if role == "server" {
		side = yamux.Server
	}
	session, err := side(struct {
		io.Reader
		io.WriteCloser
	}{reader, conn}, nil)
	return session, strings.TrimSpace(line), err
}

func serve(stream io.ReadWriter) error {
	verb := make([]byte, 1)
	if _, err := io.ReadFull(stream, verb); err != nil {
		return err
	}
	var body io.Reader = stream
	switch verb[0] {
	case 'e':
		_, err := io.Copy(stream, stream)
		return err
	case 'n':
		var length uint64
		if err := binary.Read(stream, binary.BigEndian, &length); err != nil {
			return err
		}
		body = io.LimitReader(stream, int64(length))
	case 'h':
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, body); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stream, "%x", hash.Sum(nil))
	return err
}

// pipe carries the user's end-of-file on to the service; when the service ends, so does the stream.
func pipe(stream net.Conn, address string) error {
	service, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer service.Close()
	go func() {
		io.Copy(service, stream)
		service.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, service)
	return err
}
