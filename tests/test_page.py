"""The page without a browser: its endpoints over HTTP, as scripts call them."""

import inspect
import json
import math
import os
import re
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import av
import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError
from PIL import Image

from diffusers_helper.core.errors import NumericsError
from diffusers_helper.core.fields import MAX_PROMPT_CHARACTERS
from diffusers_helper.core.request import OF_VIDEOS, GenerationRequest
from diffusers_helper.gradio.api.video_edits import EDITS
from diffusers_helper.gradio.app import REMEMBERED_SESSIONS, build_pages
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.inputs import CALL, FRAME_CALL, FRAME_SETTINGS, SETTINGS
from diffusers_helper.gradio.queue.adding import MANY
from diffusers_helper.gradio.style import app_options
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.media.inputs import JobInputs
from tests.fakes import FULL, GOOD, LION, FakeRun, in_a_loop, serve_page, wait_for
from tests.lora_files import write_lora

pytestmark = pytest.mark.slow

NAN, INF = math.nan, math.inf
PATIENT = {"timeout": 60}  # for a machine that is busy with other tests


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for name in ("loras/film", "loras/style/ink", "outside"):
        write_lora(folder / f"{name}.safetensors")
    (folder / "loras" / "bad.safetensors").touch()
    with serve_page(folder, loras=folder / "loras") as page:
        yield page


@pytest.fixture(autouse=True)
def _no_job_outlives_its_test(request):
    yield
    if "page" in request.fixturenames:
        page = request.getfixturevalue("page")
        page.run.hold.set()
        page.wait_until_idle()
        page.run.fault = None


@pytest.fixture(scope="module")
def client(page):
    return Client(page.url, verbose=False, httpx_kwargs=PATIENT)


@pytest.fixture(scope="module")
def lion(page):
    return upload(page, "lion.jpg", LION.read_bytes())


def upload(page, name, content):
    [path] = httpx.post(f"{page.url}/gradio_api/upload", files={"files": (name, content)}, **PATIENT).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def call(page, endpoint, *data):
    """POST raw JSON; Python's writes NaN and Infinity as a careless client does."""
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"data": data})
    return httpx.post(f"{page.url}/gradio_api/call/{endpoint}", content=body, headers=headers, **PATIENT)


def generate(page, image, **changes):
    return call(page, "generate", image, *(GOOD | changes).values())


def everything(image, end_photo=None, **changes):
    """The values of a call with all that there is, in its order."""
    sent = {"image": image, "end_photo": end_photo, "loras": "", **FULL, **changes}
    return [sent[name] for name in CALL]


def result(page, response):
    """What the endpoint returned once Gradio has run it."""
    assert response.status_code == 200, response.text
    answer = httpx.get(f"{page.url}/gradio_api/call/generate/{response.json()['event_id']}", **PATIENT).text
    assert answer.startswith("event: complete"), answer
    return json.loads(answer.partition("data: ")[2])[0]


def faults(response):
    assert response.status_code == 422, response.text
    return {fault["parameter_name"]: fault["message"] for fault in response.json()["detail"] if not fault["is_valid"]}


def test_a_script_gets_its_video_in_five_lines(page, tmp_path):
    client = Client(page.url, verbose=False, httpx_kwargs=PATIENT, download_files=tmp_path)
    job = client.predict(handle_file(LION), "A lion roars.", seconds=1, api_name="/generate")
    while not (state := client.predict(job, api_name="/snapshot"))[1]:
        time.sleep(0.1)
    video = state[1]

    assert state[0]["state"] == "done"
    assert tmp_path in Path(video).parents
    assert state[0]["total_frames"] == 37
    with av.open(video) as file:
        assert sum(1 for _ in file.decode(video=0)) == 37


def test_what_fills_more_than_two_controls_names_them(page):
    """So that nobody counts places; what scripts get has an order of its own."""
    handlers = [each for each in page.blocks.fns.values() if each.fn and each.api_visibility == "private"]
    many = [each for each in handlers if len(each.outputs) > 2]
    assert len(many) > 10
    assert [each.fn for each in many if inspect.unwrap(each.fn) is each.fn] == []


