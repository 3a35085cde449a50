"""The page in a real browser, headless Chromium, with a fake run behind it."""

import io
import re
import shutil
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

from diffusers_helper.core.buckets import BUCKETS
from diffusers_helper.core.errors import OUT_OF_MEMORY, NumericsError, OutOfMemoryError
from diffusers_helper.core.events import StepDone
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import F1, ORIGINAL
from diffusers_helper.gradio.create.layout import IDEAS
from diffusers_helper.gradio.stage import view as stage_view
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.jobs.speeds import Estimate
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.recipe import png_comment, recipe_of
from diffusers_helper.media.tags import Tags
from diffusers_helper.service.system_monitor import SystemMonitor
from tests.browsing import (
    HEARD,
    LATE,
    PLAYED,
    SOUGHT,
    START,
    fill,
    keeps,
    left_idle,
    preview,
    shows_idle,
    shows_running,
    start,
    unfold,
    until,
    visit,
)
from tests.fakes import LION, SIZE, serve_page, wait_for
from tests.odd_videos import video
from tests.ports import own_port
from tests.test_unfinished import Life

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serve_page(tmp_path_factory.mktemp("page"), models_note="The pictures are noise.") as served:
        yield served


@pytest.fixture
def server(served):
    """The page's server with nothing to do and nothing scripted."""
    with left_idle(served):
        yield served


@pytest.fixture
def user(browser, server):
    with visit(browser, server.url) as user:
        yield user


def started(tab, server):
    """Start a job that waits after its first step, or that of section `hold_at`."""
    server.run.hold.clear()
    fill(tab)
    start(tab)
    shows_running(tab)
    return server.manager.jobs()[-1].id


@pytest.mark.parametrize("variant", [ORIGINAL, F1], ids=lambda variant: variant.name)
def test_a_photo_and_a_prompt_become_a_video(browser, tmp_path, variant):
    with serve_page(tmp_path, variant, seconds=2.4, steps=8) as server, visit(browser, server.url) as user:
        server.run.step_seconds = 0.15
        server.run.hold.clear()
        tab = user.open()
        expect(tab).to_have_title("FramePack")
        fill(tab)
        start(tab)
        expect(tab.locator("#stage img")).to_be_visible()
        first = preview(tab)
        server.run.hold_at = 1
        expect(tab.locator("#stage img")).not_to_have_attribute("src", first)
        bars = tab.locator("#progress [role=progressbar]")
        expect(bars).to_have_count(1)
        expect(tab.locator("#progress")).to_contain_text(re.compile(r"Section \d of 2, step \d of 8"))
        expect(tab.locator("#progress")).to_contain_text(re.compile("about .* left"))
        expect(tab).to_have_title(re.compile(r"\d+ % · .+ · FramePack"))
        told = expect(tab.locator("#details"))
        (told.to_contain_text if variant.note else told.not_to_contain_text)("ending is generated first")

        server.run.hold.set()
        expect(tab.locator("#progress")).to_have_text("Done")
        shows_idle(tab)
        expect(tab.locator("#video video")).to_have_attribute("src", re.compile(server.manager.jobs()[0].id + ".mp4"))
        duration, loops, error = tab.locator("#video video").evaluate(PLAYED)
        assert duration == pytest.approx(73 / 30, abs=0.02)
        assert loops
        assert error is None
        for share in (0.9, 0.2, 0.6):
            assert tab.locator("#video video").evaluate(SOUGHT, share) == pytest.approx(share * duration, abs=0.02)
        expect(tab).to_have_title("FramePack")
        with tab.expect_download() as download:
            tab.get_by_role("link", name="Download").click()
        assert download.value.path().read_bytes() == Path(server.manager.jobs()[0].video).read_bytes()


def test_end_gives_the_page_back(user, server):
    tab = user.open()
    started(tab, server)
    tab.locator("#end").click()
    shows_idle(tab)
    expect(tab.locator("#progress")).to_contain_text("Stopped")
    expect(tab.locator("#stage")).to_contain_text("Your video appears here")
    assert tab.locator("#stage").bounding_box()["height"] > 300, "no empty half page"

    server.run.hold.set()
    start(tab)
    expect(tab.locator("#progress")).to_have_text("Done")
    assert [job.state for job in server.manager.jobs()[-2:]] == ["cancelled", "done"]


def test_end_keeps_the_part_that_was_finished(user, server):
    server.run.hold_at = 1
    tab = user.open()
    tab.locator("#seconds input[type=number]").fill("2.4")
    job = started(tab, server)
    expect(tab.locator("#video video")).to_be_visible()
    tab.locator("#end").click()
    expect(tab.locator("#details")).to_contain_text("37 of 73 frames")
    assert tab.locator("#video video").evaluate(PLAYED)[0] == pytest.approx(37 / 30, abs=0.02)
    assert server.manager.snapshot(job).partial


