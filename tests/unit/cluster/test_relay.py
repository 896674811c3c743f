from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from codex_ray.cluster import relay

PIECE = bytes(range(256)) * 4096


@pytest.fixture
def relayed() -> Iterator[tuple[int, socket.socket]]:
    """The port of a relay, and the server behind it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        words = [sys.executable, "-P", str(Path(relay.__file__)), str(listening.fileno()), "127.0.0.1"]
        words.append(str(server.getsockname()[1]))
        process = subprocess.Popen(words, pass_fds=[listening.fileno()])
        port = listening.getsockname()[1]
        try:
            yield port, server
        finally:
            process.kill()
            process.wait()


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_every_byte_passes_both_ways_and_ends_are_passed_on(relayed):
    port, server = relayed

    def echo() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(read_all(connection))  # answers once the client has stopped sending

    thread = threading.Thread(target=echo)
    thread.start()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(PIECE)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == PIECE
    thread.join()


def test_nobody_behind_the_relay_closes_the_connection(relayed):
    port, server = relayed
    server.close()
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as client,
        contextlib.suppress(ConnectionResetError),
    ):
        assert client.recv(1) == b""
