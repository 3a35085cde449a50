"""README.zh-TW.md says what README.md says: the same commands, names, links and parts, in the same order."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def read(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    return FENCE.sub("", text), FENCE.findall(text)


def headings(text, _blocks):
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]


def commands(text, _blocks):
    return sorted(re.findall(r"`([^`\n]+)`", text))


def links(text, _blocks):
    targets = re.findall(r"\]\(([^)]+)\)", text)
    return sorted(target for target in targets if not target.startswith("README"))


def numbers(text, _blocks):
    """Sizes, errors, limits, versions."""
    return sorted(re.findall(r"\d[\d.e-]*\d|\d", text))


def tables(text, _blocks):
    return [line.count("|") for line in text.splitlines() if line.startswith("|")]


def lists(text, _blocks):
    return re.findall(r"^(\d+\.|-) ", text, re.MULTILINE)


def code(_text, blocks):
    """Without comments, and of the tree only its names: those may be translated."""
    tree = [
        re.sub(r"(?<=\S)  +.*|^ {10,}.*\n", "", content, flags=re.MULTILINE) for kind, content in blocks if not kind
    ]
    return [(kind, re.sub(r" +# .*", "", content)) for kind, content in blocks if kind], tree


@pytest.mark.parametrize("part", [headings, commands, links, numbers, tables, lists, code])
def test_both_readmes_say_the_same(part):
    assert part(*read("README.zh-TW.md")) == part(*read("README.md"))


def test_each_readme_leads_to_the_other():
    assert "(README.zh-TW.md)" in read("README.md")[0]
    assert "(README.md)" in read("README.zh-TW.md")[0]


def test_the_translation_is_one():
    prose, blocks = read("README.zh-TW.md")
    for text in (prose, *(content for kind, content in blocks if not kind)):
        lines = [line for line in text.splitlines() if re.search(r"[A-Za-z]{3,} [a-z]{3,} [a-z]{3,}", line)]
        assert not [line for line in lines if not re.search("[\u4e00-\u9fff]", line)]
