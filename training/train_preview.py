"""Trains the small decoder that previews are made with, to show what the autoencoder of a model folder would."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusers_helper.encoders.hunyuan import vae_decode_fake
from diffusers_helper.models.preview_decoder import PreviewDecoder
from training.graphs import set_rates
from training.latents import decode, posterior
from training.loop import Average, Budget, Run, pick_device
from training.muon import muon_and_adam
from training.pictures import HELD_OUT_PHOTOS
from training.train_transformer import load_vae
from training.train_vae import CLIP_FRAMES, ClipSource

NAME = "preview"
WIDTHS = (64, 32, 16, 16)
"""620,000 parameters, 1.2 MB; those of the public TAEHV are 256, 128, 64, 64."""
SIDE = 64
LATENTS = 4
"""Of a sample: of the five of a clip, the first ones or the last ones."""
BATCH, BANK, DRAWN, FIRST_DRAWS = 8, 600, 8, 4
COLOURS = 3
FILL_SHARE = 0.25
"""Part of the time that goes into samples."""
RATES = (2e-3, 1e-3)
DECAY_FROM = 0.3
ALL_FRAMES_EVERY = 8
"""Steps; the others have one frame for each latent, as previews do, in a quarter of the time."""


class Pairs:
    """Latents and what the autoencoder makes of them, drawn little by little and kept.

    Args:
        vae: the autoencoder.
        source: draws clips.
        size: kept at most; then the oldest make room.
    """

    def __init__(self, vae: AutoencoderKLHunyuanVideo, source: ClipSource, size: int = BANK) -> None:
        self._vae, self._source, self._size = vae, source, size
        self._kept: list[tuple[Tensor, Tensor]] = []
        self.made = 0

    def __len__(self) -> int:
        return len(self._kept)

    @torch.no_grad()
    def draw(self, count: int) -> None:
        """Make `count` more."""
        first = self.made // count % 2
        latents, pixels = pairs_of(self._vae, self._source.sample(count, CLIP_FRAMES, SIDE, SIDE), first)
        self._kept += zip(latents, pixels, strict=True)
        del self._kept[: -self._size]
        self.made += count

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Return `count` of them: latents (count, 16, 4, h, w), pixels (count, 3, 13, 8 h, 8 w) from 0 to 1."""
        chosen = self._source.rng.choices(self._kept, k=count)
        latents, pixels = (torch.stack(several) for several in zip(*chosen, strict=True))
        return latents, pixels


