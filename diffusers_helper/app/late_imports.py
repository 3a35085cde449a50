"""What takes seconds to import, and is needed only by the first video."""

from __future__ import annotations

import importlib

_MODULES = (
    "diffusers_helper.generation.generate",
    "diffusers_helper.models.hunyuan_video_packed",
    "diffusers.models.autoencoders.autoencoder_kl_hunyuan_video",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.siglip.modeling_siglip",
)


def import_late() -> None:
    """Import it, and stop diffusers' progress bars: only they have no variable for it."""
    for name in _MODULES:
        importlib.import_module(name)
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
