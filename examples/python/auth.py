#!/usr/bin/env python3
"""A local service made reachable by a relay's event protocol, over TLS and with an identity.

    python3 auth.py INVITE PORT        (or - for INVITE, to read it from standard input)

INVITE is what `relay invite` prints; users reach the service on localhost:PORT. docs/PROTOCOL.md has the exchange:
sections 7 (the lines), 8 (the proof) and 9 (TLS).
"""

import asyncio
import base64
import hashlib
import hmac
import re
import ssl
import sys

INVITE = re.compile(
    r"relay://(?P<name>[a-z0-9][a-z0-9._-]{0,62}):(?P<token>[A-Za-z0-9_-]{43})"
    r"@(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\s:/?@\[\]]+))(?::(?P<port>[0-9]{1,5}))?"
    r"(?:\?pin=sha256-(?P<pin>[0-9a-f]{64}))?"
)


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


class Relay:
    """Where the relay is, and how we know that it is the one."""

    def __init__(self, invite):
        found = INVITE.fullmatch(invite.strip().strip("'\"")) or sys.exit("that is no invite that I understand")
        self.name, self.token, self.pin = found["name"], decode(found["token"]), found["pin"]
        self.host, self.port = found["v6"] or found["host"], int(found["port"] or 7000)
        self.context = ssl.create_default_context()
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.set_alpn_protocols(["relay/1"])
        self.asked = self.host
        if self.pin:
            # The pin is checked below, instead of names and dates; TLS itself checks that the peer has the key.
            self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
            self.asked = f"{self.pin[:32]}.{self.pin[32:]}.pin.invalid"

    async def connect(self):
        link = Tls(*await asyncio.open_connection(self.host, self.port), self.context, self.asked)
        try:
            await link.handshake()
            # Not a word before this.
            if self.pin and link.binding().hex() != self.pin:
                sys.exit("the relay's certificate is not the one that the invite names: ask the operator for a new one")
            return link
        except BaseException:
            link.abort()
            raise


class Tls:
    """One connection under TLS. Unlike asyncio's own it can end one direction and go on with the other, and tells
    an end that the peer meant (close_notify) from one that somebody made (FIN without it)."""

    def __init__(self, reader, writer, context, asked):
        self.reader, self.writer = reader, writer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=asked)
        self.early = b""

    async def flush(self):
        self.writer.write(self.outgoing.read())
        await self.writer.drain()

    async def handshake(self):
        while True:
            try:
                self.tls.do_handshake()
                return await self.flush()
            except ssl.SSLWantReadError:
                await self.more()
            except ssl.SSLError:
                await self.flush()  # The alert that says why.
                raise

    async def more(self):
        await self.flush()
        data = await self.reader.read(65536)
        if not data:
            raise ConnectionResetError("the connection was cut")
        self.incoming.write(data)

    def binding(self):
        """What ties a proof to this connection."""
        return hashlib.sha256(self.tls.getpeercert(binary_form=True)).digest()

    async def read(self):
        while not self.early:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                await self.more()
            except ssl.SSLZeroReturnError:
                return b""
        early, self.early = self.early, b""
        return early

    async def line(self):
        """The next line; nothing at the end. What follows it is kept."""
        line = b""
        while b"\n" not in line:
            data = await self.read()
            if not data or len(line) > 512:
                return ""
            line += data
        line, _, self.early = line.partition(b"\n")
        return line.decode().strip()

    async def write(self, data):
        self.tls.write(data)
        await self.flush()

    async def end(self):
        """Says that we send no more; reading goes on. What came already is kept, for unwrap would lose it."""
        try:
            while data := self.tls.read(65536):
                self.early += data
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # That the peer says the same can wait.
        await self.flush()

    def abort(self):
        self.writer.transport.abort()


async def answer(link):
    line = await link.line() or sys.exit("the relay has closed the connection")
    if line.startswith("error "):
        sys.exit(f"the relay refuses: {ascii(line[6:])}")
    return line


async def open_tunnel(relay):
    """Gives the link of a new tunnel, and its public port."""
    link = await relay.connect()
    await link.write(f"relay/1\nauth {relay.name}\n".encode())
    if "auth" not in (await answer(link)).split()[1:]:
        sys.exit("the relay knows no identities")
    proof = prove(relay.token, relay.name, decode(await answer(link)), link.binding())
    await link.write(f"{encode(proof)}\nevent\nnew\n".encode())
    if await answer(link) != "ok":
        sys.exit("that is no relay")
    return link, await answer(link)


async def take(relay, ticket, port):
    """Serves one user. Over TLS the ticket is all that the relay wants to see."""
    link = service = None
    try:
        link = await relay.connect()
        await link.write(f"event\n{ticket}\n".encode())
        from_service, service = await asyncio.open_connection("localhost", port)

        async def up():
            while data := await from_service.read(65536):
                await link.write(data)
            await link.end()

        async def down():
            while data := await link.read():
                service.write(data)
                await service.drain()
            service.write_eof()

        async with asyncio.TaskGroup() as both:
            both.create_task(up())
            both.create_task(down())
        service.close()
        link.writer.close()
    except* OSError as errors:  # One user's trouble is not the others'. An abort is one for both ends.
        print(f"a user was lost: {errors.exceptions[0]}", file=sys.stderr)
        for writer in filter(None, (service, link and link.writer)):
            writer.transport.abort()


async def main(invite, port):
    relay = Relay(invite)
    link, public = await open_tunnel(relay)
    print(f"reachable at {relay.host}:{public}", flush=True)
    async with asyncio.TaskGroup() as users:
        try:
            while ticket := await link.line():
                users.create_task(take(relay, ticket, port))
        except OSError as error:  # It was cut, as by a revocation. Live users may finish.
            print(f"the tunnel was lost: {error}", file=sys.stderr)
    sys.exit("the relay has closed the tunnel")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} INVITE PORT")
    given, local = sys.argv[1:]
    try:
        asyncio.run(main(sys.stdin.readline() if given == "-" else given, int(local)))
    except OSError as error:
        sys.exit(f"the relay cannot be reached: {error}")
    except KeyboardInterrupt:
        pass
