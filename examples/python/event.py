#!/usr/bin/env python3
"""An echo service that nobody can reach, made reachable by a relay's event protocol.

    python3 event.py HOST PORT

The control connection says `event`, `new`, and is answered with our public port. From then on it brings one
line for each user: a ticket. To take the user, dial the relay again and hand in the ticket; what follows on
that connection is the user's bytes. A ticket that is not used within seconds expires with its user.
"""

import asyncio
import sys


async def echo(reader, writer):
    """The service. Put yours here: a user's end-of-file arrives as such, and so does ours."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def take(host, port, ticket):
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"event\n{ticket}\n".encode())
            await echo(reader, writer)
        finally:
            writer.close()
    except OSError as error:  # One user's trouble is not the others'.
        print(f"a user was lost: {error}", file=sys.stderr)


async def main(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"event\nnew\n")
    public = (await reader.readline()).decode().strip() or sys.exit("the relay gave us no port")
    print(f"reachable at {host}:{public}", flush=True)

    # Tickets may come many in one segment, and the first may come with the port: the reader keeps what is
    # behind a line for the next. The group lets users finish when the control connection has ended.
    async with asyncio.TaskGroup() as users:
        async for line in reader:
            users.create_task(take(host, port, line.decode().strip()))
    sys.exit("the relay has closed the tunnel")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} HOST PORT")
    try:
        asyncio.run(main(*sys.argv[1:]))
    except OSError as error:
        sys.exit(f"the relay cannot be reached: {error}")
    except KeyboardInterrupt:
        pass
