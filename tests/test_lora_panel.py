"""The panel "LoRA": what it offers, shows and writes, and that a name reaches no file but those of the folders."""

import base64
import json
from hashlib import sha256
from io import BytesIO

import gradio as gr
import pytest
from PIL import Image

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.messages import language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.create.loras import LoraHandlers
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.faults import kept_settings
from diffusers_helper.gradio.inputs import control_value, read_request
from diffusers_helper.media.decoding import PhotosBusyError
from diffusers_helper.media.recipe import recipe_of
from diffusers_helper.model_files.lora_library import LoraLibrary
from tests.fakes import LION
from tests.lora_files import write_lora

EVIL = '"><img src=x onerror=alert(1)>'


@pytest.fixture
def folder(tmp_path):
    write_lora(tmp_path / "loras" / "film.safetensors", metadata={"modelspec.trigger_phrase": "old film, grain"})
    write_lora(tmp_path / "loras" / "style" / "ink.safetensors")
    (tmp_path / "loras" / "style" / "ink.json").write_text(json.dumps({"preferred weight": 0.65}))
    return tmp_path / "loras"


@pytest.fixture
def library(folder):
    return LoraLibrary([folder])


@pytest.fixture
def panel(library):
    return LoraHandlers(library)


def names(update):
    return [value for _, value in update["choices"]]


def test_the_list_is_that_of_the_moment_and_has_what_is_missing(panel, folder):
    assert names(panel.refresh("")) == ["film.safetensors", "style/ink.safetensors"]
    write_lora(folder / "new.safetensors")
    found = panel.refresh("ink=0.5; gone=1")
    assert names(found) == ["film.safetensors", "new.safetensors", "style/ink.safetensors", "gone"]
    assert found["value"] == ["style/ink.safetensors", "gone"], "by the names of the list"
    assert names(panel.refresh("film=heavy")) == names(panel.refresh(None))


def chosen(panel, selected, text):
    made = panel.choose(selected, text)
    return made["text"], made["cards"]


def test_a_choice_becomes_text_and_keeps_the_weights_that_were_there(panel):
    text, cards = chosen(panel, ["film.safetensors", "style/ink.safetensors"], "film=[0s-1.2s: 0.2] [1.2s-: 1]; gone=2")
    assert text == "film=[0s: 0.2] [1.2s: 1]; style/ink.safetensors=0.65"
    assert "Weight over time: [0s: 0.2] [1.2s: 1]" in cards
    assert 'value="0.65"' in cards
    text, cards = chosen(panel, [], text)
    assert (text, cards) == ("", "")
    assert panel.choose(["a", 7, None], 7)["text"] == "a=1"
    assert panel.choose("film", None)["text"] == ""


def test_cards_tell_what_is_known_and_what_is_wrong(panel, folder):
    (folder / "bad.safetensors").write_bytes(b"")
    shown = panel.show("film=0.45; bad=1; ../film=1; style/ink=-3")
    cards = shown["cards"]
    assert shown["choice"]["value"] == ["film.safetensors", "bad.safetensors", "../film", "style/ink.safetensors"]
    assert shown["panel"]["open"] is True
    assert 'data-words="old film, grain"' in cards
    assert "rank 4" in cards
    assert "LoRA bad.safetensors is cut short after 0 bytes." in cards
    assert "LoRA film is not here. Put the file into the folder" in cards
    assert cards.count('type="range"') == 2
    assert 'value="-3"' in cards


def test_a_text_that_is_wrong_is_told_and_nothing_else_changes(panel):
    shown = panel.show("film=heavy")
    assert names(shown["choice"]) == ["film.safetensors", "style/ink.safetensors"]
    assert "A LoRA's weight is a number such as 0.8, not heavy." in shown["cards"].replace("&#x27;", "'")
    assert "panel" not in shown


def test_an_empty_library_says_where_files_go_without_the_path(tmp_path):
    panel = LoraHandlers(LoraLibrary([tmp_path / "private" / "loras"]), language("ja"))
    shown = panel.show("")
    assert "：loras" in shown["cards"]
    assert "private" not in shown["cards"]
    assert "panel" not in shown


