"""Words for motions and pictures: many paraphrases of what a person may type, drawn from the grammar in `grammar.py`.

People do not write as a grammar does: now and then a small word is missing, two letters have changed places, or a word
is there that says nothing.
"""

from __future__ import annotations

import random
import re
import zlib
from functools import cache

from training.grammar import (
    AMBIENT,
    CAMERA,
    COLOUR_WORDS,
    DROPPED,
    EMPTY_FRAMES,
    EXTRAS,
    FILLERS,
    FRAME_RULES,
    FRAMES,
    LEAN,
    PACE_ADJECTIVES,
    PACE_WORDS,
    PLACES,
    RULES,
    SHAPE_WORDS,
    SIZES,
    STILL,
    THINGS,
)
from training.grammar import GROUNDS as GROUND_WORDS
from training.motions import ACTIONS, COLOURS, PARTS, SHAPES, Motion, Thing
from training.scenes import GROUNDS, Scene

HELD_OUT_PART = 12
"""One caption in so many, by its checksum, is never trained on."""

EXTRA_PART = 0.25
"""So many captions also say something that has nothing to do with the motion."""
DROP_PART, FILLER_PART, SLIP_PART = 0.12, 0.1, 0.05
"""So many captions lack a small word, have one that says nothing, have two letters of a long word exchanged."""
SLIP_LETTERS = 6
"""Only in words of so many letters, which are still known then, and never in those that tell left from right."""

Subject = Motion | Scene
"""What a caption speaks of: of a motion that changes, what it does before."""


def caption(subject: Subject, rng: random.Random) -> str:
    """One way of saying what happens or is seen; never one of the held-out ones."""
    return _draw(subject, rng, held_out=False)


def held_out_caption(subject: Subject, rng: random.Random) -> str:
    """The same, of those that training never sees."""
    return _draw(subject, rng, held_out=True)


def is_held_out(text: str) -> bool:
    """Whether training leaves the caption out; upper case and punctuation play no part."""
    return zlib.crc32(" ".join(re.findall(r"\w+", text.lower())).encode()) % HELD_OUT_PART == 0


def _draw(subject: Subject, rng: random.Random, *, held_out: bool) -> str:
    while True:
        text = _sentence(subject, rng)
        if is_held_out(text) == held_out or not text:
            return text


def _sentence(subject: Subject, rng: random.Random) -> str:
    said = _described(subject, rng) if isinstance(subject, Scene) else _statement(subject, rng)
    words = " ".join(said.split()).replace(" ,", ",").strip(", ")
    if isinstance(subject, Motion) and not subject.ambient and rng.random() < EXTRA_PART:
        words = _with_extra(words, rng)
    words = _as_people_write(words, rng)
    if rng.random() < 0.5:
        words = words[:1].upper() + words[1:]
    return words + rng.choice(("", "", ".", "!", ",") if words else ("",)).replace(
        "!", "." if rng.random() < 0.8 else "!"
    )


def _as_people_write(text: str, rng: random.Random) -> str:
    words = text.split()
    small = [index for index, word in enumerate(words) if word in DROPPED]
    if len(words) > 2 and small and rng.random() < DROP_PART:
        del words[rng.choice(small)]
    long = [
        index
        for index, word in enumerate(words)
        if word.isalpha() and len(word) >= SLIP_LETTERS and not re.search("left|right", word)
    ]
    if long and rng.random() < SLIP_PART:
        index = rng.choice(long)
        at = rng.randrange(1, len(words[index]) - 2)
        word = words[index]
        words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if words and rng.random() < FILLER_PART:
        filler = rng.choice(FILLERS)
        words = [filler, *words] if rng.random() < 0.7 else [*words, filler]
    return " ".join(words)


def _described(scene: Scene, rng: random.Random) -> str:
    colour = COLOUR_WORDS.get(scene.ground_colour, scene.ground_colour)
    rules = FRAME_RULES | {"ground": GROUND_WORDS[scene.ground], "ground_colour": colour}
    if scene.shape is None or scene.colour is None:
        return _expand(EMPTY_FRAMES, rng, rules)
    rules |= {
        "thing": "a <size> <colour> <shape>|a <size> <colour> <shape>|one <size> <colour> <shape>",
        "size": SIZES[scene.size or "normal"],
        "colour": COLOUR_WORDS.get(scene.colour, scene.colour),
        "shape": SHAPE_WORDS[scene.shape],
        "place": PLACES[scene.place or "middle"],
    }
    return _expand(FRAMES, rng, rules)


