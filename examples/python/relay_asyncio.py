"""asyncio.start_server() for a service that nobody can reach: its users come through a relay.

    server = await start_relayed_server(handle, where)
    print(f"reachable at {server.address}")
    async with server:
        await server.serve_forever()

`where` is what `relay invite` prints (TLS, with an identity), or HOST:PORT of a relay that is open to everybody (plain
text). `handle(reader, writer)` is what asyncio.start_server() takes. Copy this file beside your program: it needs nothing
but Python 3.11. It speaks the relay's event protocol; docs/PROTOCOL.md specifies it in sections 1, 4 and 7 (the lines),
8 (the proof) and 9 (TLS).
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import os
import random
import re
import socket
import ssl
import struct
import sys

logger = logging.getLogger(__name__)

WHERE = re.compile(
    r"(?:relay://(?P<name>[a-z0-9][a-z0-9._-]{0,62}):(?P<token>[A-Za-z0-9_-]{43})@)?"
    r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\s:/?@\[\]]+))(?::(?P<port>[0-9]{1,5}))?"
    r"(?(name)(?:\?pin=sha256-(?P<pin>[0-9a-f]{64}))?)"
)

EXCHANGE = 10  # Seconds for a connection, and for a whole exchange: the relay itself allows 5.
OLD_RELAY = 2  # Seconds without an answer to a greeting, after which a relay is an old one, which gives none.
SLOWEST = 30  # Seconds between two tries to open the tunnel again, at most.

# Tells the services of an identity apart: this program gets the public port again that it had before it was restarted.
SERVICE = re.sub("[^A-Za-z0-9._-]", "_", os.path.basename(sys.argv[0]))[:64] or "python"

# Errors that no retry can help; all others pass.
FINAL = set("unsupported bad-request identity-required denied revoked expired tls-required port-not-allowed".split())


class Refused(ConnectionError):
    """The relay has said why it does not serve us."""

    def __init__(self, words):
        super().__init__(f"the relay refuses: {ascii(words)}")
        self.code = words.partition(" ")[0]


class Untrusted(ConnectionError):
    """Not the relay that the invite names."""


def is_final(error):
    """No retry can help."""
    untrusted = isinstance(error, (Untrusted, ssl.SSLCertVerificationError))
    return untrusted or isinstance(error, Refused) and error.code in FINAL


def decode(text):
    return base64.urlsafe_b64decode(text + "=")


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def prove(token, name, nonce, binding):
    """The proof that we know the token, for this nonce and this connection, without telling it."""

    def mac(key, message):
        return hmac.digest(key, message, "sha256")

    fields = (b"relay/1 proof", name.encode(), nonce, binding)
    message = b"".join(len(field).to_bytes(2, "big") + field for field in fields)
    client_key = mac(token, b"relay/1 client key")
    verifier = hashlib.sha256(client_key).digest()
    return bytes(a ^ b for a, b in zip(client_key, mac(verifier, message)))


@contextlib.asynccontextmanager
async def patience(seconds=EXCHANGE):
    """Fails when what is in it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise TimeoutError("the relay does not answer") from error


async def read_line(reader):
    """The next line; nothing at the end. The reader keeps what follows, and reads no endless line."""
    try:
        line = (await reader.readline()).decode()
    except ValueError as error:
        raise ConnectionError("that is no relay") from error
    if line.startswith("error "):
        raise Refused(line[6:].strip())
    return line.strip() if line.endswith("\n") else ""


async def answer(reader):
    line = await read_line(reader)
    if not line:
        raise ConnectionError("the relay has closed the connection")
    return line


