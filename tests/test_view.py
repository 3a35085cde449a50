"""What the page shows for a snapshot, as text and as HTML that nobody can put tags into."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from diffusers_helper.core.errors import OUT_OF_MEMORY
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio import view
from diffusers_helper.gradio.create import hint_view
from diffusers_helper.gradio.create.hint_view import Framing, size_hint, timing
from diffusers_helper.gradio.frame.view import header
from diffusers_helper.gradio.stage import view as stage_view
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.jobs.speeds import Estimate
from tests.fakes import fake_preview

EVIL = "<img src=x onerror=alert(1)>\"'&{{x}}${1}"
JOB = JobSnapshot(id="1", variant="original", seed=7, total_frames=73, sections=2, steps=10, created=0.0)
RUNNING = replace(
    JOB, state="running", stage="sample", description="Sampling", section=1, step=5, section_progress=0.5,
    total_progress=0.25, eta_seconds=125.0,
)  # fmt: skip
DONE = replace(JOB, state="done", description="Done", video="v.mp4", frames=73, started=10.0, finished=75.0)
JPEG = fake_preview(np.array([0, 1, 2]))


class Reader(HTMLParser):
    """Collects the text and the tags of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags = "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def text(html):
    return Reader(html).text


@pytest.mark.parametrize(
    "html",
    [
        header(EVIL, EVIL, EVIL),
        view.fault(EVIL),
        stage_view.progress(replace(RUNNING, description=EVIL)),
        stage_view.progress(replace(JOB, state="failed", error=EVIL)),
        stage_view.stage(replace(JOB, state="running", description=EVIL)),
        stage_view.details(replace(RUNNING, notes=(EVIL,))),
        timing(GenerationRequest(prompt=f"[0s: {EVIL}] [1.2s: a]")),
        timing(GenerationRequest(prompt=f"[0s: {EVIL}] [0.1s: a]")),
    ],
)
def test_what_a_user_typed_stays_text(html):
    assert EVIL in text(html)
    assert "img" not in Reader(html).tags


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(1, "37 frames, exactly 1.23 s, made in 1 section."), (5, "145 frames, exactly 4.83 s, made in 4 sections.")],
)
def test_the_real_length_is_told(seconds, told):
    assert told in text(hint_view.length_hint(seconds))


@pytest.mark.parametrize(
    ("size", "resolution", "told"),
    [((1000, 1000), 256, "256 × 256"), ((1920, 1080), 640, "832 × 480"), ((1080, 1920), 640, "480 × 832")],
)
def test_the_real_size_is_told(size, resolution, told):
    assert told in text(size_hint(Framing(GenerationRequest(resolution=resolution), size)))


SQUARE = (1000, 1000)


@pytest.mark.parametrize(
    ("settings", "end", "told"),
    [
        ({}, None, "The video will be 608 × 640 pixels; the photo is cropped to fit."),
        ({"shape": "16:9"}, None, "832 × 480"),
        ({"shape": "3:4"}, None, "544 × 704"),
        ({"shape": "16:9", "width": 720, "height": 400}, None, "720 × 400"),
        ({"fit": "blur"}, None, "pixels; a blurred border fills what the photo leaves."),
        ({}, (500, 503), "to fit."),
        ({}, (800, 600), "to fit.The end photo has another shape: it is cropped to that of the video."),
        ({"fit": "blur"}, (800, 600), "leaves.The end photo has another shape: it gets a blurred border, too."),
        ({"resolution": 384}, None, "The models were trained at about 640 x 640 pixels; this size may look worse."),
        ({"width": 1280, "height": 704}, None, "this size may look worse."),
        ({"resolution": 512}, None, "to fit."),
    ],
)
def test_the_size_hint_follows_shape_size_fit_and_end_photo(settings, end, told):
    shown = text(size_hint(Framing(GenerationRequest(**{"resolution": 640, **settings}), SQUARE, end)))
    assert told in shown
    assert told.endswith("worse.") or "worse" not in shown
    assert "end photo" in told or "end photo" not in shown


