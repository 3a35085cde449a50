"""The timeline in a real browser: typed, moved, dropped into, reloaded, killed; what Start then asks for, exactly."""

import base64
import io

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from diffusers_helper.core.messages import LANGUAGES, language
from tests.browsing import FITS, WIDE, fill, keeps, left_idle, start, until, visit
from tests.fakes import serve_page, wait_for
from tests.ports import own_port

pytestmark = pytest.mark.browser

DROP = """(cell, picture) => {
  const bytes = Uint8Array.from(atob(picture), (character) => character.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], "gate.png", { type: "image/png" }));
  for (const type of ["dragover", "drop"]) {
    cell.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer }));
  }
}"""


def picture(colour):
    file = io.BytesIO()
    Image.new("RGB", (96, 64), colour).save(file, "PNG")
    return file.getvalue()


GATE = picture("teal")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "loras").mkdir()
    with serve_page(folder, seconds=4.8, steps=1, languages=list(LANGUAGES)) as served:
        yield served


@pytest.fixture
def server(served):
    with left_idle(served):
        yield served


@pytest.fixture
def tab(browser, server):
    with visit(browser, server.url, viewport=WIDE, locale="en-US") as user:
        yield opened(user.open())


def opened(tab):
    expect(tab.locator("#timeline textarea")).to_have_count(4)
    tab.locator("#timeline-open").click()
    expect(tab.locator("#timeline")).to_be_visible()
    return tab


def cell(tab, number, inside=""):
    return tab.locator(f"#timeline [data-number='{number}'] {inside}")


def words(tab, number):
    return cell(tab, number, "textarea")


def press(tab, number, action):
    cell(tab, number, f"[data-action={action}]").click()


def prompt(tab):
    return tab.locator("#prompt textarea")


def shows(tab, *texts):
    for number, text in enumerate(texts):
        expect(words(tab, number)).to_have_value(text)
    expect(tab.locator("#timeline textarea")).to_have_count(len(texts))


def choose(tab, number, content=GATE, name="gate.png"):
    with tab.expect_file_chooser() as chooser:
        press(tab, number, "choose")
    chooser.value.set_files({"name": name, "mimeType": "image/png", "buffer": content})


def dropped(tab, number, content=GATE):
    cell(tab, number).evaluate(DROP, base64.b64encode(content).decode())


def newest(server, count):
    wait_for(lambda: len(server.run.jobs) == count)
    server.wait_until_idle()
    return server.run.jobs[-1]


def asked(job):
    return job.request.prompt, job.request.key_seconds, sorted(job.inputs.pictures)


def test_cells_and_syntax_are_two_faces_of_one_thing(tab, server):
    fill(tab)
    shows(tab, "A lion roars.", "", "", "")
    words(tab, 2).fill("It yawns ${document.title = 'owned'} `x` \\u0041.")
    words(tab, 2).press("Tab")
    written = "[0s: A lion roars.] [2.4s: It yawns ${document.title = 'owned'} `x` \\u0041.]"
    expect(prompt(tab)).to_have_value(written)
    expect(words(tab, 3)).to_have_attribute("placeholder", "→ It yawns ${document.title = 'owned'} `x` \\u0041.")
    expect(cell(tab, 2, "[data-action=left]")).to_be_focused()
    assert tab.title() == "FramePack"
    prompt(tab).fill("[0s-1.2s: one] [1.2s-9s: <b>two</b>] [9s: late]")
    shows(tab, "one", "<b>two</b>", "", "")
    expect(tab.locator(".fpt-notes")).to_contain_text("“late” begins at 9 s")
    prompt(tab).fill("[0s: one] [2.4s-1s: two]")
    expect(tab.locator("#timeline .fp-fault")).to_contain_text("ends before it begins")
    expect(words(tab, 1)).to_be_disabled()
    prompt(tab).fill("[0s: one] [2.4s: two]")
    shows(tab, "one", "", "two", "")
    expect(words(tab, 1)).to_be_enabled()
    words(tab, 1).fill("[brackets]")
    words(tab, 1).press("Tab")
    expect(tab.locator("#timeline .fp-fault")).to_contain_text("no brackets")
    expect(prompt(tab)).to_have_value("[0s: one] [2.4s: two]")
    expect(words(tab, 1)).to_have_value("[brackets]")
    words(tab, 1).fill("")
    words(tab, 1).press("Tab")
    expect(tab.locator("#timeline .fp-fault")).to_be_empty()


