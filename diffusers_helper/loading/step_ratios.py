"""How the residuals of the models at hand follow each other from step to step, for MagCache: measured or known."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from diffusers_helper.core.files import atomic_write, output_error, read_own
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.loading.embedding_cache import key_of
from diffusers_helper.model_files import ModelSource, transformer_part
from diffusers_helper.models.step_caches import STEP_CACHES
from diffusers_helper.models.step_caches.calibration import Calibration
from diffusers_helper.models.step_caches.magcache import PUBLISHED

FOLDER = "step_ratios"
"""Where calibrations are kept, in the folder of the cache."""
PUBLISHED_SIZE = {"num_layers": 20, "num_single_layers": 40, "num_attention_heads": 24}
"""A model of this size is one of the published checkpoints, or made from one."""

logger = logging.getLogger(__name__)


_Ratio = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MOST_BYTES = 100_000
"""Of a file; a calibration for a hundred steps takes a tenth of it."""


class _Kept(BaseModel):
    """A calibration's file."""

    model_config = ConfigDict(frozen=True)

    variant: str
    ratios: tuple[_Ratio, ...] = Field(min_length=1)
    spread: tuple[float, ...] = ()
    turn: tuple[float, ...] = ()


class StepRatios:
    """Finds the ratios of a source's models.

    Args:
        source: where the models are.
        folder: where calibrations are kept; it need not exist. None keeps nothing.

    Attributes:
        source: as given.
    """

    def __init__(self, source: ModelSource, folder: Path | None = None) -> None:
        self.source = source
        self._folder = folder

    def of(self, variant: str, steps: int) -> tuple[float, ...] | None:
        """Return the ratios of a variant's transformer; None where they are not known.

        A calibration for exactly that many steps counts before what the model's folder says, and that before the
        published ones, which count for models of the published size.
        """
        if (kept := self._read(variant, steps)) is not None:
            return kept
        if variant in self.source.step_ratios:
            return self.source.step_ratios[variant]
        return PUBLISHED[variant] if self.is_published(variant) else None

    def needed(self, settings: SamplingSettings, variant: str) -> tuple[float, ...] | None:
        """Return `of` the variant where the settings' step cache reads it; None where not, without a look at files."""
        return self.of(variant, settings.steps) if STEP_CACHES[settings.step_cache].by_ratios else None

    def is_published(self, variant: str) -> bool:
        """Tell whether the variant's transformer has the published size, as far as its files are here."""
        part = transformer_part(variant)
        place, problems = self.source.inspect(part)
        if place is None or problems:
            return not self.source.is_tiny  # what will be downloaded
        try:
            config = json.loads(part.config_file(place).read_bytes())
        except (OSError, ValueError):
            return False
        return all(config.get(name, size) == size for name, size in PUBLISHED_SIZE.items())

    def keep(self, variant: str, calibration: Calibration) -> Path | None:
        """Keep what was measured of the variant's transformer, for as many steps; raises OutputError."""
        file = self._file(variant, len(calibration.ratios))
        if file is None:
            return None
        content = {"variant": variant, **vars(calibration)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as part:
                part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        except OSError as error:
            raise output_error(file, error) from error
        return file

    def _read(self, variant: str, steps: int) -> tuple[float, ...] | None:
        file = self._file(variant, steps)
        if file is None:
            return None
        try:
            kept = _Kept.model_validate_json(read_own(file, MOST_BYTES))
            if kept.variant != variant or len(kept.ratios) != steps:
                raise ValueError(f"it is of {len(kept.ratios)} steps of the variant {kept.variant}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be used (%s); the model's known ratios count", file, error)
            return None
        return kept.ratios

    def _file(self, variant: str, steps: int) -> Path | None:
        part = transformer_part(variant)
        place, problems = self.source.inspect(part)
        if self._folder is None or place is None or problems:
            return None
        return self._folder / f"{key_of('step ratios', part.identity_in(place), variant, steps)[:32]}.json"