@pytest.mark.parametrize(
    ("prompt", "seconds", "rows", "told"),
    [
        ("[0s-2.4s: pan left] [2.4s-4.8s: pan right]", 4.8, ["0.0 to 2.4 s: pan left", "2.4 to 4.8 s: pan right"], ""),
        ("A lion. [0s: roars] [2s: sleeps]", 3.6, ["0.0 to 1.2 s: A lion. roars", "1.2 to 3.6 s: sleeps"], ""),
        ("[0s: a] [9s: b]", 2.4, ["0.0 to 2.4 s: a"], "ends at 2.4 s, before the text that begins at 9 s."),
        ("[0s: a] [0.1s: b] [1.2s: c]", 2.4, ["0.0 to 1.2 s: b", "1.2 to 2.4 s: c"], "“a” has no time of its own"),
        ("[0s: a]", 2.4, ["0.0 to 2.4 s: a"], ""),
        ("[wide: a]", 2.4, [], "To change it on the way"),
    ],
)
def test_times_in_a_prompt_become_a_table(prompt, seconds, rows, told):
    html = timing(GenerationRequest(prompt=prompt, seconds=seconds))
    shown = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', html)
    assert [f"{begin}: {words}" for begin, words in shown] == rows
    assert told in text(html)
    assert told or "<p" not in html


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "1 s"), (59.4, "59 s"), (60, "1 min"), (125, "2 min 5 s"), (700, "11 min"), (3780, "1 h 3 min")],
)
def test_durations_are_easy_to_read(seconds, told):
    assert view.duration(seconds) == told


@pytest.mark.parametrize(
    ("job", "told"),
    [
        (None, ""),
        (replace(JOB, position=1), "Next in line"),
        (replace(JOB, position=3), "Waiting; 2 before yours"),
        (replace(JOB, state="running"), "Starting"),
        (replace(RUNNING, section=0, description="Reading the prompt"), "Reading the prompt"),
        (replace(JOB, state="failed", error="The disk is full."), "The disk is full."),
        (DONE, "Done"),
    ],
)
def test_the_status_is_one_sentence(job, told):
    assert text(stage_view.progress(job)) == told


def test_a_running_job_has_one_line_with_a_bar_for_the_whole_video():
    html = stage_view.progress(RUNNING)
    assert html.count('role="progressbar"') == 1
    assert "Section 1 of 2, step 5 of 10" in text(html)
    assert "about 2 min 5 s left" in text(html)
    assert 'data-title="25 % · 2 min 5 s"' in html
    assert 'aria-valuenow="25"' in html
    assert "left<" not in stage_view.progress(replace(RUNNING, eta_seconds=None))


def test_a_video_of_one_section_and_a_picture_count_their_steps_alone():
    job = replace(RUNNING, sections=1)
    assert "Step 5 of 10" in text(stage_view.progress(job))
    assert "Section" not in text(stage_view.progress(job))
    picture = replace(job, request=GenerationRequest(frame=True, prompt="A lion."))
    assert 'aria-valuenow="50"' in stage_view.progress(picture)


DECODING = replace(
    RUNNING, stage="decode", description="Decoding section 2 of 2", section=2, step=10, section_progress=0.75,
    total_progress=0.8, eta_seconds=40.0, eta_now_seconds=40.0, eta_at=1000.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("passed", "left", "whole"),
    [
        (0, "about 40 s left", 80),
        (20, "about 20 s left", 90),
        (36, "about 4 s left", 98),
        (39.5, "nearly done", 99),
        (41, "nearly done", 99),  # it takes longer than was thought: the bar waits short of its end
        (4000, "nearly done", 99),
        (-5, "about 40 s left", 80),  # the clock was set
    ],
)
def test_while_a_section_is_decoded_bar_and_time_left_agree(passed, left, whole):
    html = stage_view.progress(DECODING, now=1000.0 + passed)
    assert f"Decoding section 2 of 2{left}" in text(html)
    assert f'aria-valuenow="{whole}"' in html
    assert f'data-left="{max(0.0, 40 - max(passed, 0)):.2f}"' in html


def test_the_time_left_stands_still_where_a_step_takes_longer_than_the_others():
    job = replace(RUNNING, eta_seconds=60.0, eta_now_seconds=2.0, eta_at=1000.0)
    for passed, left in ((0, "1 min"), (1, "59 s"), (2, "58 s"), (30, "58 s")):
        assert f"about {left} left" in text(stage_view.progress(job, now=1000.0 + passed))
    short = replace(job, eta_seconds=0.5, eta_now_seconds=0.1)
    assert "about 1 s left" in text(stage_view.progress(short, now=1000.0)), "more comes after this step"


def test_a_video_that_stops_early_has_no_time_left():
    assert "left" not in text(
        stage_view.progress(replace(DECODING, stopping="Stopping after this section"), now=1000.0)
    )


