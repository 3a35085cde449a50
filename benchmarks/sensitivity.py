"""Which layers 8 bits hurt: the error of one step with a kind of layer in 8 bits and everything else exact.

`python -m benchmarks.sensitivity` measures a model of few blocks at full width with random weights, against float32;
`--videos` adds the trained tiny model: PSNR of a video to the exact one, dB. What reads no input of a block, as the
modulation does, has its weights alone rounded: those layers stay exact in any case.
"""

import argparse
import json
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import default_device, errors, surroundings, with_random_weights
from benchmarks.step import PUBLISHED, TINY, prepare, random_inputs
from diffusers_helper.memory.packing import blocks_of
from diffusers_helper.models.attention import resolve_attention
from diffusers_helper.models.eight_bit import resolve_linears
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import PLAIN
from diffusers_helper.models.linears import Attending, EightBitLinears, ExactLinears, Input
from diffusers_helper.models.rows import FORMS, Form, Shifted, rows_of
from diffusers_helper.models.sdpa import sdpa

OUTSIDE = ("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear", "x_embedder.proj", "proj_out")
"""Layers that read no input of a block, by how their names end (the last projection's is its whole name)."""


@dataclass(frozen=True, eq=False)
class SomeLinears(EightBitLinears):
    """Only `chosen` layers multiply 8-bit numbers, quantised in passes of their own."""

    exact: ExactLinears
    chosen: Collection[nn.Module]

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """See Linears."""
        return self.exact.modulate(x, shift, scale)

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See Linears."""
        return self.exact.add_gated_modulate(x, y, gate, shift, scale)

    def linear(self, x: Input, layer: nn.Linear) -> Tensor:
        """See Linears."""
        return super().join_linear([x], [layer]) if layer in self.chosen else self.exact.linear(x, layer)

    def join_linear(self, streams: Any, layers: Any) -> Tensor:
        """See Linears."""
        return torch.cat([self.linear(x, layer) for x, layer in zip(streams, layers, strict=True)], dim=1)

    def mlp(self, x: Input, first: nn.Linear, last: nn.Linear) -> Tensor:
        """See Linears."""
        return self.linear(F.gelu(self.linear(x, first), approximate="tanh"), last)

    def mlp_beside(self, attending: Attending, x: Input, first: nn.Linear, last: nn.Linear) -> Tensor:
        """See Linears."""
        attended = attending()
        if isinstance(attended, Shifted):
            attended = attended.numbers(attended.x.dtype)
        hidden = F.gelu(self.linear(x, first), approximate="tanh")
        return self.linear(torch.cat([attended, hidden], dim=-1), last)


def kinds_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The layers by their names without numbers of blocks."""
    inside = {id(module) for block in blocks_of(model) for module in block.modules()}
    found: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        outside = name == "proj_out" or name.endswith(OUTSIDE[:-1])
        if outside or (isinstance(module, nn.Linear) and id(module) in inside):
            found.setdefault(re.sub(r"\.\d+\.", ".*.", name, count=1), []).append(module)
    return found


def is_outside(kind: str) -> bool:
    """Whether its weights alone are rounded."""
    return kind == "proj_out" or kind.endswith(OUTSIDE[:-1])


@contextmanager
def rounded(layers: Collection[nn.Module], form: Form) -> Iterator[None]:
    """Inside, their weights are what 8 bits keep of them."""
    own: list[tuple[nn.Module, Tensor]] = [(layer, layer.get_parameter("weight").data) for layer in layers]
    for layer, weight in own:
        kept = rows_of(weight.flatten(1), form).numbers(weight.dtype).view_as(weight)
        layer.weight = nn.Parameter(kept, requires_grad=False)
    try:
        yield
    finally:
        for layer, weight in own:
            layer.weight = nn.Parameter(weight, requires_grad=False)


def some(
    execution: Execution, form: Form, layers: Collection[nn.Module], device: torch.device, dtype: torch.dtype
) -> Execution:
    """The execution with `layers` in 8 bits."""
    whole = resolve_linears(form.name, execution.kernels, device, dtype)
    assert whole is not None
    return replace(execution, eight_bit_linears=SomeLinears(whole.kernels, ExactLinears(execution.kernels), layers))


