"""Presets for scripts: docs/presets.md's example as it stands, and nobody's presets for anybody else."""

import re
from pathlib import Path

import gradio as gr
import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import ENGLISH
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import ORIGINAL
from diffusers_helper.gradio.client_jobs import new_client_id
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.faults import setting_faults
from diffusers_helper.gradio.inputs import SETTINGS, control_value
from diffusers_helper.gradio.presets.api import PresetApi
from diffusers_helper.gradio.presets.handlers import PresetHandlers, presets_of, saved_fields
from diffusers_helper.presets.along import come_along
from diffusers_helper.presets.store import MOST, PresetFolders
from tests.fakes import FULL, LION, serve_page

DOCS = (Path(__file__).parents[1] / "docs" / "presets.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    [example] = re.findall(r"^```python\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(LION.read_bytes())
    with serve_page(tmp_path / "server") as page:
        public = {str(one.api_name) for one in page.blocks.fns.values() if one.api_visibility == "public"}
        assert {name for name in public if name.startswith("presets")} == set(re.findall(r"`/(presets\w*)`", DOCS))
        exec(example.replace("http://127.0.0.1:7860", page.url), {})
        page.wait_until_idle()
        [job] = page.run.jobs
    assert (job.request.steps, job.request.seconds, job.request.shape) == (20, 2, "16:9")
    assert capsys.readouterr().out.splitlines()[-1] == "['Evening']"


def test_its_numbers_are_kept():
    assert f"at most {MOST}" in DOCS
    quick, fine, long, small = (preset.settings for preset in come_along(GenerationRequest()))
    tiny = come_along(GenerationRequest(resolution=128))
    assert f"| {quick['seconds']} s, a draft" in DOCS
    assert f"| {fine['seconds']:g} s, 1.4 times" in DOCS
    assert f"| {long['seconds']:g} s; {tiny[2].settings['seconds']:g} s with small" in DOCS
    assert f"| {small['seconds']:g} s at {small['resolution']} pixels" in DOCS


class Visitor(gr.Request):
    """Who calls, as Gradio tells it."""

    def __init__(self, username="", host="192.168.1.7"):
        scope = {"type": "http", "client": (host, 1), "headers": [(b"host", host.encode())], "path": "/"}
        scope |= {"scheme": "http", "server": (host, 80), "query_string": b"", "method": "POST"}
        from starlette.requests import Request

        super().__init__(request=Request(scope), username=username)


@pytest.fixture
def model(tmp_path):
    defaults = GenerationRequest(resolution=256)
    return ModelCard(defaults, presets=PresetFolders(tmp_path / "presets", come_along(defaults)))


def names(told):
    return [one["name"] for one in told["presets"] if one["own"]]


def test_users_and_browsers_have_their_own(model):
    api, me, you = PresetApi(model), new_client_id(), new_client_id()
    here, ann, bob = Visitor(host="127.0.0.1"), Visitor("ann"), Visitor("bob")
    saved = [("of here", "", here), ("of ann", "", ann), ("mine", me, Visitor())]
    for name, client, request in saved:
        api.save(name, {"steps": 3}, False, client, request)
    assert names(api.listed("", here)) == ["of here"]
    assert names(api.listed(you, here)) == ["of here"]
    assert names(api.listed(me, ann)) == ["of ann"], "a user's presets, whatever the browser"
    assert names(api.listed("", bob)) == []
    assert names(api.listed(me, Visitor())) == ["mine"]
    assert names(api.listed(you, Visitor())) == []
    for call in (api.load, api.delete):
        with pytest.raises(gr.Error, match="There is no preset"):
            call("of ann", "", bob)
        with pytest.raises(gr.Error, match="There is no preset"):
            call("mine", you, Visitor())
    with pytest.raises(SettingsError, match="client"):
        presets_of(model.presets, "../../etc", Visitor())
    with pytest.raises(gr.Error, match="client"):
        api.listed("", Visitor())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (None, "settings: should be an object"),
        ([], "settings: should be an object"),
        ({}, "settings: should be an object"),
        ({"steps": 0}, "steps: should be at least 1"),
        ({"sharpness": 1}, "sharpness: is no setting of a preset"),
        ({"focus": "0,1"}, "focus: is no setting of a preset"),
        ({"width": 320}, "A width needs a height"),
        ({"loras": "nowhere=1"}, "nowhere"),
    ],
)
def test_settings_that_cannot_be_are_told(model, settings, sentence):
    with pytest.raises(gr.Error, match=sentence):
        PresetApi(model).save("a", settings, False, "", None)
    assert names(PresetApi(model).listed("", None)) == []


def test_what_is_loaded_is_what_a_call_takes(model):
    api = PresetApi(model)
    api.save("a", {"width": 320, "height": 192, "keep": ["photo"], "seed": 4, "prompt": "a lion"}, True, "", None)
    told = api.load("A", "", None)
    assert told["settings"] == {"width": "320", "height": "192", "keep": ("photo",), "seed": 4, "prompt": "a lion"}
    assert not any(setting_faults(told["settings"]).values())
    assert api.listed("", None)["at_start"] == "a"
    for one in api.listed("", None)["presets"]:
        assert not any(setting_faults(api.load(one["name"], "", None)["settings"]).values())


def test_the_form_is_saved_whole_but_for_what_one_video_has(model):
    fields = saved_fields(dict.fromkeys(SETTINGS))
    assert {*SETTINGS} - {*fields} == {"prompt", "seed", "focus", "frame_seed"}
    handlers = PresetHandlers(model, RecipeHandlers(ORIGINAL), ENGLISH)
    others = {name: value for name, value in FULL.items() if name != "loras"}
    done = handlers.save("", "a <b>", ["seed"], None, **{**others, "prompt": "[bad"})
    assert "“a &lt;b&gt;” is saved." in done["message"]
    form = handlers.choose("", "a <b>")
    kept = saved_fields(others, ["seed"])
    wanted = GenerationRequest.from_fields(others)
    assert {name: form[name] for name in kept} == {name: control_value(name, getattr(wanted, name)) for name in kept}
    assert not form.keys() & {*SETTINGS} - {*kept}


def test_a_fault_leaves_the_form_and_the_menu_as_they_are(model):
    handlers = PresetHandlers(model, RecipeHandlers(ORIGINAL), ENGLISH)
    done = handlers.choose("", "nowhere")
    assert "There is no preset called “nowhere”." in done["message"]
    assert done.keys() == {"message"}
    done = handlers.delete("", "Fine")
    assert "stays" in done["message"]
    assert done.keys() == {"message"}
