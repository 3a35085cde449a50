"""LoRA files that peft and diffusers make or read, live: the weights are theirs."""

import copy
import json

import pytest
import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from diffusers.loaders import HunyuanVideoLoraLoaderMixin
from safetensors.torch import save_file

from diffusers_helper.lora.files import read_file
from diffusers_helper.lora.names import ModuleNames
from diffusers_helper.lora.reading import adapter_of
from tests.golden import golden_meta
from tests.models import golden_transformer

peft = pytest.importorskip("peft", reason="needs peft; install requirements-dev.txt")

TARGETS = [
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.attn.to_out.0",
    "transformer_blocks.0.norm1.linear",
    "single_transformer_blocks.1.proj_out",
    "single_transformer_blocks.0.proj_mlp",
    "context_embedder.proj_in",
]
CONFIGS = {
    "LoRA": lambda: peft.LoraConfig(r=4, lora_alpha=4, target_modules=TARGETS),
    "alpha": lambda: peft.LoraConfig(r=4, lora_alpha=11, target_modules=TARGETS),
    "alphas and ranks by name": lambda: peft.LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules=TARGETS,
        rank_pattern={"attn.to_q": 2},
        alpha_pattern={"attn.to_q": 1, "transformer_blocks.0.norm1.linear": 7},
    ),
    "rank-stabilised": lambda: peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=TARGETS),
    "DoRA": lambda: peft.LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=TARGETS),
    "LoHa": lambda: peft.LoHaConfig(r=3, alpha=3, target_modules=TARGETS),
    "LoKr": lambda: peft.LoKrConfig(r=2, alpha=2, target_modules=TARGETS),
    "LoKr of two products": lambda: peft.LoKrConfig(r=1, alpha=1, decompose_both=True, target_modules=TARGETS),
}


def randomised(model, seed):
    """Adapters begin as no change at all."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= 1 + torch.rand(parameter.shape, generator=generator)
        elif any(kind in name for kind in ("lora_", "hada_", "lokr_")):
            parameter.data = torch.randn(parameter.shape, generator=generator) / 5
    return model


def merged(file):
    """The golden transformer's weights with a file at weight 1."""
    model = golden_transformer()
    changes = adapter_of(read_file(file), ModuleNames(model)).changes
    stored = model.state_dict()
    return {
        name: stored[name] + sum(change.delta(stored[name], 1.0) for change in found) for name, found in changes.items()
    }