def test_what_is_typed_while_the_server_thinks_is_not_lost(tab, server):
    fill(tab)
    shows(tab, "A lion roars.", "", "", "")
    held, calls = [], []

    def hold(route):
        if '"cells"' in (route.request.post_data or "") and not calls:
            calls.append(route)  # the first change waits until the second one is typed
        elif held:
            held.append(route)
        else:
            route.continue_()

    tab.route("**/gradio_api/run/**", hold)
    words(tab, 1).fill("first")
    words(tab, 2).click()
    until(tab, lambda: calls)
    tab.keyboard.type("second, ")
    calls[0].continue_()
    expect(prompt(tab)).to_have_value("[0s: A lion roars.] [1.2s: first] [2.4s: second,]")
    tab.keyboard.type("and more")
    tab.keyboard.press("Tab")
    expect(prompt(tab)).to_have_value("[0s: A lion roars.] [1.2s: first] [2.4s: second, and more]")
    shows(tab, "A lion roars.", "first", "second, and more", "")


def test_start_makes_what_was_typed_last_with_exactly_these_pictures(tab, server):
    before = len(server.run.jobs)
    fill(tab)
    choose(tab, 2)
    expect(cell(tab, 2, "img")).to_be_visible()
    dropped(tab, 3, picture("red"))
    expect(cell(tab, 3, "img")).to_be_visible()
    words(tab, 1).fill("It yawns.")
    tab.keyboard.press("Control+Enter")  # in the middle of typing
    job = newest(server, before + 1)
    assert asked(job) == ("[0s: A lion roars.] [1.2s: It yawns.]", (2.4, 3.6), ["key_1", "key_2", "start"])
    assert job.inputs.pictures["key_1"].image.getpixel((0, 0)) == (0, 128, 128)
    assert job.inputs.pictures["key_2"].image.getpixel((0, 0)) == (255, 0, 0)
    press(tab, 2, "bare")
    expect(cell(tab, 2, "img")).to_be_hidden()
    start(tab)
    assert asked(newest(server, before + 2))[1:] == ((3.6,), ["key_1", "start"])
    tab.locator("#seconds input[type=number]").fill("2.4")
    tab.locator("#seconds input[type=number]").press("Tab")
    shows(tab, "A lion roars.", "It yawns.")
    expect(tab.locator(".fpt-notes")).to_contain_text("The picture at 3.6 s comes after the end of the video.")
    start(tab)
    assert asked(newest(server, before + 3))[1:] == ((), ["start"])


def test_sections_are_exchanged_by_buttons_by_keys_and_by_dragging(tab, server):
    prompt(tab).fill("[0s: one] [1.2s: two] [3.6s: four]")
    shows(tab, "one", "two", "", "four")
    choose(tab, 1)
    expect(cell(tab, 1, "img")).to_be_visible()
    press(tab, 1, "right")
    shows(tab, "one", "", "two", "four")
    expect(cell(tab, 2, "img")).to_be_visible()
    expect(prompt(tab)).to_have_value("[0s: one] [2.4s: two] [3.6s: four]")
    expect(cell(tab, 2, "[data-action=right]")).to_be_focused()
    tab.keyboard.press("Alt+ArrowRight")
    shows(tab, "one", "", "four", "two")
    expect(cell(tab, 3, "img")).to_be_visible()
    expect(cell(tab, 3, "textarea")).to_be_focused()
    tab.keyboard.press("Alt+ArrowRight")  # there is none after it
    shows(tab, "one", "", "four", "two")
    cell(tab, 3, ".fpt-head").drag_to(cell(tab, 0))
    shows(tab, "two", "", "four", "one")
    expect(cell(tab, 3, "img")).to_be_visible()  # the video still begins with its photo
    expect(prompt(tab)).to_have_value("[0s: two] [2.4s: four] [3.6s: one]")
    expect(cell(tab, 0, "[data-action=left]")).to_be_disabled()
    expect(cell(tab, 3, "[data-action=right]")).to_be_disabled()


