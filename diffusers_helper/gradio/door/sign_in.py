"""Signing in to the page: passwords are checked in a thread of their own, and sessions end.

Gradio asks `SignIn.check` for each password; `Sessions` stands inside Gradio's application, which has the tokens.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusers_helper.service.accounts import Accounts
from diffusers_helper.service.login_throttle import LoginThrottle, TooManyAttemptsError

QUEUE, QUEUE_FOR_FAMILIAR = 8, 16
"""Passwords that may wait to be checked (0.2 s each): all in all, and with those of users known at their network."""
SESSIONS_PER_USER = 100
"""A script that signs in for every call has no more than that; the oldest end."""
REFUSALS_SECONDS = 60.0
"""Refused attempts are counted, and told once in so long: whoever asks a thousand times a second fills no log."""
_CLIENT: ContextVar[str] = ContextVar("client", default="")
"""The address that a sign-in is from. Gradio gives it to no function that checks passwords."""
_COOKIE = b"access-token-"

logger = logging.getLogger(__name__)


class SignIn:
    """Checks passwords, not too many and never in the threads that do other work.

    Args:
        accounts: who may sign in.
        throttle: how often.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        accounts: Accounts,
        throttle: LoginThrottle | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = accounts
        self._throttle = throttle or LoginThrottle(clock)
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sign-in")
        self._waiting = 0
        self._refused, self._refusals_told = 0, -math.inf

    async def check(self, name: str, password: str) -> bool:
        """Tell whether `password` is that of `name`; one line of the log says what was answered to whom.

        Raises:
            HTTPException: 429, with Retry-After, where somebody has to wait.
        """
        address = _CLIENT.get()
        try:
            with self._throttle.attempt(address, name) as attempt:
                if self._waiting >= (QUEUE_FOR_FAMILIAR if attempt.familiar else QUEUE):
                    raise TooManyAttemptsError(1)
                attempt.succeeded = await self._matches(name, password)
        except TooManyAttemptsError as error:
            self._note_refusal(address)
            after = {"Retry-After": str(math.ceil(error.seconds))}
            raise HTTPException(429, "Too many wrong passwords; wait a moment.", after) from None
        # A password typed in the wrong field would be an unknown name.
        who = f"user {name}" if self._accounts.knows(name) else "an unknown name"
        result = "succeeded" if attempt.succeeded else "failed"
        logger.info("Sign-in of %s from %s %s", who, address or "an unknown address", result)
        return attempt.succeeded

    async def _matches(self, name: str, password: str) -> bool:
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._accounts.check, name, password)
        finally:
            self._waiting -= 1

    def _note_refusal(self, address: str) -> None:
        self._refused += 1
        if self._clock() - self._refusals_told >= REFUSALS_SECONDS:
            logger.warning("Sign-ins that came too soon after failures: %d; the last from %s", self._refused, address)
            self._refused, self._refusals_told = 0, self._clock()


class Sessions:
    """Inside Gradio's application: ends sessions in time and keeps their cookies to this site.

    Gradio 6.31 keeps a session as a token in `app.tokens` until the process ends, and sends its cookie from pages of
    other sites as well.

    Args:
        app: the application behind it.
        seconds: how long a session lasts.
        clock: seconds that only grow.
    """

    def __init__(self, app: ASGIApp, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._seconds = seconds
        self._clock = clock
        self._begun: dict[str, float] = {}  # the oldest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, without sessions that are over; note the session that a sign-in begins."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        tokens: dict[str, str] = scope["app"].tokens
        self._end_old(tokens)
        if not is_login(scope):
            return await self._app(scope, receive, send)
        _CLIENT.set(scope["client"][0] if scope["client"] else "")

        async def begun(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note_new(tokens)
                headers = [self._bounded(name, value, scope["scheme"]) for name, value in message["headers"]]
                message = {**message, "headers": headers}
            await send(message)

        return await self._app(scope, receive, begun)

    def _end_old(self, tokens: dict[str, str]) -> None:
        while self._begun:
            token, begun = next(iter(self._begun.items()))
            if self._clock() - begun < self._seconds:
                break
            del self._begun[token]
            tokens.pop(token, None)

    def _note_new(self, tokens: dict[str, str]) -> None:
        crowded = {name for name, count in Counter(list(tokens.values())).items() if count > SESSIONS_PER_USER}
        for name in crowded:
            tokens.pop(next(token for token, owner in list(tokens.items()) if owner == name))
        now = self._clock()
        self._begun = {token: self._begun.get(token, now) for token in list(tokens)}

    def _bounded(self, name: bytes, value: bytes, scheme: str) -> tuple[bytes, bytes]:
        """Return a header; the cookie of a session ends with it and is not sent for other sites' pages."""
        if name.lower() != b"set-cookie" or not value.startswith(_COOKIE):
            return name, value
        ours = (b"httponly", b"samesite", b"max-age", b"secure")
        parts = [part for part in value.split(b"; ") if part.partition(b"=")[0].lower() not in ours]
        parts += [b"HttpOnly", b"SameSite=Lax", b"Max-Age=%d" % self._seconds]
        return name, b"; ".join([*parts, b"Secure"] if scheme == "https" else parts)


def is_login(scope: Scope) -> bool:
    """Tell whether a request hands a password over."""
    return scope["type"] == "http" and scope["method"] == "POST" and str(scope["path"]).rstrip("/").endswith("/login")
