"""How long videos took on this computer, in one small file, and from it how long the next one takes.

Only times of finished work are kept, the newest for each kind of work. Another picture size is scaled: matrix products
grow with the tokens, attention with their square, and at 640x608 both take as long; decoding grows with the pixels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from diffusers_helper.core.errors import OutputError
from diffusers_helper.core.events import Event, Forecast
from diffusers_helper.core.files import atomic_write
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.pace import Pace, Speed

MAX_ENTRIES, MOST_SETUPS = 200, 5
_GUIDED = 2.0
"""What a step costs with classifier-free guidance over a step without."""
_TEACACHE = 0.5
"""The share of steps that TeaCache computes, about: of times that were kept before other step caches came."""
_WITH_LORAS = 1.04
"""What a step costs with LoRA files, one or three, over a step without (docs/performance-log.md)."""

logger = logging.getLogger(__name__)


class SpeedKey(BaseModel):
    """What the times of a video depend on.

    Attributes:
        computer: the device, and how it computes.
        model: whose weights.
        share: of the steps' time in an exact video, as far as that is known before: skipped steps and 8-bit numbers.
        cfg, loras: whether these are in use.
        pixels: of a frame.
    """

    model_config = ConfigDict(frozen=True)

    computer: str
    model: str
    share: float = Field(1.0, gt=0, le=1)
    cfg: bool
    loras: bool = False
    pixels: int = Field(gt=0)

    @property
    def step_cost(self) -> float:
        """What a step costs with these settings, over an exact one at the same size."""
        return self.share * _GUIDED**self.cfg * _WITH_LORAS**self.loras

    @model_validator(mode="before")
    @classmethod
    def _as_kept_before(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "teacache" in fields:
            fields = dict(fields)
            fields.setdefault("share", _TEACACHE if fields.pop("teacache") else 1.0)
        return fields


_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Entry(SpeedKey):
    """One line of the file; `at` is when it was measured, seconds since the epoch.

    `setups` are the newest ones, of which `setup` is the middle one: that of the first video has the loading of the
    models in it, or even their download, and that of a repeated prompt has next to nothing.
    """

    setup: float = Field(ge=0, allow_inf_nan=False)
    step: float = Field(gt=0, allow_inf_nan=False)
    end: float = Field(ge=0, allow_inf_nan=False)
    gap: float = Field(ge=0, allow_inf_nan=False)
    load: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    setups: tuple[_Seconds, ...] = ()
    at: float

    @property
    def key(self) -> SpeedKey:
        return SpeedKey(**{name: getattr(self, name) for name in SpeedKey.model_fields})


_FILE = TypeAdapter(list[_Entry])


@dataclass(frozen=True)
class Estimate:
    """How long a video takes.

    Attributes:
        seconds: of all.
        rough: only a similar one was ever made here, or with one model.
        expected: none was; it is what such a card is expected to take.
    """

    seconds: float
    rough: bool
    expected: bool = False


class KnownSpeeds:
    """The times that were measured.

    Args:
        file: where they are kept; it need not exist.
        most: how many kinds of work are kept, the newest.
        new_pace: makes what measures a video.
    """

    def __init__(self, file: Path, most: int = MAX_ENTRIES, new_pace: Callable[[], Pace] = Pace) -> None:
        self._file = file
        self._most = most
        self._new_pace = new_pace

    def timed(self, events: Generator[Event, None, None], key: SpeedKey) -> Generator[Event, None, None]:
        """Pass the events of a video on, after a Forecast where its times are known; keep what it took."""
        pace, known = self._new_pace(), self.lookup(key)
        if known is not None:
            yield Forecast(known[0].step, known[0].end, known[0].gap)
        with closing(events):
            for event in events:
                pace.saw(event)
                yield event
        if (measured := pace.measured) is not None:
            self.keep(key, measured)

    def estimate(self, request: GenerationRequest, key: SpeedKey, changes: int = 0) -> Estimate | None:
        """Return how long a video takes; None if nothing like it was ever made here.

        `changes`: how often another model goes on, which takes about as long as a start where it was never measured.
        """
        if (known := self.lookup(key)) is None:
            return None
        speed, rough = known
        rough = rough or (changes > 0 and speed.load is None)
        return Estimate(speed.total(request.sections, request.steps, changes), rough)

    def lookup(self, key: SpeedKey) -> tuple[Speed, bool] | None:
        """Return the times for `key`, scaled from the most similar ones, and whether they are rough."""
        alike = [one for one in self._read() if (one.computer, one.model) == (key.computer, key.model)]
        if not alike:
            return None
        one = min(alike, key=lambda one: (_others(one, key), one.loras != key.loras, abs(one.pixels - key.pixels)))
        size = key.pixels / one.pixels
        steps = size * (1 + size) / 2 * key.step_cost / one.step_cost
        load = next((each.load for each in [one, *alike] if each.load is not None), None)
        return Speed(one.setup, one.step * steps, one.end * size, one.gap * size, load), _others(one, key) > 0

    def keep(self, key: SpeedKey, speed: Speed) -> None:
        """Keep the times of a video; a file that cannot be written is no reason to fail."""
        known = self._read()
        old = next((one for one in known if one.key == key), None)
        setups = (*((old.setups or (old.setup,)) if old else ()), speed.setup)[-MOST_SETUPS:]
        learned = asdict(speed) | {"setup": median_low(setups), "setups": setups}
        if speed.load is None and old is not None:  # most videos have one model
            learned["load"] = old.load
        new = _Entry(**key.model_dump(), **learned, at=time.time())
        entries = [*(one for one in known if one.key != key), new]
        newest = sorted(entries, key=lambda one: one.at)[-self._most :]
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._file) as part:
                part.write_bytes(_FILE.dump_json(newest, indent=1))
        except (OSError, OutputError) as error:
            logger.debug("The times of this video are not kept: %s", error)

    def _read(self) -> list[_Entry]:
        try:
            return _FILE.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValidationError) as error:
            logger.debug("%s is of no use: %s", self._file, error)
            return []


def _others(one: _Entry, key: SpeedKey) -> int:
    """Return how many settings differ."""
    return (one.share != key.share) + (one.cfg != key.cfg)
