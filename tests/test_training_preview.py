"""Training the decoder of previews: what it begins with, that it learns, and what is written."""

import json

import pytest
import torch

from diffusers_helper.loading.preview_decoder import read_preview_decoder
from diffusers_helper.models.preview_decoder import PreviewDecoder
from training.checkpoint import save_weights
from training.family import build_vae
from training.loop import Budget
from training.train_preview import WIDTHS, begun, losses_of, psnr, train_preview
from training.train_vae import NAME as VAE

SMALL = (8, 6, 4, 4)


def linear_pairs(count=4):
    """Latents, and pixels whose colours are a linear function of them, in blocks."""
    generator = torch.Generator().manual_seed(0)
    latents = 0.3 * torch.randn(count, 16, 4, 4, 4, generator=generator)
    factors = 0.1 * torch.randn(16, 3, generator=generator)
    colours = torch.einsum("bcthw,cr->brthw", latents, factors) + 0.5
    frames = torch.cat([colours[:, :, :1], colours[:, :, 1:].repeat_interleave(4, dim=2)], dim=2)
    return latents, frames.repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)


@pytest.mark.parametrize("widths", [SMALL, WIDTHS])
def test_it_begins_with_the_best_linear_colours(widths):
    torch.manual_seed(0)
    latents, pixels = linear_pairs()
    model = begun(PreviewDecoder(widths), latents, pixels)
    with torch.no_grad():
        assert psnr(model(latents), pixels) > 30
        assert psnr(model(latents, all_frames=False), pixels[:, :, ::4]) > 30
        assert psnr(PreviewDecoder(widths)(latents), pixels) < 20


@pytest.mark.parametrize("all_frames", [False, True])
def test_it_learns(all_frames):
    torch.manual_seed(0)
    latents, pixels = linear_pairs()
    pixels = pixels * torch.linspace(0.6, 1, 32)  # what no linear function of a latent is
    model = begun(PreviewDecoder(SMALL), latents, pixels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    found = []
    for _ in range(12):
        losses = losses_of(model, latents, pixels, all_frames=all_frames)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        found.append(float(losses["loss"].detach()))
    assert found[-1] < 0.9 * found[0]


@pytest.mark.slow
def test_a_toy_run_writes_a_file_that_previews_are_made_with(tmp_path):
    torch.manual_seed(0)
    save_weights(build_vae().state_dict(), tmp_path, VAE)
    output = tmp_path / "out" / "preview_decoder.safetensors"
    train_preview(tmp_path, Budget(5, 5, steps=2), output, device_name="cpu", scale=0.125)
    record = json.loads((tmp_path / "preview.json").read_text())
    assert record["steps"] == 2
    assert {"psnr_one_frame_a_latent", "psnr_colours", "psnr_fitted_colours"} < record.keys()
    assert output.stat().st_size < 2_000_000
    decoder = read_preview_decoder(output)
    assert decoder.widths == WIDTHS
    assert decoder(torch.randn(1, 16, 9, 4, 4), all_frames=False).shape == (1, 3, 9, 32, 32)
