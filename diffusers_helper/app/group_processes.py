"""The processes of a group as they look from outside: where they find each other, and whether they can go on at all."""

from __future__ import annotations

import atexit
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from diffusers_helper.core.files import output_error


class MeetingPlace:
    """A new, empty file by which processes find each other, in a folder of its own.

    Raises OutputError where there is no room for it.

    Attributes:
        path: of the file.
    """

    def __init__(self) -> None:
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="framepack-group-", ignore_cleanup_errors=True)
        except OSError as error:
            raise output_error(tempfile.gettempdir(), error) from error
        self.path = Path(self._folder.name) / "rendezvous"
        try:
            self._file = self.path.open("xb")
        except OSError as error:
            self._folder.cleanup()
            raise output_error(self.path, error) from error

    @property
    def is_gone(self) -> bool:
        """Whether it was removed, which programs that clean up do: who comes then waits in another file for ever."""
        return os.fstat(self._file.fileno()).st_nlink == 0

    def close(self) -> None:
        """Remove it."""
        self._file.close()
        self._folder.cleanup()


@dataclass(frozen=True, eq=False)
class Running:
    """A group that is running.

    Attributes:
        processes, connections: its processes, and how to talk to each; they grow while processes are started.
        place: where they find each other.
    """

    processes: list[BaseProcess]
    connections: list[Connection]
    place: MeetingPlace

    @property
    def is_whole(self) -> bool:
        """Whether it can make another video, as far as that is to be seen."""
        return all(process.is_alive() for process in self.processes) and not self.place.is_gone

    @property
    def is_stopped(self) -> bool:
        """Whether one of its processes is stopped (SIGSTOP): it is not slow, it does nothing."""
        with suppress(psutil.Error):  # it has ended
            return any(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED for process in self.processes)
        return False

    def end(self) -> None:
        """Kill it, which is all that ends a process whose GPU waits for another one, or one that is stopped."""
        atexit.unregister(self.end)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        for connection in self.connections:
            connection.close()
        self.place.close()
