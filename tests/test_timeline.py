"""The timeline without a browser: what it shows of the form, what a change makes of it, whose pictures it takes."""

import random
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from diffusers_helper.core.directing import direct
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.scores import BEFORE
from diffusers_helper.gradio.api.video_edits import VideoReader
from diffusers_helper.gradio.client_jobs import ClientJobs, new_client_id
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.create.hints import HintHandlers
from diffusers_helper.gradio.door.uploads import Uploads
from diffusers_helper.gradio.keys import KEY_PHOTOS, kept_keys, key_photo, key_photos, with_key_seconds, within
from diffusers_helper.gradio.queue.adding import Adder
from diffusers_helper.gradio.stage.handlers import PageHandlers
from diffusers_helper.gradio.timeline.cells import prompt_from, timeline_of
from diffusers_helper.gradio.timeline.edits import MOST_CELLS, with_weights
from diffusers_helper.gradio.timeline.handlers import WRITTEN, TimelineHandlers
from diffusers_helper.gradio.timeline.redo import finished, redo_inputs, settings_from
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.media.decoding import PhotoReader
from tests.fakes import GOOD, LION, FakeRun

FORM = {"prompt": "a", "seconds": 4.8, "blend": 0, "loras": "", "image": None, "end_photo": None, KEY_PHOTOS: []}


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


@pytest.fixture
def upload(uploads):
    """Puts a picture among the uploads; a key picture without a time."""

    def put(name="gate.png", digit="0", content=None, owner=""):
        file = uploads / (digit * 64) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (96, 64), "teal").save(file)
        else:
            file.write_bytes(content)
        if owner:
            Uploads(uploads).add([file], owner)
        return {"path": str(file), "name": name}

    return put


@pytest.fixture
def fake(tmp_path):
    run = FakeRun(tmp_path / "outputs")
    manager = JobManager(run)
    yield run, manager
    run.hold.set()
    assert manager.close(60)


@pytest.fixture
def handlers(fake):
    return TimelineHandlers(ClientJobs(fake[1]), PhotoReader())


def show(handlers, known=None, request=None, **form):
    return handlers.show(known or {}, "", "", request, **FORM | form)


def edit(handlers, value, request=None, **form):
    changed = handlers.edit(value, "", "", request, **FORM | form)
    made = changed.pop("timeline")
    assert changed.keys() <= {*WRITTEN}
    return changed, made


def test_what_was_typed_as_the_prompt_meanwhile_stays(handlers):
    value = show(handlers, prompt="")
    value["cells"][2]["text"] = "It yawns."
    changed, _ = edit(handlers, value, prompt="A lion roars.")
    assert changed["prompt"] == "[0s: A lion roars.] [2.4s: It yawns.]"
    value = show(handlers, prompt="[0s: a] [1.2s: b]")
    value["cells"][1]["text"] = "c"
    changed, _ = edit(handlers, value, prompt="[0s: new] [1.2s: b] [3.6s: d]")
    assert changed["prompt"] == "[0s: new] [1.2s: c] [3.6s: d]"


def test_it_shows_the_form_once(handlers, upload):
    gate = upload()
    keys = [key_photo(2.4, **gate)]
    value = show(
        handlers, prompt="[0s: a] [2.4s: b]", blend=1, image={"path": upload("p.png", "1")["path"]}, key_photos=keys
    )
    assert [cell["text"] for cell in value["cells"]] == ["a", "", "b", ""]
    assert [cell["follows"] for cell in value["cells"]] == ["", "→ a", "", "→ b"]
    assert [cell["share"] for cell in value["cells"]] == ["", "", "50 % new", ""]
    assert [cell["picture"] for cell in value["cells"]] == [None, None, keys[0], None]
    assert value["cells"][2]["url"].endswith("gate.png")
    assert (value["photo"].endswith("p.png"), value["end"], value["redo"]) == (True, "", 0)
    assert (value["told"], value["notes"], value["broken"]) == ("Texts: 2, pictures: 1", [], False)
    assert (
        show(
            handlers,
            value,
            prompt="[0s: a] [2.4s: b]",
            blend=1,
            image={"path": upload("p.png", "1")["path"]},
            key_photos=keys,
        )
        == gr.skip()
    )
    assert show(handlers, value, prompt="other")["cells"][0]["text"] == "other"


