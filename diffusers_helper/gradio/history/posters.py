"""Inside Gradio's application: gives out posters, each to whom its video belongs.

Without sign-in a job's id is the right to see it; a video that is nobody's in particular is for this computer's own
browsers.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from starlette.responses import FileResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from diffusers_helper.gradio.door.privacy import is_from_here, signed_in
from diffusers_helper.history.entry import Entry
from diffusers_helper.history.library import History

_POSTER = re.compile(r"/gradio_api/poster/([\w.-]{1,100})")
_KEPT = {"Cache-Control": "private, max-age=3600"}


class OwnPosters:
    """Answers 404 to whoever may not see a video, and where there is no picture of it."""

    def __init__(self, app: ASGIApp, history: History | None) -> None:
        self._app = app
        self._history = history

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is for a poster."""
        match = _POSTER.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if match is None:
            return await self._app(scope, receive, send)
        file = await self._poster(match[1], scope)
        if file is None:
            return await PlainTextResponse("There is no such picture.", 404)(scope, receive, send)
        return await FileResponse(file, media_type="image/webp", headers=_KEPT)(scope, receive, send)

    async def _poster(self, job_id: str, scope: Scope) -> Path | None:
        def mine(entry: Entry) -> bool:
            if scope["app"].auth is not None:
                return bool(entry.owner) and signed_in(scope) == entry.owner
            return bool(entry.client_id) or is_from_here(scope)

        return None if self._history is None else await asyncio.wrap_future(self._history.poster_for(job_id, mine))
