"""A prompt with times and the cells of the timeline: hundreds of tables there and back."""

import random
from fractions import Fraction

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.prompts import blended, by_section, timed_prompts
from diffusers_helper.gradio.timeline.cells import timeline_of, with_texts

WORDS = ["pan left", "She waves.", "雨が降る", "He bows, then: turns", "a (red) cat", "10s later", "x"]


def followed(prompt, sections):
    """The text of each section, as the sampler has it."""
    timed = timed_prompts(prompt)
    return [timed[number][1] for number in by_section(timed, sections)]


@pytest.mark.parametrize(
    ("prompt", "sections", "texts", "follows"),
    [
        ("a cat", 3, ["a cat", "", ""], ["a cat"] * 3),
        ("", 2, ["", ""], ["", ""]),
        ("[0s-2.4s: left] [2.4s-4.8s: right]", 4, ["left", "", "right", ""], ["left", "left", "right", "right"]),
        ("[0s: a] [1.5s: b]", 3, ["a", "b", ""], ["a", "b", "b"]),
        ("A man. [0s: waves] [2.4s: bows]", 3, ["A man. waves", "", "bows"], ["A man. waves"] * 2 + ["bows"]),
        ("[2.4s: b]", 3, ["b", "", "b"], ["b"] * 3),
        ("[0s: a] [1.2s: ] [2.4s: b]", 3, ["a", "", "b"], ["a", "", "b"]),
        ("a [red] cat", 2, ["a [red] cat", ""], ["a [red] cat"] * 2),
    ],
)
def test_a_prompt_as_cells(prompt, sections, texts, follows):
    timeline = timeline_of(prompt, sections)
    assert [list(timeline.texts), [cell.follows for cell in timeline.cells]] == [texts, follows]
    assert [cell.begin for cell in timeline.cells] == pytest.approx([1.2 * section for section in range(sections)])
    assert [cell.end for cell in timeline.cells] == pytest.approx([1.2 * section + 1.2 for section in range(sections)])


@pytest.mark.parametrize(
    ("prompt", "sections", "late", "crowded"),
    [
        ("[0s: a] [4.8s: b]", 4, [(4.8, "b")], []),
        ("[0s: a] [4.8s: b]", 5, [], []),
        ("[0s: a] [0.5s: b] [2.4s: c]", 2, [(2.4, "c")], [(0, "a")]),
        ("[0s: a] [1.3s: a] [1.4s: a]", 2, [], [(1.3, "a")]),
    ],
)
def test_what_is_not_in_the_video_is_told(prompt, sections, late, crowded):
    timeline = timeline_of(prompt, sections)
    assert (list(timeline.late), list(timeline.crowded)) == (late, crowded)


@pytest.mark.parametrize(
    ("blend", "shares"),
    [
        (0, [1, 1, 1, 1, 1]),
        (1, [1, 1, Fraction(1, 2), 1, 1]),
        (2, [1, 1, Fraction(1, 3), Fraction(2, 3), 1]),
        (4, [1, 1, Fraction(1, 5), Fraction(2, 5), Fraction(3, 5)]),
    ],
)
def test_a_text_blends_into_the_next_one(blend, shares):
    assert [cell.share for cell in timeline_of("[0s: a] [2.4s: b]", 5, blend).cells] == shares


@pytest.mark.parametrize(
    ("prompt", "texts", "written"),
    [
        ("a", ["a", "", "b"], "[0s: a] [2.4s: b]"),
        ("[0s: a] [2.4s: b]", ["a", "", ""], "a"),
        ("[0s-2s: a] [2.5s-9s: b]", ["a", "", "b"], "[0s-2s: a] [2.5s-9s: b]"),
        ("[0s: a] [2.5s: b] [9s: c]", ["a", "new", "b"], "[0s: a] [1.2s: new] [2.5s: b] [9s: c]"),
        ("[0s: a] [2.5s: b] [9s: c]", ["a", "b", ""], "[0s: a] [1.2s: b] [9s: c]"),
        ("[0s: a] [1.3s: b] [1.4s: c]", ["new", "c"], "[0s: new] [1.3s: b] [1.4s: c]"),
        ("[0s: a] [0.00001s: b]", ["b", "c"], "[0s: a] [0.00001s: b] [1.2s: c]"),
        ("[0s: a] [1.2s: ] [2.4s: b]", ["a", "", "c"], "[0s: a] [1.2s: ] [2.4s: c]"),
        ("a [red] cat", ["a [red] cat", "b"], "a [red] cat [1.2s: b]"),
        ("a", ["", "a"], "[0s: ] [1.2s: a]"),
        ("a", ["  ", ""], ""),
        ("a", [" a\n", ""], "a"),
        ("[0s: a] [6s: b]", ["c", ""], "[0s: c] [6s: b]"),
    ],
)
def test_cells_as_a_prompt(prompt, texts, written):
    assert with_texts(prompt, texts) == written


