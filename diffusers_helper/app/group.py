"""A group of processes, one per GPU, that make each video together; seen from the process that has the page and no GPU.

They are started with the first video. A process that ends, or does no step for much longer than steps take, ends the
group: another one takes its place, and the video goes on from its last section.
"""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from diffusers_helper.app.group_messages import (
    CANCELLED,
    DONE,
    EVENT,
    FAILED,
    FOLLOW,
    FOLLOWER_FAILED,
    GENERATE,
    GPU,
    LEAD,
    PICTURE,
    READY,
    STATUS,
    STOP,
    Environments,
    WorkerConfig,
    message_of,
    received,
)
from diffusers_helper.app.group_processes import MeetingPlace, Running
from diffusers_helper.app.makers import Call, Report
from diffusers_helper.core.errors import CancelledError, FramePackError, PartnerError, PartnerGoneError
from diffusers_helper.core.events import Event, Note, StageStarted, StepDone
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.core.messages import Message
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.generation.start import Made
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.memory.shared import SharedFiles
from diffusers_helper.service.health import HANG_SECONDS
from diffusers_helper.service.signals import deaf_to_interrupts

logger = logging.getLogger(__name__)

LOOK = 0.2
"""Seconds between two looks at whether the video is still wanted."""
PATIENCE = 10.0
"""Seconds that a group may be late, with a step or where it is to stop."""
SLOW = 3
"""Times the longest step so far, which the next one may take beside that."""
SILENT = 0.8 * HANG_SECONDS
"""Seconds without a word that a group may take for anything: it is ended before the watchdog replaces the program."""
TRIES = 3
"""Groups in a row that may end without one more section."""


Work = Callable[[WorkerConfig, Connection], None]


def _working() -> Work:
    from diffusers_helper.app.group_worker import work  # imports everything, which takes seconds

    return work


def _unheard(*_said: object) -> None:
    pass


class GroupLostError(PartnerError):
    """A process of the group ended or hangs."""


