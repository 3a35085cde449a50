"""A process of a group: it has one GPU, and makes videos with the others as the process that started it asks.

The first one leads: it goes through all stages of a video and tells what happens. The others take part in the sampling
and the decoding. None is ever alone at work: when the process that started them is gone, they end.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from itertools import product
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import distributed
from torch.distributed import FileStore  # type: ignore[attr-defined]  # missing in torch's types

from diffusers_helper.app.device import gpu_use, sole_user
from diffusers_helper.app.group_links import LIMIT, exchange_rate
from diffusers_helper.app.group_messages import (
    CANCELLED,
    DONE,
    EVENT,
    FAILED,
    FOLLOWER_FAILED,
    GENERATE,
    GPU,
    LEAD,
    PICTURE,
    READY,
    STATUS,
    STOP,
    WorkerConfig,
    received,
    send,
)
from diffusers_helper.app.makers import Call, begun, env_change
from diffusers_helper.app.sharing import WAYS, Way, way_for
from diffusers_helper.core.errors import CancelledError, FramePackError, PartnerError
from diffusers_helper.core.events import Event, Note, SectionDone, SectionSampled, StepDone
from diffusers_helper.core.messages import Message
from diffusers_helper.core.quality import RUNGS
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.generation.sampling import environment_at
from diffusers_helper.generation.start import PictureMaker
from diffusers_helper.generation.team import Member, VideoJob, follow
from diffusers_helper.loading.components import Components, LoadingProgress
from diffusers_helper.loading.embedding_cache import EmbeddingCache
from diffusers_helper.loading.lora_files import LoraFiles
from diffusers_helper.loading.step_ratios import StepRatios
from diffusers_helper.memory.pinning import CudaPinningOn
from diffusers_helper.memory.shared import SharedFile
from diffusers_helper.models.decoding_together import DecodesTogether

logger = logging.getLogger(__name__)

CONNECTIONS = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1"} | (
    {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
)
"""Variables of the libraries that connect the processes: on this computer alone, and without NVLink's multicast."""
VARIANT_SETS = (("original",), ("f1",), ("f1", "original"), ("original", "f1"))
"""The variants that a video may take, in the order of their first sections."""


Prepare = Callable[[Components], None]
"""Changes how a process has its models, before it has any."""


def work(config: WorkerConfig, connection: Connection, prepare: Prepare = lambda _components: None) -> None:
    """Be a process of a group, until the other end of `connection` is closed."""
    threading.Thread(target=_end_with_parent, args=(config.rendezvous,), daemon=True).start()
    for name, value in CONNECTIONS.items():
        os.environ.setdefault(name, value)
    code = 1
    try:
        worker = _Worker(config, connection)
        prepare(worker.components)
        worker.run()
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
        self._mode = config.mode if config.mode != "auto" else way_for(exchange_rate(device, self._cpus))
        way = WAYS[self._mode]
        self._options = way.options(config.options, config.size)
        self.components = Components(
            config.source,
            device,
            self._options,
            LoadingProgress(self._loading, self._loading),
            EmbeddingCache(config.embeddings if config.rank == 0 else None),
            offline=config.offline,
        )
        self.components.loras = LoraFiles(config.loras)
        self.components.step_ratios = StepRatios(config.source, config.ratios)
        pinning = CudaPinningOn(device)
        self.components.placement.shared = {part: SharedFile(path, pinning) for part, path in config.shared.items()}
        self._way: Way = way(device, self._cpus)

    def run(self) -> None:
        """Do what comes."""
        threading.Thread(target=self._listen, daemon=True).start()
        settings = {quality: sampling_settings(GenerationRequest(quality=quality)) for quality in RUNGS}
        environments = {
            (quality, variants): environment_at(self.components, settings[quality], variants)
            for quality, variants in product(RUNGS, VARIANT_SETS)
        }
        send(self._connection, READY, (self._mode, environments))
        while True:
            kind, content = self._tasks.get()
            if kind == GENERATE:
                self._lead(self._video(content))
            elif kind == PICTURE:
                maker = PictureMaker(self.components, self._check, self._config.start_from)
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
            _end_alone(self._config.rendezvous)

    def _video(self, call: Call) -> Generator[Event, None, None]:
        for note in self._notes(call):
            yield Note(note)
        yield from begun(call, self.components, self._check, self if self._config.size > 1 else None)

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

    def _notes(self, call: Call) -> Iterator[str]:
        """Say how a video is shared, and what is different here from where it was begun, if it goes on all the same."""
        if self._config.size > 1:
            yield self._way.note(self._options, call.inputs.request)
        if call.allow_env_change and (change := env_change(call, self.components)):
            yield change

    def _end_led(self) -> None:
        """Let the others end their part, wherever the video was: they may not even have begun."""
        if self._led is not None:
            self._led.partners.leave("")

    def _follow(self, job: VideoJob) -> None:
        try:
            for event in follow(job, self.components, self._member(job)):
                self._tell_gpu(event)
        except (CancelledError, PartnerError):
            logger.info("The video ended before its last section")
        except FramePackError as error:  # who started this process ends it
            logger.error("The video failed here: %s", error, exc_info=error.__cause__)
            send(self._connection, FOLLOWER_FAILED, (self._videos, error))

    def _tell_gpu(self, event: Event) -> None:
        if isinstance(event, StepDone):
            seconds = self._members[-1].partners.seconds if self._members else None
            send(self._connection, GPU, gpu_use(self.components.device, seconds))

    def _member(self, job: VideoJob) -> Member:
        self._videos += 1
        shares = DecodesTogether(self._decodes, self._videos)
        self._members.append(self._way.member(shares, guided=job.settings.cfg_scale != 1.0))
        return self._members[-1]

    def _check(self) -> None:
        if self._stop.is_set():
            raise CancelledError(Message("Stopped."))

    def _loading(self, text: str, done: int, total: int) -> None:
        if self._config.rank == 0:
            self._check()
            send(self._connection, STATUS, (text, done, total))


def _end_with_parent(rendezvous: Path) -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        _end_alone(rendezvous)


def _end_alone(rendezvous: Path) -> NoReturn:
    """End, since who started this process is gone; and so is who would remove where the processes met."""
    with suppress(OSError):  # another one of them did
        rendezvous.unlink(missing_ok=True)
        rendezvous.parent.rmdir()
    os._exit(1)


def _light(event: Event) -> Event:
    """Leave out of an event what nobody reads who gets it from another process."""
    if isinstance(event, StepDone):
        return replace(event, denoised=event.denoised.cpu())
    if isinstance(event, SectionSampled):
        return replace(event, trail=None)
    return replace(event, pixels=None) if isinstance(event, SectionDone) else event
