"""A process of a group: it has one GPU, and makes videos with the others as the process that started it asks.

The first one leads: it goes through all stages of a video and tells what happens. The others take part in the sampling
and the decoding. None is ever alone at work: when the process that started them is gone, they end.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed import FileStore  # type: ignore[attr-defined]  # missing in torch's types

from diffusers_helper.app.device import gpu_use, sole_user
from diffusers_helper.app.group_links import LIMIT, ULYSSES, Ways, mode_for
from diffusers_helper.core.errors import CancelledError, FramePackError, PartnerError
from diffusers_helper.core.events import Event, SectionDone, SectionSampled, StepDone
from diffusers_helper.core.messages import Message
from diffusers_helper.core.quality import RUNGS
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.framepack.partners import InTurns, Together
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.generation.generate import generate
from diffusers_helper.generation.sampling import environment_at, environment_of
from diffusers_helper.generation.start import PictureMaker
from diffusers_helper.generation.team import Member, VideoJob, follow
from diffusers_helper.loading.components import Components, LoadingProgress
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.embedding_cache import EmbeddingCache
from diffusers_helper.loading.environment import differences
from diffusers_helper.loading.lora_files import LoraFiles
from diffusers_helper.loading.step_ratios import StepRatios
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.model_files import ModelSource
from diffusers_helper.models.decoding_together import DecodesTogether

logger = logging.getLogger(__name__)

DECODES = 1000
"""Numbered ones of a video at most."""
VIDEOS = 1000
"""Until the numbers begin anew."""
CONNECTIONS = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1"} | (
    {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
)
"""Variables of the libraries that connect the processes: on this computer alone, and without NVLink's multicast."""
VARIANT_SETS = (("original",), ("f1",), ("f1", "original"))
"""The variants that a video may take."""
EVENT, STATUS, LEAD, DONE, CANCELLED, FAILED, READY = "event", "status", "lead", "done", "cancelled", "failed", "ready"
GPU = "gpu"
"""What a process tells."""
GENERATE, PICTURE, FOLLOW, STOP = "generate", "picture", "follow", "stop"
"""What it is told."""


@dataclass(frozen=True)
class WorkerConfig:
    """A process' place in a group.

    Attributes:
        rank, size: which one it is, of how many.
        device: its own.
        rendezvous: a file by which they find each other.
        mode: ULYSSES, STAGGER, or "auto" for what suits the connection.
        source: where the models are from.
        options: how they compute.
        embeddings, ratios, loras: folders of the embedding cache (None for none), of calibrations and of LoRA files.
        offline: never use a network.
        start_from: the text-to-image model of first pictures; empty for none.
    """

    rank: int
    size: int
    device: str
    rendezvous: Path
    mode: str
    source: ModelSource
    options: ComputeOptions
    embeddings: Path | None
    ratios: Path
    loras: tuple[Path, ...]
    offline: bool
    start_from: str = ""


@dataclass(frozen=True, eq=False)
class Call:
    """A video that is asked for; see `generation.generate`."""

    inputs: JobInputs
    output: Path
    checkpoint: Path
    metadata: bool
    allow_env_change: bool = False


def message_of(kind: str, content: Any = None) -> bytes:
    """Return a message. Tensors travel as bytes: those that share memory would have to outlive their sender."""
    return kind.encode() + b"\n" + pickle.dumps(content)


def send(connection: Connection, kind: str, content: Any = None) -> None:
    """Send a message."""
    connection.send_bytes(message_of(kind, content))


def received(message: bytes) -> tuple[str, Any]:
    """Take a message apart, which one of these processes sent."""
    kind, _, content = message.partition(b"\n")
    return kind.decode(), pickle.loads(content)