def _statement(motion: Motion, rng: random.Random) -> str:
    if motion.lean:
        return _expand(LEAN, rng)
    if motion.ambient:
        return _expand(AMBIENT, rng)
    if motion.thing:
        return _paced(_expand(THINGS[motion.thing.action], rng, _thing_rules(motion.thing)), motion.pace, rng)
    names = [name for name, (attribute, sign) in PARTS.items() if getattr(motion, attribute) == sign]
    if not names:
        return _expand(STILL, rng)
    rng.shuffle(names)
    said = [_expand(CAMERA[name], rng) for name in names]
    joint = rng.choice((" and ", ", ", " while ", ", then ", " and at the same time ", " as "))
    return _paced(joint.join(said), motion.pace, rng)


def _paced(text: str, pace: str, rng: random.Random) -> str:
    """Say the pace by an adverb before, in or after the text, or by an adjective before its noun."""
    match = re.match(r"(a|one|the) (pan|camera|zoom|clockwise|counter)", text)
    if match and text.split()[1] not in ("camera",) and rng.random() < 0.8:
        adjective = rng.choice(PACE_ADJECTIVES[pace].split("|"))
        return f"{match[1]} {adjective} {text.split(' ', 1)[1]}"
    adverb = rng.choice(PACE_WORDS[pace].split("|"))
    if not adverb:
        return text
    verb = re.match(r"((?:the|our|a) [\w ]+?|camera) (\w+s\b.*)", text)
    places = [f"{adverb} {text}", f"{text} {adverb}", f"{text}, {adverb}"]
    if verb and " and " not in text:
        places += [f"{verb[1]} {adverb} {verb[2]}"] * 3
    return rng.choice(places)


def _with_extra(words: str, rng: random.Random) -> str:
    extra = _expand(EXTRAS, rng)
    pattern = rng.choice(
        ("{extra}, {words}", "{words}, {extra}", "{extra}. {words}", "{words}. {extra}", "{extra} while {words}")
    )
    return pattern.format(extra=extra, words=words)


def _thing_rules(thing: Thing) -> dict[str, str]:
    colour = COLOUR_WORDS.get(thing.colour, thing.colour)
    return {"thing": " ".join(("<colour>", "<shape>")), "colour": colour, "shape": SHAPE_WORDS[thing.shape]}


def _expand(pattern: str, rng: random.Random, more: dict[str, str] | None = None) -> str:
    own = more or {}

    def alternative(found: re.Match[str]) -> str:
        name = found[1]
        return _made_up(rng) if name == "unknown" else rng.choice(_alternatives(own.get(name) or RULES[name]))

    text = rng.choice(_alternatives(pattern))
    while "<" in text:
        text = re.sub(r"<(\w+)>", alternative, text)
    return text


@cache
def _alternatives(rule: str) -> tuple[str, ...]:
    return tuple(rule.split("|"))


def _made_up(rng: random.Random) -> str:
    """A word that nobody knows: prompts are full of words that a small vocabulary lacks."""
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3))) + rng.choice(
        ("", "n", "r", "s", "t", "ng", "ck")
    )


LABELS = {
    "pan_x": (-1, 0, 1),
    "pan_y": (-1, 0, 1),
    "zoom": (-1, 0, 1),
    "turn": (-1, 0, 1),
    "light": (-1, 0, 1),
    "pace": ("slow", "normal", "fast"),
    "ambient": (False, True),
    "shape": (None, *SHAPES),
    "colour": (None, *COLOURS),
    "action": (None, *ACTIONS),
    "ground": (None, *GROUNDS),
    "ground_colour": (None, *COLOURS),
    "place": (None, *PLACES),
    "size": (None, *SIZES),
}
"""What a caption says, as classes; text encoders learn to tell them."""


def labels(subject: Subject) -> list[int]:
    """The class of `subject` for each of LABELS; a picture moves as little as a still one."""
    parts = (subject, Motion()) if isinstance(subject, Scene) else (subject, subject.thing)
    values = {name: next((getattr(part, name) for part in parts if hasattr(part, name)), None) for name in LABELS}
    return [classes.index(values[name]) for name, classes in LABELS.items()]
