"""Clips for measuring: from a model folder, through the product's own path, as frames before any compression."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.metrics import Frames
from diffusers_helper.core.buckets import find_nearest_bucket
from diffusers_helper.core.events import Event, SectionDone
from diffusers_helper.core.plan import LATENT_WINDOW, START, VideoPlan, sections_for
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.encoders.hunyuan import vae_decode, vae_encode
from diffusers_helper.generation.generate import generate
from diffusers_helper.loading.components import Components
from diffusers_helper.media.frames import rgb_frames, soft_append_bcthw
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo, resize_and_center_crop

SECTION_FRAMES = 4 * LATENT_WINDOW
SECTION_SECONDS = 1.2
REPEAT = "repeat"
"""The plain baseline: every section is a video of its own, which starts from the last frame of the one before."""
METHODS = ("original", "f1", REPEAT)


@dataclass(frozen=True)
class Studio:
    """Makes clips.

    Attributes:
        components: the models.
        settings: of every clip but its prompt, variant and length.
    """

    components: Components
    settings: GenerationRequest

    def picture(self, photo: Photo) -> Frames:
        """The photo as the models see it, (H, W, 3)."""
        resolution = self.settings.resolution or self.components.source.defaults.resolution
        height, width = find_nearest_bucket(photo.image.height, photo.image.width, resolution)
        return resize_and_center_crop(np.asarray(photo.image), width, height)

    def clip(self, picture: Frames, prompt: str, method: str, seconds: float) -> Frames:
        """Frames (T, H, W, 3) of a video that `method`, one of METHODS, makes of `picture`."""
        if method != REPEAT:
            return self._video(picture, prompt, method, seconds)
        frames = picture[None]
        for _ in range(sections_for(seconds)):
            frames = np.concatenate([frames[:-1], self._video(frames[-1], prompt, "f1", SECTION_SECONDS)])
        return frames

    @torch.inference_mode()
    def reconstruction(self, picture: Frames) -> Frames:
        """What the autoencoder alone makes of `picture`."""
        pixels = (torch.from_numpy(picture).float() / 127.5 - 1).permute(2, 0, 1)[None, :, None]
        with self.components.vae() as vae:
            latents = vae_encode(pixels, vae, torch.Generator("cpu").manual_seed(self.settings.seed))
            return next(iter(rgb_frames(vae_decode(latents, vae))))

    def inputs(self, pictures: Mapping[str, Frames], **changes: Any) -> JobInputs:
        """A video of `pictures` (H, W, 3) by name, with the settings but for `changes`."""
        photos = {name: Photo(Image.fromarray(picture), name, ()) for name, picture in pictures.items()}
        return JobInputs(self.settings.model_copy(update=changes), photos)

    def directed(self, inputs: JobInputs) -> Frames:
        """Frames (T, H, W, 3) that are made of `inputs`, without given videos."""
        with tempfile.TemporaryDirectory() as folder:
            events = generate(inputs, components=self.components, output=Path(folder) / "clip")
            return joined(events, inputs.direction.plan)

    def sections(self, picture: Frames, prompt: str, variant: str, seconds: float) -> Iterator[SectionDone]:
        """The finished sections of a video, in the order of sampling, with latents and pixels."""
        inputs = self.inputs({START: picture}, prompt=prompt, variant=variant, seconds=seconds)
        with tempfile.TemporaryDirectory() as folder:
            for event in generate(inputs, components=self.components, output=Path(folder) / "clip"):
                if isinstance(event, SectionDone):
                    yield event

    def _video(self, picture: Frames, prompt: str, variant: str, seconds: float) -> Frames:
        return self.directed(self.inputs({START: picture}, prompt=prompt, variant=variant, seconds=seconds))


def joined(events: Iterable[Event], plan: VideoPlan) -> Frames:
    """Frames (T, H, W, 3) of the sections among `events`, as the product joins them."""
    clip: torch.Tensor | None = None
    for event in events:
        if not isinstance(event, SectionDone) or event.pixels is None:
            continue
        overlap = plan.sections[event.index].overlap_pixels
        if clip is None:
            clip = event.pixels
        elif plan.grows_at_front:
            clip = soft_append_bcthw(event.pixels, clip, overlap)
        else:
            clip = soft_append_bcthw(clip, event.pixels, overlap)
    assert clip is not None, "a finished video has sections that are decoded"
    return np.stack(list(rgb_frames(clip)))
