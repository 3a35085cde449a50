"""The endpoints on uploaded videos, on a page whose jobs compute nothing."""

import inspect
import threading

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import ValidationError

from diffusers_helper.core.errors import ClipError
from diffusers_helper.gradio.api.video_edits import VideoReader
from diffusers_helper.gradio.client_jobs import new_client_id
from diffusers_helper.gradio.create.given_video import VideoPanelHandlers
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue import QueueLimits
from tests.fakes import GOOD, LION, FakeRun, serve_page
from tests.odd_videos import sound_only, video
from tests.test_page import PATIENT, call, faults, result, upload


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with serve_page(tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(scope="module")
def client(page):
    return Client(page.url, verbose=False, httpx_kwargs=PATIENT)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return video(tmp_path_factory.mktemp("clips") / "clip.mp4", 60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "made"),
    [
        ("extend", {}, (["before"], None)),
        ("extend", {"before": True}, (["after"], None)),
        ("connect", {"second": True}, (["before", "after"], None)),
        ("loop", {}, (["around"], None)),
        ("redo", {"begin": 0.2, "end": 1.4}, (["around"], (0.2, 1.4))),
        ("redo", {"begin": 0.8, "end": 2}, (["before"], (0.8, 2.0))),
        ("insert", {"at": 1}, (["around"], (1.0, 1.0))),
    ],
)
def test_a_script_has_its_video_made(page, client, clip, name, more, made):
    if "second" in more:
        more = {"second": handle_file(clip)}
    job = client.predict(handle_file(clip), prompt="Wave", anchor="first", steps=2, **more, api_name=f"/{name}")
    page.wait_until_idle()
    inputs = page.run.jobs[-1].inputs
    assert page.manager.snapshot(job).state == "done"
    assert (list(inputs.videos), inputs.request.replaced) == made
    assert {each.name for each in inputs.videos.values()} == {"clip.mp4"}
    assert (inputs.request.prompt, inputs.request.anchor, inputs.request.steps) == ("Wave", "first", 2)
    assert page.manager.snapshot(job).photo_name == "clip.mp4"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "given"), [("extend", [False]), ("loop", [])])
def test_scripts_of_an_earlier_version_need_not_name_what_came_later(page, clip, name, given):
    older = [*GOOD.values(), 0, 2, "", "last"]
    film = upload(page, "clip.mp4", clip.read_bytes())
    result(page, call(page, name, film, *given, *older))
    page.wait_until_idle()
    request = page.run.jobs[-1].request
    assert (request.prompt, request.variant, request.forget_at_changes) == (GOOD["prompt"], "original", False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "fault"),
    [
        ("redo", {"begin": 1, "end": 9}, "not in the video"),
        ("redo", {"begin": None}, "number"),
        ("insert", {"at": 60}, "not inside"),
        ("extend", {"before": "yes"}, "true or false"),
        ("extend", {"steps": 0}, "at least 1"),
        ("extend", {"anchor": "middle"}, "one of"),
        ("extend", {"loras": "/etc/film"}, "LoRA film is not here"),
    ],
)
def test_what_cannot_be_is_told_before_anything_waits(page, client, clip, name, more, fault):
    before = len(page.run.jobs)
    with pytest.raises(ValidationError, match=fault):
        client.predict(handle_file(clip), **more, api_name=f"/{name}")
    assert len(page.run.jobs) == before


@pytest.mark.slow
def test_what_is_no_video_is_told(page, client, tmp_path):
    for file, fault in ((LION, "no video"), (sound_only(tmp_path / "a.mp4"), "only sound")):
        with pytest.raises(ValidationError, match=fault):
            client.predict(handle_file(file), api_name="/loop")
    settings = _values(page, "loop")
    assert "Add a video" in faults(call(page, "loop", None, *settings))["video"]
    gone = upload(page, "a.mp4", b"x") | {"path": "/etc/hostname"}
    assert call(page, "loop", gone, *settings).status_code == 422


@pytest.mark.slow
def test_a_full_queue_refuses_them(tmp_path, clip):
    run = FakeRun(tmp_path / "outputs")
    run.hold.clear()
    manager = JobManager(run, limits=QueueLimits(waiting=2))
    with serve_page(tmp_path, manager=manager) as page:
        loaded = upload(page, "clip.mp4", clip.read_bytes())
        values = _values(page, "loop")
        answers = []
        while 503 not in answers:
            answers.append(call(page, "loop", loaded, *values).status_code)
            assert len(answers) < 200
        assert set(answers) == {200, 503}
        run.hold.set()
    assert manager.close(60)


def _values(page, name):
    """What a call has after the video where nothing is changed."""
    function = next(each for each in page.blocks.fns.values() if each.api_name == name)
    return [block.value for block in function.inputs[1:]]


def test_too_many_readers_are_turned_away():
    reader, inside, go_on = VideoReader(at_once=1, waiting=1), threading.Semaphore(0), threading.Event()

    def read():
        with reader.turn():
            inside.release()
            assert go_on.wait(60)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=60)
    while reader._places._value:  # until the other one waits, too
        pass
    with pytest.raises(ClipError, match="try again"), reader.turn():
        pass
    go_on.set()
    for thread in threads:
        thread.join(60)
    with reader.turn():
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "use"), [("before", "before"), ("after", "after"), ("around", "around"), (7, "before")]
)
def test_the_panel_starts_a_job_that_its_tab_shows(page, clip, place, use):
    button = next(each for each in page.blocks.fns.values() if isinstance(_owner(each), VideoPanelHandlers))
    controls = {block.elem_id: block for block in button.inputs if block.elem_id}
    assert {"given-video", "video-place", "prompt", "seconds"} <= controls.keys()
    settings = {
        **GOOD,
        "blend": 0,
        "landing": 1,
        "forget_at_changes": False,
        "quality": "exact",
        "step_cache": "",
        "seed": -1,
        "loras": "",
        "variant": "f1",
    }
    handlers, client = _owner(button), new_client_id()
    loaded = upload(page, "clip.mp4", clip.read_bytes())
    shown = handlers.start(client, "", loaded, place=place, **settings)
    assert (shown["message"], bool(shown["seen"])) == ("", True)
    assert len(shown) == len(button.outputs)
    page.wait_until_idle()
    inputs = page.run.jobs[-1].inputs
    assert (list(inputs.videos), inputs.request.variant) == ([use], "f1")
    assert handlers.backend.client_jobs.job(client).photo_name == "clip.mp4"
    assert "Add a video first" in handlers.start(client, "", None, place=place, **settings)["message"]


def _owner(function):
    return getattr(inspect.unwrap(function.fn), "__self__", None) if function.fn else None
