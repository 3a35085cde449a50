"""The doctor: every finding from facts that are made up, and a real look at this computer."""

import argparse
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffusers_helper.commands import cli, system_info
from diffusers_helper.commands.checks import Finding, Level, together
from diffusers_helper.commands.doctor import examine, report
from diffusers_helper.commands.speed import Speed, measure
from diffusers_helper.commands.system_info import BackendProbe, Facts, Gpu, Models, gather
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.loading.precision import Precision
from diffusers_helper.service import options
from diffusers_helper.service.nvidia import driver_version, has_kernels
from diffusers_helper.service.system_monitor import GpuSample
from diffusers_helper.service.versions import Package
from tests.tiny import TINY_FOLDER

GB = 1_000_000_000
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
GPU = Gpu(name="Card", capability=(9, 0), architectures=ARCHITECTURES, free=80 * GB, resident=True)
MODELS = Models(
    title="FramePack",
    small=False,
    error=None,
    lacking=0,
    size=42 * GB,
    largest=26 * GB,
    root=Path("/weights"),
    free=100 * GB,
)
GOOD = Facts(
    python=(3, 12, 4),
    torch="2.13.0+cu130",
    cuda_build="13.0",
    driver="590.1",
    wanted_device="auto",
    device="cuda",
    device_error=None,
    gpu=GPU,
    packages=(Package("torch", "2.13.0+cu130", "2.11", "2.13"), Package("gradio", "6.31.0", "6.31", "6.31")),
    speed=Speed(products=785e12, attention=594e12, copies=55e9),
    plain_kernels=None,
    attention=(
        BackendProbe("cudnn", True, None),
        BackendProbe("sdpa", True, None),
        BackendProbe("sage", False, "not installed"),
    ),
    wanted_attention="auto",
    memory=64 * GB,
    swap=0,
    models=MODELS,
    outputs=Path("/results"),
    outputs_free=50 * GB,
    outputs_writable=True,
    h264=True,
    port_error=None,
    draft=Precision("fp8", "fa3-fp8"),
)
ON_CPU = replace(GOOD, device="cpu", gpu=None, driver=None, cuda_build=None, plain_kernels="they run on CUDA")
TINY = replace(MODELS, small=True, size=8_000_000, largest=4_000_000)
SMALL_GPU = replace(GPU, free=20 * GB, resident=False)


RUNGS = {"shares": (("exact", 1.0), ("steady", 0.56), ("quick", 0.48))}
PROXY = {"proxies": (("ALL_PROXY", "socks5://127.0.0.1:1080"),)}


def gpu(**changes):
    return {"gpu": replace(GPU, **changes)}


def of_models(**changes):
    return {"models": replace(MODELS, **changes)}


def installed(version):
    return {"packages": (Package("gradio", version, "6.31", "6.33"),)}


def tried(name, fits, reason, wanted="auto"):
    return {"attention": (BackendProbe(name, fits, reason),), "wanted_attention": wanted}


def test_a_good_computer_has_nothing_but_ok():
    findings = examine(GOOD)
    assert {finding.level for finding in findings} == {Level.OK}
    assert len({finding.subject for finding in findings}) == len(findings) == 19