class Group:
    """Makes videos by a group of processes; its `generate` is that of `generation.generate`, in another place.

    Args:
        workers: the processes; where they meet is decided here.
        memory: where they have weights in RAM once, with other groups, too.
        patience: seconds that they may be late.
        clock: gives the seconds by which that is measured.
        work: what each process does; None is `group_worker.work`.

    Attributes:
        mode: how they share a video, once they are ready; empty before.
        environments: what a video of a quality and variants depends on here, once they are ready.
    """

    def __init__(
        self,
        workers: Sequence[WorkerConfig],
        memory: SharedFiles | None = None,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        work: Work | None = None,
    ) -> None:
        self._workers = workers
        self._memory = memory or SharedFiles(())
        self._work = work
        self._patience = patience
        self._clock = clock
        self._report: Report = _unheard
        self._running: Running | None = None
        self._last = 0.0
        self._longest = 0.0
        self._gpus: dict[int, GpuUse] = {}
        self._led = self._over = 0
        self.mode = ""
        self.environments: Environments = {}

    def generate(  # noqa: PLR0913 - those of `generation.generate`, and who hears of it
        self,
        inputs: JobInputs,
        *,
        output: Path,
        check: Callable[[], None],
        checkpoint: Path,
        metadata: bool = True,
        allow_env_change: bool = False,
        report: Report = _unheard,
    ) -> Generator[Event, None, None]:
        """Make one video, from the sections that are in the folder `checkpoint`; see `generation.generate`.

        `report` hears of what takes long: what it is, how much is done, and of how much.
        What was begun in another environment is begun anew, unless `allow_env_change`.
        Raises PartnerError where group after group ends without one more section.
        """
        self._report = report
        call = Call(inputs.with_seed(), output, checkpoint, metadata, allow_env_change)
        yield from self._until_made(message_of(GENERATE, call), check, lambda: len(Checkpoint(checkpoint)))

    def picture(
        self, inputs: JobInputs, *, check: Callable[[], None], report: Report = _unheard
    ) -> Generator[Event, None, Made]:
        """Make one picture by the first process, to the bits of one GPU alone; see `PictureMaker.make`."""
        self._report = report
        made: Made = yield from self._until_made(message_of(PICTURE, inputs), check, lambda: 0)
        return made

    def _until_made(
        self, message: bytes, check: Callable[[], None], sections: Callable[[], int]
    ) -> Generator[Event, None, Any]:
        """Have done what `message` asks for, if need be by one group after another, and return what they say."""
        tries, kept = 0, sections()
        while True:
            try:
                return (yield from self._made(message, check))
            except GroupLostError as lost:
                logger.warning("%s", lost)
                before, kept = kept, sections()
                tries = 1 if kept > before else tries + 1
                if tries >= TRIES:
                    text = Message(
                        "{reason} That was so {tries} times in a row. The log says what went wrong; what is finished "
                        "is kept, so go on once that is mended, or with one GPU (without --gpus).",
                        reason=str(lost),
                        tries=tries,
                    )
                    raise PartnerError(text) from lost
                goes_on = Message("{reason} The video goes on from its last section.", reason=str(lost))
                yield Note(goes_on if kept else Message("{reason} The work begins anew.", reason=str(lost)))

    @property
    def gpus(self) -> tuple[GpuUse, ...]:
        """How the processes use their GPUs, by what they told at their newest steps; empty before."""
        return tuple(use for _, use in sorted(self._gpus.copy().items()))

    def close(self) -> None:
        """End the processes."""
        self._gpus.clear()
        if self._running is not None:
            self._running.end()
            self._running = None
            self._memory.free_unused()

    def _made(self, message: bytes, check: Callable[[], None]) -> Generator[Event, None, Any]:
        running = self._started(check)
        self._over = self._led
        done = False
        try:
            _tell(running.connections[0], message)
            self._last = self._longest = 0.0
            for kind, content in self._messages(running, check):
                if kind == EVENT:
                    self._note(content)
                    yield replace(content, gpus=self.gpus) if isinstance(content, StepDone) else content
                elif kind == STATUS:
                    self._report(*content)
                else:
                    done = kind == DONE
                    assert done, "what else ends a video is raised"
                    return content
        except (GeneratorExit, CancelledError):
            done = self._stopped(running)
            raise
        finally:
            if not done:
                self.close()

    def _stopped(self, running: Running) -> bool:
        """Let the group end its video; return whether it did."""
        try:
            _tell(running.connections[0], message_of(STOP))
            until = self._clock() + self._patience + SLOW * self._longest  # a step and a decode are not interrupted
            for kind, _ in self._messages(running, _unless(lambda: self._clock() > until)):
                if kind == DONE:  # too late to stop
                    return True
        except CancelledError as cancelled:
            return isinstance(cancelled, _ToldCancelledError)
        except FramePackError:  # it failed, or is gone: the video is ended all the same
            return False
        return False

    def _messages(self, running: Running, check: Callable[[], None]) -> Generator[tuple[str, Any], None, None]:
        """Yield what the processes tell; raises what ends the video, and GroupLostError."""
        sentinels = [process.sentinel for process in running.processes]
        heard = self._clock()
        while True:
            ready = wait([*running.connections, *sentinels], LOOK)
            for connection in running.connections:
                if connection in ready:
                    heard = self._clock()
                    yield from self._told(running, connection)
            if any(sentinel in ready for sentinel in sentinels):
                raise GroupLostError(Message("A GPU's process ended."))
            check()
            if not ready:  # who reads late has not waited for them
                self._require_life(running, heard)

    def _require_life(self, running: Running, heard: float) -> None:
        """Raise GroupLostError for processes that will say no more; `heard` is when they last said anything."""
        now = self._clock()
        silent = now - heard
        # Before a step was measured nobody knows how long one takes.
        late = self._last and self._longest and now - self._last > self._patience + SLOW * self._longest
        if late or silent > SILENT or (silent > self._patience and running.is_stopped):
            raise GroupLostError(Message("A GPU's process does not answer any more."))
        if silent > self._patience and not self._longest and running.place.is_gone:  # later they are connected
            text = Message(
                "{file}, by which the GPUs' processes find each other, was removed.", file=running.place.path
            )
            raise GroupLostError(text)

    def _told(self, running: Running, connection: Connection) -> Generator[tuple[str, Any], None, None]:
        try:
            message = connection.recv_bytes()
        except (EOFError, OSError):
            raise GroupLostError(Message("A GPU's process ended.")) from None
        kind = message.partition(b"\n")[0].decode()
        if kind == LEAD:
            self._led += 1
            for other in running.connections[1:]:
                _tell(other, FOLLOW.encode() + message[len(LEAD) :])
            return
        kind, content = received(message)
        if kind == GPU:
            self._gpus[running.connections.index(connection)] = content
            return
        if kind == FOLLOWER_FAILED:
            video, error = content
            # Of an earlier video, which was ended before it failed: the one that is made now begins with others.
            raise error if video > self._over else GroupLostError(Message("A GPU's process ended."))
        if kind == FAILED:
            raise (
                GroupLostError(Message("A GPU's process ended.")) if isinstance(content, PartnerGoneError) else content
            )
        if kind == CANCELLED:
            raise _ToldCancelledError(Message("Stopped."))
        yield kind, content

    def _note(self, event: Event) -> None:
        """Measure steps: while a section is sampled the next one is awaited."""
        now = self._clock()
        if isinstance(event, StepDone) and event.step < event.steps:
            if self._last:
                self._longest = max(self._longest, now - self._last)
            self._last = now
        elif isinstance(event, StageStarted) and event.stage == "sample" and not self._longest:
            self._last = now  # the very first step is measured, too
        else:
            self._last = 0.0

    def _started(self, check: Callable[[], None]) -> Running:
        if self._running is not None and self._running.is_whole:
            return self._running
        self.close()
        work = self._work or _working()
        context = get_context("spawn")  # a CUDA context does not survive a fork
        self._running = running = Running([], [], MeetingPlace())
        atexit.register(running.end)  # multiprocessing would ask politely and wait for them, for ever if one is stopped
        self._last, self._led, ready = 0.0, 0, 0
        try:
            for config in self._workers:
                ours, theirs = context.Pipe()
                running.connections.append(ours)
                placed = replace(config, rendezvous=running.place.path, shared=self._memory.paths)
                process = context.Process(target=work, args=(placed, theirs), daemon=True)
                with theirs, deaf_to_interrupts():
                    process.start()
                running.processes.append(process)
            for kind, content in self._messages(running, check):
                ready += kind == READY
                if ready == len(self._workers):
                    self.mode, self.environments = content
                    return running
        except BaseException:
            self.close()
            raise
        raise AssertionError("messages end by an error alone")


def _tell(connection: Connection, message: bytes) -> None:
    try:
        connection.send_bytes(message)
    except OSError:  # it has just gone
        raise GroupLostError(Message("A GPU's process ended.")) from None


class _ToldCancelledError(CancelledError):
    """The group has ended its video."""


def _unless(over: Callable[[], bool]) -> Callable[[], None]:
    def check() -> None:
        if over():
            raise CancelledError(Message("Stopped."))

    return check
