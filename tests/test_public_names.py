"""What people's own scripts rely on: import paths, arguments and their defaults. Additions must be optional."""

import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin

from diffusers_helper.core.events import SectionDone
from diffusers_helper.framepack.engine import Conditions
from diffusers_helper.thread_utils import AsyncStream

ROOT = Path(__file__).parents[1]

PROMISED = {  # "..." stands for a default that is ours to choose
    "diffusers_helper.models.hunyuan_video_packed": {
        "HunyuanVideoTransformer3DModelPacked": """
            in_channels=16, out_channels=16, num_attention_heads=24, attention_head_dim=128, num_layers=20,
            num_single_layers=40, num_refiner_layers=2, mlp_ratio=4.0, patch_size=2, patch_size_t=1, qk_norm="rms_norm",
            guidance_embeds=True, text_embed_dim=4096, pooled_projection_dim=768, rope_theta=256.0,
            rope_axes_dim=(16, 56, 56), has_image_proj=False, image_proj_dim=1152, has_clean_x_embedder=False""",
        "HunyuanVideoTransformer3DModelPacked.forward": """
            self, hidden_states, timestep, encoder_hidden_states, encoder_attention_mask, pooled_projections, guidance,
            latent_indices=None, clean_latents=None, clean_latent_indices=None, clean_latents_2x=None,
            clean_latent_2x_indices=None, clean_latents_4x=None, clean_latent_4x_indices=None, image_embeddings=None,
            attention_kwargs=None, return_dict=True""",
        "HunyuanVideoTransformer3DModelPacked.initialize_teacache": (
            "self, enable_teacache=True, num_steps=25, rel_l1_thresh=0.15"
        ),
    },
    "diffusers_helper.memory": {
        "DynamicSwapInstaller.install_model": "model, *, device",
        "DynamicSwapInstaller.uninstall_model": "model",
        "get_cuda_free_memory_gb": "device=None",
        "move_model_to_device_with_memory_preservation": "model, target_device, preserved_memory_gb=0",
        "offload_model_from_device_for_memory_preservation": "model, target_device, preserved_memory_gb=0",
        "load_model_as_complete": "model, target_device, unload=True",
        "unload_complete_models": "*models",
        "fake_diffusers_current_device": "model, target_device",
    },
    "diffusers_helper.pipelines.k_diffusion_hunyuan": {
        "sample_hunyuan": """
            transformer, sampler="unipc", initial_latent=None, concat_latent=None, strength=1.0, width=512, height=512,
            frames=16, real_guidance_scale=1.0, distilled_guidance_scale=6.0, guidance_rescale=0.0, shift=None,
            num_inference_steps=25, batch_size=None, generator=None, *, prompt_embeds, prompt_embeds_mask,
            prompt_poolers, negative_prompt_embeds, negative_prompt_embeds_mask, negative_prompt_poolers,
            dtype=torch.bfloat16, device=None, negative_kwargs=None, callback=None, **transformer_kwargs""",
    },
    "diffusers_helper.k_diffusion.uni_pc_fm": {
        "sample_unipc": "model, noise, sigmas, extra_args=None, callback=None, disable=False, variant='bh1'",
    },
    "diffusers_helper.k_diffusion.wrapper": {"fm_wrapper": "transformer, t_scale=1000.0"},
    "diffusers_helper.hunyuan": {
        "encode_prompt_conds": "prompt, text_encoder, text_encoder_2, tokenizer, tokenizer_2, max_length=256",
        "vae_encode": "image, vae",
        "vae_decode": "latents, vae, image_mode=False",
        "vae_decode_fake": "latents",
    },
    "diffusers_helper.clip_vision": {"hf_clip_vision_encode": "image, feature_extractor, image_encoder"},
    "diffusers_helper.bucket_tools": {"find_nearest_bucket": "h, w, resolution=640"},
    "diffusers_helper.thread_utils": {"AsyncStream": "", "async_run": "func, *args, **kwargs"},
    "diffusers_helper.gradio.progress_bar": {
        "make_progress_bar_html": "number, text",
        "make_progress_bar_css": "",
    },
    "diffusers_helper.utils": {
        "save_bcthw_as_mp4": "video, path, fps=30, crf=16",
        "crop_or_pad_yield_mask": "x, length",
        "soft_append_bcthw": "history, current, overlap=0",
        "resize_and_center_crop": "image, target_width, target_height",
        "generate_timestamp": "",
    },
    "diffusers_helper.framepack.planning": {
        "plan_video": "variant, sections, latent_window_size=9",
        "sections_for": "seconds, latent_window_size=9, fps=30",
    },
    "diffusers_helper.framepack.engine": {
        "Conditions": """
            prompt_embeds, prompt_mask, pooled, negative_embeds=..., negative_mask=..., negative_pooled=...,
            image_embeddings=...""",
        "sample_video": """
            plan, *, transformer, vae, start_latent, conditions, seed, steps=25, guidance_scale=10.0, cfg_scale=1.0,
            cfg_rescale=0.0, teacache=False, device, dtype, decode=True""",
    },
}
CASES = [(module, name, promise) for module, names in PROMISED.items() for name, promise in names.items()]