def test_a_change_becomes_the_prompt_and_the_key_pictures(handlers, upload):
    value = show(handlers, prompt="a")
    value["cells"][2] |= {"text": " b ", "picture": upload()}
    changed, made = edit(handlers, {**value, "turn": 3}, prompt="a")
    assert changed == {"prompt": "[0s: a] [2.4s: b]", KEY_PHOTOS: [key_photo(2.4, **upload())]}
    assert (made["turn"], made["answered"], made["prompt"]) == (3, 3, changed["prompt"])
    assert show(handlers, made, **changed) == gr.skip(), "the form that was written is the one that is shown"


def test_an_answer_to_an_older_change_is_told_from_a_newer_one(handlers):
    first, second = show(handlers), show(handlers)
    first["cells"][1]["text"] = "b"
    second["cells"][1]["text"], second["cells"][3]["text"] = "b", "c"
    changed, _ = edit(handlers, {**first, "turn": 1})
    changed, made = edit(handlers, {**second, "turn": 2}, **changed)  # made of the prompt before the first change
    assert (changed["prompt"], made["answered"]) == ("[0s: a] [1.2s: b] [3.6s: c]", 2)


def test_a_picture_keeps_its_exact_time_in_its_section_and_takes_that_of_another(handlers, upload):
    keys = [key_photo(2.5, **upload()), key_photo(9.6, **upload("late.png", "1"))]
    value = show(handlers, key_photos=keys)
    assert [bool(cell["picture"]) for cell in value["cells"]] == [False, False, True, False]
    assert "9.6 s comes after the end" in value["notes"][0]
    same, _ = edit(handlers, value, key_photos=keys)
    assert same[KEY_PHOTOS] == keys, "what comes after the end stays, too"
    value["cells"][3]["picture"], value["cells"][2]["picture"] = value["cells"][2]["picture"], None
    moved, _ = edit(handlers, value, key_photos=keys)
    assert [one["seconds"] for one in moved[KEY_PHOTOS]] == [3.6, 9.6]


def test_a_dropped_photo_or_end_photo_goes_to_its_field(handlers, upload):
    value = show(handlers)
    changed, made = edit(handlers, {**value, "put": {**upload(), "place": "photo"}})
    assert (changed["image"]["path"], changed["image"]["orig_name"]) == (upload()["path"], "gate.png")
    assert made["photo"].endswith("gate.png")
    changed, _ = edit(handlers, {**value, "put": {**upload(), "place": "end"}})
    assert changed["end_photo"]["path"] == upload()["path"]


def test_what_cannot_be_is_told_and_changes_nothing(handlers, upload):
    value = show(handlers)
    for cell, words in (
        ({"text": "[b]"}, "no brackets"),
        ({"text": "x" * 10_001}, "10000 characters"),
        ({"picture": upload("a.png", "2", b"PK\3\4" + bytes(100))}, "a.png"),
        ({"picture": {"path": "/etc/passwd", "name": "x"}}, "no longer here"),
        ({"loras": [{"weight": "x"}]}, "weight"),
    ):
        other = {**value, "turn": 7, "cells": [value["cells"][0], {**value["cells"][1], **cell}, *value["cells"][2:]]}
        if "loras" in cell:
            other["cells"] = [{**one, "loras": [{"weight": "x"}]} for one in other["cells"]]
        changed, made = edit(handlers, other, loras="film=1" if "loras" in cell else "")
        assert changed == {}
        assert words in made["fault"]
        assert (made["answered"], made["cells"]) == (7, other["cells"]), "what was typed is still there"


@pytest.mark.parametrize(
    "value",
    [
        None, [], "x", {}, {"turn": 1, "prompt": "a", "cells": []}, {"turn": 1, "prompt": "a", "cells": [None]},
        {"turn": 1, "prompt": "a", "cells": [{"text": 1, "picture": None, "loras": []}]},
        {"turn": 1, "prompt": "a", "cells": [{"text": "", "picture": {"path": 1, "name": ""}, "loras": []}]},
        {"turn": 1, "prompt": "a", "cells": [{"text": "", "picture": None, "loras": [1]}]},
        {"turn": 1, "prompt": 7, "cells": [{"text": "", "picture": None, "loras": []}]},
        {"turn": 1, "prompt": "a", "cells": [{"text": "", "picture": None, "loras": []}] * (MOST_CELLS + 1)},
    ],
)  # fmt: skip
def test_what_the_page_does_not_send_is_no_fault_of_the_server(handlers, value):
    changed, made = edit(handlers, value)
    assert (changed, made["fault"]) == ({}, "This page lost its place; reload it.")
    assert show(handlers, value)["cells"][0]["text"] == "a"


