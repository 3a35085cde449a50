"""Calls that make no sense, against the page with its real handlers: each is 4xx, and the log has no traceback."""

import asyncio
import json
import logging
from types import SimpleNamespace

import httpx
import pytest
from starlette.exceptions import HTTPException

from diffusers_helper.gradio.door.calls import DEEPEST, LONGEST_NAME, MOST_VALUES, CheckedCalls
from diffusers_helper.gradio.door.request_size import JSON_BYTES
from diffusers_helper.gradio.history.api import SEARCH
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.service.access import Access
from diffusers_helper.service.accounts import Accounts, PasswordHash
from tests.fakes import serve_page
from tests.test_history_library import add

pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}
LATE = f"[0s: a] [{'9' * 400}s: b]"
"""A time that is no number any more."""
ODD = (
    *(None, True, -1, 1e308, "", "x", "\0", [], {}, [None], {"path": 7}, {"path": "\0"}, {"a": {"b": []}}, [[1]]),
    *(10**400, [-(10**19)], "\ud83d", LATE),
)
HALF = ("\\ud83d", "\\uDE00\\uD83D", "\xed\xa0\xbd")
"""Halves of characters, as JSON has them, and as bytes."""
ACTIONS = ("ask", "use", "select")
"""The events of the page's lists."""
WORDS = (
    *("more", "show", "edit", "move", "duplicate", "remove", "clear", "pause", "continue", "stop-later"),
    *("star", "rate", "delete", "restore", "empty"),
    *("open", "use_settings", "last_frame", "new_take", "full", "extend", "resume", "export", "nothing"),
)
"""What they ask for."""
FILE = {"meta": {"_type": "gradio.FileData"}}
NO_UPLOADS = (
    "/etc/passwd",
    "http://127.0.0.1:1/a",
    "nowhere",
    "",
    "\0",
    "/",
    None,
    7,
    "UPLOADS/gone.png",
    "UPLOADS/" + "x" * 300,
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    store = JobStore(folder / "outputs/jobs")
    add(store)
    with serve_page(folder, store=store) as page:
        yield page


@pytest.fixture
def quiet(caplog, capfd):
    """Nothing that is refused is a fault of the server's, in the log or on the console."""
    with caplog.at_level(logging.INFO):
        yield
    assert "Traceback" not in caplog.text
    output = capfd.readouterr()
    assert "Traceback" not in output.err + output.out
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.fixture(scope="module")
def web(page):
    with httpx.Client(base_url=f"{page.url}/gradio_api/", timeout=60) as web:
        yield web


def post(web, url, body, headers=JSON):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return web.post(url, content=content, headers=headers)


def index_of(page, name):
    functions = page.blocks.fns.items()
    return next(index for index, one in functions if getattr(one.fn, "__qualname__", "") == f"PageHandlers.{name}")


def deep(levels):
    return b'{"data": [' + b"[" * levels + b"]" * levels + b'], "fn_index": 0, "session_hash": "x"}'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"\xff\xfe", 422),
        (b"[]", 422),
        (b"null", 422),
        (b'"x"', 422),
        (deep(DEEPEST), 413),
        (deep(900), 413),
        (deep(100_000), 413),
        (b'{"data": [' + b"[]," * MOST_VALUES + b"0]}", 413),
        (b'{"data": [' + b"0," * MOST_VALUES + b"0]}", 413),
        (b'{"data": [' + b"[]," * 600_000, 413),
        (b'"' + b'\\"' * 900_000, 422),
        (b" " * (JSON_BYTES + 1), 413),
        ({"fn_index": 10**6, "session_hash": "x", "data": []}, 404),
        ({"fn_index": -1, "session_hash": "x", "data": []}, 404),
        ({"fn_index": 10**400, "session_hash": "x", "data": []}, 404),
        ({"fn_index": True, "session_hash": "x", "data": []}, 422),
        ({"fn_index": "0", "session_hash": "x", "data": []}, 422),
        ({"fn_index": 1.5, "session_hash": "x", "data": []}, 422),
        ({"fn_index": None, "session_hash": "x", "data": []}, 404),
        ({"session_hash": "x", "data": []}, 404),
        ({"fn_index": 0, "session_hash": 7, "data": []}, 422),
        ({"fn_index": 0, "session_hash": "x" * (LONGEST_NAME + 1), "data": []}, 422),
        ({"fn_index": 0, "session_hash": "x", "data": {}}, 422),
        ({"fn_index": 0, "session_hash": "x", "data": None}, 422),
        ({"fn_index": 0, "session_hash": "x", "data": "x" * 100_000}, 422),
        ({"fn_index": "tick", "session_hash": "x", "data": []}, 400),
        ({"fn_index": "tick", "session_hash": "x", "data": [None]}, 400),
    ],
)
@pytest.mark.parametrize("url", ["queue/join", "run/predict"])
def test_a_call_that_makes_no_sense(page, web, quiet, url, body, status):
    if isinstance(body, dict) and body.get("fn_index") == "tick":
        body = {**body, "fn_index": index_of(page, "tick")}
    answer = post(web, url, body)
    assert answer.status_code == status
    assert len(answer.content) < 5000, "what was sent does not come back"