def test_a_reload_brings_everything_back(user, server):
    tab = user.open()
    unfold(tab, "more")
    tab.get_by_label("A new seed for every video").click()
    expect(tab.locator("#seed input")).not_to_have_value("-1")
    tab.locator("#seed input").fill("123")
    tab.get_by_label("TeaCache").check()
    server.run.hold_at = 1
    tab.locator("#seconds input[type=number]").fill("2.4")
    started(tab, server)
    expect(tab.locator("#stage img")).to_be_visible()

    tab.reload()
    expect(tab.locator("#prompt textarea")).to_have_value("A lion roars.")
    tab.reload()  # the first one left nothing behind
    expect(tab.locator("#end")).to_be_enabled()
    expect(tab.locator("#stage img")).to_be_visible()
    expect(tab.locator("#progress [role=progressbar]")).to_have_count(1)
    expect(tab.locator("#video video")).to_be_visible()
    expect(tab.locator("#photo img")).to_be_visible()
    expect(tab.locator("#prompt textarea")).to_have_value("A lion roars.")
    unfold(tab, "more")
    expect(tab.locator("#seed input")).to_have_value("123")
    expect(tab.locator("#seconds input[type=number]")).to_have_value("2.4")
    expect(tab.locator("#length-hint")).to_contain_text("73 frames")
    expect(tab.get_by_label("TeaCache")).to_be_checked()
    tab.locator("#end").click()
    shows_idle(tab)
    start(tab)  # the photo that came back is as good as the one that was uploaded
    shows_running(tab)


def test_a_second_tab_shows_the_same_job_and_stops_it(user, server):
    first, second = user.open(), None
    second = user.open()
    started(first, server)
    shows_running(second)  # it was open before the job began
    second.locator("#end").click()
    shows_idle(first)
    shows_idle(second)


def test_a_job_whose_tab_was_closed_is_there_on_the_next_visit(user, server):
    tab = user.open()
    job = started(tab, server)
    tab.close()
    server.run.hold.set()
    server.manager.wait(job, 60)
    tab = user.open()
    expect(tab.locator("#video video")).to_have_attribute("src", re.compile(job))
    shows_idle(tab)


def test_two_people_see_only_their_own_jobs(browser, user, server):
    ann = user.open()
    started(ann, server)
    with visit(browser, server.url) as other:
        bob = other.open()
        shows_idle(bob)
        fill(bob)
        start(bob)
        expect(bob.locator("#start")).to_have_text("Add to queue")
        expect(bob.locator("#progress")).to_contain_text("Next in line")
        bob.locator("#end").click()
        shows_idle(bob)
    shows_running(ann)


def test_ten_tabs_on_a_running_job_are_all_live(user, server):
    server.run.hold_at = 1
    tabs = [user.open()]
    tabs[0].locator("#seconds input[type=number]").fill("2.4")
    started(tabs[0], server)
    tabs += [user.open() for _ in range(9)]
    for tab in tabs:
        shows_running(tab)
        expect(tab.locator("#progress")).to_contain_text("Section 2 of 2, step 1 of 4")
    server.run.hold.set()
    for tab in tabs:
        expect(tab.locator("#progress")).to_have_text("Done")
        shows_idle(tab)


def test_a_double_click_starts_one_job(user, server):
    before = len(server.manager.jobs())
    server.run.hold.clear()
    tab = user.open()
    fill(tab)
    tab.locator("#start").dblclick()
    shows_running(tab)
    server.run.hold.set()
    expect(tab.locator("#progress")).to_have_text("Done")
    server.wait_until_idle()  # another one would have been worked on, too
    assert len(server.manager.jobs()) == before + 1


def test_start_without_a_photo_is_one_clear_message(user, server):
    before = len(server.manager.jobs())
    tab = user.open()
    start(tab)
    expect(tab.locator("#message")).to_contain_text("Add a photo first")
    shows_idle(tab)
    assert len(server.manager.jobs()) == before

    fill(tab)
    expect(tab.locator("#message [role=alert]")).to_have_count(0)  # cured
    start(tab)
    expect(tab.locator("#progress")).to_have_text("Done")
    expect(tab.locator("#message")).not_to_contain_text("photo")


DROPPED = """([selector, name, bytes]) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([Uint8Array.from(bytes)], name));
  const drop = new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer });
  document.querySelector(selector).dispatchEvent(drop);
}"""
"""Drops a file of which the browser knows no type."""


@pytest.mark.parametrize("way", ["choose", "drop"])
def test_what_is_in_a_file_decides_and_not_its_name(user, tmp_path, way):
    def give(field, name, content):
        file = tmp_path / name
        file.write_bytes(content)
        if way == "drop":
            tab.evaluate(DROPPED, [f"{field} button:has(> input), {field} .upload-container", name, list(content)])
        else:
            tab.locator(f"{field} input[type=file]").set_input_files(file)

    tab = user.open()
    give("#photo", "photo", LION.read_bytes())
    expect(tab.locator("#size-hint")).to_contain_text("pixels")
    keeps(tab, "photo")
    tab.reload()
    tab.locator("#photo button[aria-label='Remove Image'], #photo button[aria-label='Clear']").first.click()
    give("#photo", "letter.pdf", b"%PDF-1.4")
    expect(tab.locator("#size-hint [role=alert]")).to_contain_text("letter.pdf")
    give("#photo", "letter.json", b"%PDF-1.4")
    expect(tab.locator("#dropped-told [role=alert]")).to_contain_text("letter.json")
    expect(tab.locator("#photo img")).to_be_hidden()
    expect(tab.locator(".toast-body")).to_have_count(0)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.of.mine"])