def one_step(config: dict[str, Any], size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Iterator[Any]:
    """Relative errors of one step against float32: kind and form, each and all."""
    wide: Any = with_random_weights(lambda: HunyuanVideoTransformer3DModelPacked(**config), device, dtype)
    model: Any = with_random_weights(lambda: HunyuanVideoTransformer3DModelPacked(**config), device, dtype)
    wide.float()
    inputs = random_inputs(model, size[0], size[1], 9, 40, device, dtype)
    exactly = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
    plain = Execution(sdpa, PLAIN)
    exact = wide.denoise(exactly["hidden_states"], 0, *prepare(wide, exactly, plain), plain)
    del wide
    attention = resolve_attention("auto", device, dtype, config.get("attention_head_dim", 128)).load()
    execution = Execution(attention, resolve_kernels(device, dtype))

    def error(used: Execution) -> float:
        out = model.denoise(inputs["hidden_states"], 0, *prepare(model, inputs, used), used)
        return errors(out, exact)["relative_error"]

    yield "exact", None, error(execution)
    kinds = kinds_of(model)
    inner = {kind: layers for kind, layers in kinds.items() if not is_outside(kind)}
    for form in FORMS.values():
        for kind, layers in kinds.items():
            if kind in inner:
                yield kind, form.name, error(some(execution, form, layers, device, dtype))
            else:
                with rounded(layers, form):
                    yield kind, form.name, error(execution)
        everything = [layer for layers in inner.values() for layer in layers]
        yield "all of the blocks", form.name, error(some(execution, form, everything, device, dtype))


def videos(device: torch.device, seconds: float) -> Iterator[Any]:
    """PSNR of a video of the tiny model to the exact one, dB: kind and form, each and all."""
    import numpy as np

    from benchmarks.metrics import Frames, psnr
    from benchmarks.quality import PROMPTS, SEED, held_out_photos
    from benchmarks.studio import Studio
    from diffusers_helper.loading.components import Components
    from diffusers_helper.media.frames import rgb_frames
    from diffusers_helper.media.photo import open_photo
    from diffusers_helper.model_files import resolve_models

    chosen: tuple[Form, Collection[str]] | None = None

    class Choosing(Components):
        def plan_sampling(self, transformer: Any, *args: Any, **named: Any) -> Any:
            execution, told = super().plan_sampling(transformer, *args, **named)
            if chosen is None:
                return execution, told
            layers = {layer for kind in chosen[1] for layer in kinds_of(transformer)[kind]}
            return some(execution, chosen[0], layers, self.device, self.dtype), told

    components = Choosing(resolve_models("tiny", accelerator=device.type != "cpu"), device)
    studio = Studio(components, components.source.defaults.model_copy(update={"seed": SEED}))
    picture = studio.picture(open_photo(held_out_photos()[0]))

    def frames() -> Frames:
        done = studio.sections(picture, PROMPTS["pan left"][0], "f1", seconds)
        return np.concatenate([np.stack(list(rgb_frames(event.pixels))) for event in done if event.pixels is not None])

    exact = frames()
    inner = [kind for kind in kinds_of(components.transformer("f1")) if not is_outside(kind)]
    for form in FORMS.values():
        for kind in inner:
            chosen = form, [kind]
            yield kind, form.name, psnr(frames(), exact)
        chosen = form, inner
        yield "all of the blocks", form.name, psnr(frames(), exact)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small model")
    parser.add_argument("--blocks", type=int, nargs=2, default=[2, 4], help="of both kinds")
    parser.add_argument("--size", type=int, nargs=2, default=[256, 192], help="height and width")
    parser.add_argument("--videos", action="store_true", help="and videos of the trained tiny model")
    parser.add_argument("--seconds", type=float, default=1.2, help="of a video")
    args = parser.parse_args(argv)
    device = default_device()
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    blocks = {"num_layers": args.blocks[0], "num_single_layers": args.blocks[1]}
    config = (TINY if args.tiny else PUBLISHED) | blocks
    found: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        measured = {"error": one_step(config, tuple(args.size), device, dtype)}
        if args.videos:
            measured["dB"] = videos(device, args.seconds)
        for what, rows in measured.items():
            for kind, form, number in rows:
                found.setdefault(kind, {})[f"{form or 'exact'} {what}"] = number
                sys.stdout.write(f"{kind:44} {form or '':6} {what:6} {number:.5g}\n")
                sys.stdout.flush()
    print(json.dumps({"benchmark": "sensitivity", "blocks": args.blocks, **surroundings(), "results": found}))


if __name__ == "__main__":
    main()
