"""Ports for servers that are started again, or by another process, at the same one."""

import secrets
import socket
from contextlib import suppress


def own_port() -> int:
    """A free port of those that the system gives to nobody by itself, while a server of ours is away as well."""
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", secrets.choice(range(20_000, 30_000)))) as listener:
            return listener.getsockname()[1]
