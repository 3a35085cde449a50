"""One press, many jobs: photos, lines of the prompt, its alternatives and takes, each a job of its own.

The page's panel, photos that are dropped on it, and scripts all come through here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal

import gradio as gr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffusers_helper.core.errors import FramePackError, PhotoError, QueueFullError, SettingsError
from diffusers_helper.core.fields import MAX_SEED
from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import RANDOM_SEED, GenerationRequest
from diffusers_helper.core.variations import MOST_TAKES, Many, Wildcards, variations
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.door.privacy import owner_of
from diffusers_helper.gradio.inputs import begins_without, read_end_photo, read_keys, read_photo, read_request
from diffusers_helper.gradio.keys import KEY_PHOTOS
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.media.decoding import PhotoReader, PhotosBusyError
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


@dataclass(frozen=True)
class Adder:
    """Queues several videos of one form.

    Attributes:
        manager: runs the jobs.
        photos: reads photos.
        model: its LoRA files and wildcards.
    """

    manager: JobManager
    photos: PhotoReader
    model: ModelCard

    def add(
        self,
        client_id: str,
        image: object,
        photos: object,
        request: gr.Request | None = None,
        *,
        end_photo: object = None,
        **settings: Any,
    ) -> list[str]:
        """Queue all videos that a form stands for, `photos` in place of `image` if there are any; see `add_many`.

        The fields of `Many` are among the settings.
        """
        how = read_many({name: settings.pop(name, None) for name in MANY})
        wanted = read_request(settings, self.model.loras)
        files = photos if isinstance(photos, list) and photos else [image]
        if files == [None] and begins_without(wanted.start):
            files = []
        return add_many(
            self.manager,
            wanted,
            [partial(read_photo, file, self.photos, request) for file in files],
            how,
            pictures=self._pictures(wanted, end_photo, settings, request),
            wildcards=self.model.wildcards.lines,
            owner=owner_of(request),
            client_id=client_id,
        )

    def each(
        self,
        client_id: str,
        files: Sequence[Any],
        request: gr.Request | None = None,
        *,
        end_photo: object = None,
        **settings: Any,
    ) -> Iterator[tuple[str, str]]:
        """Queue a video for each photo, with the prompt as it is; yield its name and why it cannot be used, if so.

        What is wrong with all raises before the first, and QueueFullError or PhotosBusyError where there is no place.
        """
        wanted = read_request(settings, self.model.loras)
        if not files:
            raise PhotoError(Message("Add photos first: drop them on the field, or click it to choose files."))
        pictures = self._pictures(wanted, end_photo, settings, request)
        for file in files:
            known = file if isinstance(file, dict) else {}
            name = display_name(str(known.get("orig_name") or known.get("path") or ""))
            try:
                photo = replace(read_photo(file, self.photos, request), name=name)
                inputs = JobInputs.of(wanted, {START: photo, **pictures})
                self.manager.submit(inputs, owner=owner_of(request), client_id=client_id, batch=True)
            except PhotosBusyError:
                raise
            except PhotoError as error:
                yield name, str(error)
            else:
                yield name, ""

    def _pictures(
        self, wanted: GenerationRequest, end_photo: object, settings: Mapping[str, Any], request: gr.Request | None
    ) -> dict[str, Photo]:
        keys = read_keys(wanted, settings.get(KEY_PHOTOS), self.photos, request)
        return read_end_photo(end_photo, self.photos, request) | keys


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
