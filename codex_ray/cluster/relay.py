"""Carrying a port out of a network namespace: ``python relay.py FILE HOST PORT``.

A socket stays in the namespace it was made in. This process lives in the node's namespace and accepts on a
listening socket that was made in the machine's, handed down as an open file; it connects where it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

_CHUNK_BYTES = 2**16


async def serve(listening: socket.socket, host: str, port: int) -> None:
    """Pass every connection on ``listening`` to ``host:port``, both ways, for ever."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass(reader, far_writer), _pass(far_reader, writer))
        for each in (writer, far_writer):
            each.close()

    server = await asyncio.start_server(accepted, sock=listening)
    await server.serve_forever()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until one side stops sending, and say so to the other."""
    with contextlib.suppress(OSError):  # a side that left ends both ways soon
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3])))