def test_a_prompt_that_is_not_typed_to_its_end_leaves_the_cells_and_says_so(handlers):
    value = show(handlers, prompt="[0s: a] [1.2s: b]")
    broken = show(handlers, value, prompt="[0s: a] [1.2s-1s: b]")
    assert broken["broken"]
    assert "ends before it begins" in broken["fault"]
    assert broken["cells"] == value["cells"]
    again = show(handlers, broken, prompt="[0s: a] [1.2s: c]")
    assert (again["broken"], again["fault"], again["cells"][1]["text"]) == (False, "", "c")
    assert show(handlers, value, seconds=None)["broken"]
    assert show(handlers, value, loras="film=much")["broken"]


def test_a_shorter_video_keeps_what_fits_and_says_what_does_not(handlers, upload):
    keys = [key_photo(2.4, **upload())]
    value = show(handlers, prompt="[0s: a] [0.5s: x] [3.6s: d]", seconds=2.4, key_photos=keys)
    assert [cell["text"] for cell in value["cells"]] == ["x", ""]
    assert value["notes"] == [
        "“d” begins at 3.6 s, after the end of the video. A longer one has it again.",
        "“a” has no time of its own: the video follows one text for 1.2 s at least.",
        "The picture at 2.4 s comes after the end of the video. A longer one has it again.",
    ]
    value["cells"][1]["text"] = "b"
    changed, _ = edit(handlers, value, prompt=value["prompt"], seconds=2.4, key_photos=keys)
    assert (changed["prompt"], changed[KEY_PHOTOS]) == ("[0s: a] [0.5s: x] [1.2s: b] [3.6s: d]", keys)
    longer = show(handlers, prompt=changed["prompt"], key_photos=keys)
    assert [cell["text"] for cell in longer["cells"]] == ["x", "b", "", "d"]
    assert longer["cells"][2]["picture"] == keys[0]


def test_uploads_of_another_user_are_no_pictures_of_this_one(handlers, upload):
    ann, bob = (gr.Request(username=name, client=None) for name in ("ann", "bob"))
    gate = upload(owner="ann")
    value = show(handlers, request=bob)
    value["cells"][1]["picture"] = gate
    changed, made = edit(handlers, value, request=bob)
    assert changed == {}
    assert "no longer here" in made["fault"]
    assert edit(handlers, value, request=ann)[0][KEY_PHOTOS] == [key_photo(1.2, **gate)]
    keys = [key_photo(1.2, **gate)]
    foreign = show(handlers, request=bob, key_photos=keys, image={"path": gate["path"]})
    assert (foreign["photo"], foreign["cells"][1]["url"]) == ("", "")
    assert foreign["notes"] == ["The picture at 1.2 s is no longer here: choose it again."]


# --- key pictures as a value of the form


@pytest.mark.parametrize(
    "value", ["x", {}, [1], [{"seconds": "1", "path": "a", "name": "b"}], [{"seconds": 1, "path": "a"}], [[]] * 21,
              [{"seconds": float("nan"), "path": "a", "name": "b"}], [{"seconds": True, "path": "a", "name": "b"}],
              [{"seconds": -1, "path": "a", "name": "b"}], [{"seconds": 1e400, "path": "a", "name": "b"}]],
)  # fmt: skip
def test_what_is_no_list_of_key_pictures(value):
    with pytest.raises(SettingsError, match="key pictures cannot be read"):
        key_photos(value)
    assert kept_keys(value, lambda path: True) == []


def test_key_pictures_are_in_the_order_of_time_and_those_after_the_end_are_left_out():
    keys = key_photos([key_photo(3.6, "b", "b"), {**key_photo(1, "a", "a"), "more": 1}])
    assert keys == [key_photo(1, "a", "a"), key_photo(3.6, "b", "b")]
    assert [len(within(keys, seconds)) for seconds in (1, 2.4, 3.6, 4.8, None, "x", True)] == [0, 1, 1, 2, 2, 2, 2]
    assert with_key_seconds({"seconds": 2.4, KEY_PHOTOS: keys}) == {"seconds": 2.4, "key_seconds": [1]}
    assert with_key_seconds({"seconds": 2.4}) == {"seconds": 2.4}


