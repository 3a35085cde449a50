"""What people read, in their language: English sentences in the code, their translations in `locales/NAME.json`.

The English sentence, with `{names}` where values go, is the key. A text that is made before anybody knows who will
read it (an error, a note, what a job is doing) is a `Message`: an English string for logs and scripts, which a
`Language` turns into another one at the moment of showing. Tests find each key by the calls `Message("...")` and
`t("...")`, so both are given literals, and a variable that holds a `Language` is called `t`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

LANGUAGES = {"en": "English", "zh-TW": "繁體中文", "zh-CN": "简体中文", "ja": "日本語"}
"""Every language there is: its tag and its own name."""
_CATALOGUES = Path(__file__).parents[1] / "locales"
_FIRST_PART = "{part0}"  # of a key that `join_sentences` made
_WITHOUT_SPACES = {"zh-TW", "zh-CN", "ja"}  # between sentences
_TRADITIONAL = {"hant", "tw", "hk", "mo"}


class Message(str):
    """An English sentence that can be translated later.

    Args:
        key: the sentence, with a `{name}` or `{name:format}` for each value.
        values: numbers, strings, or further messages.
    """

    key: str
    values: Mapping[str, Any]

    def __new__(cls, key: str, /, **values: Any) -> Message:
        """Fill the values in."""
        message = super().__new__(cls, key.format(**values))
        message.key, message.values = key, values
        return message

    def __str__(self) -> str:
        """Return itself, so that `str(error)` can still be translated."""
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        """Tell copy and pickle how it is made."""
        return (self.key,), dict(self.values)


class Language:
    """One language: call it with a message, or with a sentence and its values.

    Args:
        tag: one of `LANGUAGES`.
        catalogue: English sentences and what they are in this language.
    """

    def __init__(self, tag: str, catalogue: Mapping[str, str]) -> None:
        self.tag = tag
        self._catalogue = catalogue

    def __call__(self, text: str, /, **values: Any) -> str:
        """Return `text` in this language; a text that is not in the catalogue stays as it is."""
        key, given = (text.key, text.values) if isinstance(text, Message) else (text, values)
        filled = {name: self(value) if isinstance(value, Message) else value for name, value in given.items()}
        sentence = self._catalogue.get(key, key)
        if key.startswith(_FIRST_PART) and self.tag in _WITHOUT_SPACES:
            sentence = sentence.replace(" ", "")
        return sentence.format(**filled) if filled else sentence


ENGLISH = Language("en", {})


@cache
def language(tag: str | None) -> Language:
    """Return the language called `tag`, one of `LANGUAGES`; English for None."""
    if tag is None or tag == ENGLISH.tag:
        return ENGLISH
    return Language(tag, json.loads((_CATALOGUES / f"{tag}.json").read_text(encoding="utf-8")))


def join_sentences(messages: Iterable[str]) -> Message:
    """Return one message that is made of `messages`, one after the other."""
    parts = {f"part{number}": message for number, message in enumerate(messages)}
    return Message(" ".join(f"{{{name}}}" for name in parts), **parts)


def preferred(accept_language: str) -> str:
    """Return the tag of `LANGUAGES` that a browser's Accept-Language header asks for; English for none of them.

    Chinese without a region is Simplified, as Unicode's likely subtags have it; Hong Kong and Macau read Traditional.
    """
    wishes = []
    for entry in accept_language.split(","):
        tag, _, quality = entry.partition(";q=")
        try:
            wishes.append((float(quality or 1), tag.strip()))
        except ValueError:
            continue
    by_wish = sorted(wishes, key=lambda wish: -wish[0])
    return next((known for weight, tag in by_wish if weight > 0 and (known := _known(tag))), ENGLISH.tag)


def _known(tag: str) -> str | None:
    first, *rest = tag.lower().split("-")
    if first == "zh":
        return "zh-TW" if "hans" not in rest and _TRADITIONAL.intersection(rest) else "zh-CN"
    return first if first in LANGUAGES else None