def test_a_video_is_gone_on_from(user, server, tmp_path, name):
    video(tmp_path / name, 60, form="mp4")
    tab = user.open()
    tab.locator("#video-panel").get_by_role("button").first.click()
    tab.locator("#given-video input[type=file]").set_input_files(tmp_path / name)
    expect(tab.locator("#given-video")).to_contain_text("clip")
    tab.locator("#video-place").get_by_label("From end to beginning").click()
    tab.locator("#video-start").click()
    expect(tab.locator("#video video")).to_be_visible()
    assert list(server.run.jobs[-1].inputs.videos) == ["around"]
    expect(tab.locator(".toast-body")).to_have_count(0)


def test_what_a_user_or_a_file_says_stays_text(user, server, tmp_path):
    photo = tmp_path / "<img src=x onerror=alert(1)>.png"
    photo.write_bytes(b"no picture")
    server.run.notes = (EVIL, "{{constructor}} ${1+1}")
    server.run.fault = NumericsError(EVIL)
    tab = user.open()
    tab.on("dialog", lambda dialog: user.errors.append(dialog.message))
    tab.locator("#photo input[type=file]").set_input_files(photo)
    expect(tab.locator("#size-hint [role=alert]")).to_contain_text("not an image")
    start(tab)
    expect(tab.locator("#message [role=alert]")).to_contain_text("not an image")
    keeps(tab, "photo")

    tab.reload()
    expect(tab.locator("#start")).to_be_visible()
    tab.locator("#photo button[aria-label='Remove Image'], #photo button[aria-label='Clear']").first.click()
    fill(tab, prompt=EVIL)
    start(tab)
    expect(tab.locator("#progress [role=alert]")).to_have_text(EVIL)
    expect(tab.locator("#details")).to_contain_text("{{constructor}} ${1+1}")
    expect(tab.locator("#prompt textarea")).to_have_value(EVIL)
    shows_idle(tab)
    expect(tab).to_have_title(ORIGINAL.title)


def test_a_poll_from_before_the_start_leaves_nothing_behind(user, server):
    server.run.fault = NumericsError("Not a number.")
    tab = user.open()
    fill(tab)
    polls = []

    def keep_polls(route):
        data = route.request.post_data_json["data"]
        is_poll = len(data) == 3 and " " in str(data[1])  # the client's id, what the tab has, and which job it shows
        polls.append(route) if is_poll and not polls else route.continue_()

    tab.route("**/gradio_api/run/predict*", keep_polls)
    while not polls:
        tab.wait_for_timeout(50)
    server.run.hold.clear()
    start(tab)
    shows_running(tab)
    server.run.hold.set()
    server.wait_until_idle()
    polls[0].continue_()  # asked when the page was idle, answered when it is so again
    expect(tab.locator("#progress [role=alert]")).to_have_text("Not a number.")
    shows_idle(tab)
    expect(tab.locator("#stage")).to_contain_text("Your video appears here")


def test_length_size_and_notes_are_told_before_the_start(user):
    tab = user.open()
    expect(tab.get_by_role("note")).to_have_count(0)
    tab.get_by_text("About the models").click()
    expect(tab.get_by_role("note").first).to_have_text("The pictures are noise.")
    expect(tab.locator("#length-hint")).to_contain_text("37 frames, exactly 1.23 s")
    tab.locator("#seconds input[type=number]").fill("120")
    expect(tab.locator("#length-hint")).to_contain_text("3601 frames, exactly 120.03 s")
    fill(tab)
    expect(tab.locator("#size-hint")).to_contain_text("256 × 256")
    tab.get_by_label("Picture size").click()
    tab.get_by_role("option", name="640").click()
    expect(tab.locator("#size-hint")).to_contain_text("640")


def test_quick_choices_fill_the_form_and_are_kept(user):
    tab = user.open()
    tab.locator("#ideas").get_by_text("Wave").click()
    expect(tab.locator("#prompt textarea")).to_have_value(IDEAS["Wave"])
    unfold(tab, "more")
    switch, seed = tab.get_by_label("A new seed for every video"), tab.locator("#seed input")
    expect(switch).to_be_checked()
    expect(seed).to_be_hidden()
    switch.click()
    expect(seed).to_be_visible()
    expect(seed).not_to_have_value("-1")
    kept = seed.input_value()

    keeps(tab, prompt=IDEAS["Wave"], seed=int(kept))
    tab.reload()
    expect(tab.locator("#prompt textarea")).to_have_value(IDEAS["Wave"])
    unfold(tab, "more")
    expect(switch).not_to_be_checked()
    expect(seed).to_have_value(kept)
    switch.click()
    expect(seed).to_have_value("-1")
    expect(seed).to_be_hidden()