def pairs_of(vae: AutoencoderKLHunyuanVideo, clips: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return scaled latents of clips, `LATENTS` from the `first` on, and their pixels from 0 to 1."""
    raw = posterior(vae, clips)[0][:, :, first : first + LATENTS]
    return raw * vae.config.scaling_factor, (decode(vae, raw) / 2 + 0.5).clamp(0, 1)


def train_preview(
    folder: Path, budget: Budget, output: Path, *, device_name: str | None = None, scale: float = 1.0
) -> Run:
    """Train for the autoencoder in `folder` and write the file `output`; nothing in the folder changes but a record.

    `scale` below 1 shrinks the batches, for trials.
    """
    device = pick_device(device_name)
    (folder / f"{NAME}.json").unlink(missing_ok=True)  # every call begins anew
    run = Run(folder, NAME, budget, None, {"widths": WIDTHS, "batch": BATCH, "rates": RATES})
    torch.manual_seed(0)
    vae = load_vae(folder).to(device)
    pairs = Pairs(vae, ClipSource(device, 0))
    drawn = max(1, int(DRAWN * scale))
    for _ in range(FIRST_DRAWS):
        pairs.draw(drawn)
    model = begun(PreviewDecoder(WIDTHS), *pairs.batch(len(pairs))).to(device).train()
    average = Average(model, 0.99)
    optimizers = muon_and_adam(*_groups(model), RATES, betas=(0.9, 0.99), momentum=0.9)
    filling = run.elapsed
    while not run.over:
        if filling < FILL_SHARE * run.elapsed:
            before = run.elapsed
            pairs.draw(drawn)
            filling += run.elapsed - before
        set_rates(optimizers, run.rate(DECAY_FROM, warm_up=20))
        losses = losses_of(
            model, *pairs.batch(max(1, int(BATCH * scale))), all_frames=run.steps % ALL_FRAMES_EVERY == 0
        )
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        for optimizer in optimizers:
            optimizer.step()
        average.update()
        run.step(losses)
    average.swap()
    run.note("pairs_made", pairs.made)
    for name, value in evaluate(model.eval(), vae, device, max(1, int(8 * scale))).items():
        run.note(name, value)
    run.save_record()
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.half().contiguous() for name, weight in model.state_dict().items()}, output)
    return run


@torch.no_grad()
def begun(model: PreviewDecoder, latents: Tensor, pixels: Tensor) -> PreviewDecoder:
    """Let the first three features be the colours that are a linear function of latents, and pass them on.

    Blocks add nothing at first. So training begins with what it could be replaced by, and learns details alone.
    """
    factors = _factors(3 * torch.tanh(latents / 3), pixels)
    convolutions = [layer for layer in model.decoder if isinstance(layer, nn.Conv2d)]
    first, *others, last = convolutions
    for name, parameter in model.named_parameters():
        if name.endswith(("conv.4.weight", "conv.4.bias")):
            nn.init.zeros_(parameter)
        elif "conv.weight" in name:  # what grows in time
            several = parameter.unflatten(0, (-1, parameter.shape[1]))
            several[:, :COLOURS] = 0
            several[:, range(COLOURS), range(COLOURS)] = 1
    for layer in (first, *others, last):
        layer.weight[:COLOURS] *= 0.02 if layer is last else 0
    first.weight[:COLOURS, :, 1, 1] = factors[:-1].T
    _bias(first)[:COLOURS] = factors[-1]
    for layer in others:
        layer.weight[range(COLOURS), range(COLOURS), 1, 1] = 1
    last.weight[range(COLOURS), range(COLOURS), 1, 1] = 1
    _bias(last).zero_()
    return model


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def losses_of(model: PreviewDecoder, latents: Tensor, pixels: Tensor, *, all_frames: bool) -> dict[str, Tensor]:
    """Compare what a decoder makes of latents with their pixels: all frames, or the last one of each latent."""
    wanted = pixels if all_frames else pixels[:, :, ::4]
    out = model(latents, all_frames=all_frames)
    mse = F.mse_loss(out, wanted)
    psnr = -10 * torch.log10(F.mse_loss(out.detach().clamp(0, 1), wanted))
    return {"loss": 4 * mse + F.l1_loss(out, wanted), "psnr_all" if all_frames else "psnr_one": psnr}


@torch.no_grad()
def evaluate(
    model: PreviewDecoder, vae: AutoencoderKLHunyuanVideo, device: torch.device, clips: int = 8
) -> dict[str, float]:
    """PSNR to the autoencoder's frames on clips of photographs never trained on, dB; of colours alone beside it."""
    source = ClipSource(device, 987_654, HELD_OUT_PHOTOS)
    source.pictures.photo_share = 1.0
    latents, pixels = pairs_of(vae, source.sample(clips, CLIP_FRAMES, 128, 128))
    single = pixels[:, :, ::4]
    colours = vae_decode_fake(latents)
    shown = {
        "all_frames": (model(latents).clamp(0, 1), pixels),
        "one_frame_a_latent": (model(latents, all_frames=False).clamp(0, 1), single),
        "colours": (F.interpolate(colours, scale_factor=(1, 8, 8)), single),
        "fitted_colours": (F.interpolate(_fitted(latents, single), scale_factor=(1, 8, 8)), single),
    }
    return {f"psnr_{name}": round(psnr(out, right), 2) for name, (out, right) in shown.items()}


def psnr(out: Tensor, right: Tensor) -> float:
    """Mean over clips, dB."""
    return float((-10 * torch.log10((out - right).square().mean((1, 2, 3, 4)))).mean())


def _fitted(latents: Tensor, pixels: Tensor) -> Tensor:
    """The colours that are a linear function of latents, with the best factors for these very pixels."""
    factors = _factors(latents, pixels)
    colours = torch.einsum("bcthw,cr->brthw", latents, factors[:-1]) + factors[-1][:, None, None, None]
    return colours.clamp(0, 1)


def _factors(latents: Tensor, pixels: Tensor) -> Tensor:
    """The linear function (17, 3) of latents that is nearest to the last frames' colours; its last row is constant."""
    colours = F.avg_pool3d(pixels[:, :, ::4] if pixels.shape[2] > latents.shape[2] else pixels, (1, 8, 8))
    flat = latents.movedim(1, -1).flatten(0, -2)
    flat = torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1)
    found: Tensor = torch.linalg.lstsq(flat, colours.movedim(1, -1).flatten(0, -2)).solution
    return found


def _groups(model: PreviewDecoder) -> tuple[list[Tensor], list[Tensor]]:
    """Kernels between features, and all else."""
    kernels, others = [], []
    for parameter in model.parameters():
        (kernels if parameter.ndim > 1 and min(parameter.shape[:2]) > 3 else others).append(parameter)
    return kernels, others