def differences(promised: inspect.Signature, actual: inspect.Signature) -> list[str]:
    """What a caller who relies on `promised` would trip over in `actual`."""
    found = []
    positions = list(actual.parameters)
    for position, (name, parameter) in enumerate(promised.parameters.items()):
        is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_variadic:
            if all(other.kind != parameter.kind for other in actual.parameters.values()):
                found.append(f"takes no {parameter}")
            continue
        if name not in actual.parameters:
            found.append(f"{name} is missing")
            continue
        other = actual.parameters[name]
        if other.kind not in (other.POSITIONAL_OR_KEYWORD, other.KEYWORD_ONLY):
            found.append(f"{name} cannot be given by name")
        if parameter.kind == parameter.POSITIONAL_OR_KEYWORD and (
            positions.index(name) != position or other.kind != other.POSITIONAL_OR_KEYWORD
        ):
            found.append(f"{name} is not argument {position}")
        if parameter.default is not parameter.empty and other.default is other.empty:
            found.append(f"{name} has no default")
        elif parameter.default not in (parameter.empty, ..., other.default):
            found.append(f"{name}={other.default!r}, promised {parameter.default!r}")
    for name, other in actual.parameters.items():
        is_optional = other.default is not other.empty or other.kind in (other.VAR_POSITIONAL, other.VAR_KEYWORD)
        if name not in promised.parameters and not is_optional:
            found.append(f"{name} is new and has no default")
    return found


def signature(arguments: str) -> inspect.Signature:
    return inspect.signature(eval(f"lambda {' '.join(arguments.split())}: None", {"torch": torch}))


@pytest.mark.parametrize(("module", "name", "promise"), CASES, ids=[f"{module}.{name}" for module, name, _ in CASES])
def test_promised_names_take_the_promised_arguments(module: str, name: str, promise: str) -> None:
    target = importlib.import_module(module)
    for part in name.split("."):
        target = getattr(target, part)
    assert differences(signature(promise), inspect.signature(target)) == []


@pytest.mark.parametrize(
    ("promise", "actual", "finding"),
    [
        ("a, b=1", "a, b=1, c=2, *d, **e", None),
        ("a, *, b", "a, *, x=0, b", None),
        ("a, b=...", "a, b=5", None),
        ("a", "b", "a is missing"),
        ("a, b", "b, a", "a is not argument 0"),
        ("a", "*, a", "a is not argument 0"),
        ("a", "a, /", "a cannot be given by name"),
        ("a=1", "a=2", "a=2, promised 1"),
        ("a=...", "a", "a has no default"),
        ("a", "a, b", "b is new and has no default"),
        ("*a", "a=1", "takes no *a"),
    ],
)
def test_differences_are_seen(promise: str, actual: str, finding: str | None) -> None:
    found = differences(signature(promise), signature(actual))
    assert finding in found if finding else not found


def test_the_transformer_is_a_diffusers_model() -> None:
    module = importlib.import_module("diffusers_helper.models.hunyuan_video_packed")
    transformer = module.HunyuanVideoTransformer3DModelPacked
    assert issubclass(transformer, ModelMixin)
    assert issubclass(transformer, ConfigMixin)
    assert "self.high_quality_fp32_output_for_inference = True" in inspect.getsource(transformer.__init__)


def test_cpu_and_gpu_are_devices() -> None:
    memory = importlib.import_module("diffusers_helper.memory")
    assert torch.ones(1, device=memory.cpu).device.type == "cpu"
    assert torch.ones(1, device=memory.gpu).device.type in ("cuda", "mps", "cpu")


def test_both_queues_of_a_stream_push_pop_top_and_next() -> None:
    stream = AsyncStream()
    for queue in (stream.input_queue, stream.output_queue):
        queue.push(1)
        queue.push(2)
        assert queue.top() == 1
        assert queue.pop() == 1
        assert queue.next() == 2


def test_fields_of_conditions_and_sections() -> None:
    assert [field.name for field in dataclasses.fields(Conditions)] == [
        "prompt_embeds",
        "prompt_mask",
        "pooled",
        "negative_embeds",
        "negative_mask",
        "negative_pooled",
        "image_embeddings",
    ]
    assert {"index", "latents", "pixels"} <= {field.name for field in dataclasses.fields(SectionDone)}


@pytest.mark.slow
@pytest.mark.parametrize("program", ["demo_gradio.py", "demo_gradio_f1.py"])
def test_programs_take_the_options_that_everyone_knows(program: str) -> None:
    command = [sys.executable, program, "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    for option in ("--share", "--server", "--port", "--inbrowser", "--models", "--offline", "--outputs", "--attention"):
        assert option in shown