def test_every_video_has_a_new_seed_until_the_switch_keeps_one(user, server):
    tab = user.open()
    fill(tab)
    details, seeds = tab.locator("#details"), []
    before = len(server.manager.jobs())
    for count in (before + 1, before + 2):
        start(tab)
        wait_for(lambda count=count: len(server.manager.jobs()) == count)
        seeds.append(server.manager.jobs()[-1].seed)
        expect(details).to_contain_text(f"seed {seeds[-1]}")
        expect(tab.locator("#progress")).to_have_text("Done")
        shows_idle(tab)
    assert seeds[0] != seeds[1]

    unfold(tab, "more")
    tab.get_by_label("A new seed for every video").click()
    expect(tab.locator("#seed input")).to_have_value(str(seeds[1]))
    count = len(server.manager.jobs())
    start(tab)
    expect(tab.locator("#message [role=alert]")).to_contain_text("This would make the same video again")
    assert len(server.manager.jobs()) == count
    start(tab)
    wait_for(lambda: len(server.manager.jobs()) == count + 1)
    assert server.manager.jobs()[-1].seed == seeds[1]
    expect(tab.locator("#message [role=alert]")).to_have_count(0)


def clear_of_each_other(tab, selector):
    boxes = (
        tab.locator(selector)
        .filter(visible=True)
        .evaluate_all(
            "hints => hints.map(hint => hint.getBoundingClientRect()).map(({ top, bottom }) => [top, bottom])"
        )
    )
    return all(above[1] <= below[0] for above, below in pairwise(boxes))


@pytest.mark.parametrize("width", [420, 1400])
def test_hints_stand_below_each_other_and_go_when_they_are_followed(browser, server, tmp_path, width):
    file = tmp_path / "made.png"
    Image.open(LION).save(file, pnginfo=png_comment(recipe_of(GenerationRequest(prompt="A lion", resolution=256))))
    with visit(browser, server.url, viewport={"width": width, "height": 900}) as user:
        tab = user.open()
        hint = tab.get_by_text("This picture was made here")
        fill(tab, photo=file)
        expect(hint).to_be_visible()
        expect(tab.locator("#create .fp-hint").nth(3)).to_be_attached()
        until(tab, lambda: clear_of_each_other(tab, "#create .fp-hint"))
        tab.locator("#use-settings").click()
        expect(tab.locator("#dropped-told")).to_contain_text("The settings are restored.")
        expect(hint).to_have_count(0)
        expect(tab.locator("#prompt textarea")).to_have_value("A lion")
        tab.locator("#photo button[aria-label='Remove Image'], #photo button[aria-label='Clear']").first.click()
        expect(tab.locator("#dropped-told")).to_be_hidden()


def test_form_and_result_stay_in_sight_while_the_settings_scroll(browser, server):
    for width in (1920, 1400):
        with visit(browser, server.url, viewport={"width": width, "height": 700}) as user:
            tab = user.open()
            unfold(tab, "more")
            expect(tab.locator("#negative-prompt")).to_be_visible()
            result, create = tab.locator("#result"), tab.locator("#create")
            assert create.bounding_box()["width"] == pytest.approx(440, abs=12)
            assert create.evaluate("column => column.scrollHeight > column.clientHeight")
            before = result.bounding_box()["y"]
            create.evaluate("column => column.scrollTo(0, column.scrollHeight)")
            tab.wait_for_function("document.getElementById('create').scrollTop > 100")
            assert result.bounding_box()["y"] == before
            expect(tab.locator("#start")).to_be_in_viewport(ratio=1)
            tab.evaluate("window.scrollTo(0, 700)")
            expect(tab.locator("#start")).to_be_in_viewport(ratio=1)
            assert result.bounding_box()["y"] >= 0
            assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_the_bar_and_the_time_left_go_on_between_two_polls_as_the_server_would_say(user, server):
    tab = user.context.new_page()
    tab.clock.install()
    tab.goto(server.url)
    expect(tab.locator("#start")).to_be_visible()
    job = JobSnapshot("1", "original", 7, 73, 2, 4, 0.0, state="running", section=2, step=4, section_progress=0.5,
                      total_progress=0.6, eta_seconds=125, eta_now_seconds=125, eta_at=1000)  # fmt: skip
    tab.clock.pause_at(tab.evaluate("Date.now()") + 3_600_000)  # time passes on the way, more on a busy computer
    tab.evaluate("setInterval(() => document.dispatchEvent(new Event('fp-heard')), 1)")  # the server answers all along
    tab.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", stage_view.progress(job, now=1000))
    bars = tab.locator("body > [data-title] .fp-progress")
    began = tab.evaluate("Date.now()")
    tab.clock.run_for(600)
    for _ in range(4):
        tab.clock.fast_forward(30_000)
        tab.clock.run_for(600)
        passed = (tab.evaluate("Date.now()") - began) / 1000
        shown = bars.nth(0).inner_text()  # time stands still
        near = [stage_view.progress(job, now=1000 + passed - late) for late in (0, 0.25, 0.5, 0.75, 1)]
        texts = [re.findall("(?:about [^<]+ left|nearly done)", html)[-1] for html in near]
        assert any(text in shown for text in texts), (shown, texts)
        percents = [re.findall('valuenow="(\\d+)"', html) for html in near]
        assert [bar.locator("[role=progressbar]").get_attribute("aria-valuenow") for bar in bars.all()] in percents
    tab.clock.fast_forward(600_000)
    tab.clock.run_for(600)
    assert "nearly done" in bars.nth(0).inner_text()
    assert bars.nth(0).locator("[role=progressbar]").get_attribute("aria-valuenow") == "99"