def test_whatever_a_file_says_is_shown_as_text(panel, folder):
    fields = ("title", "author", "description", "trigger_phrase", "architecture")
    metadata = {f"modelspec.{name}": EVIL for name in fields} | {"ss_tag_frequency": json.dumps({"a": {EVIL: 1}})}
    metadata["modelspec.trigger_phrase"] = 'x" autofocus onfocus="y'
    metadata["modelspec.thumbnail"] = f"data:image/png;base64,{EVIL}"
    path = write_lora(folder / 'x"onload=y.safetensors', metadata=metadata)
    (folder / f"{path.stem}.json").write_text(json.dumps({"notes": EVIL.replace("<", "&lt;")}))
    shown = panel.show(f"{path.stem}=1; {EVIL}=1")["cards"]
    assert "<img" not in shown
    assert '"onload' not in shown
    assert '" autofocus' not in shown


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_a_preview_is_small_and_read_once(library, folder, where):
    if where == "beside":
        (folder / "film.preview.png").write_bytes(LION.read_bytes())
    else:
        url = f"data:image/jpeg;base64,{base64.b64encode(LION.read_bytes()).decode()}"
        write_lora(folder / "film.safetensors", metadata={"modelspec.thumbnail": url})
    panel = LoraHandlers(library)
    shown = panel.show("film=1")["cards"]
    content = shown.partition('src="data:image/jpeg;base64,')[2].partition('"')[0]
    with Image.open(BytesIO(base64.b64decode(content))) as image:
        assert max(image.size) == 192
    assert panel.show("film=0.5")["cards"].count(content) == 1
    assert panel._picture.cache_info()[:2] == (1, 1)


@pytest.mark.parametrize("content", [b"", b"<svg onload='x'>", b"x" * 20_000_001])
def test_a_preview_that_is_none_is_left_out(panel, folder, content):
    (folder / "film.png").write_bytes(content)
    assert "<img" not in panel.show("film=1")["cards"]


class BusyOnce:
    """Photos that cannot be read the first time."""

    def __init__(self):
        self.calls = 0

    def read(self, path):
        self.calls += 1
        if self.calls == 1:
            raise PhotosBusyError("busy")
        raise LookupError(path)


def test_a_preview_is_tried_again_when_many_were_being_read(library, folder):
    (folder / "film.png").write_bytes(LION.read_bytes())
    panel = LoraHandlers(library, photos=BusyOnce())
    assert "<img" not in panel.show("film=1")["cards"]
    with pytest.raises(LookupError):
        panel.show("film=1")


def test_a_request_has_files_of_the_library_alone(library, tmp_path):
    outside = write_lora(tmp_path / "outside.safetensors")
    made = read_request({"loras": "ink=0.5; film=[0s-1s: 0.2]"}, library)
    assert [lora.name for lora in made.loras] == ["style/ink.safetensors", "film.safetensors"]
    assert made.loras[1].weight == ((0, 0.2), (1, 0))
    for name in (str(outside), "../outside", "style/../../outside.safetensors", "outside"):
        with pytest.raises(SettingsError, match="is not here"):
            read_request({"loras": [name]}, library)
    with pytest.raises(SettingsError, match="is not here"):
        read_request({"loras": {"film": 1}}, None)


def test_a_draft_keeps_the_text_if_it_is_still_valid():
    assert kept_settings({"loras": "film=0.5"}) == {"loras": "film=0.5"}
    assert kept_settings({"loras": "film=heavy"}) == {}


@pytest.fixture
def restored(tmp_path, monkeypatch, library):
    """What restoring a recipe with these LoRA files gives: the message, and the text."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))

    def restore(loras, drop=()):
        file = tmp_path / "uploads" / ("0" * 64) / "a.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        fields = json.loads(recipe_of(GenerationRequest(loras=loras)))
        file.write_text(json.dumps({name: value for name, value in fields.items() if name not in drop}))
        form = RecipeHandlers(loras=library).restore({"path": str(file)})
        return form["told"], form.get("loras", gr.skip())

    return restore


def test_a_recipe_sets_the_files_and_says_which_are_others_or_missing(restored, folder):
    digest = sha256((folder / "film.safetensors").read_bytes()).hexdigest()
    same = Lora(name="film.safetensors", weight=0.4, sha256=digest)
    message, text = restored([same])
    assert text == "film.safetensors=0.4"
    assert "LoRA" not in message
    other = same.model_copy(update={"sha256": "0" * 64})
    message, text = restored([other, Lora(name="gone.safetensors", weight=((0.0, 1.0), (1.2, 0.0)))])
    assert text == "film.safetensors=0.4; gone.safetensors=[0s: 1] [1.2s: 0]"
    assert "LoRA film.safetensors is another file here than the one this was made with." in message
    assert "LoRA gone.safetensors is not here." in message


@pytest.mark.parametrize("path", ["/home/ann/loras/film.safetensors", "D:\\loras\\film.safetensors", "\\\\nas\\film"])
def test_a_path_of_another_computer_means_the_file_of_that_name(restored, path):
    message, text = restored([Lora(name=path)])
    assert text == "film.safetensors=1"
    assert "not here" not in message


def test_a_recipe_from_before_there_were_loras_was_made_without(restored):
    assert restored([Lora(name="film")], drop=["loras"])[1] == ""
    assert restored([Lora(name="film")], drop=["loras", "framepack_recipe"])[1] == gr.skip(), "another program's"


def test_the_text_of_a_control_is_what_the_request_reads():
    text = "a b=c.safetensors=0.25; x/y.safetensors=[0s: -1] [2.4s: 0.5]"
    request = GenerationRequest.from_field("loras", text)
    assert control_value("loras", request.loras) == text
