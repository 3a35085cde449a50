"""The lab of the ladder: settings by their names, tables and a picture from numbers that are made up."""

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from benchmarks import cards, gpu_ladder, ladder, ladder_plot
from benchmarks.quality import held_out_photos
from benchmarks.studio import Studio
from diffusers_helper.core.quality import RUNGS, Rung
from diffusers_helper.loading.components import Components
from diffusers_helper.media.photo import open_photo
from diffusers_helper.model_files import LocalFolder
from tests.tiny import SHIPPED


def row(setting, variant, **changes):
    numbers = {
        "computed": 0.5,
        "time": 0.5,
        "latent_error": 0.02,
        "psnr": 45.0,
        "ssim": 0.99,
        "haarpsi": 0.98,
        "joints": 1.1,
        "right": True,
    }
    return {"setting": setting, "variant": variant, **numbers, **changes}


def test_a_setting_is_a_rung_or_a_step_cache_with_its_parameters():
    assert ladder.setting("quick").rung == RUNGS["quick"]
    easy = Rung("easycache", {"threshold": 0.05, "first": 3.0})
    assert ladder.setting("easycache:threshold=0.05,first=3").rung == easy
    assert ladder.setting("teacache").rung == Rung("teacache")
    assert ladder.setting("exact+int8").rung == Rung(linears=("int8",))
    in_8_bits = replace(RUNGS["quick"], linears=("fp8",), attention_bits=8)
    assert ladder.setting("quick+fp8+attention") == ladder.Setting(in_8_bits, "fa3-fp8")
    assert ladder.setting("quick+fp8+int8-attention") == ladder.Setting(in_8_bits, "triton-int8")
    assert ladder.setting("draft").attention == "fa3-fp8"
    assert ladder.setting("draft+exact").rung == replace(RUNGS["draft"], linears=(), attention_bits=16)


def test_numbers_that_there_are_not_are_no_setting():
    with pytest.raises(ValueError, match="no numbers are called int4"):
        ladder.setting("exact+int4+attention")


def test_a_setting_has_the_cost_of_its_numbers():
    settings = ("exact", "quick", "exact+fp8", "draft", "draft+exact", "draft+fp8+int8-attention")
    assert [ladder.setting(text).cost for text in settings] == pytest.approx([1, 1, 0.81, 0.7, 1, 0.6])


def test_the_table_has_means_by_variant_and_of_both():
    rows = [
        row("quick", "original", psnr=40.0),
        row("quick", "f1"),
        row("quick", "f1", right=False, psnr=47.0, haarpsi=0.96),
    ]
    lines = ladder.table(rows).splitlines()
    assert lines[2].startswith(
        "| quick | original | 50% | 0.0200 | 40.0 (40.0) | 0.9900 | 0.9800 (0.9800) | 1 of 1 | 1.100 (1.100) |"
    )
    assert lines[3].startswith("| quick | f1 | 50% | 0.0200 | 46.0 (45.0) | 0.9900 | 0.9700 (0.9600) | 1 of 2 |")
    assert lines[4].startswith("| quick | both | 50% | 0.0200 | 44.0 (40.0) |")


def test_the_table_has_the_largest_joint_and_none_of_single_sections():
    rows = [row("quick", "f1", joints=joint) for joint in (1.0, None, 1.3)]
    assert ladder.table(rows).splitlines()[2].endswith("| 3 of 3 | 1.150 (1.300) |")
    assert ladder.table([row("quick", "f1", joints=None)]).splitlines()[2].endswith("| 1 of 1 | |")


def test_a_clip_is_compared_with_the_exact_one():
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 255, (1, 32, 32, 3), np.uint8), 37, axis=0)
    exact = ladder.Clip(torch.ones(1, 2), frames, 16, 1.0)
    found = ladder.compared(ladder.Clip(torch.tensor([[1.0, 1.5]]), frames ^ 1, 8, 0.5), exact, "still")
    assert (found["computed"], found["right"]) == (0.5, True)
    assert found["latent_error"] == pytest.approx(0.5 / math.sqrt(2))
    assert found["psnr"] == pytest.approx(20 * math.log10(255))
    assert 0.9 < found["haarpsi"] < 1
    same = ladder.compared(exact, exact, "still")
    assert (same["psnr"], same["haarpsi"], same["joints"]) == (99, pytest.approx(1), None)
    two = ladder.Clip(exact.latents, np.repeat(frames[:1], 73, axis=0), 32, 1.0)
    assert ladder.compared(two, two, "still")["joints"] == 1  # nothing moves


