"""A real nginx with the documented configuration, on a free port of this computer."""

import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.fakes import wait_for
from tests.ports import own_port

CONF = Path(__file__).parents[1] / "docs" / "deploy" / "nginx.conf"
NAMES = ("video.example.org", "www.example.org")
MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/framepack.conf;
}}
"""


def nginx_program():
    """Path of nginx; None if it, or what makes its certificate, is not installed."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    return program if shutil.which("openssl") else None


class Nginx:
    """nginx before `pages`, two URLs: one has a host name of its own, one is at /framepack of the other name."""

    def __init__(self, folder, pages):
        self.folder = folder
        self.port = own_port()
        conf = CONF.read_text()
        for old, new in {
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "127.0.0.1:7860": pages[0].removeprefix("http://"),
            "127.0.0.1:7861": pages[1].removeprefix("http://"),
            "/etc/ssl/framepack": f"{folder}/framepack",
        }.items():
            assert old in conf
            conf = conf.replace(old, new)
        (folder / "framepack.conf").write_text(conf)
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(user + MAIN.format(folder=folder))

    @contextmanager
    def running(self):
        certify = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=example.org -keyout framepack.key"
        subprocess.run([*certify.split(), "-out", "framepack.crt"], cwd=self.folder, check=True, capture_output=True)
        self.process = subprocess.Popen([nginx_program(), "-p", self.folder, "-c", self.folder / "nginx.conf"])
        try:
            wait_for(lambda: self.process.poll() is not None or self.workers())
            assert self.process.poll() is None, (self.folder / "error.log").read_text()
            yield self
        finally:
            self.process.terminate()
            self.process.wait(60)

    def workers(self):
        """Process numbers of those that serve."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return set(path.read_text().split()) if (self.folder / "nginx.pid").exists() else set()

    def reload(self):
        before = self.workers()
        self.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self.workers() - before)

    def url(self, name, path=""):
        return f"https://{name}:{self.port}{path}/"

    def ask(self, method, name, path, **more):
        """Send a request as a program on this computer does, by address and Host header."""
        url, host = f"https://127.0.0.1:{self.port}{path}", {"Host": f"{name}:{self.port}"}
        return httpx.request(method, url, headers=host | more.pop("headers", {}), verify=False, timeout=60, **more)
