"""The page behind a real nginx with docs/deploy/nginx.conf: a host name of its own, and a path of a site."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from diffusers_helper.access import Access
from diffusers_helper.accounts import Accounts, PasswordHash
from tests.browsing import PLAYED, fill, headless, preview, shows_idle, shows_running, start, visit
from tests.fakes import LION, serve_page, wait_for

pytestmark = pytest.mark.browser

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


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page with a name of its own, and one at /framepack whose users sign in."""
    accounts = Accounts({"ann": PasswordHash.of("correct horse", ln=4, p=1)})
    named = Access(host_names=NAMES[:1])
    below = Access(host_names=NAMES[1:], root_path="/framepack", accounts=accounts)
    folder = tmp_path_factory.mktemp("pages")
    uploads = folder / "uploads"  # Gradio looks for it in the environment, which both have in common
    with (
        serve_page(folder / "named", access=named, uploads=uploads) as first,
        serve_page(folder / "below", access=below, uploads=uploads) as second,
    ):
        yield first, second


class Nginx:
    """``program`` with the documented configuration, but for ports, certificate and folders."""

    def __init__(self, program, folder, pages):
        self.program, self.folder = program, folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        conf = CONF.read_text()
        for old, new in {
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "127.0.0.1:7860": pages[0].url.removeprefix("http://"),
            "127.0.0.1:7861": pages[1].url.removeprefix("http://"),
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
        self.process = subprocess.Popen([self.program, "-p", self.folder, "-c", self.folder / "nginx.conf"])
        try:
            wait_for(lambda: self.process.poll() is not None or self.workers())
            assert self.process.poll() is None, (self.folder / "error.log").read_text()
            yield self
        finally:
            self.process.terminate()
            self.process.wait(10)

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
        return httpx.request(method, url, headers=host | more.pop("headers", {}), verify=False, timeout=30, **more)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory, pages):
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("there is no nginx; on Debian: sudo apt install nginx-light openssl")
    with Nginx(program, tmp_path_factory.mktemp("nginx"), pages).running() as nginx:
        yield nginx


@pytest.fixture(scope="module")
def browser(chromium):
    with headless(chromium, "--host-resolver-rules=MAP *.example.org 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def large(tmp_path):
    """A photo of 20 MB."""
    photo = tmp_path / "large.jpg"
    photo.write_bytes(LION.read_bytes() + bytes(20_000_000))
    return photo


@pytest.mark.parametrize(("number", "path"), [(0, ""), (1, "/framepack")])
def test_a_video_is_made_through_the_proxy(browser, nginx, pages, large, number, path):
    page = pages[number]
    with visit(browser, nginx.url(NAMES[number], path), ignore_https_errors=True) as user:
        tab = user.context.new_page()
        tab.goto(user.url)
        if number:
            tab.get_by_label("username").fill("ann")
            tab.get_by_label("password").fill("correct horse")
            tab.get_by_role("button", name="Login").click()
        expect(tab.locator("#start")).to_be_visible()
        assert tab.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
        tab.close()
        tab = user.open()

        page.run.hold_at = 1
        page.run.hold.clear()
        fill(tab, photo=large)
        tab.locator("#seconds input[type=number]").fill("2.4")
        start(tab)
        expect(tab.locator("#stage img")).to_be_visible()
        assert preview(tab).startswith("data:image/jpeg")
        shows_running(tab)
        expect(tab.locator("#video video")).to_be_visible()
        nginx.reload()
        page.run.hold.set()
        expect(tab.locator("#progress")).to_have_text("Done")
        shows_idle(tab)
        video = tab.locator("#video video")
        job = page.manager.jobs()[-1]
        expect(video).to_have_attribute("src", f"{user.url}gradio_api/file={job.video}")
        assert video.evaluate(PLAYED)[0] == pytest.approx(73 / 30, abs=0.02)
        assert job.owner == ("ann" if number else "127.0.0.1")
        ranges = tab.evaluate(
            "url => fetch(url, {headers: {Range: 'bytes=10-19'}}).then(async r => [r.status, (await r.blob()).size])",
            video.get_attribute("src"),
        )
        assert ranges == [206, 10]


def test_what_the_guards_refuse_they_refuse_behind_the_proxy_too(nginx, pages):
    upload = {"files": {"files": ("a.png", bytes(10))}}
    name, path = NAMES[0], "/gradio_api/upload"
    assert nginx.ask("POST", name, path, **upload).status_code == 200
    assert nginx.ask("POST", name, path, headers={"Origin": "https://attacker"}, **upload).status_code == 403
    own = {"Origin": f"https://{name}:{nginx.port}"}
    assert nginx.ask("POST", name, path, headers=own, **upload).status_code == 200
    assert nginx.ask("GET", "attacker", "/").status_code == 400
    headers = nginx.ask("GET", name, "/", headers={"X-Forwarded-Host": "attacker"})
    assert "attacker" not in headers.text
    assert headers.headers["x-content-type-options"] == "nosniff"
    assert nginx.ask("GET", NAMES[1], "/framepack").headers["location"].endswith("/framepack/")
    assert nginx.ask("GET", NAMES[1], "/framepack/config").status_code == 401


def test_an_upload_that_is_too_large_is_told_by_the_page(nginx):
    content = bytes(100_500_000)
    answer = nginx.ask("POST", NAMES[0], "/gradio_api/upload", files={"files": ("a.png", content)})
    assert answer.status_code == 413
    assert "100" in answer.text
    assert "nginx" not in answer.text


def test_a_user_who_guesses_slows_down_their_own_address_alone(nginx):
    def sign_in(password, address, forged):
        transport = httpx.HTTPTransport(verify=False, local_address=address)
        headers = {"Host": f"{NAMES[1]}:{nginx.port}", "X-Forwarded-For": forged}
        with httpx.Client(transport=transport, headers=headers, timeout=30) as client:
            data = {"username": "ann", "password": password}
            return client.post(f"https://127.0.0.1:{nginx.port}/framepack/login", data=data).status_code

    guesses = [sign_in("wrong", "127.0.0.2", f"192.0.2.{number}") for number in range(4)]
    assert guesses == [400, 400, 400, 429], "what a client says of itself is not believed"
    assert sign_in("correct horse", "127.0.0.3", "127.0.0.2") == 200