def test_start_makes_a_request_with_exactly_these_pictures(fake, upload):
    run, manager = fake
    page, ann = PageHandlers(ClientJobs(manager)), new_client_id()
    photo = {"path": upload("lion.jpg", "3", LION.read_bytes())["path"]}
    keys = [key_photo(2.4, **upload("b.png", "2")), key_photo(1.2, **upload("a.png", "1")), key_photo(60, **upload())]
    form = GOOD | {"variant": "f1", "seconds": 3.6, KEY_PHOTOS: keys}
    assert page.start(ann, "", photo, **form)["message"] == ""
    assert manager.wait(manager.jobs()[0].id, 60).state == "done"
    inputs = run.jobs[0].inputs
    assert inputs.request == GenerationRequest(**GOOD | {"variant": "f1", "seconds": 3.6, "key_seconds": (1.2, 2.4)})
    assert {name: photo.name for name, photo in inputs.pictures.items()} == {
        "start": "lion.jpg", "key_1": "a.png", "key_2": "b.png",
    }  # fmt: skip
    assert direct(inputs.request, inputs.pictures)
    assert "the same video again" in page.start(ann, "", photo, **form)["message"]
    other = form | {KEY_PHOTOS: [key_photo(1.2, **upload("c.png", "4")), keys[0]]}
    assert page.start(ann, "", photo, **other)["message"] == "", "with another picture it is another video"
    gone = form | {KEY_PHOTOS: [key_photo(1.2, "/etc/passwd", "x")]}
    assert "no longer here" in page.start(ann, "", photo, **gone)["message"]
    assert "cannot be read" in page.start(ann, "", photo, **form | {KEY_PHOTOS: "x"})["message"]


def test_hints_and_other_starts_know_the_key_pictures(fake, upload):
    run, manager = fake
    photo = {"path": upload("lion.jpg", "3", LION.read_bytes())["path"]}
    form = GOOD | {"seconds": 3.6, KEY_PHOTOS: [key_photo(2.4, **upload())]}
    asked = []
    hints = HintHandlers(estimate=lambda request, pictures: asked.append((request.key_seconds, [*pictures])))
    assert hints.review("something is wrong", photo, end_photo=photo, **form)[0] == ""
    assert asked == [((2.4,), ["start", "key_1", "end"])]
    adder = Adder(manager, PhotoReader(), ModelCard(GenerationRequest()))
    assert [why for _, why in adder.each(new_client_id(), [photo], **form)] == [""]
    assert manager.wait(manager.jobs()[0].id, 60).state == "done"
    assert sorted(run.jobs[0].inputs.pictures) == ["key_1", "start"]


def test_a_draft_keeps_the_pictures_that_are_still_here(fake, upload):
    page = PageHandlers(ClientJobs(fake[1]))
    keys = [key_photo(1.2, **upload()), key_photo(2.4, "/gone.png", "gone.png")]
    restored = page.restore(None, {"photo": None, KEY_PHOTOS: keys})
    assert restored[KEY_PHOTOS] == keys[:1]


# --- LoRA weights


@pytest.mark.parametrize("seed", range(200))
def test_weights_there_and_back(seed):
    chance = random.Random(seed)
    sections = chance.randint(1, 10)
    times = sorted({round(chance.uniform(0.1, 1.5 * 1.2 * sections), 2) for _ in range(3)})
    old = chance.choice([0.5, [(0, 0.1), *((time, chance.choice([0, 0.5, 1.0])) for time in times)]])
    lora = Lora(name="film", weight=old)
    assert with_weights(lora, lora.weights(sections)) == lora
    table = [chance.choice([0.0, 0.2, 1.0]) for _ in range(sections)]
    changed = with_weights(lora, table)
    assert changed.weights(sections) == table
    again = GenerationRequest(loras=changed.text).loras[0]
    assert again.weights(sections) == table
    longer = sections + 6
    if not isinstance(old, float) and times[-1] > 1.2 * sections:
        assert changed.weights(longer)[-1] == lora.weights(longer)[-1], "what changes later stays"


def test_weights_of_sections_are_written_as_the_setting(handlers):
    value = show(handlers, loras="film=0.8; folder/grain.safetensors=[0s: 0.2] [2.4s: 1]")
    assert [[lora["weight"] for lora in cell["loras"]] for cell in value["cells"]] == [
        [0.8, 0.2],
        [0.8, 0.2],
        [0.8, 1],
        [0.8, 1],
    ]
    assert [lora["name"] for lora in value["cells"][0]["loras"]] == ["film", "grain"]
    value["cells"][1]["loras"][0]["weight"] = 0
    changed, _ = edit(handlers, value, loras="film=0.8; folder/grain.safetensors=[0s: 0.2] [2.4s: 1]")
    assert changed["loras"] == "film=[0s: 0.8] [1.2s: 0] [2.4s: 0.8]; folder/grain.safetensors=[0s: 0.2] [2.4s: 1]"
    assert "loras" not in edit(handlers, value, loras="film=1")[0], "the form has others meanwhile"