def test_the_endpoints_and_their_parameters(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    names = {name: [p["parameter_name"] for p in api["parameters"]] for name, api in endpoints.items()}
    of_a_job = ("/cancel", "/end_after_section", "/resume", "/snapshot")
    edits = {f"/{name}": [*edit.videos, *edit.numbers, *edit.settings] for name, edit in EDITS.items()}
    photos = {"/generate": [*CALL], "/frame": [*FRAME_CALL, *FRAME_SETTINGS]}
    queue = {f"/queue{name}": ["client"] for name in ("", "_pause", "_continue", "_clear", "_export")}
    queue |= {f"/queue_{name}": ["client", "job_id"] for name in ("duplicate", "remove")}
    queue |= {"/queue_move": ["client", "job_id", "place"], "/queue_import": ["client", "file"]}
    queue |= {"/queue_add": [*CALL, "client", "photos", *MANY], "/queue_edit": [*CALL, "client", "job_id"]}
    presets = {f"/presets_{name}": ["name", "client"] for name in ("load", "delete", "restore")}
    presets |= {"/presets": ["client"], "/presets_save": ["name", "settings", "at_start", "client"]}
    assert names == {**photos, **edits, **queue, **presets, **{name: ["job_id"] for name in of_a_job}}
    # No key pictures here; /frame has its own, and so have given videos.
    elsewhere = {"key_seconds", "frame", *FRAME_SETTINGS, *OF_VIDEOS}
    assert set(SETTINGS) == GenerationRequest.model_fields.keys() - elsewhere
    assert set(CALL) == {"image", "end_photo", *SETTINGS}
    defaults = {p["parameter_name"]: p["parameter_default"] for p in endpoints["/generate"]["parameters"]}
    assert (defaults["teacache"], defaults["steps"], defaults["cfg_scale"]) == (False, 4, 1)


def test_a_script_leaves_out_what_has_a_default(page, client):
    client.predict(handle_file(LION), api_name="/generate")
    page.wait_until_idle()
    request = page.run.jobs[-1].request
    assert (request.prompt, request.steps, request.resolution) == ("", 4, 256)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "x" * 1_000_000),
        ("prompt", None),
        ("prompt", 5),
        ("negative_prompt", "x" * (MAX_PROMPT_CHARACTERS + 1)),
        ("seed", 1e30),
        ("seed", None),
        ("seed", "abc"),
        ("seed", -2),
        ("seed", True),
        ("steps", 1.5),
        ("steps", 0),
        ("steps", 101),
        ("seconds", 0.5),
        ("seconds", 121),
        ("seconds", [5]),
        ("guidance_scale", 33),
        ("cfg_scale", 0.5),
        ("cfg_rescale", 1.1),
        ("teacache", "perhaps"),
        ("preserved_memory_gb", -1),
        ("mp4_crf", -1),
        ("mp4_crf", 101),
        ("resolution", 333),
        *((field, value) for field, good in GOOD.items() if type(good) in (int, float) for value in (NAN, INF, -INF)),
    ],
)
def test_a_bad_setting_is_answered_422_with_its_name_before_any_queue(page, lion, field, value):
    before = len(page.manager.jobs())
    found = faults(generate(page, lion, **{field: value}))
    assert list(found) == [field]
    assert found[field].endswith(".")
    assert len(page.manager.jobs()) == before


def test_every_bad_setting_is_named_at_once(page, lion):
    assert faults(generate(page, None, seed=NAN, steps=0)).keys() == {"image", "seed", "steps"}


def test_a_script_reads_the_fault_as_a_sentence(client):
    with pytest.raises(ValidationError, match="steps: should be at most 100"):
        client.predict(handle_file(LION), steps=101, api_name="/generate")


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"prompt": ""}, {"prompt": ""}),
        ({"prompt": "{} {0} %s %(x)s"}, {"prompt": "{} {0} %s %(x)s"}),
        ({"prompt": "שלום 🦁 a\0b \ud800"}, {"prompt": "שלום 🦁 ab ?"}),
        ({"steps": 1}, {"steps": 1}),
        ({"steps": 2}, {"steps": 2}),
        ({"mp4_crf": 0}, {"crf": 1}),
        ({"mp4_crf": 100}, {"crf": 51}),
        ({"seconds": 1}, {"total_frames": 37, "sections": 1}),
        ({"seed": 2**53 - 1}, {"seed": 2**53 - 1}),
        ({"resolution": None}, {"resolution": None}),
    ],
)
def test_a_good_setting_reaches_the_job(page, lion, changes, kept):
    job = result(page, generate(page, lion, **changes))
    assert page.manager.wait(job, 60).state == "done"
    request = page.run.jobs[-1].request
    assert {name: getattr(request, name) for name in kept} == kept