def test_photo_and_end_photo_can_be_dropped_here_too(tab, server):
    dropped(tab, 0)
    expect(tab.locator("#photo img")).to_be_visible()
    dropped(tab, "end", picture("red"))
    expect(tab.locator("#end-photo img")).to_be_visible()
    expect(cell(tab, "end", "img")).to_be_visible()
    before = len(server.run.jobs)
    start(tab)
    job = newest(server, before + 1)
    assert sorted(job.inputs.pictures) == ["end", "start"]
    assert job.inputs.pictures["end"].image.getpixel((0, 0)) == (255, 0, 0)
    cell(tab, 1).evaluate(DROP, base64.b64encode(b"PK no picture").decode())
    expect(tab.locator("#timeline .fp-fault")).to_contain_text("gate.png")


def test_a_reload_in_the_middle_and_a_file_bring_everything_back(tab, server):
    fill(tab)
    words(tab, 2).fill("It yawns.")
    choose(tab, 2)
    expect(cell(tab, 2, "img")).to_be_visible()
    dropped(tab, "end", picture("red"))
    expect(cell(tab, "end", "img")).to_be_visible()
    keeps(tab, "photo", "key_photos", "end_photo", prompt="[0s: A lion roars.] [2.4s: It yawns.]")
    tab.reload()
    shows(tab, "A lion roars.", "", "It yawns.", "")
    for number in (0, 2, "end"):
        expect(cell(tab, number, "img")).to_be_visible()
    expect(tab.locator("#timeline")).to_be_visible()  # it was open
    before = len(server.run.jobs)
    start(tab)
    assert asked(newest(server, before + 1)) == (
        "[0s: A lion roars.] [2.4s: It yawns.]", (2.4,), ["end", "key_1", "start"],
    )  # fmt: skip


def test_a_killed_server_finds_the_pictures_again(browser, tmp_path):
    port = own_port()
    with visit(browser, f"http://127.0.0.1:{port}") as user:
        with serve_page(tmp_path, seconds=4.8, uploads=tmp_path / "uploads", port=port) as server:
            tab = opened(user.open())
            fill(tab)
            choose(tab, 1)
            expect(cell(tab, 1, "img")).to_be_visible()
            words(tab, 3).fill("It yawns.")
            words(tab, 3).press("Tab")
            expect(prompt(tab)).to_have_value("[0s: A lion roars.] [3.6s: It yawns.]")
            keeps(tab, "photo", "key_photos", prompt="[0s: A lion roars.] [3.6s: It yawns.]")
            tab.close()
        with serve_page(tmp_path, seconds=4.8, uploads=tmp_path / "uploads", port=port) as server:
            tab = opened(user.open())
            shows(tab, "A lion roars.", "", "", "It yawns.")
            expect(cell(tab, 1, "img")).to_be_visible()
            start(tab)
            assert asked(newest(server, 1))[1:] == ((1.2,), ["key_1", "start"])


def test_a_finished_video_is_redone_from_a_section_on(tab, server):
    fill(tab)
    before = len(server.run.jobs)
    start(tab)
    newest(server, before + 1)
    expect(cell(tab, 2, "[data-action=redo]")).to_be_visible()
    expect(cell(tab, 0, "[data-action=redo]")).to_be_hidden()
    words(tab, 3).fill("It yawns.")
    tab.once("dialog", lambda dialog: dialog.dismiss())
    press(tab, 2, "redo")
    tab.once("dialog", lambda dialog: dialog.accept())
    press(tab, 2, "redo")
    job = newest(server, before + 2)
    assert (list(job.inputs.videos), job.request.prompt) == (["before"], "[0s: A lion roars.] [1.2s: It yawns.]")
    assert job.request.replaced == pytest.approx((73 / 30, 145 / 30))
    assert not job.inputs.pictures


