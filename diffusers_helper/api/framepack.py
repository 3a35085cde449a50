"""The class `FramePack`."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from diffusers_helper.api.options import config_from
from diffusers_helper.api.video import TemporaryFolder, Video, clip_of
from diffusers_helper.core.directing import direct, key_name
from diffusers_helper.core.events import Event, Finished, Note
from diffusers_helper.core.files import require_usable
from diffusers_helper.core.plan import END, START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import variant_named
from diffusers_helper.jobs.job import new_job_id
from diffusers_helper.service import options
from diffusers_helper.service.versions import require_versions

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from PIL.Image import Image

    from diffusers_helper.api.video import GivenVideo
    from diffusers_helper.app.program import Program
    from diffusers_helper.core.loras import Lora
    from diffusers_helper.media.inputs import JobInputs

    Loras = Mapping[str, float | Sequence[tuple[float, float]]] | Sequence[str | Lora] | str
    Picture = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | Image
    Prompt = str | Sequence[tuple[float, str]]


class FramePack:
    """A model on a device, that makes one video at a time. Made by `load`.

    Attributes:
        defaults: the settings that suit the model; those of a video count before them.
        outputs: the folder of the results.
    """

    def __init__(self, program: Program, folder: TemporaryFolder | None = None, loras: Loras = ()) -> None:
        self._program = program
        self._folder = folder
        self.defaults = GenerationRequest.from_fields(program.defaults.model_dump() | {"loras": loras})
        self.outputs = program.outputs

    @classmethod
    def load(
        cls,
        models: str | os.PathLike[str] | None = None,
        *,
        variant: str = "original",
        outputs: str | os.PathLike[str] | None = None,
        loras: Loras = (),
        **machine: Any,
    ) -> FramePack:
        """Find the model and the device; weights are read by the first video.

        Args:
            models: "framepack" (the published weights), "tiny", or a folder; None is the first where there is a GPU.
            variant: "original" or "f1".
            outputs: where results go; None for a temporary folder, which is gone with this object and its videos, so
                `save` what you want to keep.
            loras: LoRA files of all videos that name none themselves, with their weights:
                `{"a.safetensors": 0.8, "b.safetensors": [(0, 0.2), (2.4, 1)]}`.
            machine: the programs' other options by their names, such as `device="cpu"`, `offline=True`,
                `no_compile=True`. What is None or left out may come from a variable or the file with settings, as
                docs/configuration.md tells.

        Raises TypeError for an option that does not exist, SettingsError for what does not work here and
        ModelFilesError for files that are missing.
        """
        require_versions()

        from diffusers_helper.app.program import Program

        folder = TemporaryFolder() if outputs is None else None
        place = folder.path if folder else Path(os.fspath(outputs or "")).resolve()
        config = config_from(models=None if models is None else os.fspath(models), outputs=place, **machine)
        options.set_environment(config.folders, offline=config.offline)
        program = Program(config, variant_named(variant).name)
        program.prepare()
        return cls(program, folder, loras)

    def __call__(
        self,
        photo: Picture | None,
        prompt: Prompt = "",
        *,
        end_photo: Picture | None = None,
        key_photos: Mapping[float, Picture] | None = None,
        **settings: Any,
    ) -> Video:
        """Make a video of `photo` (see `media.photo.open_photo`); takes and raises the same as `stream`.

        None is for no photo: `start="text"` begins with a picture of the prompt, `start="colour"` with a blank one.
        """
        return self._made(self._inputs(photo, prompt, end_photo, key_photos or {}, settings))

    def extend(
        self, video: GivenVideo, seconds: float, prompt: Prompt = "", *, before: bool = False, **settings: Any
    ) -> Video:
        """Make a video longer, at its end or `before` its beginning, for which the original model is used.

        Args:
            video: a file, or a `Video`.
            seconds: how much longer.
            prompt, settings: as in `stream`; the size is that of the video.

        Raises ClipError for a file that cannot be used, and else what `stream` raises.
        """
        from diffusers_helper.media.edits import extended

        return self._made(extended(self._wanted(prompt, settings, seconds=seconds), clip_of(video), before=before))

    def connect(
        self, first: GivenVideo, second: GivenVideo, seconds: float, prompt: Prompt = "", **settings: Any
    ) -> Video:
        """Join two videos by new `seconds` that lead from one to the other; see `extend`."""
        from diffusers_helper.media.edits import connected

        return self._made(connected(self._wanted(prompt, settings, seconds=seconds), clip_of(first), clip_of(second)))

    def loop(self, video: GivenVideo, seconds: float, prompt: Prompt = "", **settings: Any) -> Video:
        """Add `seconds` that lead from a video's end to its beginning; see `extend`."""
        from diffusers_helper.media.edits import looped

        return self._made(looped(self._wanted(prompt, settings, seconds=seconds), clip_of(video)))

    def redo(self, video: GivenVideo, begin: float, end: float, prompt: Prompt = "", **settings: Any) -> Video:
        """Make the seconds from `begin` to `end` of a video anew, in whole sections; see `extend`."""
        from diffusers_helper.media.edits import redone

        return self._made(redone(self._wanted(prompt, settings), clip_of(video), begin, end))

    def insert(self, video: GivenVideo, at: float, seconds: float, prompt: Prompt = "", **settings: Any) -> Video:
        """Put new `seconds` into a video, `at` seconds after its beginning; see `extend`."""
        from diffusers_helper.media.edits import inserted

        return self._made(inserted(self._wanted(prompt, settings, seconds=seconds), clip_of(video), at))

    def stream(
        self,
        photo: Picture | None,
        prompt: Prompt = "",
        *,
        end_photo: Picture | None = None,
        key_photos: Mapping[float, Picture] | None = None,
        **settings: Any,
    ) -> Generator[Event, None, None]:
        """Make a video and yield what happens, up to `Finished`; closing the iterator stops the work within a step.

        `prompt` is a text, or several with the seconds from which each counts: `[(0, "Wait"), (2.4, "Wave")]`. The
        video ends with `end_photo` and reaches each of `key_photos` at its second. `settings` are the fields of a
        GenerationRequest, such as `seconds=2.4`, `seed=7` or `loras={"a.safetensors": 0.8}`. Raises SettingsError,
        PhotoError and LoraError at once, and in the loop every FramePackError that a user can mend.
        """
        return self._events(self._inputs(photo, prompt, end_photo, key_photos or {}, settings))

    def frame(
        self,
        prompt: str,
        photo: Picture | None = None,
        *,
        second_photo: Picture | None = None,
        **settings: Any,
    ) -> PIL.Image.Image:
        """Make a single picture: of the prompt, or of `photo`, maybe with a second one, as the prompt says.

        `settings` are those of a video, such as `seed=7`, and `frame_time` and `frame_slots`; raises the same. The file
        is in the folder of the results and carries the settings.
        """
        from PIL import Image

        inputs = self._inputs(photo, prompt, second_photo, {}, settings | {"frame": True})
        finished = self._finished(self._events(inputs), [])
        with Image.open(finished.path) as file:
            return file.convert("RGB")

    def _wanted(self, prompt: Prompt, settings: dict[str, Any], **more: Any) -> GenerationRequest:
        return self._program.identified(self.request(prompt, **settings, **more).with_seed())

    def _made(self, inputs: JobInputs) -> Video:
        notes: list[str] = []
        finished = self._finished(self._events(inputs), notes)
        return Video(finished.path, finished.frames, inputs.request, tuple(notes), self._folder)

    def request(self, prompt: Prompt = "", **settings: Any) -> GenerationRequest:
        """Return the request that a video of these settings has; raises SettingsError."""
        return GenerationRequest.from_fields(self.defaults.model_dump() | settings | {"prompt": prompt})

    def release(self) -> None:
        """Give up the models; the next video loads them again."""
        self._program.release()

    def _inputs(
        self,
        photo: Picture | None,
        prompt: Prompt,
        end_photo: Picture | None,
        key_photos: Mapping[float, Picture],
        settings: dict[str, Any],
    ) -> JobInputs:
        from diffusers_helper.media.inputs import JobInputs
        from diffusers_helper.media.photo import open_photo

        pictures: dict[str, Picture | None] = {}
        if photo is not None:
            pictures[START] = photo
        if end_photo is not None:
            pictures[END] = end_photo
        if key_photos:
            settings = settings | {"key_seconds": sorted(key_photos)}
            pictures |= {key_name(i): key_photos[at] for i, at in enumerate(sorted(key_photos), start=1)}
        request = self._program.identified(self.request(prompt, **settings).with_seed())
        require_usable([Path(os.fspath(p)) for p in pictures.values() if isinstance(p, str | os.PathLike)])
        inputs = JobInputs.of(request, {name: open_photo(picture) for name, picture in pictures.items()})
        direct(request, pictures)  # pictures and times that do not fit are told at once
        return inputs

    def _finished(self, events: Generator[Event, None, None], notes: list[str]) -> Finished:
        """Consume `events`, collecting their `notes`."""
        finished = None
        with closing(events):
            for event in events:
                if isinstance(event, Note):
                    notes.append(event.text)
                finished = event if isinstance(event, Finished) else finished
        assert finished is not None, "a run ends with Finished or an exception"
        return finished

    def _events(self, inputs: JobInputs) -> Generator[Event, None, None]:
        return self._program.generate(inputs, new_job_id(), check=_nothing, report=_nothing)


def _nothing(*_said: str) -> None:
    pass
