"""Signing in to a real page: what passwords cost, what the log says, how sessions end and what their cookies allow."""

import asyncio
import logging
import threading
import time
from contextlib import closing
from http.cookies import SimpleCookie

import httpx
import pytest
from playwright.sync_api import expect
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from diffusers_helper.gradio.door import sign_in
from diffusers_helper.gradio.door.privacy import OwnFiles
from diffusers_helper.gradio.door.sign_in import QUEUE, QUEUE_FOR_FAMILIAR, SESSIONS_PER_USER, Sessions, SignIn
from diffusers_helper.gradio.door.uploads import Uploads
from diffusers_helper.service.access import Access
from diffusers_helper.service.accounts import Accounts, PasswordHash
from tests.browsing import headless, keeps, visit
from tests.fakes import LION, serve_page

pytestmark = pytest.mark.slow

LOGGER = "diffusers_helper.gradio.door.sign_in"


class SlowAccounts(Accounts):
    """Checks that last until they are let go."""

    def __init__(self):
        super().__init__({"ann": PasswordHash.of("correct horse", ln=4, p=1)})
        self.go = threading.Event()
        self.threads = []

    def check(self, name, password):
        self.threads.append(threading.current_thread().name)
        assert self.go.wait(60)
        return password == "correct horse"


@pytest.fixture
def page(tmp_path):
    accounts = Accounts({"ann": PasswordHash.of("correct horse", ln=4, p=1)})
    access = Access(accounts=accounts, session_hours=2)
    with serve_page(tmp_path, access=access) as page:
        yield page


def post(page, password="correct horse", name="ann", **headers):
    return httpx.post(f"{page.url}/login", data={"username": name, "password": password}, headers=headers, timeout=60)


def guesses_until_refused(post_next):
    """How many guesses were looked at before the first refusal, and that refusal; a slow computer gives some more."""
    for number in range(60):
        answer = post_next(number)
        if answer.status_code == 429:
            return number, answer
        assert answer.status_code == 400
    raise AssertionError("nobody was refused")


def test_a_forged_address_of_a_trusted_proxy_does_not_go_round_the_bound(page):
    number, _ = guesses_until_refused(lambda n: post(page, f"guess {n}", **{"X-Forwarded-For": f"198.51.{n}.1"}))
    assert 10 <= number < 20


def test_ones_own_login_does_not_reset_the_guesses_at_another(tmp_path):
    words = {"ann": "correct horse", "mallory": "battery staple"}
    accounts = Accounts({name: PasswordHash.of(word, ln=4, p=1) for name, word in words.items()})
    with serve_page(tmp_path, access=Access(accounts=accounts)) as page:

        def after_own_login(number):
            assert post(page, "battery staple", "mallory").status_code == 200
            return post(page, f"guess {number}")

        number, _ = guesses_until_refused(after_own_login)
    assert 3 <= number < 10


def test_who_has_to_wait_is_told_how_long(page):
    _, answer = guesses_until_refused(lambda _: post(page, "wrong"))
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.json() == {"detail": "Too many wrong passwords; wait a moment."}


def test_all_languages_of_the_page_count_together(tmp_path):
    accounts = Accounts({"ann": PasswordHash.of("correct horse", ln=4, p=1)})
    with serve_page(tmp_path, access=Access(accounts=accounts), languages=("en", "ja")) as page:
        tags = ("en", "ja")
        number, _ = guesses_until_refused(lambda n: post(page, "wrong", **{"Accept-Language": tags[n % 2]}))
    assert 3 <= number < 6


def test_waiting_passwords_hold_up_nobody_else_and_are_not_too_many(tmp_path):
    """Sixty at once, each from an address of its own, once took every thread there was for 15 s."""
    accounts = SlowAccounts()
    accounts.go.set()

    async def attack(client):
        await client.post("/login", data={"username": "ann", "password": "correct horse"})
        accounts.go.clear()
        tasks = [
            asyncio.create_task(
                client.post(
                    "/login",
                    data={"username": f"user{number}", "password": "x"},
                    headers={"X-Forwarded-For": f"198.51.100.{number}"},
                )
            )
            for number in range(60)
        ]
        answers = asyncio.as_completed(tasks)
        refused = [(await next(answers)).status_code for _ in range(60 - QUEUE)]
        upload = await client.post("/gradio_api/upload", files={"files": LION.read_bytes()})
        accounts.go.set()
        return upload.status_code, refused, [(await rest).status_code for rest in answers]

    async def run(url):
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            return await attack(client)

    with serve_page(tmp_path, access=Access(accounts=accounts)) as page:
        upload, refused, rest = asyncio.run(run(page.url))
    assert upload == 200
    assert (set(refused), rest) == ({429}, [400] * QUEUE)
    assert set(accounts.threads) == {"sign-in_0"}


