"""How long a connection may keep the server waiting, and how many there may be: uvicorn's protocol with limits.

Uvicorn waits for ever for a request that was begun and not ended, and for a client that does not read its answer; each
of them holds an open file. Here such a client has a time that grows with what it sends, so that a slow line passes, and
where connections run out, the one that has kept the server waiting longest makes room for the new one. So a health
check is answered whatever others hold.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 20.0
"""How long a request may take to come in, headers and body, apart from what its size explains."""
BYTES_PER_SECOND = 2_000
"""The slowest line that is waited for."""
UNREAD_SECONDS = 120.0
"""How long a client may take nothing of its answer; a browser whose video is paused asks again where it was."""
LOOK_SECONDS = 1.0
MOST_CONNECTIONS = 400
BACKLOG = 128
"""How many connections the system may hold ready, and so how many are accepted in one go."""


class LimitedProtocol(H11Protocol):
    """One connection."""

    look_seconds = LOOK_SECONDS
    request_seconds = REQUEST_SECONDS
    unread_seconds = UNREAD_SECONDS
    most_connections = MOST_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waited = 0.0
        self.made = self.loop.time()
        self._received = self._unsent = 0
        self._unread = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def owes(self) -> bool:
        """Whether it is the client's turn: a request is to come, or the rest of one, and nothing here holds it up."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.flow.read_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch the client, and make room for it."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            self._make_room()
        self._timer = self.loop.call_later(self.look_seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes; a request that is complete ends the waiting for it."""
        self._received += len(data)
        super().data_received(data)
        if self.conn.their_state is h11.DONE:
            self._received, self.waited = 0, 0.0

    def _make_room(self) -> None:
        others = (one for one in self.connections if isinstance(one, LimitedProtocol) and one is not self)
        slow = [other for other in others if other.owes]
        slowest = max(slow, key=lambda other: (other.waited, -other.made), default=self)
        self.connections.discard(slowest)
        slowest.transport.abort()

    def _look(self) -> None:
        self._timer = self.loop.call_later(self.look_seconds, self._look)
        if self.owes:
            self.waited += self.look_seconds
        unsent = self.transport.get_write_buffer_size()
        self._unread = self._unread + self.look_seconds if unsent and unsent == self._unsent else 0.0
        self._unsent = unsent
        late = self.waited > self.request_seconds + self._received / BYTES_PER_SECOND
        if late or self._unread > self.unread_seconds:
            self.transport.abort()
