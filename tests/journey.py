"""One person's way through the page, timed and filmed as screenshots: a video directed on the timeline with an end
picture, two takes compared, one extended, and the settings brought back from its MP4 in a browser that knows nothing.

tests/test_journey.py goes through it once. To look at it: `python -m tests.journey FOLDER --width 420 --scheme dark
--language ja-JP`.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect

from tests.browsing import START, headless, visit
from tests.conftest import chromium_path
from tests.fakes import LION, wait_for
from tests.test_end_to_end import PATIENCE, finished, program

FIRST = "The camera pans left."
LATER = {1: "The camera pans right.", 3: "The camera zooms in."}
"""By the number of a section; the one between goes on with the words before it."""
TIMES = f"[0s: {FIRST}] [1.2s: {LATER[1]}] [3.6s: {LATER[3]}]"


@dataclass
class Film:
    """Pictures of a tab, as it is in the window and as a whole, with the seconds since the one before."""

    folder: Path
    stops: list = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def take(self, tab, name):
        tab.wait_for_timeout(300)  # what moves has come to rest
        now = time.monotonic()
        self.stops.append((name, round(now - self.since, 1)))
        file = self.folder / f"{len(self.stops):02d}_{name}.png"
        tab.screenshot(path=file)
        tab.screenshot(path=file.with_stem(f"{file.stem}_whole"), full_page=True)
        self.since = time.monotonic()


def see(tab, place):
    """Open a part of the page by the tabs of a wide window or by the bar of a phone."""
    phone = tab.locator(f".fp-bar [data-see={place}]:visible")
    if phone.count():
        phone.click()
    else:
        tab.keyboard.press({"create": "Alt+1", "watch": "Alt+1", "queue": "Alt+1", "history": "Alt+2"}[place])


def done(tab, folder, count):
    """Wait until there are `count` finished videos and the page has nothing to do; give the newest."""
    wait_for(lambda: len(finished(folder)) == count, PATIENCE / 1000)
    expect(tab.locator("#end")).to_be_disabled(timeout=PATIENCE)
    return max(finished(folder), key=lambda path: path.stat().st_mtime_ns)


def directed(tab, folder, film):
    """From an empty page to a directed video of four sections with an end picture."""
    film.take(tab, "empty")
    tab.locator("#seconds input[type=number]").fill("4.8")
    tab.locator("#photo input[type=file]").set_input_files(LION)  # in any language
    expect(tab.locator("#photo img")).to_be_visible()
    tab.locator("#prompt textarea").fill(FIRST)
    film.take(tab, "form")
    write_timeline(tab, folder)
    film.take(tab, "timeline")
    tab.locator("#timeline [data-action=close]").click()
    tab.locator(START).click()
    see(tab, "watch")
    expect(tab.locator("#stage img")).to_be_visible(timeout=PATIENCE)
    film.take(tab, "running")
    first = done(tab, folder, 1)
    expect(tab.locator("#video video")).to_be_visible()
    film.take(tab, "done")
    return first


def write_timeline(tab, folder):
    """Say on the timeline what happens when, and with which picture it ends."""
    last = folder / "last.png"
    with Image.open(LION) as lion:
        lion.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(last)
    tab.locator("#timeline-open").click()
    words = tab.locator("#timeline textarea")
    expect(words).to_have_count(4)
    expect(words.nth(0)).to_have_value(FIRST)
    for number, text in LATER.items():
        words.nth(number).fill(text)
    end = tab.locator("#timeline [data-number=end]")
    with tab.expect_file_chooser() as chooser:
        end.locator("[data-action=choose]").click()
    chooser.value.set_files(last)
    expect(end.locator("img")).to_be_visible()
    expect(tab.locator("#prompt textarea")).to_have_value(TIMES)
    tab.locator("#timeline").scroll_into_view_if_needed()


def compared(tab, folder, film):
    """Another take, and both side by side."""
    tab.locator("#actions [data-action=new_take]").click()
    done(tab, folder, 2)
    see(tab, "history")
    cards = tab.locator(".fph-card")
    expect(cards).to_have_count(2)
    film.take(tab, "history")
    for number in range(2):
        cards.nth(number).locator("[data-action=compare]").click()
    tab.locator("[data-action=side_by_side]").click()
    expect(tab.locator(".fph-compare video")).to_have_count(2)
    film.take(tab, "compared")
    tab.keyboard.press("Escape")


def extended(tab, folder, film):
    """One of them goes on for a section."""
    see(tab, "create")
    tab.locator("#seconds input[type=number]").fill("1.2")
    see(tab, "watch")
    tab.locator("#actions [data-action=extend]").click()
    done(tab, folder, 3)
    film.take(tab, "extended")


def restored(tab, video, film):
    """What a file brings to a browser that has never been here."""
    tab.locator("#dropped-files input[type=file]").set_input_files(video)
    tab.locator("#use-both").click()
    expect(tab.locator("#prompt textarea")).to_have_value(TIMES)
    expect(tab.locator("#photo img")).to_be_visible()
    expect(tab.locator("#end-photo img")).to_be_visible()
    film.take(tab, "restored")


def travel(chromium, folder, out, **window):
    """Go all the way; give the stops with their seconds. `window` is as for a context of Playwright."""
    film = Film(out)
    with program("demo_gradio.py", folder) as url, headless(chromium) as browser:
        with visit(browser, url, **window) as user:
            tab = user.open()
            video = directed(tab, folder, film)
            compared(tab, folder, film)
            extended(tab, folder, film)
        with visit(browser, url, **window) as stranger:
            restored(stranger.open(), video, film)
    return film.stops


def main():
    """Go all the way in a window of one's choice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--scheme", default="light")
    parser.add_argument("--language", default="en-US")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True)
    window = {"viewport": {"width": asked.width, "height": 900}, "color_scheme": asked.scheme, "locale": asked.language}
    stops = travel(chromium_path(), asked.out / "program", asked.out, **window)
    (asked.out / "seconds.txt").write_text("".join(f"{seconds:6.1f} {name}\n" for name, seconds in stops))


if __name__ == "__main__":
    main()