@pytest.mark.parametrize("body", [{}, {"fn_index": 0}, {"fn_index": 0, "event_id": 7, "session_hash": []}, b"x"])
def test_a_cancel_that_makes_no_sense(web, quiet, body):
    assert post(web, "cancel", body).status_code in (404, 422)


def test_a_call_is_json(page, web, quiet):
    body = json.dumps({"fn_index": index_of(page, "tick"), "data": [], "session_hash": "x"}).encode()
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        assert post(web, "run/predict", body, {"Content-Type": kind}).status_code == 415
    assert post(web, "run/predict", body, {"Content-Type": "Application/JSON; charset=utf-8"}).status_code == 400


@pytest.mark.parametrize("name", ["nowhere", "generate%00", "..", "x" * 500, "%F0%9F%A6%81"])
def test_a_name_that_is_not_there(web, quiet, name):
    for kind in ("call", "run"):
        assert post(web, f"{kind}/{name}", {"data": []}).status_code == 404


@pytest.mark.parametrize("url", ["queue/data?session_hash=x", "queue/data", "queue/data?x=1", "call/generate/x"])
def test_nobody_gets_events_of_what_is_not_there(web, quiet, url):
    assert web.get(url).status_code == 404


@pytest.mark.parametrize(("cause", "told"), [(HTTPException(404), True), (ValueError("a bug"), False)])
def test_a_session_that_ends_while_its_events_are_read_is_no_fault(cause, told):
    """As Starlette tells it, once the answer has begun; whatever else is raised is a fault."""
    blocks = SimpleNamespace(_queue=SimpleNamespace(pending_messages_per_session={"x": 1}))
    sent = []

    async def gradio(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("Caught handled exception, but response already started.") from cause

    async def ask():
        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/gradio_api/queue/data", "query_string": b"session_hash=x"}
        await CheckedCalls(gradio)({**scope, "app": SimpleNamespace(get_blocks=lambda: blocks)}, None, send)

    if told:
        asyncio.run(ask())
        assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    else:
        with pytest.raises(RuntimeError):
            asyncio.run(ask())


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_no_handler_fails_over_the_type_of_a_value(page, web, quiet, value):
    """Every function that the page calls directly, with the same odd value for everything it is given."""
    for index, function in page.blocks.fns.items():
        if function.fn is None:
            continue
        data = [value] * len(function.inputs)
        url = "queue/join" if function.queue else "run/predict"
        answer = post(web, url, {"fn_index": index, "session_hash": "odd", "data": data})
        assert answer.status_code < 500, (function.fn, answer.text)
    page.wait_until_idle()


@pytest.mark.parametrize(
    "value", [None, 1e308, [], {"path": 7}, 10**400, "\ud83d", LATE], ids=lambda one: repr(one)[:20]
)
def test_no_list_fails_over_what_an_event_says(page, web, quiet, value):
    """What the lists' own scripts send: an action, whose it is, where to, and what is searched for."""
    tried = set()
    for index, function in page.blocks.fns.items():
        events = {event for _, event in function.targets} & {*ACTIONS}
        if function.fn is None or not events:
            continue
        tried |= events
        wanted = dict.fromkeys(SEARCH, value)
        told = dict.fromkeys(("id", "place", "rating", "starred", "form", "turn"), value)
        for said in (value, {"action": value}, *({**told, "action": word, "wanted": wanted} for word in WORDS)):
            data = [block.value for block in function.inputs]
            body = {"fn_index": index, "session_hash": "odd", "data": data, "event_data": said}
            answer = post(web, "run/predict", body)
            assert answer.status_code < 500, (function.fn, said, answer.text)
    assert tried == {*ACTIONS}


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("name", ["queue_move", "history_show", "presets_load"])
def test_half_a_character_is_answered_with_a_sentence(page, web, quiet, half, name):
    function = next(one for one in page.blocks.fns.values() if one.api_name == name)
    data = ",".join(f'"{half}"' for _ in function.inputs).encode("latin-1")
    answer = web.post(f"call/{name}", content=b'{"data": [' + data + b"]}", headers=JSON)
    told = web.get(f"call/{name}/{answer.json()['event_id']}").text if answer.status_code == 200 else answer.text
    assert "error" in told or '"message":' in told
    assert "null" not in told


@pytest.mark.parametrize("path", NO_UPLOADS, ids=repr)
@pytest.mark.parametrize("more", [FILE, {"meta": {"_type": "gradio.FileData", "x": 1}}, {**FILE, "is_stream": True}])
def test_a_file_is_an_upload_wherever_in_a_call_it_stands(page, web, quiet, monkeypatch, path, more):
    """Gradio would move it, or fetch it from where it says it is."""
    fetched = []
    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", lambda *_: fetched.append(1))
    if isinstance(path, str):
        path = path.replace("UPLOADS", f"{page.outputs.parent}/uploads/{'0' * 64}")
    for value in ({"path": path, **more}, [{"path": path, **more}], {"x": [{"path": path, **more}]}):
        body = {"fn_index": index_of(page, "tick"), "session_hash": "x", "data": [value, ""]}
        answer = post(web, "run/predict", body)
        assert (answer.status_code, answer.json()["error"]) == (422, "The file is no longer here: choose it again.")
    assert fetched == []


@pytest.mark.parametrize(
    "value",
    [
        "bytes=" + ",".join(f"{n}-{n}" for n in range(2000)),
        "bytes=0-0,5-9",
        "bytes=1-2-3",
        "bytes=-",
        "bytes=a-b",
        "bytes=\xb2-\xb3",
        "lines=0-9",
        "x",
        "",
    ],
)
def test_a_range_that_is_none(page, web, quiet, value):
    file = page.outputs / "video.mp4"
    file.write_bytes(bytes(100))
    headers = {"Range": value.encode("latin-1")}
    assert web.get(f"file={file}", headers=headers).status_code == 416


@pytest.mark.parametrize(
    ("value", "status", "size", "told"),
    [
        ("bytes=0-9", 206, 10, "bytes 0-9/100"),
        ("bytes=90-", 206, 10, "bytes 90-99/100"),
        ("bytes=-10", 206, 10, "bytes 90-99/100"),
        ("bytes=90-1000", 206, 10, "bytes 90-99/100"),
        ("bytes=100-", 416, None, "bytes */100"),
        (f"bytes={10**100}-", 416, None, "bytes */100"),
    ],
)
def test_a_range_is_answered_without_the_headers_of_the_request(page, web, quiet, value, status, size, told):
    file = page.outputs / "video.mp4"
    file.write_bytes(bytes(100))
    sent = {"Range": value, "Cookie": "a=secret", "X-Mine": "secret", "Authorization": "secret", "Content-Type": "x/y"}
    answer = web.get(f"file={file}", headers=sent)
    assert (answer.status_code, answer.headers["content-range"]) == (status, told)
    assert size is None or len(answer.content) == size
    assert "secret" not in str(answer.headers)
    assert not {"cookie", "host", "user-agent", "x-mine"} & answer.headers.keys()
    if status == 206:
        assert answer.headers.get_list("content-type") == ["video/mp4"]


@pytest.mark.parametrize("path", ["", "x" * 5000, "%00", "..", "/proc/self/mem", "http://a/b", "%FF", "/" * 300])
def test_a_file_that_is_none(web, quiet, path):
    assert web.get(f"file={path}").status_code in (403, 404)


def test_who_has_not_signed_in_is_told_before_the_body_is_read(tmp_path, monkeypatch, quiet):
    read = []
    monkeypatch.setattr("starlette.requests.Request.stream", lambda self: read.append(self.url.path))
    access = Access(accounts=Accounts({"ann": PasswordHash.of("correct horse", ln=4, p=1)}))
    with serve_page(tmp_path, access=access) as page, httpx.Client(base_url=page.url, timeout=60) as web:
        for url in ("upload", "queue/join", "run/predict", "call/generate", "cancel"):
            for kind in ("multipart/form-data; boundary=x", "application/json"):
                headers = {"Content-Type": kind}
                answer = web.post(f"/gradio_api/{url}", content=bytes(1_000_000), headers=headers)
                assert answer.status_code == 401
                assert answer.json()["detail"]["error"] == "Not authenticated"
        for path in ("config", "gradio_api/info", "gradio_api/file=/x", "gradio_api/upload_progress?upload_id=x"):
            assert web.get(f"/{path}").status_code == 401
        for path in ("", "theme.css", "gradio_api/app_id"):
            assert web.get(f"/{path}").status_code == 200
    assert read == []
