"""Headless Chromium on the page, and what a person does there."""

from contextlib import contextmanager

from playwright.sync_api import expect, sync_playwright

from tests.fakes import LION

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PLAYED = """video => new Promise(done => {
  const look = () => video.currentTime > 0.1 ? done([video.duration, video.loop, video.error]) : setTimeout(look, 50);
  look();
})"""
"""Waits until a video plays; then its duration, whether it loops, and its error."""
SOUGHT = """(video, share) => new Promise((done, fail) => {
  video.pause();
  video.onseeked = () => done(video.readyState >= 2 ? video.currentTime : "no picture");
  video.onerror = fail;
  video.currentTime = share * video.duration;
})"""
"""Seeks to a share of a video; the time that it then shows."""

WIDE = {"width": 1400, "height": 1000}
START = ":is(#start, [data-press='start']):visible"
"""Start, on a phone the one of the bar."""
END = ":is(#end, [data-press='end']):visible"


@contextmanager
def headless(chromium, *flags):
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, *flags])
        yield browser
        browser.close()


class User:
    """One person's browser: its tabs share what the browser keeps."""

    def __init__(self, context, url):
        self.context, self.url = context, url
        self.requested, self.errors = [], []

    def open(self):
        tab = self.context.new_page()
        tab.on("request", lambda request: self.requested.append(request.url))
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("console", lambda said: self.errors.append(said.text) if "Security Policy" in said.text else None)
        tab.goto(self.url)
        expect(tab.locator(START)).to_be_visible()
        tab.wait_for_function("localStorage.getItem('framepack-visitor')")  # or two tabs are two visitors
        return tab


@contextmanager
def visit(browser, url, **options):
    """A new browser, checked at the end for script errors and for requests that left this computer."""
    context = browser.new_context(**options)
    context.set_default_timeout(60_000)
    user = User(context, url)
    yield user
    context.close()
    assert user.errors == [], user.errors
    foreign = [url for url in user.requested if not url.startswith((user.url, "data:", "blob:"))]
    assert foreign == []


@contextmanager
def left_idle(page):
    """A page that other tests go on with: what one scripts ends with it."""
    page.run.hold_at = 0
    yield
    page.run.hold_at = 0
    page.run.hold.set()
    page.run.decoded.set()
    page.wait_until_idle()
    page.run.fault, page.run.notes = None, ()


def fill(tab, prompt="A lion roars.", photo=LION):
    tab.locator("#photo input[type=file]").set_input_files(photo)
    expect(tab.locator("#size-hint")).to_contain_text("pixels")
    tab.locator("#prompt textarea").fill(prompt)


def start(tab):
    tab.locator(START).click()


def unfold(tab, panel):
    """Open a folded panel of the form."""
    tab.locator(f"#{panel} > button.label-wrap").click()


def bring_back(tab, file):
    """Use photo and settings of a file that was made here, as if it had been dropped on the page."""
    tab.locator("#dropped-files input[type=file]").set_input_files(file)
    tab.locator("#use-both").click()
    expect(tab.locator("#dropped-told")).to_contain_text("The settings are restored.")


def preview(tab):
    return tab.locator("#stage img").get_attribute("src")


def shows_running(tab):
    expect(tab.locator("#start")).to_have_text("Add to queue")
    expect(tab.locator("#end")).to_be_enabled()


def shows_idle(tab):
    expect(tab.locator("#start")).to_have_text("Start")
    expect(tab.locator("#end")).to_be_disabled()
