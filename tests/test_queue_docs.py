"""docs/queue.md: its example is run as it stands, and its tables name every endpoint and the limits that there are."""

import re
from pathlib import Path

from diffusers_helper.core.variations import MOST_AT_ONCE, MOST_TAKES
from diffusers_helper.jobs.queue import QueueLimits
from diffusers_helper.media.wildcards import MOST_LINES
from tests.fakes import LION, serve_page

PAGE = (Path(__file__).parents[1] / "docs" / "queue.md").read_text(encoding="utf-8")


def test_the_example_does_what_it_says(tmp_path, monkeypatch, capsys):
    [example] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(LION.read_bytes())
    with serve_page(tmp_path / "server") as page:
        public = [one.api_name for one in page.blocks.fns.values() if one.api_visibility == "public"]
        assert {name for name in public if str(name).startswith("queue")} == set(re.findall(r"`/(queue\w*)`", PAGE))
        page.run.hold.clear()
        exec(example.replace("http://127.0.0.1:7860", page.url), {})
        page.run.hold.set()
        page.wait_until_idle()
    [told] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert sorted(eval(told)) == ["The camera pans left.", "The camera pans right.", "The camera pans right."]


def test_its_numbers_are_kept():
    text = " ".join(PAGE.split())
    assert f"At most {QueueLimits.waiting} wait, {QueueLimits.per_owner} of one user" in text
    assert f"at most {MOST_AT_ONCE} at a time" in text
    assert f"1 to {MOST_TAKES}" in text
    assert f"{MOST_LINES:,} lines" in text