def test_everything_by_keyboard_alone(browser, server):
    with visit(browser, server.url, viewport=WIDE, locale="en-US") as user:
        tab, choosers = user.open(), []
        tab.on("filechooser", lambda chooser: choosers.append(chooser))
        expect(tab.locator("#timeline textarea")).to_have_count(4)
        tab.keyboard.press("?")
        expect(tab.locator("#keys")).to_contain_text("Open or close the timeline")
        tab.keyboard.press("Escape")
        tab.keyboard.press("Alt+T")
        expect(words(tab, 0)).to_be_focused()
        tab.keyboard.type("one")
        tab.keyboard.press("Tab")
        tab.keyboard.press("Tab")
        tab.keyboard.press("Tab")
        expect(words(tab, 1)).to_be_focused()
        tab.keyboard.type("two")
        tab.keyboard.press("Shift+Tab")
        expect(cell(tab, 1, "[data-action=choose]")).to_be_focused()
        tab.keyboard.press("Enter")
        until(tab, lambda: choosers)
        choosers[0].set_files({"name": "gate.png", "mimeType": "image/png", "buffer": GATE})
        expect(cell(tab, 1, "img")).to_be_visible()
        tab.keyboard.press("Tab")
        expect(cell(tab, 1, "[data-action=bare]")).to_be_focused()
        tab.keyboard.press("Alt+ArrowRight")
        shows(tab, "one", "", "two", "")
        expect(prompt(tab)).to_have_value("[0s: one] [2.4s: two]")
        expect(cell(tab, 2, "img")).to_be_visible()
        expect(cell(tab, 2, "[data-action=bare]")).to_be_focused()
        tab.keyboard.press("Enter")
        expect(cell(tab, 2, "img")).to_be_hidden()
        tab.keyboard.press("Alt+T")
        expect(tab.locator("#timeline")).to_be_hidden()
        expect(tab.locator("#timeline-open")).to_be_focused()
        expect(tab.locator("#timeline-open")).to_have_attribute("aria-expanded", "false")


@pytest.mark.parametrize("tag", LANGUAGES)
def test_it_fits_in_every_language_and_axe_finds_nothing_serious(browser, server, tag):
    scheme, locale = "dark" if tag == "ja" else "light", {"en": "en-US"}.get(tag, tag)
    with visit(browser, server.url, viewport=WIDE, color_scheme=scheme, locale=locale) as user:
        tab = opened(user.open())
        expect(tab.locator("#timeline h2")).to_have_text(language(tag)("Timeline"))
        prompt(tab).fill("[0s: A] [2.4s: A] [9s: A]")
        shows(tab, "A", "", "A", "")
        choose(tab, 1)
        expect(cell(tab, 1, "img")).to_be_visible()
        for width in (1920, 1400, 420):
            tab.set_viewport_size({"width": width, "height": 900})
            tab.wait_for_function(FITS, arg=width)
        tab.wait_for_function("document.getAnimations().every(one => !(one instanceof CSSTransition))")
        found = Axe().run(tab, context="#timeline-place").response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


def test_lora_weights_of_each_section(browser, tmp_path):
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "film.safetensors").write_bytes(b"")
    with (
        serve_page(tmp_path, seconds=2.4, loras=tmp_path / "loras") as server,
        visit(browser, server.url, viewport=WIDE) as user,
    ):
        tab = user.open()
        tab.locator("#loras > button.label-wrap").click()
        tab.locator("#lora-text textarea").fill("film=0.5")
        tab.locator("#timeline-open").click()
        expect(cell(tab, 1, ".fpt-loras label")).to_have_text("film")
        cell(tab, 1, ".fpt-loras input").fill("0.2")
        cell(tab, 1, ".fpt-loras input").press("Tab")
        expect(tab.locator("#lora-text textarea")).to_have_value("film=[0s: 0.5] [1.2s: 0.2]")
