"""What scripts can have made of uploaded videos: more of one, what lies between two, a loop, a part anew or inserted.

Each endpoint is a validator and a start, as those of photos are (handlers.py); jobs, uploads and limits are the same.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import ClipError, SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.gradio.door.privacy import owner_of, user_of
from diffusers_helper.gradio.faults import fault_of, lora_fault, setting_faults, told_to_scripts, validity
from diffusers_helper.gradio.inputs import SETTINGS, read_request, uploaded_file
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.media.clip import Clip, open_clip
from diffusers_helper.media.edits import connected, extended, inserted, looped, redone
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.model_files.lora_library import LoraLibrary

OF_PHOTOS = (
    *("end_strength", "end_embedding", "shape", "width", "height", "fit", "focus"),
    *("start", "start_colour", "frame_seed"),
)
"""Settings without a meaning here: size and shape are the video's own."""
_CAME_LATER = ("forget_at_changes", "variant", "quality", "step_cache")
EDIT_SETTINGS = (*(name for name in SETTINGS if name not in (*OF_PHOTOS, *_CAME_LATER)), "anchor", *_CAME_LATER)
"""In the order in which scripts give them: what is new comes last."""
AT_ONCE, MOST_WAITING = 2, 16
"""How many videos are looked at at once, and how many may wait for that: each holds one of the page's threads."""


@dataclass(frozen=True)
class Edit:
    """One thing that can be made of videos.

    Attributes:
        make: gets the settings, the videos and the numbers, in the order of their names.
        videos: names of the uploads.
        numbers: names and usual values of what else it takes: seconds, or whether something is so.
        without: settings that it decides by itself.
    """

    make: Callable[..., JobInputs]
    videos: tuple[str, ...] = ("video",)
    numbers: Mapping[str, float | bool] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that count."""
        return tuple(name for name in EDIT_SETTINGS if name not in self.without)


EDITS = {
    "extend": Edit(lambda wanted, video, before: extended(wanted, video, before=before), numbers={"before": False}),
    "connect": Edit(connected, videos=("video", "second")),
    "loop": Edit(looped),
    "redo": Edit(redone, numbers={"begin": 0.0, "end": 1.2}, without=("seconds",)),
    "insert": Edit(inserted, numbers={"at": 1.2}),
}
"""By the endpoint's name."""


class VideoReader:
    """Looks at videos, a few at a time, for the whole program."""

    def __init__(self, at_once: int = AT_ONCE, waiting: int = MOST_WAITING) -> None:
        self._turns = threading.BoundedSemaphore(at_once)
        self._places = threading.BoundedSemaphore(at_once + waiting)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn; raises ClipError where too many wait already."""
        if not self._places.acquire(blocking=False):
            raise ClipError(Message("Many videos are being read just now: try again in a moment."))
        try:
            with self._turns:
                yield
        finally:
            self._places.release()


class VideoEdits:
    """Starts what is wanted of uploaded videos.

    Args:
        manager: runs the jobs.
        reader: of videos; shared by all pages.
        library: the LoRA files; None for none.
    """

    def __init__(self, manager: JobManager, reader: VideoReader, library: LoraLibrary | None = None) -> None:
        self._manager = manager
        self._reader = reader
        self._library = library

    def endpoint(self, name: str) -> tuple[Callable[..., str], Callable[..., list[dict[str, Any]]]]:
        """Return what starts an edit and gives its job id, and what validates each value that it gets."""
        edit = EDITS[name]

        def start(request: gr.Request | None = None, **values: Any) -> str:
            with told_to_scripts():
                return self._manager.submit(self.inputs(edit, values, request), owner=owner_of(request))

        def check(request: gr.Request | None = None, **values: Any) -> list[dict[str, Any]]:
            faults = self._faults(edit, values, request)
            return [validity(faults.get(name, "")) for name in values]

        return start, check

    def inputs(self, edit: Edit, values: Mapping[str, Any], request: gr.Request | None = None) -> JobInputs:
        """Return what a job is made from; raises SettingsError and ClipError."""
        wanted = read_request({name: values[name] for name in edit.settings}, self._library)
        with self._reader.turn():
            clips = [open_clip(video_file(values[name], request)) for name in edit.videos]
            return edit.make(wanted, *clips, *(_number(values[name], like) for name, like in edit.numbers.items()))

    def _faults(self, edit: Edit, values: Mapping[str, Any], request: gr.Request | None) -> dict[str, str]:
        faults = setting_faults({name: values[name] for name in edit.settings})
        faults["loras"] = faults["loras"] or lora_fault(values["loras"], self._library)
        for name, like in edit.numbers.items():
            faults[name] = fault_of(partial(_number, values[name], like))
        for name in edit.videos:
            faults[name] = fault_of(partial(self._in_turn, values[name], request))
        if not any(faults.values()):
            faults[edit.videos[0]] = fault_of(lambda: self.inputs(edit, values, request))
        return faults

    def _in_turn(self, value: object, request: gr.Request | None) -> Clip:
        with self._reader.turn():
            return open_clip(video_file(value, request))


def video_file(value: object, request: gr.Request | None) -> Path:
    """Return the upload in a control; raises ClipError where there is none, or it is not this user's."""
    path = value.get("path") if isinstance(value, dict) else None
    if not path:
        raise ClipError(Message("Add a video first."))
    file = uploaded_file(path, user_of(request))
    if file is None:
        raise ClipError(Message("The video is no longer here: choose it again."))
    return file


def connect_video_edits(edits: VideoEdits, inputs: Mapping[str, Any], job_id: Any, **listener: Any) -> None:
    """Add the endpoints for scripts, whose settings are the page's controls `inputs`."""
    videos = {name: gr.File(visible=False, label=name) for name in ("video", "second")}
    inputs = {**inputs, "anchor": gr.Textbox("last", visible=False)}
    for name, edit in EDITS.items():
        numbers = {
            key: gr.Checkbox(usual, visible=False, label=key)
            if isinstance(usual, bool)
            else gr.Number(usual, visible=False, label=key)
            for key, usual in edit.numbers.items()
        }
        start, check = edits.endpoint(name)
        named = {key: videos[key] for key in edit.videos} | numbers | {key: inputs[key] for key in edit.settings}
        gr.on([], start, inputs_kwargs=named, outputs=job_id, validator=check, api_name=name, **listener)


def _number(value: object, like: float | bool) -> float | bool:
    """Return a number of seconds, or whether something is so; raises SettingsError."""
    if isinstance(like, bool):
        if isinstance(value, bool):
            return value
        raise SettingsError(Message("should be true or false"))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SettingsError(Message("should be a number"))
    return float(value)
