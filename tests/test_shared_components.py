"""Models that stream their weights from RAM which others have, too: each side here is what a process of its own has."""

import gc
import os
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save_file

from diffusers_helper.core.loras import Lora
from diffusers_helper.loading.components import Components
from diffusers_helper.lora.applying import Loras
from diffusers_helper.memory.shared import SharedFiles, can_share
from diffusers_helper.model_files import LocalFolder, transformer_part
from tests.calls import call
from tests.sharing import Pinned, Stream
from tests.tiny import TINY_FOLDER

pytestmark = pytest.mark.skipif(not can_share(), reason="only Linux has such memory")
VARIANTS = ("f1", "original")


@pytest.fixture
def files():
    return SharedFiles(transformer_part(variant).name for variant in VARIANTS)


def plain():
    return Components(LocalFolder(TINY_FOLDER), "cpu")


def streaming(files, pinning=None):
    components = plain()
    Stream(pinning or Pinned(), files.paths)(components)
    return components


def computed(components, variant, loras=()):
    """What the transformer gives, and what a user is told about it."""
    adapters = Loras(components.adapters(loras, variant), (1.0,) * len(loras))
    transformer = components.transformer(variant, adapters)
    with (
        components.adaptation(transformer).placed((1.0,) * len(loras), stay=False),
        components.residency.use(transformer, swap=True),
    ):
        return call(transformer), list(components.notes_on(transformer))


def used(files):
    """Of each variant, whether its file takes memory."""
    return [os.stat(files.paths[transformer_part(variant).name]).st_blocks > 0 for variant in VARIANTS]


def digest(files, variant):
    return sha256(files.paths[transformer_part(variant).name].read_bytes()).hexdigest()


def test_what_all_stream_they_have_once_and_what_nobody_does_is_gone(files):
    sides, alone = [streaming(files), streaming(files)], plain()
    expected = {variant: computed(alone, variant)[0] for variant in VARIANTS}
    for side, there in zip(sides, ([True, False], [True, False]), strict=True):
        result, notes = computed(side, "f1")
        assert torch.equal(result, expected["f1"])
        assert notes == []
        assert used(files) == there
    for side, there in zip(sides, ([True, True], [False, True]), strict=True):
        assert torch.equal(computed(side, "original")[0], expected["original"])
        gc.collect()
        assert used(files) == there, "one goes on with the variant before, until it changes, too"
    for side in sides:
        side.release_all()
    gc.collect()
    assert used(files) == [False, False]


def test_a_lora_file_changes_no_shared_byte(files, tmp_path):
    generator, module = torch.Generator().manual_seed(0), "lora_unet_single_transformer_blocks_0_attn_to_q"
    one, other, alone = streaming(files), streaming(files), plain()
    before = computed(other, "f1")[0]
    width = other.transformer("f1").config["num_attention_heads"] * other.transformer("f1").config["attention_head_dim"]
    factors = {
        f"{module}.lora_{kind}.weight": torch.randn(shape, generator=generator)
        for kind, shape in (("down", (2, width)), ("up", (width, 2)))
    }
    save_file(factors, tmp_path / "lora.safetensors")
    loras, held = [Lora(name=str(tmp_path / "lora.safetensors"))], digest(files, "f1")
    changed = computed(one, "f1", loras)[0]
    assert torch.equal(changed, computed(alone, "f1", loras)[0])
    assert not torch.equal(changed, before)
    assert digest(files, "f1") == held
    assert torch.equal(computed(other, "f1")[0], before)


def test_who_cannot_page_lock_it_has_weights_of_its_own_and_says_so(files):
    result, [note] = computed(streaming(files, Pinned(works=False)), "f1")
    assert "each has a copy of its own" in note
    assert torch.equal(result, computed(plain(), "f1")[0])
    assert used(files) == [False, False]
