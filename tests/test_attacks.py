"""The program in a process of its own under what a stranger can send it: it answers meanwhile, and does not grow.

Everything is bounded, and comes from this computer. What is measured goes to the report (`-rP`): the longest and the
usual time of `/healthz` while an attack runs, and how much memory the process has more at most.
"""

import os
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import httpx
import psutil
import pytest

from diffusers_helper.service.accounts import PasswordHash
from tests.fakes import LION, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[1]
PATIENT = {"timeout": 120}
PROGRAM = """
import sys
from diffusers_helper.core.variants import ORIGINAL
from diffusers_helper.app import launch

argv = ["--port", "0", "--models", "tiny", "--device", "cpu", "--no-preload", "--data", *sys.argv[1:]]
sys.exit(launch.main(ORIGINAL, argv))
"""
GROWTH = 500_000_000
HEALTH_SECONDS = 1.0
"""What is promised on a computer that has nothing else to do; a busy one is given more, by its load."""


class Server:
    """The program, and what is seen of it: its answers to /healthz, its memory, its log."""

    def __init__(self, folder, *more):
        self.folder = folder
        self.console = folder / "console.log"
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM, folder, "--outputs", folder / "outputs", *more]
        environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "uploads"), "TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir()
        with self.console.open("w") as console:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=console, stderr=console)

    def wait_until_ready(self):
        wait_for(lambda: "The page is at" in self.log() or self.process.poll() is not None, 240)
        assert self.process.poll() is None, self.log()
        self.url = self.log().partition("The page is at ")[2].split()[0]
        self.port = int(self.url.rpartition(":")[2])
        self.client = httpx.Client(base_url=self.url, **PATIENT)
        wait_for(lambda: self.client.get("/readyz").status_code == 200, 240)
        self.memory = psutil.Process(self.process.pid)

    def log(self):
        return self.console.read_text(errors="replace")

    def end(self):
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def files(self):
        """What lies in the folders of uploads and of the system, and is no upload."""
        found = [*(self.folder / "uploads").glob("*"), *(self.folder / "tmp").rglob("*")]
        return [path.name for path in found if path.is_file()]

    @contextmanager
    def watched(self, growth=GROWTH):
        """Meanwhile /healthz is answered in time, and the process grows by no more than this."""
        idle = max(self._health() for _ in range(10))
        before, most, seconds, stop = self.memory.memory_info().rss, 0, [], threading.Event()

        def inspect():
            nonlocal most
            while not seconds or not stop.wait(0.05):  # at least once, however quick it is
                seconds.append(self._health())
                most = max(most, self.memory.memory_info().rss)

        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(inspect)
            try:
                yield
            finally:
                stop.set()
                looking.result(120)
        assert seconds
        times = (
            f"/healthz {statistics.median(seconds):.3f} s, at most {max(seconds):.3f} s (idle: at most {idle:.3f} s)"
        )
        print(f"{times}; memory {(most - before) / 1e6:+.0f} MB at most")
        assert statistics.median(seconds) < HEALTH_SECONDS + idle
        assert max(seconds) < HEALTH_SECONDS * max(1, psutil.getloadavg()[0]) + idle
        assert most - before < growth
        assert "Traceback" not in self.log()

    def _health(self):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as line:
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: line.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200"), answer
        return time.monotonic() - began


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Both start at the same time: half of that is waiting."""
    users = tmp_path_factory.mktemp("accounts") / "users"
    users.write_text(f"ann:{PasswordHash.of('correct horse', ln=14)}\n")
    options = {"open": [], "with users": ["--auth", str(users)]}
    servers = {name: Server(tmp_path_factory.mktemp("server"), *more) for name, more in options.items()}
    for server in servers.values():
        server.wait_until_ready()
    yield servers
    for server in servers.values():
        server.end()


@pytest.fixture(scope="module", params=["open", "with users"])
def server(request, servers):
    return servers[request.param]


@pytest.fixture
def signed_in(server):
    answer = server.client.post("/login", data={"username": "ann", "password": "correct horse"})
    assert answer.status_code in (200, 302)
    return server.client


def at_once(many, attack):
    with ThreadPoolExecutor(many) as pool:
        return [result.result() for result in [pool.submit(attack, number) for number in range(many)]]


def test_sixty_megabytes_of_json_wherever_an_upload_might_be(server):
    body = b'{"data": [' + b"[]," * 20_000_000 + b"0]}"

    def post(number):
        path = ("/gradio_api/upload", "/gradio_api/call/upload", "/gradio_api/run/upload", "/upload")[number]
        with httpx.Client(base_url=server.url, **PATIENT) as client:
            try:
                return client.post(path, content=body, headers={"Content-Type": "application/json"}).status_code
            except httpx.TransportError:
                return 413  # it was answered, and not listened to

    with server.watched(growth=200_000_000):
        assert set(at_once(4, post)) <= {401, 404, 413}


def test_json_as_large_as_it_may_be(server):
    body = b'{"data": [' + b"[]," * 600_000 + b'0], "fn_index": 0, "session_hash": "x"}'

    def post(_number):
        headers = {"Content-Type": "application/json"}
        return httpx.post(f"{server.url}/gradio_api/run/predict", content=body, headers=headers, **PATIENT).status_code

    with server.watched():
        assert set(at_once(8, post)) <= {401, 413}


def test_half_open_requests_are_closed(servers):
    """Three kinds at the same time, and of each one more than may be left; both servers wait for them at once."""

    def left(server):
        established = [one for one in self_connections(server) if one.status == psutil.CONN_ESTABLISHED]
        return len(established)

    with many_files(), ExitStack() as held:
        sizes = {}
        for name, server in servers.items():
            held.enter_context(server.watched(growth=200_000_000))
            sizes[name] = len(server.log())
            for begun in 200 * [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"POST /login HTTP/1.1\r\nHost: a"]:
                line = held.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
                line.sendall(begun)
        for name, server in servers.items():
            wait_for(lambda server=server: left(server) < 50, 240)
            assert len(server.log()) - sizes[name] < 10_000


@contextmanager
def many_files():
    """Let this process have more files open than the thousand that are usual."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(usual, min(4096, most)), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))


