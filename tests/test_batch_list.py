import json

import pytest

from diffusers_helper.commands.batch_list import plan, read_list
from diffusers_helper.core.errors import LoraError, SettingsError
from diffusers_helper.core.request import GenerationRequest
from tests.fakes import LION

SHARED = GenerationRequest(seconds=2, resolution=128).model_dump()


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "a.txt", "notes.md", ".hidden"):
        (tmp_path / name).write_text(name)
    (tmp_path / "sub.png").mkdir()
    return tmp_path


def write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_folder_is_its_photos_with_the_words_beside_them(folder):
    entries = read_list(folder).entries
    assert [(entry.where, dict(entry.fields)) for entry in entries] == [("a.JPG", {"prompt": "a.txt"}), ("b.png", {})]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table(folder, delimiter):
    rows = ["photo|prompt|seconds|resolution|teacache", "a.JPG|Look left|3|256|true", "b.png||||"]
    source = write(folder, "jobs.csv", "\ufeff" + "\n".join(rows).replace("|", delimiter))
    first, second = plan(read_list(source).entries, SHARED, "tiny")
    assert (first.entry.photo, first.entry.where, second.entry.where) == (folder / "a.JPG", "line 2", "line 3")
    request = first.request
    assert (request.prompt, request.seconds, request.resolution, request.teacache) == ("Look left", 3, 256, True)
    assert second.request == GenerationRequest(seconds=2, resolution=128, seed=second.request.seed)


def test_cells_may_hold_quotes_and_line_breaks(folder):
    source = write(folder, "jobs.csv", 'photo,prompt\na.JPG,"Say ""hi"",\nthen wave"\nb.png,x\n')
    assert [entry.fields["prompt"] for entry in read_list(source).entries] == ['Say "hi",\nthen wave', "x"]


def test_json_lines(folder):
    lines = [{"photo": "a.JPG", "seed": 3, "variant": "f1"}, {"photo": str(folder / "b.png"), "prompt": "{} é"}]
    source = write(folder, "jobs.jsonl", "\n\n".join(map(json.dumps, lines)))
    first, second = plan(read_list(source).entries, SHARED, "tiny")
    assert (first.request.seed, first.request.variant, first.request.seconds) == (3, "f1", 2)
    assert (second.request.prompt, second.entry.photo, second.entry.where) == ("{} é", folder / "b.png", "line 3")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("jobs.csv", "", "names no photo"),
        ("jobs.csv", "photo,prompt\n", "no jobs"),
        ("jobs.csv", "prompt\nx\n", "names no photo"),
        ("jobs.csv", "photo,windo\na,1\n", "'windo' is no setting"),
        ("jobs.csv", "photo,prompt\na\n", "line 2.*as many cells"),
        ("jobs.csv", "photo,prompt\na,b,c\n", "line 2.*as many cells"),
        ("jobs.csv", 'photo,"prompt\na,b\n', "jobs.csv, line 1: .*never closed"),
        ("jobs.csv", "photo,prompt,Photo\na,b,c\n", "line 1: the column 'photo' is there twice"),
        ("jobs.csv", "sep=;\nphoto;windo\na;1\n", "line 2: 'windo' is no setting"),
        ("jobs.csv", "photo,prompt\n,b\n", "line 2.*names no photo"),
        ("jobs.jsonl", '"a"\n[1]', "line 1.*no.* JSON object.*line 2.*no.* JSON object"),
        ("jobs.jsonl", '{"photo": "a"', "line 1.*no.* JSON object"),
        ("jobs.jsonl", '{"photo": 7}', "line 1.*names no photo"),
        ("jobs.jsonl", '{"photo": "a", "latent_window_size": 33}', "no setting"),
        ("jobs.xls", "x", "no list that ends with"),
        ("none.csv", None, "no folder"),
    ],
)
def test_a_list_that_makes_no_sense_is_told_with_its_line(tmp_path, name, text, told):
    if text is not None:
        write(tmp_path, name, text)
    with pytest.raises(SettingsError, match=f"(?i){told}"):
        read_list(tmp_path / name)