def test_a_full_disk_is_told_though_the_job_was_asked_to_stop_after_its_section():
    job = replace(RUNNING, stage="wait", description="The disk is full", stopping="Stopping after this section")
    assert "The disk is full" in text(stage_view.progress(job))
    assert "Stopping after this section" in text(stage_view.progress(replace(job, stage="decode")))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "about 5 s"), (41, "about 40 s"), (57, "about 1 min"), (546, "about 9 min"), (7512, "about 2 h 5 min")],
)
def test_how_long_it_will_take_is_told_as_roughly_as_it_is_known(seconds, told):
    assert text(hint_view.estimate(Estimate(seconds, False))) == f"It will take {told} on this computer."
    assert "very roughly" in text(hint_view.estimate(Estimate(seconds, True)))
    assert hint_view.estimate(None) == ""


def test_a_video_has_buttons_once_it_has_ended():
    for job in (
        None,
        RUNNING,
        replace(DONE, video=None),
        replace(DONE, request=GenerationRequest(frame=True, prompt="x")),
    ):
        assert stage_view.actions(job) == ""
    html = stage_view.actions(replace(DONE, video="/out/a <b>&.mp4"))
    assert 'href="gradio_api/file=/out/a%20%3Cb%3E%26.mp4" download="a &lt;b&gt;&amp;.mp4"' in html
    words = ["extend", "new_take", "last_frame", "use_settings", "export", "export", "export"]
    assert re.findall('data-action="(.*?)"', html) == words
    assert stage_view.actions(replace(DONE, state="cancelled")) != ""


def test_only_a_want_of_memory_is_something_that_a_button_helps_with():
    failed = replace(JOB, state="failed", error=OUT_OF_MEMORY)
    assert stage_view.advice(failed)
    assert stage_view.advice(replace(failed, error=str(OUT_OF_MEMORY))), "as it comes back from the disk"
    assert not stage_view.advice(replace(failed, error="The model gave NaN."))
    assert not stage_view.advice(replace(failed, state="running"))
    assert not stage_view.advice(None)


@pytest.mark.parametrize(
    ("settings", "photo", "crop"),
    [
        ({"shape": "9:16"}, (1000, 1000), "0.5769,1.0000,0.5000,0.5000"),
        ({"shape": "16:9", "focus": (0.5, 0)}, (1000, 1000), "1.0000,0.5769,0.5000,0.0000"),
        ({"width": 320, "height": 320}, (1000, 1000), ""),
        ({"shape": "9:16", "fit": "blur"}, (1000, 1000), ""),
    ],
)
def test_what_of_a_photo_is_in_the_video_is_told_for_a_frame_over_it(settings, photo, crop):
    html = size_hint(Framing(GenerationRequest(**{"resolution": 640, **settings}), photo))
    assert (re.findall('data-crop="(.*?)"', html) or [""]) == [crop]


@pytest.mark.parametrize("state", ["cancelled", "failed", "interrupted"])
def test_a_job_that_ended_without_a_video_leaves_the_stage_as_it_was_before(state):
    ended = replace(JOB, state=state, started=10.0, finished=12.0)
    assert stage_view.stage(ended) == stage_view.stage(None)
    assert "made in" not in stage_view.details(ended)


def test_the_stage_shows_what_there_is():
    assert "appears here" in stage_view.stage(None)
    assert "Sampling" in stage_view.stage(replace(RUNNING))
    film = stage_view.stage(replace(RUNNING, preview=JPEG))
    assert "data:image/jpeg;base64," in film
    assert "--fp-shape: 1.0000; --fp-frames: 9" in film
    assert "fp-inset" not in film
    assert "fp-inset" in stage_view.stage(replace(RUNNING, preview=JPEG, video="v.mp4"))
    assert stage_view.stage(DONE) == stage_view.stage(replace(RUNNING, video="v.mp4")) == ""


def test_the_details_tell_seed_length_and_notes():
    assert text(stage_view.details(None)) == ""
    assert text(stage_view.details(DONE)) == "73 frames, 2.43 s · seed 7 · made in 1 min 5 s"
    growing = text(stage_view.details(replace(RUNNING, video="v.mp4", frames=36, partial=True, notes=("Clamped.",))))
    assert growing.startswith("36 of 73 frames, 1.20 s · seed 7Clamped.")


@pytest.mark.parametrize(("variant", "told"), [("original", True), ("f1", False)])
def test_only_the_original_says_that_endings_come_first(variant, told):
    assert ("ending is generated first" in stage_view.details(replace(RUNNING, variant=variant))) is told
    assert "ending" not in stage_view.details(replace(DONE, variant=variant))
    assert "ending" not in stage_view.details(replace(RUNNING, variant=variant, sections=1))
