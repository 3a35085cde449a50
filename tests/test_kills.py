"""A real run, killed with SIGKILL and gone on with: the short form of ``benchmarks.kills``."""

import pytest

from benchmarks.kills import Moment, Runs, compare, small_models

MOMENTS = [Moment("decoding", 2, 0.3), Moment("renaming", 9)]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bits_and_frames(tmp_path):
    runs = Runs(tmp_path, "f1", str(small_models(tmp_path / "models")), seconds=2.4, steps=1)
    whole = runs.whole()
    outcomes = [compare("f1", moment, runs, whole, f"kill{number}") for number, moment in enumerate(MOMENTS)]
    assert [(outcome.latents, outcome.frames) for outcome in outcomes] == [(True, True)] * 2
    assert [(outcome.kept, outcome.shown, outcome.parts) for outcome in outcomes] == [(2, 1, 0), (1, 0, 1)]
