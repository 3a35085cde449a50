"""One step of sampling (one transformer call): the product beside diffusers' class with the same weights.

`python -m benchmarks.step` measures the full size on a GPU, `--tiny` a small model anywhere.
"""

import argparse
from typing import Any

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from torch import Tensor

from benchmarks.common import Bench, default_device, errors, with_random_weights
from diffusers_helper.core.planning import plan_video
from diffusers_helper.models.attention import resolve_attention
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import PLAIN
from diffusers_helper.models.section_context import ConditionInputs

PUBLISHED: dict[str, Any] = {"has_image_proj": True, "has_clean_x_embedder": True}
SHALLOW = PUBLISHED | {"num_layers": 2, "num_single_layers": 4}
TINY = PUBLISHED | {
    "num_attention_heads": 2, "attention_head_dim": 16, "rope_axes_dim": (4, 6, 6), "num_layers": 2,
    "num_single_layers": 2, "num_refiner_layers": 1, "text_embed_dim": 24, "pooled_projection_dim": 20,
    "image_proj_dim": 28,
}  # fmt: skip
PEER_NAMES = {
    "image_embeddings": "image_embeds",
    "latent_indices": "indices_latents",
    "clean_latents": "latents_clean",
    "clean_latent_indices": "indices_latents_clean",
    "clean_latents_2x": "latents_history_2x",
    "clean_latent_2x_indices": "indices_latents_history_2x",
    "clean_latents_4x": "latents_history_4x",
    "clean_latent_4x_indices": "indices_latents_history_4x",
}
"""The names that diffusers' class gives to the arguments."""


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small model and picture")
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--width", type=int, default=608)
    parser.add_argument("--window", type=int, default=9)
    parser.add_argument("--text", type=int, default=40, help="valid text tokens")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also both models' plain blocks through torch.compile")
    args = parser.parse_args(argv)
    device = default_device()
    tiny = args.tiny or device.type == "cpu"
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    config, height, width = (TINY, 64, 48) if tiny else (PUBLISHED, args.height, args.width)

    bench = Bench("step", args.repeat)
    with torch.inference_mode():
        model, peer = both(config, device, dtype)
        inputs = random_inputs(model, height, width, args.window, args.text, device, dtype)
        measure(bench, model, peer, inputs)
        if args.compile:
            measure_compiled(bench, model, peer, inputs)
        del model, peer
        bench.results["error to float32, few blocks"] = accuracy(TINY if tiny else SHALLOW, device)
    bench.report(
        size=[height, width], window=args.window, text=args.text, tokens=tokens(inputs), dtype=str(dtype), tiny=tiny
    )


def measure(bench: Bench, model: Any, peer: Any, inputs: dict[str, Tensor]) -> None:
    """The peer, then the product: plain, with fused kernels, and as a section is sampled."""
    device, dtype = inputs["hidden_states"].device, inputs["hidden_states"].dtype
    theirs = peer_inputs(inputs)
    reference = bench.measure("diffusers", lambda: peer(**theirs, return_dict=False)[0])
    attention = resolve_attention("auto", device, dtype, model.config.attention_head_dim).load()
    plain, fused = Execution(attention), Execution(attention, resolve_kernels(device, dtype))
    given = inputs | {"return_dict": False}
    bench.measure("product, plain kernels", lambda: model(**given, execution=plain)[0], reference)
    bench.measure("product, forward", lambda: model(**given, execution=fused)[0], reference)
    prepared, latents = prepare(model, inputs, fused), inputs["hidden_states"]
    bench.measure("product, prepared", lambda: model.denoise(latents, 0, *prepared, fused), reference)
    bench.measure("product, prepared, plain kernels", lambda: model.denoise(latents, 0, *prepared, plain), reference)


def measure_compiled(bench: Bench, model: Any, peer: Any, inputs: dict[str, Tensor]) -> None:
    """Both models with their blocks through torch.compile."""
    device, dtype = inputs["hidden_states"].device, inputs["hidden_states"].dtype
    execution = Execution(resolve_attention("auto", device, dtype, model.config.attention_head_dim).load())
    theirs, prepared = peer_inputs(inputs), prepare(model, inputs, execution)
    for each in (model, peer):
        for block in (*each.transformer_blocks, *each.single_transformer_blocks):
            block.compile()
    reference = bench.measure("diffusers, compiled", lambda: peer(**theirs, return_dict=False)[0])
    bench.measure(
        "product, prepared, compiled",
        lambda: model.denoise(inputs["hidden_states"], 0, *prepared, execution),
        reference,
    )


