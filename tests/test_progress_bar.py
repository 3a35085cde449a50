import re
from xml.etree import ElementTree

import pytest

from diffusers_helper.gradio.progress_bar import make_progress_bar_css, make_progress_bar_html


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


def test_every_class_has_a_style():
    classes = set(re.findall(r'class="([\w-]+)"', make_progress_bar_html(1, "x")))
    assert classes == set(re.findall(r"\.(fp-progress[\w-]*) {", make_progress_bar_css()))
    assert make_progress_bar_css().count("{") == make_progress_bar_css().count("}")
