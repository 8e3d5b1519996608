#!/usr/bin/env python3
"""An echo service that nobody can reach, made reachable by a relay's pool protocol.

    python3 pool.py HOST PORT

A pool is a stock of idle connections to the relay. The first one says `pool`, `new`, and is answered with our
public port and the pool's id; the others say `pool` and that id, and are answered with nothing. Each carries
one user, whose first bytes are how we learn that it has been taken; then it is time to stock another.
"""

import asyncio
import sys

MEMBERS = 8  # Idle connections to keep: how many users may arrive within one round trip to the relay.


async def echo(first, reader, writer):
    """The service. Put yours here: the user's `first` bytes have been read already."""
    try:
        while first:
            writer.write(first)
            await writer.drain()
            first = await reader.read(65536)
    except OSError as error:  # One user's trouble is not the others'.
        print(f"a user was lost: {error}", file=sys.stderr)
    finally:
        writer.close()


async def join(host, port, pool):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"pool\n{pool}\n".encode())
    return reader, writer


async def keep_member(users, host, port, pool, member=None):
    """Keeps one idle member in the pool, until the pool seems to be gone."""
    refused = 0
    while refused < 3:
        try:
            reader, writer = member or await join(host, port, pool)
            member = None
            # Nothing arrives before the user's first bytes, however long that takes.
            first = await reader.read(65536)
            if not first:
                writer.close()
        except OSError:
            first = b""
        if first:
            users.create_task(echo(first, reader, writer))
            refused = 0
        else:
            refused += 1
            await asyncio.sleep(1)


async def main(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"pool\nnew\n")
    # The first user's bytes may come with these lines: the reader keeps what is behind a line.
    public = (await reader.readline()).decode().strip()
    pool = (await reader.readline()).decode().strip() or sys.exit("the relay gave us no pool")
    print(f"reachable at {host}:{public}", flush=True)

    async with asyncio.TaskGroup() as users:
        users.create_task(keep_member(users, host, port, pool, (reader, writer)))
        for _ in range(1, MEMBERS):
            users.create_task(keep_member(users, host, port, pool))
    sys.exit("the relay has closed the pool")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} HOST PORT")
    try:
        asyncio.run(main(*sys.argv[1:]))
    except OSError as error:
        sys.exit(f"the relay cannot be reached: {error}")
    except KeyboardInterrupt:
        pass
