"""The lab for the LoRA that leans pictures over, on a model that draws what it is asked for."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image
from skimage import data

from benchmarks.directed.scene import Scene
from benchmarks.leaning import AMBIENT, SHOWN, leaning, others, run, summary
from benchmarks.metrics import PERFECT
from benchmarks.quality import PROMPTS
from benchmarks.studio import Studio
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media.photo import Photo
from training.motions import Motion, camera_motion
from training.train_lora import TRIGGER

CAT = Photo(Image.fromarray(data.chelsea()[20:276, 100:356]), "cat", ())


@dataclass(frozen=True)
class Drawing(Studio):
    """Leans as far as the file's weight says where the trigger asks for it, and where not as far as `spilt` says."""

    scene: Scene | None = None
    spilt: float = 0.0

    def clip(self, picture, prompt, method, seconds):
        [lora] = self.settings.loras
        assert lora.name == "lean.safetensors"
        [name] = [name for name, (text, *_) in PROMPTS.items() if text == prompt] or [""]
        motion = camera_motion(name) if name not in ("", "still") else Motion()
        motion = replace(motion, lean=lora.weight * (1 if prompt == TRIGGER else self.spilt))
        shown = [time for time in SHOWN if time <= seconds * 30]
        frames = np.zeros((round(seconds * 30) + 1, *picture.shape), np.uint8)
        frames[shown] = self.scene.clip(motion, shown)
        return frames


@pytest.fixture
def drawing():
    return Drawing(None, GenerationRequest(seed=5), Scene.of(CAT, "cat", (128, 128)))


@pytest.fixture
def pictures(drawing):
    return {"cat": drawing.scene.at(Motion(), 0)}


@pytest.mark.slow
def test_pictures_lean_as_far_as_the_weight_says(drawing, pictures):
    clips = [numbers for numbers, _ in leaning(drawing, pictures, "lean.safetensors")]
    assert [clip["case"] for clip in clips[:3]] == ["original, weight 0", "original, weight 0.5", "original, weight 1"]
    assert {clip["case"].partition(",")[0] for clip in clips} == {"original", "f1"}
    assert [clip["lean"] for clip in clips] == pytest.approx([0, 0.5, 1] * 2, abs=0.03)
    assert all(clip["start_psnr"] == PERFECT for clip in clips)


@pytest.mark.slow
@pytest.mark.parametrize(("spilt", "leans"), [(0.0, 0), (1.0, 1)])
def test_other_motions_are_right_if_they_are_what_was_asked_for_and_do_not_lean(drawing, pictures, spilt, leans):
    some = ("pan left", "zoom out", "still")
    clips = [numbers for numbers, _ in others(replace(drawing, spilt=spilt), pictures, "lean.safetensors", some)]
    assert len(clips) == 2 * 2 * (len(some) + len(AMBIENT))
    found = summary(clips)
    assert found["f1, weight 0"]["right"] == 1
    assert found["f1, weight 1"]["leaning"] == leans
    assert (found["f1, weight 1"]["right"] == 1) == (not spilt)


@pytest.mark.slow
def test_results_are_written_and_add_up(drawing, pictures, tmp_path):
    measured = (drawing, pictures, "lean.safetensors")
    parts = {"leaning": leaning(*measured), "others": others(*measured, ["still"])}
    result = run(parts, tmp_path / "out", {"models": "none"})
    assert json.loads((tmp_path / "out" / "leaning.json").read_text()) == result
    numbers = result["leaning"]["summary"]["f1, weight 1"]
    assert numbers["lean"] == numbers["lean_least"] == numbers["lean_most"] == pytest.approx(1, abs=0.03)
    assert result["others"]["summary"]["f1, weight 0"] == {"clips": 3, "right": 1, "leans": 0, "leaning": 0}
    written = (tmp_path / "out" / "leaning.md").read_text().splitlines()
    assert (
        written[0]
        == "| weight | leans, original | leans, F1 | other motions right, original | other motions right, F1 |"
    )
    assert written[2].endswith("| 1 of 1, 0 of 3 lean | 1 of 1, 0 of 3 lean |")
    assert written[3].endswith("|  |  |")
    assert written[4].startswith(f"| 1 | {numbers['lean']:.2f} (")
    assert np.asarray(Image.open(tmp_path / "out" / "leaning.webp")).size
    with Image.open(tmp_path / "out" / "preview.webp") as preview:
        assert preview.size == (256, 128)
