"""The transformer over several processes: what the tests of Ulysses run in each of them."""

from dataclasses import replace

import torch
from torch import distributed

from diffusers_helper.app.sharing import SharedSteps
from diffusers_helper.k_diffusion.wrapper import Guidance, prepared_model, timesteps_of
from diffusers_helper.models.eight_bit import ATTENTION, simulated_attention
from diffusers_helper.models.exchange import Collective
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.linears import EightBitLinears
from diffusers_helper.models.rows import FORMS, PlainRows
from diffusers_helper.models.section_context import ConditionInputs
from diffusers_helper.models.step_caches import EasyCache, MagCache, NoCache, TeaCache
from diffusers_helper.models.ulysses import Ulysses
from tests.test_hunyuan_video_packed import build, random_inputs

HEADS = 6
"""Which two and three processes share."""
CASES = {
    "even": {},
    "one patch more": {"height": 10, "frames": 5},
    "odd sizes": {"height": 7, "width": 5, "frames": 2, "text": (11,)},
    "a batch of two": {"batch": 2, "text": (9, 9)},
    "texts of two lengths": {"batch": 2, "text": (12, 4), "frames": 2},
    "almost no text": {"text": (1,)},
}
CACHES = {
    "teacache": lambda: TeaCache(4, 1.0),
    "magcache": lambda: MagCache([0, 2], 4, extrapolate=True),
    "easycache": lambda: EasyCache(4, 10.0, first=2),
}
EIGHT_BIT = {
    **{f"{name} products": {"eight_bit_linears": EightBitLinears(PlainRows(form))} for name, form in FORMS.items()},
    **{name: {"eight_bit_attention": simulated_attention(name)} for name in ATTENTION},
}
CONDITIONS = ("encoder_hidden_states", "encoder_attention_mask", "pooled_projections", "guidance", "image_embeddings")


def model():
    return build(num_attention_heads=HEADS)


def outputs(spread=None):
    """What the model gives, by case; in one process without `spread`."""
    transformer = model()
    execution = Execution() if spread is None else Execution(spread=spread)
    chunked = replace(execution, mlp_chunk=7)
    found = {}
    with torch.inference_mode():
        for name, case in CASES.items():
            inputs = random_inputs(transformer, **case)
            found[name] = transformer(**inputs, return_dict=False, execution=execution)[0]
            found[f"{name}, MLPs in pieces"] = transformer(**inputs, return_dict=False, execution=chunked)[0]
        found["guidance"] = guided(transformer, execution)
        for name, new in CACHES.items():
            cache = new()
            found[name] = guided(transformer, replace(execution, step_cache=cache))
            assert sum(cache.passes.values()) < 2 * 4, "some of the steps of both branches are left out"
        inputs = random_inputs(transformer, **CASES["texts of two lengths"])
        for name, changes in EIGHT_BIT.items():
            changed = replace(execution, **changes)
            found[name] = transformer(**inputs, return_dict=False, execution=changed)[0]
    return found


def guided(transformer, execution):
    """Four steps with a negative prompt."""
    inputs, other = random_inputs(transformer, text=(9,)), random_inputs(transformer, text=(5,), seed=1)
    sigmas = torch.tensor([0.9, 0.8, 0.7, 0.6])
    timesteps = timesteps_of(sigmas, torch.float32).unsqueeze(1)
    conditions = [
        transformer.condition(timesteps, ConditionInputs(*(given[name] for name in CONDITIONS)), execution)
        for given in (inputs, other)
    ]
    parts = {4: "_4x", 2: "_2x", 1: ""}
    packed = transformer.pack(
        inputs["hidden_states"],
        inputs["latent_indices"],
        {f: (inputs[f"clean_latents{s}"], inputs[f"clean_latent{s}_indices"]) for f, s in parts.items()},
    )
    step = prepared_model(transformer, lambda: packed, Guidance(*conditions, 2.5, 0.7), execution, torch.float32)
    return torch.stack([step(inputs["hidden_states"] * (1 + sigma), sigma) for sigma in sigmas.split(1)])


def spread_outputs():
    """`outputs` of a process of a group, and some of it again."""
    group = distributed.group.WORLD
    spread = Ulysses(group, Collective(group))
    found = outputs(spread)
    return found, guided(model(), Execution(spread=spread))


def halved():
    """`guided` of a process of a group whose halves compute a branch each, and the calls that ran its blocks."""
    spread, branches = SharedSteps(torch.device("cpu"), distributed.group.WORLD).spread(guided=True)
    caches = [new() for new in CACHES.values()]
    executions = [Execution(spread=spread, branches=branches, step_cache=cache) for cache in (NoCache(), *caches)]
    with torch.inference_mode():
        return [guided(model(), execution) for execution in executions], [dict(cache.passes) for cache in caches]
