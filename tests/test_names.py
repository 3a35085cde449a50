"""Names of results on the file system that is there, and by the rules of the others."""

import os
import subprocess
import sys
import unicodedata
from datetime import datetime
from itertools import islice

import pytest

from diffusers_helper.core.errors import OutputError, SettingsError
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media.names import (
    DEFAULT_TEMPLATE,
    FIELDS,
    STEM_BYTES,
    cleaned,
    let_go,
    require_template,
    reserve,
    stems,
)

ENDINGS = (".mp4", ".json", ".png", "_partial_9999.mp4.part")


def first(template=DEFAULT_TEMPLATE, prompt="The dancer turns slowly.", photo="lion.jpg", number=1, **fields):
    request = GenerationRequest(prompt=prompt, **{"seed": 7, **fields})
    return list(islice(stems(template, request, photo, "ID"), number))[-1]


@pytest.mark.parametrize(
    ("photo", "prompt", "name"),
    [
        ("lion.jpg", "The dancer turns slowly.", "lion_The-dancer-turns-slowly_7"),
        ("lion.jpg", "", "lion_7"),
        ("my photo (2).final.jpeg", "Pan left, then right!", "my-photo-2-.final_Pan-left-then-right_7"),
        ("獅子.png", "向左平移，慢慢", "獅子_向左平移-慢慢_7"),
        ("🦁.png", "👩‍🚀 waves 👍🏽", "🦁_👩‍🚀-waves-👍🏽_7"),
        ("../../etc/passwd", "a/b\\c:d*e?f", "passwd_a-b-c-d-e-f_7"),
        ("CON.png", "", "CON_7"),
        ("a.jpg", "line\none\ttwo\0\x1b[31m\u202egnp", "a_line-one-two-31m-gnp_7"),
        (".hidden", "...", "hidden_7"),
        ("caf\udce9.jpg", "", "caf_7"),
        ("cafe\u0301.jpg", "", "café_7"),
        ("", "", "7"),
        ("x.jpg", "word " * 50, "x_word-word-word-word-word-word-word-word_7"),
        ("x.jpg", "w" * 500, f"x_{'w' * 80}_7"),
    ],
)
def test_a_name_says_what_it_is_of(photo, prompt, name):
    assert first(photo=photo, prompt=prompt) == name


@pytest.mark.parametrize(
    "template", [DEFAULT_TEMPLATE, "{prompt}", "{photo}", "{photo}{photo}{photo}{prompt}{prompt}_{number}"]
)
@pytest.mark.parametrize(
    "text",
    ["NUL", "con.txt", "com1", "a. ", "...", "-rf", " ", "長" * 300, "👩‍🚀" * 200, "é\u0301" * 300, "\udcff" * 9],
)
@pytest.mark.parametrize("number", [1, 12])
def test_a_name_fits_every_file_system(template, text, number, tmp_path):
    name = first(template, text, f"{text}.jpg", number)
    assert name
    assert len(name.encode()) <= STEM_BYTES
    assert not set(name) & set('/\\:*?"<>|')
    assert not [char for char in name if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}]
    assert name[0] not in "-. "
    assert name[-1] not in ". "
    assert name.split(".")[0].upper() not in {"CON", "NUL", "COM1"}
    for ending in ENDINGS:
        (tmp_path / f"{name}{ending}").touch()


def test_no_two_names_are_the_same():
    for template in (DEFAULT_TEMPLATE, "{photo}", "clip", "{number}", f"{'x' * 220}{{number}}{{photo}}"):
        names = list(islice(stems(template, GenerationRequest(prompt="p " * 200), "a" * 250, "ID"), 300))
        assert len({name.casefold() for name in names}) == 300


