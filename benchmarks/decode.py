"""Decoding one section's latents: the product beside diffusers' autoencoder with the same weights.

`python -m benchmarks.decode` measures the full size on a GPU, `--tiny` a small autoencoder anywhere.
"""

import argparse
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from benchmarks.common import Bench, default_device, errors, with_random_weights
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import PLAIN
from diffusers_helper.models.vae_decoder import VaeDecoder

TINY: dict[str, Any] = {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small autoencoder and picture")
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--width", type=int, default=608)
    parser.add_argument("--frames", type=int, default=18, help="latent frames")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="also without fused kernels")
    args = parser.parse_args(argv)
    device = default_device()
    tiny = args.tiny or device.type == "cpu"
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    config, height, width = (TINY, 48, 32) if tiny else ({}, args.height, args.width)

    bench = Bench("decode", args.repeat)
    with torch.inference_mode():
        vae = with_random_weights(lambda: AutoencoderKLHunyuanVideo(**config), device, dtype)
        generator = torch.Generator(device).manual_seed(1)
        shape = (1, vae.config.latent_channels, args.frames, height // 8, width // 8)
        latents = torch.randn(shape, generator=generator, device=device).to(dtype)
        measure(bench, vae, latents, plain=args.plain)
    bench.report(size=[height, width], frames=args.frames, dtype=str(dtype), tiny=tiny)


def measure(bench: Bench, vae: Any, latents: Tensor, *, plain: bool) -> None:
    """The peer, whole and in tiles, then the product with memory ample and short."""
    kernels = resolve_kernels(latents.device, latents.dtype)
    reference = bench.measure("diffusers", lambda: vae.decode(latents).sample)
    made = {}
    for name, short in {"product": False, "product, short of memory": True}.items():
        decoder = VaeDecoder(vae, kernels, short_of_memory=short)
        made[name] = bench.measure(name, lambda decoder=decoder: decoder(latents), reference)
    whole, little = made.values()
    if whole is not None and little is not None:
        bench.results["product, short of memory"]["psnr_to_ample"] = errors(little, whole)["psnr"]
    if plain:
        decoder = VaeDecoder(vae, PLAIN)
        bench.measure("product, plain kernels", lambda: decoder(latents), reference)
    vae.enable_tiling(32, 32, 16, 24, 24, 12) if vae.config.block_out_channels[0] < 128 else vae.enable_tiling()
    bench.measure("diffusers, tiled", lambda: vae.decode(latents).sample, reference)
    vae.disable_tiling()


if __name__ == "__main__":
    main()