@pytest.mark.parametrize(
    ("base", "changes", "subject", "level", "words"),
    [
        (GOOD, {"python": (3, 10, 9)}, "Python", "problem", "3.10.9 is not among those tested. Install 3.11"),
        (GOOD, {"python": (3, 14, 0)}, "Python", "problem", "3.14.0 is not"),
        (GOOD, {"python": (3, 13, 9)}, "Python", "ok", "3.13.9"),
        (
            GOOD,
            {},
            "8 bits",
            "ok",
            "linear layers of drafts multiply fp8 numbers; their attention is computed in 8 bits (fa3-fp8).",
        ),
        (
            GOOD,
            {"draft": Precision("int8", None, None, "old")},
            "8 bits",
            "ok",
            "int8 numbers; their attention is that of other videos (old)",
        ),
        (GOOD, {"draft": Precision(None, None, "too old", "old")}, "8 bits", "ok", "drafts are exact (too old); their"),
        (ON_CPU, {}, "8 bits", "ok", "none on cpu: drafts only skip steps."),
        (GOOD, {}, "proxies", "ok", "none."),
        (GOOD, PROXY, "proxies", "ok", "through ALL_PROXY=socks5://127.0.0.1:1080; this computer"),
        (GOOD, PROXY | {"proxy_error": "Unknown scheme."}, "proxies", "problem", "cannot be used: Unknown scheme."),
        (GOOD, {}, "torch", "ok", "kernels for the Card (sm_90)"),
        (GOOD, gpu(capability=(13, 0)), "torch", "problem", "no kernel image for the Card (sm_130), only for sm_75"),
        (GOOD, gpu(capability=(6, 1)), "torch", "problem", "requirements.txt"),
        (GOOD, {"device_error": "There is no cuda."}, "torch", "problem", "There is no cuda."),
        (ON_CPU, {"driver": "590.1"}, "torch", "problem", "built without CUDA"),
        (ON_CPU, {"driver": "590.1", "cuda_build": "13.0"}, "torch", "problem", "Update the driver"),
        (
            ON_CPU,
            {"driver": "570.1", "cuda_build": "13.0"},
            "torch",
            "problem",
            "too old for this PyTorch (CUDA 13.0 needs 580",
        ),
        (ON_CPU, {"driver": "520.1", "cuda_build": "12.6"}, "torch", "problem", "CUDA 12.6 needs 525"),
        (ON_CPU, {"driver": "590.1", "wanted_device": "cpu"}, "torch", "ok", "on cpu"),
        (ON_CPU, {}, "torch", "ok", "on cpu"),
        (GOOD, {}, "driver", "ok", "NVIDIA 590.1"),
        (GOOD, {"driver": None}, "driver", "note", "nvidia-smi"),
        (ON_CPU, {}, "driver", "ok", "none is needed"),
        (ON_CPU, {}, "device", "note", "hours"),
        (ON_CPU, {"models": TINY}, "device", "ok", "cpu"),
        (GOOD, gpu(capability=(7, 5)), "device", "note", "bfloat16"),
        (GOOD, {}, "GPU memory", "ok", "80.0 GB are free: everything stays"),
        (GOOD, {"gpu": SMALL_GPU}, "GPU memory", "ok", "as they are needed"),
        (GOOD, gpu(free=5 * GB, resident=False), "GPU memory", "problem", "Close other programs on the card"),
        (GOOD, gpu(free=5 * GB, resident=False) | {"models": TINY}, "GPU memory", "ok", "5.0 GB"),
        (ON_CPU, {}, "GPU memory", "ok", "none"),
        (GOOD, {"plain_kernels": "no gcc"}, "kernels", "note", "slower: no gcc. Triton needs gcc"),
        (ON_CPU, {}, "kernels", "ok", "plain"),
        (GOOD, {}, "packages", "ok", "torch 2.13.0+cu130, gradio 6.31.0"),
        (GOOD, installed(None), "packages", "problem", "gradio is not installed: 6.31 is needed"),
        (GOOD, installed("6.30.9"), "packages", "problem", "gradio is too old (6.30.9): 6.31 is needed"),
        (GOOD, installed("6.33.2"), "packages", "ok", "gradio 6.33.2"),
        (GOOD, installed("7.0rc1"), "packages", "note", "newer than what was tested: gradio 7.0rc1"),
        (GOOD, {}, "speed", "ok", "about 0.8 s per step at 640x608, so 20 s for each 1.2 s"),
        (GOOD, {"plain_kernels": "no gcc"}, "speed", "ok", "about 1.0 s per step"),
        (GOOD, RUNGS, "speed", "ok", "so 20 s for each 1.2 s of video, 11 s with --quality steady, 9 s with --quality"),
        (GOOD, {"gpu": SMALL_GPU}, "speed", "ok", "about 0.8 s per step"),
        (GOOD, {"gpu": SMALL_GPU, "speed": Speed(785e12, 594e12, 4e9)}, "speed", "ok", "about 4.5 s per step"),
        (GOOD, {"speed": Speed(60e12, 40e12, 25e9)}, "speed", "ok", "about 11.1 s per step at 640x608, so 5 min"),
        (GOOD, {"speed": None}, "speed", "ok", "nothing to measure"),
        (ON_CPU, {"models": TINY}, "speed", "ok", "a moment"),
        (GOOD, {"memory": 4 * GB}, "RAM", "ok", "straight to the card"),
        (GOOD, {"memory": 26 * GB, "gpu": SMALL_GPU}, "RAM", "ok", "need 26.0 GB"),
        (GOOD, {"memory": 25 * GB, "gpu": SMALL_GPU}, "RAM", "note", "need 26.0 GB: the rest is read from the disk"),
        (
            GOOD,
            {"memory": 26 * GB, "gpu": SMALL_GPU, "wanted_gpus": (0, 1)},
            "RAM",
            "ok",
            "26.0 GB (all GPUs have them",
        ),
        (
            *(GOOD, {"memory": 51 * GB, "gpu": SMALL_GPU, "wanted_gpus": (0, 1), "copies": 2}),
            *("RAM", "note", "need 52.0 GB (each GPU has its own): the rest is read"),
        ),
        (ON_CPU, {"memory": 30 * GB, "swap": 0}, "RAM", "problem", "12.0 GB are lacking"),
        (ON_CPU, {"memory": 30 * GB, "swap": 12 * GB}, "RAM", "note", "swap, which is slow"),
        (ON_CPU, {"memory": 42 * GB}, "RAM", "ok", "need 42.0 GB"),
        (GOOD, of_models(error="x is missing. Fetch it."), "models", "problem", "x is missing. Fetch it."),
        (GOOD, of_models(lacking=26 * GB), "models", "note", "26.0 GB are still to download to /weights"),
        (GOOD, {}, "models", "ok", "/weights"),
        (GOOD, {"outputs_writable": False}, "outputs", "problem", "/results cannot be written to"),
        (GOOD, {"outputs_free": GB // 2}, "outputs", "problem", "only 0.5 GB are free in /results"),
        (GOOD, {"h264": False}, "encoder", "problem", "libx264"),
        (GOOD, {"port_error": "Port 7860 is taken."}, "port", "problem", "Port 7860 is taken."),
        (GOOD, tried("sdpa", True, "no kernel image"), "attention sdpa", "problem", "no kernel image"),
        (GOOD, tried("sage", True, "off by 0.5"), "attention sage", "note", "off by 0.5. It is left out"),
        (GOOD, tried("sage", True, "off by 0.5", "sage"), "attention sage", "problem", "Leave --attention out"),
        (GOOD, tried("sage", False, "not there", "sage"), "attention sage", "problem", "not there"),
        (GOOD, tried("sage", False, "not there"), "attention sage", "ok", "not used: not there"),
        (GOOD, tried("fa3", False, "not there"), "attention fa3", "note", "0.745 s in place of 0.793 on an H100): pip"),
        (GOOD, tried("fa3", False, "not there") | of_models(small=True), "attention fa3", "ok", "not used: not there"),
        (GOOD, tried("fa3", False, "8, not 9") | gpu(capability=(8, 9)), "attention fa3", "ok", "not used: 8, not 9"),
        (ON_CPU, tried("fa3", False, "not cpu"), "attention fa3", "ok", "not used: not cpu"),
    ],
)
def test_each_finding(base, changes, subject, level, words):
    found = {finding.subject: finding for finding in examine(replace(base, **changes))}
    assert (found[subject].level, words in found[subject].sentence) == (level, True), found[subject]


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((8, 9), "sm_80 sm_86 sm_90", True),
        ((8, 0), "sm_86 sm_90", False),
        ((9, 0), "sm_80 sm_86", False),
        ((9, 0), "sm_80 compute_80", True),
        ((7, 5), "sm_80 compute_80", False),
        ((9, 0), "sm_90a", True),
        ((9, 1), "sm_90a", False),
        ((12, 0), "sm_100 sm_120", True),
        ((12, 0), "sm_100 sm_90", False),
        ((10, 3), "sm_100f", True),
        ((8, 0), "", False),
    ],
)
def test_which_code_runs_on_which_card(capability, architectures, expected):
    assert has_kernels(capability, tuple(architectures.split())) is expected