def test_while_the_last_section_is_decoded_nothing_says_that_all_is_done(user, server):
    server.run.hold_at = 1
    server.run.decoded.clear()
    tab = user.open()
    tab.locator("#seconds input[type=number]").fill("2.4")
    fill(tab)
    start(tab)
    expect(tab.locator("#progress")).to_contain_text("Decoding section 2 of 2")
    expect(tab.locator("#progress")).to_contain_text("nearly done")
    assert int(tab.locator("#progress [role=progressbar]").get_attribute("aria-valuenow")) <= 99
    server.run.decoded.set()
    expect(tab.locator("#progress")).to_have_text("Done")


def test_a_long_video_is_started_only_after_a_question(browser, tmp_path):
    def estimate(request, _pictures):
        return Estimate(20 * 60 * request.sections, rough=False)

    with serve_page(tmp_path, estimate=estimate) as server, visit(browser, server.url) as user:
        tab, asked = user.open(), []
        told = tab.locator("#estimate")
        expect(told).to_have_text("It will take about 20 min on this computer.")
        fill(tab)
        start(tab)
        expect(tab.locator("#progress")).to_have_text("Done")  # not asked: Playwright would have said no
        tab.locator("#seconds input[type=number]").fill("6")
        expect(told).to_have_text("It will take about 1 h 40 min on this computer.")
        for number, answer in enumerate(("dismiss", "accept"), start=1):
            tab.once("dialog", lambda dialog, answer=answer: (asked.append(dialog.message), getattr(dialog, answer)()))
            tab.keyboard.press("Control+Enter") if answer == "dismiss" else start(tab)
            wait_for(lambda number=number: tab.wait_for_timeout(50) or len(asked) == number)
            if answer == "dismiss":
                shows_idle(tab)
                assert len(server.manager.jobs()) == 1
        wait_for(lambda: len(server.manager.jobs()) == 2)
        assert asked == ["This video will take about 1 h 40 min. Start it?"] * 2


@pytest.mark.parametrize("kind", ["png", "mp4"])
def test_a_picture_or_a_video_brings_its_settings_back(user, tmp_path, kind):
    made = GenerationRequest(prompt="A lion in 雪", negative_prompt="blur", seconds=7.5, seed=123, steps=7, cfg_scale=2,
                             teacache=True, mp4_crf=20, resolution=512)  # fmt: skip
    file = tmp_path / f"made.{kind}"
    if kind == "png":
        Image.new("RGB", (512, 512), "teal").save(file, pnginfo=png_comment(recipe_of(made)))
    else:
        photo = io.BytesIO()
        Image.new("RGB", (512, 512), "teal").save(photo, "PNG")
        tags = Tags(recipe_of(made), photo.getvalue())
        growing = GrowingVideo(file.with_suffix(""), grows_at_front=True, crf=30, tags=tags)
        growing.add(torch.zeros(1, 3, 5, 64, 64), 0)
        growing.finish()
    tab = user.open()
    tab.evaluate(DROPPED, ["#result", file.name, list(file.read_bytes())])  # anywhere
    expect(tab.locator("#dropped-told")).to_contain_text("was made here. What do you want of it?")
    tab.locator("#use-both").click()
    expect(tab.locator("#dropped-told")).to_contain_text("The settings are restored.")
    expect(tab.locator("#photo img")).to_be_visible()

    def shows_them():
        expect(tab.locator("#prompt textarea")).to_have_value(made.prompt)
        unfold(tab, "more")
        expect(tab.locator("#seed input")).to_have_value("123")
        expect(tab.locator("#seconds input[type=number]")).to_have_value("7.5")
        expect(tab.locator("#teacache input")).to_be_checked()
        expect(tab.locator("#size-hint")).to_contain_text("512 × 512")
        expect(tab.locator("#negative-prompt textarea, #negative-prompt input").first).to_have_value("blur")
        expect(tab.get_by_label("number input for Steps")).to_have_value("7")
        expect(tab.locator("#resolution input")).to_have_value("512")

    shows_them()
    keeps(tab, "photo", prompt=made.prompt, resolution=512, **{name: getattr(made, name) for name in ("seed", "steps")})
    tab.reload()
    shows_them()


