"""A run that makes real, small MP4s in a moment, so that the page and the API can be tested without models."""

import asyncio
import io
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import av
import gradio as gr
import numpy as np
import pytest
import uvicorn
from PIL import Image

from diffusers_helper.core.events import Finished, Note, StageStarted, StepDone, VideoGrown
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import FPS, LATENT_WINDOW
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import ORIGINAL, Variant
from diffusers_helper.gradio.app import build_pages
from diffusers_helper.gradio.content import ModelCard, ProgramStatus
from diffusers_helper.gradio.door.connections import LimitedProtocol
from diffusers_helper.gradio.door.server import Site, application
from diffusers_helper.history.library import History
from diffusers_helper.jobs.job import user_folder
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue import QueueLimits
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.jobs.worker import WorkerHooks
from diffusers_helper.model_files.lora_library import LoraLibrary
from diffusers_helper.presets.along import come_along
from diffusers_helper.presets.store import PresetFolders
from diffusers_helper.service.access import Access
from diffusers_helper.service.system_monitor import SystemMonitor

LION = Path(gr.__file__).parent / "media_assets/images/lion.jpg"
"""A photograph that the gradio package ships."""
SIZE = 64
GOOD = {
    "prompt": "A lion roars.",
    "negative_prompt": "",
    "seconds": 1,
    "seed": 7,
    "steps": 2,
    "guidance_scale": 10.0,
    "cfg_scale": 1.0,
    "cfg_rescale": 0.0,
    "teacache": False,
    "preserved_memory_gb": 6.0,
    "mp4_crf": 16,
    "resolution": 256,
    "keep": ["photo", "recipe"],
}
"""What scripts could set at first."""
FULL = GOOD | {
    "blend": 1,
    "end_strength": 0.5,
    "end_embedding": "mix",
    "landing": 2,
    "shape": "16:9",
    "width": 320,
    "height": 192,
    "fit": "blur",
    "focus": "0.25,1",
    "start": "photo",
    "start_colour": "#ffffff",
    "frame_seed": "3",
    "forget_at_changes": True,
    "variant": "f1",
    "quality": "quick",
    "step_cache": "none",
}


class FakeRun:
    """What `JobManager` calls for every job: stages, steps, one video per section, the end.

    `hold` stops every job after the first step of section `hold_at` until it is set, or `hold_at` is another one;
    `fault` is raised there.
    `decoded` stops one in the same way while that section is decoded.
    """

    def __init__(self, outputs: Path, *, step_seconds: float = 0.02, hold_at: int = 0, by_user: bool = False):
        self.outputs = outputs
        self.step_seconds = step_seconds
        self.hold_at = hold_at
        self.by_user = by_user
        self.hold = threading.Event()
        self.hold.set()
        self.decoded = threading.Event()
        self.decoded.set()
        self.fault: BaseException | None = None
        self.notes: tuple[str, ...] = ()
        self.jobs = []

    def __call__(self, job):
        self.jobs.append(job)
        request, path = job.request, None
        outputs = self.outputs / user_folder(job.owner) if self.by_user else self.outputs
        yield StageStarted("text", Message("Reading the prompt"))
        lead = job.inputs.lead
        for note in (*(lead.notes if lead else ()), *self.notes):
            yield Note(note)
        for section in range(request.sections):
            place = {"number": section + 1, "sections": request.sections}
            yield StageStarted("sample", Message("Sampling section {number} of {sections}", **place))
            for step in range(1, request.steps + 1):
                time.sleep(self.step_seconds)
                yield StepDone(section, request.sections, step, request.steps, np.array([section, step, request.steps]))
                if (section, step) == (self.hold_at, 1):
                    self._wait(self.hold, job, section)
                    if self.fault is not None:
                        raise self.fault
            if section == self.hold_at and not self.decoded.is_set():
                yield StageStarted("decode", Message("Decoding section {number} of {sections}", **place))
                self._wait(self.decoded, job, section)
            frames = 4 * LATENT_WINDOW * (section + 1) + 1
            path = write_video(outputs / f"{job.id}_partial_{section:02d}.mp4", frames)
            yield VideoGrown(path, frames, section + 1)
        yield Finished(path.rename(outputs / f"{job.id}.mp4"), request.total_frames)

    def _wait(self, event, job, section):
        while section == self.hold_at and not event.wait(0.02):
            job.check()