class Tls(asyncio.Protocol, asyncio.Transport):
    """TLS between a connection, whose protocol it is, and a reader and writer, whose transport it is. Unlike asyncio's own
    it can end one direction and go on with the other, and tells an end that was meant (close_notify) from one that somebody
    made (FIN without it)."""

    def __init__(self, context, asked, inner):
        super().__init__()
        self.inner, self.error, self.sent_end, self.got_end = inner, None, False, False
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=asked)
        self.ready = asyncio.get_running_loop().create_future()

    # What the connection tells its protocol.

    def connection_made(self, tcp):
        self.tcp = tcp
        self.advance()

    def data_received(self, data):
        self.incoming.write(data)
        self.advance()

    def eof_received(self):
        if not self.got_end:
            self.fail(ConnectionResetError("the connection was cut"))
        return True  # We may go on.

    def connection_lost(self, error):
        error = self.error or error
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionResetError("the relay has closed the connection"))
        self.inner.connection_lost(error)

    def pause_writing(self):
        self.inner.pause_writing()

    def resume_writing(self):
        self.inner.resume_writing()

    # What a writer, and a reader that is full, ask of their transport.

    def write(self, data):
        rest = memoryview(data)
        while rest and not self.tcp.is_closing():
            rest = rest[self.tls.write(rest) :]
        self.flush()

    def can_write_eof(self):
        return True

    def write_eof(self):
        if self.sent_end or self.tcp.is_closing():
            return
        self.advance()  # What came already would be lost otherwise.
        self.sent_end = True
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # That the peer says the same can wait.
        self.flush()
        self.tcp.write_eof()

    def close(self):
        self.write_eof()
        self.tcp.close()

    def abort(self):
        self.tcp.abort()

    def is_closing(self):
        return self.tcp.is_closing()

    def pause_reading(self):
        self.tcp.pause_reading()

    def resume_reading(self):
        self.tcp.resume_reading()

    def get_extra_info(self, name, default=None):
        return self.tcp.get_extra_info(name, default)

    # Between them.

    def advance(self):
        """Does what can be done with what came."""
        try:
            if not self.ready.done():
                self.tls.do_handshake()
                self.inner.connection_made(self)
                self.ready.set_result(None)
            while not self.got_end:
                data = self.tls.read(65536)
                self.got_end = not data
                self.inner.data_received(data) if data else self.inner.eof_received()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.got_end = True
            self.inner.eof_received()
        except ssl.SSLError as error:
            self.fail(error)
        self.flush()

    def flush(self):
        if (data := self.outgoing.read()) and not self.tcp.is_closing():
            self.tcp.write(data)

    def fail(self, error):
        self.error = error
        self.flush()  # The alert that says why.
        self.tcp.abort()

    def binding(self):
        """What ties a proof to this connection."""
        return hashlib.sha256(self.tls.getpeercert(binary_form=True)).digest()


class Writer(asyncio.StreamWriter):
    """A user's: its "peername" is the user's address and its "sockname" that of the public port, as in a server that
    needs no relay; None where the relay does not tell. They are never those of the connection to the relay."""

    peername = sockname = None

    def get_extra_info(self, name, default=None):
        if name in ("peername", "sockname"):
            return getattr(self, name) or default
        return super().get_extra_info(name, default)


