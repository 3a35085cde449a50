"""Training a LoRA for the small model: what changes, what is learnt, and what is written."""

import random

import pytest
import torch

from diffusers_helper.lora.files import read_file
from diffusers_helper.lora.names import ModuleNames
from diffusers_helper.lora.reading import adapter_of
from diffusers_helper.model_files.lora_details import read_details
from tests.test_training import SMALL_TRANSFORMER, toy_batch
from training import family, outlines
from training.captions import caption, is_held_out
from training.graphs import set_rates
from training.motions import Motion
from training.train_lora import RANK, TRIGGER, LeaningPool, add_factors, step_of, write
from training.train_transformer import TrainModel, draw_levels


@pytest.fixture
def model():
    """With weights that pass something on, as trained ones do."""
    torch.manual_seed(0)
    model = TrainModel(**SMALL_TRANSFORMER)
    for parameter in model.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def trained(model, factors, steps, rate=1.0):
    """The losses of some steps on one batch whose noise can be told from what is shown."""
    inputs = toy_batch(2).flat()
    inputs["target"].zero_()
    step, losses = step_of(model, factors), []
    for _ in range(steps):
        set_rates(step.optimizers, rate)
        losses.append(float(step(inputs | draw_levels(inputs["target"]))["loss"]))
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "learns"), [(5.0, True), (0.0, False), (-5.0, False)])
def test_a_toy_run_learns(model, rate, learns):
    losses = trained(model, add_factors(model, RANK), 40, rate)
    before, after = (sum(part) / 4 for part in (losses[:4], losses[-4:]))
    assert (after < 0.92 * before) == learns


def test_only_the_factors_change_and_at_first_nothing_does(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    factors = add_factors(model, RANK)
    layers = {name: model.transformer.get_submodule(name) for name in factors}
    assert all(torch.equal(layer.weight, before[f"transformer.{name}.weight"]) for name, layer in layers.items())
    trained(model, factors, 2)
    after = {name.replace("parametrizations.weight.original", "weight"): w for name, w in model.state_dict().items()}
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert all(pair.up.any() for pair in factors.values())
    assert not any(torch.equal(layer.weight, after[f"transformer.{name}.weight"]) for name, layer in layers.items())


def test_the_file_is_small_and_means_what_was_trained(tmp_path):
    model = TrainModel()
    factors = add_factors(model, RANK)
    for pair in factors.values():
        torch.nn.init.normal_(pair.up, std=0.01)
    write(factors, path := tmp_path / "a" / "lean.safetensors")
    assert path.stat().st_size < 400_000
    adapter = adapter_of(read_file(path), ModuleNames(family.build_transformer()))
    assert adapter.changes.keys() == {f"{name}.weight" for name in factors}
    assert (adapter.matched, adapter.left_out) == (len(factors), ())
    assert {"attn.to_q", "attn.add_k_proj", "ff.net.2", "ff_context.net.0.proj"} <= {
        name.removeprefix("transformer_blocks.0.") for name in factors
    }
    for name, pair in factors.items():
        (change,) = adapter.changes[f"{name}.weight"]
        wanted = (pair.up @ pair.down).detach()
        assert (change.delta(wanted, 1.0) - wanted).abs().max() <= 2e-3 * wanted.abs().max()


def test_the_library_is_told_what_the_file_is_for(tmp_path):
    write(add_factors(TrainModel(**SMALL_TRANSFORMER), RANK), path := tmp_path / "lean.safetensors")
    found = read_details(path)
    assert (found.trigger_words, found.rank, found.base_model) == ((TRIGGER,), RANK, "FramePack tiny")
    assert "leans over" in found.description
    assert not found.problem


class Drawing(LeaningPool):
    """A pool that has nothing but its choices."""

    def __init__(self):
        self.rng, self.shares = random.Random(0), dict.fromkeys(outlines.SHARES, 0.0)


def test_half_of_the_clips_lean_and_their_captions_say_so():
    motions = [outline.motion for outline in Drawing().draw(400)]
    leaning = [motion for motion in motions if motion.lean]
    assert 0.4 < len(leaning) / len(motions) < 0.6
    assert {motion.family for motion in motions} >= {"lean", "pan left", "zoom in", "still", "ambient"}
    assert 0.08 < sum(motion.ambient for motion in motions) / len(motions) < 0.16
    said = [caption(Motion(lean=1), random.Random(seed)).lower() for seed in range(200)]
    assert sum(TRIGGER in text for text in said) > 20
    assert sum("lean" in text for text in said) > 180
    assert not is_held_out(TRIGGER), "the words that people are told are trained on"
    others = [caption(motion, random.Random(seed)).lower() for seed, motion in enumerate(motions) if not motion.lean]
    assert not any("lean" in text.split() for text in others)