def test_a_user_known_at_their_network_has_room_in_the_queue():
    accounts = SlowAccounts()
    accounts.go.set()
    both = SignIn(accounts)

    async def known_among_strangers():
        sign_in._CLIENT.set("192.0.2.1")
        assert await both.check("ann", "correct horse")
        accounts.go.clear()
        strangers = []
        for number in range(QUEUE):
            sign_in._CLIENT.set(f"198.51.100.{number}")
            strangers.append(asyncio.create_task(both.check(f"user{number}", "x")))
        await asyncio.sleep(0)
        with pytest.raises(HTTPException) as refused:
            await both.check("one-more", "x")
        assert refused.value.status_code == 429
        sign_in._CLIENT.set("192.0.2.1")
        ann = asyncio.create_task(both.check("ann", "correct horse"))
        await asyncio.sleep(0)
        accounts.go.set()
        return await ann, await asyncio.gather(*strangers)

    assert asyncio.run(known_among_strangers()) == (True, [False] * QUEUE)
    assert QUEUE_FOR_FAMILIAR > QUEUE


def test_one_hash_is_computed_at_a_time():
    accounts = Accounts({"ann": PasswordHash.of("correct horse", ln=4, p=1)})
    running, most = 0, 0

    class Counted(PasswordHash):
        def matches(self, password):
            nonlocal running, most
            running += 1
            most = max(most, running)
            time.sleep(0.01)  # long enough for the other threads to come in, if they could
            running -= 1
            return False

    accounts._hashes["ann"] = Counted(b"", b"")
    threads = [threading.Thread(target=accounts.check, args=("ann", "x")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_each_sign_in_is_a_line_of_the_log_without_what_was_typed(page, caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        post(page, "secret word")
        post(page)
        post(page, "other", name="hunter2-typed-in-the-wrong-field")
        post(page, "other", name="x\nSign-in of user ann from 127.0.0.1 succeeded")
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert lines == [
        "Sign-in of user ann from 127.0.0.1 failed",
        "Sign-in of user ann from 127.0.0.1 succeeded",
        "Sign-in of an unknown name from 127.0.0.1 failed",
        "Sign-in of an unknown name from 127.0.0.1 failed",
    ]


def test_refusals_are_counted_and_told_once_a_minute(caplog):
    now = 1000.0
    both = SignIn(Accounts({"ann": PasswordHash.of("correct horse", ln=4, p=1)}), clock=lambda: now)

    async def wrong(times):
        for _ in range(times):
            with pytest.raises(HTTPException):
                await both.check("ann", "wrong")

    async def all_of_them():
        nonlocal now
        sign_in._CLIENT.set("192.0.2.1")
        for _ in range(3):
            assert not await both.check("ann", "wrong")
        await wrong(100)
        now += 0.5
        await wrong(100)
        now += 60
        assert not await both.check("ann", "wrong")
        await wrong(1)

    asyncio.run(all_of_them())
    told = [record.args for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [(1, "192.0.2.1"), (200, "192.0.2.1")]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cookies_stay_with_this_site_and_its_scripts_do_not_read_them(page, scheme):
    answer = post(page, **{"X-Forwarded-Proto": scheme})
    cookies = [SimpleCookie(text) for text in answer.headers.get_list("set-cookie")]
    assert len(cookies) == 2
    for cookie in cookies:
        [morsel] = cookie.values()
        assert morsel["httponly"] is True
        assert (morsel["samesite"], morsel["max-age"], morsel["path"]) == ("Lax", "7200", "/")
        assert bool(morsel["secure"]) == (scheme == "https")


class App:
    """What `Sessions` sees of Gradio: tokens, and a sign-in that adds one."""

    def __init__(self, user="ann"):
        self.tokens, self.user = {}, user

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/login":
            self.tokens[f"token {len(self.tokens)} {scope['client'][1]}"] = self.user
        await JSONResponse(dict(self.tokens))(scope, receive, send)


def ask(sessions, app, path="/", method="POST", port=1):
    async def once():
        transport = httpx.ASGITransport(
            lambda scope, receive, send: sessions({**scope, "app": app}, receive, send), client=("192.0.2.1", port)
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.request(method, path)).json()

    return asyncio.run(once())


def test_a_session_ends_after_its_hours_and_others_go_on():
    now, app = 1000.0, App()
    sessions = Sessions(app, 3600, clock=lambda: now)
    ask(sessions, app, "/login", port=1)
    now += 1800
    ask(sessions, app, "/login", port=2)
    now += 1799
    assert len(ask(sessions, app)) == 2
    now += 1
    assert list(ask(sessions, app)) == ["token 1 2"]
    now += 1800
    assert ask(sessions, app) == {}
    assert sessions._begun == {}


def test_a_session_that_was_ended_leaves_nothing_behind():
    app = App()
    sessions = Sessions(app, 3600, clock=lambda: 1000.0)
    ask(sessions, app, "/login", port=1)
    app.tokens.clear()
    ask(sessions, app, "/login", port=2)
    assert len(sessions._begun) == 1


def test_a_user_has_only_so_many_sessions_and_takes_none_from_others():
    app = App()
    sessions = Sessions(app, 3600, clock=lambda: 1000.0)
    ask(sessions, app, "/login", port=1)
    app.user = "bob"
    for port in range(SESSIONS_PER_USER + 20):
        ask(sessions, app, "/login", port=port)
    owners = list(app.tokens.values())
    assert (owners.count("ann"), owners.count("bob")) == (1, SESSIONS_PER_USER)


@pytest.mark.parametrize(("hours", "status"), [(12, 200), (1e-9, 401)])
def test_a_browser_is_asked_again_when_its_session_is_over(tmp_path, hours, status):
    accounts = Accounts({"ann": PasswordHash.of("correct horse", ln=4, p=1)})
    with (
        serve_page(tmp_path, access=Access(accounts=accounts, session_hours=hours)) as page,
        closing(httpx.Client(base_url=page.url, timeout=60)) as browser,
    ):
        answer = browser.post("/login", data={"username": "ann", "password": "correct horse"})
        assert answer.status_code == 200
        cookies = "; ".join(f"{name}={value}" for name, value in answer.cookies.items())
        assert browser.get("/config", headers={"Cookie": cookies}).status_code == status
        with LION.open("rb") as photo:
            upload = browser.post("/gradio_api/upload", files={"files": photo}, headers={"Cookie": cookies})
        assert upload.status_code == status


@pytest.mark.browser
def test_the_page_asks_again_and_keeps_the_draft_when_a_session_is_over(page, chromium):
    with headless(chromium) as browser, visit(browser, page.url) as user:
        tab = user.context.new_page()
        tab.goto(page.url)

        def sign_in_here():
            tab.get_by_label("username").fill("ann")
            tab.get_by_label("password").fill("correct horse")
            tab.get_by_role("button", name="Login").click()

        sign_in_here()
        tab.locator("#prompt textarea").fill("A lion yawns.")
        tab.locator("#prompt textarea").blur()
        keeps(tab, prompt="A lion yawns.")
        with closing(httpx.Client(base_url=page.url, timeout=60)) as elsewhere:
            elsewhere.post("/login", data={"username": "ann", "password": "correct horse"})
            elsewhere.get("/logout")  # ends all sessions of this user
        expect(tab.get_by_label("username")).to_be_visible()
        sign_in_here()
        expect(tab.locator("#prompt textarea")).to_have_value("A lion yawns.")


@pytest.mark.parametrize("path", ["a\0b", "/etc/pass\0wd", "\0"])
def test_a_path_with_nul_is_refused_before_it_is_resolved(tmp_path, path):
    async def never(scope, receive, send):
        raise AssertionError("the application is not asked")

    guard = OwnFiles(never, tmp_path, Uploads(tmp_path))
    sent = []

    async def send(message):
        sent.append(message)

    async def ask_for():
        app = type("App", (), {"auth": None, "tokens": {}, "cookie_id": "x"})()
        scope = {"type": "http", "method": "GET", "path": f"/gradio_api/file={path}", "headers": [], "app": app}
        await guard(scope, None, send)

    asyncio.run(ask_for())
    assert sent[0]["status"] == 403
