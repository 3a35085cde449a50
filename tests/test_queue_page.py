"""The strip of waiting jobs in a real browser, over jobs on the disk: every button, keys, dragging, reload and kill."""

import re
import time

import pytest
from playwright.sync_api import expect

from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import open_photo
from tests.browsing import fill, keeps, visit
from tests.fakes import LION, serve_page, wait_for
from tests.test_unfinished import Life

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def life(tmp_path):
    life = Life(tmp_path / "outputs", wait_before=0)
    life.begin()
    yield life
    life.gate.set()


@pytest.fixture
def server(tmp_path, life):
    with serve_page(tmp_path, manager=life.manager) as server:
        yield server


@pytest.fixture
def tab(browser, server):
    with visit(browser, server.url, viewport={"width": 1400, "height": 1000}) as user:
        yield user.open()


def photo():
    return open_photo(LION)


def add(life, client, words, picture=None):
    picture = picture or photo()
    return [
        life.manager.submit(
            JobInputs(GenerationRequest(seed=7, seconds=1, steps=1, prompt=word), {"start": picture}), client_id=client
        )
        for word in words
    ]


def whose(tab, life):
    """The client id of a tab: that of a job which it starts, and which is then removed."""
    fill(tab, "to learn whose it is")
    tab.locator("#start").click()
    wait_for(lambda: any(job.client_id for job in life.manager.jobs()))
    [job] = [job for job in life.manager.jobs() if job.client_id]
    life.manager.cancel(job.id)
    return job.client_id


def rows(tab):
    return tab.locator("#queue-rows [data-place]")


def shows(tab, *words):
    expect(rows(tab).locator("strong")).to_have_text(list(words))


def press(tab, word, action):
    exactly = tab.locator("strong", has_text=re.compile(f"^{re.escape(word)}$"))
    rows(tab).filter(has=exactly).locator(f"[data-action={action}]").first.click()


def test_every_button_of_a_row(tab, life):
    client = whose(tab, life)
    add(life, client, ["one", "two", "three", EVIL])
    shows(tab, "one", "two", "three", EVIL)
    assert "data:image/webp" in rows(tab).first.locator("img").get_attribute("src")
    expect(rows(tab).first).to_contain_text("1.2 s")
    press(tab, "three", "up")
    shows(tab, "one", "three", "two", EVIL)
    press(tab, "one", "down")
    shows(tab, "three", "one", "two", EVIL)
    press(tab, "one", "duplicate")
    shows(tab, "three", "one", "one", "two", EVIL)
    press(tab, EVIL, "remove")
    shows(tab, "three", "one", "one", "two")
    tab.locator("#queue-head [data-action=pause]").click()
    expect(tab.locator("#queue-head")).to_contain_text("Paused")
    life.gate.set()
    tab.reload()
    shows(tab, "three", "one", "one", "two")
    expect(tab.locator("#queue-head")).to_contain_text("Paused")
    tab.once("dialog", lambda dialog: dialog.dismiss())
    tab.locator("#queue-head [data-action=clear]").click()
    shows(tab, "three", "one", "one", "two")
    tab.once("dialog", lambda dialog: dialog.accept())
    tab.locator("#queue-head [data-action=clear]").click()
    expect(tab.locator("#queue-rows")).to_contain_text("Nothing waits")
    tab.locator("#queue-head [data-action=continue]").click()
    expect(tab.locator("#queue-head")).not_to_contain_text("Paused")
    assert tab.title() != "owned"


def test_a_row_that_moves_up_while_a_button_of_it_is_pressed(tab, life):
    one, *_ = add(life, whose(tab, life), ["one", "two", "three"])
    shows(tab, "one", "two", "three")
    rows(tab).nth(1).locator("[data-action=remove]").hover()
    tab.mouse.down()
    life.manager.cancel(one)
    shows(tab, "two", "three")  # the pointer is over three now
    tab.mouse.up()
    shows(tab, "three")


def test_edit_fills_the_form_and_saves_in_its_place(tab, life):
    client = whose(tab, life)
    one, two = add(life, client, ["one", "two"])
    shows(tab, "one", "two")
    prompt = tab.locator("#prompt textarea")
    prompt.fill("not saved anywhere")
    press(tab, "one", "edit")
    expect(prompt).to_have_value("one")
    expect(tab.locator("#queue-editing")).to_contain_text("“one”")
    expect(tab.locator("#photo img")).to_be_visible()
    assert life.manager.snapshot(one).held
    prompt.fill("other")
    tab.locator("#queue-save").click()
    shows(tab, "other", "two")
    expect(prompt).to_have_value("not saved anywhere")
    expect(tab.locator("#queue-save")).to_be_hidden()
    seen = life.manager.snapshot(one)
    assert (seen.request.prompt, seen.held, seen.photo_name) == ("other", False, "lion.jpg")

    press(tab, "two", "edit")
    keeps(tab, prompt="two")
    tab.reload()
    expect(tab.locator("#queue-editing")).to_contain_text("“two”")
    expect(prompt).to_have_value("two")
    tab.locator("#queue-leave").click()
    expect(prompt).to_have_value("not saved anywhere")
    expect(tab.locator("#queue-leave")).to_be_hidden()
    assert not life.manager.snapshot(two).held


