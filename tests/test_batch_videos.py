"""Lines of a list that go on from videos: what they say, what is wrong with them, and what is made."""

import json
import os
from types import SimpleNamespace

import pytest

from diffusers_helper.commands.batch import _foreseen, _tell_time, inputs_of
from diffusers_helper.commands.batch_list import plan, read_list
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.speeds import Estimate
from tests.odd_videos import video

SHARED = GenerationRequest(seconds=1.2, resolution=128, seed=5).model_dump()
HEADER = "photo,video,second,edit,from,to,at,prompt,anchor"


@pytest.fixture
def jobs(tmp_path):
    """The jobs of a list with these lines."""
    video(tmp_path / "a.mp4", 60)
    video(tmp_path / "b.mp4", 45)
    (tmp_path / "p.jpg").write_bytes(b"photo")

    def read(*lines, header=HEADER, shared=SHARED):
        source = tmp_path / ("jobs.csv" if header else "jobs.jsonl")
        source.write_text("\n".join([header, *lines] if header else lines))
        return plan(read_list(source).entries, shared, "tiny")

    return read


@pytest.mark.parametrize(
    ("line", "uses", "replaced", "variant"),
    [
        (",a.mp4,,,,,,wind,first", ["before"], None, "f1"),
        (",a.mp4,,extend,,,,wind,", ["before"], None, "f1"),
        (",a.mp4,,before,,,,wind,", ["after"], None, "original"),
        (",a.mp4,b.mp4,connect,,,,,", ["before", "after"], None, "f1"),
        (",a.mp4,,loop,,,,,", ["around"], None, "f1"),
        (",a.mp4,,redo,0.2,1.4,,,", ["around"], (0.2, 1.4), "f1"),
        (",a.mp4,,insert,,,1,,", ["around"], (1.0, 1.0), "f1"),
    ],
)
def test_each_edit(jobs, tmp_path, line, uses, replaced, variant):
    for shared in (SHARED, SHARED | {"start": "text"}, SHARED | {"frame": True}):
        [job] = jobs(line, shared=shared | {"variant": "f1"})
        assert job.problem == ""
        assert job.name.startswith("a_")
        inputs = inputs_of(job)
        assert (list(inputs.videos), inputs.request.replaced, inputs.request.variant) == (uses, replaced, variant)
        assert (inputs.request.start, inputs.request.frame, dict(inputs.pictures)) == ("photo", False, {})
        assert (inputs.request.prompt, inputs.request.anchor) == (
            "wind" if "wind" in line else "",
            "first" if "first" in line else "last",
        )
        assert _foreseen(job, tmp_path).state == "waiting"


def test_what_goes_into_a_video_makes_its_name(jobs, tmp_path):
    lines = [
        ",a.mp4,,,,,,,", ",a.mp4,,before,,,,,", ",a.mp4,,loop,,,,,", ",a.mp4,,redo,0,1.2,,,", ",a.mp4,,redo,0.2,1.4,,,",
        ",b.mp4,,,,,,,", ",a.mp4,b.mp4,connect,,,,,", ",b.mp4,a.mp4,connect,,,,,", "p.jpg,,,,,,,,",
    ]  # fmt: skip
    names = [job.name for job in jobs(*lines)]
    assert len(set(names)) == len(lines)
    os.rename(tmp_path / "a.mp4", tmp_path / "other.mp4")
    moved = jobs(*(line.replace("a.mp4", "other.mp4") for line in lines))
    assert [job.name.rpartition("_")[2] for job in moved] == [name.rpartition("_")[2] for name in names]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (",a.mp4,,mirror,,,,,", "edit should be one of extend, before, connect"),
        (",a.mp4,,connect,,,,,", "connect needs the column second"),
        (",a.mp4,,redo,1,,,,", "redo needs the column to"),
        (",a.mp4,,insert,,,,,", "insert needs the column at"),
        (",a.mp4,,loop,,,1,,", "loop has no use for the column at"),
        (",a.mp4,b.mp4,,,,,,", "extend has no use for the column second"),
        ("p.jpg,a.mp4,,,,,,,", "Leave out photo where there is a video"),
        (",a.mp4,,insert,,,soon,,", "at: should be a number"),
        (",a.mp4,,insert,,,nan,,", "at: should be a number"),
        (",a.mp4,,redo,inf,2,,,", "from: should be a number"),
        (",none.mp4,,,,,,,", "none.mp4 cannot be read"),
        ("p.jpg,,,loop,,,,,", "loop needs the column video"),
    ],
)
def test_a_line_that_does_not_fit_together_is_told_and_the_others_are_made(jobs, line, told):
    bad, good = jobs(line, ",a.mp4,,,,,,,")
    assert told in bad.problem
    assert (bad.request, good.problem) == (None, "")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"video": 7}, "its video is no name of a file"),
        ({"video": "a.mp4", "edit": "insert", "at": True}, "at: should be a number"),
        ({"video": "a.mp4", "edit": "insert", "at": [1]}, "at: should be a number"),
        ({"video": "a.mp4", "edit": ["loop"]}, "edit should be one of"),
        ({"video": "a\0.mp4"}, "video has a character that is no text"),
        ({"video": "a.mp4", "replaced": [0, 1]}, "'replaced' is no setting. It takes photo and"),
        ({"photo": "p.jpg", "anchor": "last"}, "'anchor' is no setting"),
    ],
)
def test_json_lines(jobs, line, told):
    bad, good = jobs(json.dumps(line), json.dumps({"video": "a.mp4", "edit": "redo", "from": 0, "to": 1.2}), header="")
    assert told in bad.problem
    assert good.problem == ""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (",p.jpg,,,,,,,", "p.jpg"),
        (",a.mp4,,redo,1,9,,,", "not in the video"),
        (",a.mp4,,insert,,,7,,", "not inside the video"),
    ],
)
def test_what_cannot_be_made_of_a_video_is_told_before_it_is_tried(jobs, tmp_path, line, told):
    [job] = jobs(line)
    seen = _foreseen(job, tmp_path)
    assert seen.state == "failed"
    assert told in seen.error


def test_how_long_it_takes_is_told_of_videos_too(jobs, capsys):
    asked = []

    def estimate(request, pictures, videos=None):
        asked.append((round(request.seconds, 1), list(pictures), list(videos or {})))
        return Estimate(120.0, rough=False)

    listed = jobs(",a.mp4,,redo,0,1.2,,,", ",a.mp4,b.mp4,connect,,,,,", "p.jpg,,,,,,,,")
    _tell_time(listed, SimpleNamespace(times=SimpleNamespace(estimate=estimate)))
    assert "will take about 6 min on this computer." in capsys.readouterr().err
    assert asked == [(1.2, [], ["around"]), (1.2, [], ["before", "after"]), (1.2, ["start"], [])]
