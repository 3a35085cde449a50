"""What nothing inside the worker can mend: a job that hangs, a GPU that answers no more. The process replaces itself.

A worker thread that has died is started again. But no thread can be killed, and a process whose CUDA context has failed
gets no second one. So the program starts itself anew under the same process number: its GPU memory, locks and port are
given back, and whoever started it need not know. More than `MOST_REPLACEMENTS` in ten minutes would be a storm: then
it stays as it is, "wedged", until someone acts.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.service.health import HANG_SECONDS, fault
from diffusers_helper.service.options import FAILED
from diffusers_helper.service.processes import WINDOWS

logger = logging.getLogger(__name__)

MOST_REPLACEMENTS = 3
WITHIN_SECONDS = 600
LOOK_SECONDS = 1.0
_VARIABLE = "FRAMEPACK_REPLACED"
"""Environment variable with the times of earlier replacements, seconds since the epoch: it outlives them."""


def replace_process(*, windows: bool = WINDOWS) -> None:
    """Start this program anew in place of itself; returns only if that was done too often lately."""
    earlier = [at for at in _replacements() if time.time() - at < WITHIN_SECONDS]
    if len(earlier) >= MOST_REPLACEMENTS:
        return
    os.environ[_VARIABLE] = " ".join(str(at) for at in (*earlier, time.time()))
    logging.shutdown()
    if windows:  # whose execv starts another process and ends this one with 0: the supervisor starts it again instead
        os._exit(FAILED)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class Watchdog:
    """Looks after the worker of one queue, in a thread of its own.

    Args:
        manager: whose worker is watched.
        replace: starts the process anew; returns only if it will not.
        hang_seconds: how long a running job may be silent.
        look_seconds: between two looks at the worker.
    """

    def __init__(
        self,
        manager: JobManager,
        *,
        replace: Callable[[], None] = replace_process,
        hang_seconds: float = HANG_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._manager = manager
        self._replace = replace
        self._hang_seconds = hang_seconds
        self._look_seconds = look_seconds
        self._ended = threading.Event()

    def start(self) -> None:
        """Watch until `stop`."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer, as while the program ends in order."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._look_seconds):
            try:
                if reason := fault(self._manager, self._hang_seconds):
                    self._unload(reason)
                    return
                if self._manager.worker_dead:
                    self._manager.start()
            except Exception:  # it must outlive what it watches
                logger.exception("The worker could not be looked after")

    def _unload(self, reason: str) -> None:
        logger.error("%s The program starts itself anew", reason)
        again = Message("The program is being started again; try once more in a minute.")
        self._manager.stats.fatal_error = join_sentences((reason, again))
        self._manager.abandon(reason)
        self._replace()
        no_more = Message("Starting again did not help: stop the program, and see docs/troubleshooting.md.")
        self._manager.stats.fatal_error = join_sentences((reason, no_more))
        logger.critical("It was started anew %d times in ten minutes: no more", MOST_REPLACEMENTS)


def _replacements() -> Sequence[float]:
    try:
        return [float(word) for word in os.environ.get(_VARIABLE, "").split()]
    except ValueError:
        return []