@pytest.mark.parametrize("variant", [ORIGINAL, F1], ids=lambda variant: variant.name)
def test_what_is_set_about_an_end_photo_or_times_is_shown_beside_them_alone(browser, tmp_path, variant):
    with serve_page(tmp_path, variant) as server, visit(browser, server.url) as user:
        tab = user.open()
        end_photo, settings, blend = (tab.locator(f"#{name}") for name in ("end-photo", "end-photo-settings", "blend"))
        forget = tab.locator("#forget-at-changes")
        expect(end_photo).to_be_hidden()
        tab.locator("#end-photo-panel").get_by_role("button").first.click()
        expect(end_photo).to_be_visible()
        expect(settings).to_be_hidden()
        end_photo.locator("input[type=file]").set_input_files(LION)
        expect(settings).to_be_visible()
        expect(tab.locator("#landing")).to_be_visible(visible=variant == F1)

        expect(blend).to_be_hidden()
        expect(forget).to_be_hidden()
        tab.locator("#prompt textarea").fill("[0s: a] [1.2s: b]")
        expect(blend).to_be_visible()
        expect(forget).to_be_visible()
        tab.locator("#prompt textarea").fill("[2s-1s: a]")
        expect(tab.locator("#timing")).to_contain_text("ends before it begins")
        expect(blend).to_be_hidden()
        start(tab)
        expect(tab.locator("#message [role=alert]")).to_contain_text("ends before it begins")
        tab.locator("#prompt textarea").fill("[0s: a] [1s: b]")
        expect(tab.locator("#message")).to_contain_text("Add a photo first")

        end_photo.get_by_role("button", name="Remove").click()
        expect(settings).to_be_hidden()


def test_size_shape_and_what_is_in_sight_reach_the_job_and_come_back(user, server):
    tab = user.open()
    tab.locator("#sizes").get_by_role("button").first.click()
    tab.locator("#shape input").click()
    tab.get_by_role("option", name="9:16").click()
    fill(tab)
    expect(tab.locator("#size-hint")).to_contain_text("192 × 320")
    tab.locator("#width :is(input, textarea)").fill("320")
    expect(tab.locator("#size-hint")).to_contain_text("A width needs a height")
    tab.locator("#height :is(input, textarea)").fill("192")
    expect(tab.locator("#size-hint")).to_contain_text("320 × 192")
    tab.get_by_label("Show all of it").check()
    expect(tab.locator("#size-hint")).to_contain_text("blurred border")
    tab.locator("#focus input").click()
    tab.get_by_role("option", name="Bottom right").click()
    keeps(tab, "photo", width="320", height="192", fit="blur", focus="1,1")
    tab.reload()
    expect(tab.locator("#size-hint")).to_contain_text("320 × 192")
    start(tab)
    expect(tab.locator("#progress")).to_have_text("Done")
    request = server.run.jobs[-1].request
    assert (request.shape, request.width, request.height) == ("9:16", 320, 192)
    assert (request.fit, request.focus) == ("blur", (1, 1))
    tab.locator("#sizes").get_by_role("button").first.click()
    expect(tab.locator("#focus input")).to_have_value("Bottom right")


def test_start_is_in_sight_on_a_phone_with_nothing_unfolded(browser, server):
    with visit(browser, server.url, viewport={"width": 420, "height": 900}) as user:
        tab = user.open()
        expect(tab.locator(START)).to_be_in_viewport(ratio=1)
        assert tab.locator(START).bounding_box()["height"] >= 44


@pytest.mark.parametrize(("width", "scheme"), [(420, "dark"), (1400, "light")])
def test_the_page_fits_its_window(browser, server, width, scheme):
    with visit(browser, server.url, viewport={"width": width, "height": 900}, color_scheme=scheme) as user:
        tab = user.open()
        started(tab, server)
        if width < 760:
            expect(tab.locator("#result")).to_be_hidden()
            tab.get_by_role("button", name="Watch").click()
            expect(tab.locator("#create")).to_be_hidden()
        expect(tab.locator("#stage img")).to_be_visible()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        if width > 1000:
            assert tab.locator("#result").bounding_box()["x"] > tab.locator("#create").bounding_box()["x"]
        assert tab.locator(START).bounding_box()["height"] >= 44


def test_the_panel_about_the_computer_asks_only_while_it_is_open(user, server, monkeypatch):
    looks, read = [], SystemMonitor.read
    monkeypatch.setattr(SystemMonitor, "read", lambda self: looks.append(1) or read(self))
    tab = user.open()
    tab.get_by_role("tab", name="Settings").click()
    panel, button = tab.locator("#computer"), tab.locator("#computer").get_by_role("button")
    expect(panel.locator(".fp-computer")).to_have_count(0)
    button.click()
    expect(panel.locator(".fp-computer")).to_contain_text("GB free")
    for step in range(1, 5):
        server.manager.stats.record(StepDone(0, 1, step, 9, None))
    expect(panel.locator("polyline")).to_have_count(1)
    wait_for(lambda: len(looks) >= 2)  # the timer's, after the one that opened it
    button.click()
    expect(panel.locator(".fp-computer")).to_be_hidden()

    def no_more():
        before = len(looks)
        tab.evaluate(HEARD, 4)  # one more look may be under way, and no third
        return len(looks) == before

    until(tab, no_more)


