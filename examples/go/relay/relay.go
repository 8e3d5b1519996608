package relay

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	patience = 10 * time.Second // For a connection, and for a whole exchange: the relay itself allows 5 s.
	oldRelay = 2 * time.Second  // Without an answer to a greeting: then a relay is an old one, which gives none.
)

// relay is where the relay is, how we know that it is the one, and who we are.
type relay struct {
	host, port string
	name       string // Empty for a relay that is open to everybody: in plain text.
	token, pin []byte
	tls        *tls.Config
	old        bool // It did not answer a greeting, and served us without.
	answered   bool // It has answered one.
}

var where = regexp.MustCompile(`^(?:relay://([a-z0-9][a-z0-9._-]{0,62}):([A-Za-z0-9_-]{43})@)?` +
	`(?:\[([0-9a-fA-F:.]+)\]|([^\s:/?@\[\]]+))(?::([0-9]{1,5}))?(?:\?pin=sha256-([0-9a-f]{64}))?$`)

// service tells the services of an identity apart: this program gets the public port again that it had before it was
// restarted.
var service = regexp.MustCompile(`[^A-Za-z0-9._-]`).ReplaceAllString(filepath.Base(os.Args[0]), "_")

// parse takes an invite, which means TLS, or HOST:PORT of an open relay.
func parse(text string) (*relay, error) {
	found := where.FindStringSubmatch(strings.Trim(strings.TrimSpace(text), `'"`))
	if found == nil || found[1] == "" && found[6] != "" {
		return nil, errors.New("neither an invite that I understand nor HOST:PORT")
	}
	r := &relay{name: found[1], host: found[3] + found[4], port: found[5]}
	if r.port == "" {
		r.port = "7000"
	}
	if r.name == "" {
		return r, nil
	}
	r.token, _ = base64.RawURLEncoding.DecodeString(found[2])
	r.pin, _ = hex.DecodeString(found[6])
	r.tls = &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"relay/1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(0),
		ServerName:         r.host,
	}
	if pin := found[6]; pin != "" {
		// The pin is checked instead of names and dates; TLS itself checks that the peer has the key.
		r.tls.ServerName = pin[:32] + "." + pin[32:] + ".pin.invalid"
		r.tls.InsecureSkipVerify = true
		r.tls.VerifyConnection = func(state tls.ConnectionState) error {
			if !hmac.Equal(binding(state), r.pin) {
				return errUntrusted
			}
			return nil
		}
	}
	return r, nil
}

// binding ties a proof to the connection, also to a resumed one.
func binding(state tls.ConnectionState) []byte {
	hash := sha256.Sum256(state.PeerCertificates[0].Raw)
	return hash[:]
}

// dial gives a connection, under TLS if we have an invite.
func (r *relay) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// A link that nobody speaks on is found dead within a minute.
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 20 * time.Second, Interval: 10 * time.Second, Count: 3,
	}}
	connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(r.host, r.port))
	if err != nil || r.tls == nil {
		return connection, err
	}
	secure := tls.Client(strict{connection.(*net.TCPConn)}, r.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		connection.Close()
		return nil, err
	}
	return secure, nil
}

// strict is the connection under TLS. Only close_notify ends one direction; crypto/tls would take a FIN for it, too,
// which anybody can make.
type strict struct{ *net.TCPConn }

func (s strict) Read(p []byte) (int, error) {
	n, err := s.TCPConn.Read(p)
	if err == io.EOF {
		err = errCut
	}
	return n, err
}

// link is the connection that a tunnel was opened with. Bytes behind the last line are read from it, too.
type link struct {
	net.Conn
	reader       *bufio.Reader
	public, pool string
	proxy        bool // Each user's connection begins with a line of PROXY protocol.
	ends         bool // The relay ends a pool when told to.
}

func (l *link) Read(p []byte) (int, error) { return l.reader.Read(p) }

func (l *link) say(format string, words ...any) { fmt.Fprintf(l, format+"\n", words...) } // A failure shows in the answer.

// A reader's buffer holds the longest line of a relay's, of 512 bytes: a longer one fails.
func newReader(connection net.Conn) *bufio.Reader { return bufio.NewReaderSize(connection, 512) }

// line is the relay's next one.
func (l *link) line() (string, error) {
	line, err := l.reader.ReadSlice('\n')
	if errors.Is(err, io.EOF) {
		return "", errClosed
	} else if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(line))
	if words, ok := strings.CutPrefix(text, "error "); ok {
		return "", refusal(words)
	}
	return text, nil
}

