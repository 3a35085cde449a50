"""Proxies of the environment: a real SOCKS5 server on loopback, through which a fresh process starts and downloads."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.service.proxies import proxies_in, require_proxies, settle_proxies, without_password
from tests.fake_hub import fake_hub

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
HOST = "hub.example.org"
"""A name that only the proxy knows."""


class Socks:
    """A SOCKS5 server that leads every name to `target`, a port of this computer.

    Attributes:
        url: its address.
        asked: the names it was asked for.
    """

    def __init__(self, listener, target):
        self.url = f"socks5://127.0.0.1:{listener.getsockname()[1]}"
        self.asked = []
        self._listener, self._target = listener, target

    def serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._lead, args=(client,), daemon=True).start()

    def _lead(self, client):
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            reader = client.makefile("rb")
            reader.read(reader.read(2)[1])  # the ways to sign in that it knows
            client.sendall(b"\x05\x00")  # none is needed
            reader.read(4)  # connect to a name:
            name = reader.read(reader.read(1)[0])
            reader.read(2)
            self.asked.append(name.decode())
            client.sendall(b"\x05\x00\x00\x01" + bytes(6))
            back = threading.Thread(target=_copy, args=(server.recv, client), daemon=True)
            back.start()
            _copy(reader.read1, server)
            back.join()


def _copy(read, target):
    try:
        while data := read(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def socks_to(port):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Socks(listener, port)
        thread = threading.Thread(target=proxy.serve, daemon=True)
        thread.start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def run(code, **environment):
    names = {"PATH", "HOME", "PYTHONPATH", "LANG"}
    bare = {name: value for name, value in os.environ.items() if name in names}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, cwd=ROOT, env=bare | environment, capture_output=True, text=True)


START = """
import os
from diffusers_helper.service.options import set_environment
from diffusers_helper.service.places import Folders
set_environment(Folders.chosen(), offline=False)
"""


@pytest.mark.parametrize("scheme", ["socks5h", "SOCKS"])
def test_the_pages_library_is_imported_and_this_computer_reached_without_the_proxy(scheme):
    code = f"""{START}
import gradio, httpx
from diffusers_helper.service.proxies import require_proxies
require_proxies()
import http.server, threading
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(httpx.head(f"http://127.0.0.1:{{server.server_port}}/").status_code)
server.shutdown()
"""
    done = run(code, ALL_PROXY=f"{scheme}://127.0.0.1:9", GRADIO_ANALYTICS_ENABLED="False")
    assert (done.stdout, done.returncode) == ("200\n", 0), done.stderr


def test_downloads_go_through_the_proxy(tmp_path):
    with fake_hub({"owner/model": {"config.json": b"{}"}}) as hub, socks_to(int(hub.url.rpartition(":")[2])) as proxy:
        code = f"""{START}
from huggingface_hub import hf_hub_download
print(hf_hub_download("owner/model", "config.json", endpoint="http://{HOST}", cache_dir={str(tmp_path)!r}))
"""
        done = run(code, ALL_PROXY=proxy.url)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).read_bytes() == b"{}"
        assert set(proxy.asked) == {HOST}
        assert hub.downloads


@pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:1", "gopher://user:secret@x", "http://a:port"])
def test_a_proxy_that_cannot_be_used_is_a_sentence(proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(
        SettingsError, match=r"cannot be used: .*ALL_PROXY, HTTPS_PROXY, HTTP_PROXY, NO_PROXY"
    ) as raised:
        require_proxies()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "settled"), [("socks5", None), ("socks5h", None), ("socks", "socks5"), ("SOCKS", "socks5")]
)
def test_socks_without_a_number_is_socks_5(given, settled):
    changes = settle_proxies({"ALL_PROXY": f"{given}://127.0.0.1:9"})
    assert changes.get("ALL_PROXY") == (settled and f"{settled}://127.0.0.1:9")


def test_without_proxies_nothing_changes():
    assert settle_proxies({"PATH": "/bin", "NO_PROXY": "x"}) == {}
    assert proxies_in({"all_proxy": "", "https_proxy": "http://a:1"}) == {"https_proxy": "http://a:1"}


def test_what_was_excluded_stays_so_and_loopback_is():
    changes = settle_proxies({"https_proxy": "http://a:1", "no_proxy": "intra.example, 127.0.0.1", "NO_PROXY": "other"})
    assert changes == dict.fromkeys(("NO_PROXY", "no_proxy"), "intra.example,127.0.0.1,localhost,::1")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:pass@proxy:8080", "http://proxy:8080"),
        ("user:p@ss@proxy:8080", "proxy:8080"),
        ("socks5://proxy", "socks5://proxy"),
    ],
)
def test_a_password_is_not_shown(url, shown):
    assert without_password(url) == shown