@pytest.mark.parametrize(("prompt", "texts"), [("a", ["a", "[b]"]), ("[2s-1s: a]", ["b"])])
def test_what_cannot_be_written_is_told(prompt, texts):
    with pytest.raises(SettingsError):
        with_texts(prompt, texts)


def table_of(chance, sections):
    """Texts for so many sections, most of which go on with the one before."""
    return [chance.choice(WORDS)] + [chance.choice(["", "", *WORDS]) for _ in range(sections - 1)]


def prompt_of(chance, sections):
    """A prompt with times of any kind, some of them after the end."""
    times = sorted({round(chance.uniform(0, 1.5 * 1.2 * sections), chance.choice([0, 1, 3])) for _ in range(4)})
    texts = " ".join(
        f"[{time:g}s{chance.choice(['', '-', f'-{time + 1:g}s'])}: {chance.choice(WORDS)}]" for time in times
    )
    return chance.choice(["", "Common. "]) + texts


@pytest.mark.parametrize("seed", range(300))
def test_tables_there_and_back(seed):
    chance = random.Random(seed)
    sections = chance.randint(1, 12)
    texts = table_of(chance, sections)
    prompt = with_texts(chance.choice(["", "before", prompt_of(chance, sections)]), texts)
    timeline = timeline_of(prompt, sections)
    assert followed(prompt, sections) == [cell.follows for cell in timeline.cells]
    expected, text = [], ""
    for own in texts:
        text = own or text
        expected.append(text)
    assert [cell.follows for cell in timeline.cells] == expected
    assert with_texts(prompt, timeline.texts) == prompt


@pytest.mark.parametrize("seed", range(300))
def test_a_prompt_there_and_back(seed):
    chance = random.Random(seed)
    sections = chance.randint(1, 10)
    prompt, blend = prompt_of(chance, sections), chance.randint(0, 4)
    timeline = timeline_of(prompt, sections, blend)
    assert with_texts(prompt, timeline.texts) == prompt
    assert [cell.follows for cell in timeline.cells] == followed(prompt, sections)
    timed = timed_prompts(prompt)
    assert len(set(by_section(timed, sections))) + len(timeline.late) + len(timeline.crowded) == len(timed)
    mixes = blended(by_section(timed, sections), blend)
    assert [cell.share for cell in timeline.cells] == [m.fraction if m.before != m.after else 1 for m in mixes]


@pytest.mark.parametrize("seed", range(300))
def test_one_cell_changes_and_all_others_stay(seed):
    chance = random.Random(seed)
    sections = chance.randint(2, 10)
    prompt = prompt_of(chance, sections)
    before = timeline_of(prompt, sections)
    texts, changed = list(before.texts), chance.randrange(sections)
    texts[changed] = "Something new."
    after = with_texts(prompt, texts)
    timeline = timeline_of(after, sections)
    ends = next((k for k in range(changed + 1, sections) if texts[k]), sections)
    for section, (old, new) in enumerate(zip(before.cells, timeline.cells, strict=True)):
        assert new.follows == ("Something new." if changed <= section < ends else old.follows)
    assert timeline.late == before.late, "what begins after the end comes back with a longer video"


@pytest.mark.parametrize("seed", range(100))
def test_a_shorter_video_keeps_what_fits_and_a_longer_one_has_all_again(seed):
    chance = random.Random(seed)
    sections = chance.randint(3, 12)
    prompt = with_texts("", table_of(chance, sections))
    whole, fewer = timeline_of(prompt, sections), chance.randint(1, sections - 1)
    short = timeline_of(prompt, fewer)
    assert short.texts == whole.texts[:fewer]
    assert [text for _, text in short.late] == [text for text in whole.texts[fewer:] if text]
    changed = with_texts(prompt, ["new", *short.texts[1:]])
    assert timeline_of(changed, sections).texts[fewer:] == whole.texts[fewer:]