def work(config: WorkerConfig, connection: Connection) -> None:
    """Be a process of a group, until the other end of `connection` is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name, value in CONNECTIONS.items():
        os.environ.setdefault(name, value)
    code = 1
    try:
        _Worker(config, connection).run()
        code = 0
    except FramePackError as error:  # before it was ready; later ones end a video alone
        logger.error("GPU process %d of %d cannot begin: %s", config.rank + 1, config.size, error)
        send(connection, FAILED, error)
    except BaseException:
        logger.exception("GPU process %d of %d failed", config.rank + 1, config.size)
    finally:
        logging.shutdown()
        os._exit(code)  # communicators of a group in which one is gone can hang where they end


class _Worker:
    def __init__(self, config: WorkerConfig, connection: Connection) -> None:
        self._config, self._connection = config, connection
        self._tasks: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._led: Member | None = None
        self._members: deque[Member] = deque(maxlen=2)  # what they send may be on its way when their video is over
        self._videos = 0
        device = torch.device(config.device)
        self._held = ExitStack()
        self._held.enter_context(sole_user(device, f"process {os.getpid()}, for several GPUs by {os.getppid()}"))
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store = FileStore(str(config.rendezvous), config.size)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=config.rank, world_size=config.size, timeout=LIMIT)
        self._cpus, self._decodes = (distributed.new_group(backend="gloo", timeout=LIMIT) for _ in range(2))
        self._mode = config.mode if config.mode != "auto" else mode_for(device, self._cpus)
        options = replace(config.options, gpus=config.size if self._mode == ULYSSES else 1)
        if self._mode == ULYSSES:
            options = replace(options, stagger=None)
        self._components = Components(
            config.source,
            device,
            options,
            LoadingProgress(self._loading, self._loading),
            EmbeddingCache(config.embeddings if config.rank == 0 else None),
            offline=config.offline,
        )
        self._components.loras = LoraFiles(config.loras)
        self._components.step_ratios = StepRatios(config.source, config.ratios)
        self._ways = Ways(device)
        if self._mode == ULYSSES:
            self._ways.of(guided=False)  # what does not work is better known before the first video

    def run(self) -> None:
        """Do what comes."""
        threading.Thread(target=self._listen, daemon=True).start()
        settings = {quality: sampling_settings(GenerationRequest(quality=quality)) for quality in RUNGS}
        environments = {
            (quality, variants): environment_at(self._components, settings[quality], variants)
            for quality, variants in product(RUNGS, VARIANT_SETS)
        }
        send(self._connection, READY, (self._mode, environments))
        while True:
            kind, content = self._tasks.get()
            if kind == GENERATE:
                self._lead(self._video(content))
            elif kind == PICTURE:
                maker = PictureMaker(self._components, self._check, self._config.start_from)
                self._lead(maker.make(content))
            else:
                self._follow(content)

    def lead(self, job: VideoJob) -> Member:
        """See `generation.team.Team`."""
        send(self._connection, LEAD, job)
        self._led = self._member(job)
        return self._led

    def _listen(self) -> None:
        try:
            while True:
                kind, content = received(self._connection.recv_bytes())
                if kind == STOP:
                    self._stop.set()
                else:
                    self._stop.clear()
                    self._tasks.put((kind, content))
        except (EOFError, OSError):
            os._exit(0)

    def _video(self, call: Call) -> Generator[Event, None, None]:
        checkpoint = Checkpoint(call.checkpoint)
        now = environment_of(self._components, call.inputs.request, call.inputs.direction.plan.variants)
        if not call.allow_env_change and differences(checkpoint.environment, now):
            checkpoint.forget()
        yield from generate(
            call.inputs,
            components=self._components,
            output=call.output,
            check=self._check,
            checkpoint=checkpoint,
            metadata=call.metadata,
            team=self if self._config.size > 1 else None,
        )

    def _lead(self, asked: Generator[Event, None, Any]) -> None:
        """Do what is asked of this process, tell its events, and then what it returns."""
        self._led = None
        made = None

        def whole() -> Iterator[Event]:
            nonlocal made
            made = yield from asked

        try:
            with closing(asked):
                for event in whole():
                    self._tell_gpu(event)
                    send(self._connection, EVENT, _light(event))
                    self._check()
        except CancelledError:
            self._end_led()
            send(self._connection, CANCELLED)
        except FramePackError as error:
            logger.error("The video failed: %s", error, exc_info=error.__cause__)
            send(self._connection, FAILED, error)
        else:
            send(self._connection, DONE, made)

    def _end_led(self) -> None:
        """Let the others end their part, wherever the video was: they may not even have begun."""
        if self._led is not None:
            self._led.partners.leave("")

    def _follow(self, job: VideoJob) -> None:
        try:
            for event in follow(job, self._components, self._member(job)):
                self._tell_gpu(event)
        except (CancelledError, PartnerError):
            logger.info("The video ended before its last section")
        except FramePackError as error:
            send(self._connection, FAILED, error)
            raise

    def _tell_gpu(self, event: Event) -> None:
        if isinstance(event, StepDone):
            seconds = self._members[-1].partners.seconds if self._members else None
            send(self._connection, GPU, gpu_use(self._components.device, seconds))

    def _member(self, job: VideoJob) -> Member:
        self._videos = (self._videos + 1) % VIDEOS
        shares = DecodesTogether(self._decodes, self._videos * DECODES)
        if self._mode == ULYSSES:
            spread, branches = self._ways.of(guided=job.settings.cfg_scale != 1.0)
            self._members.append(Member(Together(self._cpus), spread, branches, shares))
        else:
            self._members.append(Member(InTurns(self._cpus), shares=shares))
        return self._members[-1]

    def _check(self) -> None:
        if self._stop.is_set():
            raise CancelledError(Message("Stopped."))

    def _loading(self, text: str, done: int, total: int) -> None:
        if self._config.rank == 0:
            self._check()
            send(self._connection, STATUS, (text, done, total))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _light(event: Event) -> Event:
    """Leave out of an event what nobody reads who gets it from another process."""
    if isinstance(event, StepDone):
        return replace(event, denoised=event.denoised.cpu())
    if isinstance(event, SectionSampled):
        return replace(event, trail=None)
    return replace(event, pixels=None) if isinstance(event, SectionDone) else event
