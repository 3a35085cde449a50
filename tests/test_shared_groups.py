"""Groups whose processes have the transformer's weights in RAM once, as these travel to a GPU from there."""

import os
from functools import partial

import numpy as np
import pytest
import torch

from diffusers_helper.app.gpu_choices import STAGGER
from diffusers_helper.app.group_worker import work
from diffusers_helper.core.events import Note, StepDone
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.memory.shared import SharedFiles, can_share
from diffusers_helper.model_files import transformer_part
from tests.groups import STEPS, alone, group_of, made_by
from tests.sharing import Deadly, Pinned, Stream

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not can_share(), reason="only Linux has such memory"),
]
VARIANTS = ("f1", "original")


@pytest.fixture
def files():
    return SharedFiles(transformer_part(variant).name for variant in VARIANTS)


def streaming(files, pinning):
    """Two processes on a CPU that stream weights as one with a small GPU does."""
    prepare = Stream(pinning, files.paths)
    return group_of(STAGGER, ComputeOptions(stagger=STEPS), memory=files, work=partial(work, prepare=prepare))


def used(files, variant):
    return os.stat(files.paths[transformer_part(variant).name]).st_blocks * 512


def is_expected(latents, frames, **changes):
    expected, pixels = alone(**changes)
    return all(map(torch.equal, latents, expected)) and np.array_equal(frames, pixels)


def test_videos_of_both_variants_are_those_of_one_process(files, tmp_path):
    group, during = streaming(files, Pinned()), []
    try:
        for variant in VARIANTS:

            def look(event):
                if isinstance(event, StepDone) and event.section == 1 and event.step == STEPS:
                    during.append([used(files, each) > 0 for each in VARIANTS])

            folder = tmp_path / variant
            events, latents, frames = made_by(group, folder, look, variant=variant, seconds=2.4)
            assert is_expected(latents, frames, variant=variant, seconds=2.4)
            assert not [event for event in events if isinstance(event, Note) and "cannot share" in event.text]
    finally:
        group.close()
    assert during == [[True, False], [False, True]], "what nobody uses any more is gone"
    assert [used(files, variant) for variant in VARIANTS] == [0, 0]


def test_a_process_that_is_killed_while_it_fills_the_memory_costs_nothing_but_time(files, tmp_path):
    group = streaming(files, Deadly(died=tmp_path / "died"))
    try:
        events, latents, frames = made_by(group, tmp_path, seconds=2.4)
    finally:
        group.close()
    assert (tmp_path / "died").exists()
    assert len([event for event in events if isinstance(event, Note) and "begins anew" in event.text]) == 1
    assert is_expected(latents, frames, seconds=2.4)
    assert [used(files, variant) for variant in VARIANTS] == [0, 0]


def test_who_cannot_page_lock_it_has_weights_of_its_own_and_says_so(files, tmp_path):
    group = streaming(files, Pinned(works=False))
    try:
        events, latents, frames = made_by(group, tmp_path, seconds=2.4)
    finally:
        group.close()
    assert len([event for event in events if isinstance(event, Note) and "cannot share" in event.text]) == 1
    assert is_expected(latents, frames, seconds=2.4)
