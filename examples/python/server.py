#!/usr/bin/env python3
"""An echo server, as asyncio's documentation has it. relayed_server.py is the same, behind a relay."""

import asyncio


async def handle(reader, writer):
    print("a user from", writer.get_extra_info("peername"), flush=True)
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_server(handle, "localhost", 8000)
    async with server:
        await server.serve_forever()


asyncio.run(main())
