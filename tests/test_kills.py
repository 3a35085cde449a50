"""A real run, killed with SIGKILL and gone on with: the short form of `benchmarks.kills`."""

import pytest

from benchmarks.kills import Moment, Runs, same_frames, same_latents, small_models
from tests.tiny import TINY


def left(outputs, pattern):
    return len(list(outputs.glob(pattern)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_twice_goes_on_to_the_same_bits_and_frames(tmp_path):
    """Right before the first section's MP4 gets its name and, gone on with, before the second section's latents do."""
    runs = Runs(tmp_path, "f1", str(small_models(tmp_path / "models", TINY)), seconds=2.4, steps=1)
    whole = runs.whole()
    outputs, _ = runs.killed("twice", Moment("renaming", 1, name="_partial_01.mp4"))
    assert [left(outputs, pattern) for pattern in ("jobs/*/section_*", "*_partial_*.mp4", "*.part")] == [1, 0, 1]
    runs.resume(outputs, Moment("renaming", 1, name="section_001.safetensors"))
    assert [left(outputs, pattern) for pattern in ("jobs/*/section_*.safetensors", "*_partial_*.mp4")] == [1, 1]
    assert left(outputs, "jobs/*/section_001.safetensors.part") == 1
    runs.resume(outputs)
    assert same_latents(whole, outputs)
    assert same_frames(whole, outputs)
    assert not list(outputs.rglob("*.part"))
    assert not list(outputs.glob("*_partial_*"))
