"""What the engine asks of a video decoder, and diffusers' autoencoder as one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.encoders.hunyuan import vae_decode
from diffusers_helper.models.kernels import Kernels
from diffusers_helper.models.vae_decoder import Share

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo

Check = Callable[[], None]
Use = Callable[[nn.Module], AbstractContextManager[Any]]
"""Makes the context in which a model can run on its device; it moves weights on small cards."""


class Decoder(Protocol):
    """Turns latents into pixels; one call at a time, maybe in a thread of its own."""

    def decode(self, latents: Tensor, check: Check) -> Tensor:
        """Decode (B, 16, n, H, W) to (B, 3, 4n-3, 8H, 8W) float32 on the CPU; what `check` raises ends the call."""


class VaeSectionDecoder:
    """Decodes with diffusers' autoencoder.

    Args:
        vae: the autoencoder.
        kernels: what to compute with.
        use: see `Use`.
        shares: gives for each decode who decodes its windows.
    """

    def __init__(
        self,
        vae: AutoencoderKLHunyuanVideo,
        kernels: Kernels,
        use: Use,
        shares: Callable[[], Share] = lambda: map,
    ) -> None:
        self._vae = vae
        self._kernels = kernels
        self._use = use
        self._shares = shares

    def decode(self, latents: Tensor, check: Check) -> Tensor:
        """See `Decoder`; raises OutOfMemoryError of torch's."""
        with self._use(self._vae), interruptible(self._vae, check):
            return vae_decode(latents, self._vae, kernels=self._kernels, share=self._shares()).float().cpu()
