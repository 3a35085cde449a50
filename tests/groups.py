"""Groups of processes that make a small video, for the tests of them."""

import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
from PIL import Image

from diffusers_helper.app.group import Group
from diffusers_helper.app.group_messages import WorkerConfig
from diffusers_helper.app.group_processes import Running
from diffusers_helper.core.events import Finished
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.generation.generate import generate
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.step_ratios import StepRatios
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.models.step_caches.calibration import Calibration
from tests.tiny import TINY_FOLDER

STEPS = 3


def inputs(**changes):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    request = GenerationRequest(
        prompt="pan left", variant="f1", seconds=3.6, steps=STEPS, seed=7, width=64, height=64, keep=("latents",)
    ).model_copy(update=changes)
    return JobInputs(request, {START: Photo(Image.fromarray(pixels), "noise.png", ())})


def frames_of(path):
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def calibration(folder):
    """A folder with what MagCache has to know of the model for eight steps."""
    StepRatios(LocalFolder(TINY_FOLDER), folder).keep("f1", Calibration((1.0,) * 8, (0.0,) * 8, (0.0,) * 8))
    return folder


def group_of(mode, options, size=2, device="cpu", ratios=Path(), **how):
    source = LocalFolder(TINY_FOLDER)
    workers = [
        WorkerConfig(rank, size, device, Path(), mode, source, options, None, ratios, (), True) for rank in range(size)
    ]
    return Group(workers, patience=600, **how)  # this is no test of time


def running_of(processes=(), connections=(), place=None):
    """A group that is running, of what a test needs of it."""
    return Running([*processes], [*connections], place or SimpleNamespace(is_gone=False, close=lambda: None))


@cache
def alone(ratios=None, stagger=None, **changes):
    """Latents and frames of the video that one process makes."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "kept")
        components = Components(LocalFolder(TINY_FOLDER), "cpu", ComputeOptions(stagger=stagger))
        components.step_ratios = StepRatios(components.source, ratios)
        events = list(
            generate(inputs(**changes), components=components, output=Path(folder) / "video", checkpoint=checkpoint)
        )
        return [section.latents for section in checkpoint], frames_of(events[-1].path)


def made_by(group, folder, on_event=lambda _event: None, **changes):
    """What the group's video is: its events, latents and frames."""
    events = []
    for event in group.generate(
        inputs(**changes), output=folder / "video", check=lambda: None, checkpoint=folder / "kept"
    ):
        events.append(event)
        on_event(event)
    assert isinstance(events[-1], Finished)
    return events, [section.latents for section in Checkpoint(folder / "kept")], frames_of(events[-1].path)
