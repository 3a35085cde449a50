"""One form, many videos: which ones, in which order, and where it ends."""

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.variations import MOST_AT_ONCE, Many, Variation, variations
from diffusers_helper.media.wildcards import WildcardFolder


def prompts(text, **how):
    return [made.prompt for made in variations(text, how=Many(**how))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A lion.", ["A lion."]),
        ("", [""]),
        ("{a|b}", ["a", "b"]),
        ("{a|b} {c|d}", ["a c", "a d", "b c", "b d"]),
        ("x{a|{b|c} d}y", ["xay", "xb dy", "xc dy"]),
        ("{a|}b", ["ab", "b"]),
        ("{a} {b|c", ["{a} {b|c"]),
        ("}{", ["}{"]),
        ("{x {a|b}}", ["{x a}", "{x b}"]),
        ("[0s: {a|b}] [1.2s: c]", ["[0s: a] [1.2s: c]", "[0s: b] [1.2s: c]"]),
        ("snake__case __ __x __x_", ["snake__case __ __x __x_"]),
    ],
)
def test_every_combination_of_alternatives(text, expected):
    assert prompts(text) == expected


def test_lines_are_prompts_only_where_they_are_wanted():
    assert prompts("a\n\n  b  \n") == ["a\n\n  b  \n"]
    assert prompts("a\n\n  b  \n", lines=True) == ["a", "b"]
    assert prompts("\n", lines=True) == [""]


def test_photos_prompts_and_takes():
    made = variations("a\nb", 2, Many(lines=True, takes=2))
    assert made == [Variation(photo, text, take) for photo in (0, 1) for text in "ab" for take in (0, 1)]
    assert variations("a\nb", 2, Many(lines=True, match="pairs")) == [Variation(0, "a"), Variation(1, "b")]
    assert variations("a", 3, Many(match="pairs")) == [Variation(photo, "a") for photo in range(3)]
    assert variations("{a|b}", 1, Many(match="pairs")) == [Variation(0, "a"), Variation(0, "b")]
    assert variations("a", 0) == [Variation(0, "a")]


@pytest.mark.parametrize(
    ("text", "photos", "how", "said"),
    [
        ("a\nb\nc", 2, Many(lines=True, match="pairs"), "2 photos and 3 prompts are no pairs"),
        ("a", 1, Many(takes=0), "takes"),
        ("a", 1, Many(takes=5), "takes"),
        ("{a|b}" * 99, 1, Many(), "more than 500"),  # 2 to the power of 99, of which few are looked at
        ("{" * 9000, 1, Many(), "at most 100 places"),
        ("__a__" * 200, 1, Many(), "at most 100 places"),
        ("\n".join("ab" * 260), 1, Many(lines=True), "more than 500"),
        ("{a|b}", 251, Many(), "more than 500"),
        ("a", 126, Many(takes=4), "more than 500"),
        ("__none__", 1, Many(), "none.txt"),
    ],
)
def test_what_cannot_be_is_a_sentence(text, photos, how, said):
    with pytest.raises(SettingsError, match=said):
        variations(text, photos, how)


def test_the_most_at_once():
    assert len(variations("{a|b}", 125, Many(takes=2))) == MOST_AT_ONCE


def test_one_of_the_alternatives_by_the_seed():
    how, text = Many(pick="one", takes=4), "{a|b|c|d} {e|f|g|h}"
    made = variations(text, 20, how, seed=7)
    assert made == variations(text, 20, how, seed=7)
    assert made != variations(text, 20, how, seed=8)
    assert len(made) == 80
    assert {one.prompt for one in made} == {f"{first} {second}" for first in "abcd" for second in "efgh"}


def test_wildcards_are_lines_of_files(tmp_path):
    (tmp_path / "animal.txt").write_text("# mine\nlion\n\na {black|white} cat\n", encoding="utf-8")
    (tmp_path / "place-2.txt").write_text("__animal__ park", encoding="utf-16")
    (tmp_path / "odd name.txt").touch()
    folder = WildcardFolder(tmp_path)
    assert folder.names() == ["animal", "place-2"]

    def made(text, **how):
        return [one.prompt for one in variations(text, how=Many(**how), seed=3, wildcards=folder.lines)]

    animals = ["lion", "a black cat", "a white cat"]
    assert made("The __animal__.") == [f"The {animal}." for animal in animals]
    assert made("{x|__place-2__}") == ["x", *(f"{animal} park" for animal in animals)]
    assert made("__animal__ __animal__", pick="one")[0] in [f"{one} {two}" for one in animals for two in animals]


@pytest.mark.parametrize("last", ["{|}", "x" * 9000])
def test_wildcards_that_name_each_other_a_hundred_times_come_to_an_end(last):
    def lines(name):
        level = int(name[1:])
        return [f"__w{level + 1}__" * 100 if level < 7 else last]

    with pytest.raises(SettingsError, match=r"too many others|10000 characters"):
        variations("__w0__", how=Many(pick="one"), wildcards=lines)


def test_wildcards_that_cannot_be_used(tmp_path):
    (tmp_path / "round.txt").write_text("__round__")
    (tmp_path / "empty.txt").write_text("# nothing")
    (tmp_path / "long.txt").write_text("a\n" * 10_001)
    (tmp_path / "large.txt").write_text("a" * 1_000_001)
    (tmp_path.parent / "outside.txt").write_text("secret")
    folder = WildcardFolder(tmp_path)
    for name, said in {
        "round": "leads to itself",
        "empty": "1 to 10000",
        "long": "1 to 10000",
        "large": "1 MB",
    }.items():
        with pytest.raises(SettingsError, match=said):
            variations(f"__{name}__", wildcards=folder.lines)
    for name in ("../outside", "/etc/passwd", "none", ""):
        with pytest.raises(SettingsError, match="There is no wildcard file"):
            folder.lines(name)
    with pytest.raises(SettingsError, match="There is no wildcard file"):
        WildcardFolder(None).lines("animal")
