"""The types of a request's fields: what is taken for a value, how it is cleaned, and its limits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import as_text
from diffusers_helper.core.messages import Message
from diffusers_helper.core.prompts import LATEST, Timed, timed_prompts, written

MAX_PROMPT_CHARACTERS = 10_000
MAX_SEED = 2**53 - 1
"""The largest whole number that JavaScript, and so the page, holds exactly."""
MAX_SECONDS = 120
SIDE_STEP, MIN_SIDE, MAX_SIDE = 16, 64, 1536
"""Of a video's width and height in pixels: the autoencoder shrinks by 8, and the transformer takes 2 x 2 of that."""
LONGEST_GIVEN = 10**6
"""Seconds of a given video."""
Kept = Literal["photo", "recipe", "latents"]
Resolution = Literal[128, 256, 384, 512, 640, 768]
Start = Literal["photo", "text", "model", "colour"]
Shape = Literal["photo", "16:9", "9:16", "1:1", "4:3", "3:4"]
_LEVELS = re.compile(r"rgba?\(([^,()]+),([^,()]+),([^,()]+)(?:,[^,()]+)?\)")


def _clean_text(value: object) -> object:
    """Drop NUL and replace lone surrogates: neither survives a file, a tokenizer or a log. Texts may have times."""
    if isinstance(value, list | tuple):
        value = _written(value)
    if not isinstance(value, str):
        return value
    return as_text(value.replace("\0", ""))


def _written(prompts: Sequence[object]) -> str:
    """Return texts with times as one prompt; raises ValueError for anything else."""
    timed: list[Timed] = []
    for entry in prompts:
        match entry:
            case [int() | float() as seconds, str() as text] if abs(seconds) <= LATEST:
                timed.append((seconds, text))
            case _:
                raise SettingsError(Message("A prompt is a text, or a list of seconds and texts."))
    return written(timed)


def _no_bool(value: object) -> object:
    """Refuse True and False where a number is meant; pydantic alone would read them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _words(value: object) -> object:
    """Take a text as a list of words between commas, as the command line has it; "nothing" is an empty one."""
    if not isinstance(value, str):
        return value
    return [word.strip() for word in value.split(",") if word.strip() not in ("", "nothing")]


def none_if_blank(value: object) -> object:
    """Take an empty text, as forms and tables have it, for nothing."""
    return None if isinstance(value, str) and not value.strip() else value


def _colour(value: object) -> object:
    """Return a colour, written in any way that browsers know, as #rrggbb."""
    if not isinstance(value, str):
        return value
    from PIL import ImageColor  # not before a colour is read: programs choose their environment first

    try:
        if match := _LEVELS.fullmatch(value.strip()):  # a colour picker's levels are no whole numbers
            levels = [min(max(round(float(text)), 0), 255) for text in match.groups()]
        else:
            levels = list(ImageColor.getrgb(value.strip())[:3])
    except (ValueError, OverflowError):
        raise SettingsError(
            Message("start_colour: write a colour as #808080, or by a name such as white or grey.")
        ) from None
    return "#{:02x}{:02x}{:02x}".format(*levels)


def _timed(value: str) -> str:
    """Check the times in a prompt."""
    timed_prompts(value)
    return value


Prompt = Annotated[str, BeforeValidator(_clean_text), Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_timed)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_no_bool)]
Share = Annotated[Number, Field(ge=0, le=1)]
Side = Annotated[Whole, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=SIDE_STEP)]
Seconds = Annotated[Number, Field(ge=0, le=MAX_SECONDS)]
Colour = Annotated[str, BeforeValidator(_colour)]
Time = Annotated[Number, Field(ge=0, le=LONGEST_GIVEN)]
Words = BeforeValidator(_words)
OrNothing = BeforeValidator(none_if_blank)
