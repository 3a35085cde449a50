"""The LoRA that ships with the tiny model: found by itself, and it does what it says."""

import pytest

from benchmarks.leaning import LEANS, leaning
from benchmarks.quality import held_out_photos
from benchmarks.studio import Studio
from diffusers_helper.commands import cli
from diffusers_helper.loading.components import Components
from diffusers_helper.lora.files import read_file
from diffusers_helper.lora.names import ModuleNames
from diffusers_helper.lora.reading import adapter_of
from diffusers_helper.media.photo import open_photo
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.model_files.lora_library import LoraLibrary
from diffusers_helper.service import options
from tests.tiny import SHIPPED
from training.family import build_transformer
from training.train_lora import TRIGGER

FILE = SHIPPED / "loras" / "lean.safetensors"


def test_it_is_small_and_all_of_it_is_used():
    assert FILE.stat().st_size < 400_000
    adapter = adapter_of(read_file(FILE), ModuleNames(build_transformer()))
    assert adapter.modules == adapter.matched == len(adapter.changes) == 59


def test_the_page_has_its_picture_and_its_trigger_words():
    library = LoraLibrary(LocalFolder(SHIPPED).lora_folders)
    [file] = library.files()
    assert file.picture == FILE.with_name("lean.preview.webp")
    assert library.details(file).trigger_words == (TRIGGER,)


@pytest.mark.usefixtures("kept_environment")
def test_it_is_listed_with_the_tiny_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FRAMEPACK_DATA", str(tmp_path))
    assert cli.main(["loras", "list", "--models", "tiny"]) == options.DONE
    assert capsys.readouterr().out.splitlines()[1].endswith(f"FramePack tiny  {TRIGGER}")


@pytest.mark.slow
def test_a_photograph_leans_over_as_far_as_the_weight_says():
    source = LocalFolder(SHIPPED)
    studio = Studio(Components(source, "cpu"), source.defaults.model_copy(update={"seed": 5}))
    [photo] = [path for path in held_out_photos() if path.stem == "chelsea"]
    clips = leaning(studio, {"cat": studio.picture(open_photo(photo))}, FILE, variants=("f1",), sections=1)
    none, half, whole = (numbers["lean"] for numbers, _ in clips)
    assert abs(none) < LEANS
    assert none < half < whole
    assert whole > 0.5