def test_a_call_with_all_that_there_is_reaches_the_job(page, lion):
    job = result(page, call(page, "generate", *everything(lion, lion)))
    assert page.manager.wait(job, 20).state == "done"
    inputs = page.run.jobs[-1].inputs
    assert inputs.pictures.keys() == {"start", "end"}
    assert inputs.request == GenerationRequest(**FULL)


def test_a_call_from_before_there_were_end_photos_means_what_it_meant(page, lion):
    assert page.manager.wait(result(page, call(page, "generate", lion, *GOOD.values())), 20).state == "done"
    assert page.run.jobs[-1].request.variant == "original", "that of the program, where nobody chooses"
    inputs = page.run.jobs[-1].inputs
    assert inputs.pictures.keys() == {"start"}
    assert inputs.request == GenerationRequest(**GOOD)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"width": 320, "height": None}, {"height": "A width needs a height"}),
        ({"width": "", "height": 320}, {"width": "A width needs a height"}),
        ({"width": "wide", "height": "7.5"}, {"width": "whole number", "height": "whole number"}),
        ({"width": 321, "height": 7}, {"width": "multiple of 16", "height": "at least 64"}),
        ({"prompt": "[2s-1s: a]"}, {"prompt": "ends before it begins"}),
        ({"prompt": "[2s: a] [1s: b]"}, {"prompt": "have to grow"}),
        ({"blend": 5, "end_strength": 1.1, "landing": 3}, {"blend": "at most", "end_strength": "", "landing": ""}),
        ({"shape": "21:9", "fit": "stretch"}, {"shape": "should be one of", "fit": "should be one of"}),
        ({"focus": "0.5"}, {"focus": ""}),
        ({"focus": [0.5, 2]}, {"focus": "at most 1"}),
    ],
)
def test_each_new_setting_is_checked_by_its_name(page, lion, changes, named):
    found = faults(call(page, "generate", *everything(lion, **changes)))
    assert found.keys() == named.keys()
    assert all(words in found[name] for name, words in named.items())


def test_a_bad_end_photo_is_answered_with_its_name(page, lion):
    found = faults(call(page, "generate", *everything(lion, upload(page, "last.png", b"<html>"))))
    assert list(found) == ["end_photo"]
    assert "last.png" in found["end_photo"]


@pytest.mark.parametrize(
    ("loras", "made"),
    [
        ("film.safetensors=0.8; ink=-0.5", [("film.safetensors", 0.8), ("style/ink.safetensors", -0.5)]),
        (["film"], [("film.safetensors", 1)]),
        ({"style/ink": 0.25}, [("style/ink.safetensors", 0.25)]),
        ("film=[0s-1.2s: 0.2]", [("film.safetensors", ((0, 0.2), (1.2, 0)))]),
        ("", []),
    ],
)
def test_loras_are_taken_by_name_in_every_form(page, lion, loras, made):
    job = result(page, call(page, "generate", *everything(lion, loras=loras)))
    assert page.manager.wait(job, 60).state == "done"
    assert [(lora.name, lora.weight) for lora in page.run.jobs[-1].request.loras] == made


@pytest.mark.parametrize(
    ("loras", "told"),
    [
        ("/etc/passwd", "LoRA passwd is not here. Put the file into the folder of LoRA files"),
        ("../outside.safetensors=1", "LoRA outside.safetensors is not here."),
        ("style/../film=1", "is not here"),
        ("bad=1", "LoRA bad.safetensors is cut short after 0 bytes."),
        ("film=heavy", "A LoRA's weight is a number such as 0.8, not heavy."),
        ({"film": [1]}, "A LoRA's weight is a number, or a list of seconds and numbers."),
        (7, ""),
        ([None], ""),
        (["film=1"] * 50, ""),
    ],
)
def test_a_lora_that_cannot_be_used_is_answered_with_its_name(page, lion, loras, told):
    found = faults(call(page, "generate", *everything(lion, loras=loras)))
    assert list(found) == ["loras"]
    assert told in found["loras"]


