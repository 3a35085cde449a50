"""Which requests are answered: the list against all that Gradio brings, and each kind that is not."""

import re
from collections.abc import Iterator

import httpx
import pytest

from diffusers_helper.gradio.door.allowed import ENDPOINTS, endpoint_of
from tests.fakes import serve_page

pytestmark = pytest.mark.slow

CLOSED = """
/openapi.json /pwa_icon /pwa_icon/{size} /monitoring /monitoring/summary /monitoring/{key}
/gradio_api/user /gradio_api/user/ /gradio_api/login_check /gradio_api/login_check/ /gradio_api/token /gradio_api/token/
/gradio_api/app_id/ /gradio_api/dev/reload /gradio_api/deep_link
/gradio_api/openapi.json /gradio_api/custom_component/{id}/{environment}/{type}/{file_name}
/gradio_api/proxy={url_path:path} /gradio_api/runs /gradio_api/runs/
/gradio_api/run-history/connect /gradio_api/run-history/buckets /gradio_api/run-history/records
/gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id}
/gradio_api/stream/{event_id} /gradio_api/stream/{event_id}/close
/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8
/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}
/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file
/gradio_api/reset /gradio_api/reset/ /gradio_api/heartbeat/{session_hash}
/gradio_api/api/{api_name} /gradio_api/api/{api_name}/
/gradio_api/call/v2/{api_name} /gradio_api/call/v2/{api_name}/ /gradio_api/call/v2/{api_name}/{event_id}
/gradio_api/component_server /gradio_api/component_server/ /gradio_api/queue/status /gradio_api/theme.css
/gradio_api/process_recording /gradio_api/vibe-edit /gradio_api/vibe-edit/ /gradio_api/undo-vibe-edit
/gradio_api/undo-vibe-edit/ /gradio_api/vibe-code /gradio_api/vibe-code/ /gradio_api/vibe-starter-queries
/gradio_api/vibe-starter-queries/
"""
"""What Gradio 6.31 has beside ENDPOINTS, as its routes are written."""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with serve_page(tmp_path_factory.mktemp("page")) as page:
        yield page


def routes_of(app) -> Iterator[tuple[str, str]]:
    """Each method and path that a Gradio application answers."""
    for route in app.routes:
        nested = getattr(route, "effective_candidates", None)
        for one in nested() if nested else [route]:
            yield from ((method, one.path) for method in one.methods)


def filled(path):
    """A path as a client would write it."""
    return re.sub(r"\{[^}]*\}", "x", path)


def test_every_endpoint_of_gradios_is_answered_or_closed_by_name(page):
    found = {path for method, path in routes_of(page.blocks.app)}
    answered = {path for path in found if endpoint_of(filled(path))}
    assert found - answered == set(CLOSED.split()), "another version of Gradio: decide about what is new"
    unused = [one.path for one in ENDPOINTS if not any(re.fullmatch(one.path, filled(path)) for path in answered)]
    assert unused == []


def test_a_closed_endpoint_is_404_and_leaves_nothing(page):
    with httpx.Client(base_url=page.url, timeout=60) as client:
        for path in [*map(filled, CLOSED.split()), "/nowhere", "/gradio_api/upload/", "/gradio_api//upload"]:
            for method in ("GET", "POST"):
                answer = client.request(method, f"{path}?session_hash=x", json={} if method == "POST" else None)
                assert answer.status_code == 404, (method, path)
    assert not list((page.outputs.parent / "uploads").glob("*"))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("DELETE", "/", "GET, HEAD"), ("GET", "/gradio_api/upload", "POST"), ("POST", "/logout", "GET")],
)
def test_another_method_is_405(page, method, path, allowed):
    answer = httpx.request(method, page.url + path, timeout=60)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/theme.css", 200),
        ("/logout", 403),
        ("/config", 403),
        ("/gradio_api/startup-events", 403),
        ("/gradio_api/queue/data?session_hash=x", 403),
        ("/gradio_api/call/generate/x", 403),
    ],
)
def test_pages_of_other_sites_may_lead_here_only_where_asking_changes_nothing(page, path, status):
    for site in ("cross-site", "same-site"):
        assert httpx.get(page.url + path, headers={"Sec-Fetch-Site": site}, timeout=60).status_code == status
    own = httpx.get(page.url + path, headers={"Sec-Fetch-Site": "same-origin"}, timeout=60)
    assert own.status_code != 403
