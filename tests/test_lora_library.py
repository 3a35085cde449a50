"""Which LoRA files are in the user's folders, and what is known of each without its weights."""

import base64
import json
import os
import pickle

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.model_files.lora_details import MAX_BESIDE, LoraDetails, read_details
from diffusers_helper.model_files.lora_library import LoraLibrary, file_at, sha256_of
from tests.lora_files import write_lora, write_weights

KOHYA = {
    "ss_output_name": "film",
    "ss_base_model_version": "framepack",
    "ss_network_module": "networks.lora_framepack",
    "ss_network_dim": "4",
    "ss_network_alpha": "1",
    "ss_training_comment": "grain &amp; light",
    "ss_tag_frequency": json.dumps({"10_film": {"grain": 12, "lamp": 3}, "5_film": {"lamp": 20}}),
}
MODELSPEC = {
    "modelspec.title": "Old film",
    "modelspec.author": "Ann",
    "modelspec.architecture": "hunyuan-video/lora",
    "modelspec.description": "Looks old.",
    "modelspec.trigger_phrase": "old film, grain",
    "modelspec.thumbnail": "data:image/jpeg;base64," + base64.b64encode(b"x").decode(),
}


def names(library):
    return [file.name for file in library.files()]


def told(library, name):
    (file,) = (file for file in library.files() if file.name == name)
    return library.details(file)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "loras").mkdir()
    return tmp_path / "loras"


@pytest.fixture
def library(folder):
    return LoraLibrary([folder])


def test_files_of_all_folders_are_listed_by_name_and_the_first_of_a_name_counts(tmp_path):
    first, second = tmp_path / "loras", tmp_path / "ComfyUI" / "models" / "loras"
    library = LoraLibrary([first, second, tmp_path / "nowhere"])
    assert names(library) == []
    write_lora(first / "b.safetensors", rank=2)
    write_lora(first / "style" / "A.safetensors")
    write_lora(second / "b.safetensors", rank=16)
    write_lora(second / "c.SafeTensors")
    (first / "readme.md").write_text("no LoRA")
    assert names(library) == ["b.safetensors", "c.SafeTensors", "style/A.safetensors"]
    assert told(library, "b.safetensors").rank == 2


def test_new_changed_and_removed_files_are_seen_without_a_restart_and_others_not_read_again(folder, library):
    write_lora(folder / "a.safetensors")
    first = told(library, "a.safetensors")
    assert told(library, "a.safetensors") is first
    write_lora(folder / "a.safetensors", rank=32)
    assert told(library, "a.safetensors").rank == 32
    (folder / "a.txt").write_text("old film\nA look.")
    assert told(library, "a.safetensors").trigger_words == ("old film",)
    (folder / "a.txt").write_text("new film\nA look.")
    os.utime(folder / "a.txt", (1, 1))  # clocks of file systems are coarse
    assert told(library, "a.safetensors").trigger_words == ("new film",), "a file of the same size"
    write_lora(folder / "b.safetensors")
    (folder / "a.safetensors").unlink()
    assert names(library) == ["b.safetensors"]
    assert not library._details, "nothing is kept of what is gone"


def test_a_digest_is_that_of_the_bytes_there_now(folder, library):
    path = write_lora(folder / "a.safetensors")
    before = library.sha256(library.files()[0])
    assert before == sha256_of(path)
    write_lora(path, rank=5)
    assert library.sha256(library.files()[0]) == sha256_of(path) != before


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("film.safetensors", "film.safetensors"),
        (" film ", "film.safetensors"),
        ("style/old.safetensors", "style/old.safetensors"),
        ("style\\old", "style/old.safetensors"),
        ("old", "style/old.safetensors"),
        ("v1.5", "v1.5.safetensors"),
        ("twice.safetensors", None),
        ("style/deep", None),
        ("other/film", None),
        ("../outside", None),
        ("style/../../outside.safetensors", None),
        ("{outside}", None),
        ("./film.safetensors", None),
        ("", None),
        (".", None),
        ("style", None),
        ("a\0b", None),
        ("x" * 5000, None),
    ],
)
def test_a_name_means_a_file_of_the_folders_alone(tmp_path, folder, library, name, meant):
    outside = write_lora(tmp_path / "outside.safetensors")
    for place in ("film", "style/old", "v1.5", "x/twice", "y/twice", "x/style/deep"):
        write_lora(folder / f"{place}.safetensors")
    name = name.replace("{outside}", str(outside))
    if meant is not None:
        assert [file.name for file in library.find([name, name])] == [meant, meant]
    else:
        with pytest.raises(SettingsError, match=r"is not here\. Put the file into"):
            library.find([name])