DROPPED_AT_ONCE = """([selector, files]) => {
  const dataTransfer = new DataTransfer();
  for (const [name, bytes] of files) dataTransfer.items.add(new File([Uint8Array.from(bytes)], name));
  const drop = new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer });
  document.querySelector(selector).dispatchEvent(drop);
}"""


@pytest.mark.parametrize("way", ["choose", "drop"])
def test_several_photos_become_a_video_each(user, server, tmp_path, way):
    names = ["one.jpg", "two.jpg", "no photo.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(LION.read_bytes() if name != "no photo.jpg" else b"x")
    before = len(server.manager.jobs())
    tab = user.open()
    tab.locator("#prompt textarea").fill("Dance")
    if way == "choose":
        tab.locator("#photo input[type=file]").set_input_files([tmp_path / name for name in names])
    else:
        files = [[name, list((tmp_path / name).read_bytes())] for name in names]
        tab.evaluate(DROPPED_AT_ONCE, ["#photo .upload-container, #photo button:has(> input)", files])
    told = tab.locator("#dropped-told")
    expect(told).to_contain_text("3 files: each photo becomes a video")
    tab.locator("#queue-all").click()
    expect(told).to_contain_text("In the queue: 2")
    expect(told).to_contain_text("is not an image")
    server.wait_until_idle()
    jobs = server.manager.jobs()[before:]
    assert [(job.state, job.total_frames) for job in jobs] == [("done", 37)] * 2
    assert [job.request.prompt for job in server.run.jobs[-2:]] == ["Dance"] * 2
    expect(tab.locator("#queue-all")).to_be_hidden()


def test_start_adds_to_the_queue_while_a_video_is_made(user, server):
    tab = user.open()
    first = started(tab, server)
    tab.locator("#prompt textarea").fill("A second one.")
    start(tab)
    wait_for(lambda: len(server.manager.jobs()) and server.manager.jobs()[-1].id != first)
    second = server.manager.jobs()[-1].id
    expect(tab.locator("#progress")).to_contain_text("Step 1 of 4")  # still the first one
    tab.reload()
    shows_running(tab)
    server.run.hold.set()
    assert server.manager.wait(second, 60).state == "done"
    shows_idle(tab)
    expect(tab.locator("#video video")).to_have_attribute("src", re.compile(second))
    assert [job.request.prompt for job in server.run.jobs[-2:]] == ["A lion roars.", "A second one."]


PAUSED_AT = """(video, time) => new Promise(done => {
  video.addEventListener("timeupdate", () => { // the page has heard of it before
    if (!video.paused || video.seeking || Math.abs(video.currentTime - time) > 0.01) return;
    window.stopped = 0;
    document.addEventListener("pause", ({ target }) => { window.stopped += !!target.closest("#video"); }, true);
    done();
  });
  video.pause();
  video.currentTime = time;
})"""
"""Stops a video at a time in seconds; from then on `stopped` counts how often the page stops one again."""


@pytest.mark.parametrize("variant", [ORIGINAL, F1], ids=lambda variant: variant.name)
def test_a_growing_video_goes_on_where_it_was_at_three_times_its_size_at_most(browser, tmp_path, variant):
    with serve_page(tmp_path, variant, seconds=2.4) as server, visit(browser, server.url) as user:
        server.run.hold_at = 1
        server.run.hold.clear()
        tab = user.open()
        fill(tab)
        start(tab)
        video = tab.locator("#video video")
        expect(video).to_be_visible()
        duration, _, _ = video.evaluate(PLAYED)
        assert video.bounding_box()["width"] == pytest.approx(3 * SIZE, abs=1)
        preview_box, video_box = tab.locator("#stage").bounding_box(), tab.locator("#screen").bounding_box()
        assert preview_box["width"] <= 150
        assert preview_box["y"] < video_box["y"] + video_box["height"], "an inset, not a picture below"
        video.evaluate(PAUSED_AT, 0.8)
        tab.evaluate(LATE)
        server.run.hold.set()
        expect(tab.locator("#progress")).to_have_text("Done")
        tab.wait_for_function("document.querySelector('#video video').duration > 2")
        moved = 73 / 30 - duration if variant == ORIGINAL else 0
        tab.wait_for_function("document.querySelector('#video video').readyState >= 2")
        tab.wait_for_function("stopped && document.querySelector('#video video').paused")
        assert video.evaluate("video => video.currentTime") == pytest.approx(0.8 + moved, abs=0.1)


def test_a_video_that_failed_for_want_of_memory_says_what_to_do_with_buttons_that_do_it(browser, tmp_path):
    with serve_page(tmp_path, resolution=640) as server, visit(browser, server.url) as user:
        server.run.fault = OutOfMemoryError(OUT_OF_MEMORY)
        tab = user.open()
        fill(tab)
        start(tab)
        expect(tab.locator("#progress [role=alert]")).to_contain_text("ran out of memory")
        tab.locator("#more-memory").click()
        wait_for(lambda: [job.state for job in server.manager.jobs()] == ["failed"] * 2)
        expect(tab.locator("#smaller")).to_be_visible()
        server.run.fault = None
        tab.locator("#smaller").click()
        expect(tab.locator("#progress")).to_have_text("Done")
        expect(tab.locator("#smaller")).to_be_hidden()
        made = [(job.request.preserved_memory_gb, job.request.resolution) for job in server.run.jobs]
        usual = made[0][0]
        assert made == [(usual, 640), (usual + 2, 640), (usual + 2, sorted(BUCKETS)[sorted(BUCKETS).index(640) - 1])]


def test_the_frame_over_the_photo_says_what_stays_in_sight(user, server):
    tab = user.open()
    fill(tab)
    tab.locator("#shape input").click()
    tab.get_by_role("option", name="9:16").click()
    frame = tab.locator(".fp-crop")
    expect(frame).to_be_visible()
    tab.wait_for_function(
        "document.querySelector('.fp-crop')?.offsetWidth < document.querySelector('#photo img')?.width"
    )
    box = frame.bounding_box()
    tab.evaluate(LATE)
    frame.focus()
    for _ in range(20):
        tab.keyboard.press("ArrowRight")
    tab.wait_for_function("document.querySelector('#size-hint [data-crop]').dataset.crop.endsWith(',1.0000,0.5000')")
    moved = frame.bounding_box()
    assert moved["x"] > box["x"]
    tab.mouse.move(moved["x"] + moved["width"] / 2, moved["y"] + moved["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(moved["x"] - 400, moved["y"] + moved["height"] / 2, steps=5)
    tab.mouse.up()
    tab.wait_for_function("document.querySelector('#size-hint [data-crop]').dataset.crop.endsWith(',0.0000,0.5000')")
    start(tab)
    expect(tab.locator("#progress")).to_have_text("Done")
    assert server.run.jobs[-1].request.focus == (0, 0.5)


def test_language_and_colours_are_chosen_on_the_page_and_kept(browser, tmp_path):
    with serve_page(tmp_path, languages=["en", "ja"]) as server, visit(browser, server.url) as user:
        tab = user.open()
        tab.locator("#colours").select_option("dark")
        expect(tab.locator("body.dark")).to_have_count(1)
        tab.locator("#language").select_option("ja")
        expect(tab.locator("html")).to_have_attribute("lang", "ja")
        expect(tab.locator("#start")).to_have_text("スタート")
        tab.reload()
        expect(tab.locator("#start")).to_have_text("スタート")
        expect(tab.locator("body.dark")).to_have_count(1)
        expect(tab.locator("#colours")).to_have_value("dark")


def test_a_server_that_was_killed_and_started_again_offers_the_video_under_the_open_page(browser, tmp_path):
    first = Life(tmp_path / "one/outputs")
    with ExitStack() as served:
        port = own_port()
        page = served.enter_context(serve_page(tmp_path / "one", manager=first.manager, port=port))
        with visit(browser, page.url) as user:
            tab = user.open()
            tab.locator("#seconds input[type=number]").fill("3.6")
            fill(tab, prompt="The lion turns its head.")
            start(tab)
            assert first.reached.wait(60)
            expect(tab.locator("#video video")).to_be_visible()
            shutil.copytree(first.outputs, tmp_path / "two/outputs", ignore=shutil.ignore_patterns("*.lock"))
            served.close()
            expect(tab.locator("body.fp-away")).to_have_count(1)  # three polls without an answer
            tab.wait_for_function("getComputedStyle(document.getElementById('screen')).opacity < 0.7")

            second = Life(tmp_path / "two/outputs")
            second.manager.start()
            with serve_page(tmp_path / "two", manager=second.manager, port=port):
                card = tab.locator("#unfinished")
                expect(card).to_contain_text("An unfinished video was found. Go on with it?")
                expect(card).to_contain_text("1 of 3 sections are done.")
                expect(tab.locator("body.fp-away")).to_have_count(0)
                expect(card.locator("img")).to_be_visible()
                expect(tab.locator("#prompt textarea")).to_have_value("The lion turns its head.")
                shows_idle(tab)
                tab.locator("#go-on").click()
                shows_running(tab)
                expect(card).not_to_be_visible()
                tab.locator("#end-later").click()
                expect(tab.locator("#progress")).to_contain_text("Stopping after this section")
                second.gate.set()
                expect(card).to_contain_text("This video was stopped. Go on with it?")
                expect(card).to_contain_text("2 of 3 sections are done.")
                tab.locator("#discard").click()
                expect(card).not_to_be_visible()
                shows_idle(tab)
