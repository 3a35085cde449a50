"""/healthz, /readyz and /metrics: for launchers, proxies and Prometheus; no Gradio and no job id in them.

/healthz answers 503 where a person or a launcher has to act, /readyz wherever a job would not be worked on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.service.health import About, as_json, assess
from diffusers_helper.service.prometheus import CONTENT_TYPE, metrics_text
from diffusers_helper.service.system_monitor import SystemMonitor

_FRESH = {"Cache-Control": "no-store"}


@dataclass(frozen=True)
class Monitor:
    """All that is told about a running program; `loaded` tells which variant's transformer is in memory."""

    manager: JobManager
    about: About
    computer: SystemMonitor
    loaded: Callable[[], Sequence[str]] = tuple


def routes(monitor: Monitor) -> list[Route]:
    """Return the routes, for an application that serves the page as well."""

    # Coroutines, so that they answer even while all threads are taken.
    async def healthz(_request: Request) -> Response:
        health = assess(monitor.manager)
        return JSONResponse(as_json(health, monitor.about, monitor.loaded()), 200 if health.alive else 503, _FRESH)

    async def readyz(_request: Request) -> Response:
        health = assess(monitor.manager)
        return JSONResponse(as_json(health, monitor.about, monitor.loaded()), 200 if health.ready else 503, _FRESH)

    def metrics(_request: Request) -> Response:
        return Response(
            metrics_text(monitor.manager, monitor.computer, monitor.loaded()), headers=_FRESH, media_type=CONTENT_TYPE
        )

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
