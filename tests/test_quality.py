"""The quality lab on a model that is a drawing: its verdicts on right, wrong and missing motion, and its files."""

import json
import re
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from skimage import data

from benchmarks.metrics import Movement
from benchmarks.quality import PROMPTS, held_out_photos, judge, measure, run
from benchmarks.report import table
from training.clips import render
from training.motions import Motion, camera_motion

PICTURE = data.chelsea()[40:168, 100:228]


@dataclass
class Drawing:
    """Moves pictures as told, whatever its prompt; `jump` frames are missing at the joint."""

    motion: Motion
    jump: int = 0

    def clip(self, picture, prompt, method, seconds):
        twice = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float().repeat_interleave(2, -1)
        times = torch.arange(73 + self.jump).float()
        times = times[(times <= 36) | (times > 36 + self.jump)][None]
        clip = render(twice.repeat_interleave(2, -2) / 255, [self.motion], times)[0]
        return (clip.permute(1, 2, 3, 0) * 255).round().to(torch.uint8).numpy()

    def reconstruction(self, picture):
        return picture // 8 * 8


@pytest.mark.parametrize("asked", PROMPTS)
def test_a_motion_is_right_for_its_own_prompt_alone(asked):
    motion = Motion() if asked == "still" else camera_motion(asked)
    found = Movement(**measure(Drawing(motion), PICTURE, asked, "f1", 2.4)[0]["movement"])
    assert [family for family in PROMPTS if judge(family, found, 128)] == [asked]


def test_numbers_of_a_clip():
    numbers, frames = measure(Drawing(camera_motion("pan left")), PICTURE, "pan left", "f1", 2.4)
    assert numbers["pixels_a_frame"] == pytest.approx(0.6, abs=0.03)
    assert numbers["psnr"] > 45 > numbers["psnr_autoencoder"] > 30
    assert numbers["ssim"] > numbers["ssim_autoencoder"]
    assert numbers["joints"] == pytest.approx(1, abs=0.15)
    assert len(frames) == numbers["frames"] == 73
    jumped, _ = measure(Drawing(camera_motion("pan left"), jump=5), PICTURE, "pan left", "f1", 2.4)
    assert jumped["joints"] > 1.3


@pytest.mark.slow
def test_results_are_written_and_add_up(tmp_path, capsys):
    result = run(
        Drawing(camera_motion("pan left")),
        {"cat": PICTURE},
        tmp_path,
        families=["pan left", "pan right"],
        drift_seconds=[2.4],
    )
    assert json.loads((tmp_path / "quality.json").read_text())["summary"] == result["summary"]
    assert result["summary"]["clips"]["f1"]["right_by_motion"] == {"pan left": 1, "pan right": 0}
    assert [entry["method"] for entry in result["summary"]["drift"]] == ["f1", "original", "repeat"]
    with Image.open(tmp_path / "sheet.png") as sheet, Image.open(tmp_path / "quality.png") as plots:
        assert sheet.size == (3 * (4 * 128 + 6), 2 * (128 + 18))
        assert plots.width > 1000
    assert "pan right" in capsys.readouterr().out
    assert re.search(r"^  pan left +1.000 +1.000$", table(result["summary"]), re.MULTILINE)


def test_pictures_are_ones_that_training_never_uses():
    from training.pictures import TRAINING_PHOTOS

    names = {path.name for path in held_out_photos()}
    assert len(names) == 5
    assert not names & {name for files in TRAINING_PHOTOS.values() for name in files}
