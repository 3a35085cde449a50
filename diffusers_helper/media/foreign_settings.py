"""Settings that another FramePack program wrote, under the names that are used here.

Only names and their meaning are known: FramePack's own page and FramePack-Studio's files call them so. Whatever has no
counterpart here keeps its name, and is told to the user like every other unknown setting.
"""

from __future__ import annotations

from typing import Any

from diffusers_helper.core.buckets import BUCKETS
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import LATENT_WINDOW
from diffusers_helper.core.variants import VARIANTS

NAMES = {
    "n_prompt": "negative_prompt",
    "total_second_length": "seconds",
    "gs": "guidance_scale",
    "cfg": "cfg_scale",
    "rs": "cfg_rescale",
    "use_teacache": "teacache",
    "gpu_memory_preservation": "preserved_memory_gb",
    "blend_sections": "blend",
    "end_frame_strength": "end_strength",
}
_SIZES = ("resolution", "resolutionW")


def adopted(found: dict[str, Any]) -> tuple[dict[str, Any], list[Message]]:
    """Return `found` under the names of a request, and sentences on what means something else here.

    A name of this program's own is never replaced. Values are not checked.
    """
    settings = {(name if NAMES.get(name) in found else NAMES.get(name, name)): value for name, value in found.items()}
    notes = []
    if settings.get("latent_window_size") == LATENT_WINDOW:  # the only one there is
        del settings["latent_window_size"]
    if str(settings.get("model_type", "")).lower() in VARIANTS and "variant" not in settings:
        settings["variant"] = settings.pop("model_type").lower()
    for name in _SIZES:
        size = settings.get(name)
        if isinstance(size, int) and size > 0 and (name == "resolution" or "resolution" not in settings):
            del settings[name]
            settings["resolution"] = nearest = min(sorted(BUCKETS), key=lambda base: abs(base - size))
            if nearest != size:
                notes.append(Message("The picture size {size} became {nearest}.", size=size, nearest=nearest))
    return settings, notes
