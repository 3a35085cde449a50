"""What the browser keeps and does by itself: notifications, a sound, and earlier prompts."""

import pytest
from playwright.sync_api import expect

from diffusers_helper.core.messages import ENGLISH
from diffusers_helper.gradio.create.prompt_history import MOST
from diffusers_helper.gradio.stage import view
from diffusers_helper.jobs.progress import first_snapshot
from diffusers_helper.jobs.record import JobRecord
from tests.browsing import fill, keeps
from tests.fakes import wait_for
from tests.test_drafts import MADE

STUBS = """
window.told = [];
window.Notification = class {
  static permission = "default";
  static async requestPermission() {
    window.told.push("asked");
    this.permission = window.grants ?? "granted";
  }
  constructor(title, { body }) { window.told.push(`${title}: ${body}`); }
};
window.AudioContext = class {
  currentTime = 0;
  resume() {}
  createOscillator() {
    return { frequency: {}, connect: (to) => to, start: () => window.told.push("tone"), stop() {} };
  }
  createGain() { return { gain: { setValueAtTime() {}, exponentialRampToValueAtTime() {} }, connect: (to) => to }; }
};
document.hasFocus = () => false;
"""


def ended(number, state, **more):
    record = JobRecord(f"20260101_120000_{number}", MADE)
    return first_snapshot(record, state=state, finished=float(number), **more)


def test_only_the_newest_that_is_done_or_failed_is_told():
    assert view.ended([]) == ""
    assert view.ended([ended(1, "cancelled"), ended(2, "running")]) == ""
    told = view.ended([ended(2, "failed"), ended(1, "done"), ended(3, "cancelled")], ENGLISH)
    assert 'data-ended="20260101_120000_2"' in told
    assert "Your video did not get done." in told


@pytest.fixture
def user(user):
    user.context.add_init_script(STUBS)
    return user


def settings(tab):
    tab.get_by_role("tab", name="Settings").click()
    expect(tab.get_by_text("When a video has ended")).to_be_visible()


def start(tab, server):
    count = len(server.manager.jobs())
    tab.locator("#start").click()
    wait_for(lambda: len(server.manager.jobs()) > count)
    server.wait_until_idle()


@pytest.mark.browser
def test_a_video_that_ends_is_told_as_the_switches_say_after_a_reload_too(user, server):
    tab = user.open()
    assert tab.evaluate("told") == [], "nobody is asked before a click"
    settings(tab)
    tab.get_by_label("A notification, unless you are looking at this page").check()
    tab.get_by_label("A sound").check()
    tab.wait_for_function("told.filter((what) => what === 'tone').length === 2")
    assert tab.evaluate("told")[0] == "asked"
    tab.evaluate("told.length = 0")
    tab.get_by_role("tab", name="Create").click()
    fill(tab)
    start(tab, server)
    tab.wait_for_function("told.length >= 3")
    assert sorted(tab.evaluate("told")) == ["FramePack: Your video is done.", "tone", "tone"]
    tab.add_init_script("Notification.permission = 'granted'")
    tab.reload()
    settings(tab)
    expect(tab.get_by_label("A sound")).to_be_checked()
    tab.wait_for_selector("#progress [data-ended]", state="attached")
    assert tab.evaluate("told") == [], "what had ended before is no news"


@pytest.mark.browser
def test_a_refusal_is_told_and_the_switch_is_off(user):
    tab = user.open()
    settings(tab)
    tab.evaluate("grants = 'denied'")
    box = tab.get_by_label("A notification, unless you are looking at this page")
    box.click()
    expect(tab.locator("#telling [role=status]")).to_contain_text("allow them in its settings")
    expect(box).not_to_be_checked()


def reopen(tab, prompt="A tiger <b>sleeps</b>."):
    """Open the list once a reload has brought the form back: until then Gradio may draw everything anew."""
    keeps(tab, prompt=prompt)
    tab.reload()
    expect(tab.locator("#prompt textarea")).to_have_value(prompt)
    tab.keyboard.press("Alt+r")


def earlier(tab):
    return tab.locator("#prompt-history li")


@pytest.mark.browser
def test_earlier_prompts_are_found_used_removed_and_cleared(user, server):
    tab = user.open()
    fill(tab)
    for prompt in ("A lion roars.", "A tiger <b>sleeps</b>.", "A lion roars."):
        tab.locator("#prompt textarea").fill(prompt)
        start(tab, server)
    tab.keyboard.press("Alt+r")
    search = tab.get_by_placeholder("Search the earlier prompts")
    expect(search).to_be_focused()
    expect(earlier(tab)).to_have_count(2)
    expect(earlier(tab).first).to_contain_text("A lion roars.")
    search.fill("SLEEPS tiger")
    expect(earlier(tab)).to_have_count(1)
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    expect(tab.locator("#prompt textarea")).to_have_value("A tiger <b>sleeps</b>.")
    reopen(tab)
    expect(earlier(tab)).to_have_count(2)
    earlier(tab).last.get_by_role("button", name="Remove: A tiger").click()
    expect(earlier(tab)).to_have_count(1)
    expect(earlier(tab).first.locator("[data-action=remove]")).to_be_focused()
    tab.keyboard.press("Escape")
    expect(earlier(tab).first).to_be_hidden()
    many = [f"prompt {number}" for number in range(MOST + 20)]
    tab.evaluate("many => localStorage.setItem('framepack-prompts', JSON.stringify(many))", many)
    reopen(tab)
    expect(earlier(tab)).to_have_count(MOST)
    tab.once("dialog", lambda dialog: dialog.accept())
    tab.locator("#prompt-history [data-action=clear]").click()
    expect(earlier(tab)).to_have_count(0)
    tab.evaluate("localStorage.setItem('framepack-prompts', '{broken')")
    reopen(tab)
    expect(tab.get_by_text("None yet: what you start is here the next time.")).to_be_visible()
