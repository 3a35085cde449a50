"""The numbers of a small video, as the present NUMERICS_VERSION makes them.

They are recorded with `python -m tests.test_numerics` after the version was raised.
"""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from diffusers_helper.core.events import SectionDone
from diffusers_helper.core.numerics import NUMERICS_VERSION
from tests.golden import DATA, recorded_exp
from tests.test_engine import golden_events

FILE = DATA / "numerics.safetensors"
RAISE = "the numbers changed: raise NUMERICS_VERSION, then record them with python -m tests.test_numerics"
CASES = {"original": "i2v_2_cfg", "f1": "f1_4_teacache"}
"""Golden videos: with guidance, with TeaCache."""


def numbers() -> dict[str, torch.Tensor]:
    """Latents and pixels of the last section of each case, thinned out."""
    found = {}
    for name, case in CASES.items():
        last = [event for event in golden_events(case)[1] if isinstance(event, SectionDone)][-1]
        found[f"{name}.latents"] = last.latents[:, :, :, ::2, ::2].contiguous()
        found[f"{name}.pixels"] = last.pixels[:, :, ::3, ::4, ::4].contiguous()
    return found


def record(path: Path) -> None:
    """Write the numbers and the version that they are of."""
    save_file(numbers(), path, metadata={"version": str(NUMERICS_VERSION)})


def test_the_recorded_numbers_are_of_this_version() -> None:
    with safe_open(FILE, "pt") as file:
        assert file.metadata() == {"version": str(NUMERICS_VERSION)}, "record the numbers of the new version"


@pytest.mark.usefixtures("recorded_exp")
def test_numbers_change_with_the_version_alone() -> None:
    with safe_open(FILE, "pt") as file:
        for name, found in numbers().items():
            wanted = file.get_tensor(name)
            assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.std())), f"{name}: {RAISE}"


if __name__ == "__main__":
    with recorded_exp():
        record(FILE)