def test_a_random_seed_is_told(page, lion):
    seeds = [page.manager.snapshot(result(page, generate(page, lion, seed=-1))).seed for _ in range(2)]
    page.wait_until_idle()
    assert [job.request.seed for job in page.run.jobs[-2:]] == seeds
    assert min(seeds) >= 0
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("empty.png", b"", "not an image"),
        ("half.jpg", LION.read_bytes()[:9000], "damaged"),
        ("page.png", b"<html><body>No</body></html>", "web page"),
        ("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        ("bundle.png", b"PK\x03\x04" + bytes(100), "ZIP"),
    ],
)
def test_a_bad_photo_is_answered_with_its_name_before_any_queue(page, name, content, told):
    before = len(page.manager.jobs())
    found = faults(generate(page, upload(page, name, content)))
    assert list(found) == ["image"]
    assert told in found["image"]
    assert name in found["image"]
    assert len(page.manager.jobs()) == before


def test_no_photo_is_answered_too(page):
    assert "Add a photo" in faults(generate(page, None))["image"]


def test_only_uploads_can_be_the_photo(page, lion):
    """A picture that lies elsewhere on this computer is nobody's to show."""
    private = page.outputs.parent / "private.png"
    Image.new("RGB", (256, 256)).save(private)
    stored = {"path": str(private), "meta": {"_type": "gradio.FileData"}}
    for image in (stored, {"path": str(private)}, {"path": lion["path"] + "/../../../private.png"}):
        assert 400 <= generate(page, image).status_code < 500
    assert not [path for path in (page.outputs.parent / "uploads").rglob("*") if path.name == "private.png"]


@pytest.mark.parametrize("image", ["x", 7, [], {"url": "data:image/png;base64,AAAA"}, {"path": "http://127.0.0.1:1/a"}])
def test_what_is_no_upload_is_refused(page, image):
    assert 400 <= generate(page, image).status_code < 500


def test_settings_that_do_not_exist_cannot_be_given(page, client, lion):
    before = len(page.manager.jobs())
    with pytest.raises(TypeError, match="latent_window_size"):
        client.predict(handle_file(LION), latent_window_size=33, api_name="/generate")
    assert len(page.manager.jobs()) == before
    job = result(page, call(page, "generate", *everything(lion), 33))
    assert page.manager.snapshot(job).total_frames == 37
    assert call(page, "generate", lion, *list(GOOD.values())[:-1]).status_code == 400


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("../../etc/x.jpg", "x.jpg"),
        ("a\0b.jpg", None),
        ("a\r\nb.jpg", None),
        ("..", None),
        (f"{'x' * 300}.jpg", None),
        ("🦁 רעם.jpg", "🦁 רעם.jpg"),
        ("CON.jpg", "_CON.jpg"),
        ("-rf.jpg", "-rf.jpg"),
    ],
)
def test_a_file_name_is_made_harmless_and_stays_readable(page, name, stored):
    disposition = f'form-data; name="files"; filename="{name}"'.encode()
    body = b"--x\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + LION.read_bytes() + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{page.url}/gradio_api/upload", content=body, headers=headers, **PATIENT)
    if stored is None and answer.status_code != 200:
        assert 400 <= answer.status_code < 500
        return
    [path] = answer.json()
    assert Path(path).resolve().parent.parent == (page.outputs.parent / "uploads").resolve()
    assert stored is None or Path(path).name == stored
    photo = {"path": path, "meta": {"_type": "gradio.FileData"}}
    assert page.manager.wait(result(page, generate(page, photo)), 20).state == "done"


@pytest.mark.parametrize(
    ("url", "body", "status"),
    [
        ("call/nowhere", {"data": []}, 404),
        ("call/generate", {"data": []}, 400),
        ("call/generate", {"data": "x"}, 422),
        ("call/generate", {}, 422),
        ("call/generate", "{", 422),
        ("call/generate", "x" * 100_000_000, 413),
    ],
)
def test_a_call_that_makes_no_sense_is_4xx(page, url, body, status):
    content = body if isinstance(body, str) else json.dumps(body)
    headers = {"Content-Type": "application/json"}
    assert httpx.post(f"{page.url}/gradio_api/{url}", content=content, headers=headers, **PATIENT).status_code == status


def test_no_endpoint_goes_round_the_checks(page, lion):
    bad = {"data": [lion, *(GOOD | {"steps": 0}).values()]}
    assert httpx.post(f"{page.url}/gradio_api/run/generate", json=bad).status_code == 404


def test_only_who_knows_the_id_may_cancel_or_look(page, client, lion):
    page.run.hold.clear()
    job = result(page, generate(page, lion))
    for stranger in ("", "20260101_000000_0000000000000000", None, 7, [job], job[:-1]):
        assert list(faults(call(page, "cancel", stranger))) == ["job_id"]
        assert list(faults(call(page, "snapshot", stranger))) == ["job_id"]
    assert not page.manager.snapshot(job).ended

    assert client.predict(job, api_name="/cancel")["id"] == job
    assert page.manager.wait(job, 60).state == "cancelled"
    assert client.predict(job, api_name="/cancel")["state"] == "cancelled"