def test_links_that_the_owner_made_are_followed_and_circles_end(tmp_path, folder, library):
    write_lora(tmp_path / "elsewhere" / "deep" / "a.safetensors")
    write_lora(folder / "b.safetensors")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "self").symlink_to(folder)
    (folder / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    (folder / "one.safetensors").symlink_to(tmp_path / "elsewhere" / "deep" / "a.safetensors")
    assert names(library) == ["b.safetensors", "more/deep/a.safetensors", "one.safetensors"]


def test_there_is_a_bound_on_what_is_looked_at(folder, caplog):
    for number in range(30):
        write_lora(folder / f"{number:02d}.safetensors")
    assert len(LoraLibrary([folder], max_files=10).files()) == 10
    assert "more than 10 LoRA files" in caplog.text
    write_lora(folder.joinpath(*"abcdefghijklmnop") / "deep.safetensors")
    assert len(names(LoraLibrary([folder]))) == 30
    assert names(LoraLibrary([folder], max_entries=5)) == []
    assert "too many files" in caplog.text


def spoilt(path, how):
    """A file at `path` that is no LoRA, of the kind `how`."""
    whole = write_lora(path).read_bytes()
    content = {
        "empty": b"",
        "cut": whole[:-3],
        "long": whole + b"x",
        "pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "pickle": pickle.dumps({"a": 1}),
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "huge header": b"\xff" * 8 + whole[8:],
        "no json": whole[:8] + whole[8:].replace(b"{", b"[", 1),
    }
    path.write_bytes(content[how])


BAD = {
    "empty": "is cut short after 0 bytes",
    "cut": "is cut short: it has",
    "long": "is damaged: it has",
    "pointer": "is only a Git LFS pointer",
    "pickle": "is not a safetensors file",
    "picture": "is not a safetensors file",
    "huge header": "is not a safetensors file",
    "no json": "is not a safetensors file",
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_file_is_listed_with_a_sentence_and_stops_no_other(folder, library, how):
    write_lora(folder / "good.safetensors")
    spoilt(folder / "bad.safetensors", how)
    assert told(library, "bad.safetensors").problem.startswith(BAD[how])
    assert told(library, "good.safetensors").problem == ""
    with pytest.raises(SettingsError, match=rf"^LoRA bad.safetensors {BAD[how]}"):
        library.find(["good", "bad"])


def test_files_that_are_none_are_told_by_their_kind(folder, library):
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "folder.safetensors").mkdir()
    write_weights(folder / "model.safetensors", {"transformer_blocks.0.attn.to_q.weight": [4, 4]})
    (folder / "old.pt").write_bytes(pickle.dumps({}))
    write_lora(folder / "a;b.safetensors")
    write_lora(folder / "line\nbreak.safetensors")
    write_lora(folder / os.fsdecode(b"caf\xe9.safetensors"))
    problems = {file.name: library.details(file).problem for file in library.files()}
    assert problems == {
        "pipe.safetensors": "cannot be read; look at its permissions, and whether it is a file",
        "model.safetensors": "holds no LoRA, but other weights",
        "old.pt": "is a pickle, which could run any program: only .safetensors files are read",
        "a;b.safetensors": "has a name that cannot be typed here; rename it",
        "line\nbreak.safetensors": "has a name that cannot be typed here; rename it",
        "caf\\udce9.safetensors": "has a name that cannot be typed here; rename it",
    }


def test_the_header_tells_what_its_maker_wrote(tmp_path):
    path = write_lora(tmp_path / "film.safetensors", rank=4, metadata=KOHYA)
    assert read_details(path) == LoraDetails(
        title="film", base_model="framepack", description="grain & light", rank=4, tags=("lamp", "grain")
    )
    path = write_lora(tmp_path / "film.safetensors", rank=32, metadata=KOHYA | MODELSPEC)
    found = read_details(path)
    assert (found.title, found.author, found.base_model) == ("Old film", "Ann", "framepack")
    assert (found.description, found.rank) == ("Looks old.", 32)
    assert found.trigger_words == ("old film", "grain")
    assert found.thumbnail == MODELSPEC["modelspec.thumbnail"]


@pytest.mark.parametrize(
    ("shapes", "rank"),
    [
        ({"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": [16, 8]}, 16),
        ({"a.lora.down.weight": [8, 8], "b.lora.down.weight": [2, 8], "c.lora.down.weight": [8, 8]}, 8),
        ({"lycoris_x.hada_w1_b": [4, 8], "lycoris_x.hada_w1_a": [8, 4]}, 4),
        ({"lora_unet_x.lokr_w1": [2, 2], "lora_unet_x.lokr_w2_b": [3, 8]}, 3),
        ({"diffusion_model.double_blocks.0.img_mod.lin.diff": [8, 8]}, None),
        ({"a.lora_down.weight": []}, None),
    ],
)
def test_the_rank_is_that_of_most_factors(tmp_path, shapes, rank):
    found = read_details(write_weights(tmp_path / "a.safetensors", shapes))
    assert (found.problem, found.rank) == ("", rank)


@pytest.mark.parametrize(
    ("end", "content"),
    [
        (
            ".json",
            {
                "description": "Looks old.",
                "sd version": "Hunyuan",
                "activation text": "old film <lora:film:1>, grain,old film",
                "preferred weight": "0.8",
            },
        ),
        (
            ".civitai.info",
            {
                "description": "<p>Looks<br>old.</p>",
                "baseModel": "Hunyuan",
                "trainedWords": ["old film", "grain"],
                "strength": 0.8,
            },
        ),
        (
            ".metadata.json",
            {
                "modelDescription": "Looks old.",
                "base_model": "Hunyuan",
                "civitai": {"trainedWords": ["old film, grain"]},
                "usage_tips": '{"strength": 0.8}',
            },
        ),
    ],
)
def test_notes_beside_a_file_count_before_the_header(folder, library, end, content):
    write_lora(folder / "film.v1.safetensors", metadata=KOHYA | MODELSPEC)
    (folder / f"film.v1{end}").write_text(json.dumps(content))
    found = told(library, "film.v1.safetensors")
    assert (found.description, found.base_model, found.weight) == ("Looks old.", "Hunyuan", 0.8)
    assert found.trigger_words == ("old film", "grain")
    assert found.author == "Ann"


def test_a_text_beside_a_file_has_the_words_in_its_first_line(folder, library):
    write_lora(folder / "film.safetensors")
    (folder / "film.txt").write_bytes("\ufeff老電影, grain\r\nLooks\r\nold.".encode())
    assert told(library, "film.safetensors").trigger_words == ("老電影", "grain")
    assert told(library, "film.safetensors").description == "Looks old."


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"[]",
        b"null",
        b"{not json",
        b"\xff\xfe\x00",
        json.dumps({"activation text": 7, "trainedWords": [None], "description": [], "civitai": "[" * 9_999}).encode(),
        json.dumps({"preferred weight": 1e999, "usage_tips": 3}).encode(),
        json.dumps({"preferred weight": [1], "baseModel": ["a"]}).encode(),
        b'{"description": "' + b"x" * MAX_BESIDE + b'"}',
    ],
    ids=range(9),
)  # fmt: skip
def test_notes_of_another_form_are_passed_over(folder, library, content):
    write_lora(folder / "film.safetensors", metadata={"ss_tag_frequency": content.decode("latin-1")})
    (folder / "film.json").write_bytes(content)
    found = told(library, "film.safetensors")
    assert (found.problem, found.trigger_words, found.weight, found.tags) == ("", (), None, ())