@pytest.mark.parametrize(
    ("levels", "code", "last"),
    [
        ("ok note ok", 0, "Nothing is in the way."),
        ("ok problem", 1, "1 problem: see docs/troubleshooting.md."),
        ("problem problem", 1, "2 problems: see docs/troubleshooting.md."),
    ],
)
def test_report_is_a_line_each_and_an_exit_code(levels, code, last, capsys):
    findings = [Finding(Level(level), f"thing {n}", "A sentence.") for n, level in enumerate(levels.split())]
    assert report(findings) == code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == levels.split()
    assert lines[0].endswith("thing 0: A sentence.")
    assert lines[-1] == last


# a real look


def test_rates_are_measured():
    speed = measure(torch.device("cpu"), side=128, tokens=64, heads=2, copied=2**20)
    assert 1e6 < speed.products < 1e14
    assert 1e6 < speed.attention < 1e14
    assert 1e6 < speed.copies < 1e13


@pytest.mark.parametrize("error", [RuntimeError("no kernel image"), SettingsError("no attention")])
def test_a_card_that_computes_nothing_has_no_speed(error):
    def fail(device):
        raise error

    assert system_info._speed(torch.device("cuda"), fail) is None
    assert system_info._speed(torch.device("cpu"), fail) is None


def config(*argv):
    options.add_options(parser := argparse.ArgumentParser())
    options.add_settings(parser, ["port"])
    return options.config_of(parser.parse_args(["--device", "cpu", "--port", "0", *argv]))


