"""How often somebody may try to sign in: bounds on guessing that leave a user who mistypes alone.

Failures are counted three times: by account and network together, by network over all accounts, and by account over
all networks. Who signs in with an account of their own therefore changes nothing for guesses at another one, and who
takes a new address for every guess meets the bound of the account. A user who signed in from a network before is only
held to the first of the three, so that guesses of strangers at the account do not keep its owner out.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")
FREE_ATTEMPTS = 3
"""Failures of one account from one network before the first pause."""
FREE_FAILURES = 10
"""The same for one network over all accounts, and for one account over all networks that are new to it."""
AT_ONCE = 8
"""Attempts that may be under way together before the first pause; after it there is one at a time."""
LONGEST_PAUSE = 60.0
FORGET_SECONDS = 900.0
REMEMBERED = 10_000
_NAME_CHARACTERS = 64


class TooManyAttemptsError(Exception):
    """An attempt came too early.

    Attributes:
        seconds: how long to wait.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"wait {seconds:.0f} s")
        self.seconds = seconds


@dataclass
class Attempt:
    """One attempt.

    Attributes:
        familiar: whether this account signed in from this network before.
        succeeded: how it ended; None if the password was never looked at.
    """

    familiar: bool
    succeeded: bool | None = None


class LoginThrottle:
    """Bounds the attempts to sign in.

    Args:
        clock: seconds that only grow.
        most: how many networks, accounts and pairs are remembered, of each: the newest ones.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = REMEMBERED) -> None:
        self._most = most
        self._pairs = _Failures(FREE_ATTEMPTS, clock, most)
        self._networks = _Failures(FREE_FAILURES, clock, most)
        self._accounts = _Failures(FREE_FAILURES, clock, most)
        self._familiar: OrderedDict[tuple[str, str], None] = OrderedDict()

    @contextmanager
    def attempt(self, address: str, name: str) -> Iterator[Attempt]:
        """Hold an attempt of `address` at the account `name`; the block says how it ended.

        Raises:
            TooManyAttemptsError: if it has to wait.
        """
        network, account = client_network(address), name[:_NAME_CHARACTERS]
        pair = (network, account)
        attempt = Attempt(familiar=pair in self._familiar)
        counted: list[tuple[_Failures, object]] = [(self._pairs, pair)]
        if not attempt.familiar:
            counted += [(self._networks, network), (self._accounts, account)]
        if wait := max(failures.wait(key) for failures, key in counted):
            raise TooManyAttemptsError(wait)
        for failures, key in counted:
            failures.begin(key)
        try:
            yield attempt
        finally:
            for failures, key in counted:
                failures.end(key, failed=attempt.succeeded is False)
            if attempt.succeeded:
                self._pairs.forget(pair)
                _remember(self._familiar, pair, None, self._most)


@dataclass
class _Record:
    failures: int = 0
    last: float = 0.0
    trying: int = 0


class _Failures:
    """Failures by key; the pause after one doubles with each that is not `free`, up to a minute."""

    def __init__(self, free: int, clock: Callable[[], float], most: int) -> None:
        self._free = free
        self._clock = clock
        self._most = most
        self._records: OrderedDict[object, _Record] = OrderedDict()

    def wait(self, key: object) -> float:
        """Return the seconds until `key` may try; 0 for now."""
        record = self._known(key)
        if record.failures < self._free:
            return float(record.trying >= AT_ONCE)
        doubled = min(record.failures - self._free, 6)  # 2**6 is above the longest; 2.0**1024 is an OverflowError
        pause = min(LONGEST_PAUSE, 2.0**doubled)
        return max(0.0, record.last + pause - self._clock()) or float(record.trying >= 1)

    def begin(self, key: object) -> None:
        """Note that an attempt is under way."""
        record = self._known(key)
        record.trying += 1
        _remember(self._records, key, record, self._most)

    def end(self, key: object, *, failed: bool) -> None:
        """Note how it ended."""
        record = self._known(key)
        record.trying = max(0, record.trying - 1)
        if failed:
            record.failures, record.last = record.failures + 1, self._clock()
        if record.failures or record.trying:
            _remember(self._records, key, record, self._most)
        else:
            self._records.pop(key, None)

    def forget(self, key: object) -> None:
        """Take the failures of `key` back."""
        if record := self._records.pop(key, None):
            record.failures = 0
            if record.trying:
                self._records[key] = record

    def _known(self, key: object) -> _Record:
        record = self._records.get(key, _Record())
        if self._clock() - record.last > FORGET_SECONDS:
            record.failures = 0
        return record


def _remember(records: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    records[key] = value
    records.move_to_end(key)
    if len(records) > most:
        records.popitem(last=False)


def client_network(address: str) -> str:
    """Return what one computer can change at will counted as one: an IPv6 address without its lower half."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
