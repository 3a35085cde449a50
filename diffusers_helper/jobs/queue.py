"""The jobs that wait: how many may, whose turn it is, and what keeps one back. Whoever uses it holds a lock."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.job import Job

JOBS_PER_OWNER = 500
"""How many jobs one user, or one network address, may have waiting."""


@dataclass(frozen=True)
class Ticket:
    """A place in the queue, as it is kept on the disk.

    Attributes:
        job_id, owner, client_id: whose place it is.
        order: jobs run in the order of these numbers; a job between two others has a number between theirs.
    """

    job_id: str
    owner: str
    order: float
    client_id: str = ""


@dataclass(frozen=True)
class QueueLimits:
    """How much a queue takes.

    Attributes:
        waiting: how many jobs may wait.
        per_owner: how many of them may be for one owner; None for no limit.
        remembered: how many ended jobs are remembered, beside those that can go on.
        at_once: how many run at the same time.
    """

    waiting: int = 1000
    per_owner: int | None = JOBS_PER_OWNER
    remembered: int = 100
    at_once: int = 1


MOST_IDLE_PAUSES = 500


class JobQueue:
    """Tickets in their order, and the jobs of those that can be taken.

    A ticket comes first and its job later, because the place and the limits must be decided before a job is written to
    the disk, and no job may run before it is there.

    Args:
        limit: how many jobs may wait.
        owner_limit: how many of them may be for one owner; None for no limit.

    Attributes:
        paused: the owners and clients whose jobs are not taken.
        held: the jobs that are not taken, since their user changes them.
    """

    def __init__(self, limit: int, owner_limit: int | None) -> None:
        self._limit = limit
        self._owner_limit = owner_limit
        self._tickets: list[Ticket] = []
        self._jobs: dict[str, Job] = {}
        self._highest = 0.0
        self._taken = 0.0
        self.paused: set[str] = set()
        self.held: set[str] = set()

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._tickets)

    def __contains__(self, job_id: object) -> bool:
        """Tell whether a job waits that could be taken, were nothing in its way."""
        return job_id in self._jobs

    @property
    def ready(self) -> bool:
        """Whether a job can be taken."""
        return self._next() is not None

    def forget_pauses(self) -> None:
        """Let go of pauses of those for whom nothing waits, once there are many: anybody may pause what they have."""
        if len(self.paused) > MOST_IDLE_PAUSES:
            self.paused &= {name for ticket in self._tickets for name in (ticket.owner, ticket.client_id)}

    @property
    def keeps_back(self) -> bool:
        """Whether a job waits whose owner or client has paused theirs."""
        return any(not self.paused.isdisjoint((ticket.owner, ticket.client_id)) for ticket in self._tickets)

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

    def enqueue(self, job_id: str, owner: str, running: Collection[str], client_id: str = "") -> Ticket:
        """Give a new job its place: before those that are a later one of their owner's.

        So nobody's first job waits for somebody else's second; what runs, of the owners `running`, counts.
        """
        ahead = Counter(running)
        own = ahead[owner] + self._of(owner)
        for index, other in enumerate(self._tickets):
            if ahead[other.owner] > own:
                before = self._tickets[index - 1].order if index else min(self._taken, other.order)
                return self._insert(index, Ticket(job_id, owner, (before + other.order) / 2, client_id))
            ahead[other.owner] += 1
        return self._insert(len(self._tickets), Ticket(job_id, owner, self._highest + 1, client_id))

    def put_back(self, ticket: Ticket) -> None:
        """Give a job the place that it had."""
        self._insert(bisect_right(self._tickets, ticket.order, key=lambda other: other.order), ticket)

    def move(self, job_id: str, place: int, own: Callable[[Ticket], bool]) -> None:
        """Give a job the turn `place`, from 0, among those that are its user's `own`; the others keep their order.

        The turns stay where they are in the queue, so nobody else's job waits longer or shorter.
        """
        turns = [index for index, ticket in enumerate(self._tickets) if own(ticket)]
        tickets = [self._tickets[index] for index in turns]
        moved = next((ticket for ticket in tickets if ticket.job_id == job_id), None)
        if moved is None:
            return
        orders = [ticket.order for ticket in tickets]
        tickets.remove(moved)
        tickets.insert(min(max(place, 0), len(tickets)), moved)
        for index, order, ticket in zip(turns, orders, tickets, strict=True):
            self._tickets[index] = replace(ticket, order=order)

    def continue_after(self, order: float) -> None:
        """Give the jobs to come higher numbers than `order`, which one had that may come back."""
        self._highest = max(self._highest, order)

    def fill(self, job: Job) -> None:
        """Let the job of a ticket be taken, in the place of what it was before."""
        self._jobs[job.id] = job

    def job(self, job_id: str) -> Job | None:
        """Return a job that waits, if it could be taken, were nothing in its way."""
        return self._jobs.get(job_id)

    def take(self) -> Job:
        """Take the first job out that can be taken; raises LookupError if there is none."""
        ticket = self._next()
        if ticket is None:
            raise LookupError("no job can be taken")
        job = self._jobs[ticket.job_id]
        self.remove(job.id)
        self._taken = ticket.order
        return job

    def remove(self, *job_ids: str) -> None:
        """Take jobs out, as far as they are here."""
        gone = set(job_ids)
        self._tickets = [ticket for ticket in self._tickets if ticket.job_id not in gone]
        self.held -= gone
        for job_id in gone:
            self._jobs.pop(job_id, None)

    def clear(self) -> list[Job]:
        """Take everything out; return the jobs that could have been taken, in order."""
        jobs = [self._jobs[ticket.job_id] for ticket in self._tickets if ticket.job_id in self._jobs]
        self._tickets, self._jobs = [], {}
        self.held.clear()
        return jobs

    def _next(self) -> Ticket | None:
        return next((ticket for ticket in self._tickets if self._can_be_taken(ticket)), None)

    def _can_be_taken(self, ticket: Ticket) -> bool:
        here = ticket.job_id in self._jobs and ticket.job_id not in self.held
        return here and self.paused.isdisjoint((ticket.owner, ticket.client_id))

    def _insert(self, index: int, ticket: Ticket) -> Ticket:
        self._tickets.insert(index, ticket)
        self.continue_after(ticket.order)
        return ticket

    def _of(self, owner: str) -> int:
        return sum(ticket.owner == owner for ticket in self._tickets)