def accuracy(config: dict[str, Any], device: torch.device) -> dict[str, float]:
    """Relative errors in half precision against diffusers' class in float32, on a model of few blocks."""
    exact_model, exact_peer = both(config, device, torch.float32)
    half_model, half_peer = both(config, device, torch.bfloat16)
    half_model.load_state_dict(exact_model.state_dict())  # the same storage: the peer has them too
    exact_model.load_state_dict(half_model.state_dict())
    inputs = random_inputs(half_model, 256, 192, 9, 40, device, torch.bfloat16)
    exact = exact_peer(**peer_inputs({name: _wide(value) for name, value in inputs.items()}), return_dict=False)[0]
    attention = resolve_attention("auto", device, torch.bfloat16, half_model.config.attention_head_dim).load()
    found = {"diffusers": errors(half_peer(**peer_inputs(inputs), return_dict=False)[0], exact)["relative_error"]}
    for name, kernels in {"plain": PLAIN, "fused": resolve_kernels(device, torch.bfloat16)}.items():
        execution = Execution(attention, kernels)
        out = half_model.denoise(inputs["hidden_states"], 0, *prepare(half_model, inputs, execution), execution)
        found[name] = errors(out, exact)["relative_error"]
    return found


def both(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The product's model and diffusers' with the same weights in the same memory."""
    model = with_random_weights(lambda: HunyuanVideoTransformer3DModelPacked(**config), device, dtype)
    with torch.device("meta"):
        peer = HunyuanVideoFramepackTransformer3DModel(**config)
    peer.load_state_dict(model.state_dict(), assign=True)
    return model, peer.eval()


def random_inputs(
    model: Any, height: int, width: int, window: int, text: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Forward's arguments for the second section of a video by the original plan."""
    config = model.config
    section = plan_video("original", 3, window).sections[1]
    generator = torch.Generator(device).manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator, device=device).to(dtype)

    def latents(frames: int) -> Tensor:
        return normal(config.in_channels, frames, height // 8, width // 8)

    def indices(positions: tuple[int, ...]) -> Tensor:
        return torch.tensor([positions], device=device)

    padded = max(text, 512)
    return {
        "hidden_states": latents(window),
        "timestep": torch.tensor([904.0], device=device, dtype=dtype),
        "encoder_hidden_states": normal(padded, config.text_embed_dim),
        "encoder_attention_mask": torch.arange(padded, device=device)[None] < text,
        "pooled_projections": normal(config.pooled_projection_dim),
        "guidance": torch.tensor([10000.0], device=device, dtype=dtype),
        "latent_indices": indices(section.latent_indices),
        "clean_latents": latents(2),
        "clean_latent_indices": indices(section.indices(1)),
        "clean_latents_2x": latents(2),
        "clean_latent_2x_indices": indices(section.indices(2)),
        "clean_latents_4x": latents(16),
        "clean_latent_4x_indices": indices(section.indices(4)),
        "image_embeddings": normal(729 if config.image_proj_dim == 1152 else 5, config.image_proj_dim),
    }


def prepare(model: Any, inputs: dict[str, Tensor], execution: Execution) -> tuple[Any, Any]:
    """What a section computes once, for one step."""
    names = (
        "encoder_hidden_states", "encoder_attention_mask", "pooled_projections", "guidance", "image_embeddings"
    )  # fmt: skip
    given = ConditionInputs(*(inputs[name] for name in names))
    conditioning = model.condition(inputs["timestep"][None], given, execution)
    history = {
        factor: (inputs[f"clean_latents{suffix}"], inputs[f"clean_latent{suffix}_indices"])
        for factor, suffix in ((4, "_4x"), (2, "_2x"), (1, ""))
    }
    return conditioning, model.pack(inputs["hidden_states"], inputs["latent_indices"], history)


def peer_inputs(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same for diffusers' class."""
    return {PEER_NAMES.get(k, k): v[0] if k.endswith("indices") else v for k, v in inputs.items()}


def tokens(inputs: dict[str, Tensor]) -> int:
    """Length of the sequence."""
    height, width = inputs["hidden_states"].shape[-2:]
    cells = {1: (height // 2) * (width // 2), 2: -(-height // 4) * -(-width // 4), 4: -(-height // 8) * -(-width // 8)}
    frames = {1: inputs["hidden_states"].shape[2] + inputs["clean_latents"].shape[2], 2: 1, 4: 4}
    side = inputs["image_embeddings"].shape[1] + int(inputs["encoder_attention_mask"].sum())
    return sum(cells[factor] * frames[factor] for factor in cells) + side


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


if __name__ == "__main__":
    main()
