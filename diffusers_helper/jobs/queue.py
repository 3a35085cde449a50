"""The jobs that wait: how many may, and whose turn it is. Whoever uses it holds a lock."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.job import Job


@dataclass(frozen=True)
class Ticket:
    """A place in the queue, as it is kept on the disk.

    Attributes:
        job_id, owner: whose place it is.
        order: jobs run in the order of these numbers; a job between two others has a number between theirs.
    """

    job_id: str
    owner: str
    order: float


@dataclass(frozen=True)
class QueueLimits:
    """How much a queue takes.

    Attributes:
        waiting: how many jobs may wait.
        per_owner: how many of them may be for one owner; None for no limit.
        remembered: how many ended jobs are remembered, beside those that can go on.
    """

    waiting: int = 20
    per_owner: int | None = None
    remembered: int = 100


class JobQueue:
    """Tickets in their order, and the jobs of those that can be taken.

    A ticket comes first and its job later, because the place and the limits must be decided before a job is written to
    the disk, and no job may run before it is there.

    Args:
        limit: how many jobs may wait.
        owner_limit: how many of them may be for one owner; None for no limit.
    """

    def __init__(self, limit: int, owner_limit: int | None) -> None:
        self._limit = limit
        self._owner_limit = owner_limit
        self._tickets: list[Ticket] = []
        self._jobs: dict[str, Job] = {}
        self._highest = 0.0
        self._taken = 0.0

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._tickets)

    @property
    def ready(self) -> bool:
        """Whether a job can be taken."""
        return any(ticket.job_id in self._jobs for ticket in self._tickets)

    def full(self) -> str:
        """Return why nobody's job may join; empty if one may."""
        if len(self._tickets) < self._limit:
            return ""
        return Message(
            "{waiting} jobs are waiting already, and no more than {most} may; try again when one is done.",
            waiting=len(self._tickets),
            most=self._limit,
        )

    def full_for(self, owner: str) -> str:
        """Return why no further job of `owner`'s may join; empty if one may."""
        own = self._of(owner)
        if self._owner_limit is None or own < self._owner_limit:
            return ""
        return Message("{waiting} of your jobs are waiting already; try again when one is done.", waiting=own)

    def enqueue(self, job_id: str, owner: str, running_owner: str | None) -> Ticket:
        """Give a new job its place: before those that are a later one of their owner's.

        So nobody's first job waits for somebody else's second; what runs, of `running_owner`, counts.
        """
        ahead = Counter([] if running_owner is None else [running_owner])
        own = ahead[owner] + self._of(owner)
        for index, other in enumerate(self._tickets):
            if ahead[other.owner] > own:
                before = self._tickets[index - 1].order if index else min(self._taken, other.order)
                return self._insert(index, Ticket(job_id, owner, (before + other.order) / 2))
            ahead[other.owner] += 1
        return self._insert(len(self._tickets), Ticket(job_id, owner, self._highest + 1))

    def put_back(self, ticket: Ticket) -> None:
        """Give a job the place that it had."""
        self._insert(bisect_right(self._tickets, ticket.order, key=lambda other: other.order), ticket)

    def continue_after(self, order: float) -> None:
        """Give the jobs to come higher numbers than `order`, which one had that may come back."""
        self._highest = max(self._highest, order)

    def fill(self, job: Job) -> None:
        """Let the job of a ticket be taken."""
        self._jobs[job.id] = job

    def take(self) -> Job:
        """Take the first job out that can be taken; raises LookupError if there is none."""
        for ticket in self._tickets:
            if ticket.job_id in self._jobs:
                job = self._jobs[ticket.job_id]
                self.remove(job.id)
                self._taken = ticket.order
                return job
        raise LookupError("no job can be taken")

    def remove(self, job_id: str) -> None:
        """Take a job out, if it is here."""
        self._tickets = [ticket for ticket in self._tickets if ticket.job_id != job_id]
        self._jobs.pop(job_id, None)

    def clear(self) -> list[Job]:
        """Take everything out; return the jobs that could have been taken, in order."""
        jobs = [self._jobs[ticket.job_id] for ticket in self._tickets if ticket.job_id in self._jobs]
        self._tickets, self._jobs = [], {}
        return jobs

    def _insert(self, index: int, ticket: Ticket) -> Ticket:
        self._tickets.insert(index, ticket)
        self.continue_after(ticket.order)
        return ticket

    def _of(self, owner: str) -> int:
        return sum(ticket.owner == owner for ticket in self._tickets)