def test_keys_and_dragging(tab, life):
    client = whose(tab, life)
    add(life, client, ["one", "two", "three"])
    shows(tab, "one", "two", "three")
    rows(tab).first.locator("[data-action=edit]").focus()
    tab.keyboard.press("ArrowDown")
    focused = tab.locator("#queue-rows :focus")
    expect(focused).to_have_attribute("aria-label", "Edit: two")
    tab.keyboard.press("ArrowRight")
    expect(focused).to_have_attribute("aria-label", "Duplicate: two")
    tab.keyboard.press("Alt+ArrowUp")
    shows(tab, "two", "one", "three")
    expect(focused).to_have_attribute("aria-label", "Duplicate: two")  # though all was drawn anew
    tab.keyboard.press("End")
    expect(focused).to_have_attribute("aria-label", "Duplicate: three")
    tab.keyboard.press("Delete")
    shows(tab, "two", "one")
    expect(focused).to_have_attribute("aria-label", "Duplicate: one")
    expect(rows(tab).locator("button[tabindex='0']")).to_have_count(5)
    rows(tab).nth(1).drag_to(rows(tab).nth(0))
    shows(tab, "one", "two")


def test_another_browser_sees_nothing_of_it(browser, tab, life, server):
    client = whose(tab, life)
    [job] = add(life, client, ["secret wish"])
    shows(tab, "secret wish")
    with visit(browser, server.url) as stranger:
        other = stranger.open()
        expect(other.locator("#queue-rows")).to_contain_text("Nothing waits")
        assert job not in other.content()
        assert "secret wish" not in other.content()


def test_a_kill_in_the_middle_loses_nothing(browser, tmp_path, life):
    with serve_page(tmp_path, manager=life.manager) as server, visit(browser, server.url) as user:
        tab = user.open()
        client = whose(tab, life)
        add(life, client, ["one", "two", "three"])
        shows(tab, "one", "two", "three")
        press(tab, "three", "up")
        shows(tab, "one", "three", "two")
        tab.locator("#queue-head [data-action=pause]").click()
        expect(tab.locator("#queue-head")).to_contain_text("Paused")
        killed = life.killed()
        life.gate.set()
        life.manager.close(60)
        again = Life(killed, wait_before=0)
        tab.goto("about:blank")
    again.manager.start()
    with serve_page(tmp_path / "again", manager=again.manager):
        waiting = sorted((job for job in again.manager.jobs() if job.position), key=lambda job: job.position)
        assert [job.request.prompt for job in waiting] == ["one", "three", "two"]
        again.gate.set()


def test_several_at_once_and_the_queue_as_a_file(tab, life, tmp_path):
    whose(tab, life)
    tab.locator("#many > button").click()
    tab.locator("#prompt textarea").fill("a {red|blue} car\n\na lion")
    tab.locator("#many-lines input").check()
    tab.locator("#many-photos input[type=file]").set_input_files([LION, LION])
    tab.locator("#many-add").click()
    expect(tab.locator("#many-message")).to_contain_text("6 videos were added")
    words = ["a red car", "a blue car", "a lion"] * 2
    shows(tab, *words)
    tab.locator("#queue-export").click()
    with tab.expect_download() as download:
        tab.locator("#queue-exported a[download]").first.click()
    download.value.save_as(tmp_path / "queue.zip")
    tab.once("dialog", lambda dialog: dialog.accept())
    tab.locator("#queue-head [data-action=clear]").click()
    expect(rows(tab)).to_have_count(0)
    tab.locator("#queue-import input[type=file]").set_input_files(tmp_path / "queue.zip")
    shows(tab, *words)
    (tmp_path / "other.zip").write_text("no ZIP")
    tab.locator("#queue-import input[type=file]").set_input_files(tmp_path / "other.zip")
    expect(tab.locator("#many-message [role=alert]")).to_contain_text("no file of waiting videos")


def test_five_hundred_rows_stay_quick(tab, life):
    client = whose(tab, life)
    add(life, client, [f"w{number}" for number in range(500)], photo())
    expect(tab.locator("#queue-head")).to_contain_text("500 waiting")
    expect(rows(tab)).to_have_count(50)
    times = []
    for _ in range(9):
        first, begun = rows(tab).nth(1).locator("strong").inner_text(), time.perf_counter()
        rows(tab).nth(1).locator("[data-action=up]").click()
        expect(rows(tab).first.locator("strong")).to_have_text(first)
        times.append(time.perf_counter() - begun)
    assert sorted(times)[len(times) // 2] < 1.5  # seconds, on a busy computer; 0.2 alone
    tab.locator("#queue-rows [data-action=more]").click()
    expect(rows(tab)).to_have_count(100)