def test_this_computer_makes_videos_with_the_tiny_model(kept_environment, tmp_path, capsys):
    argv = ["doctor", "--models", "tiny", "--device", "cpu", "--outputs", str(tmp_path / "new"), "--port", "0"]
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert "attention sdpa: works." in shown
    assert shown.endswith("Nothing is in the way.\n")
    assert not (tmp_path / "new").exists()


def test_what_is_gathered_is_what_is_there(tmp_path):
    facts = gather(config("--models", "tiny", "--attention", "flash"), "f1")
    assert (facts.device, facts.gpu, facts.h264, facts.port_error) == ("cpu", None, True, None)
    assert {attempt.name: attempt.fits for attempt in facts.attention}["sdpa"]
    assert facts.wanted_attention == "flash"
    assert facts.models.small
    assert [name for name, share in facts.shares if share < 1] == ["steady", "quick", "draft"]
    assert facts.models.error is None
    assert 1e6 < facts.models.largest < facts.models.size < 100e6


def test_models_that_are_missing_are_what_a_start_would_say(tmp_path):
    found = gather(config("--models", str(tmp_path)), "f1").models
    assert "hf download" in found.error
    assert found.lacking == found.size > 40 * GB


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert f"Port {port} is taken" in gather(config("--port", str(port)), "f1").port_error


def test_a_device_that_is_not_there_is_a_finding(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    facts = gather(config("--device", "cuda"), "f1")
    assert facts.device == "cpu"
    assert "There is no cuda device" in facts.device_error


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--parallel", "jobs"], "add --gpus"),
        (["--gpus", "0,1", "--device", "cpu", "--parallel", "ulysses"], "heads cannot be shared by 2 GPUs"),
    ],
)
def test_choices_for_several_gpus_that_a_start_would_refuse_are_a_finding(argv, says):
    assert says in together(gather(config("--models", str(TINY_FOLDER), *argv), "f1")).sentence


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo 590.48.01", "590.48.01"), ("exit 9", None), ("true", None), (None, None)],
)
def test_driver_as_nvidia_smi_has_it(script, expected, monkeypatch, tmp_path):
    if script:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    assert driver_version() == expected


CARDS = (
    GpuSample("H100", int(80e9), int(60e9), int(20e9), 0, 0.75, 61),
    GpuSample("H100", int(80e9), int(1e9), int(79e9), 0, None, None),
)


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({"gpus": 2, "links": True}, Level.OK, "0, 1 reach each other's memory"),
        ({"gpus": 2}, Level.OK, "0, 1 go through the computer's memory"),
        ({"gpus": 2, "parallel": "ulysses"}, Level.NOTE, "Choose --parallel stagger"),
        ({"gpus": 1}, Level.PROBLEM, "torch finds 1"),
        ({"wanted_device": "cpu"}, Level.NOTE, "2 processes share the processor"),
        ({"gpus_error": "Leave out one."}, Level.PROBLEM, "Leave out one."),
        ({"gpus": 2, "parallel": "jobs"}, Level.OK, "0, 1 make a video each"),
        ({"gpus": 2, "cards": CARDS}, Level.OK, "(auto): 0: 20.0 GB free, 75% busy; 1: 79.0 GB free."),
    ],
)
def test_gpus_that_are_to_work_together(changes, level, says):
    finding = together(replace(GOOD, wanted_gpus=(0, 1), **changes))
    assert finding.level is level
    assert says in finding.sentence