def self_connections(server):
    return [one for one in server.memory.net_connections("tcp") if one.laddr.port == server.port]


def test_uploads_that_are_broken_off_leave_nothing(server, signed_in):
    kind = b"Content-Type: multipart/form-data; boundary=x\r\n"
    cookie = "; ".join(f"{name}={value}" for name, value in signed_in.cookies.items()).encode()
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\n" + kind + b"Cookie: " + cookie + b"\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'

    def break_off(_number):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as line:
            line.sendall(head + b"Content-Length: 90000000\r\n\r\n" + part)
            try:
                for _ in range(20):
                    line.sendall(bytes(1_000_000))
            except OSError:
                pass  # refused: more at once than one owner may send

    with server.watched():
        for _ in range(3):
            at_once(12, break_off)
        wait_for(lambda: not server.files(), 120)


def test_a_refused_upload_leaves_nothing(server, signed_in):
    with server.watched():
        answer = signed_in.post("/gradio_api/upload", files={"files": ("a.png", bytes(100_100_000))})
        assert answer.status_code == 413
        wait_for(lambda: not server.files(), 120)


@cache  # packing the largest takes seconds
def one_colour(width, height, channels):
    """A PNG of some hundred kilobytes, RGB or RGBA, that is any size when it is decoded."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(channels * width + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def hint(client, config, path):
    index = next(one["id"] for one in config["dependencies"] if one["api_name"] == "size_hint")
    photo = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {
        "data": [photo, None, 640, "photo", None, None, "crop", "0.5,0.5"],
        "fn_index": index,
        "session_hash": "x",
    }
    return client.post("/gradio_api/run/predict", json=body)


LARGE = ((13_377, 3), (13_377, 4), (6900, 4), (4900, 4), (3400, 4))
"""Sides of square pictures and their channels: Pillow has 4 bytes for a pixel, so the first would take 716 MB each."""


def test_size_hints_of_large_pictures(server, signed_in):
    """Of the largest only the header is read, the others take turns."""
    config, pictures = signed_in.get("/config").json(), []
    for side, channels in LARGE:
        picture, paths = one_colour(side, side, channels), []
        for number in range(4):
            files = {"files": (f"{number}.png", picture + bytes([number]))}
            paths += signed_in.post("/gradio_api/upload", files=files).json()
        pictures.append(paths)
    with server.watched():
        for paths in pictures:
            answers = at_once(8, lambda number, paths=paths: hint(signed_in, config, paths[number % 4]))
            assert all("pixels" in answer.text for answer in answers)


def test_wrong_passwords_keep_nobody_waiting(server, signed_in):
    def guess(number):
        data = {"username": f"user{number % 7}", "password": str(number)}
        return httpx.post(f"{server.url}/login", data=data, **PATIENT).status_code

    with server.watched(), ThreadPoolExecutor(1) as pool:
        guessing = pool.submit(at_once, 60, guess)
        answer = signed_in.post("/gradio_api/upload", files={"files": ("a.jpg", LION.read_bytes())})
        assert answer.status_code == 200
        assert set(guessing.result(240)) <= {302, 400, 429, 503}


def test_five_hundred_small_requests_and_every_closed_endpoint(server):
    paths = (
        "/gradio_api/deep_link?session_hash=x",
        "/gradio_api/queue/data?session_hash=x",
        "/gradio_api/component_server",
        "/gradio_api/heartbeat/x",
        "/openapi.json",
        "/nowhere",
        "/theme.css",
        "/gradio_api/file=/etc/passwd",
        "/config",
        "/",
    )

    def ask(_number):
        with httpx.Client(base_url=server.url, **PATIENT) as client:
            return [client.get(path).status_code for path in paths * 5]

    with server.watched():
        statuses = {status for answers in at_once(10, ask) for status in answers}
    assert statuses <= {200, 401, 403, 404, 503}
    assert not (server.folder / "uploads" / "deep_links").exists()