def require_same(ours, theirs, names):
    assert set(ours) == {f"{name}.weight" for name in names}
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() <= 2e-6 * theirs[name].std(), name


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("prefix", ["transformer.", "base_model.model."])
@pytest.mark.parametrize("kind", CONFIGS)
def test_files_of_peft(kind, prefix, seed, tmp_path):
    config = CONFIGS[kind]()
    model = randomised(peft.inject_adapter_in_model(config, copy.deepcopy(golden_transformer())), seed)
    tensors = {f"{prefix}{name}": t.contiguous() for name, t in peft.get_peft_model_state_dict(model).items()}
    settings = {key: list(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    written = json.dumps({f"transformer.{key}": value for key, value in settings.items()}, default=str)
    save_file(tensors, path := tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": written})
    for module in model.modules():
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            module.merge()
    theirs = {f"{name}.weight": model.get_submodule(name).get_base_layer().weight.data for name in TARGETS}
    require_same(merged(path), theirs, TARGETS)


@pytest.fixture
def peer():
    """diffusers' class with the golden weights."""
    config = {k: v for k, v in golden_meta()["transformer_config"].items() if k != "patch_size_t"}
    model = HunyuanVideoFramepackTransformer3DModel(**config)
    model.load_state_dict(golden_transformer().state_dict())
    return model


def fused(peer, path):
    """Its weights with a file, by diffusers' own loader."""
    state, metadata = HunyuanVideoLoraLoaderMixin.lora_state_dict(str(path), return_lora_metadata=True)
    peer.load_lora_adapter(state, prefix="transformer", metadata=metadata)
    peer.fuse_lora()
    peer.unload_lora()
    return peer.state_dict()


def pairs(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (rows, columns) in shapes.items():
        tensors[f"{module}.lora_A.weight"] = torch.randn(4, columns, generator=generator) / 5
        tensors[f"{module}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) / 5
    return tensors


@pytest.mark.parametrize("seed", [0, 1])
def test_a_file_in_diffusers_names(peer, seed, tmp_path):
    shapes = ModuleNames(golden_transformer()).shapes
    save_file(
        pairs({f"transformer.{name}": shapes[name] for name in TARGETS}, seed), path := tmp_path / "a.safetensors"
    )
    require_same(merged(path), fused(peer, path), TARGETS)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_file_in_the_originals_names(peer, seed, tmp_path):
    """But for `linear1`, which diffusers splits at the published width alone."""
    shapes = {
        "double_blocks.0.img_attn_qkv": (96, 32),
        "double_blocks.0.txt_attn_qkv": (96, 32),
        "double_blocks.1.img_attn_proj": (32, 32),
        "double_blocks.1.img_mlp.fc1": (128, 32),
        "double_blocks.0.txt_mlp.fc2": (32, 128),
        "double_blocks.0.img_mod.linear": (192, 32),
        "single_blocks.0.linear2": (32, 160),
        "single_blocks.0.modulation.linear": (96, 32),
    }
    save_file(pairs({f"diffusion_model.{n}": s for n, s in shapes.items()}, seed), path := tmp_path / "a.safetensors")
    block, single = "transformer_blocks", "single_transformer_blocks"
    names = [
        *(f"{block}.0.attn.{part}" for part in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")),
        f"{block}.1.attn.to_out.0",
        f"{block}.1.ff.net.0.proj",
        f"{block}.0.ff_context.net.2",
        f"{block}.0.norm1.linear",
        f"{single}.0.proj_out",
        f"{single}.0.norm.linear",
    ]
    require_same(merged(path), fused(peer, path), names)


def kept_by_peft(config, folder, seed=0):
    """What `save_pretrained` leaves in a folder, and the golden weights merged by peft."""
    model = randomised(peft.get_peft_model(copy.deepcopy(golden_transformer()), config), seed)
    model.save_pretrained(folder)
    theirs = model.merge_and_unload().state_dict()
    return folder / "adapter_model.safetensors", theirs


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", CONFIGS)
def test_folders_of_peft(kind, seed, tmp_path):
    path, theirs = kept_by_peft(CONFIGS[kind](), tmp_path, seed)
    require_same(merged(path), theirs, TARGETS)


@pytest.mark.parametrize(
    "config",
    [
        lambda: peft.LoHaConfig(r=3, alpha=8, target_modules=TARGETS),
        lambda: peft.LoKrConfig(r=2, alpha=5, target_modules=TARGETS),
        lambda: peft.LoraConfig(
            r=4,
            lora_alpha=12,
            use_rslora=True,
            target_modules=TARGETS,
            rank_pattern={r"^transformer_blocks\.0\.attn\.to_q": 2, "norm1.linear": 3},
            alpha_pattern={"^single_transformer_blocks.1.proj_out": 5, r"transformer_blocks\.1\.attn\.to_out\.0": 6},
        ),
    ],
    ids=["LoHa", "LoKr", "whole names"],
)
def test_alpha_of_other_kinds_and_whole_names(config, tmp_path):
    path, theirs = kept_by_peft(config(), tmp_path)
    require_same(merged(path), theirs, TARGETS)


def test_settings_beside_a_renamed_file_count(tmp_path):
    path, theirs = kept_by_peft(CONFIGS["alphas and ranks by name"](), tmp_path)
    require_same(merged(path.rename(tmp_path / "film.safetensors")), theirs, TARGETS)
