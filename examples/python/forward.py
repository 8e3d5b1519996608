#!/usr/bin/env python3
"""A local service made reachable by a relay, over TLS and with an identity.

    python3 forward.py INVITE PORT        (or - for INVITE, to read it from standard input)

INVITE is what `relay invite` prints; users reach the service on localhost:PORT. For a relay that is open to everybody
HOST:PORT will do in its place. The relay's side of it is in relay_asyncio.py.
"""

import asyncio
import logging
import sys

from relay_asyncio import abort, start_relayed_server


async def copy(reader, writer):
    """One direction, with its end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def main(where, port):
    async def serve(reader, writer):
        """One user. Should anything fail, both ends see an abort: the user by the exception."""
        from_service, to_service = await asyncio.open_connection("localhost", port)
        try:
            await asyncio.gather(copy(reader, to_service), copy(from_service, writer))
            writer.close()
            to_service.close()
        except BaseException:
            abort(to_service)
            raise

    server = await start_relayed_server(serve, where)
    print(f"reachable at {server.address}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} INVITE PORT")
    given, local = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        asyncio.run(main(sys.stdin.readline() if given == "-" else given, int(local)))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
