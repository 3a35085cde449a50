"""Headless Chromium on the page, and what a person does there.

A busy computer shows late what it was told. So what is read once, without waiting, is read after something that can be
seen only then: `expect`, `until` and `keeps` wait, `inner_text`, `count`, `evaluate` and their like do not.
"""

import base64
import hashlib
import json
from contextlib import contextmanager

from playwright.sync_api import expect

from diffusers_helper.gradio.browser import STORAGE_SECRET
from tests.chromium import headless as headless
from tests.fakes import LION, wait_for

HEARD = """polls => new Promise(done => {
  const count = () => { if (!--polls) { document.removeEventListener("fp-heard", count); done(); } };
  document.addEventListener("fp-heard", count);
})"""
"""Waits until so many polls were answered, of which there is one a second."""
LATE = """() => {
  const now = Date.now;
  let late = 0;
  Date.now = () => now() + (late += 3000);
}"""
"""From here on three seconds pass between any two looks at the clock, as on a busy computer."""
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

DECRYPTED = """([key, vector, text]) => {
  const [bytes, iv, data] = [key, vector, text].map((list) => Uint8Array.from(list));
  return crypto.subtle.importKey("raw", bytes, "AES-CBC", false, ["decrypt"])
    .then((usable) => crypto.subtle.decrypt({ name: "AES-CBC", iv }, usable, data))
    .then((plain) => new TextDecoder().decode(plain));
}"""
FITS = "width => document.documentElement.scrollWidth <= width"
"""True where nothing stands beside a window so wide."""

WIDE = {"width": 1400, "height": 1000}
START = ":is(#start, [data-press='start']):visible"
"""Start, on a phone the one of the bar."""
END = ":is(#end, [data-press='end']):visible"


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


def until(tab, condition):
    """Wait for what the browser may still tell."""
    wait_for(lambda: tab.wait_for_timeout(20) or condition())


def kept(tab):
    """The form as the browser keeps it: photos and settings by their names; nothing before it keeps one.

    Gradio writes something unused, a colon, and what `openssl enc -aes-256-cbc -md md5` makes of it, anew each time.
    The password is a digest of its secret.
    """
    written = tab.evaluate("localStorage.getItem('framepack-draft')")
    if not written:
        return {}
    whole, digest = base64.b64decode(written.partition(":")[2]), b""
    password, salt, made = hashlib.sha256(STORAGE_SECRET.encode()).hexdigest().encode(), whole[8:16], b""
    while len(made) < 48:
        digest = hashlib.md5(digest + password + salt).digest()
        made += digest
    return json.loads(tab.evaluate(DECRYPTED, [list(made[:32]), list(made[32:48]), list(whole[16:])])) or {}


def keeps(tab, *names, **values):
    """Wait until a reload would bring back these values, and anything by these names."""

    def does():
        draft = kept(tab)
        return all(draft.get(name) for name in names) and values.items() <= draft.items()

    until(tab, does)


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
