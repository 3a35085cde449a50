"""Step caches by name. A new one is a module here that ends in a `StepCacheKind`, and its line in `STEP_CACHES`."""

from .base import NEGATIVE, NO_CACHE, POSITIVE, NoCache, StepCache, StepCacheKind
from .teacache import TEACACHE, TeaCache

STEP_CACHES: dict[str, StepCacheKind] = {kind.name: kind for kind in (NO_CACHE, TEACACHE)}

__all__ = ["NEGATIVE", "POSITIVE", "STEP_CACHES", "NoCache", "StepCache", "StepCacheKind", "TeaCache"]
