"""What everybody may see of every job: one snapshot each, which is replaced and never changed.

Nothing here reads a file, so a reader waits for nothing but other readers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Unpack

from diffusers_helper.core.errors import UnknownJobError
from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.claims import Claims
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.jobs.state import Changes

UNKNOWN_JOB = Message("This job is not known here; the server may have been restarted.")


class Board:
    """The snapshots of one queue; every method may be called from any thread.

    Args:
        keep: how many ended jobs are remembered; those that can go on are remembered beside them.

    Attributes:
        changed: the lock of the snapshots and of whatever must change together with them; notified of every change.
    """

    def __init__(self, keep: int) -> None:
        self.changed = threading.Condition()
        self._keep = keep
        self._snapshots: dict[str, JobSnapshot] = {}  # in the order of submission
        self._tokens: dict[str, str] = {}
        self._claims = Claims(self.changed)

    def post(self, snapshot: JobSnapshot) -> None:
        """Show a job that has come, or has come back, as the newest."""
        with self.changed:
            before = self._snapshots.pop(snapshot.id, None)
            version = before.version + 1 if before else snapshot.version
            self._snapshots[snapshot.id] = replace(snapshot, version=version)
            self.changed.notify_all()

    def snapshot(self, job_id: str) -> JobSnapshot:
        """Return how the job is now; raises UnknownJobError."""
        with self.changed:
            try:
                return self._snapshots[job_id]
            except KeyError:
                raise UnknownJobError(UNKNOWN_JOB) from None

    def jobs(self) -> list[JobSnapshot]:
        """Return a snapshot of every job that is remembered, oldest first."""
        with self.changed:
            return list(self._snapshots.values())

    def wait(self, condition: Callable[[], bool], timeout: float | None = None) -> None:
        """Wait until `condition` holds, which is tried after every change."""
        with self.changed:
            self.changed.wait_for(condition, timeout)

    def update(self, job_id: str, **changes: Unpack[Changes]) -> None:
        """Change a job that has not ended; what comes after the end (an abandoned run still talks) changes nothing."""
        with self.changed:
            seen = self._snapshots.get(job_id)
            if seen is not None and not seen.ended:
                self.amend(job_id, **changes)

    def amend(self, job_id: str, **changes: Unpack[Changes]) -> None:
        """Change a job, whether it has ended or not. Raises UnknownJobError."""
        with self.changed:
            seen = self.snapshot(job_id)
            changed = replace(seen, **changes)
            if changed != seen:
                self._snapshots[job_id] = replace(changed, version=seen.version + 1)
                if changed.ended:
                    self._forget_old()
                self.changed.notify_all()

    def number(self, positions: Mapping[str, int]) -> None:
        """Give jobs that wait their positions in the queue."""
        with self.changed:
            for job_id, position in positions.items():
                seen = self._snapshots.get(job_id)
                if seen is not None and seen.position != position:
                    self._snapshots[job_id] = replace(seen, position=position, version=seen.version + 1)
            self.changed.notify_all()

    def remove(self, job_ids: Collection[str]) -> None:
        """Forget jobs, and what stands for them, as if they had never been."""
        with self.changed:
            for job_id in job_ids:
                self._snapshots.pop(job_id, None)
            self.void(*job_ids)

    @contextmanager
    def claim(self, job_id: str) -> Iterator[JobSnapshot]:
        """Keep other claims of this job waiting, and give its snapshot; raises UnknownJobError.

        Resuming, ending and giving up a job change files as well as memory, and no lock is held while files are read
        or written: the claim is what keeps two of them from being half done at the same time.
        """
        with self._claims.of(job_id):
            yield self.snapshot(job_id)

    @contextmanager
    def claim_any(self, job_id: str) -> Iterator[JobSnapshot | None]:
        """Do as `claim`, for a job that may be unknown here as well."""
        with self._claims.of(job_id):
            with self.changed:
                seen = self._snapshots.get(job_id)
            yield seen

    def redeem(self, token: str, job_id: str) -> str:
        """Return the job that `token` stands for, `job_id` if for none yet; wait while that one is being kept."""
        with self.changed:
            self.changed.wait_for(lambda: (known := self._tokens.get(token)) is None or known in self._snapshots)
            return self._tokens.setdefault(token, job_id)

    def void(self, *job_ids: str) -> None:
        """Let the tokens of jobs stand for none."""
        with self.changed:
            gone = set(job_ids)
            self._tokens = {token: known for token, known in self._tokens.items() if known not in gone}
            self.changed.notify_all()

    def _forget_old(self) -> None:
        """Forget the oldest of the ended ones; what can go on stays, since its user has still to decide."""
        ended = [seen for seen in self._snapshots.values() if seen.ended and not seen.resumable]
        for old in sorted(ended, key=lambda seen: seen.finished or 0.0)[: -self._keep]:
            del self._snapshots[old.id]
            self.void(old.id)
