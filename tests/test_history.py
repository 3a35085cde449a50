import pytest
import torch

from diffusers_helper.core.planning import plan_video
from diffusers_helper.framepack.history import LatentHistory


def frames(*values):
    """Latents whose every number is the frame's value."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, -1, 1, 1).expand(1, 16, -1, 2, 2)


def values(latents):
    return latents[0, 0, :, 0, 0].tolist()


START = -1.0


def section_values(index, window):
    return [float(100 * (index + 1) + frame) for frame in range(window)]


@pytest.mark.parametrize("window", [2, 9])
@pytest.mark.parametrize("sections", [1, 4, 7])
@pytest.mark.parametrize("variant", ["original", "f1"])
def test_every_section_reads_and_decodes_what_the_whole_history_would_give(variant, sections, window):
    plan = plan_video(variant, sections, window)
    history = LatentHistory(plan, {"start": frames(START)})
    whole = [0.0] * 19 if variant == "original" else [0.0] * 19 + [START]
    for section in plan.sections:
        read = history.context(section)
        if variant == "original":
            expected = [START, whole[0]], whole[1:3], whole[3:19]
        else:
            expected = [START, whole[-1]], whole[-3:-1], whole[-19:-3]
        assert tuple(values(read[factor][0]) for factor in (1, 2, 4)) == expected

        new = section_values(section.index, window)
        history.grow(section, frames(*new))
        if variant == "original":
            whole = ([START] if section.index == sections - 1 else []) + new + whole
            assert values(history.to_decode(section)) == whole[: len(section.decode)]
        else:
            whole = whole + new
            assert values(history.to_decode(section)) == whole[-len(section.decode) :]


@pytest.mark.parametrize("variant", ["original", "f1"])
def test_history_stays_the_same_size_however_long_the_video(variant):
    plan = plan_video(variant, 30)
    history = LatentHistory(plan, {"start": frames(START)})
    sizes = []
    for section in plan.sections:
        history.grow(section, frames(*section_values(section.index, 9)))
        sizes.append(len(history))
    assert max(sizes) <= 30