def abort(writer):
    """Ends a connection with a RST, which nobody takes for the end of what was to be said."""
    if not writer.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Relay:
    """Where the relay is, how we know that it is the one, and who we are."""

    def __init__(self, where):
        found = WHERE.fullmatch(where.strip().strip("'\""))
        if not found:
            raise ValueError("neither an invite that I understand nor HOST:PORT")
        self.name, self.token, self.pin = found["name"], decode(found["token"] or ""), found["pin"]
        self.host, self.port = found["v6"] or found["host"], int(found["port"] or 7000)
        self.old, self.knows_users, self.public = None, False, None  # Old or not: None until we know.
        self.context, self.asked = None, self.host
        if self.name:
            self.context = ssl.create_default_context()
            self.context.minimum_version = ssl.TLSVersion.TLSv1_3
            self.context.set_alpn_protocols(["relay/1"])
        if self.pin:
            # The pin is checked below, instead of names and dates; TLS itself checks that the peer has the key.
            self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
            self.asked = f"{self.pin[:32]}.{self.pin[32:]}.pin.invalid"

    async def dial(self):
        """A reader and a writer of one connection."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        streams = asyncio.StreamReaderProtocol(reader)
        outer = Tls(self.context, self.asked, streams) if self.context else streams
        async with patience():
            transport, _ = await loop.create_connection(lambda: outer, self.host, self.port)
            try:
                keep_alive(transport.get_extra_info("socket"))
                if self.context:
                    await outer.ready
                    # Not a word before this.
                    if self.pin and outer.binding().hex() != self.pin:
                        raise Untrusted("the relay's certificate is not the one that the invite names: ask for a new one")
                return reader, Writer(outer if self.context else transport, streams, reader, loop)
            except BaseException:
                transport.abort()
                raise

    async def greet(self):
        """A connection, and what the relay can do: nothing if it is an old one, which does not answer, or closes. One that
        has answered before is none."""
        if not self.old:
            reader, writer = await self.dial()
            writer.write(b"relay/1\n")
            try:
                async with patience(EXCHANGE if self.name else OLD_RELAY):
                    greeting = await read_line(reader)
            except TimeoutError:
                greeting = ""
            except BaseException:
                abort(writer)
                raise
            match greeting.split():
                case ["relay/1", *features]:
                    self.old = False
                    return reader, writer, features
            writer.close()
            if greeting or self.name or self.old is False:
                raise ConnectionError("that is no relay, or it does not answer")
        return *await self.dial(), []

    async def open_tunnel(self):
        """A new tunnel's control connection. The public port is that of the last one, where possible."""
        reader, writer, features = await self.greet()
        try:
            async with patience():
                if self.name:
                    writer.write(f"auth {self.name}\n".encode())
                    nonce = decode(await answer(reader))
                    proof = prove(self.token, self.name, nonce, writer.transport.binding())
                    writer.write(f"{encode(proof)}\n".encode())
                self.knows_users = "proxy" in features
                request = "event" + " proxy=v1" * self.knows_users
                if self.public and "wish" in features:
                    request += f" wish={self.public}"
                elif self.name and "service" in features:
                    request += f" service={SERVICE}"
                writer.write(f"{request}\nnew\n".encode())
                if self.name and await answer(reader) != "ok":
                    raise ConnectionError("that is no relay")
                self.public = int(await answer(reader))
            self.old = self.old is not False
            return reader, writer
        except ValueError as error:  # No number, or no nonce.
            abort(writer)
            raise ConnectionError("that is no relay") from error
        except BaseException:
            abort(writer)
            raise

    async def claim(self, ticket):
        """The connection of a user. The ticket is all that the relay wants to see."""
        reader, writer = await self.dial()
        try:
            writer.write(f"event\n{ticket}\n".encode())
            if self.knows_users:
                async with patience():
                    match (await read_line(reader)).split():
                        case ["PROXY", "TCP4" | "TCP6", user, public, user_port, public_port]:
                            writer.peername, writer.sockname = (user, int(user_port)), (public, int(public_port))
                        case ["PROXY", "UNKNOWN", *_]:
                            pass
                        case _:
                            raise ConnectionError("the user has gone")
            return reader, writer
        except BaseException:
            abort(writer)
            raise


def keep_alive(connection):
    """Notices within a minute that the relay, or the way to it, is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class RelayedServer:
    """What asyncio.start_server() gives, for users who come through a relay. A lost tunnel is opened again, on the same
    public port if it is still free; `address` is where users come now."""

    def __init__(self, handler, relay, link):
        self.handler, self.relay, self.users = handler, relay, set()
        self.task = asyncio.create_task(self.run(*link))

    @property
    def address(self):
        host = self.relay.host
        return f"[{host}]:{self.relay.public}" if ":" in host else f"{host}:{self.relay.public}"

    async def serve_forever(self):
        """Ends only with an error: one that no retry can help."""
        await self.task

    def close(self):
        """Takes no more users. Those who are here may finish."""
        self.task.cancel()

    async def wait_closed(self):
        await asyncio.wait({self.task, *self.users})

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.close()

    async def run(self, reader, writer):
        while True:
            try:
                # Tickets may come many in one segment, and the first may come with the port.
                while ticket := await read_line(reader):
                    user = asyncio.create_task(self.take(ticket))
                    self.users.add(user)
                    user.add_done_callback(self.users.discard)
                logger.warning("the relay has closed the tunnel")
            except OSError as error:
                logger.warning("the tunnel was lost: %s", error)
                if is_final(error):
                    raise
            finally:
                writer.close()
            reader, writer = await self.open_again()

    async def open_again(self):
        pause = 1
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, SLOWEST)
            try:
                link = await self.relay.open_tunnel()
                logger.warning("reachable again at %s", self.address)
                return link
            except OSError as error:
                if is_final(error):
                    raise
                logger.warning("the relay cannot be reached: %s", error)

    async def take(self, ticket):
        """Serves one user, whose trouble is not the others'."""
        writer = None
        try:
            reader, writer = await self.relay.claim(ticket)
            await self.handler(reader, writer)
        except (Exception, asyncio.CancelledError) as error:
            logger.info("a user was lost: %s", error, exc_info=not isinstance(error, OSError))
            if writer:
                abort(writer)


async def start_relayed_server(handler, where):
    """Serves the users of a new public port. Raises OSError when the relay cannot be reached now, or refuses."""
    relay = Relay(where)
    return RelayedServer(handler, relay, await relay.open_tunnel())