def test_a_list_in_another_encoding_and_an_empty_folder(tmp_path):
    (tmp_path / "jobs.csv").write_bytes("photo,prompt\na.png,é".encode("latin-1"))
    with pytest.raises(SettingsError, match="UTF-8"):
        read_list(tmp_path / "jobs.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="no photos"):
        read_list(tmp_path / "empty")


def test_what_cannot_be_made_is_told_beside_what_can(folder):
    source = write(folder, "jobs.csv", "photo,steps\na.JPG,0\ngone.png,5\nb.png,5\n")
    wrong, gone, good = plan(read_list(source).entries, SHARED, "tiny")
    assert "steps: " in wrong.problem
    assert "gone.png cannot be read: No such file" in gone.problem
    assert (wrong.request, gone.request, good.problem, good.request.steps) == (None, None, "", 5)


def names(folder, shared=SHARED, model="tiny"):
    return [job.name for job in plan(read_list(folder).entries, shared, model)]


def test_a_name_is_made_from_what_goes_into_the_video(folder):
    before = names(folder)
    assert before == names(folder)
    assert len(set(before)) == 2
    for other in (names(folder, SHARED | {"seed": 1}), names(folder, model="FramePack")):
        assert not set(before) & set(other)
    (folder / "b.png").write_text("another picture")
    after = names(folder)
    assert (after[0], after[1] != before[1]) == (before[0], True)


def test_a_random_seed_is_another_one_for_each_video_and_the_same_one_in_each_run(folder):
    seeds = [[job.request.seed for job in plan(read_list(folder).entries, SHARED, "tiny")] for _ in range(2)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 2
    assert min(seeds[0]) >= 0
    assert [job.request.seed for job in plan(read_list(folder).entries, SHARED | {"seed": 1}, "tiny")] == [1, 1]


def test_a_name_fits_every_file_system(tmp_path):
    (tmp_path / f"{'長い ../名前?' * 9}.png".replace("/", "_")).write_bytes(b"x")
    [name] = names(tmp_path)
    assert len(name.encode()) < 200
    assert not set(name) & set('/\\:*?"<>|. ')


def test_end_photos_and_prompts_over_time_in_a_list(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(name.encode())
    table = "photo,end_photo,prompts\na.png, b.png,[0s: x] [2.4s: y]\na.png,,x\na.png,c.png,[0s: x] [2.4s: y]\n"
    (tmp_path / "jobs.csv").write_text(table)
    first = '{"photo": "a.png", "end_photo": "b.png", "prompts": [[0, "x"], [2.4, "y"]]}'
    (tmp_path / "jobs.jsonl").write_text(first + '\n{"photo": "a.png", "end_photo": 3}\n')
    jobs = plan(read_list(tmp_path / "jobs.csv").entries, {"seed": 1}, "m")
    assert [job.entry.end_photo for job in jobs] == [tmp_path / "b.png", None, tmp_path / "c.png"]
    assert jobs[0].request.timed_prompts == ((0.0, "x"), (2.4, "y"))
    assert len({job.name for job in jobs}) == 3, "another end picture is another video"
    same, bad = plan(read_list(tmp_path / "jobs.jsonl").entries, {"seed": 1}, "m")
    assert same.name == jobs[0].name
    assert "end_photo" in bad.problem


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jobs.csv", 'photo,loras\nlion.jpg,"a.safetensors=0.8; b=[0s-1.2s: 0.5]"\nlion.jpg,\nlion.jpg,a=heavy\n'),
        ("jobs.csv", 'photo;loras\nlion.jpg;"a.safetensors=0.8; b=[0s-1.2s: 0.5]"\nlion.jpg;\nlion.jpg;a=heavy\n'),
        (
            "jobs.jsonl",
            '{"photo": "lion.jpg", "loras": {"a.safetensors": 0.8, "b": [[0, 0.5], [1.2, 0]]}}\n'
            '{"photo": "lion.jpg"}\n{"photo": "lion.jpg", "loras": ["a=heavy"]}\n',
        ),
    ],
)
def test_lora_files_are_a_column_and_what_is_in_them_is_part_of_a_name(tmp_path, name, text):
    (tmp_path / "lion.jpg").write_bytes(LION.read_bytes())
    (tmp_path / name).write_text(text)
    entries = read_list(tmp_path / name).entries

    def planned(digest):
        return plan(entries, SHARED, "tiny", lambda request: with_digests(request, digest))

    one, plain, heavy = planned("0" * 64)
    assert [(lora.name, lora.weight) for lora in one.request.loras] == [
        ("a.safetensors", 0.8),
        ("b", ((0, 0.5), (1.2, 0))),
    ]
    assert plain.request.loras == ()
    assert "A LoRA's weight is a number such as 0.8, not heavy." in heavy.problem
    other, plain_again, _ = planned("1" * 64)
    assert other.name != one.name, "another file under the same name makes another video"
    assert plain_again.name == plain.name


def with_digests(request, digest):
    loras = tuple(lora.model_copy(update={"sha256": digest}) for lora in request.loras)
    return request.model_copy(update={"loras": loras})


@pytest.mark.parametrize("error", [SettingsError, LoraError])
def test_a_lora_that_is_bad_or_not_there_spoils_its_own_line_alone(tmp_path, error):
    (tmp_path / "lion.jpg").write_bytes(LION.read_bytes())
    (tmp_path / "jobs.csv").write_text("photo,loras\nlion.jpg,a\nlion.jpg,\n")

    def identify(request):
        if request.loras:
            raise error("LoRA a: there is no such file.")
        return request

    bad, good = plan(read_list(tmp_path / "jobs.csv").entries, SHARED, "tiny", identify)
    assert (bad.request, bad.problem) == (None, "LoRA a: there is no such file.")
    assert good.problem == ""
