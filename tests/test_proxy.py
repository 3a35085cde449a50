"""The page behind a real nginx with docs/deploy/nginx.conf: a host name of its own, and a path of a site."""

import httpx
import pytest
from playwright.sync_api import expect

from diffusers_helper.service.access import Access
from diffusers_helper.service.accounts import Accounts, PasswordHash
from tests.browsing import PLAYED, fill, headless, preview, shows_idle, shows_running, start, visit
from tests.fakes import LION, serve_page
from tests.proxy import NAMES, Nginx, nginx_program

pytestmark = [pytest.mark.browser, pytest.mark.slow]


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


@pytest.fixture(scope="module")
def nginx(tmp_path_factory, pages):
    if nginx_program() is None:
        pytest.skip("there is no nginx; on Debian: sudo apt install nginx-light openssl")
    with Nginx(tmp_path_factory.mktemp("nginx"), [page.url for page in pages]).running() as nginx:
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


@pytest.mark.parametrize(("number", "path"), [(0, ""), (1, "/framepack")])
@pytest.mark.parametrize("end", ["/metrics", "/metrics/", "/%6detrics", "//metrics", "/./metrics", "/x/../metrics"])
def test_the_figures_are_for_this_computer_alone(nginx, number, path, end):
    """A page behind here has no figures: 404 is its answer, 403 is nginx's."""
    url, host = f"https://127.0.0.1:{nginx.port}{path}{end}", {"Host": f"{NAMES[number]}:{nginx.port}"}
    codes = []
    for address in ("127.0.0.1", "127.0.0.2"):
        with httpx.Client(transport=httpx.HTTPTransport(verify=False, local_address=address), timeout=60) as client:
            codes.append(client.get(url, headers=host).status_code)
    assert codes[0] != 403
    assert codes[1] == 403


def test_browsers_are_told_to_stay_with_tls(nginx):
    assert nginx.ask("GET", NAMES[0], "/").headers.get_list("strict-transport-security") == ["max-age=31536000"]


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
        with httpx.Client(transport=transport, headers=headers, timeout=60) as client:
            data = {"username": "ann", "password": password}
            return client.post(f"https://127.0.0.1:{nginx.port}/framepack/login", data=data).status_code

    guesses = [sign_in("wrong", "127.0.0.2", f"192.0.2.{number}") for number in range(4)]
    assert guesses == [400, 400, 400, 429], "what a client says of itself is not believed"
    assert sign_in("correct horse", "127.0.0.3", "127.0.0.2") == 200
