"""Clients that keep the server waiting: a real server and sockets, with the times and numbers made small."""

import asyncio
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse

from diffusers_helper.gradio.door import connections
from diffusers_helper.gradio.door.connections import LimitedProtocol
from tests.fakes import wait_for

pytestmark = pytest.mark.slow

HEAD = b"POST /read HTTP/1.1\r\nHost: localhost\r\n"
disconnected = threading.Event()


async def app(scope, receive, send):
    """Reads a body, or sends without end."""
    if scope["type"] == "lifespan":
        return
    answer = PlainTextResponse("done")
    if scope["path"] == "/read":
        try:
            await Request(scope, receive).body()
        except ClientDisconnect:
            disconnected.set()
            return
    elif scope["path"] == "/endless":

        async def endless():
            while True:
                yield bytes(1_000_000)
                await asyncio.sleep(0)

        answer = StreamingResponse(endless())
    await answer(scope, receive, send)


class Quick(LimitedProtocol):
    """Seconds become hundredths."""

    look_seconds, request_seconds, unread_seconds = 0.02, 0.2, 0.2


class Few(LimitedProtocol):
    """Connections run out soon."""

    most_connections = 10


@contextmanager
def serving(protocol=LimitedProtocol):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_for(lambda: server.started, 60)
        try:
            yield server, listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y",
        HEAD + b"Content-Length: 1000\r\n\r\n" + bytes(10),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_a_request_that_is_begun_and_not_ended_is_closed(sent):
    disconnected.clear()
    with serving(Quick) as (server, address), socket.create_connection(address, timeout=60) as line:
        line.sendall(sent)
        with suppress(ConnectionResetError):
            assert line.recv(1000) == b""
        assert not sent.startswith(HEAD) or disconnected.wait(60), "the application is told"
        wait_for(lambda: not server.server_state.connections, 60)


def test_a_body_after_its_answer_has_to_end_too():
    with serving(Quick) as (server, address), socket.create_connection(address, timeout=60) as line:
        line.sendall(b"POST /other HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        assert b"200 OK" in line.recv(1000)
        line.sendall(b"x")  # which ends uvicorn's own timer
        wait_for(lambda: not server.server_state.connections, 60)


def test_who_does_not_read_the_answer_is_closed():
    with serving(Quick) as (server, address), socket.create_connection(address, timeout=60) as line:
        line.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: server.server_state.connections, 60)
        wait_for(lambda: not server.server_state.connections, 60)


def test_a_slow_line_has_the_time_that_its_bytes_take():
    with serving() as (server, address), socket.create_connection(address, timeout=60) as line:
        line.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(20_000))
        wait_for(lambda: any(one._received > 20_000 for one in server.server_state.connections), 60)
        [connection] = server.server_state.connections
        late_but_for_its_bytes = connections.REQUEST_SECONDS + 3
        connection.waited = late_but_for_its_bytes
        wait_for(lambda: connection.waited > late_but_for_its_bytes, 60)  # it was looked at
        line.sendall(bytes(80_000))
        assert line.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_asks_again_and_again_is_never_late():
    with serving() as (server, address), httpx.Client(base_url=f"http://127.0.0.1:{address[1]}", timeout=60) as client:
        client.get("/other")
        [connection] = server.server_state.connections
        for _ in range(20):
            connection.waited = connections.REQUEST_SECONDS / 2
            client.get("/other")
            assert connection.waited < connections.REQUEST_SECONDS / 2
    assert server.server_state.total_requests == 21


def test_where_connections_run_out_the_one_that_was_slowest_makes_room():
    with serving(Few) as (server, address), ExitStack() as held:
        lines = [held.enter_context(socket.create_connection(address, timeout=60)) for _ in range(10)]
        for line in lines:
            line.sendall(b"GET / HT")
        wait_for(lambda: len(server.server_state.connections) == 10, 60)
        slowest = next(one for one in server.server_state.connections if one.client == lines[3].getsockname())
        slowest.waited = 15.0
        assert httpx.get(f"http://127.0.0.1:{address[1]}/other", timeout=60).text == "done"
        assert lines[3].recv(1000) == b""
        for _ in range(50):
            held.enter_context(socket.create_connection(address, timeout=60))
        assert httpx.get(f"http://127.0.0.1:{address[1]}/other", timeout=60).text == "done"
        assert len(server.server_state.connections) <= 11


def test_the_times_and_numbers():
    assert (connections.REQUEST_SECONDS, connections.UNREAD_SECONDS, connections.BYTES_PER_SECOND) == (20, 120, 2000)
    assert connections.MOST_CONNECTIONS + connections.BACKLOG < 1024 - 256, "what a process may open, less its files"
