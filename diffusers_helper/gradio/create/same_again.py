"""What each client asked for last, so that the page can say when a video would come out the same again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.jobs.state import JobState

MAX_REMEMBERED = 10_000
"""Visitors whose newest request is known."""


@dataclass(frozen=True)
class _Asked:
    """The photos' content, what was made of them (with the seed in use), and whether its repetition was told."""

    photos: tuple[str, ...]
    job_id: str
    request: GenerationRequest
    told: bool = False


class LastAsked:
    """The newest request of each client; a server that was started again knows none."""

    def __init__(self) -> None:
        self._last: dict[str, _Asked] = {}

    def note(self, client_id: str, images: Iterable[object], job: JobSnapshot | None) -> None:
        """Note that the client's new `job` was started with the pictures in the image controls `images`."""
        if job is None or job.request is None:
            return
        self._last.pop(client_id, None)
        self._last[client_id] = _Asked(_content(images), job.id, job.request)
        while len(self._last) > MAX_REMEMBERED:
            del self._last[next(iter(self._last))]

    def again(
        self, client_id: str, images: Iterable[object], wanted: GenerationRequest, jobs: Iterable[JobSnapshot]
    ) -> bool:
        """Tell, once, whether `wanted` is the video that the newest of the client's `jobs` started here has made."""
        last = self._last.get(client_id)
        if last is None or last.told or not any(job.id == last.job_id and job.state == JobState.DONE for job in jobs):
            return False
        if (_content(images), wanted) != (last.photos, last.request):
            return False
        self._last[client_id] = replace(last, told=True)
        return True


def _content(images: Iterable[object]) -> tuple[str, ...]:
    return tuple(map(_content_of, images))


def _content_of(value: object) -> str:
    """Return what stands for the content of the upload in a control, whatever its name is; empty for none."""
    path = value.get("path") if isinstance(value, dict) else None
    return Path(path).parent.name if isinstance(path, str) else ""
