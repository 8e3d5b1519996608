#!/usr/bin/env python3
"""The echo server of server.py, made reachable by a relay: python3 relayed_server.py INVITE."""

import asyncio
import sys

from relay_asyncio import start_relayed_server


async def handle(reader, writer):
    print("a user from", writer.get_extra_info("peername"), flush=True)
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main():
    server = await start_relayed_server(handle, sys.argv[1])
    print(f"reachable at {server.address}", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
