"""The decoder of a video: the autoencoder, taken from the components for each section and given back after it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

from torch import Tensor

from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.framepack.decoding import VaeSectionDecoder
from diffusers_helper.loading.components import Components
from diffusers_helper.models.kernels import Kernels
from diffusers_helper.models.vae_decoder import Share


class ComponentsDecoder:
    """A `Decoder` that has the autoencoder on its device only while it decodes, where memory is short.

    Args:
        components: have the autoencoder, and know whether it works in tiles.
        kernels: gives what to compute with, which is known once a transformer is loaded.
        check: called between its layers, beside that of each call; it may raise.
        shares: gives for each decode who decodes its windows; where others take part, nothing interrupts it.
    """

    def __init__(
        self,
        components: Components,
        kernels: Callable[[], Kernels],
        check: Callable[[], None],
        shares: Callable[[], Share] | None = None,
    ) -> None:
        self._components = components
        self._kernels = kernels
        self._use = partial(interruptible, check=check)
        self._shares = shares

    def decode(self, latents: Tensor, check: Callable[[], None]) -> Tensor:
        """See `Decoder`; raises OutOfMemoryError of torch's."""
        with self._components.vae() as vae:
            if self._shares is not None:
                return VaeSectionDecoder(vae, self._kernels(), nullcontext, self._shares).decode(latents, lambda: None)
            return VaeSectionDecoder(vae, self._kernels(), self._use).decode(latents, check)
