"""One press, many jobs: photos, lines of the prompt, its alternatives and takes, each a job of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffusers_helper.core.errors import FramePackError, QueueFullError, SettingsError
from diffusers_helper.core.fields import MAX_SEED
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import RANDOM_SEED, GenerationRequest
from diffusers_helper.core.variations import MOST_TAKES, Many, Wildcards, variations
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.media.decoding import PhotosBusyError
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo

MANY = ("lines", "pick", "match", "takes")
"""The fields of `Many`."""


class _Many(BaseModel):
    """`Many`, as forms and scripts send it."""

    model_config = ConfigDict(extra="forbid")

    lines: bool = False
    pick: Literal["all", "one"] = "all"
    match: Literal["all", "pairs"] = "all"
    takes: int = Field(default=1, ge=1, le=MOST_TAKES)


def read_many(fields: Mapping[str, Any]) -> Many:
    """Return how one form becomes many videos; raises SettingsError. What is None has its usual value."""
    try:
        return Many(**_Many(**{name: value for name, value in fields.items() if value is not None}).model_dump())
    except ValidationError as error:
        name = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise SettingsError(
            Message(
                '{name}: "lines" is true or false, "pick" all or one, "match" all or pairs, "takes" 1 to {most}.',
                name=name,
                most=MOST_TAKES,
            )
        ) from error


def add_many(
    manager: JobManager,
    wanted: GenerationRequest,
    photos: Sequence[Callable[[], Photo]],
    how: Many,
    *,
    pictures: Mapping[str, Photo] | None = None,
    wildcards: Wildcards,
    **about: Any,
) -> list[str]:
    """Queue all videos that one form stands for; return their ids, in their order.

    Several are a batch: one that is cut off goes on by itself after a restart.

    Args:
        manager: runs the jobs.
        wanted: the settings of all.
        photos: each opens a photo; none for videos without one.
        how: how they become many.
        pictures: those that all have, such as an end picture.
        wildcards: gives the lines of a wildcard.
        about: of `JobManager.submit`.

    Raises SettingsError and PhotoError before anything is queued where that can be told, and QueueFullError; a later
    one tells how many were queued.
    """
    seed = wanted.seed if wanted.seed >= 0 else random.SystemRandom().randrange(2**32)
    made = variations(wanted.prompt, len(photos), how, seed=seed, wildcards=wildcards)
    requests = [_varied(wanted, one.prompt, one.take) for one in made]
    opened = lru_cache(maxsize=2)(lambda number: photos[number]())  # of hundreds of photos few are in memory
    for number in range(len(photos) if len(photos) > 1 else 0):  # or those before a bad one would be queued again
        opened(number)
    ids: list[str] = []
    try:
        for one, request in zip(made, requests, strict=True):
            start = {START: opened(one.photo)} if photos else {}
            inputs = JobInputs.of(request, {**start, **(pictures or {})})
            ids.append(manager.submit(inputs, **about, batch=len(made) > 1))
    except (QueueFullError, PhotosBusyError) as error:
        if not ids:
            raise
        raise QueueFullError(_only(len(ids), len(made), error)) from error
    except FramePackError as error:
        if not ids:
            raise
        raise SettingsError(_only(len(ids), len(made), error)) from error
    return ids


def _varied(wanted: GenerationRequest, prompt: str, take: int) -> GenerationRequest:
    seed = RANDOM_SEED if wanted.seed < 0 else (wanted.seed + take) % (MAX_SEED + 1)
    checked = GenerationRequest.from_field("prompt", prompt)
    return wanted.model_copy(update={"prompt": checked.prompt, "seed": seed})


def _only(done: int, wanted: int, error: FramePackError) -> Message:
    return Message("{done} of {wanted} videos were added. {reason}", done=done, wanted=wanted, reason=error.args[0])
