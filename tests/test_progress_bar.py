import re
from xml.etree import ElementTree

import pytest

from diffusers_helper.gradio.progress_bar import Advance, make_progress_bar_css, make_progress_bar_html


def bar(html):
    """The element that assistive technology reads, and the one that is drawn."""
    tree = ElementTree.fromstring(html.replace("&thinsp;", " "))
    (track,) = tree.findall(".//*[@role='progressbar']")
    return tree, track, track[0]


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (42, "42"), (99.4, "99"), (100, "100"), (-5, "0"), (250, "100"), (1e308, "100")]
)
def test_the_number_is_shown_drawn_and_spoken(number, shown):
    tree, track, fill = bar(make_progress_bar_html(number, "Sampling"))
    assert track.attrib["aria-valuenow"] == shown
    assert (track.attrib["aria-valuemin"], track.attrib["aria-valuemax"]) == ("0", "100")
    assert fill.attrib["style"] == f"width:{shown}%"
    assert f"{shown} %" in "".join(tree.itertext())


def test_text_is_escaped_everywhere():
    text = """</span><img src=x onerror="alert('1')"> & {0} %s"""
    tree, track, _ = bar(make_progress_bar_html(50, text))
    assert track.attrib["aria-label"] == text
    assert text in "".join(tree.itertext())
    assert tree.find(".//img") is None


def test_a_bar_without_text_still_has_a_name():
    assert bar(make_progress_bar_html(1, ""))[1].attrib["aria-label"] == "Progress"


def test_where_a_bar_goes_by_itself_is_told_the_browser():
    tree, track, _ = bar(make_progress_bar_html(40, "x", Advance(40.5, 60, 7.5, 12)))
    data = {name: value for name, value in tree.attrib.items() if name.startswith("data-")}
    assert data == {"data-from": "40.50", "data-to": "60.00", "data-seconds": "7.50", "data-left": "12.00"}
    assert track.attrib["aria-valuenow"] == "40"
    assert "data-left" not in make_progress_bar_html(40, "x", Advance(40.5, 60, 7.5))
    assert "data-" not in make_progress_bar_html(40, "x")


def test_every_class_has_a_style():
    classes = set(re.findall(r'class="([\w-]+)"', make_progress_bar_html(1, "x", left="1 s left")))
    assert classes == set(re.findall(r"\.(fp-progress[\w-]*) {", make_progress_bar_css()))
    assert make_progress_bar_css().count("{") == make_progress_bar_css().count("}")
