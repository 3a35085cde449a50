"""The jobs that wait: how many may, and whose turn it is. Whoever uses it holds a lock."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from diffusers_helper.jobs.job import Job
from diffusers_helper.texts import Message


class Waiting:
    """The line before the worker.

    Args:
        most: how many jobs may wait.
        most_per_owner: how many of them may be for one owner; None for no limit.
    """

    def __init__(self, most: int, most_per_owner: int | None) -> None:
        self._most = most
        self._most_per_owner = most_per_owner
        self._jobs: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def full(self) -> str:
        """Return why nobody's job may join; empty if one may."""
        if len(self._jobs) < self._most:
            return ""
        return Message(
            "{waiting} jobs are waiting already, and no more than {most} may; try again when one is done.",
            waiting=len(self._jobs),
            most=self._most,
        )

    def full_for(self, owner: str) -> str:
        """Return why no further job of ``owner``'s may join; empty if one may."""
        own = self._of(owner)
        if self._most_per_owner is None or own < self._most_per_owner:
            return ""
        return Message("{waiting} of your jobs are waiting already; try again when one is done.", waiting=own)

    def join(self, job: Job, running: Job | None) -> None:
        """Put a new job before those that are a later one of their owner's: nobody's first waits for a second."""
        jobs = Counter([running.owner] if running else [])
        own = jobs[job.owner] + self._of(job.owner)
        place = len(self._jobs)
        for number, other in enumerate(self._jobs):
            if jobs[other.owner] > own:
                place = number
                break
            jobs[other.owner] += 1
        self._jobs.insert(place, job)

    def append(self, job: Job) -> None:
        """Put a job last."""
        self._jobs.append(job)

    def next(self) -> Job:
        """Take the first one out."""
        return self._jobs.popleft()

    def leave(self, job_id: str) -> None:
        """Take the job of that id out, if it is here."""
        self._jobs = deque(job for job in self._jobs if job.id != job_id)

    def _of(self, owner: str) -> int:
        return sum(job.owner == owner for job in self._jobs)