def test_a_snapshot_has_no_video_before_the_end_and_keeps_a_part_that_was_finished(page, client):
    page.run.hold_at = 1
    page.run.hold.clear()
    job = client.predict(handle_file(LION), seconds=2.4, api_name="/generate")
    wait_for(lambda: page.manager.snapshot(job).video)
    assert client.predict(job, api_name="/snapshot")[1] is None

    client.predict(job, api_name="/cancel")
    page.manager.wait(job, 60)
    state, video = client.predict(job, api_name="/snapshot")
    page.run.hold_at = 0
    assert (state["state"], state["partial"]) == ("cancelled", True)
    assert os.path.getsize(video) > 1000


def test_a_failed_job_is_told_to_a_script(page, client):
    page.run.fault = NumericsError("The model gave NaN.")
    job = client.predict(handle_file(LION), api_name="/generate")
    page.manager.wait(job, 60)
    state, video = client.predict(job, api_name="/snapshot")
    assert (state["state"], state["error"], video) == ("failed", "The model gave NaN.", None)


def test_a_full_queue_is_told_to_a_script(page, client, lion):
    page.run.hold.clear()
    pictures = {"start": SimpleNamespace(name="", notes=())}
    running = page.manager.submit(JobInputs(GenerationRequest(seconds=1, steps=2), pictures))
    wait_for(lambda: page.manager.snapshot(running).step)
    waiting = [page.manager.submit(JobInputs(GenerationRequest(), pictures)) for _ in range(1000)]
    with pytest.raises(AppError, match="waiting already"):
        client.predict(handle_file(LION), api_name="/generate")
    answer = generate(page, lion)
    assert answer.status_code == 503
    assert "1000 jobs are waiting already, and no more than 1000 may" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) > 0
    for job in reversed(waiting):
        page.manager.cancel(job)
    page.run.hold.set()
    assert result(page, generate(page, lion))


def test_a_video_is_served_in_ranges_and_nothing_beside_it(page, lion):
    job = result(page, generate(page, lion))
    video = page.manager.wait(job, 60).video
    url = f"{page.url}/gradio_api/file="
    part = httpx.get(url + video, headers={"Range": "bytes=0-99"})
    assert (part.status_code, len(part.content), part.headers["content-type"]) == (206, 100, "video/mp4")
    for other in ("/etc/passwd", f"{page.outputs}/../private.png", __file__):
        assert httpx.get(url + other).status_code == 403


def test_the_server_does_not_grow_with_every_visit(page):
    config = httpx.get(f"{page.url}/config", **PATIENT).json()
    [tick] = [call["id"] for call in config["dependencies"] if call["api_name"] == "tick"]
    with httpx.Client(base_url=page.url, **PATIENT) as tabs:
        for tab in range(REMEMBERED_SESSIONS + 10):
            body = {"data": [None, "", ""], "fn_index": tick, "session_hash": f"tab{tab}"}
            assert tabs.post("/gradio_api/run/predict", json=body).status_code == 200
    assert len(page.blocks.state_holder.session_data) <= REMEMBERED_SESSIONS


def test_nothing_that_is_served_says_where_else_to_fetch_from(page):
    config = httpx.get(f"{page.url}/config").json()
    assert not config["analytics_enabled"]
    assert "http" not in config["css"]
    assert not re.findall(r"url\((?!.?data:)", httpx.get(f"{page.url}/theme.css").text)


def test_building_a_page_binds_and_calls_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the page opened a socket by itself")

    for name in ("bind", "connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    before = threading.active_count()
    model = ModelCard(GenerationRequest(variant="f1"), "Tiny <model>")
    app = in_a_loop(build_pages, ["en"], model, JobManager(FakeRun(tmp_path)), tmp_path)["en"]
    assert not app.is_running
    assert threading.active_count() == before
    html = [block.value for block in app.blocks.values() if isinstance(block, gr.HTML)]
    assert any("Tiny &lt;model&gt;" in value for value in html)


@pytest.mark.parametrize("target", [gr.Blocks.launch, gr.mount_gradio_app])
def test_both_ways_to_serve_take_the_options(target):
    assert app_options().keys() <= inspect.signature(target).parameters.keys()