def test_texts_are_cleaned_and_cut(tmp_path):
    metadata = {
        "modelspec.title": "a\u202eb\x00\n c",
        "modelspec.description": "x" * 9000,
        "modelspec.trigger_phrase": ",".join(map(str, range(99))),
        "modelspec.thumbnail": "javascript:alert(1)",
        "ss_network_dim": "9" * 50,
    }
    found = read_details(write_lora(tmp_path / "a.safetensors", rank=0, metadata=metadata, **{"a.diff": [2]}))
    assert (found.title, found.rank, found.thumbnail) == ("ab c", None, "")
    assert len(found.description) == 2000
    assert len(found.trigger_words) == 30


def test_a_picture_beside_a_file_is_its_preview(folder, library):
    for name in ("a.safetensors", "b.safetensors", "c.safetensors"):
        write_lora(folder / name)
    for name in ("a.png", "a.preview.jpg", "b.webp", "other.png"):
        (folder / name).write_bytes(b"")
    pictures = [file.picture and file.picture.name for file in library.files()]
    assert pictures == ["a.preview.jpg", "b.webp", None]


def test_a_file_outside_of_the_folders_can_be_looked_at_by_its_path(tmp_path):
    path = write_lora(tmp_path / "a.safetensors")
    (tmp_path / "a.txt").write_text("grain")
    assert file_at(path).notes == (tmp_path / "a.txt",)
    assert file_at(tmp_path / "nowhere" / "b.safetensors").size == 0
