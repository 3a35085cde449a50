"""A run that makes real, small MP4s in a moment, so that the page and the API can be tested without models."""

import io
import threading
from pathlib import Path

import av
import numpy as np
from PIL import Image

from diffusers_helper.framepack.events import Finished, Note, StageStarted, StepDone, VideoGrown
from diffusers_helper.framepack.planning import FPS, LATENT_WINDOW

SIZE = 64


class FakeRun:
    """What ``JobManager`` calls for every job: stages, steps, one video per section, the end.

    ``hold`` stops every job at its first step of section ``hold_at`` until it is set; ``fault`` is raised there.
    """

    def __init__(self, outputs: Path, *, step_seconds: float = 0.02, hold_at: int = 0):
        self.outputs = outputs
        self.step_seconds = step_seconds
        self.hold_at = hold_at
        self.hold = threading.Event()
        self.hold.set()
        self.fault: BaseException | None = None
        self.notes: tuple[str, ...] = ()
        self.jobs = []

    def __call__(self, job):
        self.jobs.append(job)
        request, path = job.request, None
        yield StageStarted("text", "Reading the prompt")
        for note in (*job.photo.notes, *self.notes):
            yield Note(note)
        yield StageStarted("sample", "Sampling")
        for section in range(request.sections):
            for step in range(1, request.steps + 1):
                self._pause(job, section)
                yield StepDone(section, request.sections, step, request.steps, np.array([section, step, request.steps]))
            frames = 4 * LATENT_WINDOW * (section + 1) + 1
            path = write_video(self.outputs / f"{job.id}_partial_{section:02d}.mp4", frames)
            yield VideoGrown(path, frames, section + 1)
        yield Finished(path.rename(self.outputs / f"{job.id}.mp4"), request.total_frames)

    def _pause(self, job, section):
        if section == self.hold_at:
            while not self.hold.wait(0.02):
                job.check()
            if self.fault is not None:
                raise self.fault
        threading.Event().wait(self.step_seconds)


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