def test_every_field(tmp_path):
    template = "-".join(f"{{{name}}}" for name in FIELDS)
    day = datetime.now().strftime("%Y-%m-%d")
    assert first(template, "Wave", "a.png", number=3, variant="f1") == f"a-Wave-7-f1-{day}-ID-3"
    assert require_template(template) == template


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("", "between 1 and"),
        ("x" * 300, "between 1 and"),
        ("films/{photo}", "no folder"),
        ("..\\{photo}", "no folder"),
        ("a:b", "no folder"),
        ("a\0b", "no folder"),
        ("a\nb", "no folder"),
        ("{photos}", r"\{photos\} is no field. There are \{photo\}, \{prompt\}"),
        ("{}", r"\{\} is no field"),
        ("{0}", "is no field"),
        ("{photo.__class__}", "is no field"),
        ("{seed[0]}", "is no field"),
        ("{seed:05}", "is no field"),
        ("{seed!r}", "is no field"),
        ("{photo", "expected '}'"),
        ("photo}", "Single '}'"),
    ],
)
def test_a_template_that_makes_no_names_is_refused(template, told):
    with pytest.raises(SettingsError, match=told):
        require_template(template)


def test_a_name_is_given_once(tmp_path):
    folder = tmp_path / "out" / "user_ann"
    names = [reserve(folder, stems("{photo}", GenerationRequest(), "lion.jpg", "ID")) for _ in range(3)]
    assert names == ["lion", "lion_2", "lion_3"]
    let_go(folder / "lion_2")
    (folder / "lion_3.json").write_text("{}")
    let_go(folder / "lion_3")
    let_go(folder / "never")
    assert sorted(os.listdir(folder)) == ["lion.json", "lion_3.json"]
    assert reserve(folder, stems("{photo}", GenerationRequest(), "lion.jpg", "ID")) == "lion_2"


@pytest.mark.parametrize(
    "file", ["lion.mp4", "lion.png", "lion.json", "lion_partial_01.mp4", "lion_partial_01.mp4.part"]
)
def test_no_file_of_another_result_is_overwritten(tmp_path, file):
    (tmp_path / file).write_bytes(b"mine")
    assert reserve(tmp_path, stems("{photo}", GenerationRequest(), "lion.jpg", "ID")) == "lion_2"
    assert (tmp_path / file).read_bytes() == b"mine"


def test_a_result_that_was_done_between_two_looks_keeps_its_name(tmp_path, monkeypatch):
    """A process without settings to keep removes what held its name at the end."""
    before = os.open

    def another_one_is_done(path, *rest, **options):
        handle = before(path, *rest, **options)
        monkeypatch.undo()
        (tmp_path / "lion.mp4").touch()
        return handle

    monkeypatch.setattr(os, "open", another_one_is_done)
    assert reserve(tmp_path, stems("{photo}", GenerationRequest(), "lion.jpg", "ID")) == "lion_2"
    assert sorted(os.listdir(tmp_path)) == ["lion.mp4", "lion_2.json"]


def test_a_name_that_another_process_takes_in_between_stays_its_own(tmp_path, monkeypatch):
    before = os.open

    def another_one_was_quicker(path, *rest, **options):
        monkeypatch.undo()
        (tmp_path / "lion.json").touch()
        return before(path, *rest, **options)

    monkeypatch.setattr(os, "open", another_one_was_quicker)
    assert reserve(tmp_path, stems("{photo}", GenerationRequest(), "lion.jpg", "ID")) == "lion_2"


RESERVE = """
import sys
from pathlib import Path
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media.names import reserve, stems
sys.stdin.readline()
for _ in range(50):
    print(reserve(Path(sys.argv[1]), stems("{photo}", GenerationRequest(), "lion.jpg", "ID")))
"""


@pytest.mark.slow
def test_two_processes_never_get_the_same_name(tmp_path):
    command = [sys.executable, "-c", RESERVE, tmp_path]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [name for process in processes for name in process.communicate()[0].split()]
    assert len(names) == len(set(names)) == 100


def test_a_folder_that_cannot_be_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        reserve(tmp_path / "file" / "below", stems("{photo}", GenerationRequest(), "lion.jpg", "ID"))


def test_part_of_a_name_keeps_its_words():
    assert cleaned("  Summer 2026 / Rügen ") == "Summer-2026-Rügen"
