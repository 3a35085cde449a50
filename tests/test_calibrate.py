"""`./framepack calibrate`, and a video of a model that was unknown before: the whole way, on the tiny random model."""

import pytest

from diffusers_helper.commands import cli
from diffusers_helper.loading.step_ratios import FOLDER, StepRatios
from diffusers_helper.model_files import LocalFolder
from tests.fakes import LION
from tests.tiny import TINY_FOLDER

pytestmark = pytest.mark.usefixtures("kept_environment")


@pytest.fixture
def options(tmp_path):
    return ["--models", str(TINY_FOLDER), "--device", "cpu", "--data", str(tmp_path), "--variant", "f1", "--steps", "4"]


@pytest.mark.slow
def test_an_unknown_model_is_refused_until_it_is_calibrated(options, tmp_path, capsys):
    make = ["generate", str(LION), "p", *options, "--seconds", "1", "--quality", "draft", "-o", str(tmp_path / "a.mp4")]
    assert cli.main(make) != 0
    assert "run ./framepack calibrate" in capsys.readouterr().err
    assert cli.main(["calibrate", str(LION), "p", *options]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["step", "ratio", "spread", "1", "-", "cosine"]
    assert [line.split()[0] for line in shown[1:5]] == ["0", "1", "2", "3"]
    [file] = (tmp_path / "cache" / FOLDER).iterdir()
    assert shown[5] == f"Kept for 4 steps of the f1 model: {file}"
    ratios = StepRatios(LocalFolder(TINY_FOLDER), tmp_path / "cache" / FOLDER).of("f1", 4)
    assert ratios[0] == 1
    assert all(0.2 < ratio < 5 for ratio in ratios)
    assert cli.main(make) == 0
    assert (tmp_path / "a.mp4").stat().st_size > 1000


@pytest.mark.parametrize("steps", ["0", "many"])
def test_steps_are_checked_at_once(steps, capsys):
    with pytest.raises(SystemExit):
        cli.main(["calibrate", str(LION), "p", "--steps", steps])
    assert "steps" in capsys.readouterr().err


def test_several_gpus_do_not_measure(options, capsys):
    assert cli.main(["calibrate", str(LION), "p", *options, "--gpus", "0,1"]) != 0
    assert "leave out --gpus" in capsys.readouterr().err


def test_staggered_sections_are_not_measured(options, capsys, monkeypatch):
    monkeypatch.setenv("FRAMEPACK_STAGGER", "3")
    assert cli.main(["calibrate", str(LION), "p", *options]) != 0
    assert "leave out --stagger. The value comes from FRAMEPACK_STAGGER." in capsys.readouterr().err