def test_the_plot_is_a_picture(tmp_path):
    ladder_plot.plot([row("exact", "f1"), row("quick", "f1"), row("teacache", "f1")], tmp_path / "a.png", 18.6)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_settings_have_short_names_in_the_plot():
    assert ladder_plot.named("draft") == ("draft", "rungs")
    assert ladder_plot.named("magcache:error=0.1,skips=3") == ("MagCache 0.1, 3", "step caches as published")
    assert ladder_plot.named("teacache") == ("TeaCache", "step caches as published")
    assert ladder_plot.named("exact+int8-attention") == ("exact+int8-attention", "separate switches")


def test_names_in_the_plot_cover_neither_each_other_nor_points():
    axes = Figure(figsize=(8, 5)).subplots()
    axes.axis((0, 20, 30, 60))
    points = {f"setting {i}": (10 + 0.3 * i, 50 - 0.4 * i) for i in range(4)}
    boxes = ladder_plot.name_points(axes, points, [])
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert not [box for box in boxes for point in points.values() if box.contains(*axes.transData.transform(point))]


def test_every_card_has_a_time_for_every_rung():
    lines = cards.sections().splitlines()
    assert lines[0] == f"| card | {' | '.join(RUNGS)} |"
    assert {line.count("|") for line in lines} == {2 + len(RUNGS)}
    assert cards.sections() in (Path(__file__).parents[1] / "docs" / "quality.md").read_text("utf-8")


@pytest.mark.slow
def test_a_rung_of_the_shipped_model_skips_steps_and_stays_near_the_exact_video():
    components = Components(LocalFolder(SHIPPED, is_tiny=True), torch.device("cpu"))
    studio = Studio(components, components.source.defaults.model_copy(update={"seed": 7}))
    picture = studio.picture(open_photo(held_out_photos()[0]))
    exact, quick = (
        ladder.made(studio, picture, "pan left", "f1", 1.0, ladder.setting(name)) for name in ("exact", "quick")
    )
    assert (exact.passes, quick.passes) == (16, 9)
    found = ladder.compared(quick, exact, "pan left")
    assert found["latent_error"] < 0.03
    assert found["psnr"] > 45
    assert found["right"]


@pytest.mark.slow
def test_a_cpu_simulates_the_attention_of_a_setting():
    components = Components(LocalFolder(SHIPPED, is_tiny=True), torch.device("cpu"))
    studio = Studio(components, components.source.defaults.model_copy(update={"seed": 7, "steps": 2}))
    picture = studio.picture(open_photo(held_out_photos()[0]))
    settings = map(ladder.setting, ("exact", "exact+attention", "exact+int8-attention"))
    exact, hopper, geforce = (ladder.made(studio, picture, "still", "f1", 1.0, each).latents for each in settings)
    errors = [float((found - exact).norm() / exact.norm()) for found in (hopper, geforce)]
    assert 0.05 > errors[0] > 2 * errors[1] > 0  # int8 has more bits of mantissa


@pytest.mark.slow
def test_a_ladder_of_a_small_model_is_measured(capsys):
    gpu_ladder.main(["--tiny", "--steps", "5", "--repeat", "1"])
    shown = capsys.readouterr().out.splitlines()
    found = json.loads(shown[-1])["results"]
    assert found["section, exact, f1"]["computed"] == 5
    assert all(found[f"section, {name}, f1"]["computed"] <= 5 for name in ("steady", "quick", "draft"))
    sent = found["within 6 GiB"]["sent_gb"]
    assert len(sent) == 6
    assert not [name for name, numbers in found.items() if "failed" in numbers]


def test_a_measurement_that_fails_leaves_the_rest(capsys):
    lab = gpu_ladder.Lab(torch.device("cpu"), torch.float32, 1e9)

    def fail():
        raise RuntimeError("no memory")

    lab.measure("one", fail)
    lab.measure("two", lambda: {"seconds": 1.0})
    assert lab.found == {"one": {"failed": "RuntimeError: no memory"}, "two": {"seconds": 1.0}}
    lab.seconds = -1
    lab.measure("three", fail)
    assert "left out" in lab.found["three"]
    capsys.readouterr()
