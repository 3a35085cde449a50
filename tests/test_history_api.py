"""The history for scripts: docs/history.md's example as it stands, and nobody's videos for anybody else."""

import json
import re
from pathlib import Path

import httpx
import pytest

from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.store import JobStore
from tests.history_page import serve_history
from tests.test_history_library import ANN, BOB, add, with_recipe
from tests.test_unfinished import REQUEST

DOCS = (Path(__file__).parents[1] / "docs" / "history.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "outputs/jobs")


@pytest.fixture
def served(tmp_path, store):
    manager = JobManager(lambda job: iter(()))
    with serve_history(tmp_path, store, manager) as served:
        yield served
    assert manager.close(60)


def call(url, name, *data, **headers):
    """What plain HTTP answers: the refusal, or the data of the event."""
    endpoint = f"{url}/gradio_api/call/{name}"
    joined = httpx.post(endpoint, json={"data": data}, timeout=60, headers=headers)
    if joined.status_code != 200:
        return joined.status_code
    answer = httpx.get(f"{endpoint}/{joined.json()['event_id']}", timeout=60, headers=headers).text
    assert "event: complete" in answer, answer
    return json.loads(answer.partition("event: complete\ndata: ")[2].partition("\n")[0])


def test_the_example_runs_as_it_stands(store, served, tmp_path, monkeypatch, capsys):
    url, _ = served
    job = add(store, 1, client_id="", request={"prompt": "A lion roars."}, recipe=REQUEST, finished=1.78e9)
    [example] = re.findall(r"^```python\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(example.replace("http://127.0.0.1:7860", url), {})
    first, second = [line for line in capsys.readouterr().out.splitlines() if "Loaded" not in line]
    assert first == f"{job} done A lion roars."
    assert second.startswith("5 1 ")
    assert Path(second.removeprefix("5 1 ")).read_bytes() == (store.folder.parent / f"{job}.mp4").read_bytes()


def test_plain_http_and_what_it_may_see(store, served):
    url, _ = served
    mine = add(store, 1, client_id="")
    of_ann = add(store, 2)
    from_afar = add(store, 3, client_id="", owner="10.0.0.7")
    usual = ["", "", "", "", "", 0, False, False, 1]
    found = call(url, "history", *usual)[0]
    assert ([video["id"] for video in found["videos"]], found["count"], found["pages"]) == ([mine], 1, 1)
    assert not {"owner", "client_id"} & found["videos"][0].keys()
    for job in (mine, of_ann, from_afar):  # an id is the right to its video
        assert call(url, "history_show", job)[0]["id"] == job
    assert call(url, "history_rate", of_ann, 4, None)[0]["rating"] == 4
    assert call(url, "history_delete", of_ann)[0]["deleted"] > 0
    assert call(url, "history_undo", of_ann)[0]["deleted"] == 0
    for name, data in (
        ("history", ["", "yesterday", *usual[2:]]),
        ("history", [*usual[:5], 7, *usual[6:]]),
        ("history_show", ["20260101_120000_00000000000000ff"]),
        ("history_show", ["../../x"]),
        ("history_delete", [None]),
        ("history_rate", [mine, 9, None]),
        ("history_rate", [mine, 1, "yes"]),
    ):
        assert call(url, name, *data) == 422, (name, data)


def test_a_name_that_leads_here_from_elsewhere_sees_nothing(store, served):
    url, _ = served
    job = add(store, 1, client_id="")
    video = store.folder.parent / f"{job}.mp4"
    video.unlink()
    with_recipe(video, REQUEST)
    usual = ["", "", "", "", "", 0, False, False, 1]
    found = call(url, "history", *usual, Host="192.0.2.7")
    assert found[0]["count"] == 0
    assert httpx.get(f"{url}/gradio_api/poster/{job}", headers={"Host": "192.0.2.7"}, timeout=60).status_code == 404
    poster = httpx.get(f"{url}/gradio_api/poster/{job}", timeout=60)
    assert (poster.status_code, poster.headers["content-type"]) == (200, "image/webp")
    assert "private" in poster.headers["cache-control"]
    for name in ("none", "%2e%2e%2fx", "a" * 200):
        assert httpx.get(f"{url}/gradio_api/poster/{name}", timeout=60).status_code == 404


def test_the_page_itself_keeps_two_browsers_apart(store, served):
    _, history = served
    of_ann, of_bob = add(store, 1), add(store, 2, client_id=BOB.client_id)
    from diffusers_helper.gradio.history.handlers import HistoryHandlers

    handlers = HistoryHandlers(history)
    for viewer, own, other in ((ANN, of_ann, of_bob), (BOB, of_bob, of_ann)):
        page = handlers.ask(viewer.client_id, None)
        assert [video["id"] for video in page["videos"]] == [own]
        for action in ("star", "rate", "delete", "restore"):
            event = type("Event", (), {"_data": {"action": action, "id": other, "starred": True, "rating": 3}})()
            page = handlers.ask(viewer.client_id, event)
            assert page["fault"] == "This video is not in the history."
            assert [video["id"] for video in page["videos"]] == [own]