def fake_preview(denoised) -> bytes:
    """A strip of frames, as the real one is: a disc that wanders, sharper with every step."""
    section, step, steps = denoised
    rows, columns = np.mgrid[:32, :32]
    frames = []
    for index in range(LATENT_WINDOW):
        disc = np.hypot(rows - 16, columns - 4 - 3 * index) < 3 + 5 * step / steps
        frames.append(np.where(disc, 250, 40 + 40 * (section % 3)))
    file = io.BytesIO()
    Image.fromarray(np.hstack(frames).astype(np.uint8)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def write_video(path: Path, frames: int) -> Path:
    """A bar that wanders through a square, H.264 in yuv420p."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=FPS, options={"crf": "30", "preset": "ultrafast"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            picture = np.full((SIZE, SIZE, 3), (20, 80, 90), np.uint8)
            picture[:, index % SIZE] = 255
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        file.mux(stream.encode())
    return path


def wait_for(condition, seconds=60):
    """Wait until `condition()` is true."""
    deadline, pause = time.monotonic() + seconds, 0.001
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def in_a_loop(call, *args, **kwargs):
    """Call inside an event loop: where none runs, Gradio makes one and leaves it open, which is a warning."""

    async def do():
        return call(*args, **kwargs)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(do())).result()


@dataclass
class FakePage:
    """A page served on a free port of this computer, with the fake run behind it."""

    url: str
    run: FakeRun
    manager: JobManager
    outputs: Path
    blocks: gr.Blocks

    def wait_until_idle(self, seconds: float = 60) -> None:
        for job in self.manager.jobs():
            assert self.manager.wait(job.id, seconds).ended


@contextmanager
def serve_blocks(folder: Path, app: gr.Blocks) -> Iterator[str]:
    """Serve one region alone, behind the same guards; the address of its page."""
    manager = JobManager(FakeRun(folder))
    manager.start()
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listener:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        site = in_a_loop(application, Site({"en": app}, manager, Access(), folder))
        server = uvicorn.Server(uvicorn.Config(site, http=LimitedProtocol, ws="none", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
            assert manager.close(60)
    assert not thread.is_alive()


@contextmanager
def serve_page(
    folder: Path,
    variant: Variant = ORIGINAL,
    models_note: str = "",
    languages=("en",),
    access: Access | None = None,
    uploads: Path | None = None,
    manager: JobManager | None = None,
    max_per_owner: int | None = None,
    port: int = 0,
    estimate=lambda request, pictures: None,
    loras: Path | None = None,
    store: JobStore | None = None,
    **defaults,
) -> Iterator[FakePage]:
    """Serve as the program does: Gradio mounted in an application of its own, behind the guards."""
    outputs = folder / "outputs"
    outputs.mkdir(parents=True, exist_ok=True)
    access = access or Access()
    run = FakeRun(outputs, by_user=access.accounts is not None)
    limits = QueueLimits(per_owner=max_per_owner)
    manager = manager or JobManager(run, hooks=WorkerHooks(new_previewer=lambda: fake_preview), limits=limits)
    request = GenerationRequest(variant=variant.name, **{"seconds": 1, "steps": 4, "resolution": 256, **defaults})
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", port)) as listener:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads or folder / "uploads"))
        patch.setenv("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000")  # its statistics use what pandas 3 warns of
        model = ModelCard(request, models_note, estimate=estimate, loras=LoraLibrary([loras] if loras else []))
        model = replace(model, presets=PresetFolders(folder / "presets", come_along(request)))
        status = ProgramStatus(SystemMonitor(outputs))
        history = History(store, manager) if store is not None else None
        pages = in_a_loop(build_pages, languages, model, manager, outputs, status, history)
        app = in_a_loop(application, Site(pages, manager, access, outputs, history=history))
        config = uvicorn.Config(
            app, http=LimitedProtocol, ws="none", log_config=None, proxy_headers=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield FakePage(f"http://127.0.0.1:{listener.getsockname()[1]}", run, manager, outputs, pages[languages[0]])
        finally:
            run.hold.set()
            run.decoded.set()
            assert manager.close(60)
            server.should_exit = True
            thread.join(60)
            if history is not None:
                history.close()
    assert not thread.is_alive()
