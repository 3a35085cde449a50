import re
from dataclasses import replace

import pytest

from diffusers_helper.core.messages import LANGUAGES, language
from diffusers_helper.gradio.settings.computer import panel
from diffusers_helper.service.system_monitor import GpuSample, Sample

GPU = GpuSample("NVIDIA <H100>", int(80e9), int(60e9), int(20e9), int(50e9), utilisation=0.75, celsius=61)


def reading(*gpus):
    return Sample(int(64e9), int(16e9), int(2e9), 0.5, int(1e12), int(4e11), gpus)


def words(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def test_a_computer_without_a_gpu():
    html = panel(reading(), [])
    assert "16.0 GB of 64.0 GB free" in words(html)
    assert "400.0 GB of 1000.0 GB free" in words(html)
    assert re.findall(r"--fp-filled: ([\d.]+)", html) == ["0.750", "0.500", "0.600"]
    assert "GPU" not in html
    assert "<svg" not in html


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "75%, 61 °C"),
        ({"utilisation": None}, "61 °C"),
        ({"celsius": None}, "75%"),
        ({"utilisation": None, "celsius": None}, None),
    ],
)
def test_a_gpu(changes, shown):
    html = panel(reading(replace(GPU, **changes)), [])
    assert "60.0 GB of 80.0 GB used, 50.0 GB of it here, 20.0 GB free" in words(html)
    assert ("NVIDIA &lt;H100&gt;" in html) == (shown is not None)
    assert shown is None or shown in words(html)


def test_the_gpus_of_a_group_have_their_numbers_and_their_part_of_a_step():
    shown = words(panel(reading(replace(GPU, step_seconds=0.5), replace(GPU, step_seconds=0.75, used=int(7e9))), []))
    for number, seconds, used in ((0, "0.50", "60.0"), (1, "0.75", "7.0")):
        assert f"&lt;H100&gt; {number} 75%, 61 °C, {seconds} s per step GPU memory {number} {used} GB of" in shown


def test_the_times_of_the_latest_steps_are_a_line():
    html = panel(reading(), [9.0] * 10 + [1.0] * 58 + [2.0, 4.0])
    assert "A step takes 1.00 s; the last 60 steps: 1.00 to 4.00 s" in words(html)
    points = re.search(r'points="([^"]*)"', html)[1].split()
    assert (len(points), points[0], points[-2:]) == (60, "0.0,22.5", ["98.3,15.0", "100.0,0.0"])


@pytest.mark.parametrize("tag", LANGUAGES)
def test_every_language_has_it(tag):
    assert "20.0 GB" in panel(reading(GPU), [1.0, 2.0], language(tag))