# --- redo


@pytest.mark.parametrize(
    ("prompt", "section", "rest"),
    [
        ("a", 2, "a"),
        ("[0s: a] [2.4s: b] [3.6s: c]", 2, "[0s: b] [1.2s: c]"),
        ("[0s: a] [2.4s: b] [3.6s: c]", 1, "[0s: a] [1.2s: b] [2.4s: c]"),
        ("[0s: a] [2.4s: b] [3.6s: c]", 3, "c"),
        ("[2.4s: b]", 3, "b"),
    ],
)
def test_the_prompt_from_a_section_on(prompt, section, rest):
    assert prompt_from(prompt, section) == rest


@pytest.mark.parametrize("seed", range(100))
def test_what_is_made_anew_follows_what_its_sections_did(seed):
    chance = random.Random(seed)
    sections, begin = 8, chance.randrange(1, 8)
    times = sorted({round(chance.uniform(0, 11), 1) for _ in range(4)})
    prompt = " ".join(f"[{time:g}s: {word}]" for time, word in zip(times, "abcd", strict=False))
    whole = [cell.follows for cell in timeline_of(prompt, sections).cells]
    assert [cell.follows for cell in timeline_of(prompt_from(prompt, begin), sections - begin).cells] == whole[begin:]


def test_a_finished_video_is_made_anew_from_a_section_on(fake, uploads, upload):
    _, manager = fake
    jobs, ann, bob = ClientJobs(manager), new_client_id(), new_client_id()
    page = PageHandlers(jobs)
    photo = {"path": upload("lion.jpg", "3", LION.read_bytes())["path"]}
    assert finished(jobs, ann, "") is None
    page.start(ann, "", photo, **GOOD | {"seconds": 4.8})
    [job] = manager.jobs()
    assert manager.wait(job.id, 60).state == "done"
    job = finished(jobs, ann, "")
    assert (job.id, job.sections, job.frames) == (manager.jobs()[0].id, 4, 145)
    assert finished(jobs, bob, job.id) is None, "another one's"
    assert show(TimelineHandlers(jobs, PhotoReader()))["redo"] == 0
    assert TimelineHandlers(jobs, PhotoReader()).show({}, ann, "", **FORM)["redo"] == 4

    settings = settings_from(GOOD | {"prompt": "[0s: a] [3.6s: b]", "loras": "film=[0s: 1] [2.4s: 0.5] [3.6s: 0]"}, 2)
    assert (settings["prompt"], settings["loras"]) == ("[0s: a] [1.2s: b]", "film=[0s: 0.5] [1.2s: 0]")
    assert {"key_photos", "end_photo", "seconds"}.isdisjoint(settings)
    wanted = GenerationRequest(prompt=settings["prompt"], seconds=1)
    inputs = redo_inputs(job, wanted, 2, VideoReader())
    assert (list(inputs.videos), inputs.request.sections) == ([BEFORE], 2)
    assert inputs.request.replaced == pytest.approx((73 / 30, 145 / 30)), "two sections after the photo's frame stay"
    for section in (0, 4, -1, 9):
        with pytest.raises(SettingsError, match="no such section"):
            redo_inputs(job, wanted, section, VideoReader())


def test_only_a_whole_video_of_pictures_is_made_anew(fake, uploads, upload):
    run, manager = fake
    jobs, ann = ClientJobs(manager), new_client_id()
    page = PageHandlers(jobs)
    photo = {"path": upload("lion.jpg", "3", LION.read_bytes())["path"]}
    page.start(ann, "", photo, **GOOD | {"seconds": 1})
    assert manager.wait(manager.jobs()[0].id, 60).state == "done"
    assert finished(jobs, ann, "") is None, "it has one section"
    run.hold_at = 1
    run.hold.clear()
    page.start(ann, "", photo, **GOOD | {"seconds": 2.4})
    assert finished(jobs, ann, "") is None, "it is being made"
    page.end(ann, "")
    assert manager.wait(manager.jobs()[-1].id, 60).ended
    assert finished(jobs, ann, "") is None, "it was stopped"
    assert Path(manager.jobs()[0].video).exists()
