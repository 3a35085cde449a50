"""A small decoder for previews: latents to pixels in a few milliseconds, by convolutions of single frames.

It is of the kind of TAEHV (https://github.com/madebyollin/taehv) and takes its weights by their names and shapes; the
widths and the growth in time are read from those. Time passes through blocks that see the frame before beside their
own, so frames need no padding and nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT_CHANNELS = 16
BLOCKS = 3
"""Of a stage."""
_FIRST, _STAGE = 1, BLOCKS + 3
"""Where the first convolution is among the layers, and how many layers a stage has."""
GROWTH = (1, 2, 2)
"""Frames that each stage makes of one."""
PREFIX = "decoder."


class PreviewDecoder(nn.Module):
    """Decodes latents as the transformer has them.

    Args:
        widths: features of the three stages, and of the last layers.
        growth: frames that each stage makes of one.
    """

    def __init__(self, widths: Sequence[int], growth: Sequence[int] = GROWTH) -> None:
        super().__init__()
        self.widths, self.growth = tuple(widths), tuple(growth)
        layers: list[nn.Module] = [_SoftClamp(), _conv(LATENT_CHANNELS, widths[0]), nn.ReLU()]
        for width, following, frames in zip(widths, widths[1:], growth, strict=False):
            layers += [_MemoryBlock(width) for _ in range(BLOCKS)]
            layers += [_Upsample(), _GrowInTime(width, frames), _conv(width, following, bias=False)]
        self.decoder = nn.ModuleList([*layers, nn.ReLU(), _conv(widths[-1], 3)])

    def forward(
        self, latents: Tensor, doublings: int = 3, *, all_frames: bool = True, past: dict[int, Tensor] | None = None
    ) -> Tensor:
        """Decode (B, 16, T, H, W) to (B, 3, T', H', W'), about 0 to 1.

        Args:
            latents: scaled, as the transformer has them.
            doublings: how often the sides are doubled, 3 for all pixels; the last ones are left out, for speed.
            all_frames: 4 T - 3 frames, or 4 T behind others; else one for each latent.
            past: what the latents before these left there; empty for the first ones. So a video can be decoded in
                parts, which takes less memory.
        """
        batch, _, count, *_ = latents.shape
        x = latents.transpose(1, 2).flatten(0, 1)
        past = {} if past is None else past
        begins, grown = not past, 1
        for index, layer in enumerate(self.decoder):
            match layer:
                case _MemoryBlock():
                    videos = x.unflatten(0, (batch, -1))
                    before = past.get(index, torch.zeros_like(videos[:, :1]))
                    past[index] = videos[:, -1:]
                    x = layer(x, torch.cat([before, videos[:, :-1]], dim=1).flatten(0, 1))
                case _Upsample():
                    x = layer(x) if doublings > 0 else x
                    doublings -= 1
                case _GrowInTime():
                    x = layer(x, all_frames=all_frames)
                    grown *= layer.frames if all_frames else 1
                case _:
                    x = layer(x)
        frames: Tensor = x.unflatten(0, (batch, grown * count)).transpose(1, 2)
        return frames[:, :, grown - 1 :] if begins else frames  # the first latent is of one frame

    @classmethod
    def of_weights(cls, weights: Mapping[str, Tensor]) -> PreviewDecoder:
        """Make the decoder that `weights` are of, by name; those of an encoder beside it are left out.

        Raises ValueError for weights of something else.
        """
        own = {name: weight for name, weight in weights.items() if name.startswith(PREFIX)}
        try:
            at = [_FIRST, *(_FIRST + 1 + _STAGE * stage for stage in range(1, len(GROWTH) + 1))]
            widths = [own[f"{PREFIX}{index}.weight"].shape[0] for index in at]
            grown = [own[f"{PREFIX}{index - 1}.conv.weight"].shape[0] for index in at[1:]]
            growth = [frames // width for frames, width in zip(grown, widths, strict=False)]
            with torch.device("meta"):  # no memory for what the file only says
                decoder = cls(widths, growth)
            decoder.load_state_dict({name: weight.float() for name, weight in own.items()}, assign=True)
        except (IndexError, KeyError, RuntimeError, ZeroDivisionError) as error:
            raise ValueError(f"these are not the weights of a preview decoder: {error}") from None
        return decoder.requires_grad_(False).eval()


class _SoftClamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _Upsample(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2)


class _MemoryBlock(nn.Module):
    """Adds to frames what three convolutions make of them and of the frames before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        changed: Tensor = self.conv(torch.cat([x, before], dim=1))
        return torch.relu(changed + x)


class _GrowInTime(nn.Module):
    """Makes several frames of each."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(width, width * frames, 1, bias=False)

    def forward(self, x: Tensor, *, all_frames: bool) -> Tensor:
        if not all_frames:
            return F.conv2d(x, self.conv.weight[-x.shape[1] :])  # the last frame alone
        out: Tensor = self.conv(x).unflatten(1, (self.frames, -1))
        return out.flatten(0, 1)


def _conv(width: int, out: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(width, out, 3, padding=1, bias=bias)
