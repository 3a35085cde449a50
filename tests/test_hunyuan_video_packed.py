import inspect
import random
import weakref

import pytest
import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel, HunyuanVideoTransformer3DModel
from safetensors import safe_open
from torch.utils.checkpoint import checkpoint

from diffusers_helper.models.embeddings import frequencies
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from diffusers_helper.models.rope import pad_to_multiple
from diffusers_helper.models.sdpa import sdpa
from tests.golden import arguments, golden_meta, load_golden, recorded_frequencies

CONFIG = golden_meta()["transformer_config"]
PUBLISHED = {"has_image_proj": True, "has_clean_x_embedder": True}
HISTORY = ("clean_latents", "clean_latents_2x", "clean_latents_4x")
ORACLE_NAMES = {
    "image_embeddings": "image_embeds",
    "latent_indices": "indices_latents",
    "clean_latents": "latents_clean",
    "clean_latent_indices": "indices_latents_clean",
    "clean_latents_2x": "latents_history_2x",
    "clean_latent_2x_indices": "indices_latents_history_2x",
    "clean_latents_4x": "latents_history_4x",
    "clean_latent_4x_indices": "indices_latents_history_4x",
}


def build(config=CONFIG, seed=0, **changes):
    """A model whose every parameter is random, norms and biases included."""
    torch.manual_seed(seed)
    model = HunyuanVideoTransformer3DModelPacked(**{**config, **changes}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.normal_(std=fan_in**-0.5 if fan_in > 1 else 0.2)
            if "norm" in name and name.endswith("weight") and parameter.dim() == 1:
                parameter.add_(1)
    return model


def random_inputs(model, batch=1, frames=3, height=8, width=6, text=(9,), text_pad=12, seed=0):
    """Arguments of forward as the engine gives them: every history part, `text[i]` valid tokens in sample i."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(batch, *shape, generator=generator)

    indices = torch.arange(frames + 19).expand(batch, -1) + torch.randint(30, (batch, 1), generator=generator)
    coarse, middle, clean, sampled = indices.split([16, 2, 1, frames], dim=1)
    inputs = {
        "hidden_states": normal(config.in_channels, frames, height, width),
        "timestep": torch.rand(batch, generator=generator) * 1000,
        "encoder_hidden_states": normal(text_pad, config.text_embed_dim),
        "encoder_attention_mask": torch.arange(text_pad) < torch.tensor(text).unsqueeze(1),
        "pooled_projections": normal(config.pooled_projection_dim),
        "guidance": torch.rand(batch, generator=generator) * 10000 if config.guidance_embeds else None,
        "latent_indices": sampled,
        "clean_latents": normal(config.in_channels, 2, height, width),
        "clean_latent_indices": torch.cat([indices[:, :1] - 1, clean], dim=1),
        "clean_latents_2x": normal(config.in_channels, 2, height, width),
        "clean_latent_2x_indices": middle,
        "clean_latents_4x": normal(config.in_channels, 16, height, width),
        "clean_latent_4x_indices": coarse,
    }
    if config.has_image_proj:
        inputs["image_embeddings"] = normal(5, config.image_proj_dim)
    return inputs


@torch.inference_mode()
def run(model, inputs):
    return model(**inputs, return_dict=False)[0]


def one_sample(inputs, i):
    return {name: value[i : i + 1] if value is not None else None for name, value in inputs.items()}


def assert_same(result, expected):
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


# ---- the right numbers


@pytest.mark.usefixtures("recorded_exp")
@pytest.mark.parametrize("case", golden_meta()["forward"])
def test_forward_gives_the_golden_numbers(case):
    model = HunyuanVideoTransformer3DModelPacked(**CONFIG).eval()
    model.load_state_dict(load_golden("transformer"))
    tensors = load_golden("forward")
    assert_same(run(model, arguments(tensors, case)), tensors[f"{case}.out"])


def random_case(seed):
    """A random configuration and random sizes that diffusers' class can run too."""
    choose = random.Random(seed)
    axes = [2 * choose.randint(1, 5) for _ in range(3)]
    config = {
        "num_attention_heads": choose.randint(1, 4),
        "attention_head_dim": sum(axes),
        "rope_axes_dim": axes,
        "num_layers": choose.randint(1, 2),
        "num_single_layers": choose.randint(0, 2),
        "num_refiner_layers": choose.randint(1, 2),
        "in_channels": choose.choice([4, 16]),
        "out_channels": choose.choice([4, 16]),
        "mlp_ratio": choose.choice([2.0, 4.0]),
        "rope_theta": choose.choice([100.0, 256.0]),
        "text_embed_dim": 8 * choose.randint(1, 5),
        "pooled_projection_dim": 4 * choose.randint(1, 5),
        "image_proj_dim": 4 * choose.randint(1, 8),
        "guidance_embeds": choose.random() < 0.7,
        "has_image_proj": True,
        "has_clean_x_embedder": True,
    }
    sizes = {"frames": choose.randint(1, 9), "height": 2 * choose.randint(1, 9), "width": 2 * choose.randint(1, 9)}
    return config, sizes | {"text": (choose.randint(1, 12),)}


@pytest.mark.parametrize("seed", range(16))
def test_forward_agrees_with_diffusers_on_random_sizes_and_weights(seed):
    config, sizes = random_case(seed)
    model = build(config, seed)
    oracle = HunyuanVideoFramepackTransformer3DModel(**config).eval()
    oracle.load_state_dict(model.state_dict())
    inputs = random_inputs(model, **sizes, seed=seed)
    theirs = {
        ORACLE_NAMES.get(name, name): value[0] if name.endswith("indices") else value for name, value in inputs.items()
    }
    ours = run(model, inputs)
    assert ours.std() > 0.1
    assert_same(ours, run(oracle, theirs))


@pytest.mark.parametrize("seed", range(16, 20))
def test_without_history_and_image_it_is_hunyuan_video(seed):
    config, sizes = random_case(seed)
    model = build(config, seed, has_image_proj=False, has_clean_x_embedder=False)
    known = set(inspect.signature(HunyuanVideoTransformer3DModel).parameters)
    oracle = HunyuanVideoTransformer3DModel(**{k: v for k, v in config.items() if k in known}).eval()
    oracle.load_state_dict(model.state_dict())
    inputs = random_inputs(model, **sizes, seed=seed)
    known = set(inspect.signature(oracle.forward).parameters)
    theirs = {name: value for name, value in inputs.items() if name in known}
    assert_same(run(model, inputs | dict.fromkeys((*HISTORY, "latent_indices"))), run(oracle, theirs))


# ---- batches


@pytest.mark.parametrize("has_image_proj", [True, False])
@pytest.mark.parametrize("text", [(5, 12, 9), (7, 7, 7), (12, 12, 12), (3, 0, 1), (0, 0, 0)])
def test_every_sample_of_a_batch_equals_its_run_alone(text, has_image_proj):
    model = build(has_image_proj=has_image_proj)
    inputs = random_inputs(model, batch=3, text=text)
    together = run(model, inputs)
    for i in range(3):
        assert_same(together[i : i + 1], run(model, one_sample(inputs, i)))


def test_padding_never_reaches_the_result():
    model = build()
    inputs = random_inputs(model, batch=2, text=(4, 9))
    other = inputs | {
        "encoder_hidden_states": inputs["encoder_hidden_states"].masked_fill(
            ~inputs["encoder_attention_mask"].unsqueeze(-1), 1e3
        )
    }
    assert torch.equal(run(model, inputs), run(model, other))


def test_attention_sees_valid_prefixes_alone_and_one_call_when_they_are_equal():
    model, calls = build(), []

    def recorder(q, k, v):
        calls.append(tuple(q.shape[:2]))
        return sdpa(q, k, v)

    image = 4 * 1 * 1 + 1 * 2 * 2 + (2 + 3) * 4 * 3 + 5  # 4x, 2x, clean and sampled tokens of 8 x 6 latents; features
    plain = [run(model, random_inputs(model, batch=2, text=text)) for text in ((4, 9), (6, 6))]
    model.execution.attention = recorder
    assert torch.equal(run(model, random_inputs(model, batch=2, text=(4, 9))), plain[0])
    assert calls == [(1, 4), (1, 9)] + [(1, image + 4), (1, image + 9)] * 4
    calls.clear()
    assert torch.equal(run(model, random_inputs(model, batch=2, text=(6, 6))), plain[1])
    assert calls == [(2, 6)] + [(2, image + 6)] * 4


# ---- what may be left out, sizes that do not fit patches


def test_latent_indices_default_to_a_count_from_zero():
    model = build()
    inputs = random_inputs(model)
    counted = run(model, inputs | {"latent_indices": torch.arange(3).unsqueeze(0)})
    assert torch.equal(run(model, inputs | {"latent_indices": None}), counted)
    assert not torch.allclose(run(model, inputs), counted, atol=1e-3)


@pytest.mark.parametrize(
    ("left_out", "tokens"), [("clean_latents_4x", (0, 4)), ("clean_latents_2x", (4, 8)), ("clean_latents", (8, 32))]
)
def test_leaving_history_out_equals_nobody_looking_at_it(left_out, tokens):
    model = build()
    inputs = random_inputs(model)
    without = run(model, inputs | {left_out: None})

    def blind(q, k, v):
        if q.shape[1] > 12:  # the refiner's calls see text alone
            k, v = (torch.cat([x[:, : tokens[0]], x[:, tokens[1] :]], dim=1) for x in (k, v))
        return sdpa(q, k, v)

    assert not torch.allclose(without, run(model, inputs), atol=1e-3)
    model.execution.attention = blind
    assert_same(without, run(model, inputs))


@pytest.mark.parametrize(("height", "width"), [(7, 6), (8, 5), (9, 11), (1, 1)])
def test_odd_sizes_are_padded_by_repeating_the_edge_and_cut_again(height, width):
    model = build()
    inputs = random_inputs(model, height=height, width=width)
    padded = {
        name: pad_to_multiple(value, (1, 2, 2)) if value is not None and value.dim() == 5 else value
        for name, value in inputs.items()
    }
    result = run(model, inputs)
    assert result.shape == inputs["hidden_states"].shape
    assert torch.equal(result, run(model, padded)[..., :height, :width])


def test_return_dict_gives_the_same_under_a_name():
    model = build()
    inputs = random_inputs(model)
    with torch.inference_mode():
        assert torch.equal(model(**inputs).sample, run(model, inputs))


# ---- wrong use is named


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_axes_dim": [4, 6, 8]}, r"\(4, 6, 8\).*sum 16"),
        ({"rope_axes_dim": [5, 5, 6]}, "three even numbers"),
        ({"rope_axes_dim": [8, 8]}, "three even numbers"),
        ({"num_layers": 0}, "num_layers.*got 0"),
        ({"patch_size_t": 2}, "patch_size_t.*got 2"),
        ({"qk_norm": "layer_norm"}, "qk_norm.*'layer_norm'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_at_construction(changes, message):
    with pytest.raises(ValueError, match=message):
        HunyuanVideoTransformer3DModelPacked(**CONFIG | changes)


@pytest.mark.parametrize(
    ("config", "inputs", "message"),
    [
        ({}, {"image_embeddings": None}, "needs image_embeddings"),
        ({"has_image_proj": False}, {}, "takes no image_embeddings"),
        ({"has_clean_x_embedder": False}, {}, "takes no clean latents"),
        ({}, {"clean_latent_2x_indices": None}, r"Clean latents at 2x need their time indices \(B, 2\)"),
        ({}, {"latent_indices": torch.arange(4).unsqueeze(0)}, "3 latent frames at 1x.*got 4"),
        ({}, {"guidance": None}, "pass guidance"),
        ({}, {"encoder_attention_mask": torch.tensor([[0, 1] * 6])}, "valid tokens first"),
        ({}, {"attention_kwargs": {"scale": 0.5}}, r"not supported, got \['scale'\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(config, inputs, message):
    with pytest.raises(ValueError, match=message):
        run(build(**config), random_inputs(build()) | inputs)


# ---- checkpoints


def test_parameter_names_and_shapes_are_the_checkpoints():
    expected = {name: tensor.shape for name, tensor in load_golden("transformer").items()}
    assert {name: tensor.shape for name, tensor in build().state_dict().items()} == expected


def test_defaults_are_the_published_model_at_full_size():
    with torch.device("meta"):
        model = HunyuanVideoTransformer3DModelPacked(**PUBLISHED)
        oracle = HunyuanVideoFramepackTransformer3DModel(**PUBLISHED)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in oracle.state_dict().items()}
    assert round(sum(shape.numel() for shape in shapes.values()) / 1e9, 3) == 12.874


def test_sharded_round_trip(tmp_path):
    model = build()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    assert (tmp_path / "diffusion_pytorch_model.safetensors.index.json").exists()
    inputs = random_inputs(model)
    loaded = HunyuanVideoTransformer3DModelPacked.from_pretrained(tmp_path).eval()
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert_same(run(loaded, inputs), run(model, inputs))  # where weights lie may round a product otherwise
    assert loaded.config.rope_axes_dim == CONFIG["rope_axes_dim"]
    half = HunyuanVideoTransformer3DModelPacked.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    with safe_open(shards[0], "pt") as stored:
        assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.float32}  # noqa: SIM118 - no dict


# ---- precision


@pytest.fixture(scope="module")
def halves():
    """A model in float32, its copy in bfloat16, and inputs for both that carry the same numbers."""
    model = build()
    half = HunyuanVideoTransformer3DModelPacked(**CONFIG).eval().bfloat16()
    half.load_state_dict(model.state_dict())
    model.load_state_dict(half.state_dict())
    inputs = {
        name: value.bfloat16() if value.is_floating_point() else value for name, value in random_inputs(model).items()
    }
    wide = {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}
    return half, inputs, run(model, wide)


def test_bfloat16_forward_has_a_float32_output_near_the_exact_one(halves):
    half, inputs, exact = halves
    out = run(half, inputs)
    assert out.dtype == torch.float32
    assert (out - exact).norm() / exact.norm() < 0.03
    assert half.proj_out.weight.dtype == torch.bfloat16


def test_the_float32_projection_is_optional_and_not_for_training(halves):
    half, inputs, _ = halves
    precise = run(half, inputs)
    half.train()
    training = run(half, inputs)
    half.eval()
    half.high_quality_fp32_output_for_inference = False
    plain = run(half, inputs)
    half.high_quality_fp32_output_for_inference = True
    assert plain.dtype == training.dtype == torch.bfloat16
    assert torch.equal(plain, training)
    assert not torch.equal(precise, precise.bfloat16().float())
    torch.testing.assert_close(precise.bfloat16(), plain)


def test_history_of_another_dtype_enters_in_the_models(halves):
    half, inputs, _ = halves
    wide = inputs | {name: inputs[name].float() for name in HISTORY}
    assert torch.equal(run(half, wide), run(half, inputs))


# ---- training


def gradients(model, inputs):
    model.train()
    model(**inputs).sample.square().mean().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def test_every_parameter_gets_a_gradient_in_batches_of_unequal_texts():
    model = build()
    found = gradients(model, random_inputs(model, batch=3, text=(0, 4, 9)))
    assert [name for name, grad in found.items() if grad is None or not grad.isfinite().all() or not grad.any()] == []


def test_gradient_checkpointing_gives_the_same_gradients():
    model = build()
    inputs = random_inputs(model)
    plain = gradients(model, inputs)
    recomputed = []

    def checkpointed(block, *args):
        recomputed.append(type(block).__name__)
        return checkpoint(block, *args, use_reentrant=False)

    model.enable_gradient_checkpointing(checkpointed)
    for name, grad in gradients(model, inputs).items():
        torch.testing.assert_close(grad, plain[name], atol=1e-6, rtol=1e-4)
    assert recomputed == ["DoubleStreamBlock"] * 2 + ["SingleStreamBlock"] * 2


@pytest.mark.parametrize("chunk", [1, 7, 64, 10**6])
def test_mlps_go_over_a_few_tokens_at_a_time_where_memory_is_short(chunk):
    model = build(seed=0)
    inputs = random_inputs(model, batch=2, text=(7, 5))
    whole = run(model, inputs)
    seen = []
    for layer in [model.transformer_blocks[0].ff.net[2], model.single_transformer_blocks[0].proj_out]:
        layer.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[1]))
    model.execution.mlp_chunk = chunk
    assert_same(run(model, inputs), whole)
    assert max(seen) <= chunk
    with torch.enable_grad():
        seen.clear()
        model(**inputs)
        assert max(seen) > min(chunk, 70)  # training keeps to whole products


def test_a_step_that_runs_out_of_memory_begins_again_with_its_mlps_in_pieces(monkeypatch, caplog):
    monkeypatch.setattr("diffusers_helper.models.hunyuan_video_packed.MLP_CHUNK", 7)
    model = build(seed=0)
    inputs = random_inputs(model, batch=2, text=(7, 5))
    whole = run(model, inputs)
    faults, seen, activations = [torch.OutOfMemoryError("full")], [], []

    def fail_once(_, args):
        activations.append(weakref.ref(args[0]))
        if faults:
            raise faults.pop()

    model.single_transformer_blocks[1].register_forward_pre_hook(fail_once)
    model.transformer_blocks[0].ff.net[2].register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[1]))
    monkeypatch.setattr("diffusers_helper.memory.devices.empty_caches", lambda: seen.append(activations[0]() is None))
    model.initialize_teacache(True, num_steps=2)
    assert_same(run(model, inputs), whole)
    assert seen[1] is True  # what had been computed was gone by then
    assert seen[0] > 7 >= max(seen[2:])
    assert sum(model.execution.step_cache.passes.values()) == 1  # the cache saw one step
    assert "begins again, with its MLPs 7 tokens at a time" in caplog.text
    faults.append(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        run(model, inputs)
    model.execution.mlp_chunk, faults[:] = None, [ValueError("something else")]
    with pytest.raises(ValueError, match="something else"):
        run(model, inputs)


def test_frequencies_are_exps_numbers_but_for_the_last_bit():
    found, recorded = frequencies(torch.device("cpu")), recorded_frequencies(torch.device("cpu"))
    torch.testing.assert_close(found, recorded, rtol=2.5e-7, atol=0)
