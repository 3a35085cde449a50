"""What lies beside a video: `STEM.png`, its start picture as the models see it, and `STEM.json`, its settings.

`STEM_partial_NN.mp4` while it grows and `STEM.mp4` at the end are `media.growing`'s.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from pathlib import Path

from diffusers_helper.core.events import Event
from diffusers_helper.core.files import atomic_write, output_error, require_free_space
from diffusers_helper.core.plan import LATENT_WINDOW
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.conditions import Check
from diffusers_helper.generation.disk_wait import retry_when_disk_full
from diffusers_helper.generation.pictures import Pictures
from diffusers_helper.media.inputs import JobInputs

BYTES_PER_PIXEL = 0.5
"""Generous guess of an MP4's size while it grows, for the check before the start."""
CHECKPOINT_BYTES_PER_PIXEL = LATENT_WINDOW * 16 * 4 / 64
"""What a section's latents take: 16 channels of float32 for every 8 x 8 pixels."""
ENCODED_AGAIN = 2
"""How much larger a given video may become."""


def keep_beside(
    output: Path, inputs: JobInputs, pictures: Pictures, sections_kept: int, check: Check
) -> Generator[Event, None, None]:
    """Keep picture and request. Where there is too little room a new video is refused; one that goes on waits."""
    height, width = pictures.size
    need = _bytes_needed(inputs.request, sections_kept, height * width) + room_for(inputs)
    keep = partial(write_beside, inputs.request, output, pictures.png, need)
    if sections_kept:
        yield from retry_when_disk_full(keep, output.parent, need, check)
    else:
        keep()


def room_for(inputs: JobInputs) -> int:
    """Return about how many bytes a file takes that holds the given videos, were they encoded again."""
    try:
        return ENCODED_AGAIN * sum(clip.path.stat().st_size for clip in inputs.videos.values())
    except OSError:  # whoever reads it tells
        return 0


def remove_unwanted(output: Path, request: GenerationRequest) -> None:
    """Remove what the request does not keep."""
    for kept, ending in (("photo", "png"), ("recipe", "json")):
        if kept not in request.keep:
            output.with_name(f"{output.name}.{ending}").unlink(missing_ok=True)


def remove_recipe(output: Path, request: GenerationRequest) -> None:
    """Remove the settings beside a single frame unless the request keeps them."""
    if "recipe" not in request.keep:
        output.with_name(f"{output.name}.json").unlink(missing_ok=True)


def write_beside(request: GenerationRequest, output: Path, png: bytes, need: int) -> None:
    """Write the picture and the request beside what is to come. Raises OutputError, also for less room than `need`."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        require_free_space(output.parent, need)
        with atomic_write(output.with_name(f"{output.name}.png")) as part:
            part.write_bytes(png)
        with atomic_write(output.with_name(f"{output.name}.json")) as part:
            part.write_text(request.to_json(), encoding="utf-8")
    except OSError as error:
        raise output_error(output.parent, error) from error


def _bytes_needed(request: GenerationRequest, sections_kept: int, pixels: int) -> int:
    sections = max(request.sections - sections_kept, 0)
    return int(pixels * (BYTES_PER_PIXEL * request.total_frames + CHECKPOINT_BYTES_PER_PIXEL * sections))
