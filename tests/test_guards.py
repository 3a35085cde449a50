"""The guards around a small application that says what it got; no socket is opened."""

import asyncio
from dataclasses import replace

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from diffusers_helper.gradio.door.guards import SECURITY_HEADERS, guarded, host_name, limited_requests
from diffusers_helper.gradio.door.request_size import JSON_BYTES, MULTIPART_BYTES
from diffusers_helper.service.access import Access

ACCESS = Access(host_names=("video.example.org",), max_upload=3_000_000, trusted_proxies=("10.0.0.0/8",))
FORM = "multipart/form-data; boundary=x"


async def echo(scope, receive, send):
    """Answer with what an application sees."""
    request = Request(scope, receive)
    body = b"".join([part async for part in request.stream()])
    told = {
        "client": scope["client"][0],
        "scheme": scope["scheme"],
        "headers": dict(request.headers),
        "size": len(body),
    }
    await JSONResponse(told)(scope, receive, send)


def ask(*requests, access=ACCESS, client="203.0.113.7", **first):
    """Send one request or several to one application; the answers."""

    async def send_all():
        transport = httpx.ASGITransport(guarded(echo, access), client=(client, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as browser:
            return [
                await browser.request(**{"method": "POST", "url": "/x"} | request) for request in requests or [first]
            ]

    answers = asyncio.run(send_all())
    return answers if requests else answers[0]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7860", 200),
        ("localhost:7860", 200),
        ("LOCALHOST", 200),
        ("[::1]:7860", 200),
        ("192.168.1.7", 200),
        ("video.example.org", 200),
        ("video.example.org:8443", 200),
        ("rebind.attacker", 400),
        ("rebind.attacker:7860", 400),
        ("localhost.attacker", 400),
        ("evil.video.example.org", 400),
        ("127.0.0.1@attacker", 400),
        ("127.0.0.1.attacker", 400),
        ("[::1", 400),
        ("", 400),
        ("localhost/evil.com", 400),
        ("localhost?evil.com", 400),
        ("localhost#evil.com", 400),
        ("localhost\\evil.com", 400),
        ("evil.com@localhost", 400),
        ("localhost:80@evil.com", 400),
        ("localhost:@localhost", 400),
        ("localhost:", 400),
        ("localhost:0", 400),
        ("localhost:65536", 400),
        ("localhost:7860/", 400),
        ("localhost:-1", 400),
        ("localhost:+80", 400),
        ("localhost:0x50", 400),
        ("localhost:7860:7860", 400),
        ("localhost ", 400),
        (" localhost", 400),
        ("local host", 400),
        ("localhost\tevil.com", 400),
        ("localhost,evil.com", 400),
        ("localhost.", 400),
        ("localhost%2fevil.com", 400),
        ("\u212aocalhost".encode(), 400),
        ("localho\u017ft".encode(), 400),
        ("localhost\u3002evil.com".encode(), 400),
        ("1\u0662\u0667.0.0.1".encode(), 400),
        ("[127.0.0.1]", 400),
        ("[::1]evil.com", 400),
        ("[::1%25eth0]", 400),
        ("::1", 400),
        ("[localhost]", 400),
    ],
)
def test_a_host_that_is_not_ours(host, status):
    for method in ("GET", "POST"):
        assert ask(method=method, headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:7860"}, 200),
        ({"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 200),  # a link on another page
        ({"Origin": "https://attacker"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://127.0.0.1:3000"}, 403),
        ({"Origin": "http://127.0.0.1:7860.attacker"}, 403),
        ({"Origin": "https://attacker", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-site"}, 403),
    ],
)
@pytest.mark.parametrize(
    ("method", "url"), [("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join"), ("GET", "/")]
)
def test_a_request_of_another_sites_page(method, url, headers, status):
    assert ask(method=method, url=url, headers=headers).status_code == status


@pytest.mark.parametrize("hosts", [["localhost", "localhost"], ["localhost", "attacker"]])
def test_two_hosts_are_none(hosts):
    assert ask(method="GET", headers=[("Host", host) for host in hosts]).status_code == 400


@pytest.mark.parametrize(
    ("host", "name"),
    [("LocalHost:7860", "localhost"), ("[::1]:7860", "::1"), ("a.example.org", "a.example.org"), ("a..b/", None)],
)
def test_the_name_in_a_host_header(host, name):
    assert host_name(host) == name


@pytest.mark.parametrize(("proto", "expected"), [("https", "max-age=31536000"), ("http", None)])
def test_only_who_came_by_tls_is_told_to_do_so_again(proto, expected):
    answer = ask(client="10.1.2.3", headers={"X-Forwarded-Proto": proto})
    assert answer.headers.get("strict-transport-security") == expected
    forged = ask(headers={"X-Forwarded-Proto": "https"})
    assert "strict-transport-security" not in forged.headers


def test_a_file_may_run_no_script():
    assert "script-src 'none'" in ask(method="GET").headers["content-security-policy"]


def test_a_tunnel_may_have_any_name_but_no_foreign_origin():
    name, shared = {"Host": "abc.gradio.live"}, replace(ACCESS, share=True)
    assert ask(headers=name, access=shared).status_code == 200
    assert ask(headers=name | {"Origin": "https://attacker"}, access=shared).status_code == 403
    assert ask(headers={"Host": "abc.gradio.live/evil.com"}, access=shared).status_code == 400


@pytest.mark.parametrize("changes", [{}, {"headers": {"Host": "attacker"}}, {"headers": {"Origin": "null"}}])
def test_every_answer_has_the_headers_that_protect(changes):
    found = ask(**changes).headers
    assert {name: found[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert found["x-content-type-options"] == "nosniff"
    assert found["referrer-policy"] == "same-origin"
    assert "frame-ancestors" in found["content-security-policy"]


FORWARDED = {"X-Forwarded-For": "198.51.100.9", "X-Forwarded-Proto": "https"}
FORGED = {"X-Forwarded-Host": "attacker", "X-Gradio-Server": "http://attacker"}


@pytest.mark.parametrize(
    ("client", "seen"), [("10.1.2.3", ("198.51.100.9", "https")), ("203.0.113.7", ("203.0.113.7", "http"))]
)
def test_only_a_trusted_proxy_says_whom_a_request_is_from(client, seen):
    told = ask(client=client, headers=FORWARDED | FORGED).json()
    assert (told["client"], told["scheme"]) == seen
    assert ("x-forwarded-proto" in told["headers"]) == (client == "10.1.2.3")
    assert not {"x-forwarded-host", "x-gradio-server"} & told["headers"].keys()


def test_what_a_client_forges_before_a_trusted_proxy_does_not_count():
    told = ask(client="10.1.2.3", headers={"X-Forwarded-For": "1.1.1.1, 198.51.100.9, 10.9.9.9"}).json()
    assert told["client"] == "198.51.100.9"


@pytest.mark.parametrize(
    ("url", "kind", "size", "status"),
    [
        ("/gradio_api/upload", FORM, ACCESS.max_upload + MULTIPART_BYTES, 200),
        ("/gradio_api/upload", FORM, ACCESS.max_upload + MULTIPART_BYTES + 1, 413),
        ("/gradio_api/upload", "Multipart/Form-Data ; boundary=x", JSON_BYTES + 1, 200),
        ("/gradio_api/upload", "application/json", JSON_BYTES + 1, 413),
        ("/gradio_api/upload", "", JSON_BYTES + 1, 413),
        ("/gradio_api/upload/", FORM, JSON_BYTES + 1, 413),
        ("/gradio_api/call/upload", FORM, JSON_BYTES + 1, 413),
        ("/gradio_api/queue/join", "application/json", JSON_BYTES, 200),
        ("/gradio_api/queue/join", "application/json", JSON_BYTES + 1, 413),
        ("/nowhere", FORM, JSON_BYTES + 1, 413),
    ],
)
@pytest.mark.parametrize("announced", [True, False])
def test_a_request_that_is_too_large(url, kind, size, status, announced):
    read = []

    async def pieces():
        for begin in range(0, size, 100_000):
            read.append(begin)
            yield bytes(min(100_000, size - begin))

    headers = {"Content-Type": kind} | ({"Content-Length": str(size)} if announced else {})
    answer = ask(url=url, content=pieces(), headers=headers)
    assert answer.status_code == status
    if status == 413:
        assert "at most" in answer.text
    else:
        assert answer.json()["size"] == size


def test_a_proxy_may_leave_its_path_in_front():
    below = Access(max_upload=3_000_000, root_path="https://example.org/framepack")
    kind = {"Content-Type": FORM}
    for prefix, status in (("/framepack", 200), ("", 200), ("/other", 413), ("/framepack/framepack", 413)):
        url = f"{prefix}/gradio_api/upload"
        assert ask(url=url, content=bytes(JSON_BYTES + 1), headers=kind, access=below).status_code == status


def under_way(addresses):
    """Requests of these addresses that all wait for the last one; their answers, and that to /healthz meanwhile."""

    async def ask_all():
        released = asyncio.Event()

        async def slow(scope, receive, send):
            if scope["path"] == "/slow":
                await released.wait()
            await PlainTextResponse("here")(scope, receive, send)

        app = limited_requests(slow, most=5, of_one=3)

        async def get(path, address):
            transport = httpx.ASGITransport(app, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as browser:
                return (await browser.get(path)).status_code

        tasks = [asyncio.create_task(get("/slow", address)) for address in addresses]
        await asyncio.sleep(0)
        health = await get("/healthz", "a")
        released.set()
        return [await task for task in tasks], health, [await get("/slow", address) for address in addresses]

    return asyncio.run(ask_all())


def test_many_requests_at_once_are_refused_and_monitoring_never():
    answers, health, later = under_way("aaaab")
    assert (answers, health, later) == ([200, 200, 200, 503, 200], 200, [200] * 5)
    assert under_way("aaabbbc")[0] == [200] * 5 + [503] * 2


def test_the_pages_own_files_wait_for_their_turn():
    """A browser behind HTTP/2 asks for all of them at once, and without one of them the page stays empty."""
    most_at_once, now = 0, 0

    async def counting(scope, receive, send):
        nonlocal most_at_once, now
        now += 1
        most_at_once = max(most_at_once, now)
        await asyncio.sleep(0)
        await PlainTextResponse("here")(scope, receive, send)
        now -= 1

    async def ask_all():
        app = limited_requests(counting, most=5, of_one=3)
        transport = httpx.ASGITransport(app, client=("a", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as browser:
            return await asyncio.gather(*(browser.get(f"/assets/{number}.js") for number in range(150)))

    assert {answer.status_code for answer in asyncio.run(ask_all())} == {200}
    assert most_at_once == 3


def test_a_length_that_is_no_number():
    assert ask(headers={"Content-Length": "-1"}).status_code == 413