// greet gives a connection and what the relay can do: nothing if it is an old one, which does not answer, or closes. One
// that has answered before is none.
func (r *relay) greet() (*link, []string, error) {
	for old := r.old; ; old = true {
		connection, err := r.dial()
		if err != nil {
			return nil, nil, err
		}
		link := &link{Conn: connection, reader: newReader(connection)}
		if old {
			return link, nil, nil
		}
		if r.name == "" {
			link.SetDeadline(time.Now().Add(oldRelay))
		} else {
			link.SetDeadline(time.Now().Add(patience))
		}
		link.say("relay/1")
		answer, err := link.line()
		if features := strings.Fields(answer); len(features) > 0 && features[0] == "relay/1" {
			r.answered = true
			return link, features[1:], nil
		}
		link.Close()
		if err == nil {
			return nil, nil, errNoRelay
		} else if r.name != "" || r.answered || !errors.Is(err, errClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil, err
		}
	}
}

// open opens a tunnel, on the public port `wish` if that is possible.
func (r *relay) open(protocol, wish string) (*link, error) {
	link, features, err := r.greet()
	if err != nil {
		return nil, err
	}
	link.SetDeadline(time.Now().Add(patience))
	if err = r.request(link, features, protocol, wish); err != nil {
		link.Close()
		return nil, err
	}
	link.SetDeadline(time.Time{})
	r.old = !r.answered
	return link, nil
}

func (r *relay) request(link *link, features []string, protocol, wish string) (err error) {
	if r.name != "" {
		link.say("auth %s", r.name)
		nonce, err := link.line()
		if err != nil {
			return err
		}
		bytes, err := base64.RawURLEncoding.DecodeString(nonce)
		if err != nil {
			return errNoRelay
		}
		state := link.Conn.(*tls.Conn).ConnectionState()
		link.say("%s", base64.RawURLEncoding.EncodeToString(prove(r.token, r.name, bytes, binding(state))))
	}
	request := protocol
	if link.proxy = slices.Contains(features, "proxy"); link.proxy {
		request += " proxy=v1"
	}
	link.ends = slices.Contains(features, "end")
	if wish != "" && slices.Contains(features, "wish") {
		request += " wish=" + wish
	} else if r.name != "" && slices.Contains(features, "service") {
		request += fmt.Sprintf(" service=%.64s", service)
	}
	if protocol != "multiplex" {
		request += "\nnew"
	}
	link.say("%s", request)
	if r.name != "" {
		if ok, err := link.line(); err != nil {
			return err
		} else if ok != "ok" {
			return errNoRelay
		}
	}
	if link.public, err = link.line(); err != nil {
		return err
	}
	if _, err := strconv.ParseUint(link.public, 10, 16); err != nil {
		return errNoRelay
	}
	if protocol == "pool" {
		link.pool, err = link.line()
	}
	return err
}

// prove shows that we know the token, for this nonce and this connection, without telling it.
func prove(token []byte, name string, nonce, binding []byte) []byte {
	mac := func(key, message []byte) []byte {
		hash := hmac.New(sha256.New, key)
		hash.Write(message)
		return hash.Sum(nil)
	}
	var message []byte
	for _, field := range [][]byte{[]byte("relay/1 proof"), []byte(name), nonce, binding} {
		message = append(binary.BigEndian.AppendUint16(message, uint16(len(field))), field...)
	}
	clientKey := mac(token, []byte("relay/1 client key"))
	verifier := sha256.Sum256(clientKey)
	proof := mac(verifier[:], message)
	for i := range proof {
		proof[i] ^= clientKey[i]
	}
	return proof
}

// abort ends a connection with a RST. A stream of hashicorp/yamux cannot be reset: its user sees an end.
func abort(connection net.Conn) {
	if secure, ok := connection.(*tls.Conn); ok {
		connection = secure.NetConn()
	}
	if tcp, ok := connection.(interface{ SetLinger(int) error }); ok {
		tcp.SetLinger(0)
	}
	connection.Close()
}

// refusal is the relay's reason not to serve us: a code, and words.
type refusal string

func (r refusal) Error() string { return fmt.Sprintf("the relay refuses: %q", string(r)) }

var (
	errClosed    = errors.New("the relay has closed the connection")
	errCut       = errors.New("the connection was cut")
	errNoRelay   = errors.New("that is no relay")
	errUntrusted = errors.New("the relay's certificate is not the one that the invite names: ask for a new one")
)

// isFinal says that no retry can help. A code that we do not know passes.
func isFinal(err error) bool {
	var refused refusal
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &refused) {
		code, _, _ := strings.Cut(string(refused), " ")
		return slices.Contains([]string{"unsupported", "bad-request", "identity-required", "denied", "revoked", "expired",
			"tls-required", "port-not-allowed"}, code)
	}
	return errors.Is(err, errUntrusted) || errors.As(err, &untrusted)
}
