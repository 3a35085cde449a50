"""The page's policy: what it lists, and that in a real browser it stops what is not listed and nothing else."""

import base64
import hashlib
import re

import httpx
import pytest
from playwright.sync_api import expect

from tests.browsing import fill, headless, start, until, visit
from tests.fakes import serve_page

pytestmark = pytest.mark.slow

INJECTED = """() => new Promise(done => {
  window.ran = [];
  const text = document.createElement("div");
  text.innerHTML = `<img src="data:," onerror="window.ran.push('handler')">`;
  const script = document.createElement("script");
  script.textContent = "window.ran.push('inline')";
  const foreign = document.createElement("script");
  foreign.src = "http://203.0.113.1/x.js";
  foreign.onerror = () => done(window.ran);
  foreign.onload = () => done(["foreign"]);
  document.body.append(text, script, foreign);
})"""
"""What a text that was not escaped could do, and where a script of another site ends: refused before it is fetched."""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with serve_page(tmp_path_factory.mktemp("page"), languages=("en", "ja")) as page:
        yield page


def script_sources(answer):
    return re.search(r"script-src ([^;]*)", answer.headers["content-security-policy"])[1].split()


@pytest.mark.parametrize("headers", [{"Accept-Language": "en"}, {"Accept-Language": "ja", "Accept-Encoding": "br"}])
def test_the_page_lists_its_own_scripts_by_their_digests(page, headers):
    answer = httpx.get(page.url, headers=headers, timeout=60)
    scripts = re.findall(r"<script(?: data-[a-z-]*)?>(.*?)</script>", answer.text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert script_sources(answer) == ["'self'", "'unsafe-eval'", *(f"'sha256-{digest}'" for digest in digests)]
    assert len(digests) >= 4


@pytest.mark.parametrize("path", ["/config", "/gradio_api/info", "/nothing", "/static/img/logo.svg"])
def test_all_else_may_run_none(page, path):
    assert script_sources(httpx.get(page.url + path, timeout=60)) == ["'none'"]


def test_head_has_an_answer_too(page):
    assert httpx.head(page.url, timeout=60).status_code in (200, 405)


@pytest.mark.browser
def test_a_video_is_made_under_it_and_nothing_injected_runs(page, chromium):
    with headless(chromium) as browser, visit(browser, page.url) as user:
        tab = user.open()
        fill(tab)
        start(tab)
        expect(tab.locator("#progress")).to_have_text("Done")
        assert user.errors == []
        assert tab.evaluate(INJECTED) == []
        until(tab, lambda: len(user.errors) >= 3)  # the browser says so for each, the handler's as late as it likes
        assert len(user.errors) == 3
        user.errors.clear()
        user.requested[:] = [url for url in user.requested if "203.0.113.1" not in url]
